//! Entries as the journal, the checkpoint and the index hold them.

use super::codec::{Cursor, put_bytes, put_u32, put_varint};
use super::layout::{BLOCK_BYTES, CHUNK_BYTES, Extent, put_extents, take_extents};
use crate::clock::Timestamp;
use crate::engine::types::hex;
use crate::engine::{
    Checksum, ChecksumAlgorithm, ChecksumKind, ETag, Lock, Retention, RetentionMode, Seal,
    VersionId,
};

/// An object, an upload or a part. See `docs/design-blob.md`, section 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) size_bytes: u64,
    pub(super) etag: ETag,
    pub(super) modified: Timestamp,
    pub(super) checksum: Option<Checksum>,
    /// Set only where it is all the metadata there is.
    pub(super) content_type: Option<Box<str>>,
    pub(super) pieces: Vec<Piece>,
    pub(super) overflow: Option<Pointer>,
    pub(super) upload: Option<UploadName>,
    /// Of an upload.
    pub(super) plan: Option<Box<[u8]>>,
    pub(super) version: Version,
    pub(super) is_marker: bool,
    pub(super) lock: Lock,
    pub(super) seal: Option<Box<Seal>>,
    /// Fields of a later version of the format, kept as they are.
    pub(super) others: Vec<(u8, Box<[u8]>)>,
}

/// Which of a key's versions an entry is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Version {
    /// Higher is newer; no two versions of a key have the same.
    pub(super) sequence: u64,
    /// `None`: the null version.
    pub(super) salt: Option<Salt>,
}

/// Random bytes that make an id unique.
pub(super) type Salt = [u8; 8];

impl Version {
    pub(super) fn id(&self) -> VersionId {
        match &self.salt {
            None => VersionId::Null,
            Some(salt) => {
                let id = [self.sequence.to_be_bytes(), *salt].concat();
                VersionId::Named(hex(&id).into())
            }
        }
    }

    /// The version that has this id; `None`: the null version, or an id that none has.
    pub(super) fn named(id: &VersionId) -> Option<Self> {
        let VersionId::Named(text) = id else {
            return None;
        };
        let raw = unhex(text)?;
        let (sequence, salt) = raw.split_at(8);
        let version = Self {
            sequence: u64::from_be_bytes(sequence.try_into().ok()?),
            salt: Some(salt.try_into().ok()?),
        };
        (version.id() == *id).then_some(version)
    }
}

/// The number of an upload and 16 random bytes.
pub(super) type UploadName = [u8; 24];

/// Bytes that one writer wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) size_bytes: u64,
    pub(super) place: Place,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The piece is empty.
    Nothing,
    /// In a shared page.
    Page {
        block: u64,
        offset: usize,
        crc: u32,
    },
    Extents {
        extents: Vec<Extent>,
        crcs: Crcs,
    },
}

/// One CRC-32C for each 64 KiB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Crcs {
    Inline(Vec<u32>),
    Table(Pointer),
}

/// Bytes beside the data: where, how many, and their checksum.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pointer {
    pub(super) bytes: u64,
    pub(super) crc: u32,
    pub(super) extents: Vec<Extent>,
}

impl Stored {
    pub(super) fn new(size_bytes: u64, etag: ETag, modified: Timestamp) -> Self {
        Self {
            size_bytes,
            etag,
            modified,
            checksum: None,
            content_type: None,
            pieces: Vec::new(),
            overflow: None,
            upload: None,
            plan: None,
            version: Version::default(),
            is_marker: false,
            lock: Lock::default(),
            seal: None,
            others: Vec::new(),
        }
    }

