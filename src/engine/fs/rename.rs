//! RENAME: one rename of the file, under the locks of both keys.

use std::sync::Arc;

use rustix::io::Errno;

use super::bucket::FsBucket;
use super::faults::{Doing, fault, off_shard};
use super::lock::KeyLock;
use super::overlay;
use super::put::RACES_MAX;
use super::succession::Top;
use super::types::KeyHash;
use super::walk::{Place, split, tree_path};
use crate::engine::{EngineError, ObjectKey, RenamePlan};
use crate::io::files;

impl FsBucket {
    /// See [`crate::engine::Bucket::rename`].
    pub async fn rename(
        self: &Arc<Self>,
        from: &ObjectKey,
        to: &ObjectKey,
        plan: RenamePlan,
    ) -> Result<(), EngineError> {
        let mut hashes = [from, to].map(|key| KeyHash::of(key.as_str()));
        // In one order everywhere: renames that cross do not wait for each other.
        hashes.sort_by_key(|hash| hash.short());
        let [first, second] = hashes;
        let lock = self.lock_hash(first).await?;
        let other = match first.short() == second.short() {
            true => None,
            false => Some(self.lock_hash(second).await?),
        };
        let (bucket, from, to) = (Arc::clone(self), from.clone(), to.clone());
        off_shard(move || {
            let _other = other;
            bucket.rename_locked(&lock, &from, &to, &plan)
        })
        .await
    }

    fn rename_locked(
        &self,
        lock: &KeyLock,
        from: &ObjectKey,
        to: &ObjectKey,
        plan: &RenamePlan,
    ) -> Result<(), EngineError> {
        self.check_writable()?;
        if self.fresh_config()?.versioning.is_some() {
            return Err(cannot("its bucket keeps versions"));
        }
        let top = self.top(from)?.ok_or(EngineError::NoSuchKey)?;
        let there = self.top(to)?;
        plan.check(&top.entry, there.as_ref().map(|top| &*top.entry))?;
        if top.pinned.linked {
            return Err(cannot("it is a symbolic link"));
        }
        // It lies under the hash of the key, and nothing can move it together with the file.
        if self.side_of_pinned(from, &top.pinned).is_some() {
            return Err(cannot(
                "its metadata is too large to lie in the file itself",
            ));
        }
        if top.pinned.place == Place::Tree {
            // While the file is there this is invisible; it must not come to light.
            self.remove_overlaid(lock, from, true)?;
        }
        self.move_file(lock, from, to, &top, there.map(|there| there.pinned.place))
    }

    /// `there`: where the file is that has the new key now.
    fn move_file(
        &self,
        lock: &KeyLock,
        from: &ObjectKey,
        to: &ObjectKey,
        top: &Top,
        there: Option<Place>,
    ) -> Result<(), EngineError> {
        let overlaid = overlay::path(from);
        let path = match (top.pinned.place, tree_path(from)) {
            (Place::Tree, Some(path)) => path,
            _ => &overlaid,
        };
        let mut place = match top.entry.seal {
            None => Place::Tree,
            Some(_) => Place::Overlay,
        };
        for _ in 0..RACES_MAX {
            let (spot, dir) = self.claim(lock, to, &mut place)?;
            if (place, there) == (Place::Overlay, Some(Place::Tree)) {
                return Err(cannot("it would have to replace a file in another place"));
            }
            let (above, name) = split(path);
            let old_dir = self.open_directory(above).doing(RENAMING)?;
            let now = files::stat_at(&old_dir, name).doing(RENAMING)?;
            if now.node() != top.pinned.stat.node() {
                return Err(EngineError::Busy);
            }
            // rename(2) of two names of one file says it worked, and leaves both.
            if files::stat_at(&dir, split(&spot.path).1).is_ok_and(|it| it.node() == now.node()) {
                return Err(cannot("both keys are names of one file"));
            }
            match files::rename(&old_dir, name, &dir, split(&spot.path).1) {
                Ok(()) => {
                    if place == Place::Tree {
                        self.remove_overlaid(lock, to, true)?;
                    }
                    self.sync_directory(split(&spot.path).0, &dir)?;
                    self.sync_directory(above, &old_dir)?;
                    self.sweep_side(to, None);
                    self.prune(&lock.home, path);
                    return Ok(());
                }
                // Pruned since it was opened, or somebody made a directory of that name.
                Err(Errno::NOENT | Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => {}
                Err(Errno::XDEV) => return Err(cannot("the keys lie on different mounts")),
                Err(errno) => return Err(fault(RENAMING, errno)),
            }
        }
        Err(EngineError::Busy)
    }
}

fn cannot(why: &'static str) -> EngineError {
    EngineError::CannotRename { why }
}

const RENAMING: &str = "renaming a key's file";
