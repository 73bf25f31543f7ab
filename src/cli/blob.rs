//! `lobos blob VERB`: what is done to a blob store that no server has open.

mod check;
mod export;
mod format;
mod grow;
mod info;

use std::future::Future;
use std::path::Path;

use clap::Subcommand;
use tokio::runtime::Builder;

use super::Done;
use crate::clock::{Clock, Entropy};
use crate::engine::Durability;
use crate::engine::blob::{BlobEngine, BlobMemory, BlobSettings};
use crate::store::{self, StoreError};

#[derive(Debug, Subcommand)]
pub(super) enum Verb {
    /// Make an empty store of a file or block device
    Format(format::Format),
    /// Show capacity, contents and state
    Info(info::Info),
    /// Verify what the store consists of, and with --data all that is in it
    Check(check::Check),
    /// Write all objects as plain files
    Export(export::Export),
    /// Use a file or device that has become larger
    Grow(grow::Grow),
}

pub(super) fn run(verb: Verb) -> Done {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answer: std::pin::Pin<Box<dyn Future<Output = Done>>> = match verb {
        Verb::Format(asked) => Box::pin(asked.run()),
        Verb::Info(asked) => Box::pin(asked.run()),
        Verb::Check(asked) => Box::pin(asked.run()),
        Verb::Export(asked) => Box::pin(asked.run()),
        Verb::Grow(asked) => Box::pin(asked.run()),
    };
    runtime.block_on(answer)
}

fn settings() -> BlobSettings {
    BlobSettings {
        durability: Durability::Strict,
        clock: Clock::system(),
        entropy: Entropy::system(),
        memory: BlobMemory::ANY,
        discards: false,
    }
}

/// The store at `path`, to be read alone.
async fn inspect(path: &Path) -> Result<BlobEngine, StoreError> {
    let device = store::open_shared(path)?;
    BlobEngine::inspect(device, settings())
        .await
        .map_err(|source| store::refused(path, source))
}
