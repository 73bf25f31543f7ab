//! Logs that are files of their own: a line an event, appended. When the file is moved away (by
//! logrotate, say) the next line starts a new one.

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// One such file. What cannot be written is lost, and the log on standard error says so once.
#[derive(Debug)]
pub(super) struct LineFile {
    path: PathBuf,
    file: File,
    is_failing: bool,
}

impl LineFile {
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.into(),
            file: append(path)?,
            is_failing: false,
        })
    }

    /// Appends whole lines.
    pub(super) fn write(&mut self, lines: &str) {
        let written = self
            .follow()
            .and_then(|()| self.file.write_all(lines.as_bytes()));
        let failed = written.is_err();
        if let Err(error) = written
            && !self.is_failing
        {
            let path = self.path.display();
            tracing::error!(%path, %error, "lines of this log are lost");
        }
        self.is_failing = failed;
    }

    fn follow(&mut self) -> io::Result<()> {
        let ids = |meta: &std::fs::Metadata| (meta.dev(), meta.ino());
        let there = std::fs::metadata(&self.path).ok();
        if there.as_ref().map(ids) != Some(ids(&self.file.metadata()?)) {
            self.file = append(&self.path)?;
        }
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o640)
        .open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_moved_away_is_followed_by_a_new_one() {
        let dir = tempfile::tempdir().unwrap();
        let (path, old) = (dir.path().join("log"), dir.path().join("log.1"));
        let mut log = LineFile::open(&path).unwrap();
        log.write("one\n");
        std::fs::rename(&path, &old).unwrap();
        log.write("two\n");
        drop(log);
        LineFile::open(&path).unwrap().write("three\n");
        assert_eq!(std::fs::read_to_string(&old).unwrap(), "one\n");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\nthree\n");
    }
}
