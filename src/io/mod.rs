//! The system below the engines: files and buffers. The only room that may hold `unsafe`.

pub(crate) mod buf;
pub(crate) mod files;
