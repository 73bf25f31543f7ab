//! Listing the open uploads: by key, then by the time they were opened.

use std::sync::Arc;

use super::bucket::FsBucket;
use super::faults::off_shard;
use crate::engine::uploads_page;
use crate::engine::{EngineError, UploadsPage, UploadsPlan};

impl FsBucket {
    /// Open uploads. See [`crate::engine::Bucket::list_uploads`].
    pub async fn list_uploads(
        self: &Arc<Self>,
        plan: &UploadsPlan,
    ) -> Result<UploadsPage, EngineError> {
        self.sweep_uploads();
        let (bucket, plan) = (Arc::clone(self), plan.clone());
        off_shard(move || {
            let mut uploads = Vec::new();
            for id in bucket.upload_ids()? {
                match bucket.load_upload(&id) {
                    Ok(open) => uploads.push(Arc::clone(&open.upload)),
                    // Gone since the ids were read, or damaged, which must not hide the others.
                    Err(EngineError::NoSuchUpload | EngineError::Corrupt { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
            Ok(uploads_page::page(uploads, &plan))
        })
        .await
    }
}
