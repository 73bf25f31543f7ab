//! Multipart uploads: parts, and the object that they become.
//!
//! A part goes to its slot of the upload's file `data`, at its offset in the object to be, if its
//! size is known, the slot was never acknowledged, and nobody else is writing to it: clients repeat
//! a part while the first attempt is still under way. All others get a file of their own. So
//! completing an upload of uniform parts cuts `data` off at the end and gives it the key's name; no
//! byte moves. Otherwise the parts are copied, by reference where the file system can.
//!
//! A part is durable when it is acknowledged: its bytes are synced, then its line in the ledger.

use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::bucket::FsBucket;
use super::dirs::is_alike;
use super::draft::{Content, Draft, Spool, Waiting};
use super::faults::{Doing, fault, off_shard};
use super::ledger::{Assembly, Committed, Fact, Place, Proposal, Slot};
use super::lock::KeyLock;
use super::overlay;
use super::put::{FsWriter, copy_bytes};
use super::record::part_sizes;
use super::scratch::Home;
use super::types::Description;
use super::uploads::{DATA, OpenUpload, Turn};
use super::walk::{self, Patience, is_absent, split, tree_path};
use crate::engine::types::hex;
use crate::engine::{
    Checksum, CompletePlan, ETag, EngineError, Entry, ObjectKey, Part, PartsPage, Upload, UploadId,
    UploadPlan,
};
use crate::io::files::{self, ByteSpan};

impl FsBucket {
    /// Opens an upload. See [`crate::engine::Bucket::create_upload`].
    pub async fn create_upload(
        self: &Arc<Self>,
        key: &ObjectKey,
        plan: UploadPlan,
    ) -> Result<UploadId, EngineError> {
        self.check_writable()?;
        self.sweep_uploads();
        let home = self.home().await?;
        let (bucket, key) = (Arc::clone(self), key.clone());
        off_shard(move || bucket.make_upload(&home, &key, plan)).await
    }

    /// The upload. See [`crate::engine::Bucket::upload`].
    pub async fn upload(
        self: &Arc<Self>,
        key: &ObjectKey,
        id: &UploadId,
    ) -> Result<Arc<Upload>, EngineError> {
        let upload = self.find_upload(key, id).await?;
        Ok(Arc::clone(&upload.upload))
    }

    /// Starts a part. See [`crate::engine::Bucket::begin_part`].
    pub async fn begin_part(
        self: &Arc<Self>,
        key: &ObjectKey,
        id: &UploadId,
        number: u32,
        size_bytes: Option<u64>,
    ) -> Result<FsWriter, EngineError> {
        let upload = self.find_upload(key, id).await?;
        let mut proposal = upload.ledger().propose(number, size_bytes);
        if let Proposal::State { slot_bytes } = proposal {
            let turn = self.turn(&upload).await?;
            let bucket = Arc::clone(self);
            off_shard(move || {
                turn.check(&bucket)?;
                // Somebody else may have been faster.
                if turn.upload.ledger().slot_bytes.is_none() {
                    turn.state(&Fact::Slots { slot_bytes })?;
                }
                Ok(())
            })
            .await?;
            proposal = upload.ledger().propose(number, size_bytes);
        }
        let home = self.home().await?;
        let (bucket, opened) = (Arc::clone(self), Arc::clone(&upload));
        let (draft, slot) = off_shard(move || {
            if let Proposal::Slot(slot) = proposal
                && let Some(draft) = bucket.claim_slot(&opened, number, size_bytes)?
            {
                return Ok((draft, Some(slot)));
            }
            match Draft::create(&bucket, &home, &opened.dir) {
                Err(errno) if is_absent(errno) => Err(bucket.no_such_upload()),
                draft => Ok((draft.doing("making a file for a part")?, None)),
            }
        })
        .await?;
        let range = slot.map(|slot| (slot.start_bytes, slot.size_bytes));
        Ok(FsWriter {
            spool: Spool::of_part(self, key, draft, range, size_bytes),
            bucket: Arc::clone(self),
            key: key.clone(),
            part: Some(PartSlot {
                upload,
                number,
                slot,
            }),
        })
    }

