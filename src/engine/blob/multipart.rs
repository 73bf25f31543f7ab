//! Multipart uploads: parts are items with extents of their own; completing moves nothing.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::bucket::BlobBucket;
use super::codec::json;
use super::commit::Class;
use super::describe::describe;
use super::entry::{Allocation, Piece, Stored, UploadName};
use super::put::{BlobWriter, Content, Spool, check};
use super::record::{Change, ItemKey, Table};
use super::recover::all_items;
use super::succession::NewObject;
use crate::engine::types::hex;
use crate::engine::uploads_page;
use crate::engine::{
    Checksum, CompletePlan, ETag, EngineError, Entry, ObjectKey, Part, PartRef, PartsPage, Upload,
    UploadId, UploadPlan, UploadsPage, UploadsPlan,
};

/// What a writer of a part becomes.
#[derive(Debug)]
pub(super) struct PartTarget {
    /// The upload's own item: it must still be there.
    upload: ItemKey,
    number: u32,
}

impl BlobBucket {
    /// Opens an upload. See [`crate::engine::Bucket::create_upload`].
    pub async fn create_upload(
        &self,
        key: &ObjectKey,
        plan: UploadPlan,
    ) -> Result<UploadId, EngineError> {
        let core = &self.core;
        core.check_index_room(&self.state, Table::Uploads, key.as_str().as_bytes())?;
        let number = core.next_number.fetch_add(1, Ordering::AcqRel);
        let mut name: UploadName = [0; 24];
        for (target, byte) in name.iter_mut().zip(number.to_be_bytes()) {
            *target = byte;
        }
        for (target, byte) in name.iter_mut().skip(8).zip(core.entropy.bytes::<16>()) {
            *target = byte;
        }
        let mut stored = Stored::new(0, ETag::new(""), core.clock.now());
        stored.upload = Some(name);
        stored.plan = Some(json(&plan)?.into());
        let (bucket, item) = (Arc::clone(&self.state), self.upload_item(key, &name));
        core.commit(Class::Write, None, move |turn| {
            bucket.check()?;
            let change = Change::Put {
                is_fresh: false,
                value: stored.encode(),
            };
            turn.change(Some(&bucket), item, change, Vec::new());
            Ok(())
        })
        .await?;
        Ok(UploadId::new(hex(&name)))
    }

    /// The upload. See [`crate::engine::Bucket::upload`].
    pub async fn upload(&self, key: &ObjectKey, id: &UploadId) -> Result<Arc<Upload>, EngineError> {
        let (_, stored) = self.find_upload(key, id)?;
        upload_of(key.clone(), &stored).map(Arc::new)
    }

    /// Starts a part. See [`crate::engine::Bucket::begin_part`].
    pub async fn begin_part(
        &self,
        key: &ObjectKey,
        id: &UploadId,
        number: u32,
        size_bytes: Option<u64>,
    ) -> Result<BlobWriter, EngineError> {
        let (upload, stored) = self.find_upload(key, id)?;
        let name = stored.upload.ok_or(EngineError::NoSuchUpload)?;
        let item = self.part_item(&name, number);
        self.core
            .check_index_room(&self.state, Table::Parts, &item.key)?;
        Ok(BlobWriter {
            bucket: Arc::clone(&self.state),
            item,
            spool: Spool::begin(&self.core, size_bytes).await?,
            shared: None,
            part: Some(PartTarget { upload, number }),
        })
    }

    /// Committed parts. See [`crate::engine::Bucket::list_parts`].
    pub async fn list_parts(
        &self,
        key: &ObjectKey,
        id: &UploadId,
        after: u32,
        limit: usize,
    ) -> Result<PartsPage, EngineError> {
        let (_, stored) = self.find_upload(key, id)?;
        let name = stored.upload.ok_or(EngineError::NoSuchUpload)?;
        let first = self.part_item(&name, after.saturating_add(1));
        let number = first.key.split_at(8).0.to_vec();
        let parts = &self.state.parts;
        let items = parts.items_within(&number, &first.key, limit.saturating_add(1));
        let mut parts = Vec::new();
        for (key, value) in items {
            let stored = decode(&value)?;
            let number = key
                .last_chunk()
                .map_or(0, |bytes| u32::from_be_bytes(*bytes));
            parts.push(part_of(number, &stored));
        }
        let truncated = limit > 0 && parts.len() > limit;
        parts.truncate(limit);
        Ok(PartsPage {
            upload: Arc::new(upload_of(key.clone(), &stored)?),
            parts,
            truncated,
        })
    }

