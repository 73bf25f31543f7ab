//! `lobos blob info PATH [--json]`

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::super::Done;
use crate::banner::size_text;
use crate::engine::blob::BlobInfo;

#[derive(Debug, Args)]
pub(in crate::cli) struct Info {
    /// The store's file or block device
    path: PathBuf,

    /// As JSON, with all sizes in bytes
    #[arg(long)]
    json: bool,
}

impl Info {
    pub(super) async fn run(self) -> Done {
        let info = super::inspect(&self.path).await?.info();
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&info)?),
            false => print!("{}", for_people(&info)),
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn for_people(info: &BlobInfo) -> String {
    let size = size_text;
    let (journal, checkpoint) = (&info.journal, &info.checkpoint);
    let lines = [
        ("Store", info.uuid.clone()),
        ("Opened", format!("{} times", info.epoch.saturating_sub(1))),
        ("Capacity", size(info.size_bytes)),
        ("Free", size(info.free_bytes)),
        (
            "Reserved",
            format!(
                "{} of it, for deletes and checkpoints",
                size(info.reserve_bytes)
            ),
        ),
        (
            "Held",
            format!("{}, free with the next commits", size(info.held_bytes)),
        ),
        (
            "Free runs",
            format!(
                "{}, the longest {}; {:.1} % of the free space in runs of less than 1 MiB",
                info.free_runs,
                size(info.longest_free_run_bytes),
                info.fragmentation * 100.0
            ),
        ),
        ("Buckets", info.buckets.to_string()),
        ("Objects", info.objects.to_string()),
        (
            "Versions",
            format!("{} older ones and delete markers", info.versions),
        ),
        (
            "Uploads",
            format!("{} open, {} parts", info.uploads, info.parts),
        ),
        ("Index", format!("{} in memory", size(info.index_bytes))),
        (
            "Journal",
            format!(
                "{} of {} to replay; the next block is number {}",
                size(journal.used_bytes),
                size(journal.size_bytes),
                journal.next_sequence
            ),
        ),
        (
            "Checkpoint",
            format!(
                "{} in two copies; a replay begins at block number {}",
                size(checkpoint.size_bytes),
                checkpoint.start_sequence
            ),
        ),
    ];
    let line = |(name, value): &(&str, String)| format!("{name:<11} {value}\n");
    lines.iter().map(line).collect()
}
