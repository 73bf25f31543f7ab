//! Lobos, a fast local object store: a directory served over S3 by one binary.

pub mod clock;
pub mod engine;
pub mod limits;
pub mod s3;
