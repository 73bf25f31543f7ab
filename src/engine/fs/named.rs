//! A bucket that was named at start by the path of its directory.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use rustix::io::Errno;

use super::bucket::{Anchor, FsBucket, Shared};
use super::buckets::{FsOpenError, check_home};
use super::faults::off_shard;
use super::scratch::UNSAFE_HOME;
use crate::engine::{BucketName, EngineError};

/// The path, and the directory that was last seen there.
///
/// People replace a whole directory by a rename. What a request may be answered from is looked for
/// once in [`LOOK_NANOS`]; the look is one system call.
#[derive(Debug)]
pub(super) struct Named {
    name: BucketName,
    directory: PathBuf,
    shared: Arc<Shared>,
    bucket: ArcSwap<FsBucket>,
    looked_nanos: AtomicI64,
    /// One opens the directory anew, so that there is one [`FsBucket`] for it.
    opening: Mutex<()>,
}

impl Named {
    /// `directory`: a resolved path whose `.lobos` is sound.
    pub(super) fn open(
        name: BucketName,
        directory: PathBuf,
        shared: Arc<Shared>,
    ) -> Result<Self, Errno> {
        let bucket = open(&name, &directory, &shared)?;
        Ok(Self {
            name,
            directory,
            looked_nanos: AtomicI64::new(shared.clock.now().unix_nanos),
            shared,
            bucket: ArcSwap::new(bucket),
            opening: Mutex::default(),
        })
    }

    pub(super) fn directory(&self) -> &Path {
        &self.directory
    }

    /// The bucket as it was last seen.
    pub(super) fn last(&self) -> Arc<FsBucket> {
        self.bucket.load_full()
    }

    /// The bucket as its path leads to it, give or take a second. Errors: that of
    /// [`FsBucket::gone`], and [`EngineError::Unavailable`] for a directory that would have been
    /// refused at start.
    pub(super) async fn now(self: &Arc<Self>) -> Result<Arc<FsBucket>, EngineError> {
        let bucket = self.last();
        let now_nanos = self.shared.clock.now().unix_nanos;
        let looked_nanos = self.looked_nanos.load(Ordering::Relaxed);
        if now_nanos.abs_diff(looked_nanos) < LOOK_NANOS {
            return Ok(bucket);
        }
        if bucket.is_in_place()? {
            self.looked_nanos.store(now_nanos, Ordering::Relaxed);
            return Ok(bucket);
        }
        let named = Arc::clone(self);
        off_shard(move || named.open_anew()).await
    }

    fn open_anew(&self) -> Result<Arc<FsBucket>, EngineError> {
        // What the lock protects is replaced by one store.
        let _one = self.opening.lock().unwrap_or_else(PoisonError::into_inner);
        let last = self.last();
        if last.is_in_place()? {
            return Ok(last);
        }
        check_home(&self.directory).map_err(|error| match error {
            FsOpenError::UnsafeHome { .. } => UNSAFE_HOME,
            _ => last.gone(),
        })?;
        let bucket = open(&self.name, &self.directory, &self.shared).map_err(|_| last.gone())?;
        tracing::warn!(
            bucket = %self.name,
            "another directory is at the bucket's path now, and is served from here on"
        );
        self.bucket.store(Arc::clone(&bucket));
        Ok(bucket)
    }
}

fn open(name: &BucketName, directory: &Path, shared: &Arc<Shared>) -> Result<Arc<FsBucket>, Errno> {
    let (at, anchor) = (directory.to_owned(), Anchor::Path(directory.to_owned()));
    FsBucket::open_at(name.clone(), at, anchor, Arc::clone(shared)).map(Arc::new)
}

/// For how long a directory is believed to be in its place.
const LOOK_NANOS: u64 = 1_000_000_000;
