//! Bodies in chunks: what is taken, what is refused, and that no change of a signed one passes.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{ChunkDecoder, ChunkFault, ChunkSigner, PayloadSpec, Step, TrailerLine};
use super::*;
use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};

const TRAILER: (&str, &str) = ("x-amz-checksum-crc32", "AAAAAA==");

type Decoded = Result<(Vec<u8>, Vec<TrailerLine>), ChunkFault>;

/// Decodes a body that arrives in pieces of these lengths, the last one over and over.
fn decode(mut decoder: ChunkDecoder, body: &[u8], pieces: &[usize]) -> Decoded {
    let mut rest = Bytes::copy_from_slice(body);
    let mut data = Vec::new();
    let mut pieces = pieces.iter().copied();
    let mut length = usize::MAX;
    while !rest.is_empty() {
        length = pieces.next().unwrap_or(length).max(1);
        let mut input = rest.split_to(length.min(rest.len()));
        while let Step::Data(piece) = decoder.step(&mut input)? {
            assert!(!piece.is_empty());
            data.extend_from_slice(&piece);
        }
        assert!(input.is_empty());
    }
    Ok((data, decoder.finish()?))
}

/// The head's signature and a verifier of the chunks that go with it.
fn seed(trailer: bool) -> (String, Box<ChunkSigner>) {
    let suffix = if trailer { "-TRAILER" } else { "" };
    let hash = format!("STREAMING-AWS4-HMAC-SHA256-PAYLOAD{suffix}");
    let head = Signer::default().in_header(Sent::new("PUT", "/bucket/key", "localhost"), &hash);
    let spec = authenticate(&gate(), &head).unwrap().into_payload();
    let PayloadSpec::Chunks {
        signer: Some(signer),
        ..
    } = spec
    else {
        panic!("{spec:?}")
    };
    (signature_of(&head), signer)
}

fn signed_body(chunks: &[&[u8]], trailer: Option<(&str, &str)>) -> Vec<u8> {
    Signer::default().chunks(&seed(trailer.is_some()).0, chunks, trailer)
}

fn signed_decoder(trailer: bool, decoded_bytes: u64) -> ChunkDecoder {
    ChunkDecoder::new(Some(seed(trailer).1), trailer, decoded_bytes)
}

fn plain(body: &[u8], trailer: bool, decoded_bytes: u64) -> Decoded {
    decode(ChunkDecoder::new(None, trailer, decoded_bytes), body, &[])
}

fn lines(trailer: Option<(&str, &str)>) -> Vec<TrailerLine> {
    trailer
        .iter()
        .map(|(name, value)| ((*name).into(), (*value).into()))
        .collect()
}

#[test]
fn chunks_of_any_size_decode_with_and_without_signatures() {
    let big = vec![7; 70_000];
    let bodies: [&[&[u8]]; 5] = [
        &[],
        &[b"x"],
        &[b"hello", b" ", b"world"],
        &[&big],
        &[&[1; 100], &big],
    ];
    for chunks in bodies {
        for trailer in [None, Some(TRAILER)] {
            let data = chunks.concat();
            let length = data.len() as u64;
            let expected = Ok((data, lines(trailer)));
            let signed = signed_body(chunks, trailer);
            let unsigned = plain_chunks(chunks, trailer);
            let has = trailer.is_some();
            assert_eq!(decode(signed_decoder(has, length), &signed, &[]), expected);
            assert_eq!(plain(&unsigned, has, length), expected);
            // Without authentication the signatures are extensions that nobody reads.
            assert_eq!(plain(&signed, has, length), expected);
        }
    }
}

