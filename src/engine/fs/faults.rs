//! From an error number to the engine's word for it, and the way off the shard's thread.

use rustix::io::Errno;

use crate::engine::EngineError;

/// The meaning of `errno` for somebody who was `doing` this.
pub(super) fn fault(doing: &'static str, errno: Errno) -> EngineError {
    match errno {
        Errno::NOSPC | Errno::DQUOT => EngineError::Full,
        Errno::ROFS => EngineError::ReadOnly {
            why: "the file system is mounted read-only",
        },
        Errno::ACCESS | Errno::PERM => EngineError::Denied,
        Errno::STALE | Errno::NODEV | Errno::NXIO | Errno::NOTCONN => EngineError::Unavailable {
            why: "the file system that holds the bucket is gone",
        },
        // EAGAIN: renames elsewhere spoilt every walk.
        Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::AGAIN => EngineError::Busy,
        errno => EngineError::Io {
            doing,
            source: errno.into(),
        },
    }
}

/// `map_err` with [`fault`].
pub(super) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, EngineError>;
}

impl<T> Doing<T> for Result<T, Errno> {
    fn doing(self, doing: &'static str) -> Result<T, EngineError> {
        self.map_err(|errno| fault(doing, errno))
    }
}

/// Runs blocking work on the runtime's pool of threads. Work that has begun runs to its end, also
/// when nobody waits for it any more.
pub(super) async fn off_shard<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, EngineError> + Send + 'static,
) -> Result<T, EngineError> {
    joined(tokio::task::spawn_blocking(work).await)
}

/// The result of a task that [`tokio::task::spawn_blocking`] started.
pub(super) fn joined<T>(
    result: Result<Result<T, EngineError>, tokio::task::JoinError>,
) -> Result<T, EngineError> {
    match result {
        Ok(result) => result,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime is shutting down and never began it.
            Err(_) => Err(EngineError::Busy),
        },
    }
}
