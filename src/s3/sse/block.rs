//! Sealed bytes: AES-256-GCM in blocks, so that a range opens only the blocks that it touches.
//! Functions of bytes; nothing here waits, and no key is kept.
//!
//! # Form
//! What one PutObject or UploadPart brings is one stream: a header of 16 random bytes, then blocks.
//! A block is the ciphertext of [`BLOCK_BYTES`] plain bytes, the last one's of the rest, and a tag
//! of 16 bytes. There is always a last block: that of an empty stream is a tag alone.
//!
//! - Key of a stream: HMAC-SHA-256 with the client's key over [`STREAM`], the seal's salt, the
//!   number of the part (4 bytes, big-endian; 0: the object came in one PUT) and the header.
//! - Nonce of a block: its number in the stream (11 bytes, big-endian), and 1 if it is the last
//!   one, else 0.
//! - The seal's check of the key: the first 16 bytes of HMAC-SHA-256 with it over [`CHECK`] and
//!   the salt.
//!
//! So a block opens with the right key only, at its own place, in its own part of its own object,
//! and a stream that was cut short ends in a block that does not say that it is the last. This is
//! the STREAM construction (Hoang, Reyhanitabar, Rogaway, Vizár 2015) that age uses for files.

use std::collections::VecDeque;
use std::fmt;

use bytes::{Buf as _, Bytes, BytesMut};
use hmac::{Hmac, KeyInit as _, Mac as _};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

use crate::clock::Entropy;
use crate::engine::{Entry, Range, Seal};

/// A client's key.
#[derive(Clone)]
pub(in crate::s3) struct Key(Zeroizing<[u8; 32]>);

impl Key {
    pub(super) fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// A seal for something new.
    pub(super) fn seal(&self, entropy: &Entropy) -> Seal {
        let salt = entropy.bytes();
        Seal {
            plain_bytes: 0,
            salt,
            key_check: self.check_of(&salt),
        }
    }

    pub(super) fn is_of(&self, seal: &Seal) -> bool {
        self.check_of(&seal.salt).ct_eq(&seal.key_check).into()
    }

    fn check_of(&self, salt: &[u8; 16]) -> [u8; 16] {
        self.short(&[CHECK, salt])
    }

    /// Stands for bytes with this digest under this seal, to who does not have the key as random.
    pub(super) fn tag(&self, seal: &Seal, digest: &[u8]) -> [u8; 16] {
        self.short(&[TAGGED, &seal.salt, digest])
    }

    fn short(&self, pieces: &[&[u8]]) -> [u8; 16] {
        let digest = self.digest(pieces);
        let (half, _) = digest.split_first_chunk().unwrap_or((&[0; 16], &[]));
        *half
    }

    fn of_stream(&self, salt: &[u8; 16], number: u32, header: &[u8]) -> LessSafeKey {
        let key = self.digest(&[STREAM, salt, &number.to_be_bytes(), header]);
        #[expect(clippy::expect_used, reason = "a digest is as long as the key")]
        let key = UnboundKey::new(&AES_256_GCM, &*key).expect("the key has 32 bytes");
        LessSafeKey::new(key)
    }

    fn digest(&self, pieces: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of any length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&*self.0).expect("the key has 32 bytes");
        pieces.iter().for_each(|piece| mac.update(piece));
        Zeroizing::new(mac.finalize().into_bytes().into())
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key")
    }
}

/// Sealed bytes that are not what was sealed, or not with this key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

/// Seals one stream.
pub(super) struct Sealer {
    key: LessSafeKey,
    /// Until it is given out.
    header: Option<[u8; HEADER_BYTES]>,
    block: u64,
    /// At most one block.
    pending: BytesMut,
}

impl Sealer {
    /// `number`: of the part, 0 for an object of one PUT.
    pub(super) fn new(key: &Key, seal: &Seal, number: u32, entropy: &Entropy) -> Self {
        let header = entropy.bytes();
        Self {
            key: key.of_stream(&seal.salt, number, &header),
            header: Some(header),
            block: 0,
            pending: BytesMut::new(),
        }
    }

    /// The next plain bytes; what of them, and of earlier ones, can be sealed now.
    pub(super) fn push(&mut self, mut plain: &[u8]) -> Bytes {
        let mut out = BytesMut::new();
        // A full block waits for the byte behind it: if there is none it is the last.
        while self.pending.len() + plain.len() > BLOCK_BYTES {
            let (fill, rest) = plain.split_at(BLOCK_BYTES - self.pending.len());
            self.pending.extend_from_slice(fill);
            plain = rest;
            self.seal_pending(&mut out, false);
        }
        self.pending.extend_from_slice(plain);
        out.freeze()
    }

    /// There are no more: the rest of the stream.
    pub(super) fn finish(mut self) -> Bytes {
        let mut out = BytesMut::new();
        self.seal_pending(&mut out, true);
        out.freeze()
    }

