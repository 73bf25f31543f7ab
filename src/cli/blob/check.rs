//! `lobos blob check PATH [--data]`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::super::Done;
use crate::engine::blob::{BlobEngine, BlobOpenError};
use crate::store;

#[derive(Debug, Args)]
pub(in crate::cli) struct Check {
    /// The store's file or block device; it is read, never written
    path: PathBuf,

    /// Read all objects and compare them with their checksums
    #[arg(long)]
    data: bool,
}

impl Check {
    /// Status 0: all is whole; 1: something is damaged, as printed.
    pub(super) async fn run(self) -> Done {
        let device = store::open_shared(&self.path)?;
        let opened = BlobEngine::inspect(device, super::settings()).await;
        let path = self.path.display();
        let engine = match opened {
            Ok(engine) => engine,
            Err(error @ (BlobOpenError::Damaged { .. } | BlobOpenError::SuperblocksDamaged)) => {
                println!("{error}");
                println!(
                    "{path}: damaged, and a server refuses to start with it; \
                     `lobos blob export --salvage` reads what is whole"
                );
                return Ok(ExitCode::FAILURE);
            }
            Err(other) => return Err(store::refused(&self.path, other).into()),
        };
        let report = engine.check(self.data).await;
        for damage in &report.damages {
            println!("{damage}");
        }
        let what = format!(
            "{} objects, {} older versions and delete markers, {} parts",
            report.objects, report.versions, report.parts
        );
        let depth = match self.data {
            true => format!("{} bytes of data verified", report.data_bytes),
            false => "their data was not read (--data)".to_owned(),
        };
        match report.damages.len() {
            0 => {
                println!("{path}: whole; {what}, {depth}");
                Ok(ExitCode::SUCCESS)
            }
            count => {
                println!("{path}: {count} damaged places; {what}, {depth}");
                Ok(ExitCode::FAILURE)
            }
        }
    }
}