    /// Committed parts. See [`crate::engine::Bucket::list_parts`].
    pub async fn list_parts(
        self: &Arc<Self>,
        key: &ObjectKey,
        id: &UploadId,
        after: u32,
        limit: usize,
    ) -> Result<PartsPage, EngineError> {
        let upload = self.find_upload(key, id).await?;
        off_shard(move || {
            upload.refresh()?;
            let ledger = upload.ledger();
            let from = after.saturating_add(1);
            let mut parts = ledger.parts.range(from..).map(|(_, c)| c.part.clone());
            let page: Vec<Part> = parts.by_ref().take(limit).collect();
            Ok(PartsPage {
                upload: Arc::clone(&upload.upload),
                truncated: limit > 0 && parts.next().is_some(),
                parts: page,
            })
        })
        .await
    }

    /// Makes the object. See [`crate::engine::Bucket::complete`].
    pub async fn complete(
        self: &Arc<Self>,
        key: &ObjectKey,
        id: &UploadId,
        plan: CompletePlan,
    ) -> Result<Arc<Entry>, EngineError> {
        let upload = match self.find_upload(key, id).await {
            Ok(upload) => upload,
            Err(EngineError::NoSuchUpload) => return self.completed_before(key, id).await,
            Err(error) => return Err(error),
        };
        let turn = self.turn(&upload).await?;
        let lock = self.lock(key).await?;
        let (bucket, own_key) = (Arc::clone(self), key.clone());
        let made = off_shard(move || bucket.complete_locked(turn, &lock, &own_key, plan)).await;
        match made {
            // While this one waited for its turn, somebody else had theirs.
            Err(EngineError::NoSuchUpload) => self.completed_before(key, id).await,
            made => made,
        }
    }

    /// Drops the upload. See [`crate::engine::Bucket::abort`].
    pub async fn abort(
        self: &Arc<Self>,
        key: &ObjectKey,
        id: &UploadId,
    ) -> Result<(), EngineError> {
        let upload = self.find_upload(key, id).await?;
        let turn = self.turn(&upload).await?;
        let bucket = Arc::clone(self);
        off_shard(move || {
            turn.check(&bucket)?;
            bucket.retire(turn)
        })
        .await
    }
}

/// Where a part goes when it is committed.
#[derive(Debug)]
pub(super) struct PartSlot {
    upload: Arc<OpenUpload>,
    number: u32,
    /// `None`: it has a file of its own.
    slot: Option<Slot>,
}

impl FsBucket {
    /// `data`, with the lock of the slot, if nobody has written to it or is writing to it. The
    /// lock lasts as long as the descriptor: until the part is committed, or dropped and its last
    /// write has ended.
    fn claim_slot(
        &self,
        upload: &OpenUpload,
        number: u32,
        size_bytes: Option<u64>,
    ) -> Result<Option<Draft>, EngineError> {
        const DOING: &str = "opening the slot of a part";
        if !self.traits.locks {
            return Ok(None);
        }
        let mode = self.shared.file_mode.unwrap_or(0o666);
        let is_first = !upload.ledger().uses_slots();
        let opened = match is_first {
            true => files::open_or_create(&upload.dir, DATA, mode),
            // It must be there: made anew it would hide that the upload was completed.
            false => files::open_existing(&upload.dir, DATA),
        };
        let file = match opened {
            Err(errno) if is_absent(errno) => return Ok(None),
            result => result.doing(DOING)?,
        };
        if !files::ofd_lock(&file, ByteSpan::One(u64::from(number))).doing(DOING)? {
            return Ok(None);
        }
        // What another process acknowledged is in the ledger before it gives the lock back.
        upload.refresh()?;
        let still_free = matches!(
            upload.ledger().propose(number, size_bytes),
            Proposal::Slot(_)
        );
        let is_data = match files::stat_at(&upload.dir, DATA) {
            Ok(named) => named.node() == files::stat(&file).doing(DOING)?.node(),
            Err(Errno::NOENT) => false,
            Err(errno) => return Err(fault(DOING, errno)),
        };
        let draft = Draft { file, named: None };
        Ok((still_free && is_data).then_some(draft))
    }
}

