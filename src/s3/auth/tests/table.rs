//! Every way to authenticate against everything that can be wrong with it.

use super::super::PayloadSpec;
use super::*;

const HOST: &str = "127.0.0.1:8080";
const DAY: i64 = 24 * 3600;

fn get() -> Sent {
    Sent::new("GET", "/bucket/key", HOST)
}

fn signed() -> Sent {
    Signer::default().in_header(get(), UNSIGNED)
}

fn presigned() -> Sent {
    Signer::default().in_query(get(), "3600")
}

fn presigned_v2() -> Sent {
    Signer::default().in_query_v2(get(), NOW + 3600, "/bucket/key")
}

fn with(change: impl FnOnce(&mut Signer)) -> Signer {
    let mut signer = Signer::default();
    change(&mut signer);
    signer
}

fn wrong_secret() -> Signer {
    with(|signer| signer.secret.push('x'))
}

fn wrong_key() -> Signer {
    with(|signer| signer.access_key = "NOBODY".into())
}

fn at(stamp: &str) -> Signer {
    with(|signer| signer.stamp = stamp.into())
}

type Row = (&'static str, Sent, Result<&'static str, Code>);

fn check(gate: &Gate, rows: Vec<Row>) {
    for (what, sent, expected) in rows {
        let expected = expected.map(str::to_owned);
        assert_eq!(code(gate, &sent), expected, "{what}: {sent:?}");
    }
}

