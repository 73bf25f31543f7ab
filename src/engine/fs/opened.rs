//! Whether a file still has the bytes with which it was opened.
//!
//! Size and modification time change with the bytes. A program that sets the time back after it has
//! written shows in the change time alone; but that moves as well when only something about the
//! file changes: a mode, an attribute, a name. So a change time alone counts as other bytes unless
//! something else explains it: the number of links, the mode or the owner, the name under which the
//! file was opened, or a change of metadata that this process made.

use std::collections::VecDeque;
use std::ffi::CString;
use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::faults::Doing;
use crate::engine::EngineError;
use crate::io::files::{self, Node, Stat};

/// A file open for reading, as it was when it was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: OwnedFd,
    pub(super) stat: Stat,
    /// Where it was then.
    path: Option<CString>,
}

impl Opened {
    /// `stat` is what was believed of the file when it was chosen.
    pub(super) fn new(file: OwnedFd, stat: Stat) -> Self {
        let path = files::path_of(&file).ok();
        Self { file, stat, path }
    }

    /// [`EngineError::Changed`] if its bytes may be others now.
    pub(super) fn check(&self, touches: &Touches) -> Result<(), EngineError> {
        let (now, was) = (
            files::stat(&self.file).doing("examining the key's file")?,
            &self.stat,
        );
        if now.identity == was.identity {
            return Ok(());
        }
        let has_same_bytes = now.identity.size_bytes == was.identity.size_bytes
            && now.identity.modified_nanos == was.identity.modified_nanos;
        let is_described_anew = now.links != was.links
            || now.mode != was.mode
            || (now.uid, now.gid) != (was.uid, was.gid);
        if has_same_bytes && (is_described_anew || self.was_renamed() || touches.lead(was, &now)) {
            return Ok(());
        }
        Err(EngineError::Changed)
    }

    /// Also: its name was given to another file, as a PUT does. It may have another name still.
    fn was_renamed(&self) -> bool {
        self.path.is_some() && files::path_of(&self.file).ok() != self.path
    }
}

/// The last changes of files' metadata that this process made where they are.
#[derive(Debug, Default)]
pub(super) struct Touches {
    recent: Mutex<VecDeque<Touch>>,
}

/// One of them: the file's change time before, and after it once it is over.
#[derive(Debug)]
struct Touch {
    node: Node,
    before_nanos: i64,
    after_nanos: Option<i64>,
}

impl Touches {
    /// Makes a change of a file's metadata, its bytes and their time left as they are.
    pub(super) fn around<T>(
        &self,
        file: &OwnedFd,
        stat: &Stat,
        change: impl FnOnce() -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let (node, before_nanos) = (stat.node(), stat.identity.changed_nanos);
        let mut recent = self.lock();
        if recent.len() == TOUCHES_MAX {
            recent.pop_front();
        }
        recent.push_back(Touch {
            node,
            before_nanos,
            after_nanos: None,
        });
        drop(recent);
        let result = change();
        let after = files::stat(file).map(|stat| stat.identity.changed_nanos);
        let mut recent = self.lock();
        let is_this = |touch: &&mut Touch| touch.node == node && touch.after_nanos.is_none();
        if let Some(touch) = recent.iter_mut().find(is_this) {
            touch.after_nanos = Some(after.unwrap_or(before_nanos));
        }
        result
    }

    /// Whether they alone lead from the one state of a file to the other.
    fn lead(&self, was: &Stat, now: &Stat) -> bool {
        let mut at_nanos = was.identity.changed_nanos;
        for touch in self.lock().iter() {
            if touch.node == now.node() && touch.before_nanos == at_nanos {
                match touch.after_nanos {
                    Some(after_nanos) => at_nanos = after_nanos,
                    // It goes on: the time may be that of any of its steps.
                    None => return true,
                }
            }
        }
        at_nanos == now.identity.changed_nanos
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Touch>> {
        // The list is whole after every statement.
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Readers for whom more changes than this were made meanwhile have to begin anew.
const TOUCHES_MAX: usize = 4096;
