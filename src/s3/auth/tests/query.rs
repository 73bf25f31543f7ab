//! Everything that can be wrong with a presigned request.

use super::*;

fn expires(seconds: &str) -> Sent {
    Signer::default().in_query(get(), seconds)
}

/// The good request without one of its parameters.
fn without(name: &str) -> Sent {
    let mut sent = presigned();
    let (path, query) = sent.target.split_once('?').unwrap();
    let rest: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.starts_with(name))
        .collect();
    sent.target = format!("{path}?{}", rest.join("&"));
    sent
}

fn v2(sent: Sent, resource: &str) -> Sent {
    Signer::default().in_query_v2(sent, NOW + 3600, resource)
}

fn for_long(seconds: i64) -> Sent {
    Signer::default().in_query_v2(get(), NOW + seconds, "/bucket/key")
}

fn acl() -> Sent {
    Sent::new("GET", "/bucket/key?acl", HOST)
}

fn overriding() -> Sent {
    get().param("response-content-type", "text/a b")
}

fn meta() -> Sent {
    get().header("x-amz-meta-a", "b c")
}

#[test]
fn sec_auth_dispatch_query_v4_takes_good_signatures() {
    passes([
        ("good", presigned()),
        (
            "last second",
            at("20130523T230000Z").in_query(get(), "3600"),
        ),
        ("7 days", at("20130517T000000Z").in_query(get(), "604800")),
        ("soon valid", at("20130524T001500Z").in_query(get(), "60")),
        (
            "content-type not signed",
            presigned().header("content-type", "text/plain"),
        ),
        (
            "signed content hash",
            Signer::default().in_query_with(
                get().header("x-amz-content-sha256", EMPTY),
                "60",
                EMPTY,
            ),
        ),
        (
            "content hash in the query",
            Signer::default().in_query_with(
                get().param("X-Amz-Content-Sha256", EMPTY),
                "60",
                EMPTY,
            ),
        ),
    ]);
}

#[test]
fn sec_auth_dispatch_query_v4_refuses_keys_times_and_scopes() {
    refused(
        Code::SignatureDoesNotMatch,
        [
            ("bad signature", wrong_secret().in_query(get(), "3600")),
            ("added parameter", presigned().param("acl", "")),
        ],
    );
    refused(
        Code::InvalidAccessKeyId,
        [("wrong key", wrong_key().in_query(get(), "3600"))],
    );
    refused(
        Code::AccessDenied,
        [
            ("expired", at("20130523T225959Z").in_query(get(), "3600")),
            (
                "not valid yet",
                at("20130524T001501Z").in_query(get(), "60"),
            ),
            (
                "host not signed",
                with(|s| s.leave_out.push("host".into()))
                    .in_query(get().header("range", "bytes=0-1"), "60"),
            ),
            (
                "unsigned x-amz header",
                presigned().header("x-amz-acl", "public-read"),
            ),
            (
                "unsigned content hash",
                presigned().header("x-amz-content-sha256", EMPTY),
            ),
        ],
    );
}

#[test]
fn sec_auth_dispatch_query_v4_refuses_odd_parameters() {
    refused(
        Code::AuthorizationQueryParametersError,
        [
            ("over 7 days", expires("604801")),
            ("overflow", expires("99999999999999999999")),
            ("zero", expires("0")),
            ("negative", expires("-1")),
            ("plus", expires("+1")),
            ("no number", expires("soon")),
            ("no algorithm", without("X-Amz-Algorithm")),
            ("no credential", without("X-Amz-Credential")),
            ("no date", without("X-Amz-Date")),
            ("no lifetime", without("X-Amz-Expires")),
            ("no list", without("X-Amz-SignedHeaders")),
            ("no signature", without("X-Amz-Signature")),
            (
                "no region",
                with(|s| s.region = String::new()).in_query(get(), "60"),
            ),
            ("twice", presigned().param("X-Amz-Signature", "00")),
        ],
    );
    refused(
        Code::InvalidToken,
        [(
            "session token",
            Signer::default().in_query(get().param("X-Amz-Security-Token", "t"), "60"),
        )],
    );
}

#[test]
fn sec_auth_dispatch_query_v4_refuses_odd_bodies() {
    refused(
        Code::InvalidRequest,
        [
            (
                "two content hashes",
                Signer::default().in_query_with(
                    get()
                        .param("X-Amz-Content-Sha256", EMPTY)
                        .header("x-amz-content-sha256", UNSIGNED),
                    "60",
                    EMPTY,
                ),
            ),
            ("signed chunks", {
                let streaming = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
                Signer::default().in_query_with(
                    get().header("x-amz-content-sha256", streaming),
                    "60",
                    streaming,
                )
            }),
        ],
    );
}

