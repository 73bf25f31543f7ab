//! Open uploads: `.lobos/uploads/<id>/`, each a directory of its own.
//!
//! ```text
//! upload            key, time, metadata and checksum of the upload to be; written once
//! parts             the ledger of its parts, only appended to; its lock is the upload's lock
//! data              slots of equal size, one per part number: the object to be
//! <number>-<hex>    one part that could not go to its slot
//! ```
//! The directory appears whole by a rename. It goes by another: to `<id>.gone`, which nobody looks
//! into and any process may remove. An id is the time in 16 hex digits and 32 random ones, so that
//! ids sort as the uploads were opened.
//!
//! An upload belongs to no process: every one keeps what it read of the ledger, and reads on.

use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedMutexGuard;

use super::bucket::FsBucket;
use super::faults::{Doing, fault, off_shard};
use super::ledger::{Fact, Ledger};
use super::scratch::Home;
use super::walk::is_absent;
use crate::clock::Timestamp;
use crate::engine::types::hex;
use crate::engine::{EngineError, ObjectKey, Upload, UploadId, UploadPlan};
use crate::io::files::{self, ByteSpan, Node};

/// Where uploads are, relative to the bucket.
pub(super) const ROOT: &str = ".lobos/uploads";

/// What this process knows of a bucket's uploads.
#[derive(Debug)]
pub(super) struct Uploads {
    open: quick_cache::sync::Cache<UploadId, Arc<OpenUpload>>,
    /// When it was last looked for those that nobody will complete, in seconds since 1970.
    swept_seconds: AtomicI64,
}

impl Default for Uploads {
    fn default() -> Self {
        Self {
            open: quick_cache::sync::Cache::new(OPEN_MAX),
            swept_seconds: AtomicI64::new(i64::MIN),
        }
    }
}

/// One upload, with its directory and ledger open.
#[derive(Debug)]
pub(super) struct OpenUpload {
    pub(super) upload: Arc<Upload>,
    pub(super) dir: OwnedFd,
    node: Node,
    pub(super) log: OwnedFd,
    ledger: Mutex<Ledger>,
    turn: Arc<tokio::sync::Mutex<()>>,
    /// The name `data` was synced by this process.
    pub(super) data_is_named: AtomicBool,
}

/// The file `upload`.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    format: u32,
    key: String,
    opened: Timestamp,
    plan: UploadPlan,
}

/// The right to change an upload: to add parts, to complete or to abort it.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) upload: Arc<OpenUpload>,
    // Dropped after the lock between processes was given back in `drop`.
    _local: OwnedMutexGuard<()>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        // Fails only when the file is gone, and then there is nothing to give back.
        let _ = files::ofd_unlock(&self.upload.log, ByteSpan::All);
    }
}

impl FsBucket {
    /// Makes the upload's directory, whole and durable.
    pub(super) fn make_upload(
        &self,
        home: &Arc<Home>,
        key: &ObjectKey,
        plan: UploadPlan,
    ) -> Result<UploadId, EngineError> {
        const DOING: &str = "opening an upload";
        let opened = self.shared.clock.now();
        let random = hex(&self.shared.entropy.bytes::<16>());
        let id = UploadId::new(format!("{:016x}{random}", opened.unix_nanos.max(0)));
        let document = Document {
            format: FORMAT,
            key: key.as_str().to_owned(),
            opened,
            plan,
        };
        let json = serde_json::to_vec(&document).map_err(|_| EngineError::Corrupt {
            what: "an upload cannot be written down",
        })?;
        let uploads = self.make_directory(home, ROOT).doing(DOING)?;
        let fresh = home.scratch.name();
        files::make_directory(&home.scratch.dir, &fresh, 0o700).doing(DOING)?;
        let dir = files::open_directory(&home.scratch.dir, &fresh).doing(DOING)?;
        let made = fill(&dir, json).and_then(|()| {
            files::rename_new(&home.scratch.dir, &fresh, &uploads, id.as_str()).doing(DOING)
        });
        if let Err(error) = made {
            // What is left now, a sweep will remove.
            remove_flat(&home.scratch.dir, &fresh);
            return Err(error);
        }
        self.sync_directory(ROOT, &uploads)?;
        Ok(id)
    }

    /// The upload of that id and key.
    pub(super) async fn find_upload(
        self: &Arc<Self>,
        key: &ObjectKey,
        id: &UploadId,
    ) -> Result<Arc<OpenUpload>, EngineError> {
        let found = match self.known_upload(id)? {
            Some(found) => found,
            None => {
                let (bucket, id) = (Arc::clone(self), id.clone());
                off_shard(move || bucket.load_upload(&id)).await?
            }
        };
        if found.upload.key == *key {
            Ok(found)
        } else {
            Err(EngineError::NoSuchUpload)
        }
    }

