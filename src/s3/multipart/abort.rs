//! AbortMultipartUpload.

use http::StatusCode;

use crate::engine::Bucket;
use crate::s3::Call;
use crate::s3::error::S3Error;
use crate::s3::reply::{self, Reply};
use crate::s3::request::ObjectRef;

pub(crate) async fn abort(
    call: &Call<'_>,
    bucket: &Bucket,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let id = super::upload_id(call);
    bucket
        .abort(&object.key, &id)
        .await
        .map_err(|error| super::missing(error, &id))?;
    Ok(reply::empty(StatusCode::NO_CONTENT))
}