    /// Open uploads. See [`crate::engine::Bucket::list_uploads`].
    pub async fn list_uploads(&self, plan: &UploadsPlan) -> Result<UploadsPage, EngineError> {
        self.state.check()?;
        let mut uploads = Vec::new();
        for (key, value) in all_items(&self.state.uploads) {
            let name = key.split_at(key.len().saturating_sub(9)).0;
            let key = std::str::from_utf8(name)
                .ok()
                .and_then(|name| ObjectKey::parse(name).ok());
            let key = key.ok_or(UNREADABLE)?;
            uploads.push(Arc::new(upload_of(key, &decode(&value)?)?));
        }
        Ok(uploads_page::page(uploads, plan))
    }

    /// Makes the object. See [`crate::engine::Bucket::complete`].
    pub async fn complete(
        &self,
        key: &ObjectKey,
        id: &UploadId,
        plan: CompletePlan,
    ) -> Result<Arc<Entry>, EngineError> {
        let name = name_of(id).ok_or(EngineError::NoSuchUpload)?;
        for _ in 0..COMPLETE_RACES_MAX {
            let upload = match self.find_upload(key, id) {
                Err(EngineError::NoSuchUpload) => return self.completed_before(key, &name).await,
                result => result?.1,
            };
            match self.complete_once(key, name, &upload, &plan).await {
                Ok(Completed::Made(entry)) => return Ok(entry),
                Ok(Completed::Again) => {}
                // The parts went with the upload, to somebody else who completed it meanwhile.
                Err(EngineError::InvalidPart { .. }) if self.find_upload(key, id).is_err() => {}
                Err(error) => return Err(error),
            }
        }
        Err(EngineError::Busy)
    }

    async fn complete_once(
        &self,
        key: &ObjectKey,
        name: UploadName,
        upload: &Stored,
        plan: &CompletePlan,
    ) -> Result<Completed, EngineError> {
        let mut chosen = Vec::new();
        for part in &plan.parts {
            chosen.push(self.choose(&name, part)?);
        }
        let parts: Vec<Part> = chosen.iter().map(|(_, _, part)| part.clone()).collect();
        let pieces: Vec<Piece> = chosen
            .iter()
            .flat_map(|(_, s, _)| s.pieces.clone())
            .collect();
        let size_bytes = pieces.iter().map(|piece| piece.size_bytes).sum();
        let mut stored = Stored::new(size_bytes, plan.etag.clone(), self.core.clock.now());
        stored.checksum.clone_from(&plan.checksum);
        stored.upload = Some(name);
        let upload = plan_of(upload)?;
        stored.seal = plan.seal(&upload);
        let metadata = upload.metadata;
        let described = describe(&metadata, &parts)?;
        let mut content = Content::default();
        content.describe(&self.core, &mut stored, described)?;
        let writes = content.writes();
        let mut entry = super::describe::plain_entry(&stored);
        let (lock, now) = (metadata.lock, stored.modified);
        (entry.metadata, entry.parts) = (metadata, parts.into());
        let (bucket, object) = (Arc::clone(&self.state), self.object_item(key));
        let (upload_item, gone) = (self.upload_item(key, &name), self.parts_item(&name));
        let (precondition, salt) = (plan.precondition.clone(), self.core.entropy.bytes());
        let made = self.core.commit(Class::Write, writes, move |turn| {
            bucket.check()?;
            // What was chosen must still be what is there.
            let mut is_same = turn.get(Some(&bucket), &upload_item).is_some();
            for (item, seen, _) in &chosen {
                let now = turn
                    .get(Some(&bucket), item)
                    .and_then(|value| Stored::decode(&value));
                is_same &= now.as_ref() == Some(seen);
            }
            if !is_same {
                return Ok(None);
            }
            check(turn, &bucket, &object, &precondition)?;
            let succession = turn.succeed(&bucket, &object, salt, (lock, now))?;
            let retains: Vec<Allocation> = pieces.iter().flat_map(Piece::allocations).collect();
            stored.pieces = pieces;
            content.keep(turn);
            let new = NewObject {
                stored,
                is_fresh: false,
                retains,
            };
            let stored = turn.put_object(&bucket, object, succession, new);
            turn.change(Some(&bucket), upload_item, Change::Gone, Vec::new());
            turn.change(Some(&bucket), gone, Change::PartsGone, Vec::new());
            Ok(Some((stored.version, stored.lock)))
        });
        Ok(match made.await? {
            Some((version, lock)) => {
                (entry.version, entry.metadata.lock) = (version.id(), lock);
                Completed::Made(Arc::new(entry))
            }
            None => Completed::Again,
        })
    }

