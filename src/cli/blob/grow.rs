//! `lobos blob grow PATH[:SIZE]`

use std::process::ExitCode;

use clap::Args;

use super::super::Done;
use crate::config::BlobPlace;
use crate::engine::blob::BlobEngine;
use crate::io::device::{Device, OpenOptions};
use crate::store;

#[derive(Debug, Args)]
pub(in crate::cli) struct Grow {
    /// The store's file, which becomes SIZE large, or its block device, which has become larger
    #[arg(value_name = "PATH[:SIZE]")]
    place: BlobPlace,
}

impl Grow {
    /// The file is larger, durably, before the store says that it is.
    pub(super) async fn run(self) -> Done {
        let path = &self.place.path;
        let device = Device::open(path, &OpenOptions::default())?;
        let engine = BlobEngine::open(device.clone(), super::settings())
            .await
            .map_err(|source| store::refused(path, source))?;
        let before = engine.size_bytes();
        if let Some(size_bytes) = self.place.size_bytes {
            device.grow(size_bytes)?;
        }
        let there = path.display();
        if device.size_bytes() <= before {
            return Err(format!(
                "{there}: the store uses all of its {before} bytes already; name a larger size, \
                 such as {there}:20GiB, or make the device larger first"
            )
            .into());
        }
        let after = engine.grow().await?;
        engine.close().await?;
        println!("{there}: {before} bytes became {after}");
        Ok(ExitCode::SUCCESS)
    }
}
