//! Read buffers that are used again: a pool hands them out, dropping the last [`Bytes`] over one
//! gives it back.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Bytes of one pooled buffer: large enough that a system call per buffer does not count, small
/// enough to stay in a core's cache between the read and the send.
pub(crate) const BUFFER_BYTES: usize = 512 << 10;

/// A bounded stock of idle buffers of [`BUFFER_BYTES`] each. When it is empty a buffer is
/// allocated; when it is full a returned one is freed.
#[derive(Clone, Debug)]
pub(crate) struct Pool {
    idle: Arc<Idle>,
}

impl Pool {
    /// A pool that keeps at most `idle_max` buffers while nobody uses them.
    pub(crate) fn new(idle_max: usize) -> Self {
        Self {
            idle: Arc::new(Idle {
                buffers: Mutex::new(Vec::new()),
                idle_max,
            }),
        }
    }

    /// A buffer of [`BUFFER_BYTES`], or one of `bytes` where that is less, which is not kept.
    pub(crate) fn take(&self, bytes: usize) -> Buffer {
        let bytes = bytes.min(BUFFER_BYTES);
        let idle = match bytes {
            BUFFER_BYTES => self.idle.lock().pop(),
            _ => None,
        };
        Buffer {
            bytes: idle.unwrap_or_else(|| vec![0; bytes].into_boxed_slice()),
            valid: 0,
            home: Arc::clone(&self.idle),
        }
    }
}

#[derive(Debug)]
struct Idle {
    buffers: Mutex<Vec<Box<[u8]>>>,
    idle_max: usize,
}

impl Idle {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Box<[u8]>>> {
        // A stock of plain memory is whole whatever happened to the thread that held the lock.
        self.buffers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One buffer in use.
///
/// # Invariants
/// Only the first `valid` bytes were read for this user; the rest is from earlier use and is
/// never handed out.
#[derive(Debug)]
pub(crate) struct Buffer {
    bytes: Box<[u8]>,
    valid: usize,
    home: Arc<Idle>,
}

impl Buffer {
    /// Fills the buffer by `read`, which gets a slice of at most `limit_bytes` and says how many
    /// of them it filled.
    pub(crate) fn fill<E>(
        &mut self,
        limit_bytes: usize,
        read: impl FnOnce(&mut [u8]) -> Result<usize, E>,
    ) -> Result<usize, E> {
        let limit_bytes = limit_bytes.min(self.bytes.len());
        let (target, _) = self.bytes.split_at_mut(limit_bytes);
        let filled = read(target)?;
        self.valid = filled.min(limit_bytes);
        Ok(self.valid)
    }

    /// The filled bytes, without a copy.
    pub(crate) fn freeze(self) -> Bytes {
        if self.valid == 0 {
            return Bytes::new();
        }
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        self.bytes.split_at(self.valid).0
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let mut idle = self.home.lock();
        if self.bytes.len() == BUFFER_BYTES && idle.len() < self.home.idle_max {
            idle.push(std::mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_comes_back_and_shows_nothing_of_its_past() {
        let pool = Pool::new(1);
        let mut first = pool.take(BUFFER_BYTES);
        let place = first.bytes.as_ptr();
        let filled = first.fill::<()>(6, |target| {
            target.copy_from_slice(b"secret");
            Ok(6)
        });
        assert_eq!(filled, Ok(6));
        let bytes = first.freeze();
        assert_eq!(&bytes[..], b"secret");
        drop(bytes);

        let mut second = pool.take(BUFFER_BYTES);
        assert_eq!(second.bytes.as_ptr(), place);
        assert_eq!(second.as_ref(), b"");
        let filled = second.fill::<()>(3, |target| {
            target[..2].copy_from_slice(b"ab");
            Ok(2)
        });
        assert_eq!(filled, Ok(2));
        assert_eq!(&second.freeze()[..], b"ab");
    }

    #[test]
    fn the_stock_is_bounded() {
        let pool = Pool::new(1);
        let (a, b) = (pool.take(BUFFER_BYTES), pool.take(BUFFER_BYTES));
        drop(a);
        drop(b);
        let mut small = pool.take(4);
        assert_eq!(small.fill::<()>(6, |target| Ok(target.len())), Ok(4));
        drop(small);
        assert_eq!(pool.idle.lock().len(), 1);
    }
}
