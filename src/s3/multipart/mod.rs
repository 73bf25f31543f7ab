//! The verbs of multipart uploads, one file each.

mod abort;
mod complete;
mod create;
mod list_parts;
mod list_uploads;
mod upload_part;

pub(super) use abort::abort;
pub(super) use complete::complete;
pub(super) use create::create;
pub(super) use list_parts::list_parts;
pub(super) use list_uploads::list_uploads;
pub(super) use upload_part::{upload_part, upload_part_copy};

use super::Call;
use super::error::S3Error;
use crate::engine::UploadId;

/// The upload that a request names.
pub(super) fn upload_id(call: &Call<'_>) -> UploadId {
    UploadId::new(call.query.get("uploadId").unwrap_or(""))
}

/// A missing upload is told with its id, as S3 does.
fn missing(error: crate::engine::EngineError, id: &UploadId) -> S3Error {
    let absent = matches!(error, crate::engine::EngineError::NoSuchUpload);
    let error = S3Error::from(error);
    if absent {
        error.detail("UploadId", id.as_str())
    } else {
        error
    }
}
