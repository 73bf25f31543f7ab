//! What the ETag of an object or part is made of.

use std::collections::HashMap;

use crate::clock::Entropy;
use crate::engine::{Bucket, BucketName, ETag, ETagMode, EngineError};

/// The server's mode, and those of buckets that have one of their own.
#[derive(Clone, Debug, Default)]
pub struct ETagModes {
    pub default: ETagMode,
    pub buckets: HashMap<BucketName, ETagMode>,
}

impl ETagModes {
    /// The mode of a bucket whose own configuration says nothing of it.
    pub fn of(&self, name: &BucketName) -> ETagMode {
        self.buckets.get(name).copied().unwrap_or(self.default)
    }

    /// What the bucket's own configuration says, or else the server's.
    pub(super) async fn of_bucket(
        &self,
        name: &BucketName,
        bucket: &Bucket,
    ) -> Result<ETagMode, EngineError> {
        let own = bucket.config().await?.etag;
        Ok(own.unwrap_or_else(|| self.of(name)))
    }
}

/// The ETag of bytes whose MD5 is this, if it was computed: a fast one otherwise.
pub(super) fn etag(md5: Option<[u8; 16]>, entropy: &Entropy) -> ETag {
    match md5 {
        Some(md5) => ETag::from_md5(md5),
        None => opaque(entropy.bytes()),
    }
}

/// An ETag that says nothing, and that clients do not take for an MD5.
pub(super) fn opaque(bytes: [u8; 16]) -> ETag {
    ETag::new(format!("{}{FAST_SUFFIX}", ETag::from_md5(bytes)))
}

/// The 32 digits by which a part's ETag counts for the object's.
pub(super) fn digits(etag: &ETag) -> &str {
    let text = etag.as_str();
    text.strip_suffix(FAST_SUFFIX).unwrap_or(text)
}

/// Clients take an ETag with a dash for that of an upload in parts, and do not compare it with an
/// MD5. No upload has so many parts; -10001 are the filesystem engine's of files nobody uploaded.
const FAST_SUFFIX: &str = "-10002";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fast_etags_differ_and_are_no_md5() {
        let entropy = Entropy::system();
        let (one, other) = (etag(None, &entropy), etag(None, &entropy));
        assert_ne!(one, other);
        assert!(one.as_str().ends_with("-10002"));
        assert_eq!(digits(&one).len(), 32);
        let md5 = etag(Some([7; 16]), &entropy);
        assert_eq!(md5, ETag::from_md5([7; 16]));
        assert_eq!(digits(&md5), md5.as_str());
    }
}
