//! Everything that can be wrong with a signature in the Authorization header.

use super::*;

fn authorization(value: &str) -> Sent {
    get().header("authorization", value)
}

/// The good request with another Authorization header.
fn edit(from: &str, to: &str) -> Sent {
    let mut sent = signed();
    let (_, value) = sent.headers.last_mut().unwrap();
    let text = String::from_utf8(value.clone()).unwrap();
    assert!(text.contains(from));
    *value = text.replace(from, to).into_bytes();
    sent
}

fn listed(names: &str) -> Sent {
    edit("host;x-amz-content-sha256;x-amz-date", names)
}

#[test]
fn sec_auth_dispatch_header_v4_takes_good_signatures() {
    assert_eq!(code(&gate(), &get()), Ok("anonymous".into()));
    passes([
        ("good", signed()),
        (
            "15 minutes old",
            at("20130523T234500Z").in_header(get(), UNSIGNED),
        ),
        (
            "15 minutes early",
            at("20130524T001500Z").in_header(get(), UNSIGNED),
        ),
        ("content hash", Signer::default().in_header(get(), EMPTY)),
        (
            "streaming",
            Signer::default().in_header(get(), "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
        ),
        (
            "any region",
            with(|s| s.region = "mars-7".into()).in_header(get(), UNSIGNED),
        ),
    ]);
}

#[test]
fn sec_auth_dispatch_header_v4_refuses_keys_and_times() {
    refused(
        Code::SignatureDoesNotMatch,
        [("bad signature", wrong_secret().in_header(get(), UNSIGNED))],
    );
    refused(
        Code::InvalidAccessKeyId,
        [("wrong key", wrong_key().in_header(get(), UNSIGNED))],
    );
    refused(
        Code::RequestTimeTooSkewed,
        [
            ("too old", at("20130523T234459Z").in_header(get(), UNSIGNED)),
            (
                "too early",
                at("20130524T001501Z").in_header(get(), UNSIGNED),
            ),
        ],
    );
    refused(
        Code::AccessDenied,
        [
            (
                "no time",
                Signer::default()
                    .authorize(get().header("x-amz-content-sha256", UNSIGNED), UNSIGNED),
            ),
            (
                "bad time",
                at("20131324T000000Z").in_header(get(), UNSIGNED),
            ),
        ],
    );
}

#[test]
fn sec_auth_dispatch_header_v4_refuses_odd_requests() {
    refused(
        Code::InvalidRequest,
        [
            (
                "two times",
                Signer::default().in_header(get().header("x-amz-date", STAMP), UNSIGNED),
            ),
            (
                "no content hash",
                Signer::default().authorize(get().header("x-amz-date", STAMP), UNSIGNED),
            ),
        ],
    );
    refused(
        Code::InvalidArgument,
        [
            (
                "odd content hash",
                Signer::default().in_header(get(), "SIGNED"),
            ),
            (
                "events",
                Signer::default().in_header(get(), "STREAMING-AWS4-HMAC-SHA256-EVENTS"),
            ),
        ],
    );
    refused(
        Code::NotImplemented,
        [(
            "streaming, v4a",
            Signer::default().in_header(get(), "STREAMING-AWS4-ECDSA-P256-SHA256-PAYLOAD"),
        )],
    );
    refused(
        Code::AuthorizationHeaderMalformed,
        [(
            "no region",
            with(|s| s.region = String::new()).in_header(get(), UNSIGNED),
        )],
    );
    refused(
        Code::InvalidToken,
        [(
            "session token",
            Signer::default().in_header(get().header("x-amz-security-token", "t"), UNSIGNED),
        )],
    );
}

#[test]
fn sec_auth_dispatch_header_schemes() {
    refused(
        Code::AccessDenied,
        [
            ("empty", authorization("")),
            (
                "not UTF-8",
                get().header("authorization", b"AWS4-HMAC-SHA256 \xff"),
            ),
        ],
    );
    refused(
        Code::InvalidArgument,
        [
            ("basic", authorization("Basic YTpi")),
            ("bearer", authorization("Bearer x")),
            ("garbage", authorization("AWS HAHAHA")),
            ("no scheme", authorization("AKIA")),
            ("lower case", edit("AWS4-HMAC", "aws4-hmac")),
            (
                "two headers",
                signed().header("authorization", "Basic YTpi"),
            ),
        ],
    );
    refused(
        Code::InvalidAccessKeyId,
        [("v2", authorization("AWS AKIA:c2ln"))],
    );
    refused(
        Code::NotImplemented,
        [("v4a", authorization("AWS4-ECDSA-P256-SHA256 Credential=x"))],
    );
}

#[test]
fn sec_auth_dispatch_header_fields() {
    refused(
        Code::AuthorizationHeaderMalformed,
        [
            ("scheme only", authorization("AWS4-HMAC-SHA256")),
            (
                "two fields",
                edit("SignedHeaders=", "Signature=00,SignedHeaders="),
            ),
            (
                "unknown field",
                edit("SignedHeaders=", "Foo=1,SignedHeaders="),
            ),
            ("no signature", edit(", Signature=", ", Sig=")),
            ("short credential", edit("/us-east-1", "")),
            ("other service", edit("/s3/", "/ec2/")),
            ("other terminator", edit("aws4_request", "aws5_request")),
            ("other date", edit("20130524/", "20130525/")),
            ("odd date", edit("20130524/", "2013-5-4/")),
        ],
    );
    refused(
        Code::SignatureDoesNotMatch,
        [
            ("empty signature", edit(&signature_of(&signed()), "")),
            (
                "upper-case signature",
                edit(
                    &signature_of(&signed()),
                    &signature_of(&signed()).to_uppercase(),
                ),
            ),
            ("other region", edit("us-east-1", "us-west-1")),
        ],
    );
}

#[test]
fn sec_signature_scope_headers_that_must_be_signed() {
    let leave_out = |name: &str| with(|signer| signer.leave_out.push(name.into()));
    refused(
        Code::AccessDenied,
        [
            (
                "host left out",
                leave_out("host").in_header(get(), UNSIGNED),
            ),
            (
                "date left out",
                leave_out("x-amz-date").in_header(get(), UNSIGNED),
            ),
            (
                "unsigned x-amz-acl",
                signed().header("x-amz-acl", "public-read"),
            ),
        ],
    );
    passes([
        (
            "signed x-amz-acl",
            Signer::default().in_header(get().header("x-amz-acl", "private"), UNSIGNED),
        ),
        (
            "unsigned content-type",
            signed().header("content-type", "text/html"),
        ),
        ("unsigned range", signed().header("range", "bytes=0-1")),
        (
            "two signed values",
            Signer::default().in_header(
                get()
                    .header("x-amz-meta-a", " 1")
                    .header("x-amz-meta-a", "2  3"),
                UNSIGNED,
            ),
        ),
        (
            "raw UTF-8",
            Signer::default().in_header(get().header("x-amz-meta-a", "grün — 字"), UNSIGNED),
        ),
    ]);
    refused(
        Code::SignatureDoesNotMatch,
        [
            (
                "a second signed value",
                Signer::default()
                    .in_header(get().header("x-amz-meta-a", "1"), UNSIGNED)
                    .header("x-amz-meta-a", "2"),
            ),
            ("other host", {
                let mut sent = signed();
                sent.headers[0].1 = b"evil".to_vec();
                sent
            }),
        ],
    );
}

#[test]
fn sec_signature_scope_lists_of_signed_headers() {
    refused(
        Code::AuthorizationHeaderMalformed,
        [
            ("empty list", listed("")),
            (
                "repeated name",
                listed("host;host;x-amz-content-sha256;x-amz-date"),
            ),
            (
                "repeated name, not sorted",
                listed("x-amz-date;host;x-amz-content-sha256;x-amz-date"),
            ),
            ("upper case", listed("Host;x-amz-content-sha256;x-amz-date")),
            (
                "empty name",
                listed("host;;x-amz-content-sha256;x-amz-date"),
            ),
            ("blank", listed("host; x-amz-content-sha256;x-amz-date")),
        ],
    );
}

#[test]
fn headers_that_are_not_signed_are_named() {
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

fn v2(signer: &Signer, sent: Sent, resource: &str) -> Sent {
    signer.in_header_v2(sent, "Fri, 24 May 2013 00:00:00 +0000", resource)
}

#[test]
fn sec_auth_dispatch_header_v2_takes_good_signatures() {
    let good = Signer::default();
    passes([
        ("good", v2(&good, get(), "/bucket/key")),
        (
            "date of HTTP",
            good.in_header_v2(get(), "Fri, 24 May 2013 00:14:00 GMT", "/bucket/key"),
        ),
        (
            "x-amz-date",
            good.in_header_v2(get().header("x-amz-date", STAMP), "", "/bucket/key"),
        ),
        (
            "sub-resource",
            v2(
                &good,
                Sent::new("GET", "/bucket/key?acl", HOST),
                "/bucket/key?acl",
            ),
        ),
        (
            "page of a listing",
            v2(
                &good,
                Sent::new("GET", "/bucket/?prefix=a", HOST),
                "/bucket/",
            ),
        ),
        (
            "metadata",
            v2(&good, get().header("x-amz-meta-a", "b c"), "/bucket/key"),
        ),
    ]);
}

#[test]
fn sec_auth_dispatch_header_v2_refuses_all_else() {
    let good = Signer::default();
    refused(
        Code::SignatureDoesNotMatch,
        [
            ("secret", v2(&wrong_secret(), get(), "/bucket/key")),
            ("other key", v2(&good, get(), "/bucket/other")),
            (
                "header added",
                v2(&good, get(), "/bucket/key").header("x-amz-meta-a", "b"),
            ),
            (
                "type added",
                v2(&good, get(), "/bucket/key").header("content-type", "b"),
            ),
            (
                "sub-resource added",
                v2(
                    &good,
                    Sent::new("GET", "/bucket/key?acl", HOST),
                    "/bucket/key",
                ),
            ),
        ],
    );
    let late = good.in_header_v2(get(), "Fri, 24 May 2013 00:16:00 GMT", "/bucket/key");
    refused(Code::RequestTimeTooSkewed, [("late", late)]);
    refused(
        Code::AccessDenied,
        [
            ("no date", good.in_header_v2(get(), "", "/bucket/key")),
            (
                "before all time",
                good.in_header_v2(get(), "Tue, 07 Jul 1950 21:53:04 GMT", "/bucket/key"),
            ),
            (
                "no such date",
                good.in_header_v2(get(), "today", "/bucket/key"),
            ),
            (
                "parameter that is not signed",
                v2(
                    &good,
                    Sent::new("GET", "/bucket/key?x-amz-acl=private", HOST),
                    "/bucket/key",
                ),
            ),
        ],
    );
    refused(
        Code::InvalidAccessKeyId,
        [("key", v2(&wrong_key(), get(), "/bucket/key"))],
    );
    let off = gate_with(NOW, true, false);
    assert_eq!(
        code(&off, &v2(&good, get(), "/bucket/key")),
        Err(Code::InvalidRequest)
    );
}

#[test]
fn a_date_with_a_wrong_day_of_the_week_is_read() {
    for date in [
        "Wed, 25 Nov 2026 14:14:49 GMT",
        "Mon, 25 Nov 2026 14:14:49 GMT",
        "Mon, 25 Nov 2026 14:14:49 +0000",
        "20261125T141449Z",
    ] {
        let mut headers = http::HeaderMap::new();
        headers.insert(http::header::DATE, date.parse().unwrap());
        let stamp = super::super::sigv4::Stamp::of_headers(&headers).unwrap();
        assert_eq!(stamp.to_string(), "20261125T141449Z", "{date}");
    }
}