impl FsWriter {
    /// See [`crate::engine::Writer::commit_part`].
    pub(super) async fn finish_part(
        self,
        etag: ETag,
        checksum: Option<Checksum>,
    ) -> Result<Part, EngineError> {
        // Only a writer of `begin_part` has one.
        let Some(target) = self.part else {
            return Err(EngineError::NoSuchUpload);
        };
        let bucket = self.bucket;
        let part = Part {
            number: target.number,
            size_bytes: self.spool.size_bytes(),
            etag,
            modified: bucket.shared.clock.now(),
            checksum,
        };
        let content = self.spool.finish().await?;
        let turn = bucket.turn(&target.upload).await?;
        let owner = Arc::clone(&bucket);
        let stated = off_shard(move || owner.commit_part(turn, content, target.slot, part)).await?;
        let Err(error) = stated.synced else {
            return Ok(stated.new.part);
        };
        if let Some(old) = stated.replaced {
            bucket.restate(&target.upload, &stated.new, old).await?;
        }
        Err(error)
    }
}

/// A part that stands in the ledger.
#[derive(Debug)]
struct Stated {
    new: Committed,
    replaced: Option<Committed>,
    /// Whether it stands there durably.
    synced: Result<(), EngineError>,
}

impl FsBucket {
    fn commit_part(
        &self,
        turn: Turn,
        content: Content,
        slot: Option<Slot>,
        part: Part,
    ) -> Result<Stated, EngineError> {
        turn.check(self)?;
        let upload = Arc::clone(&turn.upload);
        let Content::Draft(draft) = content else {
            return Err(EngineError::NoSuchUpload);
        };
        let (number, size_bytes) = (part.number, part.size_bytes);
        let place = match slot {
            Some(slot) if slot.size_bytes == size_bytes => {
                if !upload.data_is_named.load(Ordering::Acquire) {
                    self.sync_upload(&upload)?;
                    upload.data_is_named.store(true, Ordering::Release);
                }
                Place::Slot
            }
            // Longer would have been refused; shorter is not what the slot was given for.
            Some(_) => {
                return Err(EngineError::Corrupt {
                    what: "a part has another length than it was begun with",
                });
            }
            None => {
                let name = self.name_part(&upload, &draft, number)?;
                self.sync_upload(&upload)?;
                Place::File(name)
            }
        };
        let replaced = upload.ledger().parts.get(&number).cloned();
        let new = Committed { part, place };
        turn.state(&Fact::Part(new.clone()))?;
        drop(turn);
        // Not under the lock: parts that are committed at the same time share a sync.
        let synced = self.syncs.sync(&upload.log);
        if synced.is_ok()
            && let Some(Committed {
                place: Place::File(name),
                ..
            }) = &replaced
        {
            let _ = files::unlink(&upload.dir, name);
        }
        Ok(Stated {
            new,
            replaced,
            synced: synced.doing("syncing the ledger of an upload"),
        })
    }

    /// `new` was refused because its line could not be synced: the part that was acknowledged
    /// before holds again, unless somebody else has replaced it since.
    async fn restate(
        self: &Arc<Self>,
        upload: &Arc<OpenUpload>,
        new: &Committed,
        old: Committed,
    ) -> Result<(), EngineError> {
        let turn = self.turn(upload).await?;
        let (bucket, new) = (Arc::clone(self), new.clone());
        off_shard(move || {
            turn.check(&bucket)?;
            let is_current = turn.upload.ledger().parts.get(&new.part.number) == Some(&new);
            if !is_current {
                return Ok(());
            }
            turn.state(&Fact::Part(old))?;
            // A line of its own: this does not repeat the sync that failed.
            bucket
                .syncs
                .sync(&turn.upload.log)
                .doing("syncing the ledger of an upload")
        })
        .await
    }

