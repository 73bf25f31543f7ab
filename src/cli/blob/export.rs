//! `lobos blob export PATH DIR [--salvage]`: each bucket becomes a directory, each object a file.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use clap::Args;

use super::super::Done;
use crate::engine::blob::BlobEngine;
use crate::engine::{Bucket, BucketName, EngineError, ObjectKey, Range, Reader};
use crate::store;

#[derive(Debug, Args)]
pub(in crate::cli) struct Export {
    /// The store's file or block device; it is read, never written
    path: PathBuf,

    /// A directory that is empty or missing
    #[arg(value_name = "DIR")]
    directory: PathBuf,

    /// Go on where something is damaged, and read what is whole of a store that cannot be opened
    #[arg(long)]
    salvage: bool,
}

impl Export {
    /// Status 0: all objects, as they are now, are files; 1: some are not, as printed.
    pub(super) async fn run(self) -> Done {
        let engine = self.open().await?;
        let mut target = Target::new(&self.directory)?;
        for bucket in engine.list_buckets().await? {
            self.bucket(&engine, &bucket.name, &mut target).await?;
        }
        let there = self.directory.display();
        println!(
            "{there}: {} objects, {} bytes",
            target.objects, target.bytes
        );
        match engine.info().versions {
            0 => {}
            left_out => println!("{left_out} older versions and delete markers were left out"),
        }
        if target.odd > 0 {
            println!(
                "{} of them have keys that are no paths; {there}/{ODD_KEYS}/{ODD_NAMES} says \
                 which file has which",
                target.odd
            );
        }
        let left_out = [
            (target.lost, "are damaged"),
            (target.sealed, "are encrypted with their clients' keys"),
        ];
        for (count, why) in left_out.iter().filter(|(count, _)| *count > 0) {
            eprintln!("Error: {count} objects {why} and were left out");
        }
        Ok(match target.lost + target.sealed {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        })
    }

    async fn open(&self) -> Result<BlobEngine, Box<dyn std::error::Error>> {
        let device = store::open_shared(&self.path)?;
        match BlobEngine::inspect(device.clone(), super::settings()).await {
            Ok(engine) => Ok(engine),
            Err(error) if self.salvage => {
                eprintln!("{error}");
                let (engine, losses) = BlobEngine::salvage(device, super::settings())
                    .await
                    .map_err(|source| store::refused(&self.path, source))?;
                for loss in losses {
                    eprintln!("{loss}; what only it told is lost");
                }
                Ok(engine)
            }
            Err(error) => Err(store::refused(&self.path, error).into()),
        }
    }

    async fn bucket(
        &self,
        engine: &BlobEngine,
        name: &BucketName,
        target: &mut Target,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let bucket = Bucket::Blob(engine.bucket(name).await?);
        fs::create_dir(target.directory.join(name.as_str()))?;
        for key in engine.keys(name)? {
            self.object(name, &bucket, &key, target).await?;
        }
        Ok(())
    }

    async fn object(
        &self,
        name: &BucketName,
        bucket: &Bucket,
        key: &ObjectKey,
        target: &mut Target,
    ) -> Result<(), Box<dyn std::error::Error>> {
        let reader = match bucket.open(key).await {
            Ok(reader) => reader,
            Err(error) => return self.lost(name, key, &error, target),
        };
        let entry = Arc::clone(reader.entry());
        if entry.seal.is_some() {
            eprintln!("{name}/{key}: left out, for only its client has the key");
            target.sealed += 1;
            return Ok(());
        }
        let mut made = target.create(name, key)?;
        match copy(reader, &mut made.file).await {
            Ok(()) => {}
            Err(CopyError::File(error)) => return Err(error.into()),
            Err(CopyError::Store(error)) => {
                fs::remove_file(&made.path)?;
                return self.lost(name, key, &error, target);
            }
        }
        let since = u64::try_from(entry.modified.unix_nanos).unwrap_or(0);
        let modified = SystemTime::UNIX_EPOCH + Duration::from_nanos(since);
        // A file system may refuse a time; the bytes are there all the same.
        let _ = made.file.set_modified(modified);
        target.keep(&made, name, key, entry.size_bytes)?;
        Ok(())
    }

    fn lost(
        &self,
        name: &BucketName,
        key: &ObjectKey,
        error: &EngineError,
        target: &mut Target,
    ) -> Result<(), Box<dyn std::error::Error>> {
        if !self.salvage {
            return Err(format!("{name}/{key}: {error}; with --salvage it is left out").into());
        }
        eprintln!("{name}/{key}: {error}");
        target.lost += 1;
        Ok(())
    }
}