#[test]
fn sec_auth_dispatch_header_v4() {
    let alice = Ok("alice");
    check(
        &gate(),
        vec![
            ("nothing", get(), Ok("anonymous")),
            ("good", signed(), alice),
            (
                "bad signature",
                wrong_secret().in_header(get(), UNSIGNED),
                Err(Code::SignatureDoesNotMatch),
            ),
            (
                "wrong key",
                wrong_key().in_header(get(), UNSIGNED),
                Err(Code::InvalidAccessKeyId),
            ),
            (
                "15 minutes old",
                at("20130523T234500Z").in_header(get(), UNSIGNED),
                alice,
            ),
            (
                "too old",
                at("20130523T234459Z").in_header(get(), UNSIGNED),
                Err(Code::RequestTimeTooSkewed),
            ),
            (
                "15 minutes early",
                at("20130524T001500Z").in_header(get(), UNSIGNED),
                alice,
            ),
            (
                "too early",
                at("20130524T001501Z").in_header(get(), UNSIGNED),
                Err(Code::RequestTimeTooSkewed),
            ),
            (
                "no time",
                Signer::default()
                    .authorize(get().header("x-amz-content-sha256", UNSIGNED), UNSIGNED),
                Err(Code::AccessDenied),
            ),
            (
                "bad time",
                at("20131324T000000Z").in_header(get(), UNSIGNED),
                Err(Code::AccessDenied),
            ),
            (
                "two times",
                Signer::default().in_header(get().header("x-amz-date", STAMP), UNSIGNED),
                Err(Code::InvalidRequest),
            ),
            (
                "no content hash",
                Signer::default().authorize(get().header("x-amz-date", STAMP), UNSIGNED),
                Err(Code::InvalidRequest),
            ),
            (
                "odd content hash",
                Signer::default().in_header(get(), "SIGNED"),
                Err(Code::InvalidArgument),
            ),
            (
                "content hash",
                Signer::default().in_header(get(), EMPTY),
                alice,
            ),
            (
                "streaming",
                Signer::default().in_header(get(), "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
                alice,
            ),
            (
                "streaming, v4a",
                Signer::default().in_header(get(), "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"),
                Err(Code::NotImplemented),
            ),
            (
                "events",
                Signer::default().in_header(get(), "STREAMING-AWS4-HMAC-SHA256-EVENTS"),
                Err(Code::InvalidArgument),
            ),
            (
                "any region",
                with(|s| s.region = "mars-7".into()).in_header(get(), UNSIGNED),
                alice,
            ),
            (
                "no region",
                with(|s| s.region = String::new()).in_header(get(), UNSIGNED),
                Err(Code::AuthorizationHeaderMalformed),
            ),
            (
                "session token",
                Signer::default().in_header(get().header("x-amz-security-token", "t"), UNSIGNED),
                Err(Code::InvalidToken),
            ),
        ],
    );
}

#[test]
fn sec_auth_dispatch_header_forms() {
    let authorization = |value: &str| get().header("authorization", value);
    let edit = |from: &str, to: &str| {
        let mut sent = signed();
        let (_, value) = sent.headers.last_mut().unwrap();
        let text = String::from_utf8(value.clone()).unwrap();
        assert!(text.contains(from));
        *value = text.replace(from, to).into_bytes();
        sent
    };
    let malformed = Err(Code::AuthorizationHeaderMalformed);
    check(
        &gate(),
        vec![
            ("empty", authorization(""), Err(Code::AccessDenied)),
            (
                "basic",
                authorization("Basic YTpi"),
                Err(Code::InvalidArgument),
            ),
            (
                "bearer",
                authorization("Bearer x"),
                Err(Code::InvalidArgument),
            ),
            (
                "garbage",
                authorization("AWS HAHAHA"),
                Err(Code::InvalidArgument),
            ),
            (
                "no scheme",
                authorization("AKIA"),
                Err(Code::InvalidArgument),
            ),
            (
                "lower case",
                edit("AWS4-HMAC", "aws4-hmac"),
                Err(Code::InvalidArgument),
            ),
            (
                "v2",
                authorization("AWS AKIA:c2ln"),
                Err(Code::InvalidRequest),
            ),
            (
                "v4a",
                authorization("AWS4-ECDSA-P256-SHA256 Credential=x"),
                Err(Code::NotImplemented),
            ),
            ("scheme only", authorization("AWS4-HMAC-SHA256"), malformed),
            (
                "not UTF-8",
                get().header("authorization", b"AWS4-HMAC-SHA256 \xff"),
                Err(Code::AccessDenied),
            ),
            (
                "two headers",
                signed().header("authorization", "Basic YTpi"),
                Err(Code::InvalidArgument),
            ),
            (
                "two fields",
                edit("SignedHeaders=", "Signature=00,SignedHeaders="),
                malformed,
            ),
            (
                "unknown field",
                edit("SignedHeaders=", "Foo=1,SignedHeaders="),
                malformed,
            ),
            ("no signature", edit(", Signature=", ", Sig="), malformed),
            (
                "empty signature",
                edit(&signature_of(&signed()), ""),
                Err(Code::SignatureDoesNotMatch),
            ),
            (
                "upper-case signature",
                edit(
                    &signature_of(&signed()),
                    &signature_of(&signed()).to_uppercase(),
                ),
                Err(Code::SignatureDoesNotMatch),
            ),
            ("short credential", edit("/us-east-1", ""), malformed),
            ("other service", edit("/s3/", "/ec2/"), malformed),
            (
                "other terminator",
                edit("aws4_request", "aws5_request"),
                malformed,
            ),
            ("other date", edit("20130524/", "20130525/"), malformed),
            ("odd date", edit("20130524/", "2013-5-4/"), malformed),
            (
                "other region",
                edit("us-east-1", "us-west-1"),
                Err(Code::SignatureDoesNotMatch),
            ),
        ],
    );
}

#[test]
fn sec_signature_scope_headers_that_must_be_signed() {
    let leave_out = |name: &str| with(|signer| signer.leave_out.push(name.into()));
    let put = || Sent::new("PUT", "/bucket/key", HOST);
    let edit = |list: &str| {
        let mut sent = signed();
        let (_, value) = sent.headers.last_mut().unwrap();
        let text = String::from_utf8(value.clone()).unwrap();
        let names = "host;x-amz-content-sha256;x-amz-date";
        *value = text.replace(names, list).into_bytes();
        sent
    };
    let malformed = Err(Code::AuthorizationHeaderMalformed);
    check(
        &gate(),
        vec![
            (
                "host left out",
                leave_out("host").in_header(put(), UNSIGNED),
                Err(Code::AccessDenied),
            ),
            (
                "date left out",
                leave_out("x-amz-date").in_header(put(), UNSIGNED),
                Err(Code::AccessDenied),
            ),
            (
                "unsigned x-amz-acl",
                signed().header("x-amz-acl", "public-read"),
                Err(Code::AccessDenied),
            ),
            (
                "signed x-amz-acl",
                Signer::default().in_header(put().header("x-amz-acl", "private"), UNSIGNED),
                Ok("alice"),
            ),
            (
                "unsigned content-type",
                signed().header("content-type", "text/html"),
                Ok("alice"),
            ),
            (
                "unsigned range",
                signed().header("range", "bytes=0-1"),
                Ok("alice"),
            ),
            (
                "a second signed value",
                Signer::default()
                    .in_header(put().header("x-amz-meta-a", "1"), UNSIGNED)
                    .header("x-amz-meta-a", "2"),
                Err(Code::SignatureDoesNotMatch),
            ),
            (
                "two signed values",
                Signer::default().in_header(
                    put()
                        .header("x-amz-meta-a", " 1")
                        .header("x-amz-meta-a", "2  3"),
                    UNSIGNED,
                ),
                Ok("alice"),
            ),
            (
                "raw UTF-8",
                Signer::default().in_header(put().header("x-amz-meta-a", "grün — 字"), UNSIGNED),
                Ok("alice"),
            ),
            (
                "other host",
                {
                    let mut sent = signed();
                    sent.headers[0].1 = b"evil".to_vec();
                    sent
                },
                Err(Code::SignatureDoesNotMatch),
            ),
            ("empty list", edit(""), malformed),
            (
                "repeated name",
                edit("host;host;x-amz-content-sha256;x-amz-date"),
                malformed,
            ),
            (
                "repeated name, not sorted",
                edit("x-amz-date;host;x-amz-content-sha256;x-amz-date"),
                malformed,
            ),
            (
                "upper case",
                edit("Host;x-amz-content-sha256;x-amz-date"),
                malformed,
            ),
            (
                "empty name",
                edit("host;;x-amz-content-sha256;x-amz-date"),
                malformed,
            ),
            (
                "blank",
                edit("host; x-amz-content-sha256;x-amz-date"),
                malformed,
            ),
        ],
    );
    let error = authenticate(&gate(), &signed().header("x-amz-acl", "private")).unwrap_err();
    assert!(
        error
            .details
            .contains(&("HeadersNotSigned", "x-amz-acl".into())),
        "{error:?}"
    );
}

#[test]
fn sec_signature_scope_a_list_of_signed_headers_is_bounded() {
    let names: Vec<String> = (0..2000).rev().map(|i| format!("h{i:04}")).collect();
    let value = format!(
        "AWS4-HMAC-SHA256 Credential={ACCESS_KEY}/20130524/a/s3/aws4_request, \
         SignedHeaders={}, Signature=00",
        names.join(";")
    );
    let sent = get()
        .header("x-amz-date", STAMP)
        .header("x-amz-content-sha256", UNSIGNED)
        .header("authorization", value);
    assert_eq!(
        code(&gate(), &sent),
        Err(Code::AuthorizationHeaderMalformed)
    );
}

#[test]
fn sec_auth_dispatch_query_v4() {
    let query_error = Err(Code::AuthorizationQueryParametersError);
    let expires = |seconds: &str| Signer::default().in_query(get(), seconds);
    let without = |name: &str| {
        let mut sent = presigned();
        let (path, query) = sent.target.split_once('?').unwrap();
        let rest: Vec<&str> = query
            .split('&')
            .filter(|pair| !pair.starts_with(name))
            .collect();
        sent.target = format!("{path}?{}", rest.join("&"));
        sent
    };
    check(
        &gate(),
        vec![
            ("good", presigned(), Ok("alice")),
            (
                "bad signature",
                wrong_secret().in_query(get(), "3600"),
                Err(Code::SignatureDoesNotMatch),
            ),
            (
                "wrong key",
                wrong_key().in_query(get(), "3600"),
                Err(Code::InvalidAccessKeyId),
            ),
            (
                "added parameter",
                presigned().param("acl", ""),
                Err(Code::SignatureDoesNotMatch),
            ),
            (
                "last second",
                at("20130523T230000Z").in_query(get(), "3600"),
                Ok("alice"),
            ),
            (
                "expired",
                at("20130523T225959Z").in_query(get(), "3600"),
                Err(Code::AccessDenied),
            ),
            (
                "7 days",
                at("20130517T000000Z").in_query(get(), "604800"),
                Ok("alice"),
            ),
            (
                "soon valid",
                at("20130524T001500Z").in_query(get(), "60"),
                Ok("alice"),
            ),
            (
                "not valid yet",
                at("20130524T001501Z").in_query(get(), "60"),
                Err(Code::AccessDenied),
            ),
            ("over 7 days", expires("604801"), query_error),
            ("overflow", expires("99999999999999999999"), query_error),
            ("zero", expires("0"), query_error),
            ("negative", expires("-1"), query_error),
            ("plus", expires("+1"), query_error),
            ("no number", expires("soon"), query_error),
            ("no algorithm", without("X-Amz-Algorithm"), query_error),
            ("no credential", without("X-Amz-Credential"), query_error),
            ("no date", without("X-Amz-Date"), query_error),
            ("no lifetime", without("X-Amz-Expires"), query_error),
            ("no list", without("X-Amz-SignedHeaders"), query_error),
            ("no signature", without("X-Amz-Signature"), query_error),
            (
                "no region",
                with(|s| s.region = String::new()).in_query(get(), "60"),
                query_error,
            ),
            (
                "twice",
                presigned().param("X-Amz-Signature", "00"),
                query_error,
            ),
            (
                "session token",
                Signer::default().in_query(get().param("X-Amz-Security-Token", "t"), "60"),
                Err(Code::InvalidToken),
            ),
            (
                "host not signed",
                with(|s| s.leave_out.push("host".into()))
                    .in_query(get().header("range", "bytes=0-1"), "60"),
                Err(Code::AccessDenied),
            ),
            (
                "unsigned x-amz header",
                presigned().header("x-amz-acl", "public-read"),
                Err(Code::AccessDenied),
            ),
            (
                "unsigned content hash",
                presigned().header("x-amz-content-sha256", EMPTY),
                Err(Code::AccessDenied),
            ),
            (
                "content-type not signed",
                presigned().header("content-type", "text/plain"),
                Ok("alice"),
            ),
            (
                "signed content hash",
                Signer::default().in_query_with(
                    get().header("x-amz-content-sha256", EMPTY),
                    "60",
                    EMPTY,
                ),
                Ok("alice"),
            ),
            (
                "content hash in the query",
                Signer::default().in_query_with(
                    get().param("X-Amz-Content-Sha256", EMPTY),
                    "60",
                    EMPTY,
                ),
                Ok("alice"),
            ),
            (
                "two content hashes",
                Signer::default().in_query_with(
                    get()
                        .param("X-Amz-Content-Sha256", EMPTY)
                        .header("x-amz-content-sha256", UNSIGNED),
                    "60",
                    EMPTY,
                ),
                Err(Code::InvalidRequest),
            ),
            (
                "signed chunks",
                {
                    let streaming = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
                    Signer::default().in_query_with(
                        get().header("x-amz-content-sha256", streaming),
                        "60",
                        streaming,
                    )
                },
                Err(Code::InvalidRequest),
            ),
        ],
    );
    let late = authenticate(&gate_with(NOW + DAY, true, true), &presigned()).unwrap_err();
    assert_eq!(late.message, "Request has expired");
    assert!(
        late.details
            .contains(&("Expires", "2013-05-24T01:00:00Z".into())),
        "{late:?}"
    );
    assert!(
        late.details
            .contains(&("ServerTime", "2013-05-25T00:00:00Z".into())),
        "{late:?}"
    );
}

#[test]
fn sec_auth_dispatch_query_v2() {
    let v2 = |sent: Sent, resource: &str| Signer::default().in_query_v2(sent, NOW + 3600, resource);
    let for_long =
        |seconds: i64| Signer::default().in_query_v2(get(), NOW + seconds, "/bucket/key");
    let acl = Sent::new("GET", "/bucket/key?acl", HOST);
    let override_ = get().param("response-content-type", "text/a b");
    let meta = || get().header("x-amz-meta-a", "b c");
    check(
        &gate(),
        vec![
            ("good", presigned_v2(), Ok("alice")),
            (
                "bad signature",
                wrong_secret().in_query_v2(get(), NOW + 60, "/bucket/key"),
                Err(Code::SignatureDoesNotMatch),
            ),
            (
                "wrong key",
                wrong_key().in_query_v2(get(), NOW + 60, "/bucket/key"),
                Err(Code::InvalidAccessKeyId),
            ),
            (
                "other resource",
                v2(get(), "/bucket/other"),
                Err(Code::SignatureDoesNotMatch),
            ),
            ("last second", for_long(0), Ok("alice")),
            ("expired", for_long(-1), Err(Code::AccessDenied)),
            ("7 days", for_long(7 * DAY), Ok("alice")),
            ("over 7 days", for_long(8 * DAY), Err(Code::AccessDenied)),
            (
                "for ever",
                for_long(i64::MAX - NOW),
                Err(Code::AccessDenied),
            ),
            (
                "sub-resource",
                v2(acl.clone(), "/bucket/key?acl"),
                Ok("alice"),
            ),
            (
                "unsigned sub-resource",
                v2(acl, "/bucket/key"),
                Err(Code::SignatureDoesNotMatch),
            ),
            (
                "override",
                v2(
                    override_.clone(),
                    "/bucket/key?response-content-type=text/a b",
                ),
                Ok("alice"),
            ),
            (
                "unsigned override",
                v2(override_, "/bucket/key"),
                Err(Code::SignatureDoesNotMatch),
            ),
            (
                "page of a list",
                v2(get().param("prefix", "a"), "/bucket/key"),
                Ok("alice"),
            ),
            (
                "unsigned operation",
                presigned_v2().param("retention", ""),
                Err(Code::AccessDenied),
            ),
            (
                "unknown parameter",
                presigned_v2().param("foo", ""),
                Err(Code::AccessDenied),
            ),
            (
                "unsigned x-amz parameter",
                presigned_v2().param("x-amz-acl", "private"),
                Err(Code::AccessDenied),
            ),
            (
                "escaped x-amz parameter",
                presigned_v2().param("%78-amz-acl", "private"),
                Err(Code::AccessDenied),
            ),
            (
                "repeated header",
                v2(meta().param("x-amz-meta-a", "b c"), "/bucket/key"),
                Ok("alice"),
            ),
            (
                "differing header",
                v2(meta().param("x-amz-meta-a", "b d"), "/bucket/key"),
                Err(Code::AccessDenied),
            ),
            (
                "unsigned header",
                presigned_v2().header("x-amz-acl", "private"),
                Err(Code::SignatureDoesNotMatch),
            ),
            (
                "unsigned content-type",
                presigned_v2().header("content-type", "text/html"),
                Err(Code::SignatureDoesNotMatch),
            ),
            (
                "signed content-type",
                v2(get().header("content-type", "text/html"), "/bucket/key"),
                Ok("alice"),
            ),
            (
                "session token",
                v2(get().param("x-amz-security-token", "t"), "/bucket/key"),
                Err(Code::InvalidToken),
            ),
            (
                "twice",
                presigned_v2().param("Expires", "9"),
                Err(Code::AccessDenied),
            ),
            (
                "no lifetime",
                get()
                    .param("AWSAccessKeyId", ACCESS_KEY)
                    .param("Signature", "c2ln"),
                Err(Code::AccessDenied),
            ),
            (
                "key alone",
                get().param("AWSAccessKeyId", ACCESS_KEY),
                Err(Code::AccessDenied),
            ),
            (
                "empty signature",
                get()
                    .param("AWSAccessKeyId", ACCESS_KEY)
                    .param("Expires", "1369353700")
                    .param("Signature", ""),
                Err(Code::SignatureDoesNotMatch),
            ),
            (
                "signed chunks",
                v2(
                    get().header("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
                    "/bucket/key",
                ),
                Err(Code::InvalidRequest),
            ),
        ],
    );
    let off = gate_with(NOW, true, false);
    assert_eq!(code(&off, &presigned_v2()), Err(Code::InvalidRequest));
    assert_eq!(code(&off, &presigned()), Ok("alice".into()));
}

#[test]
fn a_presigned_v2_request_to_a_virtual_host_signs_the_bucket() {
    let sent = Sent::new("GET", "/a%40b", "bucket.localhost");
    for resource in ["/bucket/a%40b", "/bucket/a@b"] {
        let sent = Signer::default().in_query_v2(sent.clone(), NOW + 60, resource);
        let outcome = gate().authenticate(&sent.parts(), Some("bucket"));
        assert_eq!(outcome.is_ok(), resource.ends_with("%40b"), "{resource}");
    }
    let unescaped = Sent::new("GET", "/a@b", "bucket.localhost");
    for resource in ["/bucket/a%40b", "/bucket/a@b"] {
        let sent = Signer::default().in_query_v2(unescaped.clone(), NOW + 60, resource);
        assert!(
            gate().authenticate(&sent.parts(), Some("bucket")).is_ok(),
            "{resource}"
        );
    }
}

#[test]
fn sec_auth_dispatch_several_kinds_at_once_are_refused() {
    let header = |sent: Sent| sent.header("authorization", "Basic YTpi");
    let both = Signer::default().in_query_v2(presigned(), NOW + 60, "/bucket/key");
    for sent in [header(presigned()), header(presigned_v2()), both] {
        assert_eq!(code(&gate(), &sent), Err(Code::InvalidArgument), "{sent:?}");
    }
    let escaped = signed().param("%58-Amz-Signature", "00");
    assert_eq!(code(&gate(), &escaped), Err(Code::InvalidArgument));
}

#[test]
fn sec_auth_dispatch_users_without_keys_cannot_sign() {
    let signer = with(|signer| {
        signer.access_key = String::new();
        signer.secret = String::new();
    });
    for sent in [
        signer.in_header(get(), UNSIGNED),
        signer.in_query_v2(get(), NOW + 60, "/bucket/key"),
    ] {
        assert_eq!(code(&gate(), &sent), Err(Code::InvalidAccessKeyId));
    }
    let users = Users::new(Vec::new()).unwrap();
    assert!(users.root().root);
    assert!(users.by_access_key("").is_none());
}

#[test]
fn without_authentication_everybody_is_root_and_bodies_keep_their_framing() {
    let gate = gate_with(NOW, false, true);
    let with_hash = |hash: &str| get().header("x-amz-content-sha256", hash);
    for sent in [
        get(),
        signed(),
        wrong_secret().in_header(get(), UNSIGNED),
        wrong_key().in_query(get(), "1"),
        get().header("authorization", "Basic YTpi"),
    ] {
        assert_eq!(code(&gate, &sent), Ok("boss".into()), "{sent:?}");
    }
    let spec = |sent: Sent| format!("{:?}", authenticate(&gate, &sent).unwrap().payload());
    assert_eq!(spec(get()), "Unsigned");
    assert_eq!(spec(with_hash(UNSIGNED)), "Unsigned");
    assert_eq!(spec(with_hash(EMPTY)), "Sha256");
    for (hash, trailer) in [
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD", false),
        ("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER", true),
        ("STREAMING-UNSIGNED-PAYLOAD-TRAILER", true),
    ] {
        let expected = format!("Chunks {{ signed: false, trailer: {trailer} }}");
        assert_eq!(spec(with_hash(hash)), expected);
    }
    let odd = authenticate(&gate, &with_hash("0")).unwrap_err();
    assert_eq!(odd.code, Code::InvalidArgument);
}

#[test]
fn the_body_is_verified_as_its_head_was_signed() {
    let spec = |sent: Sent| authenticate(&gate(), &sent).unwrap().into_payload();
    let signed = |hash: &str| spec(Signer::default().in_header(get(), hash));
    assert!(matches!(signed(UNSIGNED), PayloadSpec::Unsigned));
    assert!(matches!(signed(EMPTY), PayloadSpec::Sha256(digest) if hex_of(&digest) == EMPTY));
    assert!(matches!(
        signed("STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        PayloadSpec::Chunks {
            signer: Some(_),
            trailer: false
        }
    ));
    assert!(matches!(
        signed("STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER"),
        PayloadSpec::Chunks {
            signer: Some(_),
            trailer: true
        }
    ));
    assert!(matches!(
        signed("STREAMING-UNSIGNED-PAYLOAD-TRAILER"),
        PayloadSpec::Chunks {
            signer: None,
            trailer: true
        }
    ));
    // A sender that signs nothing of the body still frames it.
    let framed = get()
        .header("content-encoding", "gzip, AWS-chunked")
        .header("x-amz-decoded-content-length", "1");
    assert!(matches!(
        spec(framed.clone()),
        PayloadSpec::Chunks {
            signer: None,
            trailer: false
        }
    ));
    assert!(matches!(
        spec(framed.header("x-amz-trailer", "x-amz-checksum-crc32")),
        PayloadSpec::Chunks {
            signer: None,
            trailer: true
        }
    ));
    let anonymous = get().header("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    assert_eq!(code(&gate(), &anonymous), Err(Code::InvalidRequest));
}

#[test]
fn the_authority_stands_for_the_host_in_http_2() {
    let mut sent = signed();
    sent.headers.remove(0);
    sent.target = format!("http://{HOST}{}", sent.target);
    assert_eq!(code(&gate(), &sent), Ok("alice".into()));
}

#[test]
fn a_date_header_or_an_http_date_tells_the_time_too() {
    let http = "Fri, 24 May 2013 00:00:00 GMT";
    let signer = Signer::default();
    for name in ["date", "x-amz-date"] {
        let sent = get()
            .header("x-amz-content-sha256", UNSIGNED)
            .header(name, http);
        assert_eq!(
            code(&gate(), &signer.authorize(sent, UNSIGNED)),
            Ok("alice".into()),
            "{name}"
        );
    }
}

#[test]
fn a_changed_secret_makes_old_signatures_worthless() {
    let user = |secret: &str| User {
        name: "alice".into(),
        id: "alice".into(),
        access_key: ACCESS_KEY.into(),
        secret_key: Secret::new(secret),
        root: false,
    };
    let users = Arc::new(ArcSwap::from_pointee(
        Users::new(vec![user(SECRET)]).unwrap(),
    ));
    let settings = GateSettings {
        users: Arc::clone(&users),
        region: "us-east-1".into(),
        sigv2: true,
        required: true,
    };
    let gate = Gate::new(
        settings,
        Clock::from_fn(|| Timestamp::from_unix_seconds(NOW)),
    );
    // Twice: the second one finds the signing key in the cache.
    assert_eq!(code(&gate, &signed()), Ok("alice".into()));
    assert_eq!(code(&gate, &signed()), Ok("alice".into()));
    users.store(Arc::new(Users::new(vec![user("other")]).unwrap()));
    assert_eq!(code(&gate, &signed()), Err(Code::SignatureDoesNotMatch));
    users.store(Arc::new(Users::new(Vec::new()).unwrap()));
    assert_eq!(code(&gate, &signed()), Err(Code::InvalidAccessKeyId));
}

#[test]
fn more_regions_than_the_cache_holds_all_verify() {
    let gate = gate();
    for round in 0..3 {
        for region in 0..20 {
            let signer = with(|signer| signer.region = format!("region-{region}"));
            let sent = signer.in_header(get(), UNSIGNED);
            assert_eq!(code(&gate, &sent), Ok("alice".into()), "{round} {region}");
        }
    }
}

#[test]
fn sec_secrets_are_in_no_error_and_no_debug_text() {
    let mut texts = vec![format!("{:?}", gate())];
    for sent in [
        wrong_secret().in_header(get(), UNSIGNED),
        wrong_secret().in_query(get(), "60"),
        wrong_secret().in_query_v2(get(), NOW + 60, "/bucket/key"),
        get().header("authorization", format!("Basic {SECRET}")),
        get().header(
            "authorization",
            format!("AWS4-HMAC-SHA256 Credential={SECRET}"),
        ),
    ] {
        let error = authenticate(&gate(), &sent).unwrap_err();
        texts.push(format!("{error:?} {error}"));
    }
    let streaming = Signer::default().in_header(get(), "STREAMING-AWS4-HMAC-SHA256-PAYLOAD");
    texts.push(format!("{:?}", authenticate(&gate(), &streaming).unwrap()));
    let signatures = [
        signature_of(&wrong_secret().in_header(get(), UNSIGNED)),
        signature_of(&streaming),
    ];
    for text in texts {
        for secret in [SECRET, "boss secret", &signatures[0], &signatures[1]] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn two_users_with_one_access_key_are_refused() {
    let user = |name: &str| User {
        name: name.into(),
        id: name.into(),
        access_key: "SAME".into(),
        secret_key: Secret::new(name),
        root: false,
    };
    let error = Users::new(vec![user("one"), user("two")]).unwrap_err();
    assert_eq!(
        error,
        super::super::DuplicateKey {
            access_key: "SAME".into()
        }
    );
}
