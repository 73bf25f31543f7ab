//! Documents of a bucket: what its sub-resources keep in its configuration, each as JSON of a type
//! of its own.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::error::S3Error;
use crate::engine::{Bucket, BucketConfig, EngineError};

/// The document of that name. One that cannot be read is an error, never as if it were not there.
pub(super) fn read<T: DeserializeOwned>(
    config: &BucketConfig,
    name: &str,
) -> Result<Option<T>, S3Error> {
    let Some(text) = config.documents.get(name) else {
        return Ok(None);
    };
    serde_json::from_str(text)
        .map(Some)
        .map_err(|_| DAMAGED.into())
}

/// Replaces the document.
pub(super) async fn write<T: Serialize>(
    bucket: &Bucket,
    name: &'static str,
    value: &T,
) -> Result<(), S3Error> {
    let text = serde_json::to_string(value).map_err(|_| S3Error::from(DAMAGED))?;
    bucket
        .change_config(move |config| {
            config.documents.insert(name.into(), text.into());
            Ok::<_, S3Error>(())
        })
        .await?;
    Ok(())
}

/// Removes the document; it need not be there.
pub(super) async fn remove(bucket: &Bucket, name: &'static str) -> Result<(), S3Error> {
    if !bucket.config().await?.documents.contains_key(name) {
        return Ok(());
    }
    bucket
        .change_config(move |config| {
            config.documents.remove(name);
            Ok::<_, S3Error>(())
        })
        .await?;
    Ok(())
}

const DAMAGED: EngineError = EngineError::Corrupt {
    what: "a document of the bucket's configuration",
};
