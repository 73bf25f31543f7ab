//! What the ETag of an object or part is made of.

use std::collections::HashMap;

use serde::Deserialize;

use crate::clock::Entropy;
use crate::engine::{BucketName, ETag};

/// How a bucket's ETags are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ETagMode {
    /// The MD5 of the bytes, as S3 makes it. It costs as much as the rest of a PUT.
    #[default]
    Md5,
    /// Random bytes, new with every write, in a form that clients do not take for an MD5.
    Fast,
}

/// The server's mode, and those of buckets that have one of their own.
#[derive(Clone, Debug, Default)]
pub struct ETagModes {
    pub default: ETagMode,
    pub buckets: HashMap<BucketName, ETagMode>,
}

impl ETagModes {
    pub(super) fn of(&self, bucket: &BucketName) -> ETagMode {
        self.buckets.get(bucket).copied().unwrap_or(self.default)
    }
}

/// The ETag of bytes whose MD5 is this, if it was computed: a fast one otherwise.
pub(super) fn etag(md5: Option<[u8; 16]>, entropy: &Entropy) -> ETag {
    match md5 {
        Some(md5) => ETag::from_md5(md5),
        None => {
            let random = u128::from_le_bytes(entropy.bytes());
            ETag::new(format!("{random:032x}{FAST_SUFFIX}"))
        }
    }
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