    /// The part that the plan names, as it is in the index.
    fn choose(
        &self,
        name: &UploadName,
        wanted: &PartRef,
    ) -> Result<(ItemKey, Stored, Part), EngineError> {
        let number = wanted.number;
        let item = self.part_item(name, number);
        let value = self.state.parts.value(&item.key);
        let stored = decode(&value.ok_or(EngineError::InvalidPart { number })?)?;
        if stored.etag != wanted.etag || stored.size_bytes != wanted.size_bytes {
            return Err(EngineError::InvalidPart { number });
        }
        let part = part_of(number, &stored);
        Ok((item, stored, part))
    }

    /// The current entry, if that upload made it.
    async fn completed_before(
        &self,
        key: &ObjectKey,
        name: &UploadName,
    ) -> Result<Arc<Entry>, EngineError> {
        match self.core.open(&self.state, key.as_str().as_bytes()).await {
            Ok(reader) if reader.stored.upload.as_ref() == Some(name) => {
                Ok(Arc::clone(reader.entry()))
            }
            Ok(_) | Err(EngineError::NoSuchKey | EngineError::DeleteMarker { .. }) => {
                Err(EngineError::NoSuchUpload)
            }
            Err(error) => Err(error),
        }
    }

    /// Drops the upload. See [`crate::engine::Bucket::abort`].
    pub async fn abort(&self, key: &ObjectKey, id: &UploadId) -> Result<(), EngineError> {
        let (item, stored) = self.find_upload(key, id)?;
        let gone = self.parts_item(&stored.upload.ok_or(EngineError::NoSuchUpload)?);
        let bucket = Arc::clone(&self.state);
        self.core
            .commit(Class::Delete, None, move |turn| {
                if turn.get(Some(&bucket), &item).is_none() {
                    return Err(EngineError::NoSuchUpload);
                }
                turn.change(Some(&bucket), item, Change::Gone, Vec::new());
                turn.change(Some(&bucket), gone, Change::PartsGone, Vec::new());
                Ok(())
            })
            .await
    }

    fn find_upload(
        &self,
        key: &ObjectKey,
        id: &UploadId,
    ) -> Result<(ItemKey, Stored), EngineError> {
        self.state.check()?;
        let name = name_of(id).ok_or(EngineError::NoSuchUpload)?;
        let item = self.upload_item(key, &name);
        let value = self.state.uploads.value(&item.key);
        let stored = decode(&value.ok_or(EngineError::NoSuchUpload)?)?;
        if stored.upload != Some(name) {
            return Err(EngineError::NoSuchUpload);
        }
        Ok((item, stored))
    }

    fn upload_item(&self, key: &ObjectKey, name: &UploadName) -> ItemKey {
        let number = name.split_at(8).0;
        ItemKey {
            table: Table::Uploads,
            bucket: self.state.id,
            key: [key.as_str().as_bytes(), &[0], number].concat().into(),
        }
    }

