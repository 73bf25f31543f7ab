//! A bucket that was named at start by the path of its directory.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use rustix::io::Errno;

use super::bucket::{Anchor, FsBucket, Shared};
use crate::engine::{BucketName, EngineError};

/// The bucket, and when its directory was last seen in its place.
///
/// Writers look under their key's lock, so that nothing is ever written to the wrong place. What
/// is read may be a moment late: one look, a system call, holds for [`LOOK_NANOS`]. A directory
/// that lies at the path instead is not served: it may be what an unmounted volume was mounted on,
/// and its emptiness no news of the bucket.
#[derive(Debug)]
pub(super) struct Named {
    bucket: Arc<FsBucket>,
    looked_nanos: AtomicI64,
}

impl Named {
    /// `directory`: a resolved path whose `.lobos` is sound.
    pub(super) fn open(
        name: BucketName,
        directory: PathBuf,
        shared: Arc<Shared>,
    ) -> Result<Self, Errno> {
        let looked_nanos = AtomicI64::new(shared.clock.now().unix_nanos);
        let anchor = Anchor::Path(directory.clone());
        let bucket = Arc::new(FsBucket::open_at(name, directory, anchor, shared)?);
        Ok(Self {
            bucket,
            looked_nanos,
        })
    }

    /// The bucket, wherever its directory is now.
    pub(super) fn bucket(&self) -> &Arc<FsBucket> {
        &self.bucket
    }

    /// The bucket, if its directory is in its place, give or take a second; otherwise the error of
    /// [`FsBucket::gone`].
    pub(super) fn in_place(&self) -> Result<Arc<FsBucket>, EngineError> {
        let now_nanos = self.bucket.shared.clock.now().unix_nanos;
        let looked_nanos = self.looked_nanos.load(Ordering::Relaxed);
        if now_nanos.abs_diff(looked_nanos) >= LOOK_NANOS {
            if !self.bucket.is_in_place()? {
                return Err(self.bucket.gone());
            }
            self.looked_nanos.store(now_nanos, Ordering::Relaxed);
        }
        Ok(Arc::clone(&self.bucket))
    }
}

/// For how long a directory is believed to be in its place.
const LOOK_NANOS: u64 = 1_000_000_000;
