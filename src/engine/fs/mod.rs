//! The filesystem engine: a real directory is a bucket.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::*;

macro_rules! hollow { ($($n:ident)*) => { $(#[derive(Debug)] pub struct $n;)* } }
hollow! { FsEngine FsBucket FsReader FsByteStream FsWriter }

impl FsEngine {
    pub async fn bucket(&self, _: &BucketName) -> Result<Arc<FsBucket>, EngineError> {
        unimplemented!()
    }
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>, EngineError> {
        unimplemented!()
    }
    pub async fn create_bucket(&self, _: &BucketName, _: BucketConfig) -> Result<(), EngineError> {
        unimplemented!()
    }
    pub async fn delete_bucket(&self, _: &BucketName) -> Result<(), EngineError> {
        unimplemented!()
    }
}
impl FsBucket {
    pub fn durability(&self) -> Durability {
        unimplemented!()
    }
    pub async fn config(&self) -> Result<Arc<BucketConfig>, EngineError> {
        unimplemented!()
    }
    pub async fn head(&self, _: &ObjectKey) -> Result<Arc<Entry>, EngineError> {
        unimplemented!()
    }
    pub async fn open(&self, _: &ObjectKey) -> Result<FsReader, EngineError> {
        unimplemented!()
    }
    pub async fn begin(
        self: &Arc<Self>,
        _: &ObjectKey,
        _: Option<u64>,
    ) -> Result<FsWriter, EngineError> {
        unimplemented!()
    }
    pub async fn set_metadata(
        &self,
        _: &ObjectKey,
        _: Metadata,
        _: &Precondition,
    ) -> Result<Arc<Entry>, EngineError> {
        unimplemented!()
    }
    pub async fn delete(&self, _: &ObjectKey, _: &Precondition) -> Result<Deleted, EngineError> {
        unimplemented!()
    }
    pub async fn scan(&self, _: &ScanPlan) -> Result<ScanPage, EngineError> {
        unimplemented!()
    }
    pub async fn create_upload(
        &self,
        _: &ObjectKey,
        _: UploadPlan,
    ) -> Result<UploadId, EngineError> {
        unimplemented!()
    }
    pub async fn upload(&self, _: &ObjectKey, _: &UploadId) -> Result<Arc<Upload>, EngineError> {
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
        &self,
        _: &ObjectKey,
        _: &UploadId,
        _: u32,
        _: usize,
    ) -> Result<PartsPage, EngineError> {
        unimplemented!()
    }
    pub async fn list_uploads(&self, _: &UploadsPlan) -> Result<UploadsPage, EngineError> {
        unimplemented!()
    }
    pub async fn complete(
        &self,
        _: &ObjectKey,
        _: &UploadId,
        _: CompletePlan,
    ) -> Result<Arc<Entry>, EngineError> {
        unimplemented!()
    }
    pub async fn abort(&self, _: &ObjectKey, _: &UploadId) -> Result<(), EngineError> {
        unimplemented!()
    }
}
impl FsReader {
    pub fn entry(&self) -> &Arc<Entry> {
        unimplemented!()
    }
    pub fn read(self, _: Range) -> FsByteStream {
        unimplemented!()
    }
}
impl FsByteStream {
    pub fn poll_next(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, EngineError>>> {
        unimplemented!()
    }
}
impl FsWriter {
    pub async fn append(&mut self, _: Bytes) -> Result<(), EngineError> {
        unimplemented!()
    }
    pub async fn append_from(&mut self, _: FsReader, _: Range) -> Result<(), EngineError> {
        unimplemented!()
    }
    pub async fn commit(self, _: Commit) -> Result<Arc<Entry>, EngineError> {
        unimplemented!()
    }
    pub async fn commit_part(self, _: ETag, _: Option<Checksum>) -> Result<Part, EngineError> {
        unimplemented!()
    }
}
