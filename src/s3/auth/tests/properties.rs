//! Whatever a client may send and sign by the documentation verifies; nothing else does.

use proptest::prelude::*;

use super::*;

/// A piece of a path or query with every byte that `http::Uri` takes, partly escaped.
fn escaped(raw: &'static [u8]) -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        4 => prop::sample::select(raw).prop_map(|byte| char::from(byte).to_string()),
        2 => any::<u8>().prop_map(|byte| format!("%{byte:02X}")),
        1 => any::<u8>().prop_map(|byte| format!("%{byte:02x}")),
        1 => prop::sample::select(vec!["ä".to_owned(), "字".to_owned()]),
    ];
    prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn target() -> impl Strategy<Value = String> {
    let pair = (escaped(IN_QUERY), prop::option::of(escaped(IN_QUERY)));
    let pair = pair.prop_map(|(name, value)| match value {
        // A letter in front keeps names off the ones that mean a signature.
        Some(value) => format!("q{name}={value}"),
        None => format!("q{name}"),
    });
    (escaped(IN_PATH), prop::collection::vec(pair, 0..6)).prop_map(|(path, pairs)| {
        let query = if pairs.is_empty() {
            String::new()
        } else {
            format!("?{}", pairs.join("&"))
        };
        format!("/{path}{query}")
    })
}

fn headers() -> impl Strategy<Value = Vec<(String, Vec<u8>)>> {
    let name = prop_oneof!["x-amz-meta-[a-z0-9-]{0,6}", "[a-w][a-z-]{0,8}"]
        .prop_filter("these are made by the signer", |name| {
            !matches!(name.as_str(), "host" | "date" | "authorization")
        });
    let byte =
        prop_oneof![4 => 0x21_u8..=0x7e, 2 => Just(b' '), 1 => Just(b'\t'), 1 => 0x80_u8..=0xff];
    prop::collection::vec((name, prop::collection::vec(byte, 0..20)), 0..8)
}

fn sent() -> impl Strategy<Value = Sent> {
    let method = prop::sample::select(vec!["GET", "PUT", "HEAD", "DELETE", "POST"]);
    (method, target(), headers()).prop_map(|(method, target, headers)| {
        let mut sent = Sent::new(method, &target, "bucket.localhost:8080");
        sent.headers.extend(headers);
        sent
    })
}

proptest! {
    #[test]
    fn what_the_documentation_signs_verifies(sent in sent(), path_as_sent in any::<bool>()) {
        let signer = Signer { path_as_sent, ..Signer::default() };
        let in_header = signer.in_header(sent.clone(), UNSIGNED);
        prop_assert_eq!(code(&gate(), &in_header), Ok("alice".into()));
        let in_query = signer.in_query(sent, "60");
        prop_assert_eq!(code(&gate(), &in_query), Ok("alice".into()));
    }

    #[test]
    fn sec_signature_scope_no_changed_request_passes(
        sent in sent(),
        presigned in any::<bool>(),
        what in 0_usize..5,
        at in any::<prop::sample::Index>(),
    ) {
        let signer = Signer::default();
        let original = if presigned {
            signer.in_query(sent, "60")
        } else {
            signer.in_header(sent, UNSIGNED)
        };
        let mut changed = original.clone();
        match what {
            0 => changed.method = if changed.method == "GET" { "PUT" } else { "GET" }.into(),
            1 => changed.target.insert(1, 'x'),
            2 => changed = changed.param("q-more", "1"),
            3 => changed = changed.header("x-amz-meta-more", "1"),
            _ => {
                let last = changed.headers.len() - usize::from(!presigned);
                let (name, value) = &mut changed.headers[at.index(last)];
                // One more byte that trimming keeps, in a header that is signed.
                value.push(b'x');
                prop_assume!(name != "x-amz-date" && name != "x-amz-content-sha256");
            }
        }
        let outcome = code(&gate(), &changed);
        let refused =
            matches!(outcome, Err(Code::SignatureDoesNotMatch | Code::AccessDenied));
        prop_assert!(refused, "{:?}: {:?}", outcome, changed);
    }

    #[test]
    fn sec_panics_no_authorization_value_breaks_the_gate(value in "[ -~]{0,200}") {
        let sent = Sent::new("GET", "/", "localhost").header("authorization", &value);
        prop_assert!(code(&gate(), &sent).is_err());
        let fields = format!("AWS4-HMAC-SHA256 {value}");
        let sent = Sent::new("GET", "/", "localhost").header("authorization", &fields);
        prop_assert!(code(&gate(), &sent).is_err());
    }

    #[test]
    fn sec_panics_no_query_breaks_the_gate(
        names in prop::collection::vec(prop::sample::select(NAMES.to_vec()), 0..8),
        values in prop::collection::vec("[a-zA-Z0-9%+/;:.-]{0,20}", 8),
    ) {
        let pairs: Vec<String> =
            names.iter().zip(&values).map(|(name, value)| format!("{name}={value}")).collect();
        let sent = Sent::new("GET", &format!("/?{}", pairs.join("&")), "localhost");
        let _ = code(&gate(), &sent);
    }

    #[test]
    fn sec_auth_dispatch_any_trace_of_a_signature_is_never_anonymous(
        sent in sent(),
        trace in prop::sample::select(TRACES.to_vec()),
    ) {
        let outcome = code(&gate(), &sent.param(trace, "x"));
        prop_assert!(outcome.is_err(), "{:?}", outcome);
    }
}

/// What `http::Uri` takes in a path, `%` and `?` apart.
const IN_PATH: &[u8] = b"abcXYZ019-._~!$&'()*+,;=:@/|\"{}";
const IN_QUERY: &[u8] = b"abcXYZ019-._~!$'()*+,;:@/?|{}";

const TRACES: &[&str] = &[
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Signature",
    "AWSAccessKeyId",
    "Signature",
];

const NAMES: &[&str] = &[
    "X-Amz-Algorithm",
    "X-Amz-Credential",
    "X-Amz-Signature",
    "X-Amz-Date",
    "X-Amz-Expires",
    "X-Amz-SignedHeaders",
    "X-Amz-Content-Sha256",
    "AWSAccessKeyId",
    "Signature",
    "Expires",
];