/// Copies an object's bytes, all of which are verified on the way.
async fn copy(reader: Reader, file: &mut File) -> Result<(), CopyError> {
    let size_bytes = reader.entry().size_bytes;
    let mut stream = reader.read(Range {
        start_bytes: 0,
        size_bytes,
    });
    while let Some(piece) = stream.next().await {
        file.write_all(&piece?)?;
    }
    Ok(())
}

#[derive(Debug, thiserror::Error)]
enum CopyError {
    #[error(transparent)]
    Store(#[from] EngineError),
    #[error("the file cannot be written: {0}")]
    File(#[from] io::Error),
}

/// The directory that is written, and what is in it.
struct Target {
    directory: PathBuf,
    objects: u64,
    bytes: u64,
    /// Objects whose keys are no paths.
    odd: u64,
    lost: u64,
    /// Left out: their bytes are encrypted with keys that the store does not have.
    sealed: u64,
}

impl Target {
    /// An empty directory: nothing in it can lead elsewhere or be overwritten.
    fn new(directory: &Path) -> Result<Self, Box<dyn std::error::Error>> {
        let there = directory.display();
        fs::create_dir_all(directory).map_err(|error| format!("{there}: {error}"))?;
        if fs::read_dir(directory)?.next().is_some() {
            return Err(format!("{there} is not empty; name a directory that is, or none").into());
        }
        Ok(Self {
            directory: directory.to_owned(),
            objects: 0,
            bytes: 0,
            odd: 0,
            lost: 0,
            sealed: 0,
        })
    }

    /// The file of a key: its own path in the bucket's directory, or, if it has none there, a
    /// numbered one under [`ODD_KEYS`].
    fn create(&self, bucket: &BucketName, key: &ObjectKey) -> io::Result<Made> {
        if is_path(key.as_str()) {
            let path = self.directory.join(bucket.as_str()).join(key.as_str());
            let parent = path.parent().map_or(Ok(()), fs::create_dir_all);
            match parent.and_then(|()| create_new(&path)) {
                Ok(file) => {
                    let is_odd = false;
                    return Ok(Made { file, path, is_odd });
                }
                // `a` beside `a/b`, or names that this file system takes for one or does not take.
                Err(error) if is_about_the_name(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let odd = self.directory.join(ODD_KEYS);
        fs::create_dir_all(&odd)?;
        let path = odd.join((self.odd + 1).to_string());
        Ok(Made {
            file: create_new(&path)?,
            path,
            is_odd: true,
        })
    }

    fn keep(
        &mut self,
        made: &Made,
        bucket: &BucketName,
        key: &ObjectKey,
        size_bytes: u64,
    ) -> io::Result<()> {
        self.objects += 1;
        self.bytes += size_bytes;
        if !made.is_odd {
            return Ok(());
        }
        self.odd += 1;
        let (file, bucket) = (self.odd.to_string(), bucket.as_str());
        let said = serde_json::json!({"file": file, "bucket": bucket, "key": key.as_str()});
        let names = self.directory.join(ODD_KEYS).join(ODD_NAMES);
        let mut names = OpenOptions::new().create(true).append(true).open(names)?;
        writeln!(names, "{said}")
    }
}

struct Made {
    file: File,
    path: PathBuf,
    is_odd: bool,
}

/// Whether a key can be a path below a directory, and be served from there as the same key.
fn is_path(key: &str) -> bool {
    let is_name = |name: &str| !matches!(name, "" | "." | "..") && name.len() <= 255;
    key.split('/').all(is_name) && key != RESERVED && !key.starts_with(".lobos/")
}

fn is_about_the_name(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::AlreadyExists
            | io::ErrorKind::NotADirectory
            | io::ErrorKind::IsADirectory
            | io::ErrorKind::InvalidInput
            | io::ErrorKind::InvalidFilename
    )
}

fn create_new(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).open(path)
}

/// No bucket has this name.
const ODD_KEYS: &str = ".keys";
/// One JSON object a line: `file`, `bucket`, `key`.
const ODD_NAMES: &str = "names.jsonl";
/// What the filesystem engine keeps for itself in a bucket's directory.
const RESERVED: &str = ".lobos";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sec_path_escape_only_keys_that_stay_below_are_paths() {
        for key in ["a", "a/b c/ü", "...", ".hidden", "a/.lobos/b", "-"] {
            assert!(is_path(key), "{key}");
        }
        let long = "x".repeat(256);
        for key in [
            "..",
            "a/../b",
            "/etc/passwd",
            "a//b",
            "a/",
            "./a",
            ".lobos",
            ".lobos/x",
            &long,
        ] {
            assert!(!is_path(key), "{key}");
        }
    }
}