    /// One that this process has open, if it still is there. One system call.
    fn known_upload(&self, id: &UploadId) -> Result<Option<Arc<OpenUpload>>, EngineError> {
        let Some(known) = self.uploads.open.get(id) else {
            return Ok(None);
        };
        if self.is_there(&known)? {
            return Ok(Some(known));
        }
        self.uploads.open.remove(id);
        Err(self.no_such_upload())
    }

    fn is_there(&self, upload: &OpenUpload) -> Result<bool, EngineError> {
        match self.anchor.stat_below(&path(&upload.upload.id)) {
            Ok(stat) => Ok(stat.node() == upload.node),
            Err(errno) if is_absent(errno) => Ok(false),
            Err(errno) => Err(fault("looking for an upload", errno)),
        }
    }

    /// `NoSuchUpload`, unless the bucket itself is no longer there.
    pub(super) fn no_such_upload(&self) -> EngineError {
        match self.is_in_place() {
            Ok(true) => EngineError::NoSuchUpload,
            Ok(false) => self.gone(),
            Err(error) => error,
        }
    }

    /// Opens the upload of that id.
    pub(super) fn load_upload(&self, id: &UploadId) -> Result<Arc<OpenUpload>, EngineError> {
        const DOING: &str = "opening an upload";
        if !is_id(id.as_str()) {
            return Err(EngineError::NoSuchUpload);
        }
        if let Some(known) = self.known_upload(id)? {
            return Ok(known);
        }
        let open = match self.open_directory(&path(id)) {
            Ok(dir) => OpenUpload::open(id, dir),
            Err(errno) if is_absent(errno) => Err(EngineError::NoSuchUpload),
            Err(errno) => Err(fault(DOING, errno)),
        };
        let open = match open {
            Ok(open) if open.is_spent()? || self.is_expired(&open) => {
                Err(EngineError::NoSuchUpload)
            }
            open => open,
        };
        let open = Arc::new(open.map_err(|error| match error {
            EngineError::NoSuchUpload => self.no_such_upload(),
            error => error,
        })?);
        self.uploads.open.insert(id.clone(), Arc::clone(&open));
        Ok(open)
    }

    /// Ids of all uploads, in the order they were opened.
    pub(super) fn upload_ids(&self) -> Result<Vec<UploadId>, EngineError> {
        const DOING: &str = "listing the uploads";
        let dir = match self.open_directory(ROOT) {
            Ok(dir) => dir,
            Err(errno) if is_absent(errno) => return Ok(Vec::new()),
            Err(errno) => return Err(fault(DOING, errno)),
        };
        let mut ids = Vec::new();
        files::each_name(&dir, |name, _| {
            if is_id(name) {
                ids.push(UploadId::new(name));
            }
        })
        .doing(DOING)?;
        ids.sort_unstable();
        Ok(ids)
    }

    /// Waits for the upload's lock. Errors: [`EngineError::Busy`] when another process keeps it
    /// for too long. Whoever has the turn has yet to [`Turn::check`].
    pub(super) async fn turn(&self, upload: &Arc<OpenUpload>) -> Result<Turn, EngineError> {
        self.turn_within(upload, WAIT_MAX).await
    }

    async fn turn_within(
        &self,
        upload: &Arc<OpenUpload>,
        wait_max: Duration,
    ) -> Result<Turn, EngineError> {
        self.check_writable()?;
        let local = Arc::clone(&upload.turn).lock_owned().await;
        let mut wait = WAIT_FIRST;
        let mut waited = Duration::ZERO;
        // Without such locks (the banner says so) one process at a time is what is promised.
        while self.traits.locks
            && !files::ofd_lock(&upload.log, ByteSpan::All).doing("locking an upload")?
        {
            if waited >= wait_max {
                return Err(EngineError::Busy);
            }
            tokio::time::sleep(wait).await;
            waited += wait;
            wait = (wait * 2).min(WAIT_STEP_MAX);
        }
        Ok(Turn {
            upload: Arc::clone(upload),
            _local: local,
        })
    }

    /// Takes the upload out of sight, durably, and has its files removed. It holds the turn, so
    /// that nobody adds a part to it afterwards.
    pub(super) fn retire(self: &Arc<Self>, turn: Turn) -> Result<(), EngineError> {
        const DOING: &str = "removing an upload";
        let id = &turn.upload.upload.id;
        let uploads = self.open_directory(ROOT).doing(DOING)?;
        let gone = format!("{}{GONE}", id.as_str());
        match files::rename(&uploads, id.as_str(), &uploads, &gone) {
            Ok(()) => {}
            Err(errno) if is_absent(errno) => return Err(self.no_such_upload()),
            Err(errno) => return Err(fault(DOING, errno)),
        }
        self.uploads.open.remove(id);
        self.sync_directory(ROOT, &uploads)?;
        drop(turn);
        // Large files take their time to go, and nobody has to wait for it.
        tokio::task::spawn_blocking(move || remove_flat(&uploads, &gone));
        Ok(())
    }

