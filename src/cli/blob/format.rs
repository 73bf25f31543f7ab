//! `lobos blob format PATH[:SIZE] [--force]`

use std::process::ExitCode;

use clap::Args;

use super::super::Done;
use crate::clock::Entropy;
use crate::config::BlobPlace;
use crate::store::{self, StoreError};

#[derive(Debug, Args)]
pub(in crate::cli) struct Format {
    /// A file, made with SIZE (such as 10GiB) if it is missing, or a block device
    #[arg(value_name = "PATH[:SIZE]")]
    place: BlobPlace,

    /// Destroy what is there
    #[arg(long)]
    force: bool,
}

impl Format {
    pub(super) async fn run(self) -> Done {
        let (path, entropy) = (&self.place.path, Entropy::system());
        match (path.exists(), self.place.size_bytes) {
            (false, _) => store::make(&self.place, &entropy).await?,
            (true, None) => store::format(path, &entropy, self.force).await?,
            (true, Some(_)) => return Err(StoreError::Exists { path: path.clone() }.into()),
        }
        println!("{}: an empty blob store", path.display());
        Ok(ExitCode::SUCCESS)
    }
}
