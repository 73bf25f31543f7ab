//! The log on standard error: its format, and a level that can be changed while it runs.

use std::fmt;
use std::io::{self, IsTerminal as _};
use std::sync::{Arc, Mutex, PoisonError};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::reload::Handle;

use crate::config::{Log, LogFormat};

/// What is logged now, and the way to change it.
#[derive(Clone)]
pub struct LogLevel {
    text: Arc<Mutex<Box<str>>>,
    set: Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>,
}

impl fmt::Debug for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LogLevel").field(&self.get()).finish()
    }
}

impl LogLevel {
    pub fn get(&self) -> Box<str> {
        self.text
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Answers what was logged before. The text of an error is for the operator.
    pub fn set(&self, level: &str) -> Result<Box<str>, String> {
        let filter = filter(level)?;
        let mut text = self.text.lock().unwrap_or_else(PoisonError::into_inner);
        (self.set)(filter)?;
        Ok(std::mem::replace(&mut *text, level.into()))
    }
}

/// Logs go to standard error; panics too, with their place.
pub fn start(log: &Log) -> Result<LogLevel, String> {
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter(&log.level)?)
        .with_writer(|| Lines(io::stderr()))
        .with_ansi(io::stderr().is_terminal());
    let (set, started) = match log.format {
        LogFormat::Text => {
            let builder = builder.with_filter_reloading();
            (setter(builder.reload_handle()), builder.try_init())
        }
        LogFormat::Json => {
            let builder = builder.json().with_filter_reloading();
            (setter(builder.reload_handle()), builder.try_init())
        }
    };
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(%place, "panic: {}", info.payload_as_str().unwrap_or("without words"));
    }));
    started.map_err(|error| error.to_string())?;
    Ok(LogLevel {
        text: Arc::new(Mutex::new(log.level.clone())),
        set,
    })
}

/// Standard error, which may be full or gone: what cannot be written is lost, and the server goes
/// on. (Otherwise the subscriber would complain on standard error, and panic when that fails.)
struct Lines(io::Stderr);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.write_all(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether the level can be read.
pub fn check(log: &Log) -> Result<(), String> {
    filter(&log.level).map(|_| ())
}

type Set = Arc<dyn Fn(EnvFilter) -> Result<(), String> + Send + Sync>;

fn setter<S: 'static>(handle: Handle<EnvFilter, S>) -> Set {
    Arc::new(move |filter| handle.reload(filter).map_err(|error| error.to_string()))
}

fn filter(level: &str) -> Result<EnvFilter, String> {
    let wrong = |why: String| {
        format!(
            "the log level `{level}` cannot be read: {why}; write error, warn, info, debug or \
             trace, or a filter such as warn,lobos=debug"
        )
    };
    // A lone word that is no level would name a target, and all others would be silent.
    let mut alone = level.split(',').filter(|part| !part.contains('='));
    if let Some(part) = alone.find(|part| part.trim().parse::<LevelFilter>().is_err()) {
        return Err(wrong(format!("`{part}` is no level")));
    }
    EnvFilter::try_new(level).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_level_that_would_silence_everything_is_refused() {
        for level in [
            "warn",
            "INFO",
            "off",
            "warn,lobos=debug",
            "lobos::s3=trace,error",
        ] {
            assert!(filter(level).is_ok(), "{level}");
        }
        for level in ["noisy", "warn,lobos", "lobos=loud", "warn=="] {
            let error = filter(level).unwrap_err();
            assert!(error.contains("error, warn, info"), "{error}");
        }
    }
}