    pub(super) fn encode(&self) -> Box<[u8]> {
        let mut out = Vec::with_capacity(128);
        let mut field = Vec::with_capacity(64);
        put_varint(&mut field, self.size_bytes);
        put_field(&mut out, SIZE, &mut field);
        if !self.etag.as_str().is_empty() {
            put_etag(&mut field, &self.etag);
            put_field(&mut out, ETAG, &mut field);
        }
        field.extend_from_slice(&self.modified.unix_nanos.to_le_bytes());
        put_field(&mut out, MODIFIED, &mut field);
        if let Some(checksum) = &self.checksum {
            field.push(algorithm_number(checksum.algorithm));
            field.push(u8::from(checksum.kind == ChecksumKind::Composite));
            field.extend_from_slice(&checksum.digest);
            put_field(&mut out, CHECKSUM, &mut field);
        }
        if let Some(content_type) = &self.content_type {
            field.extend_from_slice(content_type.as_bytes());
            put_field(&mut out, CONTENT_TYPE, &mut field);
        }
        for piece in &self.pieces {
            piece.encode(&mut field);
            put_field(&mut out, PIECE, &mut field);
        }
        if let Some(pointer) = &self.overflow {
            pointer.encode(&mut field);
            put_field(&mut out, OVERFLOW, &mut field);
        }
        if let Some(upload) = &self.upload {
            field.extend_from_slice(upload);
            put_field(&mut out, UPLOAD, &mut field);
        }
        if let Some(plan) = &self.plan {
            field.extend_from_slice(plan);
            put_field(&mut out, PLAN, &mut field);
        }
        if self.version != Version::default() {
            put_varint(&mut field, self.version.sequence);
            field.extend_from_slice(self.version.salt.as_ref().map_or(&[], |salt| &salt[..]));
            put_field(&mut out, VERSION, &mut field);
        }
        if self.is_marker {
            put_field(&mut out, MARKER, &mut field);
        }
        if let Some(retention) = &self.lock.retention {
            field.push(u8::from(retention.mode == RetentionMode::Compliance));
            field.extend_from_slice(&retention.until.unix_nanos.to_le_bytes());
            put_field(&mut out, RETENTION, &mut field);
        }
        if let Some(is_on) = self.lock.legal_hold {
            field.push(u8::from(is_on));
            put_field(&mut out, LEGAL_HOLD, &mut field);
        }
        // The tags go up: those that a server must know come last.
        for (tag, bytes) in &self.others {
            field.extend_from_slice(bytes);
            put_field(&mut out, *tag, &mut field);
        }
        if let Some(seal) = &self.seal {
            put_varint(&mut field, seal.plain_bytes);
            field.extend_from_slice(&seal.salt);
            field.extend_from_slice(&seal.key_check);
            put_field(&mut out, SEAL, &mut field);
        }
        out.into()
    }

    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let mut from = Cursor::new(bytes);
        let mut stored = Self::new(0, ETag::new(""), Timestamp::default());
        let mut last = 0;
        while !from.is_empty() {
            let tag = from.u8()?;
            let field = from.bytes()?;
            if tag < last || tag >= MUST_KNOW && tag != SEAL {
                return None;
            }
            last = tag;
            let mut inner = Cursor::new(field);
            match tag {
                SIZE => stored.size_bytes = inner.varint()?,
                ETAG => stored.etag = take_etag(field)?,
                MODIFIED => {
                    let nanos = i64::from_le_bytes(inner.array()?);
                    stored.modified = Timestamp::from_unix_nanos(nanos);
                }
                CHECKSUM => stored.checksum = Some(take_checksum(field)?),
                CONTENT_TYPE => {
                    stored.content_type = Some(std::str::from_utf8(field).ok()?.into());
                }
                PIECE => stored.pieces.push(Piece::decode(&mut inner)?),
                OVERFLOW => stored.overflow = Some(Pointer::decode(&mut inner)?),
                UPLOAD => stored.upload = Some(inner.array()?),
                PLAN => stored.plan = Some(field.into()),
                VERSION => stored.version = take_version(&mut inner)?,
                MARKER => stored.is_marker = true,
                RETENTION => stored.lock.retention = Some(take_retention(&mut inner)?),
                LEGAL_HOLD => stored.lock.legal_hold = Some(take_hold(&mut inner)?),
                SEAL => {
                    stored.seal = Some(Box::new(Seal {
                        plain_bytes: inner.varint()?,
                        salt: inner.array()?,
                        key_check: inner.array()?,
                    }));
                }
                other => stored.others.push((other, field.into())),
            }
        }
        let pieces = stored.pieces.iter().map(|piece| piece.size_bytes);
        let sum = pieces.fold(0_u64, u64::saturating_add);
        (sum == stored.size_bytes && last >= MODIFIED).then_some(stored)
    }

    /// All extents that this entry holds: each allocation by itself.
    pub(super) fn allocations(&self) -> Vec<Allocation> {
        let mut all: Vec<Allocation> = self.pieces.iter().flat_map(Piece::allocations).collect();
        if let Some(overflow) = &self.overflow {
            all.push(overflow.extents.clone());
        }
        all
    }
}