    fn part_item(&self, name: &UploadName, number: u32) -> ItemKey {
        ItemKey {
            table: Table::Parts,
            bucket: self.state.id,
            key: [name.split_at(8).0, &number.to_be_bytes()].concat().into(),
        }
    }

    /// All parts of an upload.
    fn parts_item(&self, name: &UploadName) -> ItemKey {
        ItemKey {
            table: Table::Parts,
            bucket: self.state.id,
            key: name.split_at(8).0.into(),
        }
    }
}

enum Completed {
    Made(Arc<Entry>),
    /// A part was replaced meanwhile, or the upload has gone.
    Again,
}

impl BlobWriter {
    /// See [`crate::engine::Writer::commit_part`].
    pub async fn commit_part(
        mut self,
        etag: ETag,
        checksum: Option<Checksum>,
    ) -> Result<Part, EngineError> {
        // Only a writer of `begin_part` has one.
        let target = self.part.take().ok_or(EngineError::NoSuchUpload)?;
        let core = Arc::clone(&self.spool.core);
        loop {
            let (size_bytes, mut content) = match self.shared.take() {
                Some(source) => Content::shared(source),
                None => self.spool.finish()?,
            };
            let mut stored = Stored::new(size_bytes, etag.clone(), core.clock.now());
            stored.checksum.clone_from(&checksum);
            let part = part_of(target.number, &stored);
            let (bucket, item, upload) = (
                Arc::clone(&self.bucket),
                self.item.clone(),
                target.upload.clone(),
            );
            let writes = content.writes();
            let source = content.source.take();
            let kept = source.clone();
            let done = core.commit(Class::Write, writes, move |turn| {
                bucket.check()?;
                if turn.get(Some(&bucket), &upload).is_none() {
                    return Err(EngineError::NoSuchUpload);
                }
                if !content.is_there(turn, source.as_deref()) {
                    return Ok(false);
                }
                let new = content.settle(turn, stored, source.as_deref())?;
                let change = Change::Put {
                    is_fresh: new.is_fresh,
                    value: new.stored.encode(),
                };
                turn.change(Some(&bucket), item, change, new.retains);
                Ok(true)
            });
            match (done.await?, kept) {
                (true, _) => return Ok(part),
                (false, Some(source)) => {
                    self.shared = Some(Arc::try_unwrap(source).map_err(|_| EngineError::Busy)?);
                    self.unshare().await?;
                }
                (false, None) => return Err(EngineError::Busy),
            }
        }
    }
}

fn name_of(id: &UploadId) -> Option<UploadName> {
    let text = id.as_str();
    if text.len() != 48
        || !text
            .bytes()
            .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    {
        return None;
    }
    let mut name: UploadName = [0; 24];
    for (at, byte) in name.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
    }
    Some(name)
}

fn upload_of(key: ObjectKey, stored: &Stored) -> Result<Upload, EngineError> {
    Ok(Upload {
        id: UploadId::new(hex(&stored.upload.ok_or(UNREADABLE)?)),
        key,
        opened: stored.modified,
        plan: plan_of(stored)?,
    })
}

fn plan_of(stored: &Stored) -> Result<UploadPlan, EngineError> {
    let plan = stored.plan.as_ref().ok_or(UNREADABLE)?;
    serde_json::from_slice(plan).map_err(|_| UNREADABLE)
}

fn part_of(number: u32, stored: &Stored) -> Part {
    Part {
        number,
        size_bytes: stored.size_bytes,
        etag: stored.etag.clone(),
        modified: stored.modified,
        checksum: stored.checksum.clone(),
    }
}

fn decode(value: &[u8]) -> Result<Stored, EngineError> {
    Stored::decode(value).ok_or(UNREADABLE)
}

const UNREADABLE: EngineError = EngineError::Corrupt {
    what: "an item of the index cannot be decoded",
};
/// Rounds in which parts may change while they are joined.
const COMPLETE_RACES_MAX: usize = 16;
