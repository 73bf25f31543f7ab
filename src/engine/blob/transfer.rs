//! Bytes to and from extents, checked.

use std::io;

use bytes::Bytes;
use futures_util::future::try_join_all;

use super::codec::crc32c;
use super::core::Core;
use super::entry::Pointer;
use super::layout::{BLOCK, BLOCK_BYTES, Extent, spans};
use crate::engine::EngineError;
use crate::io::device::Device;

/// Writes `bytes`, zeros behind them up to a block's end.
pub(super) async fn write(device: &Device, offset_bytes: u64, bytes: &[u8]) -> io::Result<()> {
    let mut buffer = device.buffers().take_empty(bytes.len());
    buffer.append(bytes);
    buffer.pad();
    device.write(offset_bytes, buffer).await.0
}

/// Writes `bytes` to extents that hold exactly their blocks.
pub(super) async fn write_extents(
    device: &Device,
    extents: &[Extent],
    bytes: &[u8],
) -> io::Result<()> {
    let mut rest = bytes;
    for (offset_bytes, span_bytes) in spans(extents, 0, u64::MAX) {
        let mut offset_bytes = offset_bytes;
        let mut left = usize::try_from(span_bytes).unwrap_or(usize::MAX);
        while left > 0 && !rest.is_empty() {
            let count = rest.len().min(left).min(STEP_BYTES);
            let (piece, tail) = rest.split_at(count);
            write(device, offset_bytes, piece).await?;
            rest = tail;
            offset_bytes += count as u64;
            left -= count;
        }
    }
    Ok(())
}

/// Whole blocks from one place on the device.
pub(super) async fn read(device: &Device, offset_bytes: u64, bytes: usize) -> io::Result<Bytes> {
    let buffer = device.buffers().take(bytes);
    let (result, buffer) = device.read(offset_bytes, buffer).await;
    result?;
    Ok(buffer.into_bytes(0..bytes))
}

/// `bytes` bytes from `start_bytes` (a block's beginning) on of what the extents hold.
pub(super) async fn read_extents(
    device: &Device,
    extents: &[Extent],
    start_bytes: u64,
    bytes: usize,
) -> io::Result<Bytes> {
    let whole = bytes.next_multiple_of(BLOCK_BYTES);
    let spans = spans(extents, start_bytes, whole as u64);
    let parts = spans.into_iter().map(|(offset_bytes, span_bytes)| {
        let count = usize::try_from(span_bytes).unwrap_or(usize::MAX);
        read(device, offset_bytes, count)
    });
    let parts: Vec<Bytes> = try_join_all(parts).await?;
    let all = match <[Bytes; 1]>::try_from(parts) {
        Ok([single]) => single,
        Err(parts) => parts.concat().into(),
    };
    if all.len() < bytes {
        return Err(io::Error::other("the extents hold fewer bytes"));
    }
    Ok(all.slice(..bytes))
}

/// What a pointer names, verified. Upholds I8.
pub(super) async fn read_pointer(device: &Device, pointer: &Pointer) -> Result<Bytes, EngineError> {
    let bytes = usize::try_from(pointer.bytes).unwrap_or(usize::MAX);
    let bytes = read_extents(device, &pointer.extents, 0, bytes)
        .await
        .map_err(|source| fault("reading metadata", source))?;
    if crc32c(&bytes) != pointer.crc {
        return Err(EngineError::Corrupt {
            what: "metadata does not match its checksum",
        });
    }
    Ok(bytes)
}

impl Core {
    /// Space for `bytes` of a table or overflow, and its pointer. The caller writes it.
    pub(super) fn point(&self, bytes: &[u8]) -> Result<Pointer, EngineError> {
        Ok(Pointer {
            bytes: bytes.len() as u64,
            crc: crc32c(bytes),
            extents: self.allocate((bytes.len() as u64).div_ceil(BLOCK))?,
        })
    }
}

pub(super) fn fault(doing: &'static str, source: io::Error) -> EngineError {
    EngineError::Io { doing, source }
}

/// Most bytes of one write.
const STEP_BYTES: usize = 1 << 20;
