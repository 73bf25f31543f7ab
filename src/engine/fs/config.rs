//! A bucket's configuration: `.lobos/config`, one JSON document, replaced as a whole.
//!
//! It names the installation (the state directory) that wrote it. What another installation wrote,
//! or what was copied into the tree, says who owned the bucket elsewhere: it is ignored, and the
//! bucket is the root user's.

use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use super::bucket::FsBucket;
use super::faults::Doing;
use super::scratch::is_safe;
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
    last: Mutex<Option<Last>>,
}

#[derive(Clone, Debug)]
struct Last {
    config: Arc<BucketConfig>,
    /// `None`: there was no document.
    identity: Option<Identity>,
    looked: Timestamp,
}

impl FsBucket {
    /// The configuration, at most [`FRESH_NANOS`] old.
    pub(super) fn config_now(&self) -> Result<Arc<BucketConfig>, EngineError> {
        let now = self.shared.clock.now();
        let last = self.last_config();
        if let Some(last) = &last
            && last.looked.unix_nanos.abs_diff(now.unix_nanos) < FRESH_NANOS
        {
            return Ok(Arc::clone(&last.config));
        }
        let identity = match files::stat_at(self.tree.root(), PATH) {
            Ok(stat) => Some(stat.identity),
            Err(Errno::NOENT | Errno::NOTDIR) => None,
            Err(errno) => return Err(errno).doing("examining the bucket's configuration"),
        };
        let config = match last {
            Some(last) if last.identity == identity => last.config,
            _ => Arc::new(self.read_config(identity.is_some())?),
        };
        self.keep_config(Last {
            config: Arc::clone(&config),
            identity,
            looked: now,
        });
        Ok(config)
    }

    fn read_config(&self, is_there: bool) -> Result<BucketConfig, EngineError> {
        let nobodys = || self.nobodys_config();
        if !is_there {
            return nobodys();
        }
        const DOING: &str = "reading the bucket's configuration";
        let file = self.tree.open(PATH, OFlags::RDONLY).doing(DOING)?;
        let stat = files::stat(&file).doing(DOING)?;
        if !is_safe(&stat) || stat.identity.size_bytes > DOCUMENT_BYTES_MAX {
            tracing::warn!(bucket = %self.name, "the bucket's .lobos/config is not the server's own; ignored");
            return nobodys();
        }
        let mut bytes = vec![0; usize::try_from(stat.identity.size_bytes).unwrap_or(0)];
        files::read_at(&file, &mut bytes, 0).doing(DOING)?;
        let document: Document =
            serde_json::from_slice(&bytes).map_err(|_| EngineError::Corrupt {
                what: "the bucket's .lobos/config",
            })?;
        if document.format != FORMAT || document.installation != hex(&self.shared.installation) {
            tracing::warn!(
                bucket = %self.name,
                "the bucket's .lobos/config belongs to another installation; ignored, and the bucket is the root user's"
            );
            return nobodys();
        }
        Ok(document.bucket)
    }

    /// Of a directory that nobody created through S3.
    fn nobodys_config(&self) -> Result<BucketConfig, EngineError> {
        let stat = files::stat(self.tree.root()).doing("examining the bucket's directory")?;
        let born_nanos = match stat.born_nanos {
            0 => stat.identity.modified_nanos,
            born_nanos => born_nanos,
        };
        Ok(BucketConfig {
            owner: None,
            created: Timestamp::from_unix_nanos(born_nanos),
        })
    }

    fn last_config(&self) -> Option<Last> {
        let last = self.config.last.lock();
        last.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep_config(&self, last: Last) {
        let mut cell = self
            .config
            .last
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *cell = Some(last);
    }
}

/// Writes the first configuration of a bucket whose `.lobos/` exists and which nobody sees yet.
pub(super) fn write_first(
    tree: &Tree,
    installation: [u8; 16],
    config: &BucketConfig,
) -> Result<(), EngineError> {
    const DOING: &str = "writing the bucket's configuration";
    let document = Document {
        format: FORMAT,
        installation: hex(&installation),
        bucket: config.clone(),
    };
    let bytes = serde_json::to_vec(&document).map_err(|error| EngineError::Io {
        doing: DOING,
        source: error.into(),
    })?;
    let dir = tree
        .open(super::RESERVED, OFlags::RDONLY | OFlags::DIRECTORY)
        .doing(DOING)?;
    let file = files::create_new(&dir, NAME, 0o600).doing(DOING)?;
    files::write_all_at(&file, &[bytes.into()], 0)
        .and_then(|()| files::sync_all(&file))
        .and_then(|()| files::sync_all(&dir))
        .doing(DOING)
}

const FORMAT: u32 = 1;
/// What another process changed is seen after this time.
const FRESH_NANOS: u64 = 1_000_000_000;
const DOCUMENT_BYTES_MAX: u64 = 1 << 20;
