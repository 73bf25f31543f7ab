//! The worked examples of AWS's documentation ("Authenticating Requests: Using the Authorization
//! Header", "Using Query Parameters", "Signature Calculations for the Authorization Header:
//! Transferring Payload in Multiple Chunks"), values as published.

use bytes::Bytes;

use super::super::{ChunkDecoder, PayloadSpec, Step, TrailerLine};
use super::*;

const VIRTUAL_HOST: &str = "examplebucket.s3.amazonaws.com";

fn published(sent: Sent, signed: &str, signature: &str) -> Sent {
    let value = format!(
        "AWS4-HMAC-SHA256 \
         Credential={ACCESS_KEY}/20130524/us-east-1/s3/aws4_request,SignedHeaders={signed},\
         Signature={signature}"
    );
    sent.header("authorization", value)
}

fn empty_body(target: &str) -> Sent {
    Sent::new("GET", target, VIRTUAL_HOST)
        .header("x-amz-content-sha256", EMPTY)
        .header("x-amz-date", STAMP)
}

#[test]
fn the_published_header_examples_verify() {
    let get = published(
        empty_body("/test.txt").header("range", "bytes=0-9"),
        "host;range;x-amz-content-sha256;x-amz-date",
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
    );
    // The path is sent as it is and signed as `test%24file.text`.
    let put = published(
        Sent::new("PUT", "/test$file.text", VIRTUAL_HOST)
            .header("date", "Fri, 24 May 2013 00:00:00 GMT")
            .header("x-amz-date", STAMP)
            .header("x-amz-storage-class", "REDUCED_REDUNDANCY")
            .header(
                "x-amz-content-sha256",
                "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072",
            ),
        "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
    );
    let lifecycle = published(
        empty_body("/?lifecycle"),
        "host;x-amz-content-sha256;x-amz-date",
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
    );
    let list = published(
        empty_body("/?max-keys=2&prefix=J"),
        "host;x-amz-content-sha256;x-amz-date",
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
    );
    for sent in [get, put, lifecycle, list] {
        assert_eq!(code(&gate(), &sent), Ok("alice".into()), "{sent:?}");
    }
}

#[test]
fn the_published_presigned_example_verifies() {
    let target = "/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256\
        &X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request\
        &X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host\
        &X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404";
    let sent = Sent::new("GET", target, VIRTUAL_HOST);
    assert_eq!(code(&gate(), &sent), Ok("alice".into()));
}

/// "Signing and Authenticating REST Requests", query string authentication.
#[test]
fn the_published_presigned_example_of_version_2_verifies() {
    let target = "/photos/puppy.jpg?AWSAccessKeyId=AKIAIOSFODNN7EXAMPLE\
        &Signature=NpgCjnDzrM%2BWFzoENXmpNDUsSn8%3D&Expires=1175139620";
    let sent = Sent::new("GET", target, "johnsmith.s3.amazonaws.com");
    let gate = gate_with(1_175_139_000, true, true);
    let authenticated = gate.authenticate(&sent.parts(), Some("johnsmith")).unwrap();
    assert!(matches!(authenticated.identity(), Identity::User(user) if &*user.name == "alice"));
    let other_bucket = gate
        .authenticate(&sent.parts(), Some("janesmith"))
        .unwrap_err();
    assert_eq!(other_bucket.code, Code::SignatureDoesNotMatch);
}

#[test]
fn the_published_chunked_example_verifies() {
    let head = published(
        Sent::new("PUT", "/examplebucket/chunkObject.txt", "s3.amazonaws.com")
            .header("x-amz-date", STAMP)
            .header("x-amz-storage-class", "REDUCED_REDUNDANCY")
            .header("x-amz-content-sha256", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD")
            .header("content-encoding", "aws-chunked")
            .header("x-amz-decoded-content-length", "66560")
            .header("content-length", "66824"),
        "content-encoding;content-length;host;x-amz-content-sha256;x-amz-date;\
         x-amz-decoded-content-length;x-amz-storage-class",
        "4f232c4386841ef735655705268965c44a0e4690baa4adea153f7db9fa80a0a9",
    );
    let body = [
        b"10000;chunk-signature=\
          ad80c730a21e5b8d04586a2213dd63b9a0e99e0e2307b0ade35a65485a288648\r\n"
            .to_vec(),
        vec![b'a'; 65536],
        b"\r\n400;chunk-signature=\
          0055627c9e194cb4542bae2aa5492e3c1575bbb81b612b7d234b86a503ef5497\r\n"
            .to_vec(),
        vec![b'a'; 1024],
        b"\r\n0;chunk-signature=\
          b6c6ea8a5354eaf15b3cb7646744f4275b71ea724fed81ceb9323e279d449df9\r\n\r\n"
            .to_vec(),
    ]
    .concat();
    assert_eq!(body.len(), 66824);
    assert_eq!(decode(&head, body), (vec![b'a'; 66560], Vec::new()));
}

#[test]
fn the_published_example_with_a_signed_trailer_verifies() {
    let head = published(
        Sent::new("PUT", "/examplebucket/chunkObject.txt", "s3.amazonaws.com")
            .header("x-amz-date", STAMP)
            .header("x-amz-storage-class", "REDUCED_REDUNDANCY")
            .header(
                "x-amz-content-sha256",
                "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER",
            )
            .header("content-encoding", "aws-chunked")
            .header("x-amz-decoded-content-length", "66560")
            .header("x-amz-trailer", "x-amz-checksum-crc32c"),
        "content-encoding;host;x-amz-content-sha256;x-amz-date;x-amz-decoded-content-length;\
         x-amz-storage-class;x-amz-trailer",
        "106e2a8a18243abcf37539882f36619c00e2dfc72633413f02d3b74544bfeb8e",
    );
    let body = [
        b"10000;chunk-signature=\
          b474d8862b1487a5145d686f57f013e54db672cee1c953b3010fb58501ef5aa2\r\n"
            .to_vec(),
        vec![b'a'; 65536],
        b"\r\n400;chunk-signature=\
          1c1344b170168f8e65b41376b44b20fe354e373826ccbbe2c1d40a8cae51e5c7\r\n"
            .to_vec(),
        vec![b'a'; 1024],
        b"\r\n0;chunk-signature=\
          2ca2aba2005185cf7159c6277faf83795951dd77a3a99e6e65d5c9f85863f992\r\n\
          x-amz-checksum-crc32c:sOO8/Q==\n\
          x-amz-trailer-signature:\
          d81f82fc3505edab99d459891051a732e8730629a2e4a59689829ca17fe2e435\r\n\r\n"
            .to_vec(),
    ]
    .concat();
    let trailer = vec![("x-amz-checksum-crc32c".into(), "sOO8/Q==".into())];
    assert_eq!(decode(&head, body), (vec![b'a'; 66560], trailer));
}

fn decode(head: &Sent, body: Vec<u8>) -> (Vec<u8>, Vec<TrailerLine>) {
    let spec = authenticate(&gate(), head).unwrap().into_payload();
    let PayloadSpec::Chunks {
        signer: Some(signer),
        trailer,
    } = spec
    else {
        panic!("{spec:?}")
    };
    let mut decoder = ChunkDecoder::new(Some(signer), trailer, 66560);
    let mut input = Bytes::from(body);
    let mut data = Vec::new();
    while let Step::Data(piece) = decoder.step(&mut input).unwrap() {
        data.extend_from_slice(&piece);
    }
    (data, decoder.finish().unwrap())
}