    fn name_part(
        &self,
        upload: &OpenUpload,
        draft: &Draft,
        number: u32,
    ) -> Result<Box<str>, EngineError> {
        let random = hex(&self.shared.entropy.bytes::<8>());
        let name = format!("{number}-{random}");
        match &draft.named {
            None => files::link_unnamed(&draft.file, &upload.dir, &name),
            Some(waiting) => files::rename(waiting.dir(), waiting.name(), &upload.dir, &name),
        }
        .doing("naming a part")?;
        Ok(name.into())
    }

    /// Makes the names in the upload's directory durable.
    fn sync_upload(&self, upload: &OpenUpload) -> Result<(), EngineError> {
        self.sync_directory(".", &upload.dir)
    }

    /// The entry of the key, if it was made by this upload.
    async fn completed_before(
        self: &Arc<Self>,
        key: &ObjectKey,
        id: &UploadId,
    ) -> Result<Arc<Entry>, EngineError> {
        let (bucket, key, id) = (Arc::clone(self), key.clone(), id.clone());
        off_shard(move || {
            let made = bucket.made_by(&key, &id)?;
            made.ok_or_else(|| bucket.no_such_upload())
        })
        .await
    }

    fn made_by(&self, key: &ObjectKey, id: &UploadId) -> Result<Option<Arc<Entry>>, EngineError> {
        const DOING: &str = "looking for a completed upload";
        let Some(pinned) = self.find(key, Patience::Blocking).doing(DOING)? else {
            return Ok(None);
        };
        let file = files::reopen_for_read(&pinned.file).doing(DOING)?;
        let stat = files::stat(&file).doing(DOING)?;
        let record = self.read_record(key, &file, &stat)?;
        let Some(record) = record.filter(|record| record.upload.as_ref() == Some(id)) else {
            return Ok(None);
        };
        // Who gave it its name may have died before that was durable.
        match (pinned.place, tree_path(key)) {
            (walk::Place::Tree, Some(path)) => self.sync_nearest(path)?,
            _ => self.sync_nearest(&overlay::path(key))?,
        }
        Ok(Some(Arc::new(record.into_entry(&stat))))
    }

    /// Holds the upload's lock and the key's, in this order everywhere.
    fn complete_locked(
        self: &Arc<Self>,
        turn: Turn,
        lock: &KeyLock,
        key: &ObjectKey,
        plan: CompletePlan,
    ) -> Result<Arc<Entry>, EngineError> {
        turn.check(self)?;
        let upload = Arc::clone(&turn.upload);
        if let Some(entry) = self.made_by(key, &upload.upload.id)? {
            // Whoever made it did not live to retire the upload.
            self.retire(turn)?;
            return Ok(entry);
        }
        let (chosen, assembly) = {
            let ledger = upload.ledger();
            let chosen = ledger.choose(&plan.parts)?;
            let assembly = ledger.assembly(&chosen);
            let chosen: Vec<Committed> = chosen.into_iter().cloned().collect();
            (chosen, assembly)
        };
        // Before anything is copied; the commit asks again.
        if !plan.precondition.is_empty() {
            plan.precondition.check(self.current(key)?.as_deref())?;
        }
        let in_place = match assembly {
            Assembly::InPlace { size_bytes } => self.cut_data(key, &upload, size_bytes)?,
            Assembly::Copy => None,
        };
        let draft = match in_place {
            Some(draft) => draft,
            None => self.join_parts(&lock.home, key, &upload, &chosen)?,
        };
        let parts: Vec<Part> = chosen.into_iter().map(|chosen| chosen.part).collect();
        let description = Description {
            seal: plan.seal(&upload.upload.plan),
            etag: Some(plan.etag),
            checksum: plan.checksum,
            metadata: upload.upload.plan.metadata.clone(),
            parts: part_sizes(&parts),
            upload: Some(upload.upload.id.clone()),
            version: None,
            modified: None,
        };
        let content = Content::Draft(draft);
        let entry = self.publish(lock, key, content, description, &plan.precondition)?;
        // The object is there and durable; what fails now is left to the next look at the upload.
        if let Err(error) = self.retire(turn) {
            tracing::warn!(bucket = %self.name, %error, "a completed upload was not removed");
        }
        Ok(entry)
    }

