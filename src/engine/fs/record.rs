//! The metadata record of one object: bytes in an extended attribute or in a side file.
//!
//! # Layout
//! One byte [`FORMAT`], then fields, then the CRC-32 (ISO-HDLC, little-endian) of everything
//! before it. A field is its tag (one byte), the length of its value (varint) and the value.
//! Varints are LEB128. Fields may come in any order; a tag that this version does not know is kept
//! and written again, so that an older server does not drop what a newer one stored. A change that
//! an old server must not overlook raises [`FORMAT`]: a record with a lock has [`FORMAT_LOCKED`],
//! and that of sealed bytes [`FORMAT_SEALED`].
//!
//! | tag | value |
//! |---|---|
//! | 1 | guard: size in bytes (varint), modification time of the file (i64 nanoseconds, little-endian) |
//! | 2 | ETag: 16 bytes (MD5), 16 bytes and a varint (`<32 hex>-<n>`) |
//! | 3 | ETag as text, where it has another form |
//! | 4 | last modification as S3 shows it (i64 nanoseconds), where it is not the guard's |
//! | 5 | checksum: algorithm (0 CRC32, 1 CRC32C, 2 CRC64NVME, 3 SHA1, 4 SHA256, 5 SHA512, 6 MD5, 7 XXHASH64, 8 XXHASH3, 9 XXHASH128), kind (0 full object, 1 composite), digest |
//! | 6..=12 | content type, encoding, language, disposition, cache control, expires, website redirect |
//! | 13 | one pair of user metadata: length of the name (varint), name, value; repeated in order |
//! | 14 | parts 1..=count of one size: count, size, size of the last (varints) |
//! | 15 | any other parts: for each the step from the number before and the size (varints) |
//! | 16 | checksums of the parts: algorithm, kind, the digests one after the other |
//! | 17 | id of the upload that it was completed from |
//! | 18 | side file: hash of the key (16 bytes), id (16 bytes); the metadata and parts are there |
//! | 19 | the key: in side files, for people and repair |
//! | 20 | one tag: length of its key (varint), key, value; repeated in order |
//! | 21 | version id: sequence (8 bytes, big-endian), random (8 bytes), start of the key's hash (4 bytes) |
//! | 22 | owner and grants, as the S3 layer writes them |
//! | 23 | retention: mode (0 governance, 1 compliance), end (i64 nanoseconds, little-endian) |
//! | 24 | legal hold: 0 off, 1 on |
//! | 25 | seal: size of what was sealed (varint), salt (16 bytes), key check (16 bytes) |
//!
//! ETags and times of single parts are not kept: no S3 operation shows them of a finished object.

use std::sync::Arc;

use xxhash_rust::xxh3::xxh3_128;

use super::history::Stamp;
use crate::clock::Timestamp;
use crate::engine::{
    Checksum, ChecksumAlgorithm, ChecksumKind, ETag, Entry, Lock, Metadata, Part, Retention,
    RetentionMode, Seal, UploadId, VersionId,
};
use crate::io::files::Stat;

/// What is known of one object beside its bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Record {
    pub(super) guard: Guard,
    /// `None`: the bytes are not those of an upload; the ETag is made from inode, time and size.
    pub(super) etag: Option<ETag>,
    /// `None`: the guard's time.
    pub(super) modified: Option<Timestamp>,
    pub(super) checksum: Option<Checksum>,
    pub(super) metadata: Metadata,
    /// Empty for an object of one PUT.
    pub(super) parts: Vec<PartSize>,
    pub(super) upload: Option<UploadId>,
    pub(super) side: Option<SideRef>,
    pub(super) key: Option<Box<str>>,
    /// `None`: the null version.
    pub(super) version: Option<Stamp>,
    pub(super) seal: Option<Box<Seal>>,
    /// Fields of a newer version, as they came.
    pub(super) unknown: Vec<u8>,
}

/// The state of the file that the record was written for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Guard {
    pub(super) size_bytes: u64,
    pub(super) modified_nanos: i64,
}

