//! Where a record lies: in the attribute `user.lobos` of the file, or, if it does not fit or there
//! are no attributes, in a side file.
//!
//! The side file is `.lobos/side/<first two digits>/<other digits of the key's hash>/<id>`, written
//! and synced before the object gets its name. The id is random and stands in the attribute; on a
//! file system without attributes it is made of the file's inode, size and modification time. So
//! no crash pairs new bytes with old metadata. Whoever changes a key removes, under its lock, all
//! files of the key's directory but the current one, those of a crash included; of a key with a
//! history only those of versions that go.

use std::os::fd::AsFd;
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::bucket::FsBucket;
use super::faults::{Doing, fault};
use super::history;
use super::record::{Record, SideRef};
use super::scratch::Home;
use super::types::KeyHash;
use super::walk::is_absent;
use crate::engine::types::hex;
use crate::engine::{EngineError, ObjectKey};
use crate::io::files::{self, Attribute, Stat};

/// The attribute that holds an object's record.
const ATTRIBUTE: &str = "user.lobos";

impl FsBucket {
    /// Stores the record of the file, which is in the state `stat` and will become `key`'s. Gives
    /// the name of the side file, if there is one now.
    pub(super) fn write_record(
        &self,
        home: &Arc<Home>,
        key: &ObjectKey,
        file: impl AsFd,
        stat: &Stat,
        record: &Record,
    ) -> Result<Option<String>, EngineError> {
        let bytes = record.encode();
        match files::write_attribute(&file, ATTRIBUTE, &bytes) {
            Ok(()) => return Ok(None),
            Err(Errno::OPNOTSUPP) => {
                let name = node_name(stat);
                self.write_side(home, key, &name, record)?;
                return Ok(Some(name));
            }
            Err(Errno::NOSPC | Errno::TOOBIG | Errno::RANGE) => {}
            Err(errno) => return Err(fault("writing the record of an object", errno)),
        }
        let side = SideRef {
            key_hash: KeyHash::of(key.as_str()).0,
            id: self.shared.entropy.bytes(),
        };
        let name = hex(&side.id);
        self.write_side(home, key, &name, record)?;
        files::write_attribute(&file, ATTRIBUTE, &record.slim(side).encode())
            .doing("writing the record of an object")?;
        Ok(Some(name))
    }

    fn write_side(
        &self,
        home: &Arc<Home>,
        key: &ObjectKey,
        name: &str,
        record: &Record,
    ) -> Result<(), EngineError> {
        const DOING: &str = "writing the side file of an object";
        let record = Record {
            key: Some(key.as_str().into()),
            ..record.clone()
        };
        let path = directory(&KeyHash::of(key.as_str()));
        let dir = self.make_directory(home, &path).doing(DOING)?;
        let fresh = home.scratch.name();
        let file = files::create_new(&home.scratch.dir, &fresh, 0o600).doing(DOING)?;
        let pieces = [record.encode().into()];
        let result = files::write_all_at(&file, &pieces, 0)
            .and_then(|()| files::sync_all(&file))
            .and_then(|()| files::rename(&home.scratch.dir, &fresh, &dir, name));
        if let Err(errno) = result {
            let _ = files::unlink(&home.scratch.dir, &fresh);
            return Err(fault(DOING, errno));
        }
        self.sync_directory(&path, &dir)
    }

    /// The record of an open file in the state `stat`, adapted to that state; `None` if it has
    /// none. Errors: [`EngineError::Corrupt`].
    pub(super) fn read_record(
        &self,
        key: &ObjectKey,
        file: impl AsFd,
        stat: &Stat,
    ) -> Result<Option<Record>, EngineError> {
        const DOING: &str = "reading the record of an object";
        let mut bytes = Vec::new();
        let mut record = match files::read_attribute(file, ATTRIBUTE, &mut bytes).doing(DOING)? {
            Attribute::Found => Record::decode(&bytes).map_err(|_| self.damaged(key))?,
            Attribute::Absent => return Ok(None),
            Attribute::Unsupported => {
                let path = directory(&KeyHash::of(key.as_str()));
                match self.read_side(&path, &node_name(stat))? {
                    Some(record) => record,
                    None => return Ok(None),
                }
            }
        };
        if let Some(side) = record.side {
            let path = directory(&KeyHash(side.key_hash));
            // Without its side file (a tree copied without `.lobos`) an object has what the
            // attribute says.
            if let Some(whole) = self.read_side(&path, &hex(&side.id))?
                && whole.guard == record.guard
            {
                record = whole;
            }
        }
        record.adapt(stat);
        Ok(Some(record))
    }

