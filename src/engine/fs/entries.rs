//! From a file to the entry that it is.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use rustix::fs::OFlags;

use super::bucket::FsBucket;
use super::cache::Known;
use super::faults::Doing;
use super::history::Stamp;
use super::walk::Pinned;
use super::{content_type, faults};
use crate::engine::{EngineError, Entry, ObjectKey};
use crate::io::files::{self, Stat};

impl FsBucket {
    /// The current entry of a key, for a writer that holds its lock.
    pub(super) fn current(&self, key: &ObjectKey) -> Result<Option<Arc<Entry>>, EngineError> {
        Ok(self.top(key)?.map(|top| top.entry))
    }

    /// The entry of the regular file `name` in the open directory `dir`, which was seen in the
    /// state `stat` after the clock showed `looked_nanos`. `None`: it is gone or replaced.
    pub(super) fn entry_at(
        &self,
        key: &ObjectKey,
        dir: impl AsFd,
        name: &str,
        stat: &Stat,
        looked_nanos: i64,
    ) -> Result<Option<Arc<Entry>>, EngineError> {
        if let Some(entry) = self.known_entry_of(key, stat) {
            return Ok(Some(entry));
        }
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match files::open_at(dir, name, flags) {
            Ok(file) => file,
            Err(errno) if super::walk::is_absent(errno) => return Ok(None),
            Err(errno) => return Err(faults::fault("opening a file", errno)),
        };
        let now = files::stat(&file).doing("examining a file")?;
        if now.node() != stat.node() {
            return Ok(None);
        }
        self.build_entry(key, &file, &now, looked_nanos).map(Some)
    }

    /// The entry, if the file's record was read in this state before. Never blocks.
    pub(super) fn known_entry_of(&self, key: &ObjectKey, stat: &Stat) -> Option<Arc<Entry>> {
        let known = self.known_entry(stat)?;
        // One file may have the names of several keys.
        let is_typed_so = !known.is_typed_by_name
            || known.entry.metadata.content_type.as_deref()
                == Some(content_type::of_name(key.as_str()));
        let is_version = Stamp::of(&known.entry.version).is_none_or(|stamp| stamp.is_of(key));
        (is_typed_so && is_version).then_some(known.entry)
    }

    /// The entry of a pinned file and the file, opened for reading.
    pub(super) fn load_entry(
        &self,
        key: &ObjectKey,
        pinned: &Pinned,
        looked_nanos: i64,
    ) -> Result<(Arc<Entry>, OwnedFd), EngineError> {
        let file = files::reopen_for_read(&pinned.file).doing("opening the key's file")?;
        let entry = self.build_entry(key, &file, &pinned.stat, looked_nanos)?;
        Ok((entry, file))
    }

    fn build_entry(
        &self,
        key: &ObjectKey,
        file: &OwnedFd,
        stat: &Stat,
        looked_nanos: i64,
    ) -> Result<Arc<Entry>, EngineError> {
        let record = self.read_record(key, file, stat)?;
        let is_typed_by_name = record.is_none();
        let mut record = record.unwrap_or_default();
        // Copied or renamed together with its record, it is nobody's version but the null one.
        record.version = record.version.filter(|stamp| stamp.is_of(key));
        let mut entry = record.into_entry(stat);
        if is_typed_by_name {
            entry.metadata.content_type = Some(content_type::of_name(key.as_str()).into());
        }
        let entry = Arc::new(entry);
        let known = Known {
            identity: stat.identity,
            entry: Arc::clone(&entry),
            is_typed_by_name,
        };
        self.keep_entry(known, looked_nanos);
        Ok(entry)
    }
}
