//! Lobos, a fast local object store: a directory served over S3 by one binary.

pub mod banner;
pub mod budget;
pub mod cli;
pub mod clock;
pub mod config;
pub mod conn;
pub mod control;
pub mod credentials;
pub mod ctl;
pub mod engine;
#[doc(hidden)]
pub mod io;
pub mod limits;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod pace;
pub mod s3;
pub mod server;
pub mod shard;
pub mod store;
pub mod tls;
pub mod trace;
