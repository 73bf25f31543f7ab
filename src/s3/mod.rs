//! The S3 protocol: a request's head becomes a typed target and an operation, is authenticated,
//! and one verb answers it.

pub mod auth;
pub mod checksum;
mod error;
pub mod payload;

pub use error::{Code, S3Error};
