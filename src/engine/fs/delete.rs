//! DELETE: the overlay's entry first, then the file, both under the key's lock.

use std::sync::Arc;

use rustix::io::Errno;

use super::bucket::FsBucket;
use super::faults::{Doing, off_shard};
use super::lock::KeyLock;
use super::overlay;
use super::walk::{Patience, is_absent, split, tree_path};
use crate::engine::{Deleted, EngineError, ObjectKey, Precondition, VersionId};
use crate::io::files::{self, Kind};

impl FsBucket {
    /// Removes the current entry. See [`crate::engine::Bucket::delete`].
    pub async fn delete(
        self: &Arc<Self>,
        key: &ObjectKey,
        precondition: &Precondition,
    ) -> Result<Deleted, EngineError> {
        let lock = self.lock(key).await?;
        let (bucket, key) = (Arc::clone(self), key.clone());
        let precondition = precondition.clone();
        off_shard(move || bucket.delete_locked(&lock, &key, &precondition)).await
    }

    fn delete_locked(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        precondition: &Precondition,
    ) -> Result<Deleted, EngineError> {
        if !precondition.is_empty() {
            precondition.check(self.current(key)?.as_deref())?;
        }
        let succession = self.succession(key, &*self.fresh_config()?)?;
        if let Some(marker) = self.next_marker(key, succession)? {
            let let_go = self.keep_current(lock, key, succession)?;
            self.write_marker(lock, key, &marker)?;
            self.remove_current(lock, key)?;
            if let Some(side) = let_go {
                self.drop_side(key, &side);
            }
            if marker.id == VersionId::Null
                && let Some(history) = self.drop_nulls(key, Some(&marker))?
            {
                self.settle_history(lock, &history)?;
            }
            return Ok(Deleted::Marked(marker.id));
        }
        let found = self
            .find(key, Patience::Blocking)
            .doing("looking for a key")?;
        self.remove_current(lock, key)?;
        self.sweep_side(key, None);
        if found.is_none() {
            // Who removed it may have died before that was durable, and before it could remove the
            // directories; the answer says that it is, and nobody else will come by.
            if let Some(path) = tree_path(key) {
                self.sync_nearest(path)?;
                self.prune(&lock.home, path);
            }
            self.sync_nearest(&overlay::path(key))?;
            return Ok(Deleted::Absent);
        }
        Ok(Deleted::Removed)
    }

    /// Removes the key's file, durably. The overlay's entry goes first: while the file is there it
    /// is invisible, and it must not come to light when the file is gone.
    pub(super) fn remove_current(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
    ) -> Result<(), EngineError> {
        self.remove_overlaid(lock, key, true)?;
        self.remove_from_tree(lock, key)
    }

    /// Removes the key's file in the tree, durably, if there is one.
    pub(super) fn remove_from_tree(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
    ) -> Result<(), EngineError> {
        match tree_path(key) {
            Some(path) => self.remove_file(lock, path),
            None => Ok(()),
        }
    }

    /// Removes the regular file or link at `path` in the tree, if there is one.
    fn remove_file(&self, lock: &KeyLock, path: &str) -> Result<(), EngineError> {
        const DOING: &str = "removing the key's file";
        let (above, name) = split(path);
        let dir = match self.open_directory(above) {
            Ok(dir) => dir,
            Err(errno) if is_absent(errno) => return Ok(()),
            Err(errno) => return Err(errno).doing(DOING),
        };
        match files::stat_at(&dir, name) {
            Ok(stat) if matches!(stat.kind(), Kind::File | Kind::Link) => {}
            Ok(_) => return Ok(()),
            Err(errno) if is_absent(errno) => return Ok(()),
            Err(errno) => return Err(errno).doing(DOING),
        }
        if self.traits.folds_names && !self.is_exact(path).doing(DOING)? {
            return Ok(());
        }
        match files::unlink(&dir, name) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(errno) => return Err(errno).doing(DOING),
        }
        self.sync_directory(above, &dir)?;
        self.prune(&lock.home, path);
        Ok(())
    }

    /// Removes the key's entry in the overlay, if there is one.
    pub(super) fn remove_overlaid(
        &self,
        lock: &KeyLock,
        key: &ObjectKey,
        is_synced: bool,
    ) -> Result<(), EngineError> {
        const DOING: &str = "removing the key's file in the overlay";
        let path = overlay::path(key);
        let (above, name) = split(&path);
        let dir = match self.open_directory(above) {
            Ok(dir) => dir,
            Err(errno) if is_absent(errno) => return Ok(()),
            Err(errno) => return Err(errno).doing(DOING),
        };
        match files::unlink(&dir, name) {
            Ok(()) => {}
            Err(errno) if is_absent(errno) => return Ok(()),
            Err(errno) => return Err(errno).doing(DOING),
        }
        if is_synced {
            self.sync_directory(above, &dir)?;
        }
        self.prune(&lock.home, &path);
        Ok(())
    }
}
