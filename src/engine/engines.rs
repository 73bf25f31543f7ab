//! Which engine has which bucket, where one process serves several.

use super::{Bucket, BucketConfig, BucketInfo, BucketName, Engine, EngineError};

/// All that this process serves. A name is in one engine: checked at start, and again by every
/// CreateBucket. Where a directory appears later under the name of a bucket of the blob store, the
/// store's wins.
#[derive(Debug)]
pub struct Engines {
    /// Asked in this order; new buckets go to the first.
    engines: Vec<Engine>,
}

/// A bucket that two engines have.
#[derive(Debug, thiserror::Error)]
pub enum EnginesError {
    #[error(
        "the bucket `{0}` is in the blob store and would be a directory's too; serve the \
         directory under another name with --bucket NAME=DIR"
    )]
    SameBucket(BucketName),
    #[error("the buckets cannot be listed: {0}")]
    Engine(#[from] EngineError),
}

impl Engines {
    /// `engines`: the first one gets the buckets that clients make.
    pub async fn new(engines: Vec<Engine>) -> Result<Self, EnginesError> {
        let engines = Self { engines };
        let all = engines.with_twins().await?;
        let mut neighbours = all.iter().zip(all.iter().skip(1));
        match neighbours.find(|(one, other)| one.name == other.name) {
            Some((twice, _)) => Err(EnginesError::SameBucket(twice.name.clone())),
            None => Ok(engines),
        }
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Engine> {
        self.engines.iter()
    }

    /// See [`Engine::bucket`].
    pub async fn bucket(&self, name: &BucketName) -> Result<Bucket, EngineError> {
        for engine in &self.engines {
            match engine.bucket(name).await {
                Err(EngineError::NoSuchBucket) => {}
                answer => return answer,
            }
        }
        Err(EngineError::NoSuchBucket)
    }

    /// The buckets of all engines, ordered by name.
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>, EngineError> {
        let mut all = self.with_twins().await?;
        all.dedup_by(|later, first| later.name == first.name);
        Ok(all)
    }

    /// Ordered by name, those of one name as the engines are asked.
    async fn with_twins(&self) -> Result<Vec<BucketInfo>, EngineError> {
        let mut all = Vec::new();
        for engine in &self.engines {
            all.extend(engine.list_buckets().await?);
        }
        all.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(all)
    }

    /// See [`Engine::create_bucket`].
    pub async fn create_bucket(
        &self,
        name: &BucketName,
        config: BucketConfig,
    ) -> Result<(), EngineError> {
        match self.bucket(name).await {
            Err(EngineError::NoSuchBucket) => {}
            Ok(_) => return Err(EngineError::BucketExists),
            Err(error) => return Err(error),
        }
        match self.engines.first() {
            Some(engine) => engine.create_bucket(name, config).await,
            None => Err(EngineError::BucketsAreFixed),
        }
    }

    /// See [`Engine::delete_bucket`].
    pub async fn delete_bucket(&self, name: &BucketName) -> Result<(), EngineError> {
        for engine in &self.engines {
            match engine.delete_bucket(name).await {
                Err(EngineError::NoSuchBucket) => {}
                answer => return answer,
            }
        }
        Err(EngineError::NoSuchBucket)
    }
}

impl<'a> IntoIterator for &'a Engines {
    type Item = &'a Engine;
    type IntoIter = std::slice::Iter<'a, Engine>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