/// What is kept of one part.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct PartSize {
    pub(super) number: u32,
    pub(super) size_bytes: u64,
    pub(super) checksum: Option<Checksum>,
}

/// Names a side file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SideRef {
    pub(super) key_hash: [u8; 16],
    pub(super) id: [u8; 16],
}

/// The bytes are no record of a version that this server knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Damaged;

impl Guard {
    pub(super) fn of(stat: &Stat) -> Self {
        Self {
            size_bytes: stat.identity.size_bytes,
            modified_nanos: stat.identity.modified_nanos,
        }
    }
}

impl Record {
    pub(super) fn encode(&self) -> Vec<u8> {
        let format = match self.metadata.lock.is_empty() {
            _ if self.seal.is_some() => FORMAT_SEALED,
            true => FORMAT,
            false => FORMAT_LOCKED,
        };
        let mut out = Encoder {
            bytes: vec![format],
        };
        out.field(tag::GUARD, |value| {
            put_varint(value, self.guard.size_bytes);
            value.extend_from_slice(&self.guard.modified_nanos.to_le_bytes());
        });
        if let Some(etag) = &self.etag {
            encode_etag(&mut out, etag);
        }
        if let Some(modified) = self.modified {
            out.field(tag::MODIFIED, |value| {
                value.extend_from_slice(&modified.unix_nanos.to_le_bytes());
            });
        }
        if let Some(checksum) = &self.checksum {
            out.field(tag::CHECKSUM, |value| {
                value.push(algorithm_code(checksum.algorithm));
                value.push(kind_code(checksum.kind));
                value.extend_from_slice(&checksum.digest);
            });
        }
        encode_metadata(&mut out, &self.metadata);
        encode_parts(&mut out, &self.parts);
        if let Some(upload) = &self.upload {
            out.text(tag::UPLOAD, upload.as_str());
        }
        if let Some(side) = &self.side {
            out.field(tag::SIDE, |value| {
                value.extend_from_slice(&side.key_hash);
                value.extend_from_slice(&side.id);
            });
        }
        if let Some(key) = &self.key {
            out.text(tag::KEY, key);
        }
        if let Some(Stamp(stamp)) = &self.version {
            out.field(tag::VERSION, |value| value.extend_from_slice(stamp));
        }
        if let Some(seal) = &self.seal {
            out.field(tag::SEAL, |value| {
                put_varint(value, seal.plain_bytes);
                value.extend_from_slice(&seal.salt);
                value.extend_from_slice(&seal.key_check);
            });
        }
        out.bytes.extend_from_slice(&self.unknown);
        let crc = crc32(&out.bytes);
        out.bytes.extend_from_slice(&crc.to_le_bytes());
        out.bytes
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(Damaged)?;
        let (format, fields) = body.split_first().ok_or(Damaged)?;
        let is_known = matches!(*format, FORMAT | FORMAT_LOCKED | FORMAT_SEALED);
        if !is_known || crc32(body) != u32::from_le_bytes(*crc) {
            return Err(Damaged);
        }
        let mut record = Self::default();
        let mut digests = None;
        let mut cursor = Cursor(fields);
        while let Some((&tag, rest)) = cursor.0.split_first() {
            let whole = cursor.0;
            cursor.0 = rest;
            let length = usize::try_from(cursor.varint()?).map_err(|_| Damaged)?;
            let value = cursor.take(length)?;
            match tag {
                tag::PART_CHECKSUMS => digests = Some(value),
                tag => {
                    if !record.decode_field(tag, value)? {
                        let used = whole.len() - cursor.0.len();
                        let (field, _) = whole.split_at(used);
                        record.unknown.extend_from_slice(field);
                    }
                }
            }
        }
        if let Some(digests) = digests {
            decode_part_checksums(&mut record.parts, digests)?;
        }
        Ok(record)
    }