    /// Tells the operator which file it is, and what helps: the client learns neither.
    fn damaged(&self, key: &ObjectKey) -> EngineError {
        tracing::error!(bucket = %self.name, %key,
            "the attribute user.lobos of this key's file is damaged, and the key is refused until \
             it is written again; to serve the file as one that nobody uploaded, without its \
             metadata, remove the attribute: setfattr -x user.lobos FILE");
        DAMAGED
    }

    fn read_side(&self, directory: &str, name: &str) -> Result<Option<Record>, EngineError> {
        const DOING: &str = "reading the side file of an object";
        let file = match self
            .tree
            .open(&format!("{directory}/{name}"), OFlags::RDONLY)
        {
            Ok(file) => file,
            Err(Errno::NOENT) => return Ok(None),
            Err(errno) => return Err(fault(DOING, errno)),
        };
        let size_bytes = files::stat(&file).doing(DOING)?.identity.size_bytes;
        let size = usize::try_from(size_bytes)
            .ok()
            .filter(|size| *size <= SIDE_BYTES_MAX)
            .ok_or(DAMAGED)?;
        let mut bytes = vec![0; size];
        let count = files::read_at(&file, &mut bytes, 0).doing(DOING)?;
        let (bytes, _) = bytes.split_at(count);
        Record::decode(bytes).map(Some).map_err(|_| DAMAGED)
    }

    /// The side file of `key` that the record of an open file refers to.
    pub(super) fn side_name(&self, key: &ObjectKey, file: impl AsFd) -> Option<String> {
        let mut bytes = Vec::new();
        match files::read_attribute(&file, ATTRIBUTE, &mut bytes).ok()? {
            Attribute::Found => {
                let side = Record::decode(&bytes).ok()?.side?;
                (side.key_hash == KeyHash::of(key.as_str()).0).then(|| hex(&side.id))
            }
            Attribute::Absent => None,
            Attribute::Unsupported => files::stat(file).ok().map(|stat| node_name(&stat)),
        }
    }

    /// Removes the side file of a version that is gone. Nothing depends on it.
    pub(super) fn drop_side(&self, key: &ObjectKey, name: &str) {
        if let Ok(dir) = self.open_directory(&directory(&KeyHash::of(key.as_str()))) {
            let _ = files::unlink(&dir, name);
        }
    }

    /// Removes the key's side files but `keep`, unless versions of its history may need them.
    /// Nothing depends on it: what fails is left to the next change of the key.
    pub(super) fn sweep_side(&self, key: &ObjectKey, keep: Option<&str>) {
        let path = directory(&KeyHash::of(key.as_str()));
        let Ok(dir) = self.open_directory(&path) else {
            return;
        };
        match self.open_directory(&history::path(key)) {
            Err(errno) if is_absent(errno) => {}
            _ => return,
        }
        let Ok(names) = files::names(&dir) else {
            return;
        };
        for (name, _) in names.names {
            if keep != Some(&*name) {
                let _ = files::unlink(&dir, &name);
            }
        }
        if keep.is_none()
            && let Some((above, name)) = path.rsplit_once('/')
            && let Ok(above) = self.open_directory(above)
        {
            let _ = files::remove_directory(above, name);
        }
    }
}

fn directory(hash: &KeyHash) -> String {
    let digits = hex(&hash.0);
    let (shelf, rest) = digits.split_at(2);
    format!(".lobos/side/{shelf}/{rest}")
}

fn node_name(stat: &Stat) -> String {
    let identity = &stat.identity;
    format!(
        "i{:x}-{:x}-{:x}",
        identity.inode, identity.size_bytes, identity.modified_nanos
    )
}

const DAMAGED: EngineError = EngineError::Corrupt {
    what: "the metadata record of the key's file (attribute user.lobos, or its side file)",
};
/// 10,000 parts with SHA-256 checksums and all the metadata that S3 allows, twice.
const SIDE_BYTES_MAX: usize = 1 << 20;
