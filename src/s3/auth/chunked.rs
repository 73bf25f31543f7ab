//! Bodies in `aws-chunked` framing: chunks with or without signatures, then perhaps a trailer.
//!
//! ```text
//! <hex size>[;chunk-signature=<hex>]\r\n<bytes>\r\n    any number of times
//! 0[;chunk-signature=<hex>]\r\n
//! <name>:<value>\r\n                                   with a trailer
//! x-amz-trailer-signature:<hex>\r\n                    with a signed trailer
//! \r\n
//! ```
//!
//! The decoder sees bytes and gives bytes: no socket, no clock. Chunks of any size are taken, and
//! the blank lines that some senders put after or within a trailer. A chunk's data is handed out
//! before its signature can be checked, so nobody may act on it before [`ChunkDecoder::finish`].

use std::fmt;

use bytes::Bytes;
use hmac::Mac as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;

use super::sigv4::{HexDigits, HmacSha256, Stamp, hex};
use crate::limits::{CHUNK_LINE_BYTES_MAX, TRAILER_BYTES_MAX};
use crate::s3::checksum::unhex;

/// Removes the framing of one body.
///
/// # Invariants
/// The data handed out is never longer than the decoded length, and `finish` succeeds only if it
/// is exactly as long, the last chunk came, and every signature was right.
#[derive(Debug)]
pub struct ChunkDecoder {
    signer: Option<Box<ChunkSigner>>,
    trailer: bool,
    /// Data bytes that are still to come.
    left_bytes: u64,
    state: State,
    /// What came of a line so far.
    line: Vec<u8>,
    trailers: Trailers,
}

impl ChunkDecoder {
    /// `decoded_bytes` is the length of the data without framing.
    pub fn new(signer: Option<Box<ChunkSigner>>, trailer: bool, decoded_bytes: u64) -> Self {
        Self {
            signer,
            trailer,
            left_bytes: decoded_bytes,
            state: State::Header,
            line: Vec::new(),
            trailers: Trailers::default(),
        }
    }

    /// Takes bytes from the front of `input` and answers with the next piece of data, which
    /// shares the input's memory, or with [`Step::NeedMore`] once the input is used up.
    pub fn step(&mut self, input: &mut Bytes) -> Result<Step, ChunkFault> {
        loop {
            if input.is_empty() {
                return Ok(Step::NeedMore);
            }
            match self.state {
                State::Header => {
                    if self.read_line(input, CHUNK_LINE_BYTES_MAX)? {
                        self.begin_chunk()?;
                    }
                }
                State::Data { chunk_left_bytes } => {
                    return Ok(Step::Data(self.take_data(input, chunk_left_bytes)));
                }
                State::DataEnd => {
                    if self.read_line(input, CRLF_BYTES)? {
                        self.end_chunk()?;
                    }
                }
                State::Trailer => {
                    let room = TRAILER_BYTES_MAX.saturating_sub(self.trailers.bytes);
                    if self.read_line(input, room)? {
                        self.take_trailer_line()?;
                    }
                }
                State::Tail { blank_bytes } => self.skip_blank(input, blank_bytes)?,
            }
        }
    }

    /// Call it when the input has ended: the trailer's lines, names in lower case, in order.
    pub fn finish(self) -> Result<Vec<TrailerLine>, ChunkFault> {
        let ended = match self.state {
            State::Tail { .. } => true,
            // A trailer need not be followed by a blank line.
            State::Trailer => self.line.is_empty() && !self.trailer_signature_due(),
            State::Header | State::Data { .. } | State::DataEnd => false,
        };
        if !ended || self.left_bytes > 0 {
            return Err(ChunkFault::Incomplete);
        }
        Ok(self.trailers.lines)
    }

    /// Appends to `line` up to its end; true when the line is whole, without its end.
    fn read_line(&mut self, input: &mut Bytes, limit_bytes: usize) -> Result<bool, ChunkFault> {
        let end = input.iter().position(|byte| *byte == b'\n');
        let piece = input.split_to(end.map_or(input.len(), |end| end + 1));
        if self.line.len() + piece.len() > limit_bytes {
            return Err(if matches!(self.state, State::Trailer) {
                ChunkFault::Trailer("it is too long")
            } else {
                ChunkFault::Framing("a chunk's header is too long or its data too short")
            });
        }
        self.line.extend_from_slice(&piece);
        if end.is_none() {
            return Ok(false);
        }
        self.line.pop();
        if self.line.last() == Some(&b'\r') {
            self.line.pop();
        } else if !matches!(self.state, State::Trailer) {
            return Err(ChunkFault::Framing(
                "a chunk's line does not end with CR LF",
            ));
        }
        Ok(true)
    }

