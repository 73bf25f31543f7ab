//! The engine as a whole: opening, closing, and its buckets.

use std::sync::{Arc, PoisonError};

use super::bucket::BlobBucket;
use super::codec::put_varint;
use super::commit::Class;
use super::core::Core;
use super::layout::BLOCK;
use super::record::{Change, ItemKey, Table};
use super::recover::{self, BlobOpenError, BlobSettings};
use super::salvage;
use super::superblock::Superblock;
use crate::clock::Entropy;
use crate::engine::{BucketConfig, BucketInfo, BucketName, Durability, EngineError, ObjectKey};
use crate::io::device::Device;

/// An open store.
#[derive(Debug)]
pub struct BlobEngine {
    pub(super) core: Arc<Core>,
}

impl BlobEngine {
    /// Makes an empty store of the whole device. Without `force` a device that holds anything is
    /// refused.
    pub async fn format(
        device: &Device,
        entropy: &Entropy,
        force: bool,
    ) -> Result<(), BlobOpenError> {
        recover::format(device, entropy, force).await
    }

    /// Opens a formatted device and recovers what it holds. Checkpoints are written on the event
    /// loop that runs this, which must go on until [`BlobEngine::close`] has returned.
    pub async fn open(device: Device, settings: BlobSettings) -> Result<Self, BlobOpenError> {
        let core = recover::open(device, settings).await?;
        Ok(Self { core })
    }

    /// Opens for reading alone: what has to be replayed stays in memory, every write is refused.
    pub async fn inspect(device: Device, settings: BlobSettings) -> Result<Self, BlobOpenError> {
        let core = recover::inspect(device, settings).await?;
        Ok(Self { core })
    }

    /// The same of a device that cannot be opened any more: what is whole, and a sentence about
    /// each thing that is not.
    pub async fn salvage(
        device: Device,
        settings: BlobSettings,
    ) -> Result<(Self, Vec<String>), BlobOpenError> {
        let (core, losses) = salvage::salvage(device, settings).await?;
        core.refuse_writes();
        Ok((Self { core }, losses))
    }

    /// The keys of a bucket, whether or not their entries can be read whole.
    pub fn keys(&self, name: &BucketName) -> Result<Vec<ObjectKey>, EngineError> {
        let buckets = self.core.buckets.read();
        let buckets = buckets.unwrap_or_else(PoisonError::into_inner);
        let bucket = buckets.by_name.get(name).ok_or(EngineError::NoSuchBucket)?;
        let items = recover::item_batches(&bucket.objects).flatten();
        let keys =
            items.filter_map(|(key, _)| ObjectKey::parse(std::str::from_utf8(&key).ok()?).ok());
        Ok(keys.collect())
    }

    /// Uses all of the device, which has become larger; gives the new size.
    pub async fn grow(&self) -> Result<u64, EngineError> {
        let new = Superblock {
            size_blocks: self.core.device.size_bytes() / BLOCK,
            ..self.core.superblock()
        };
        self.core.write_superblocks(new).await?;
        Ok(self.size_bytes())
    }

    /// Makes the bucket that is always there, if it is not: the root user's.
    pub async fn ensure_first_bucket(&self) -> Result<(), EngineError> {
        let name = BucketName::parse(FIRST_BUCKET).map_err(|_| EngineError::NoSuchBucket)?;
        let config = BucketConfig::new(None, self.core.clock.now());
        match self.bucket(&name).await {
            Err(EngineError::NoSuchBucket) => self.create_bucket(&name, config).await,
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Writes a checkpoint now. [`EngineError::Busy`] while one is written.
    pub async fn checkpoint(&self) -> Result<(), EngineError> {
        let core = Arc::clone(&self.core);
        let (done, answer) = tokio::sync::oneshot::channel();
        self.core.tasks.spawn_at_home(async move {
            let _ = done.send(core.checkpoint().await);
        });
        match answer.await {
            Ok(Ok(true)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Ok(Ok(false)) | Err(_) => Err(EngineError::Busy),
        }
    }

    /// The device, for what is to be said of it.
    pub fn device(&self) -> &Device {
        &self.core.device
    }

    pub fn durability(&self) -> Durability {
        self.core.durability
    }

    /// Bytes of the device that the store uses.
    pub fn size_bytes(&self) -> u64 {
        self.core.superblock().size_blocks * BLOCK
    }

    /// See [`crate::engine::Engine::settle`].
    pub async fn settle(&self) {
        self.core.tasks.settle().await;
    }

    /// See [`crate::engine::Engine::close`]. The next start has nothing to replay.
    pub async fn close(&self) -> Result<(), EngineError> {
        self.core.close().await
    }

    /// Free bytes, those that the next commits free included.
    pub fn free_bytes(&self) -> u64 {
        (self.core.space.free_blocks() + self.core.space.held_blocks()) * BLOCK
    }

    /// See [`crate::engine::Engine::bucket`].
    pub async fn bucket(&self, name: &BucketName) -> Result<BlobBucket, EngineError> {
        let buckets = self
            .core
            .buckets
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let state = buckets.by_name.get(name).ok_or(EngineError::NoSuchBucket)?;
        Ok(BlobBucket {
            core: Arc::clone(&self.core),
            state: Arc::clone(state),
        })
    }

    /// See [`crate::engine::Engine::list_buckets`].
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>, EngineError> {
        let buckets = self
            .core
            .buckets
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        let info = |state: &Arc<super::core::BucketState>| BucketInfo {
            name: state.name.clone(),
            config: state.config.load_full(),
        };
        Ok(buckets.by_name.values().map(info).collect())
    }

    /// See [`crate::engine::Engine::create_bucket`].
    pub async fn create_bucket(
        &self,
        name: &BucketName,
        config: BucketConfig,
    ) -> Result<(), EngineError> {
        let item = bucket_item(name);
        let number = &self.core.next_number;
        let id = number.fetch_add(1, std::sync::atomic::Ordering::AcqRel);
        let mut value = Vec::new();
        put_varint(&mut value, id);
        value.extend(config.encode()?);
        self.core
            .commit(Class::Write, None, move |turn| {
                if turn.has_bucket(&item) {
                    return Err(EngineError::BucketExists);
                }
                let change = Change::Put {
                    is_fresh: false,
                    value: value.into(),
                };
                turn.change(None, item, change, Vec::new());
                Ok(())
            })
            .await
    }

    /// See [`crate::engine::Engine::delete_bucket`].
    pub async fn delete_bucket(&self, name: &BucketName) -> Result<(), EngineError> {
        if name.as_str() == FIRST_BUCKET {
            return Err(EngineError::BucketsAreFixed);
        }
        let state = self.bucket(name).await?.state;
        let item = bucket_item(name);
        self.core
            .commit(Class::Delete, None, move |turn| {
                state.check()?;
                if state.expected.load(std::sync::atomic::Ordering::Acquire) > 0 {
                    return Err(EngineError::BucketNotEmpty);
                }
                turn.change(Some(&state), item, Change::Gone, Vec::new());
                Ok(())
            })
            .await
    }
}

/// Every store has this bucket; it cannot be deleted.
pub const FIRST_BUCKET: &str = "lobos";

pub(super) fn bucket_item(name: &BucketName) -> ItemKey {
    ItemKey {
        table: Table::Buckets,
        bucket: 0,
        key: name.as_str().as_bytes().into(),
    }
}