    fn seal_pending(&mut self, out: &mut BytesMut, is_last: bool) {
        let header = self.header.take();
        out.reserve(HEADER_BYTES + self.pending.len() + TAG_BYTES);
        out.extend_from_slice(header.as_ref().map_or(&[], |header| header.as_slice()));
        let nonce = nonce(self.block, is_last);
        let sealed = self
            .key
            .seal_in_place_separate_tag(nonce, Aad::empty(), &mut self.pending);
        #[expect(clippy::expect_used, reason = "a block is far shorter than GCM allows")]
        let tag = sealed.expect("a block can be sealed");
        out.extend_from_slice(&self.pending);
        out.extend_from_slice(tag.as_ref());
        self.pending.clear();
        self.block += 1;
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer")
            .field("block", &self.block)
            .finish_non_exhaustive()
    }
}

/// Which sealed bytes a range of plain ones takes.
#[derive(Debug)]
pub(super) struct Plan {
    pub(super) opener: Opener,
    /// To be pushed, in order.
    pub(super) sealed: Range,
    /// The header of the first stream lies apart, and is to be given to [`Opener::begin`] first.
    pub(super) header: Option<Range>,
}

impl Plan {
    /// For `range` of the plain bytes of an entry that is stored so and has this seal.
    pub(super) fn new(
        entry: &Entry,
        seal: &Seal,
        range: Range,
        key: &Key,
    ) -> Result<Self, Damaged> {
        let Range {
            start_bytes,
            size_bytes,
        } = range;
        let end_bytes = start_bytes.saturating_add(size_bytes);
        let (mut plain_at, mut sealed_at) = (0_u64, 0_u64);
        let (mut streams, mut begin, mut stop, mut blocks) = (VecDeque::new(), None, 0, 0);
        for (number, sealed_bytes) in streams_of(entry) {
            let stream = Stream::new(number, sealed_bytes)?;
            let plain_end = plain_at.checked_add(stream.plain_bytes).ok_or(Damaged)?;
            let touches = start_bytes < plain_end && plain_at < end_bytes;
            // Of an empty object its one block is opened, too.
            if touches || seal.plain_bytes == 0 && begin.is_none() {
                let from = start_bytes.saturating_sub(plain_at);
                let to = end_bytes.min(plain_end) - plain_at;
                let (first, last) = (from / BLOCK, to.saturating_sub(1) / BLOCK);
                begin.get_or_insert((sealed_at, first, from % BLOCK));
                stop = sealed_at + stream.end_of(last).min(sealed_bytes);
                blocks += last - first + 1;
                streams.push_back(stream);
            }
            plain_at = plain_end;
            sealed_at = sealed_at.checked_add(sealed_bytes).ok_or(Damaged)?;
        }
        let (stream_at, block, skip_bytes) = begin.ok_or(Damaged)?;
        let is_whole = (plain_at, sealed_at) == (seal.plain_bytes, entry.size_bytes);
        if !is_whole || end_bytes > plain_at {
            return Err(Damaged);
        }
        let apart = block > 0;
        let start = match apart {
            true => stream_at + HEADER + block * SEALED_BLOCK,
            false => stream_at,
        };
        Ok(Self {
            opener: Opener {
                key: key.clone(),
                salt: seal.salt,
                streams,
                stream_key: None,
                block,
                blocks_left: blocks,
                skip_bytes,
                left_bytes: size_bytes,
                pending: BytesMut::new(),
            },
            sealed: Range {
                start_bytes: start,
                size_bytes: stop - start,
            },
            header: apart.then_some(Range {
                start_bytes: stream_at,
                size_bytes: HEADER,
            }),
        })
    }
}

/// Opens blocks of the streams of one entry, one after the other.
pub(super) struct Opener {
    key: Key,
    salt: [u8; 16],
    /// That of the next block first.
    streams: VecDeque<Stream>,
    /// `None`: the header is to come.
    stream_key: Option<LessSafeKey>,
    block: u64,
    blocks_left: u64,
    /// Plain bytes of the first block that nobody wants.
    skip_bytes: u64,
    left_bytes: u64,
    pending: BytesMut,
}

impl Opener {
    /// The header of the first stream.
    pub(super) fn begin(&mut self, header: &[u8]) {
        let number = self.streams.front().map_or(0, |stream| stream.number);
        self.stream_key = Some(self.key.of_stream(&self.salt, number, header));
    }

    pub(super) fn push(&mut self, sealed: &[u8]) {
        self.pending.extend_from_slice(sealed);
    }

    /// All that was wanted has been opened.
    pub(super) fn is_done(&self) -> bool {
        self.blocks_left == 0
    }

