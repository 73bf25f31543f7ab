//! Every promise of a head is kept by the body, or the body ends in an error.

use std::collections::VecDeque;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body::{Frame, SizeHint};

use super::*;

/// A body of given pieces, with a length or without.
struct Pieces {
    pieces: VecDeque<Bytes>,
    length: Option<u64>,
    /// What comes after the pieces instead of the end.
    error: Option<&'static str>,
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let piece = self.pieces.pop_front().map(|piece| Ok(Frame::data(piece)));
        Poll::Ready(piece.or_else(|| {
            self.error
                .take()
                .map(|text| Err(std::io::Error::other(text)))
        }))
    }

    fn size_hint(&self) -> SizeHint {
        self.length
            .map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}

fn pieces(body: &str) -> Pieces {
    let pieces = body
        .as_bytes()
        .chunks(5)
        .map(Bytes::copy_from_slice)
        .collect();
    Pieces {
        pieces,
        length: Some(body.len() as u64),
        error: None,
    }
}

/// A head; the length is that of the body unless it is given.
fn head(pairs: &[(&str, &str)]) -> Parts {
    let mut request = http::Request::builder().method("PUT").uri("/bucket/key");
    for (name, value) in pairs {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

const OBJECT: Want = Want {
    is_data: true,
    md5: true,
    algorithm: None,
    object_checksum: false,
};
const DOCUMENT: Want = Want {
    is_data: false,
    md5: false,
    algorithm: None,
    object_checksum: false,
};

async fn read(
    body: Pieces,
    spec: PayloadSpec,
    pairs: &[(&str, &str)],
    want: Want,
) -> Result<(Vec<u8>, Digests), S3Error> {
    let mut payload = Payload::new(body, spec, &head(pairs), want)?;
    let mut data = Vec::new();
    while let Some(piece) = payload.next().await? {
        data.extend_from_slice(&piece);
    }
    assert!(payload.next().await?.is_none(), "the end stays the end");
    Ok((data, payload.digests()))
}

/// Reads `hello world` with its length and these headers.
async fn hello(pairs: &[(&str, &str)]) -> Result<Digests, S3Error> {
    let mut all = vec![("content-length", "11")];
    all.extend_from_slice(pairs);
    let (data, digests) = read(pieces("hello world"), PayloadSpec::Unsigned, &all, OBJECT).await?;
    assert_eq!(data, b"hello world");
    Ok(digests)
}

async fn refused(pairs: &[(&str, &str)]) -> (Code, String) {
    let error = hello(pairs).await.unwrap_err();
    (error.code, error.message.into_owned())
}

fn framed(trailer: bool) -> PayloadSpec {
    PayloadSpec::Chunks {
        signer: None,
        trailer,
    }
}

const HELLO_MD5: &str = "XrY7u+Ae7tCTyyK7j1rNww==";
const HELLO_CRC32: &str = "DUoRhQ==";
const HELLO_SHA256: &str = "uU0nuZNNPgilLlLX2n2r+sSE7+N6U4DukIj3rOLvzek=";

#[tokio::test]
async fn a_plain_body_comes_through_with_its_digests() {
    let digests = hello(&[]).await.unwrap();
    assert_eq!(digests.size_bytes, 11);
    assert_eq!(STANDARD.encode(digests.md5.unwrap()), HELLO_MD5);
    assert_eq!(digests.checksum, None);
    let want = Want {
        algorithm: Some(ChecksumAlgorithm::Crc32),
        ..OBJECT
    };
    let pairs = [("content-length", "11")];
    let outcome = read(pieces("hello world"), PayloadSpec::Unsigned, &pairs, want).await;
    let checksum = outcome.unwrap().1.checksum.unwrap();
    assert_eq!(checksum::format(&checksum, 0), HELLO_CRC32);
    assert_eq!(checksum.kind, ChecksumKind::FullObject);
}

#[tokio::test]
async fn a_checksum_of_the_client_goes_before_the_one_that_is_wanted() {
    let want = Want {
        algorithm: Some(ChecksumAlgorithm::Sha1),
        ..OBJECT
    };
    let pairs = [
        ("content-length", "11"),
        ("x-amz-checksum-crc32", HELLO_CRC32),
    ];
    let payload = Payload::new(
        pieces("hello world"),
        PayloadSpec::Unsigned,
        &head(&pairs),
        want,
    )
    .unwrap();
    assert_eq!(payload.checksum_algorithm(), Some(ChecksumAlgorithm::Crc32));
    assert_eq!(payload.size_bytes(), Some(11));
}

#[tokio::test]
async fn p6_content_md5_is_verified() {
    assert!(hello(&[("content-md5", HELLO_MD5)]).await.is_ok());
    assert_eq!(
        refused(&[("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")])
            .await
            .0,
        Code::BadDigest
    );
    for wrong in [
        "",
        "rL0Y20zC+Fzt72VPzMSk",
        "YWJyYWNhZGFicmE=",
        "5eb63bbbe01eeed093cb22bb8f5acdc3",
    ] {
        assert_eq!(
            refused(&[("content-md5", wrong)]).await.0,
            Code::InvalidDigest,
            "{wrong}"
        );
    }
    let twice = [("content-md5", HELLO_MD5), ("content-md5", HELLO_MD5)];
    assert_eq!(refused(&twice).await.0, Code::InvalidDigest);
}

#[tokio::test]
async fn p6_the_signed_sha256_is_verified() {
    let digest: [u8; 32] = STANDARD.decode(HELLO_SHA256).unwrap().try_into().unwrap();
    let pairs = [("content-length", "11")];
    let body = || pieces("hello world");
    assert!(
        read(body(), PayloadSpec::Sha256(digest), &pairs, OBJECT)
            .await
            .is_ok()
    );
    let error = read(body(), PayloadSpec::Sha256([0; 32]), &pairs, OBJECT)
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::XAmzContentSHA256Mismatch);
}

#[tokio::test]
async fn p6_checksum_headers_are_verified() {
    for (name, value) in [
        ("x-amz-checksum-crc32", HELLO_CRC32),
        ("x-amz-checksum-crc32c", "yZRlqg=="),
        ("x-amz-checksum-crc64nvme", "jSnVw/bqjr4="),
        ("x-amz-checksum-sha1", "Kq5sNclPz7QV2+lfQIuc6R7oRu0="),
        ("x-amz-checksum-sha256", HELLO_SHA256),
    ] {
        let digests = hello(&[(name, value)]).await.unwrap();
        let checksum = digests.checksum.unwrap();
        assert_eq!(checksum::header_name(checksum.algorithm), name);
        assert_eq!(checksum::format(&checksum, 0), value);
        let zeros = STANDARD.encode(vec![0; checksum.digest.len()]);
        let (code, message) = refused(&[(name, &zeros)]).await;
        let algorithm = checksum::algorithm_name(checksum.algorithm);
        let expected =
            format!("The {algorithm} you specified did not match the calculated checksum.");
        assert_eq!((code, message), (Code::BadDigest, expected));
        assert_eq!(refused(&[(name, "AAAA")]).await.0, Code::InvalidRequest);
    }
}

#[tokio::test]
async fn contradictions_about_checksums_are_refused() {
    let crc32 = ("x-amz-checksum-crc32", HELLO_CRC32);
    let sdk = |name| ("x-amz-sdk-checksum-algorithm", name);
    assert!(hello(&[crc32, sdk("CRC32")]).await.is_ok());
    for pairs in [
        &[crc32, sdk("SHA1")][..],
        &[crc32, ("x-amz-checksum-sha256", HELLO_SHA256)],
        &[sdk("CRC32")],
        &[crc32, sdk("XXHASH64")],
        &[("x-amz-checksum-crc16", "AAA=")],
        &[("x-amz-checksum-crc32", "DUoRhQ==-2")],
        &[("x-amz-trailer", "x-amz-checksum-crc32")],
    ] {
        assert_eq!(refused(pairs).await.0, Code::InvalidRequest, "{pairs:?}");
    }
}

#[tokio::test]
async fn checksums_of_the_object_are_not_compared_with_a_document() {
    let want = Want {
        object_checksum: true,
        ..DOCUMENT
    };
    let pairs = [("x-amz-checksum-crc32", "AAAAAA==-2")];
    let payload = Payload::new(pieces("<xml/>"), PayloadSpec::Unsigned, &head(&pairs), want);
    assert_eq!(payload.unwrap().collect(100).await.unwrap(), "<xml/>");
}

#[tokio::test]
async fn p6_a_body_of_another_length_is_incomplete() {
    let pairs = [("content-length", "11")];
    for text in ["hello worl", "", "hello world!"] {
        let body = Pieces {
            length: Some(11),
            ..pieces(text)
        };
        let error = read(body, PayloadSpec::Unsigned, &pairs, OBJECT)
            .await
            .unwrap_err();
        assert_eq!(error.code, Code::IncompleteBody, "{text}");
    }
    let broken = Pieces {
        error: Some("reset"),
        ..pieces("hello world")
    };
    let error = read(broken, PayloadSpec::Unsigned, &pairs, OBJECT)
        .await
        .unwrap_err();
    assert_eq!(error.code, Code::IncompleteBody);
}

#[tokio::test]
async fn a_length_is_required_of_objects_and_not_of_absent_documents() {
    let no_length = Pieces {
        length: None,
        ..pieces("x")
    };
    let error = Payload::new(no_length, PayloadSpec::Unsigned, &head(&[]), DOCUMENT).unwrap_err();
    assert_eq!(error.code, Code::MissingContentLength);
    let error = Payload::new(pieces(""), PayloadSpec::Unsigned, &head(&[]), OBJECT).unwrap_err();
    assert_eq!(error.code, Code::MissingContentLength);
    let document = Payload::new(pieces(""), PayloadSpec::Unsigned, &head(&[]), DOCUMENT).unwrap();
    assert!(document.collect(0).await.unwrap().is_empty());
    let empty = read(
        pieces(""),
        PayloadSpec::Unsigned,
        &[("content-length", "0")],
        OBJECT,
    )
    .await;
    assert_eq!(empty.unwrap().1.size_bytes, 0);
}

#[tokio::test]
async fn framing_is_removed_and_its_length_is_the_datas() {
    let text = "5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    let length = [("x-amz-decoded-content-length", "11")];
    for wire in [Some(text.len() as u64), None] {
        let body = Pieces {
            length: wire,
            ..pieces(text)
        };
        let (data, digests) = read(body, framed(false), &length, OBJECT).await.unwrap();
        assert_eq!(data, b"hello world");
        assert_eq!(digests.size_bytes, 11);
        assert_eq!(STANDARD.encode(digests.md5.unwrap()), HELLO_MD5);
    }
    let code = |pairs: Vec<(&'static str, &'static str)>| async move {
        read(pieces(text), framed(false), &pairs, OBJECT)
            .await
            .unwrap_err()
            .code
    };
    const NAME: &str = "x-amz-decoded-content-length";
    assert_eq!(code(vec![]).await, Code::MissingContentLength);
    assert_eq!(code(vec![(NAME, "10")]).await, Code::IncompleteBody);
    assert_eq!(code(vec![(NAME, "12")]).await, Code::IncompleteBody);
    assert_eq!(code(vec![(NAME, "99999")]).await, Code::IncompleteBody);
    for odd in ["", "+11", "-1", "0xb", "11 11", "99999999999999999999"] {
        assert_eq!(
            code(vec![(NAME, odd)]).await,
            Code::InvalidArgument,
            "{odd}"
        );
    }
    assert_eq!(
        code(vec![(NAME, "11"), (NAME, "11")]).await,
        Code::InvalidArgument
    );
    let cut = Pieces {
        length: None,
        ..pieces(&text[..12])
    };
    let error = read(cut, framed(false), &length, OBJECT).await.unwrap_err();
    assert_eq!(error.code, Code::IncompleteBody);
    let odd = read(
        pieces("x\r\nhello world\r\n"),
        framed(false),
        &length,
        OBJECT,
    )
    .await;
    assert_eq!(odd.unwrap_err().code, Code::InvalidRequest);
}

async fn with_trailer(lines: &str, pairs: &[(&str, &str)]) -> Result<Digests, S3Error> {
    let mut all = vec![("x-amz-decoded-content-length", "11")];
    all.extend_from_slice(pairs);
    let text = format!("b\r\nhello world\r\n0\r\n{lines}\r\n");
    read(pieces(&text), framed(true), &all, OBJECT)
        .await
        .map(|(_, digests)| digests)
}

#[tokio::test]
async fn p6_the_checksum_of_a_trailer_is_verified() {
    let announced = ("x-amz-trailer", "x-amz-checksum-crc32");
    let sdk = ("x-amz-sdk-checksum-algorithm", "CRC32");
    let line = format!("x-amz-checksum-crc32:{HELLO_CRC32}\r\n");
    let digests = with_trailer(&line, &[announced, sdk]).await.unwrap();
    assert_eq!(checksum::format(&digests.checksum.unwrap(), 0), HELLO_CRC32);
    assert_eq!(with_trailer("", &[]).await.unwrap().checksum, None);
    let code = |lines: String, pairs: Vec<(&'static str, &'static str)>| async move {
        with_trailer(&lines, &pairs).await.unwrap_err().code
    };
    let wrong = "x-amz-checksum-crc32:AAAAAA==\r\n";
    assert_eq!(code(wrong.into(), vec![announced]).await, Code::BadDigest);
    let malformed = "x-amz-checksum-crc32:AAAA\r\n";
    assert_eq!(
        code(malformed.into(), vec![announced]).await,
        Code::InvalidRequest
    );
    let other = format!("x-amz-checksum-sha256:{HELLO_SHA256}\r\n");
    assert_eq!(
        code(other.clone(), vec![announced]).await,
        Code::MalformedTrailerError
    );
    assert_eq!(
        code(String::new(), vec![announced]).await,
        Code::MalformedTrailerError
    );
    assert_eq!(
        code(line.clone(), vec![]).await,
        Code::MalformedTrailerError
    );
    let both = format!("{line}{other}");
    assert_eq!(
        code(both, vec![announced]).await,
        Code::MalformedTrailerError
    );
    for value in [
        "x-amz-checksum-crc16",
        "x-amz-meta-a",
        "",
        "x-amz-checksum-crc32,x-amz-checksum-sha1",
    ] {
        let error = with_trailer(&line, &[("x-amz-trailer", value)])
            .await
            .unwrap_err();
        assert_eq!(error.code, Code::InvalidRequest, "{value}");
    }
    let header = ("x-amz-checksum-crc32", HELLO_CRC32);
    assert_eq!(
        code(line.clone(), vec![announced, header]).await,
        Code::InvalidRequest
    );
    let other_sdk = ("x-amz-sdk-checksum-algorithm", "SHA1");
    assert_eq!(
        code(line, vec![announced, other_sdk]).await,
        Code::InvalidRequest
    );
}

#[tokio::test]
async fn sec_streaming_an_unsigned_trailer_is_for_data_alone() {
    let pairs = [("x-amz-decoded-content-length", "0")];
    let outcome = Payload::new(pieces("0\r\n\r\n"), framed(true), &head(&pairs), DOCUMENT);
    assert_eq!(outcome.unwrap_err().code, Code::InvalidRequest);
}

#[tokio::test]
async fn a_document_is_collected_up_to_its_limit() {
    let collect = |text: &str, limit| {
        let payload = Payload::new(pieces(text), PayloadSpec::Unsigned, &head(&[]), DOCUMENT);
        payload.unwrap().collect(limit)
    };
    assert_eq!(collect("hello world", 11).await.unwrap(), "hello world");
    assert_eq!(collect("four", 4).await.unwrap(), "four");
    assert_eq!(
        collect("hello world", 10).await.unwrap_err().code,
        Code::MalformedXML
    );
    let wrong = [("content-md5", "AAAAAAAAAAAAAAAAAAAAAA==")];
    for text in ["x", "hello world"] {
        let payload =
            Payload::new(pieces(text), PayloadSpec::Unsigned, &head(&wrong), DOCUMENT).unwrap();
        assert_eq!(payload.collect(99).await.unwrap_err().code, Code::BadDigest);
    }
}

#[tokio::test]
#[should_panic(expected = "before its end")]
async fn digests_before_the_end_are_a_bug() {
    let pairs = [("content-length", "1")];
    let payload = Payload::new(pieces("x"), PayloadSpec::Unsigned, &head(&pairs), OBJECT).unwrap();
    payload.digests();
}