#[test]
fn the_forms_that_senders_give_the_end_are_taken() {
    let expected = Ok((b"abc".to_vec(), lines(Some(TRAILER))));
    for end in [
        "x-amz-checksum-crc32:AAAAAA==\r\n\r\n",
        "x-amz-checksum-crc32:AAAAAA==\r\n",
        "x-amz-checksum-crc32:AAAAAA==\n\r\n\r\n",
        "x-amz-checksum-crc32:AAAAAA==\n\r\n",
        "X-Amz-Checksum-CRC32: AAAAAA== \r\n\r\n",
    ] {
        assert_eq!(
            plain(format!("3\r\nabc\r\n0\r\n{end}").as_bytes(), true, 3),
            expected,
            "{end}"
        );
    }
    for body in [
        "3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabc\r\n0\r\n",
        "03\r\nabc\r\n000\r\n\r\n",
    ] {
        assert_eq!(
            plain(body.as_bytes(), false, 3),
            Ok((b"abc".to_vec(), vec![])),
            "{body}"
        );
    }
    // A blank line between the trailer and its signature, as minio-go writes it.
    let body = signed_body(&[b"abc"], Some(TRAILER));
    let text = String::from_utf8(body).unwrap();
    let text = text.replace("==\r\nx-amz-trailer", "==\n\r\nx-amz-trailer");
    assert_eq!(
        decode(signed_decoder(true, 3), text.as_bytes(), &[]),
        expected
    );
}

#[test]
fn data_shares_the_memory_of_its_input() {
    let mut input = Bytes::from_static(b"3\r\nabc\r\n0\r\n\r\n");
    let start = input.as_ptr() as usize;
    let mut decoder = ChunkDecoder::new(None, false, 3);
    let Ok(Step::Data(data)) = decoder.step(&mut input) else {
        panic!()
    };
    assert_eq!(data.as_ptr() as usize, start + 3);
}

#[test]
fn sec_streaming_malformed_framing_is_refused() {
    let framing = |body: &str| match plain(body.as_bytes(), false, 3) {
        Err(ChunkFault::Framing(_)) => true,
        other => panic!("{body:?}: {other:?}"),
    };
    assert!(framing("\r\n"));
    assert!(framing("3 \r\nabc\r\n0\r\n\r\n"));
    assert!(framing(" 3\r\nabc\r\n0\r\n\r\n"));
    assert!(framing("+3\r\nabc\r\n0\r\n\r\n"));
    assert!(framing("-3\r\nabc\r\n0\r\n\r\n"));
    assert!(framing("0x3\r\nabc\r\n0\r\n\r\n"));
    assert!(framing("3\nabc\r\n0\r\n\r\n"));
    assert!(framing("3\r\nabc\n0\r\n\r\n"));
    assert!(framing("3\r\nabcd\r\n0\r\n\r\n"));
    assert!(framing("2\r\nabc\r\n0\r\n\r\n"));
    assert!(framing("3\r\nabc\r\n0\r\n\r\nGET / HTTP/1.1\r\n"));
    assert!(framing("3\r\nabc\r\n0\r\n\r\n\r\n\r\n\r\n\r\n\r\n\r\n"));
    assert!(framing("00000000000000003\r\nabc\r\n0\r\n\r\n"));
    assert!(framing("\u{663}\r\nabc\r\n0\r\n\r\n"));
}

#[test]
fn sec_streaming_the_decoded_length_is_exact() {
    let body = b"3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(plain(body, false, 4), Err(ChunkFault::Incomplete));
    assert_eq!(plain(body, false, 2), Err(ChunkFault::TooLong));
    assert_eq!(
        plain(b"ffffffffffffffff\r\nabc", false, 3),
        Err(ChunkFault::TooLong)
    );
    for cut in 0..body.len() {
        let whole = cut >= b"3\r\nabc\r\n0\r\n".len();
        assert_eq!(plain(&body[..cut], false, 3).is_ok(), whole, "{cut}");
    }
}

