//! A bucket's configuration: `.lobos/config`, one JSON document, replaced as a whole.
//!
//! It names the installation (the state directory) that wrote it. What another installation wrote,
//! or what was copied into the tree, says who owned the bucket elsewhere: it is ignored, and the
//! bucket is the root user's.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::bucket::FsBucket;
use super::faults::{Doing, off_shard};
use super::lock::KeyLock;
use super::scratch::is_safe;
use super::types::KeyHash;
use crate::clock::Timestamp;
use crate::engine::types::hex;
use crate::engine::{BucketConfig, EngineError};
use crate::io::files::{self, Identity, Tree};

const NAME: &str = "config";
pub(super) const PATH: &str = ".lobos/config";

/// The document.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Document {
    format: u32,
    installation: String,
    bucket: BucketConfig,
}

/// The configuration as it was last read.
#[derive(Debug, Default)]
pub(super) struct ConfigCell {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    last: Option<Last>,
    /// Changes made by this process: what was read before one is not kept after it.
    round: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Last {
    pub(super) config: Arc<BucketConfig>,
    /// `None`: there was no document.
    identity: Option<Identity>,
    looked: Timestamp,
}

/// What lies at [`PATH`].
enum Found {
    Nothing,
    Ours(BucketConfig),
    /// Not believed, for this reason.
    Foreign(&'static str),
}

impl FsBucket {
    /// The configuration, at most [`FRESH_NANOS`] old.
    pub(super) fn config_now(&self) -> Result<Arc<BucketConfig>, EngineError> {
        let now = self.shared.clock.now();
        if let (Some(last), _) = self.last_config()
            && last.looked.unix_nanos.abs_diff(now.unix_nanos) < FRESH_NANOS
        {
            return Ok(last.config);
        }
        self.fresh_config()
    }

    /// The configuration as it is now: for writers, who hold their key's lock. One system call,
    /// unless it changed.
    pub(super) fn fresh_config(&self) -> Result<Arc<BucketConfig>, EngineError> {
        let now = self.shared.clock.now();
        let (last, round) = self.last_config();
        let identity = match files::stat_at(self.tree.root(), PATH) {
            Ok(stat) => Some(stat.identity),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(errno) => return Err(errno).doing("examining the bucket's configuration"),
        };
        let config = match last {
            Some(last) if last.identity == identity => last.config,
            _ => Arc::new(self.read_config()?),
        };
        let last = Last {
            config: Arc::clone(&config),
            identity,
            looked: now,
        };
        self.keep_config(last, round);
        Ok(config)
    }

    /// See [`crate::engine::Bucket::change_config`]. All changers, of every process, take one lock;
    /// each reads the file anew and replaces it as a whole.
    pub(in crate::engine) async fn change_config<E>(
        self: &Arc<Self>,
        change: impl FnOnce(&mut BucketConfig) -> Result<(), E> + Send + 'static,
    ) -> Result<Arc<BucketConfig>, E>
    where
        E: From<EngineError> + Send + 'static,
    {
        let lock = self.lock_hash(KeyHash::of(LOCK_NAME)).await?;
        let bucket = Arc::clone(self);
        off_shard(move || {
            let now = match bucket.find_config()? {
                Found::Ours(config) => config,
                Found::Nothing => bucket.nobodys_config()?,
                Found::Foreign(_) => return Err(EngineError::ForeignConfig),
            };
            let mut next = now.clone();
            if let Err(refusal) = change(&mut next) {
                return Ok(Err(refusal));
            }
            if next != now {
                bucket.replace_config(&lock, &next)?;
            }
            Ok(Ok(Arc::new(next)))
        })
        .await?
    }

    fn replace_config(&self, lock: &KeyLock, config: &BucketConfig) -> Result<(), EngineError> {
        const DOING: &str = "writing the bucket's configuration";
        let bytes = encode(self.shared.installation, config)?;
        let home = &lock.home;
        let name = home.scratch.name();
        let file = files::create_new(&home.scratch.dir, &name, 0o600).doing(DOING)?;
        files::write_all_at(&file, &[bytes.into()], 0)
            .and_then(|()| files::sync_all(&file))
            .and_then(|()| files::rename(&home.scratch.dir, &name, &home.dir, NAME))
            .doing(DOING)?;
        // What this process answers from now on is read from the new file.
        self.forget_config();
        self.sync_directory(super::RESERVED, &home.dir)
    }

