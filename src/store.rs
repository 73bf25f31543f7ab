//! The blob store on its way from a path to an open engine: made if it is missing, locked,
//! recovered; and what to do where that fails.

#[cfg(feature = "spdk")]
pub mod spdk;

use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD};

use crate::clock::{Clock, Entropy};
use crate::config::{self, BlobPlace, shell_quoted};
use crate::engine::EngineError;
use crate::engine::blob::{BlobEngine, BlobMemory, BlobOpenError, BlobSettings};
use crate::io::device::{Access, Device, DeviceError, OpenOptions, create_file};

/// Why there is no store. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(
        "there is no blob store at {}; to make one, say how large it shall be: --blob {}:10GiB",
        path.display(), shell_quoted(&path.display().to_string())
    )]
    Missing { path: PathBuf },
    #[error(
        "{} is not formatted as a blob store; make it one with: lobos blob format {quoted} \
         (if it holds something else: lobos blob format --force {quoted}, which destroys that)",
        path.display(), quoted = shell_quoted(&path.display().to_string())
    )]
    NotFormatted { path: PathBuf },
    #[error(
        "{} exists already, and formatting does not change its size; leave the size away, or make \
         it larger with `lobos blob grow`",
        path.display()
    )]
    Exists { path: PathBuf },
    #[error(transparent)]
    Device(#[from] DeviceError),
    #[error("{}: {source}", path.display())]
    Refused {
        path: PathBuf,
        source: BlobOpenError,
    },
    #[cfg(feature = "spdk")]
    #[error(transparent)]
    Spdk(#[from] crate::io::spdk::SpdkError),
    #[cfg(feature = "spdk")]
    #[error(
        "{place} holds something that is no store of Lobos'; nothing was changed. If it may be \
         destroyed, set `force = true` in [spdk_blobstore] for one start"
    )]
    SpdkOccupied { place: String },
    #[cfg(feature = "spdk")]
    #[error(
        "{place} has no flush, so that `strict` durability cannot be kept: say \
         `durability = \"relaxed\"`, or `volatile_cache = \"none\"` if the device loses nothing \
         that it has taken when power is lost, in [spdk_blobstore]"
    )]
    SpdkCannotFlush { place: String },
    #[cfg(feature = "spdk")]
    #[error(
        "there is no file {}; to make it, say how large: `size` in [spdk_blobstore]",
        path.display()
    )]
    SpdkFileMissing { path: PathBuf },
    #[cfg(feature = "spdk")]
    #[error("SPDK's configuration {}: {why}", path.display())]
    SpdkJson { path: PathBuf, why: String },
    #[error("{}: the bucket that every store has cannot be made: {source}", path.display())]
    FirstBucket { path: PathBuf, source: EngineError },
}

/// Opens the store for serving; makes its file first if it is missing and a size is given.
pub async fn open(
    settings: &config::Blob,
    clock: Clock,
    entropy: Entropy,
) -> Result<BlobEngine, StoreError> {
    let path = &settings.place.path;
    if !path.exists() {
        make(&settings.place, &entropy).await?;
    }
    let options = OpenOptions {
        idle_buffer_bytes: settings.buffers_bytes,
        ..OpenOptions::default()
    };
    let device = Device::open(path, &options)?;
    let blob = BlobSettings {
        durability: settings.durability,
        clock,
        entropy,
        memory: BlobMemory {
            cache_bytes: settings.cache_bytes,
            index_bytes_max: settings.index_bytes_max,
        },
        discards: settings.discards && device.describe().is_block_device,
    };
    if settings.discards && !blob.discards {
        tracing::warn!(
            "blob.discard is for block devices: the file {} keeps the space it has reserved",
            path.display()
        );
    }
    let engine = BlobEngine::open(device, blob)
        .await
        .map_err(|source| refused(path, source))?;
    engine
        .ensure_first_bucket()
        .await
        .map_err(|source| StoreError::FirstBucket {
            path: path.clone(),
            source,
        })?;
    if let Some(asked) = settings
        .place
        .size_bytes
        .filter(|asked| *asked > engine.size_bytes())
    {
        tracing::warn!(
            "the blob store {} keeps its size of {} bytes; `lobos blob grow` makes it {asked}",
            path.display(),
            engine.size_bytes()
        );
    }
    Ok(engine)
}

/// Makes the file of a store with its space reserved, and formats it. Undone if it fails.
pub async fn make(place: &BlobPlace, entropy: &Entropy) -> Result<(), StoreError> {
    let path = &place.path;
    let Some(size_bytes) = place.size_bytes else {
        return Err(StoreError::Missing { path: path.clone() });
    };
    create_file(path, size_bytes)?;
    let made = format(path, entropy, false).await;
    if made.is_err() {
        let _already_failing = rustix::fs::unlinkat(CWD, path, AtFlags::empty());
    }
    made
}

/// Makes an empty store of what is at `path`. Without `force` nothing that holds anything is
/// touched.
pub async fn format(path: &Path, entropy: &Entropy, force: bool) -> Result<(), StoreError> {
    let device = Device::open(path, &OpenOptions::default())?;
    BlobEngine::format(&device, entropy, force)
        .await
        .map_err(|source| refused(path, source))
}

/// Opens what is there for reading alone: nobody may write to it meanwhile.
pub fn open_shared(path: &Path) -> Result<Device, StoreError> {
    let options = OpenOptions {
        access: Access::Shared,
        ..OpenOptions::default()
    };
    Ok(Device::open(path, &options)?)
}

/// The same error, with its place and with what to do.
pub fn refused(path: &Path, source: BlobOpenError) -> StoreError {
    let path = path.to_owned();
    match source {
        BlobOpenError::NotFormatted => StoreError::NotFormatted { path },
        source => StoreError::Refused { path, source },
    }
}