#[test]
fn sec_streaming_lines_and_trailers_are_bounded() {
    let line = |bytes: usize| format!("3;{}\r\nabc\r\n0\r\n\r\n", "e".repeat(bytes - 4));
    assert!(plain(line(CHUNK_LINE_BYTES_MAX).as_bytes(), false, 3).is_ok());
    let too_long = plain(line(CHUNK_LINE_BYTES_MAX + 1).as_bytes(), false, 3);
    assert!(
        matches!(too_long, Err(ChunkFault::Framing(_))),
        "{too_long:?}"
    );
    let endless = plain(&vec![b'0'; 1 << 20], false, 3);
    assert!(
        matches!(endless, Err(ChunkFault::Framing(_))),
        "{endless:?}"
    );
    let one = format!("0\r\na:{}\r\n\r\n", "v".repeat(TRAILER_BYTES_MAX));
    let many: String = (0..TRAILER_BYTES_MAX)
        .map(|i| format!("{i}:v\r\n"))
        .collect();
    let blank = "\r\n".repeat(TRAILER_BYTES_MAX);
    for end in [one, format!("0\r\n{many}\r\n"), format!("0\r\n{blank}")] {
        let outcome = plain(end.as_bytes(), true, 0);
        assert!(outcome.is_err(), "{outcome:?}");
    }
    // Blank lines before a signature that never comes end, too.
    let (seed, signer) = seed(true);
    let mut body = Signer::default().chunks(&seed, &[], Some(TRAILER));
    let at = body.windows(5).position(|w| w == b"x-amz").unwrap();
    body.truncate(at);
    body.extend_from_slice(blank.as_bytes());
    let outcome = decode(ChunkDecoder::new(Some(signer), true, 0), &body, &[]);
    assert!(
        matches!(outcome, Err(ChunkFault::Trailer(_))),
        "{outcome:?}"
    );
}

#[test]
fn sec_streaming_malformed_trailers_are_refused() {
    for lines in [
        "no colon\r\n",
        ":v\r\n",
        "a:1\r\na:2\r\n",
        "a:1\r\nA:2\r\n",
        "\u{0}\r\n",
    ] {
        let outcome = plain(format!("0\r\n{lines}\r\n").as_bytes(), true, 0);
        assert!(
            matches!(outcome, Err(ChunkFault::Trailer(_))),
            "{lines:?}: {outcome:?}"
        );
    }
    let outcome = plain(b"0\r\na:\xff\r\n\r\n", true, 0);
    assert!(
        matches!(outcome, Err(ChunkFault::Trailer(_))),
        "{outcome:?}"
    );
}

#[test]
fn sec_streaming_signatures_are_each_verified() {
    let chunks: [&[u8]; 2] = [b"abc", b"def"];
    let body = String::from_utf8(signed_body(&chunks, None)).unwrap();
    let refused = |body: &str| {
        assert_eq!(
            decode(signed_decoder(false, 6), body.as_bytes(), &[]),
            Err(ChunkFault::Signature)
        );
    };
    let signature = &body[body.find('=').unwrap() + 1..][..64];
    refused(&body.replacen(&format!(";chunk-signature={signature}"), "", 1));
    refused(&body.replacen(signature, "", 1));
    refused(&body.replacen(signature, &signature.to_uppercase(), 1));
    refused(&body.replacen(signature, &"0".repeat(64), 1));
    refused(&body.replacen(
        signature,
        &format!("{signature};chunk-signature={signature}"),
        1,
    ));
    refused(&body.replacen("abc", "abd", 1));
    // The chunks in another order, and a chunk of another request.
    let second = body.find("\r\n3;").unwrap() + 2;
    let third = body.find("\r\n0;").unwrap() + 2;
    refused(&format!(
        "{}{}{}",
        &body[second..third],
        &body[..second],
        &body[third..]
    ));
    let other = Signer::default().chunks(&"0".repeat(64), &chunks, None);
    refused(&String::from_utf8(other).unwrap());
    // Left out: the data is short, and the chain is broken before that shows.
    refused(&format!("{}{}", &body[..second], &body[third..]));
    refused(&body[third..]);
}

