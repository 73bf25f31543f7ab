#![expect(
    clippy::cast_possible_truncation,
    reason = "sizes of tests are small, and bytes of patterns may be any"
)]

use std::sync::Arc;

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::engine::{ETag, Metadata, Part, VersionId};

const KEY: [u8; 32] = [7; 32];

/// An object as it is stored.
#[derive(Clone)]
struct Stored {
    entry: Entry,
    seal: Seal,
    bytes: Vec<u8>,
}

/// Bytes that differ from block to block.
fn plain(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251 + at / 1000) as u8).collect()
}

/// Seals an object of one PUT (one size) or of several parts.
fn store(sizes: &[usize]) -> Stored {
    let (key, entropy) = (Key::new(KEY), Entropy::system());
    let mut seal = key.seal(&entropy);
    let all = plain(sizes.iter().sum());
    let (mut rest, mut bytes, mut parts) = (all.as_slice(), Vec::new(), Vec::new());
    for (at, size) in sizes.iter().enumerate() {
        let number = if sizes.len() == 1 { 0 } else { at as u32 + 1 };
        let mut sealer = Sealer::new(&key, &seal, number, &entropy);
        let (own, tail) = rest.split_at(*size);
        rest = tail;
        let before = bytes.len();
        for piece in own.chunks(50_001) {
            bytes.extend_from_slice(&sealer.push(piece));
        }
        bytes.extend_from_slice(&sealer.finish());
        assert_eq!(bytes.len() - before, sealed_size(*size as u64) as usize);
        parts.push(Part {
            number,
            size_bytes: sealed_size(*size as u64),
            etag: ETag::new(""),
            modified: Default::default(),
            checksum: None,
        });
    }
    if sizes.len() == 1 {
        parts.clear();
    }
    seal.plain_bytes = all.len() as u64;
    let entry = Entry {
        size_bytes: bytes.len() as u64,
        etag: ETag::new(""),
        modified: Default::default(),
        checksum: None,
        metadata: Metadata::default(),
        parts: Arc::from(parts),
        version: VersionId::Null,
        seal: Some(Box::new(seal)),
    };
    Stored { entry, seal, bytes }
}

impl Stored {
    fn read_with(&self, key: [u8; 32], start: usize, size: usize) -> Result<Vec<u8>, Damaged> {
        let range = Range {
            start_bytes: start as u64,
            size_bytes: size as u64,
        };
        let mut plan = Plan::new(&self.entry, &self.seal, range, &Key::new(key))?;
        let slice = |range: Range| {
            let (start, size) = (range.start_bytes as usize, range.size_bytes as usize);
            let end = (start + size).min(self.bytes.len());
            &self.bytes[start.min(end)..end]
        };
        if let Some(header) = plan.header {
            plan.opener.begin(slice(header));
        }
        let mut got = Vec::new();
        for piece in slice(plan.sealed).chunks(40_009) {
            plan.opener.push(piece);
            while let Some(piece) = plan.opener.open()? {
                got.extend_from_slice(&piece);
            }
        }
        match plan.opener.is_done() {
            true => Ok(got),
            false => Err(Damaged),
        }
    }

    fn read(&self, start: usize, size: usize) -> Result<Vec<u8>, Damaged> {
        self.read_with(KEY, start, size)
    }

    fn read_all(&self) -> Result<Vec<u8>, Damaged> {
        self.read(0, self.seal.plain_bytes as usize)
    }
}