    fn read_config(&self) -> Result<BucketConfig, EngineError> {
        match self.find_config()? {
            Found::Ours(config) => Ok(config),
            Found::Nothing => self.nobodys_config(),
            Found::Foreign(why) => {
                tracing::warn!(
                    bucket = %self.name,
                    "the bucket's .lobos/config {why}; ignored, and the bucket is the root user's"
                );
                self.nobodys_config()
            }
        }
    }

    fn find_config(&self) -> Result<Found, EngineError> {
        const DOING: &str = "reading the bucket's configuration";
        let file = match self.tree.open(PATH, OFlags::RDONLY) {
            Ok(file) => file,
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(Found::Nothing),
            Err(errno) => return Err(errno).doing(DOING),
        };
        let stat = files::stat(&file).doing(DOING)?;
        if !is_safe(&stat) || stat.identity.size_bytes > DOCUMENT_BYTES_MAX {
            return Ok(Found::Foreign("is not the server's own"));
        }
        let mut bytes = vec![0; usize::try_from(stat.identity.size_bytes).unwrap_or(0)];
        files::read_at(&file, &mut bytes, 0).doing(DOING)?;
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|_| EngineError::Corrupt {
                what: "the bucket's .lobos/config",
            })?;
        if document.format != FORMAT || document.installation != hex(&self.shared.installation) {
            return Ok(Found::Foreign("belongs to another installation"));
        }
        Ok(Found::Ours(document.bucket))
    }

    /// Of a directory that nobody created through S3.
    fn nobodys_config(&self) -> Result<BucketConfig, EngineError> {
        let stat = files::stat(self.tree.root()).doing("examining the bucket's directory")?;
        let born_nanos = match stat.born_nanos {
            0 => stat.identity.modified_nanos,
            born_nanos => born_nanos,
        };
        Ok(BucketConfig::new(
            None,
            Timestamp::from_unix_nanos(born_nanos),
        ))
    }

    pub(super) fn last_config(&self) -> (Option<Last>, u64) {
        let kept = self.config.kept();
        (kept.last.clone(), kept.round)
    }

    /// Keeps what was read in `round`, unless a change came between.
    fn keep_config(&self, last: Last, round: u64) {
        let mut kept = self.config.kept();
        if kept.round == round {
            kept.last = Some(last);
        }
    }

    fn forget_config(&self) {
        let mut kept = self.config.kept();
        kept.round += 1;
        kept.last = None;
    }
}

impl ConfigCell {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        // It is whole after every statement.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes the first configuration of a bucket whose `.lobos/` exists and which nobody sees yet.
pub(super) fn write_first(
    tree: &Tree,
    installation: [u8; 16],
    config: &BucketConfig,
) -> Result<(), EngineError> {
    const DOING: &str = "writing the bucket's configuration";
    let bytes = encode(installation, config)?;
    let dir = tree
        .open(super::RESERVED, OFlags::RDONLY | OFlags::DIRECTORY)
        .doing(DOING)?;
    let file = files::create_new(&dir, NAME, 0o600).doing(DOING)?;
    files::write_all_at(&file, &[bytes.into()], 0)
        .and_then(|()| files::sync_all(&file))
        .and_then(|()| files::sync_all(&dir))
        .doing(DOING)
}

fn encode(installation: [u8; 16], config: &BucketConfig) -> Result<Vec<u8>, EngineError> {
    // The bound is on what is said of the bucket.
    config.encode()?;
    let document = Document {
        format: FORMAT,
        installation: hex(&installation),
        bucket: config.clone(),
    };
    serde_json::to_vec(&document).map_err(|error| EngineError::Io {
        doing: "encoding the bucket's configuration",
        source: error.into(),
    })
}

const FORMAT: u32 = 1;
/// No key holds a NUL, so that no writer of a key waits for this lock within the process.
const LOCK_NAME: &str = ".lobos/config\0";
/// What another process changed is seen after this time.
const FRESH_NANOS: u64 = 1_000_000_000;
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;