    /// The line holds a chunk's header.
    fn begin_chunk(&mut self) -> Result<(), ChunkFault> {
        let line = std::mem::take(&mut self.line);
        let (size_bytes, extensions) = parse_chunk_header(&line)?;
        if size_bytes > self.left_bytes {
            return Err(ChunkFault::TooLong);
        }
        if let Some(signer) = &mut self.signer {
            signer.begin_chunk(chunk_signature(extensions).ok_or(ChunkFault::Signature)?);
        }
        self.left_bytes -= size_bytes;
        if size_bytes > 0 {
            self.state = State::Data {
                chunk_left_bytes: size_bytes,
            };
            return Ok(());
        }
        if let Some(signer) = &mut self.signer {
            signer.end_chunk()?;
        }
        self.state = if self.trailer {
            State::Trailer
        } else {
            State::Tail { blank_bytes: 0 }
        };
        Ok(())
    }

    fn take_data(&mut self, input: &mut Bytes, chunk_left_bytes: u64) -> Bytes {
        let here = usize::try_from(chunk_left_bytes)
            .unwrap_or(usize::MAX)
            .min(input.len());
        let data = input.split_to(here);
        if let Some(signer) = &mut self.signer {
            signer.update(&data);
        }
        let left = chunk_left_bytes - here as u64;
        self.state = if left > 0 {
            State::Data {
                chunk_left_bytes: left,
            }
        } else {
            State::DataEnd
        };
        data
    }

    /// The line holds what came between a chunk's data and the next header.
    fn end_chunk(&mut self) -> Result<(), ChunkFault> {
        if !self.line.is_empty() {
            return Err(ChunkFault::Framing(
                "a chunk's data is longer than its header says",
            ));
        }
        if let Some(signer) = &mut self.signer {
            signer.end_chunk()?;
        }
        self.state = State::Header;
        Ok(())
    }

    /// The line is one of the trailer.
    fn take_trailer_line(&mut self) -> Result<(), ChunkFault> {
        let line = std::mem::take(&mut self.line);
        self.trailers.bytes += line.len() + CRLF_BYTES;
        if line.is_empty() {
            // Some senders put a blank line between the trailer and its signature.
            if !self.trailer_signature_due() {
                self.state = State::Tail { blank_bytes: 0 };
            }
            return Ok(());
        }
        if self.trailers.signed {
            return Err(ChunkFault::Trailer("a line follows the signature"));
        }
        let text =
            std::str::from_utf8(&line).map_err(|_| ChunkFault::Trailer("it is not UTF-8"))?;
        let (name, value) = text
            .split_once(':')
            .ok_or(ChunkFault::Trailer("a line is not of the form name:value"))?;
        let (name, value) = (name.trim().to_ascii_lowercase(), value.trim());
        if name == TRAILER_SIGNATURE {
            self.trailers.signed = true;
            return match &mut self.signer {
                Some(signer) => signer.check_trailer(&self.trailers.lines, value),
                None => Ok(()),
            };
        }
        if name.is_empty() || self.trailers.lines.iter().any(|(seen, _)| **seen == *name) {
            return Err(ChunkFault::Trailer("a name is empty or there twice"));
        }
        self.trailers.lines.push((name.into(), value.into()));
        Ok(())
    }

    fn trailer_signature_due(&self) -> bool {
        self.signer.is_some() && !self.trailers.signed
    }

    /// After the end there may be line ends, and nothing else.
    fn skip_blank(&mut self, input: &mut Bytes, blank_bytes: usize) -> Result<(), ChunkFault> {
        let rest = input.split_off(input.len());
        let blank = std::mem::replace(input, rest);
        let count = blank_bytes.saturating_add(blank.len());
        if count > TAIL_BYTES_MAX || !blank.iter().all(|byte| matches!(byte, b'\r' | b'\n')) {
            return Err(ChunkFault::Framing("bytes follow the last chunk"));
        }
        self.state = State::Tail { blank_bytes: count };
        Ok(())
    }
}

/// A line of a trailer: its name in lower case and its value.
pub type TrailerLine = (Box<str>, Box<str>);

/// What one step gave.
#[derive(Debug, PartialEq, Eq)]
pub enum Step {
    /// The input is used up.
    NeedMore,
    /// Data without framing.
    Data(Bytes),
}