#[test]
fn an_expired_request_tells_when() {
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
fn sec_auth_dispatch_query_v2_takes_good_signatures() {
    passes([
        ("good", presigned_v2()),
        ("last second", for_long(0)),
        ("7 days", for_long(7 * DAY)),
        ("sub-resource", v2(acl(), "/bucket/key?acl")),
        (
            "override",
            v2(overriding(), "/bucket/key?response-content-type=text/a b"),
        ),
        (
            "page of a list",
            v2(get().param("prefix", "a"), "/bucket/key"),
        ),
        (
            "repeated header",
            v2(meta().param("x-amz-meta-a", "b c"), "/bucket/key"),
        ),
        (
            "signed content-type",
            v2(get().header("content-type", "text/html"), "/bucket/key"),
        ),
    ]);
}

#[test]
fn sec_auth_dispatch_query_v2_refuses_signatures_of_something_else() {
    refused(
        Code::SignatureDoesNotMatch,
        [
            (
                "bad signature",
                wrong_secret().in_query_v2(get(), NOW + 60, "/bucket/key"),
            ),
            ("other resource", v2(get(), "/bucket/other")),
            ("unsigned sub-resource", v2(acl(), "/bucket/key")),
            ("unsigned override", v2(overriding(), "/bucket/key")),
            (
                "unsigned header",
                presigned_v2().header("x-amz-acl", "private"),
            ),
            (
                "unsigned content-type",
                presigned_v2().header("content-type", "text/html"),
            ),
            (
                "empty signature",
                get()
                    .param("AWSAccessKeyId", ACCESS_KEY)
                    .param("Expires", "1369353700")
                    .param("Signature", ""),
            ),
        ],
    );
    refused(
        Code::InvalidAccessKeyId,
        [(
            "wrong key",
            wrong_key().in_query_v2(get(), NOW + 60, "/bucket/key"),
        )],
    );
}

#[test]
fn sec_auth_dispatch_query_v2_refuses_times_and_parameters() {
    refused(
        Code::AccessDenied,
        [
            ("expired", for_long(-1)),
            ("over 7 days", for_long(8 * DAY)),
            ("for ever", for_long(i64::MAX - NOW)),
            ("unsigned operation", presigned_v2().param("retention", "")),
            ("unknown parameter", presigned_v2().param("foo", "")),
            (
                "unsigned x-amz parameter",
                presigned_v2().param("x-amz-acl", "private"),
            ),
            (
                "escaped x-amz parameter",
                presigned_v2().param("%78-amz-acl", "private"),
            ),
            (
                "differing header",
                v2(meta().param("x-amz-meta-a", "b d"), "/bucket/key"),
            ),
            ("twice", presigned_v2().param("Expires", "9")),
            (
                "no lifetime",
                get()
                    .param("AWSAccessKeyId", ACCESS_KEY)
                    .param("Signature", "c2ln"),
            ),
            ("key alone", get().param("AWSAccessKeyId", ACCESS_KEY)),
        ],
    );
    refused(
        Code::InvalidToken,
        [(
            "session token",
            v2(get().param("x-amz-security-token", "t"), "/bucket/key"),
        )],
    );
    refused(
        Code::InvalidRequest,
        [(
            "signed chunks",
            v2(
                get().header("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"),
                "/bucket/key",
            ),
        )],
    );
}

/// boto3 sends `/bucket` and signs `/bucket/`.
#[test]
fn a_presigned_v2_request_for_a_bucket_may_sign_a_slash_behind_it() {
    let list = || Sent::new("GET", "/bucket?prefix=a", HOST);
    let object = || Sent::new("GET", "/bucket/key", HOST);
    passes([
        ("without", v2(list(), "/bucket")),
        ("with", v2(list(), "/bucket/")),
    ]);
    refused(
        Code::SignatureDoesNotMatch,
        [
            ("two", v2(list(), "/bucket//")),
            ("an object", v2(object(), "/bucket/key/")),
            ("the service", v2(Sent::new("GET", "/", HOST), "//")),
        ],
    );
}

#[test]
fn version_2_can_be_turned_off() {
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
fn headers_that_a_signer_moved_into_the_query_are_headers_again() {
    let hoisted = |sent: Sent| super::super::hoisted(&sent.parts());
    let sign = |sent: Sent| Signer::default().in_query(sent, "60");
    assert!(
        hoisted(get().param("x-amz-acl", "private"))
            .unwrap()
            .is_none()
    );
    assert!(hoisted(sign(get())).unwrap().is_none());
    let sent = sign(
        get()
            .param("X-Amz-Meta-A", "b c")
            .param("x-amz-acl", "private"),
    );
    assert_eq!(code(&gate(), &sent), Ok("alice".into()));
    let head = hoisted(sent).unwrap().unwrap();
    assert_eq!(head.headers["x-amz-meta-a"], "b c");
    assert_eq!(head.headers["x-amz-acl"], "private");
    assert!(!head.headers.contains_key("x-amz-expires"));
    let twice = sign(
        get()
            .header("x-amz-acl", "private")
            .param("x-amz-acl", "private"),
    );
    assert!(hoisted(twice).is_ok());
    let differs = sign(
        get()
            .header("x-amz-acl", "private")
            .param("x-amz-acl", "public-read"),
    );
    assert_eq!(hoisted(differs).unwrap_err().code, Code::InvalidRequest);
    let split = sign(get().param("x-amz-meta-a", "b\r\nx: y"));
    assert_eq!(hoisted(split).unwrap_err().code, Code::InvalidRequest);
    for framing in ["x-amz-trailer", "x-amz-decoded-content-length"] {
        assert!(hoisted(sign(get().param(framing, "1"))).unwrap().is_none());
    }
}
