//! The system below the engines: files, buffers and devices. The only room that may hold `unsafe`.

pub(crate) mod buf;
pub mod device;
pub mod dma;
pub(crate) mod files;
mod media;
pub mod peer;
pub mod sim;
#[cfg(feature = "spdk")]
pub mod spdk;
mod uring;
