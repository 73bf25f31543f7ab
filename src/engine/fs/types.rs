//! Words that the rooms of this engine share.

use sha2::{Digest, Sha256};

use super::history::Stamp;
use super::record::PartSize;
use crate::clock::Timestamp;
use crate::engine::{Checksum, ETag, Metadata, Seal, UploadId};

/// What an object is to be, beside its bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Description {
    /// `None`: made from size and time.
    pub(super) etag: Option<ETag>,
    pub(super) checksum: Option<Checksum>,
    pub(super) metadata: Metadata,
    pub(super) parts: Vec<PartSize>,
    pub(super) upload: Option<UploadId>,
    /// `None`: the null version.
    pub(super) version: Option<Stamp>,
    /// `None`: now.
    pub(super) modified: Option<Timestamp>,
    pub(super) seal: Option<Box<Seal>>,
}

/// Names a key, or a path, in the file names and locks of `.lobos/`: the first half of its
/// SHA-256. Not a faster hash: whoever could make two keys collide could drop the side files of
/// another's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct KeyHash(pub(super) [u8; 16]);

impl KeyHash {
    pub(super) fn of(key: &str) -> Self {
        let digest: [u8; 32] = Sha256::digest(key.as_bytes()).into();
        let (half, _) = digest.split_first_chunk::<16>().unwrap_or((&[0; 16], &[]));
        Self(*half)
    }

    /// 64 bits of it.
    pub(super) fn short(self) -> u64 {
        let (half, _) = self.0.split_first_chunk::<8>().unwrap_or((&[0; 8], &[]));
        u64::from_le_bytes(*half)
    }
}