#[test]
fn sec_streaming_a_signed_trailer_needs_its_signature() {
    let body = String::from_utf8(signed_body(&[b"abc"], Some(TRAILER))).unwrap();
    let decode = |body: &str| decode(signed_decoder(true, 3), body.as_bytes(), &[]);
    let at = body.find("x-amz-trailer-signature").unwrap();
    assert_eq!(decode(&body[..at]), Err(ChunkFault::Incomplete));
    assert_eq!(
        decode(&format!("{}\r\n", &body[..at])),
        Err(ChunkFault::Incomplete)
    );
    assert_eq!(
        decode(&body.replace("AAAAAA==", "AAAAAB==")),
        Err(ChunkFault::Signature)
    );
    assert_eq!(
        decode(&body.replace("-crc32:", "-crc32c:")),
        Err(ChunkFault::Signature)
    );
    let more = format!(
        "{}x-amz-meta-a:1\r\n\r\n",
        body.strip_suffix("\r\n").unwrap()
    );
    assert!(matches!(decode(&more), Err(ChunkFault::Trailer(_))));
    // The trailer's lines taken out, with and without its signature.
    let line = "x-amz-checksum-crc32:AAAAAA==\r\n";
    assert_eq!(decode(&body.replace(line, "")), Err(ChunkFault::Signature));
}

#[test]
fn sec_streaming_no_changed_byte_of_a_signed_body_passes() {
    for trailer in [None, Some(TRAILER)] {
        let body = signed_body(&[b"hello, ", b"world"], trailer);
        let expected = (b"hello, world".to_vec(), lines(trailer));
        for at in 0..body.len() {
            for flip in [0x01, 0x02, 0x04, 0x08, 0x10, 0x20, 0x40, 0x80, 0xff] {
                let mut changed = body.clone();
                changed[at] ^= flip;
                let outcome = decode(signed_decoder(trailer.is_some(), 12), &changed, &[]);
                if let Ok(decoded) = outcome {
                    assert_eq!(
                        decoded, expected,
                        "byte {at} with {flip:#x} changes the content"
                    );
                }
            }
            let mut shorter = body.clone();
            shorter.remove(at);
            if let Ok(decoded) = decode(signed_decoder(trailer.is_some(), 12), &shorter, &[]) {
                assert_eq!(decoded, expected, "without byte {at}");
            }
            let short = decode(signed_decoder(trailer.is_some(), 12), &body[..at], &[]);
            assert!(
                short.is_err() || at >= body.len() - 2,
                "the first {at} bytes pass"
            );
        }
    }
}

fn chunked_data() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let chunk = prop_oneof![
        4 => prop::collection::vec(any::<u8>(), 1..40),
        1 => prop::collection::vec(any::<u8>(), 1..5000),
    ];
    prop::collection::vec(chunk, 0..8)
}

proptest! {
    #[test]
    fn bodies_decode_the_same_however_they_are_cut(
        chunks in chunked_data(),
        pieces in prop::collection::vec(1_usize..200, 0..40),
        signed in any::<bool>(),
        with_trailer in any::<bool>(),
    ) {
        let chunks: Vec<&[u8]> = chunks.iter().map(Vec::as_slice).collect();
        let data = chunks.concat();
        let trailer = with_trailer.then_some(TRAILER);
        let length = data.len() as u64;
        let (body, decoder) = if signed {
            (signed_body(&chunks, trailer), signed_decoder(with_trailer, length))
        } else {
            (plain_chunks(&chunks, trailer), ChunkDecoder::new(None, with_trailer, length))
        };
        prop_assert_eq!(decode(decoder, &body, &pieces), Ok((data, lines(trailer))));
    }

    #[test]
    fn sec_streaming_any_bytes_are_decoded_or_refused_and_never_more_than_announced(
        body in prop::collection::vec(
            prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'0'), Just(b'3'), Just(b';'), any::<u8>()],
            0..200,
        ),
        pieces in prop::collection::vec(1_usize..20, 1..20),
        decoded_bytes in 0_u64..20,
        signed in any::<bool>(),
        trailer in any::<bool>(),
    ) {
        let decoder = if signed {
            signed_decoder(trailer, decoded_bytes)
        } else {
            ChunkDecoder::new(None, trailer, decoded_bytes)
        };
        if let Ok((data, _)) = decode(decoder, &body, &pieces) {
            prop_assert_eq!(data.len() as u64, decoded_bytes);
            prop_assert!(!signed);
        }
    }
}
