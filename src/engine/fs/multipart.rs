//! Multipart uploads.

use std::sync::Arc;

use super::{FsBucket, FsWriter};
use crate::engine::{
    Checksum, CompletePlan, ETag, EngineError, Entry, ObjectKey, Part, PartsPage, Upload, UploadId,
    UploadPlan, UploadsPage, UploadsPlan,
};

/// Where a part goes when it is committed.
#[derive(Debug)]
pub(super) struct PartSlot {}

impl FsBucket {
    pub async fn create_upload(
        self: &Arc<Self>,
        _: &ObjectKey,
        _: UploadPlan,
    ) -> Result<UploadId, EngineError> {
        unimplemented!()
    }

    pub async fn upload(
        self: &Arc<Self>,
        _: &ObjectKey,
        _: &UploadId,
    ) -> Result<Arc<Upload>, EngineError> {
        unimplemented!()
    }

    pub async fn begin_part(
        self: &Arc<Self>,
        _: &ObjectKey,
        _: &UploadId,
        _: u32,
        _: Option<u64>,
    ) -> Result<FsWriter, EngineError> {
        unimplemented!()
    }

    pub async fn list_parts(
        self: &Arc<Self>,
        _: &ObjectKey,
        _: &UploadId,
        _: u32,
        _: usize,
    ) -> Result<PartsPage, EngineError> {
        unimplemented!()
    }

    pub async fn list_uploads(
        self: &Arc<Self>,
        _: &UploadsPlan,
    ) -> Result<UploadsPage, EngineError> {
        unimplemented!()
    }

    pub async fn complete(
        self: &Arc<Self>,
        _: &ObjectKey,
        _: &UploadId,
        _: CompletePlan,
    ) -> Result<Arc<Entry>, EngineError> {
        unimplemented!()
    }

    pub async fn abort(self: &Arc<Self>, _: &ObjectKey, _: &UploadId) -> Result<(), EngineError> {
        unimplemented!()
    }
}

impl FsWriter {
    pub(super) async fn finish_part(
        self,
        _: ETag,
        _: Option<Checksum>,
    ) -> Result<Part, EngineError> {
        unimplemented!()
    }
}