    /// Once an hour, while uploads are opened or listed: removes what was retired by a process
    /// that did not live to remove it, what was completed by one that did not live to retire it,
    /// and what nobody has touched for as long as the settings say. Nobody waits for it.
    pub(super) fn sweep_uploads(self: &Arc<Self>) {
        let now = self.shared.clock.now().unix_seconds();
        let swept = &self.uploads.swept_seconds;
        let last = swept.load(Ordering::Relaxed);
        let is_due = now < last || now.saturating_sub(last) >= SWEEP_SECONDS;
        let claim = || swept.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed);
        if !is_due || claim().is_err() {
            return;
        }
        let bucket = Arc::clone(self);
        tokio::spawn(async move {
            if let Err(error) = bucket.retire_stale().await {
                tracing::warn!(bucket = %bucket.name, %error, "stale uploads were not removed");
            }
        });
    }

    pub(super) async fn retire_stale(self: &Arc<Self>) -> Result<(), EngineError> {
        let bucket = Arc::clone(self);
        for upload in off_shard(move || bucket.stale_uploads()).await? {
            // Somebody at work on it has the lock: it is not stale.
            let Ok(turn) = self.turn_within(&upload, Duration::ZERO).await else {
                continue;
            };
            let bucket = Arc::clone(self);
            off_shard(move || {
                turn.check(&bucket)?;
                if turn.upload.is_spent()? || bucket.is_expired(&turn.upload) {
                    bucket.retire(turn)?;
                }
                Ok(())
            })
            .await?;
        }
        Ok(())
    }

    /// Removes what is retired and gives what should be.
    fn stale_uploads(&self) -> Result<Vec<Arc<OpenUpload>>, EngineError> {
        let Ok(uploads) = self.open_directory(ROOT) else {
            return Ok(Vec::new());
        };
        let mut stale = Vec::new();
        let names = files::names(&uploads).doing("looking for stale uploads")?;
        for (name, _) in names.names {
            if name.ends_with(GONE) {
                remove_flat(&uploads, &name);
                continue;
            }
            let id = UploadId::new(&*name);
            match self.load_upload(&id) {
                Ok(upload) if self.is_expired(&upload) => stale.push(upload),
                // Not found although it is there. What is damaged is left to people.
                Err(EngineError::NoSuchUpload) if is_id(&name) => {
                    let dir = files::open_directory(&uploads, &name).ok();
                    let open = dir.and_then(|dir| OpenUpload::open(&id, dir).ok());
                    stale.extend(open.map(Arc::new));
                }
                Ok(_) | Err(_) => {}
            }
        }
        Ok(stale)
    }

    /// Whether nobody has added a part for as long as the settings allow.
    fn is_expired(&self, upload: &OpenUpload) -> bool {
        let Some(expiry) = self.shared.upload_expiry else {
            return false;
        };
        let ledger = upload.ledger();
        let parts = ledger.parts.values().map(|c| c.part.modified);
        let touched = parts.fold(upload.upload.opened, Timestamp::max);
        let age = self.shared.clock.now().unix_seconds() - touched.unix_seconds();
        u64::try_from(age).is_ok_and(|age| age > expiry.as_secs())
    }
}

impl Turn {
    /// Makes sure that the upload still is one, and takes in what others added to its ledger.
    pub(super) fn check(&self, bucket: &FsBucket) -> Result<(), EngineError> {
        if !bucket.is_there(&self.upload)? {
            return Err(bucket.no_such_upload());
        }
        self.upload.refresh()
    }

    /// Appends to the ledger. What was appended is durable once the log is synced.
    pub(super) fn state(&self, fact: &Fact) -> Result<(), EngineError> {
        const DOING: &str = "writing to the ledger of an upload";
        let upload = &self.upload;
        let mut line = fact.to_line()?;
        let end_bytes = files::stat(&upload.log).doing(DOING)?.identity.size_bytes;
        if end_bytes != upload.ledger().read_bytes {
            // Somebody died while writing: end that line.
            line.insert(0, b'\n');
        }
        files::write_all_at(&upload.log, &[line.into()], end_bytes).doing(DOING)?;
        upload.refresh()
    }
}