fn sizes() -> impl Strategy<Value = Vec<usize>> {
    let near = |at: usize| at.saturating_sub(2)..at + 3;
    let size = prop_oneof![
        0_usize..5,
        near(BLOCK_BYTES),
        near(2 * BLOCK_BYTES),
        near(3 * BLOCK_BYTES),
        0..4 * BLOCK_BYTES,
    ];
    prop::collection::vec(size, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_range_of_what_is_sealed_opens_to_the_plain_bytes(
        sizes in sizes(),
        ends in any::<(Index, Index)>(),
    ) {
        let stored = store(&sizes);
        let all = plain(sizes.iter().sum());
        let (one, other) = (ends.0.index(all.len() + 1), ends.1.index(all.len() + 1));
        let (start, end) = (one.min(other), one.max(other));
        prop_assert_eq!(stored.read_all().unwrap(), all.clone());
        // An empty range is read of an empty object only.
        if start < end {
            prop_assert_eq!(stored.read(start, end - start).unwrap(), &all[start..end]);
        }
        prop_assert!(stored.read(start, all.len() + 1 - start).is_err());
        prop_assert_eq!(stored.read_with([8; 32], 0, all.len()), Err(Damaged));
    }

    #[test]
    fn p5_no_changed_bit_of_sealed_bytes_opens(
        sizes in sizes(),
        at in any::<Index>(),
        bit in 0..8,
    ) {
        let mut stored = store(&sizes);
        let at = at.index(stored.bytes.len());
        stored.bytes[at] ^= 1_u8 << bit;
        prop_assert_eq!(stored.read_all(), Err(Damaged));
    }

    #[test]
    fn sealed_sizes_lead_back(size in 0_u64..1 << 43) {
        prop_assert_eq!(plain_size(sealed_size(size)), Some(size));
        let between = plain_size(sealed_size(size) + 1);
        prop_assert!(between.is_none_or(|plain| plain == size + 1));
    }
}

#[test]
fn a_range_takes_only_the_blocks_that_it_touches() {
    let stored = store(&[4 * BLOCK_BYTES]);
    let range = Range {
        start_bytes: 2 * BLOCK + 5,
        size_bytes: 10,
    };
    let plan = Plan::new(&stored.entry, &stored.seal, range, &Key::new(KEY)).unwrap();
    assert_eq!(plan.sealed.size_bytes, SEALED_BLOCK);
    assert_eq!(plan.header.map(|range| range.size_bytes), Some(HEADER));
}

/// Whoever can write to the disk may also write the sizes.
#[test]
fn a_stream_that_was_cut_between_blocks_does_not_open() {
    let whole = store(&[3 * BLOCK_BYTES]);
    for blocks in 1..3 {
        let mut cut = whole.clone();
        cut.seal.plain_bytes = blocks * BLOCK;
        cut.entry.size_bytes = sealed_size(blocks * BLOCK);
        cut.bytes.truncate(cut.entry.size_bytes as usize);
        assert_eq!(cut.read_all(), Err(Damaged));
    }
    let mut short = whole.clone();
    short.bytes.truncate(short.bytes.len() - 1);
    assert_eq!(short.read_all(), Err(Damaged));
    // Sizes that no stream has.
    let mut odd = whole;
    odd.entry.size_bytes -= 1;
    assert_eq!(odd.read_all(), Err(Damaged));
}

#[test]
fn blocks_and_parts_open_in_their_own_place_only() {
    let sealed = SEALED_BLOCK as usize;
    let mut blocks = store(&[3 * BLOCK_BYTES]);
    let (first, second) = blocks.bytes[HEADER_BYTES..].split_at_mut(sealed);
    first.swap_with_slice(&mut second[..sealed]);
    assert_eq!(blocks.read_all(), Err(Damaged));
    assert_eq!(blocks.read(BLOCK_BYTES, 1), Err(Damaged));
    // The last block is as it was.
    assert!(blocks.read(2 * BLOCK_BYTES, 9).is_ok());

    let size = sealed_size(BLOCK) as usize;
    let mut parts = store(&[BLOCK_BYTES, BLOCK_BYTES]);
    let (first, second) = parts.bytes.split_at_mut(size);
    first.swap_with_slice(second);
    assert_eq!(parts.read_all(), Err(Damaged));

    // The same part of another object with the same key.
    let (mut one, other) = (store(&[100, 100]), store(&[100, 100]));
    let size = sealed_size(100) as usize;
    one.bytes[..size].copy_from_slice(&other.bytes[..size]);
    assert_eq!(one.read_all(), Err(Damaged));
}

#[test]
fn nothing_is_sealed_twice_alike() {
    let (one, other) = (store(&[100]), store(&[100]));
    assert_ne!(one.seal, other.seal);
    assert_ne!(one.bytes, other.bytes);
    let key = Key::new(KEY);
    assert!(key.is_of(&one.seal) && !Key::new([8; 32]).is_of(&one.seal));
    // The same part again, in the same upload.
    let entropy = Entropy::system();
    let again = |_| {
        let mut sealer = Sealer::new(&key, &one.seal, 1, &entropy);
        sealer.push(b"plain");
        sealer.finish()
    };
    assert_ne!(again(0), again(1));
}

/// The bytes on disk: a change of the form must not pass unseen.
#[test]
fn p17_the_form_of_sealed_bytes_is_stable() {
    let seal = Seal {
        plain_bytes: 5,
        salt: [1; 16],
        key_check: Key::new(KEY).check_of(&[1; 16]),
    };
    let entropy = Entropy::from_fn(|bytes| bytes.fill(2));
    let mut sealer = Sealer::new(&Key::new(KEY), &seal, 3, &entropy);
    assert!(sealer.push(b"plain").is_empty());
    let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
    assert_eq!(hex(&seal.key_check), "695edc19e75c23d46cc43f1ac07198ff");
    assert_eq!(
        hex(&sealer.finish()),
        "02020202020202020202020202020202eb12bf6ef054d6d59678bacf601c849438b72bfff5"
    );
}