/// Extents that are taken and freed together; the first block of the first is their name.
pub(super) type Allocation = Vec<Extent>;

impl Piece {
    pub(super) fn allocations(&self) -> Vec<Allocation> {
        match &self.place {
            Place::Nothing => Vec::new(),
            Place::Page { block, .. } => vec![vec![Extent {
                first: *block,
                count: 1,
            }]],
            Place::Extents { extents, crcs } => match crcs {
                Crcs::Inline(_) => vec![extents.clone()],
                Crcs::Table(table) => vec![extents.clone(), table.extents.clone()],
            },
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.size_bytes);
        match &self.place {
            Place::Nothing => out.push(0),
            Place::Page { block, offset, crc } => {
                out.push(1);
                put_varint(out, *block);
                put_varint(out, *offset as u64);
                put_u32(out, *crc);
            }
            Place::Extents { extents, crcs } => {
                out.push(match crcs {
                    Crcs::Inline(_) => 2,
                    Crcs::Table(_) => 3,
                });
                put_extents(out, extents);
                match crcs {
                    Crcs::Inline(crcs) => crcs.iter().for_each(|crc| put_u32(out, *crc)),
                    Crcs::Table(pointer) => pointer.encode(out),
                }
            }
        }
    }

    fn decode(from: &mut Cursor<'_>) -> Option<Self> {
        let size_bytes = from.varint()?;
        let place = match from.u8()? {
            0 if size_bytes == 0 => Place::Nothing,
            1 => {
                let block = from.varint()?;
                let offset = usize::try_from(from.varint()?).ok()?;
                let end = offset.checked_add(usize::try_from(size_bytes).ok()?)?;
                if end > BLOCK_BYTES {
                    return None;
                }
                let crc = from.u32()?;
                Place::Page { block, offset, crc }
            }
            kind @ (2 | 3) => {
                let extents = take_extents(from)?;
                let room = extents.iter().try_fold(0_u64, |sum, extent| {
                    sum.checked_add(extent.count.checked_mul(BLOCK_BYTES as u64)?)
                })?;
                if extents.is_empty() || room < size_bytes {
                    return None;
                }
                let crcs = if kind == 2 {
                    let count = size_bytes.div_ceil(CHUNK_BYTES);
                    if count > INLINE_CRCS_MAX as u64 {
                        return None;
                    }
                    Crcs::Inline((0..count).map(|_| from.u32()).collect::<Option<_>>()?)
                } else {
                    Crcs::Table(Pointer::decode(from)?)
                };
                Place::Extents { extents, crcs }
            }
            _ => return None,
        };
        Some(Self { size_bytes, place })
    }
}

impl Pointer {
    fn encode(&self, out: &mut Vec<u8>) {
        put_varint(out, self.bytes);
        put_u32(out, self.crc);
        put_extents(out, &self.extents);
    }

    fn decode(from: &mut Cursor<'_>) -> Option<Self> {
        let pointer = Self {
            bytes: from.varint()?,
            crc: from.u32()?,
            extents: take_extents(from)?,
        };
        let room: u64 = pointer
            .extents
            .iter()
            .map(|extent| extent.count)
            .fold(0, u64::saturating_add);
        (room == pointer.bytes.div_ceil(BLOCK_BYTES as u64) && room > 0).then_some(pointer)
    }
}

fn put_field(out: &mut Vec<u8>, tag: u8, field: &mut Vec<u8>) {
    out.push(tag);
    put_bytes(out, field);
    field.clear();
}

