//! Between entries as they are stored and entries as the contract shows them.

use std::sync::Arc;

use super::codec::{Cursor, json, put_bytes};
use super::core::Core;
use super::entry::Stored;
use super::transfer;
use crate::engine::{EngineError, Entry, Lock, Metadata, Part};

/// What the stored entry itself says: no metadata but the content type, no parts.
pub(super) fn plain_entry(stored: &Stored) -> Entry {
    Entry {
        size_bytes: stored.size_bytes,
        etag: stored.etag.clone(),
        modified: stored.modified,
        checksum: stored.checksum.clone(),
        metadata: Metadata {
            content_type: stored.content_type.clone(),
            lock: stored.lock,
            ..Metadata::default()
        },
        parts: Arc::from([].as_slice()),
        version: stored.version.id(),
        seal: stored.seal.clone(),
    }
}

/// Where the metadata goes, but for the lock: that is in the entry, where it decides.
pub(super) enum Described {
    /// Into the entry: the content type is all there is.
    Inline(Option<Box<str>>),
    /// Into an overflow with these bytes.
    Overflow(Vec<u8>),
}

pub(super) fn describe(metadata: &Metadata, parts: &[Part]) -> Result<Described, EngineError> {
    let only_type = Metadata {
        content_type: metadata.content_type.clone(),
        lock: metadata.lock,
        ..Metadata::default()
    };
    let length = metadata.content_type.as_ref().map_or(0, |text| text.len());
    if parts.is_empty() && *metadata == only_type && length <= CONTENT_TYPE_BYTES_MAX {
        return Ok(Described::Inline(only_type.content_type));
    }
    let mut bytes = vec![METADATA];
    let unlocked = Metadata {
        lock: Lock::default(),
        ..metadata.clone()
    };
    put_bytes(&mut bytes, &json(&unlocked)?);
    if !parts.is_empty() {
        bytes.push(PARTS);
        put_bytes(&mut bytes, &json(&parts)?);
    }
    Ok(Described::Overflow(bytes))
}

impl Core {
    /// The whole entry; reads its overflow if it has one, which the caller has pinned.
    pub(super) async fn entry(&self, stored: &Stored) -> Result<Arc<Entry>, EngineError> {
        let mut entry = plain_entry(stored);
        if let Some(pointer) = &stored.overflow {
            let bytes = transfer::read_pointer(&self.device, pointer).await?;
            fill(&mut entry, &bytes).ok_or(EngineError::Corrupt {
                what: "metadata cannot be decoded",
            })?;
        }
        Ok(Arc::new(entry))
    }
}

fn fill(entry: &mut Entry, overflow: &[u8]) -> Option<()> {
    let mut from = Cursor::new(overflow);
    while !from.is_empty() {
        let tag = from.u8()?;
        let field = from.bytes()?;
        match tag {
            METADATA => {
                let lock = entry.metadata.lock;
                let metadata = serde_json::from_slice(field).ok()?;
                entry.metadata = Metadata { lock, ..metadata };
            }
            PARTS => {
                let parts: Vec<Part> = serde_json::from_slice(field).ok()?;
                entry.parts = parts.into();
            }
            _ => {}
        }
    }
    Some(())
}

const METADATA: u8 = 1;
const PARTS: u8 = 2;
/// A longer content type lies in the overflow.
const CONTENT_TYPE_BYTES_MAX: usize = 128;