impl OpenUpload {
    /// Opens the files of the upload in `dir`. Errors: [`EngineError::NoSuchUpload`] when they are
    /// being removed.
    fn open(id: &UploadId, dir: OwnedFd) -> Result<Self, EngineError> {
        let open = |name| match files::open_existing(&dir, name) {
            Err(errno) if is_absent(errno) => Err(EngineError::NoSuchUpload),
            result => result.doing("opening an upload"),
        };
        let (document, log) = (open(UPLOAD)?, open(PARTS)?);
        let node = files::stat(&dir).doing("opening an upload")?.node();
        Ok(Self {
            upload: Arc::new(read_upload(id, &document)?),
            dir,
            node,
            log,
            ledger: Mutex::default(),
            turn: Arc::default(),
            data_is_named: AtomicBool::new(false),
        })
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Lines are taken in one by one.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in what was appended to the ledger since.
    pub(super) fn refresh(&self) -> Result<(), EngineError> {
        const DOING: &str = "reading the ledger of an upload";
        let mut ledger = self.ledger();
        let size_bytes = files::stat(&self.log).doing(DOING)?.identity.size_bytes;
        let Some(new_bytes) = size_bytes.checked_sub(ledger.read_bytes) else {
            return Err(EngineError::Corrupt {
                what: "the ledger of an upload has become shorter",
            });
        };
        if new_bytes == 0 {
            return Ok(());
        }
        let mut bytes = vec![0; usize::try_from(new_bytes).unwrap_or(usize::MAX)];
        let count = files::read_at(&self.log, &mut bytes, ledger.read_bytes).doing(DOING)?;
        bytes.truncate(count);
        ledger.take_in(&bytes);
        Ok(())
    }

    /// Whether its object was made of `data`: a process died between that and retiring it.
    fn is_spent(&self) -> Result<bool, EngineError> {
        self.refresh()?;
        if !self.ledger().uses_slots() {
            return Ok(false);
        }
        match files::stat_at(&self.dir, DATA) {
            Ok(_) => Ok(false),
            Err(Errno::NOENT) => Ok(true),
            Err(errno) => Err(fault("looking for the parts of an upload", errno)),
        }
    }
}

/// Writes the files of a new upload.
fn fill(dir: &OwnedFd, json: Vec<u8>) -> Result<(), EngineError> {
    const DOING: &str = "writing an upload";
    let upload = files::create_new(dir, UPLOAD, 0o600).doing(DOING)?;
    files::write_all_at(&upload, &[json.into()], 0).doing(DOING)?;
    files::sync_all(&upload).doing(DOING)?;
    let parts = files::create_new(dir, PARTS, 0o600).doing(DOING)?;
    files::sync_all(&parts).doing(DOING)?;
    files::sync_all(dir).doing(DOING)
}

fn read_upload(id: &UploadId, file: &OwnedFd) -> Result<Upload, EngineError> {
    const DOING: &str = "reading an upload";
    const DAMAGED: EngineError = EngineError::Corrupt {
        what: "the file `upload` of an upload in .lobos/uploads",
    };
    let size_bytes = files::stat(file).doing(DOING)?.identity.size_bytes;
    if size_bytes > DOCUMENT_BYTES_MAX {
        return Err(DAMAGED);
    }
    let mut bytes = vec![0; usize::try_from(size_bytes).unwrap_or(0)];
    files::read_at(file, &mut bytes, 0).doing(DOING)?;
    let document: Document = serde_json::from_slice(&bytes).map_err(|_| DAMAGED)?;
    if document.format != FORMAT {
        return Err(EngineError::Corrupt {
            what: "an upload was opened by a newer version, which has to complete it",
        });
    }
    Ok(Upload {
        id: id.clone(),
        key: ObjectKey::parse(&document.key).map_err(|_| DAMAGED)?,
        opened: document.opened,
        plan: document.plan,
    })
}

/// Removes a directory of files, as far as it can.
fn remove_flat(above: &OwnedFd, name: &str) {
    let Ok(dir) = files::open_directory(above, name) else {
        return;
    };
    for (name, _) in files::names(&dir)
        .map(|names| names.names)
        .unwrap_or_default()
    {
        let _ = files::unlink(&dir, &name);
    }
    let _ = files::remove_directory(above, name);
}

fn path(id: &UploadId) -> String {
    format!("{ROOT}/{}", id.as_str())
}

/// Whether a process could have made this id: also keeps paths out of the file system.
fn is_id(id: &str) -> bool {
    let is_digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    id.len() == 48 && id.bytes().all(is_digit)
}

pub(super) const DATA: &str = "data";
const UPLOAD: &str = "upload";
const PARTS: &str = "parts";
/// What a retired upload's directory is called after its id.
const GONE: &str = ".gone";
const FORMAT: u32 = 1;
/// Uploads that are kept open, each with two descriptors.
const OPEN_MAX: usize = 128;
/// All metadata that S3 allows, escaped.
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;
const SWEEP_SECONDS: i64 = 3600;
/// Between two attempts to get a lock that another process holds.
const WAIT_FIRST: Duration = Duration::from_micros(200);
const WAIT_STEP_MAX: Duration = Duration::from_millis(20);
/// Completing an upload that has to be copied takes long; others get 503 and come again.
const WAIT_MAX: Duration = Duration::from_secs(30);