    /// The next plain bytes; `None` until more is pushed.
    pub(super) fn open(&mut self) -> Result<Option<Bytes>, Damaged> {
        while self.blocks_left > 0 {
            if self.stream_key.is_none() {
                if self.pending.len() < HEADER_BYTES {
                    return Ok(None);
                }
                let header = self.pending.split_to(HEADER_BYTES);
                self.begin(&header);
            }
            let (Some(stream), Some(key)) = (self.streams.front(), &self.stream_key) else {
                return Err(Damaged);
            };
            let (plain_bytes, is_last) = stream.block(self.block);
            if self.pending.len() < plain_bytes + TAG_BYTES {
                return Ok(None);
            }
            let mut block = self.pending.split_to(plain_bytes + TAG_BYTES);
            key.open_in_place(nonce(self.block, is_last), Aad::empty(), &mut block)
                .map_err(|_| Damaged)?;
            block.truncate(plain_bytes);
            self.block += 1;
            self.blocks_left -= 1;
            if is_last {
                self.streams.pop_front();
                (self.stream_key, self.block) = (None, 0);
            }
            let plain = self.cut(block.freeze());
            if !plain.is_empty() {
                return Ok(Some(plain));
            }
        }
        Ok(None)
    }

    /// What of a block is wanted.
    fn cut(&mut self, mut plain: Bytes) -> Bytes {
        let skip = usize::try_from(self.skip_bytes).unwrap_or(usize::MAX);
        plain.advance(skip.min(plain.len()));
        self.skip_bytes = 0;
        plain.truncate(usize::try_from(self.left_bytes).unwrap_or(usize::MAX));
        self.left_bytes -= plain.len() as u64;
        plain
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opener")
            .field("blocks_left", &self.blocks_left)
            .field("left_bytes", &self.left_bytes)
            .finish_non_exhaustive()
    }
}

#[derive(Clone, Copy, Debug)]
struct Stream {
    number: u32,
    plain_bytes: u64,
}

impl Stream {
    fn new(number: u32, sealed_bytes: u64) -> Result<Self, Damaged> {
        let plain_bytes = plain_size(sealed_bytes).ok_or(Damaged)?;
        Ok(Self {
            number,
            plain_bytes,
        })
    }

    /// Plain bytes of a block, and whether it is the last one.
    fn block(&self, at: u64) -> (usize, bool) {
        let left = self.plain_bytes.saturating_sub(at.saturating_mul(BLOCK));
        let bytes = usize::try_from(left).map_or(BLOCK_BYTES, |left| left.min(BLOCK_BYTES));
        (bytes, left <= BLOCK)
    }

    /// Where a block that is not the last one ends among the sealed bytes.
    fn end_of(&self, block: u64) -> u64 {
        HEADER + (block + 1) * SEALED_BLOCK
    }
}

/// The streams that an entry's bytes are: number and sealed size.
fn streams_of(entry: &Entry) -> impl Iterator<Item = (u32, u64)> {
    let whole = entry.parts.is_empty().then_some((0, entry.size_bytes));
    let parts = entry
        .parts
        .iter()
        .map(|part| (part.number, part.size_bytes));
    whole.into_iter().chain(parts)
}

/// The size that a stream of `plain_bytes` has when it is sealed.
pub(in crate::s3) fn sealed_size(plain_bytes: u64) -> u64 {
    let tags = plain_bytes.div_ceil(BLOCK).max(1) * TAG;
    HEADER.saturating_add(tags).saturating_add(plain_bytes)
}

/// The other way round; `None`: no stream is sealed to that size.
pub(in crate::s3) fn plain_size(sealed_bytes: u64) -> Option<u64> {
    let body = sealed_bytes.checked_sub(HEADER)?;
    let plain = body.checked_sub(body.div_ceil(SEALED_BLOCK).max(1) * TAG)?;
    (sealed_size(plain) == sealed_bytes).then_some(plain)
}

fn nonce(block: u64, is_last: bool) -> Nonce {
    let mut bytes = [0; 12];
    let number = [
        [0; 3].as_slice(),
        &block.to_be_bytes(),
        &[u8::from(is_last)],
    ];
    for (target, byte) in bytes.iter_mut().zip(number.concat()) {
        *target = byte;
    }
    Nonce::assume_unique_for_key(bytes)
}

const STREAM: &[u8] = b"lobos sealed stream 1";
const TAGGED: &[u8] = b"lobos sealed etag 1";
const CHECK: &[u8] = b"lobos sealed key check 1";
pub(super) const BLOCK_BYTES: usize = 64 << 10;
const HEADER_BYTES: usize = 16;
const TAG_BYTES: usize = 16;
const BLOCK: u64 = BLOCK_BYTES as u64;
const HEADER: u64 = HEADER_BYTES as u64;
const TAG: u64 = TAG_BYTES as u64;
const SEALED_BLOCK: u64 = BLOCK + TAG;

#[cfg(test)]
mod tests;