    /// `false`: a tag that this version does not know.
    fn decode_field(&mut self, tag: u8, value: &[u8]) -> Result<bool, Damaged> {
        let mut cursor = Cursor(value);
        match tag {
            tag::GUARD => {
                self.guard.size_bytes = cursor.varint()?;
                self.guard.modified_nanos = cursor.i64()?;
            }
            tag::ETAG => self.etag = Some(decode_etag(cursor)?),
            tag::ETAG_TEXT => self.etag = Some(ETag::new(text(value)?)),
            tag::MODIFIED => self.modified = Some(Timestamp::from_unix_nanos(cursor.i64()?)),
            tag::CHECKSUM => self.checksum = Some(decode_checksum(cursor)?),
            tag::CONTENT_TYPE => self.metadata.content_type = Some(text(value)?.into()),
            tag::CONTENT_ENCODING => self.metadata.content_encoding = Some(text(value)?.into()),
            tag::CONTENT_LANGUAGE => self.metadata.content_language = Some(text(value)?.into()),
            tag::CONTENT_DISPOSITION => {
                self.metadata.content_disposition = Some(text(value)?.into());
            }
            tag::CACHE_CONTROL => self.metadata.cache_control = Some(text(value)?.into()),
            tag::EXPIRES => self.metadata.expires = Some(text(value)?.into()),
            tag::WEBSITE_REDIRECT => self.metadata.website_redirect = Some(text(value)?.into()),
            tag::ACL => self.metadata.acl = Some(text(value)?.into()),
            tag::RETENTION => self.metadata.lock.retention = Some(decode_retention(cursor)?),
            tag::LEGAL_HOLD => self.metadata.lock.legal_hold = Some(decode_hold(cursor)?),
            tag::USER => self.metadata.user.push(decode_pair(cursor)?),
            tag::TAG => self.metadata.tags.push(decode_pair(cursor)?),
            tag::PARTS_UNIFORM => self.parts = decode_uniform(cursor)?,
            tag::PARTS_LISTED => self.parts = decode_listed(cursor)?,
            tag::UPLOAD => self.upload = Some(UploadId::new(text(value)?)),
            tag::SIDE => {
                self.side = Some(SideRef {
                    key_hash: cursor.array()?,
                    id: cursor.array()?,
                });
            }
            tag::KEY => self.key = Some(text(value)?.into()),
            tag::VERSION => self.version = Some(Stamp(cursor.array()?)),
            tag::SEAL => {
                self.seal = Some(Box::new(Seal {
                    plain_bytes: cursor.varint()?,
                    salt: cursor.array()?,
                    key_check: cursor.array()?,
                }));
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// What stays in the attribute when the rest goes to the side file `side`: enough for a
    /// listing, and what must not be lost with the side file.
    pub(super) fn slim(&self, side: SideRef) -> Self {
        Self {
            guard: self.guard,
            etag: self.etag.clone(),
            modified: self.modified,
            checksum: self.checksum.clone(),
            upload: self.upload.clone(),
            version: self.version,
            metadata: Metadata {
                lock: self.metadata.lock,
                ..Metadata::default()
            },
            seal: self.seal.clone(),
            side: Some(side),
            ..Self::default()
        }
    }

    /// Whether the file still is as it was when the record was written.
    pub(super) fn is_intact(&self, stat: &Stat) -> bool {
        self.guard == Guard::of(stat)
    }

    /// Drops what no longer holds of a file that another program changed. What people said about
    /// the object stays, and so does its seal: what fails to open is no object, but what would be
    /// given out as it lies there might be somebody's ciphertext.
    pub(super) fn adapt(&mut self, stat: &Stat) {
        if self.is_intact(stat) {
            return;
        }
        self.guard = Guard::of(stat);
        self.etag = None;
        self.modified = None;
        self.checksum = None;
        self.parts.clear();
        self.upload = None;
        self.version = None;
    }

    /// The entry of a file in the state `stat`, for which the record was adapted.
    pub(super) fn into_entry(self, stat: &Stat) -> Entry {
        let modified = self
            .modified
            .unwrap_or(Timestamp::from_unix_nanos(stat.identity.modified_nanos));
        Entry {
            size_bytes: stat.identity.size_bytes,
            etag: self.etag.unwrap_or_else(|| plain_file_etag(stat)),
            modified,
            checksum: self.checksum,
            metadata: self.metadata,
            parts: expand_parts(&self.parts, modified),
            version: self.version.map_or(VersionId::Null, Stamp::id),
            seal: self.seal,
        }
    }
}

/// The ETag of bytes that nobody uploaded: 32 hex digits of the XXH3 hash of inode, modification
/// time and size (8 bytes each, little-endian), `-10001`. Without the inode two files of one size
/// and time would have one ETag, and tools that compare ETags would take one for the other; the
/// change time has no part in it, for a change of mode leaves the bytes as they are. The form is
/// that of a multipart ETag because clients take 32 hex digits alone for an MD5 and compare; the
/// number is one more than S3 allows parts, so that no client can take it for the number of parts
/// of a real upload and compute one to compare with.
pub(super) fn plain_file_etag(stat: &Stat) -> ETag {
    let identity = &stat.identity;
    let mut state = [0; 24];
    let fields = [
        identity.inode.to_le_bytes(),
        identity.modified_nanos.to_le_bytes(),
        identity.size_bytes.to_le_bytes(),
    ];
    for (room, field) in state.as_chunks_mut().0.iter_mut().zip(fields) {
        *room = field;
    }
    ETag::new(format!("{:032x}-10001", xxh3_128(&state)))
}

/// What a record keeps of these parts.
pub(super) fn part_sizes(parts: &[Part]) -> Vec<PartSize> {
    let keep = |part: &Part| PartSize {
        number: part.number,
        size_bytes: part.size_bytes,
        checksum: part.checksum.clone(),
    };
    parts.iter().map(keep).collect()
}

fn expand_parts(parts: &[PartSize], modified: Timestamp) -> Arc<[Part]> {
    let unknown = ETag::new("");
    let expand = |part: &PartSize| Part {
        number: part.number,
        size_bytes: part.size_bytes,
        etag: unknown.clone(),
        modified,
        checksum: part.checksum.clone(),
    };
    parts.iter().map(expand).collect()
}

fn encode_etag(out: &mut Encoder, etag: &ETag) {
    let whole = etag.as_str();
    let (digits, number) = match whole.split_once('-') {
        Some((digits, number)) => match number.parse::<u32>() {
            // Only the shortest spelling comes back as it was.
            Ok(value) if value.to_string() == number => (digits, Some(value)),
            _ => return out.text(tag::ETAG_TEXT, whole),
        },
        None => (whole, None),
    };
    let Some(digest) = unhex(digits) else {
        return out.text(tag::ETAG_TEXT, whole);
    };
    out.field(tag::ETAG, |value| {
        value.extend_from_slice(&digest);
        if let Some(number) = number {
            put_varint(value, u64::from(number));
        }
    });
}

fn decode_etag(mut cursor: Cursor<'_>) -> Result<ETag, Damaged> {
    let digest = cursor.array::<16>()?;
    if cursor.0.is_empty() {
        return Ok(ETag::from_md5(digest));
    }
    let number = cursor.varint()?;
    Ok(ETag::new(format!("{}-{number}", ETag::from_md5(digest))))
}

/// 32 lower-case hex digits.
fn unhex(digits: &str) -> Option<[u8; 16]> {
    let lower = |b: &u8| b.is_ascii_digit() || (b'a'..=b'f').contains(b);
    if digits.len() != 32 || !digits.bytes().all(|b| lower(&b)) {
        return None;
    }
    u128::from_str_radix(digits, 16).ok().map(u128::to_be_bytes)
}

fn encode_metadata(out: &mut Encoder, metadata: &Metadata) {
    let texts = [
        (tag::CONTENT_TYPE, &metadata.content_type),
        (tag::CONTENT_ENCODING, &metadata.content_encoding),
        (tag::CONTENT_LANGUAGE, &metadata.content_language),
        (tag::CONTENT_DISPOSITION, &metadata.content_disposition),
        (tag::CACHE_CONTROL, &metadata.cache_control),
        (tag::EXPIRES, &metadata.expires),
        (tag::WEBSITE_REDIRECT, &metadata.website_redirect),
        (tag::ACL, &metadata.acl),
    ];
    for (tag, value) in texts {
        if let Some(value) = value {
            out.text(tag, value);
        }
    }
    encode_lock(out, &metadata.lock);
    let user = metadata.user.iter().map(|pair| (tag::USER, pair));
    let tags = metadata.tags.iter().map(|pair| (tag::TAG, pair));
    for (tag, (name, content)) in user.chain(tags) {
        out.field(tag, |value| {
            put_varint(value, name.len() as u64);
            value.extend_from_slice(name.as_bytes());
            value.extend_from_slice(content.as_bytes());
        });
    }
}

fn encode_lock(out: &mut Encoder, lock: &Lock) {
    if let Some(retention) = &lock.retention {
        out.field(tag::RETENTION, |value| {
            value.push(u8::from(retention.mode == RetentionMode::Compliance));
            value.extend_from_slice(&retention.until.unix_nanos.to_le_bytes());
        });
    }
    if let Some(is_on) = lock.legal_hold {
        out.field(tag::LEGAL_HOLD, |value| value.push(u8::from(is_on)));
    }
}

fn decode_retention(mut cursor: Cursor<'_>) -> Result<Retention, Damaged> {
    let mode = match cursor.array()? {
        [0] => RetentionMode::Governance,
        [1] => RetentionMode::Compliance,
        _ => return Err(Damaged),
    };
    let until = Timestamp::from_unix_nanos(cursor.i64()?);
    Ok(Retention { mode, until })
}

fn decode_hold(mut cursor: Cursor<'_>) -> Result<bool, Damaged> {
    match cursor.array()? {
        [0] => Ok(false),
        [1] => Ok(true),
        _ => Err(Damaged),
    }
}

fn decode_pair(mut cursor: Cursor<'_>) -> Result<(Box<str>, Box<str>), Damaged> {
    let length = usize::try_from(cursor.varint()?).map_err(|_| Damaged)?;
    let name = text(cursor.take(length)?)?.into();
    Ok((name, text(cursor.0)?.into()))
}

fn encode_parts(out: &mut Encoder, parts: &[PartSize]) {
    let (Some(first), Some(last)) = (parts.first(), parts.last()) else {
        return;
    };
    let numbered = (1..).zip(parts).all(|(number, part)| part.number == number);
    let (_, all_but_last) = parts.split_last().unwrap_or((last, &[]));
    let one_size = all_but_last
        .iter()
        .all(|part| part.size_bytes == first.size_bytes);
    if numbered && one_size {
        out.field(tag::PARTS_UNIFORM, |value| {
            put_varint(value, parts.len() as u64);
            put_varint(value, first.size_bytes);
            put_varint(value, last.size_bytes);
        });
    } else {
        out.field(tag::PARTS_LISTED, |value| {
            let mut before = 0;
            for part in parts {
                put_varint(value, u64::from(part.number.saturating_sub(before)));
                put_varint(value, part.size_bytes);
                before = part.number;
            }
        });
    }
    let Some(sample) = &first.checksum else {
        return;
    };
    let alike = |part: &PartSize| {
        part.checksum.as_ref().is_some_and(|checksum| {
            checksum.algorithm == sample.algorithm
                && checksum.kind == sample.kind
                && checksum.digest.len() == sample.digest.len()
        })
    };
    if parts.iter().all(alike) {
        out.field(tag::PART_CHECKSUMS, |value| {
            value.push(algorithm_code(sample.algorithm));
            value.push(kind_code(sample.kind));
            for checksum in parts.iter().filter_map(|part| part.checksum.as_ref()) {
                value.extend_from_slice(&checksum.digest);
            }
        });
    }
}

fn decode_uniform(mut cursor: Cursor<'_>) -> Result<Vec<PartSize>, Damaged> {
    let count = u32::try_from(cursor.varint()?).map_err(|_| Damaged)?;
    if !(1..=crate::limits::PART_NUMBER_MAX).contains(&count) {
        return Err(Damaged);
    }
    let (size_bytes, last_bytes) = (cursor.varint()?, cursor.varint()?);
    let part = |number| PartSize {
        number,
        size_bytes: if number == count {
            last_bytes
        } else {
            size_bytes
        },
        checksum: None,
    };
    Ok((1..=count).map(part).collect())
}

fn decode_listed(mut cursor: Cursor<'_>) -> Result<Vec<PartSize>, Damaged> {
    let mut parts = Vec::new();
    let mut number = 0u32;
    while !cursor.0.is_empty() {
        let step = u32::try_from(cursor.varint()?).map_err(|_| Damaged)?;
        number = number.checked_add(step).ok_or(Damaged)?;
        if step == 0 || number > crate::limits::PART_NUMBER_MAX {
            return Err(Damaged);
        }
        parts.push(PartSize {
            number,
            size_bytes: cursor.varint()?,
            checksum: None,
        });
    }
    Ok(parts)
}

fn decode_part_checksums(parts: &mut [PartSize], value: &[u8]) -> Result<(), Damaged> {
    let [algorithm, kind, digests @ ..] = value else {
        return Err(Damaged);
    };
    let (algorithm, kind) = (algorithm_of(*algorithm)?, kind_of(*kind)?);
    let size = digest_bytes(algorithm);
    if parts.len().checked_mul(size) != Some(digests.len()) {
        return Err(Damaged);
    }
    for (part, digest) in parts.iter_mut().zip(digests.chunks_exact(size)) {
        part.checksum = Some(Checksum {
            algorithm,
            kind,
            digest: digest.into(),
        });
    }
    Ok(())
}

fn decode_checksum(mut cursor: Cursor<'_>) -> Result<Checksum, Damaged> {
    let [algorithm, kind] = cursor.array()?;
    let (algorithm, kind) = (algorithm_of(algorithm)?, kind_of(kind)?);
    if cursor.0.len() != digest_bytes(algorithm) {
        return Err(Damaged);
    }
    Ok(Checksum {
        algorithm,
        kind,
        digest: cursor.0.into(),
    })
}

fn algorithm_code(algorithm: ChecksumAlgorithm) -> u8 {
    match algorithm {
        ChecksumAlgorithm::Crc32 => 0,
        ChecksumAlgorithm::Crc32c => 1,
        ChecksumAlgorithm::Crc64nvme => 2,
        ChecksumAlgorithm::Sha1 => 3,
        ChecksumAlgorithm::Sha256 => 4,
        ChecksumAlgorithm::Sha512 => 5,
        ChecksumAlgorithm::Md5 => 6,
        ChecksumAlgorithm::Xxhash64 => 7,
        ChecksumAlgorithm::Xxhash3 => 8,
        ChecksumAlgorithm::Xxhash128 => 9,
    }
}

fn algorithm_of(code: u8) -> Result<ChecksumAlgorithm, Damaged> {
    match code {
        0 => Ok(ChecksumAlgorithm::Crc32),
        1 => Ok(ChecksumAlgorithm::Crc32c),
        2 => Ok(ChecksumAlgorithm::Crc64nvme),
        3 => Ok(ChecksumAlgorithm::Sha1),
        4 => Ok(ChecksumAlgorithm::Sha256),
        5 => Ok(ChecksumAlgorithm::Sha512),
        6 => Ok(ChecksumAlgorithm::Md5),
        7 => Ok(ChecksumAlgorithm::Xxhash64),
        8 => Ok(ChecksumAlgorithm::Xxhash3),
        9 => Ok(ChecksumAlgorithm::Xxhash128),
        _ => Err(Damaged),
    }
}

fn digest_bytes(algorithm: ChecksumAlgorithm) -> usize {
    match algorithm {
        ChecksumAlgorithm::Crc32 | ChecksumAlgorithm::Crc32c => 4,
        ChecksumAlgorithm::Crc64nvme | ChecksumAlgorithm::Xxhash64 | ChecksumAlgorithm::Xxhash3 => {
            8
        }
        ChecksumAlgorithm::Md5 | ChecksumAlgorithm::Xxhash128 => 16,
        ChecksumAlgorithm::Sha1 => 20,
        ChecksumAlgorithm::Sha256 => 32,
        ChecksumAlgorithm::Sha512 => 64,
    }
}

fn kind_code(kind: ChecksumKind) -> u8 {
    match kind {
        ChecksumKind::FullObject => 0,
        ChecksumKind::Composite => 1,
    }
}

fn kind_of(code: u8) -> Result<ChecksumKind, Damaged> {
    match code {
        0 => Ok(ChecksumKind::FullObject),
        1 => Ok(ChecksumKind::Composite),
        _ => Err(Damaged),
    }
}

struct Encoder {
    bytes: Vec<u8>,
}

impl Encoder {
    fn field(&mut self, tag: u8, write: impl FnOnce(&mut Vec<u8>)) {
        let mut value = Vec::new();
        write(&mut value);
        self.raw(tag, &value);
    }

    fn text(&mut self, tag: u8, value: &str) {
        self.raw(tag, value.as_bytes());
    }

    fn raw(&mut self, tag: u8, value: &[u8]) {
        self.bytes.push(tag);
        put_varint(&mut self.bytes, value.len() as u64);
        self.bytes.extend_from_slice(value);
    }
}

/// Bytes still to be decoded.
struct Cursor<'a>(&'a [u8]);

impl<'a> Cursor<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Damaged)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Damaged> {
        let (taken, rest) = self.0.split_first_chunk::<N>().ok_or(Damaged)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn i64(&mut self) -> Result<i64, Damaged> {
        self.array().map(i64::from_le_bytes)
    }

    fn varint(&mut self) -> Result<u64, Damaged> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            let bits = u64::from(byte & 0x7f);
            if bits.leading_zeros() < shift {
                return Err(Damaged);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(Damaged)
    }
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    loop {
        let [low, ..] = value.to_le_bytes();
        value >>= 7;
        if value == 0 {
            out.push(low & 0x7f);
            return;
        }
        out.push(low | 0x80);
    }
}

fn text(bytes: &[u8]) -> Result<&str, Damaged> {
    std::str::from_utf8(bytes).map_err(|_| Damaged)
}

fn crc32(bytes: &[u8]) -> u32 {
    let crc = crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes);
    // The upper half of a 32-bit CRC is zero.
    u32::try_from(crc & u64::from(u32::MAX)).unwrap_or(0)
}