    /// `data`, ready to become the key's file. `None`: it cannot, because a late writer still has
    /// a slot of it, or because files where the key is to be have another group, access list or
    /// mount than those here.
    fn cut_data(
        &self,
        key: &ObjectKey,
        upload: &OpenUpload,
        size_bytes: u64,
    ) -> Result<Option<Draft>, EngineError> {
        const DOING: &str = "completing an upload";
        let dir = self.directory_above(key)?;
        if !is_alike(&dir, &upload.dir).doing(DOING)? {
            return Ok(None);
        }
        let file = files::open_existing(&upload.dir, DATA).doing(DOING)?;
        // All slots at once, until the file has another name and no writer finds it any more.
        if !files::ofd_lock(&file, ByteSpan::All).doing(DOING)? {
            return Ok(None);
        }
        let stat = files::stat(&file).doing(DOING)?;
        if stat.identity.size_bytes < size_bytes {
            return Err(EngineError::Corrupt {
                what: "the file `data` of an upload is shorter than its parts",
            });
        }
        if stat.links != 1 {
            return Ok(None);
        }
        if stat.identity.size_bytes > size_bytes {
            files::set_size(&file, size_bytes).doing(DOING)?;
        }
        if let Some(mode) = self.shared.file_mode {
            files::set_mode(&file, mode).doing(DOING)?;
        }
        let dir = files::open_directory(&upload.dir, ".").doing(DOING)?;
        Ok(Some(Draft {
            file,
            named: Some(Waiting::Kept { dir, name: DATA }),
        }))
    }

    /// The directory in which the key's file will be made, or the nearest one above it.
    fn directory_above(&self, key: &ObjectKey) -> Result<OwnedFd, EngineError> {
        let mut path = tree_path(key).map_or(".", |path| split(path).0);
        loop {
            match self.open_directory(path) {
                Err(errno) if is_absent(errno) && path != "." => path = split(path).0,
                result => return result.doing("looking for the directory of a key"),
            }
        }
    }

    fn join_parts(
        &self,
        home: &Arc<Home>,
        key: &ObjectKey,
        upload: &OpenUpload,
        chosen: &[Committed],
    ) -> Result<Draft, EngineError> {
        const DOING: &str = "opening a part";
        let draft = self.draft_for(home, key)?;
        let slot_bytes = upload.ledger().slot_bytes;
        let mut data: Option<OwnedFd> = None;
        let mut end_bytes = 0;
        for Committed { part, place } in chosen {
            let (own, start_bytes) = match place {
                Place::Slot => {
                    if data.is_none() {
                        data = Some(files::open_existing(&upload.dir, DATA).doing(DOING)?);
                    }
                    let slot_bytes = slot_bytes.ok_or(EngineError::Corrupt {
                        what: "the ledger of an upload has parts in slots and no size of slots",
                    })?;
                    (None, u64::from(part.number - 1) * slot_bytes)
                }
                Place::File(name) => {
                    let flags = OFlags::RDONLY | OFlags::NOFOLLOW;
                    match files::open_at(&upload.dir, name, flags) {
                        Ok(file) => (Some(file), 0),
                        Err(errno) if is_absent(errno) => {
                            return Err(EngineError::InvalidPart {
                                number: part.number,
                            });
                        }
                        Err(errno) => return Err(fault(DOING, errno)),
                    }
                }
            };
            let Some(source) = own.as_ref().or(data.as_ref()) else {
                continue;
            };
            copy_bytes(source, start_bytes, &draft.file, end_bytes, part.size_bytes)?;
            end_bytes += part.size_bytes;
        }
        Ok(draft)
    }
}