fn put_etag(out: &mut Vec<u8>, etag: &ETag) {
    let text = etag.as_str();
    let (digest, count) = match text.split_once('-') {
        Some((digest, count)) => (digest, count.parse::<u64>().ok()),
        None => (text, None),
    };
    let raw = unhex(digest).filter(|raw| {
        let mut again = hex(raw);
        if let Some(count) = count {
            again.push_str(&format!("-{count}"));
        }
        again == text
    });
    match raw {
        Some(raw) => {
            out.extend_from_slice(&raw);
            if let Some(count) = count {
                put_varint(out, count);
            }
        }
        None => {
            out.push(TEXT_ETAG);
            // Told from the 16 bytes of a digest by never being that short or that long.
            out.extend_from_slice(&[TEXT_ETAG; 32]);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

fn take_etag(field: &[u8]) -> Option<ETag> {
    if let Some(text) = field.strip_prefix(&[TEXT_ETAG; 33]) {
        return Some(ETag::new(std::str::from_utf8(text).ok()?));
    }
    let mut from = Cursor::new(field);
    let digest: [u8; 16] = from.array()?;
    if from.is_empty() {
        return Some(ETag::from_md5(digest));
    }
    let count = from.varint()?;
    from.is_empty()
        .then(|| ETag::new(format!("{}-{count}", hex(&digest))))
}

fn take_version(from: &mut Cursor<'_>) -> Option<Version> {
    Some(Version {
        sequence: from.varint()?,
        salt: match from.is_empty() {
            true => None,
            false => Some(from.rest().try_into().ok()?),
        },
    })
}

fn take_retention(from: &mut Cursor<'_>) -> Option<Retention> {
    let mode = match from.u8()? {
        0 => RetentionMode::Governance,
        1 => RetentionMode::Compliance,
        _ => return None,
    };
    let until = Timestamp::from_unix_nanos(i64::from_le_bytes(from.array()?));
    Some(Retention { mode, until })
}

fn take_hold(from: &mut Cursor<'_>) -> Option<bool> {
    match from.u8()? {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}

/// 16 bytes from 32 hexadecimal digits.
fn unhex(text: &str) -> Option<[u8; 16]> {
    if text.len() != 32 || !text.is_ascii() {
        return None;
    }
    u128::from_str_radix(text, 16).ok().map(u128::to_be_bytes)
}

fn algorithm_number(algorithm: ChecksumAlgorithm) -> u8 {
    match algorithm {
        ChecksumAlgorithm::Crc32 => 1,
        ChecksumAlgorithm::Crc32c => 2,
        ChecksumAlgorithm::Crc64nvme => 3,
        ChecksumAlgorithm::Sha1 => 4,
        ChecksumAlgorithm::Sha256 => 5,
        ChecksumAlgorithm::Sha512 => 6,
        ChecksumAlgorithm::Md5 => 7,
        ChecksumAlgorithm::Xxhash64 => 8,
        ChecksumAlgorithm::Xxhash3 => 9,
        ChecksumAlgorithm::Xxhash128 => 10,
    }
}

fn take_checksum(field: &[u8]) -> Option<Checksum> {
    let mut from = Cursor::new(field);
    Some(Checksum {
        algorithm: match from.u8()? {
            1 => ChecksumAlgorithm::Crc32,
            2 => ChecksumAlgorithm::Crc32c,
            3 => ChecksumAlgorithm::Crc64nvme,
            4 => ChecksumAlgorithm::Sha1,
            5 => ChecksumAlgorithm::Sha256,
            6 => ChecksumAlgorithm::Sha512,
            7 => ChecksumAlgorithm::Md5,
            8 => ChecksumAlgorithm::Xxhash64,
            9 => ChecksumAlgorithm::Xxhash3,
            10 => ChecksumAlgorithm::Xxhash128,
            _ => return None,
        },
        kind: match from.u8()? {
            0 => ChecksumKind::FullObject,
            1 => ChecksumKind::Composite,
            _ => return None,
        },
        digest: from.rest().into(),
    })
}

/// CRCs that an entry carries itself: those of 1 MiB.
pub(super) const INLINE_CRCS_MAX: usize = 16;
const SIZE: u8 = 1;
const ETAG: u8 = 2;
const MODIFIED: u8 = 3;
const CHECKSUM: u8 = 4;
const CONTENT_TYPE: u8 = 5;
const PIECE: u8 = 6;
const OVERFLOW: u8 = 7;
const UPLOAD: u8 = 8;
const PLAN: u8 = 9;
const VERSION: u8 = 10;
const MARKER: u8 = 11;
const RETENTION: u8 = 12;
const LEGAL_HOLD: u8 = 13;
const MUST_KNOW: u8 = 128;
/// A server that does not know it would hand out sealed bytes for the object's.
const SEAL: u8 = 129;
const TEXT_ETAG: u8 = 0xff;

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Stored {
        let pointer = Pointer {
            bytes: 5000,
            crc: 77,
            extents: vec![Extent { first: 9, count: 2 }],
        };
        Stored {
            checksum: Some(Checksum {
                algorithm: ChecksumAlgorithm::Crc64nvme,
                kind: ChecksumKind::FullObject,
                digest: [3; 8].into(),
            }),
            content_type: Some("text/plain".into()),
            pieces: vec![
                Piece {
                    size_bytes: 0,
                    place: Place::Nothing,
                },
                Piece {
                    size_bytes: 100,
                    place: Place::Page {
                        block: 7,
                        offset: 1000,
                        crc: 5,
                    },
                },
                Piece {
                    size_bytes: 70_000,
                    place: Place::Extents {
                        extents: vec![Extent {
                            first: 500,
                            count: 18,
                        }],
                        crcs: Crcs::Inline(vec![1, 2]),
                    },
                },
                Piece {
                    size_bytes: 1000,
                    place: Place::Extents {
                        extents: vec![Extent { first: 1, count: 1 }],
                        crcs: Crcs::Table(pointer.clone()),
                    },
                },
            ],
            overflow: Some(pointer),
            upload: Some([8; 24]),
            plan: Some(b"{}"[..].into()),
            version: Version {
                sequence: 300,
                salt: Some([9; 8]),
            },
            is_marker: true,
            lock: Lock {
                retention: Some(Retention {
                    mode: RetentionMode::Compliance,
                    until: Timestamp::from_unix_nanos(-7),
                }),
                legal_hold: Some(false),
            },
            others: vec![(100, [1, 2].into())],
            seal: Some(Box::new(Seal {
                plain_bytes: 71_000,
                salt: [5; 16],
                key_check: [6; 16],
            })),
            ..Stored::new(
                71_100,
                ETag::new("0123456789abcdef0123456789abcdef-12"),
                Timestamp::from_unix_nanos(-5),
            )
        }
    }

    #[test]
    fn an_entry_comes_back() {
        for etag in [
            "0123456789abcdef0123456789abcdef",
            "ffffffffffffffffffffffffffffffff",
            "0123456789abcdef0123456789abcdef-10000",
            "0123456789ABCDEF0123456789abcdef",
            "0123456789abcdef0123456789abcdef-012",
            "x",
            "",
        ] {
            let stored = Stored {
                etag: ETag::new(etag),
                ..example()
            };
            assert_eq!(Stored::decode(&stored.encode()), Some(stored), "{etag}");
        }
    }

    #[test]
    fn a_version_comes_back_from_its_id_and_from_nothing_else() {
        let null = Version {
            sequence: 7,
            salt: None,
        };
        let named = Version {
            sequence: 0x1234,
            salt: Some([0xab; 8]),
        };
        assert_eq!(
            (null.id(), Version::named(&null.id())),
            (VersionId::Null, None)
        );
        assert_eq!(named.id().as_str(), "0000000000001234abababababababab");
        assert_eq!(Version::named(&named.id()), Some(named));
        for id in [
            "",
            "0",
            "0000000000001234ABABABABABABABAB",
            "+000000000001234abababababababab",
        ] {
            assert_eq!(Version::named(&VersionId::parse(id)), None, "{id:?}");
        }
        for version in [null, named, Version::default()] {
            let stored = Stored {
                version,
                ..example()
            };
            assert_eq!(Stored::decode(&stored.encode()), Some(stored));
        }
    }

    #[test]
    fn a_cut_entry_is_no_entry() {
        let bytes = example().encode();
        let whole = Stored::decode(&bytes).unwrap();
        for end in 0..bytes.len() {
            assert_ne!(Stored::decode(&bytes[..end]), Some(whole.clone()), "{end}");
        }
    }

    #[test]
    fn a_field_that_must_be_known_is_refused() {
        let mut bytes = example().encode().into_vec();
        bytes.extend_from_slice(&[128, 0]);
        assert_eq!(Stored::decode(&bytes), None);
    }

    #[test]
    fn an_ordinary_entry_is_small() {
        let stored = Stored {
            checksum: Some(Checksum {
                algorithm: ChecksumAlgorithm::Crc64nvme,
                kind: ChecksumKind::FullObject,
                digest: [3; 8].into(),
            }),
            content_type: Some("application/octet-stream".into()),
            pieces: vec![Piece {
                size_bytes: 33 << 10,
                place: Place::Extents {
                    extents: vec![Extent {
                        first: 1 << 30,
                        count: 9,
                    }],
                    crcs: Crcs::Inline(vec![1]),
                },
            }],
            ..Stored::new(
                33 << 10,
                ETag::new("0123456789abcdef0123456789abcdef"),
                Timestamp::from_unix_nanos(1),
            )
        };
        assert!(stored.encode().len() <= 110, "{}", stored.encode().len());
    }
}