const FORMAT: u8 = 1;
const FORMAT_LOCKED: u8 = 2;
/// The same, of a file with sealed bytes: older servers refuse it instead of giving them out.
const FORMAT_SEALED: u8 = 3;

mod tag {
    pub(super) const GUARD: u8 = 1;
    pub(super) const ETAG: u8 = 2;
    pub(super) const ETAG_TEXT: u8 = 3;
    pub(super) const MODIFIED: u8 = 4;
    pub(super) const CHECKSUM: u8 = 5;
    pub(super) const CONTENT_TYPE: u8 = 6;
    pub(super) const CONTENT_ENCODING: u8 = 7;
    pub(super) const CONTENT_LANGUAGE: u8 = 8;
    pub(super) const CONTENT_DISPOSITION: u8 = 9;
    pub(super) const CACHE_CONTROL: u8 = 10;
    pub(super) const EXPIRES: u8 = 11;
    pub(super) const WEBSITE_REDIRECT: u8 = 12;
    pub(super) const USER: u8 = 13;
    pub(super) const PARTS_UNIFORM: u8 = 14;
    pub(super) const PARTS_LISTED: u8 = 15;
    pub(super) const PART_CHECKSUMS: u8 = 16;
    pub(super) const UPLOAD: u8 = 17;
    pub(super) const SIDE: u8 = 18;
    pub(super) const KEY: u8 = 19;
    pub(super) const TAG: u8 = 20;
    pub(super) const VERSION: u8 = 21;
    pub(super) const ACL: u8 = 22;
    pub(super) const RETENTION: u8 = 23;
    pub(super) const LEGAL_HOLD: u8 = 24;
    pub(super) const SEAL: u8 = 25;
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    /// Bytes with the marks of a record, so that what is inside gets read.
    fn seal(fields: &[u8]) -> Vec<u8> {
        let mut bytes = vec![FORMAT];
        bytes.extend_from_slice(fields);
        let crc = crc32(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    fn sample() -> Record {
        let checksum = Checksum {
            algorithm: ChecksumAlgorithm::Crc32,
            kind: ChecksumKind::FullObject,
            digest: [1, 2, 3, 4].into(),
        };
        let part = |number| PartSize {
            number,
            size_bytes: 1 << 40,
            checksum: Some(checksum.clone()),
        };
        Record {
            etag: Some(ETag::new("0123456789abcdef0123456789abcdef-3")),
            modified: Some(Timestamp { unix_nanos: -1 }),
            checksum: Some(checksum.clone()),
            metadata: Metadata {
                content_type: Some("text/plain".into()),
                user: vec![("name".into(), "value".into())],
                tags: vec![("a".into(), "".into()), ("b".into(), "c".into())],
                acl: Some("{}".into()),
                lock: Lock {
                    retention: Some(Retention {
                        mode: RetentionMode::Compliance,
                        until: Timestamp { unix_nanos: 5 },
                    }),
                    legal_hold: Some(true),
                },
                ..Metadata::default()
            },
            parts: [1, 2, 7].map(part).to_vec(),
            upload: Some(UploadId::new("an-upload")),
            side: Some(SideRef {
                key_hash: [3; 16],
                id: [4; 16],
            }),
            key: Some("a key".into()),
            seal: Some(Box::new(Seal {
                plain_bytes: 3 << 40,
                salt: [5; 16],
                key_check: [6; 16],
            })),
            ..Record::default()
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(3000))]

        #[test]
        fn sec_panics_no_fields_break_the_record_decoder(
            fields in vec((0_u8..27, vec(any::<u8>(), 0..40)), 0..6),
            tail in vec(any::<u8>(), 0..6),
        ) {
            let mut bytes = Vec::new();
            for (tag, value) in fields {
                bytes.push(tag);
                put_varint(&mut bytes, value.len() as u64);
                bytes.extend(value);
            }
            bytes.extend(tail);
            if let Ok(record) = Record::decode(&seal(&bytes)) {
                prop_assert!(record.parts.len() <= 10_000);
                let again = Record::decode(&record.encode());
                prop_assert!(again.is_ok_and(|again| again == record));
            }
        }

        #[test]
        fn p5_a_record_with_another_byte_is_no_record(at in any::<Index>(), flip in 1_u8..) {
            let mut bytes = sample().encode();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert!(Record::decode(&bytes).is_err());
            prop_assert!(Record::decode(&bytes[..at]).is_err());
        }

        #[test]
        fn sec_panics_a_changed_field_is_read_or_refused(
            at in any::<Index>(),
            byte in any::<u8>(),
        ) {
            let bytes = sample().encode();
            let mut fields = bytes[1..bytes.len() - 4].to_vec();
            let at = at.index(fields.len());
            fields[at] = byte;
            let _ = Record::decode(&seal(&fields));
            let _ = Record::decode(&seal(&fields[..at]));
        }
    }
}