/// What is wrong with a body in chunks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChunkFault {
    #[error("the body ended early")]
    Incomplete,
    #[error("the body holds more bytes than it was said to")]
    TooLong,
    #[error("the framing is malformed: {0}")]
    Framing(&'static str),
    #[error("the trailer is malformed: {0}")]
    Trailer(&'static str),
    #[error("a signature is missing or wrong")]
    Signature,
}

/// Verifies the chain of signatures that starts with the one of the request's head.
pub struct ChunkSigner {
    key: HmacSha256,
    /// Time and scope, each with a line end behind it.
    context: Box<[u8]>,
    /// The signature before, as text.
    previous: HexDigits,
    /// The signature that the current chunk claims.
    claimed: [u8; 32],
    data: Sha256,
}

impl ChunkSigner {
    /// `seed` is the head's signature, already verified.
    pub(super) fn new(key: HmacSha256, stamp: Stamp, scope: &str, seed: &str) -> Self {
        let context = [&stamp.text[..], b"\n", scope.as_bytes(), b"\n"].concat();
        Self {
            key,
            context: context.into(),
            previous: hex(&unhex(seed).unwrap_or_default()),
            claimed: [0; 32],
            data: Sha256::new(),
        }
    }

    fn begin_chunk(&mut self, claimed: [u8; 32]) {
        self.claimed = claimed;
    }

    fn update(&mut self, data: &[u8]) {
        self.data.update(data);
    }

    fn end_chunk(&mut self) -> Result<(), ChunkFault> {
        let digest: [u8; 32] = self.data.finalize_reset().into();
        let text = [b"AWS4-HMAC-SHA256-PAYLOAD\n", EMPTY_SHA256, b"\n"];
        let [first, empty, end] = text;
        let expected = self
            .chain(first)
            .chain_update(empty)
            .chain_update(end)
            .chain_update(hex(&digest));
        self.accept(expected, self.claimed)
    }

    fn check_trailer(&mut self, lines: &[TrailerLine], claimed: &str) -> Result<(), ChunkFault> {
        let mut digest = Sha256::new();
        for (name, value) in lines {
            digest.update(name.as_bytes());
            digest.update(b":");
            digest.update(value.as_bytes());
            digest.update(b"\n");
        }
        let digest: [u8; 32] = digest.finalize().into();
        let expected = self
            .chain(b"AWS4-HMAC-SHA256-TRAILER\n")
            .chain_update(hex(&digest));
        self.accept(expected, unhex(claimed).ok_or(ChunkFault::Signature)?)
    }

    /// What every string to sign starts with, up to the previous signature and its line end.
    fn chain(&self, first: &[u8]) -> HmacSha256 {
        self.key
            .clone()
            .chain_update(first)
            .chain_update(&self.context)
            .chain_update(self.previous)
            .chain_update(b"\n")
    }

    fn accept(&mut self, expected: HmacSha256, claimed: [u8; 32]) -> Result<(), ChunkFault> {
        let expected: [u8; 32] = expected.finalize().into_bytes().into();
        if !bool::from(expected.ct_eq(&claimed)) {
            return Err(ChunkFault::Signature);
        }
        self.previous = hex(&expected);
        Ok(())
    }
}

impl fmt::Debug for ChunkSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ChunkSigner(..)")
    }
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Within a chunk's header line.
    Header,
    Data {
        chunk_left_bytes: u64,
    },
    /// Before the line end behind a chunk's data.
    DataEnd,
    /// Within the trailer.
    Trailer,
    /// Behind the end.
    Tail {
        blank_bytes: usize,
    },
}

#[derive(Debug, Default)]
struct Trailers {
    lines: Vec<TrailerLine>,
    bytes: usize,
    /// The trailer's signature came (and was right, if there is a key to tell).
    signed: bool,
}

/// The size, and what follows it from the first `;` on.
fn parse_chunk_header(line: &[u8]) -> Result<(u64, &[u8]), ChunkFault> {
    let digits = line
        .iter()
        .take_while(|byte| byte.is_ascii_hexdigit())
        .count();
    let (size, extensions) = line.split_at_checked(digits).unwrap_or((line, &[]));
    if !(1..=SIZE_DIGITS_MAX).contains(&digits) || !matches!(extensions.first(), None | Some(b';'))
    {
        return Err(ChunkFault::Framing(
            "a chunk's size is not a hexadecimal number",
        ));
    }
    let size = std::str::from_utf8(size)
        .ok()
        .and_then(|size| u64::from_str_radix(size, 16).ok());
    Ok((size.ok_or(ChunkFault::TooLong)?, extensions))
}

/// The one signature among a chunk's extensions.
fn chunk_signature(extensions: &[u8]) -> Option<[u8; 32]> {
    let mut signatures = extensions
        .split(|byte| *byte == b';')
        .filter_map(|extension| extension.strip_prefix(b"chunk-signature="));
    let (Some(signature), None) = (signatures.next(), signatures.next()) else {
        return None;
    };
    unhex(std::str::from_utf8(signature).ok()?)
}

const TRAILER_SIGNATURE: &str = "x-amz-trailer-signature";
const EMPTY_SHA256: &[u8] = b"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const CRLF_BYTES: usize = 2;
/// Sixteen digits hold every 64-bit size.
const SIZE_DIGITS_MAX: usize = 16;
/// Line ends that may follow the end of a body.
const TAIL_BYTES_MAX: usize = 8;
