//! The users that were made through the control plane, in the state directory's `users.json`.
//!
//! The file is replaced whole: a draft is written and synced, takes the name, and the directory is
//! synced, so that a crash leaves the old users or the new ones. Editors of several processes take
//! turns by a lock on `users.lock`. A file that cannot be trusted (damaged, readable by others,
//! written by a newer Lobos) is never guessed at and never overwritten.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::clock::{Entropy, Timestamp};
use crate::config::SecretText;
use crate::limits::USERS_FILE_BYTES_MAX;

/// One user, with everything that is kept of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredUser {
    pub name: Box<str>,
    /// The owner id; never given to another user, so that a name used again inherits nothing.
    pub id: Box<str>,
    pub created: Timestamp,
    pub enabled: bool,
    pub policy: StoredPolicy,
    /// Oldest first.
    pub keys: Vec<StoredKey>,
}

/// What a user may do beside working in its own buckets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StoredPolicy {
    None,
    Readonly,
    Readwrite,
    Writeonly,
    BucketOwner,
    /// The JSON text of a policy document, as it was given.
    Document(Box<str>),
}

impl StoredPolicy {
    /// The policies that have a name.
    pub const NAMED: [(&str, Self); 5] = [
        ("none", Self::None),
        ("readonly", Self::Readonly),
        ("readwrite", Self::Readwrite),
        ("writeonly", Self::Writeonly),
        ("bucket-owner", Self::BucketOwner),
    ];

    /// The name, of those that have one.
    pub fn name(&self) -> Option<&'static str> {
        let mut named = Self::NAMED.into_iter();
        named.find_map(|(name, known)| (known == *self).then_some(name))
    }
}

/// A key pair of a user.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredKey {
    pub key: Box<str>,
    #[serde(serialize_with = "reveal")]
    pub secret: SecretText,
    pub created: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<Timestamp>,
}

fn reveal<S: serde::Serializer>(secret: &SecretText, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(secret.reveal())
}

/// Why the stored users cannot be read or changed. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum UsersFileError {
    #[error("{} cannot be read or written: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} can be read by others (mode {mode:04o}); run chmod 600 on it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "{} belongs to user {owner}, not to the one that Lobos runs as; give it to that one",
        path.display()
    )]
    Foreign { path: PathBuf, owner: u32 },
    #[error(
        "{} is damaged: {why}; restore it from a backup, or remove it and make the users again",
        path.display()
    )]
    Damaged { path: PathBuf, why: String },
    #[error(
        "{} was written by a newer Lobos (format {version}, this one reads {FORMAT}); \
         use that one",
        path.display()
    )]
    Newer { path: PathBuf, version: u64 },
    #[error("{} would be larger than {USERS_FILE_BYTES_MAX} bytes; remove users first", path.display())]
    Full { path: PathBuf },
    #[error("another process has been changing the users for {} s; try again", LOCK_WAIT_MAX.as_secs())]
    Busy,
}

/// Where the users are kept.
#[derive(Debug)]
pub struct UsersFile {
    directory: PathBuf,
    entropy: Entropy,
}

/// What tells one content of the file from another without reading it; `None`: there is no file.
pub type Stamp = Option<(u64, u64, u64, i64, i64)>;

impl UsersFile {
    pub fn new(directory: &Path, entropy: Entropy) -> Self {
        Self {
            directory: directory.into(),
            entropy,
        }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.join(USERS)
    }

    /// Changes whenever the file does.
    pub fn stamp(&self) -> io::Result<Stamp> {
        match fs::metadata(self.path()) {
            Ok(meta) => Ok(Some(stamp_of(&meta))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The users, and the stamp of the file that they were read from. No file means no users.
    pub fn read(&self) -> Result<(Vec<StoredUser>, Stamp), UsersFileError> {
        let path = self.path();
        let io_error = |source| UsersFileError::Io {
            path: path.clone(),
            source,
        };
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), None)),
            Err(error) => return Err(io_error(error)),
        };
        let meta = file.metadata().map_err(io_error)?;
        let mode = meta.mode() & 0o7777;
        if mode & 0o077 != 0 {
            return Err(UsersFileError::Exposed { path, mode });
        }
        let owner = meta.uid();
        if owner != rustix::process::geteuid().as_raw() {
            return Err(UsersFileError::Foreign { path, owner });
        }
        let mut text = Zeroizing::new(String::new());
        let limit = USERS_FILE_BYTES_MAX as u64;
        match file.take(limit + 1).read_to_string(&mut text) {
            Ok(size) if size > USERS_FILE_BYTES_MAX => {
                let why = "it is too large".to_owned();
                Err(UsersFileError::Damaged { path, why })
            }
            Ok(_) => Ok((parse(&text, &path)?, Some(stamp_of(&meta)))),
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                let why = "it is no text".to_owned();
                Err(UsersFileError::Damaged { path, why })
            }
            Err(error) => Err(io_error(error)),
        }
    }

    /// Changes the users: durable when it returns `Ok`, unchanged when `change` or a step fails.
    /// `change` sees the users as they are while nobody else can change them.
    pub fn edit<T, E: From<UsersFileError>>(
        &self,
        change: impl FnOnce(&mut Vec<StoredUser>) -> Result<T, E>,
    ) -> Result<(T, Vec<StoredUser>, Stamp), E> {
        let _turn = self.lock()?;
        self.remove_drafts();
        let (mut users, _) = self.read()?;
        let done = change(&mut users)?;
        let stamp = self.write(&users)?;
        Ok((done, users, stamp))
    }

    /// Waits for a turn among the editors of all processes; it ends when the file is dropped.
    fn lock(&self) -> Result<File, UsersFileError> {
        let path = self.directory.join(LOCK);
        let io_error = |source| UsersFileError::Io {
            path: path.clone(),
            source,
        };
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(io_error)?;
        let began = Instant::now();
        loop {
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(file),
                Err(rustix::io::Errno::WOULDBLOCK) if began.elapsed() < LOCK_WAIT_MAX => {
                    #[expect(clippy::disallowed_methods, reason = "no shard edits users")]
                    std::thread::sleep(LOCK_PAUSE);
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Err(UsersFileError::Busy),
                Err(errno) => return Err(io_error(errno.into())),
            }
        }
    }

    /// Whoever has the turn is the only one that writes: what lies there is of one that died.
    fn remove_drafts(&self) {
        let prefix = format!(".{USERS}-");
        for entry in fs::read_dir(&self.directory)
            .into_iter()
            .flatten()
            .flatten()
        {
            if entry.file_name().to_string_lossy().starts_with(&prefix) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    fn write(&self, users: &[StoredUser]) -> Result<Stamp, UsersFileError> {
        let path = self.path();
        let text = serde_json::to_vec_pretty(&Written {
            version: FORMAT,
            users,
        });
        let text = Zeroizing::new(text.map_err(|error| UsersFileError::Io {
            path: path.clone(),
            source: error.into(),
        })?);
        if text.len() > USERS_FILE_BYTES_MAX {
            return Err(UsersFileError::Full { path });
        }
        let unique = u64::from_be_bytes(self.entropy.bytes());
        let draft = self.directory.join(format!(".{USERS}-{unique:016x}"));
        let write = || -> io::Result<Stamp> {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&draft)?;
            // The umask may have taken the owner's bits.
            file.set_permissions(Permissions::from_mode(0o600))?;
            file.write_all(&text)?;
            file.sync_all()?;
            fs::rename(&draft, &path)?;
            File::open(&self.directory)?.sync_all()?;
            Ok(Some(stamp_of(&file.metadata()?)))
        };
        write().map_err(|source| {
            let _ = fs::remove_file(&draft);
            UsersFileError::Io { path, source }
        })
    }
}

fn parse(text: &str, path: &Path) -> Result<Vec<StoredUser>, UsersFileError> {
    let damaged = |why: String| UsersFileError::Damaged {
        path: path.into(),
        why,
    };
    // The words of an error of serde_json hold no values but names of fields, and for wrong types
    // the value: a secret is always a text, so a line and column say enough.
    let place = |error: serde_json::Error| {
        damaged(format!(
            "line {}, column {} is not what it must be",
            error.line(),
            error.column()
        ))
    };
    let Version { version } = serde_json::from_str(text).map_err(place)?;
    if version > u64::from(FORMAT) {
        return Err(UsersFileError::Newer {
            path: path.into(),
            version,
        });
    }
    if version == 0 {
        return Err(damaged("`version` is 0".to_owned()));
    }
    let read: Read = serde_json::from_str(text).map_err(place)?;
    let mut names = std::collections::HashSet::new();
    for user in &read.users {
        if !names.insert(("name", &*user.name)) || !names.insert(("id", &*user.id)) {
            return Err(damaged(format!("`{}` is there twice", user.name)));
        }
        if let Some(key) = user
            .keys
            .iter()
            .find(|key| !names.insert(("key", &*key.key)))
        {
            return Err(damaged(format!("the key `{}` is there twice", key.key)));
        }
    }
    Ok(read.users)
}

fn stamp_of(meta: &fs::Metadata) -> (u64, u64, u64, i64, i64) {
    let nanos = |seconds: i64, nanos: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(nanos);
    (
        meta.dev(),
        meta.ino(),
        meta.size(),
        nanos(meta.mtime(), meta.mtime_nsec()),
        // A change of the mode counts: the file may have become readable by others.
        nanos(meta.ctime(), meta.ctime_nsec()),
    )
}

#[derive(Deserialize)]
struct Version {
    version: u64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Read {
    #[serde(rename = "version")]
    _version: u64,
    users: Vec<StoredUser>,
}

#[derive(Serialize)]
struct Written<'a> {
    version: u32,
    users: &'a [StoredUser],
}

const USERS: &str = "users.json";
const LOCK: &str = "users.lock";
const FORMAT: u32 = 1;
const LOCK_WAIT_MAX: Duration = Duration::from_secs(5);
const LOCK_PAUSE: Duration = Duration::from_millis(5);

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "a-secret-that-nobody-may-see-in-a-log";

    fn user(name: &str) -> StoredUser {
        StoredUser {
            name: name.into(),
            id: format!("id-{name}").into(),
            created: Timestamp::from_unix_seconds(1),
            enabled: true,
            policy: StoredPolicy::Document("{\"Statement\": []}".into()),
            keys: vec![StoredKey {
                key: format!("LB{name}").into(),
                secret: SecretText::new(SECRET.to_owned()),
                created: Timestamp::from_unix_seconds(1),
                expires: Some(Timestamp::from_unix_seconds(2)),
            }],
        }
    }

    fn add(file: &UsersFile, name: &str) -> Result<(), UsersFileError> {
        let change = |users: &mut Vec<StoredUser>| {
            users.push(user(name));
            Ok::<_, UsersFileError>(())
        };
        file.edit(change).map(|_| ())
    }

    #[test]
    fn what_was_written_is_read_and_only_the_owner_can_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let file = UsersFile::new(dir.path(), Entropy::system());
        assert_eq!(file.read().unwrap().0.len(), 0);
        assert_eq!(file.stamp().unwrap(), None);
        add(&file, "ann").unwrap();
        fs::write(
            dir.path().join(".users.json-0123456789abcdef"),
            "of one that died",
        )
        .unwrap();
        add(&file, "bob").unwrap();
        let (users, stamp) = file.read().unwrap();
        assert_eq!(stamp, file.stamp().unwrap());
        assert_eq!(
            format!("{users:?}"),
            format!("{:?}", [user("ann"), user("bob")])
        );
        assert_eq!(users[1].keys[0].secret.reveal(), SECRET);
        assert!(!format!("{users:?}").contains(SECRET));
        assert_eq!(fs::metadata(file.path()).unwrap().mode() & 0o7777, 0o600);
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            2,
            "no drafts left"
        );
    }

    #[test]
    fn a_change_that_fails_changes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = UsersFile::new(dir.path(), Entropy::system());
        add(&file, "ann").unwrap();
        let before = file.stamp().unwrap();
        let change = |users: &mut Vec<StoredUser>| {
            users.clear();
            Err::<(), _>(UsersFileError::Busy)
        };
        file.edit(change).unwrap_err();
        assert_eq!(file.stamp().unwrap(), before);
    }

    #[test]
    fn editors_at_once_lose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for editor in 0..4 {
                let directory = dir.path();
                scope.spawn(move || {
                    let file = UsersFile::new(directory, Entropy::system());
                    for round in 0..8 {
                        add(&file, &format!("user-{editor}-{round}")).unwrap();
                    }
                });
            }
        });
        let file = UsersFile::new(dir.path(), Entropy::system());
        assert_eq!(file.read().unwrap().0.len(), 32);
    }

    #[test]
    fn sec_fail_open_a_file_that_cannot_be_trusted_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let file = UsersFile::new(dir.path(), Entropy::system());
        add(&file, "ann").unwrap();
        let whole = fs::read_to_string(file.path()).unwrap();
        let refused = |content: &[u8], mode: u32, words: &str| {
            fs::write(file.path(), content).unwrap();
            fs::set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            let error = file.read().unwrap_err().to_string();
            assert!(
                error.contains(words) && error.contains("users.json"),
                "{error}"
            );
            assert!(!error.contains(SECRET), "{error}");
            add(&file, "bob").unwrap_err();
            assert_eq!(
                fs::read(file.path()).unwrap(),
                content,
                "an edit overwrote it"
            );
        };
        for size in 0..whole.len() {
            refused(&whole.as_bytes()[..size], 0o600, "damaged");
        }
        refused(whole.as_bytes(), 0o640, "chmod 600");
        refused(whole.as_bytes(), 0o604, "chmod 600");
        refused(&[0xff, 0xfe], 0o600, "damaged");
        let newer = whole.replace("\"version\": 1", "\"version\": 2, \"more\": []");
        refused(newer.as_bytes(), 0o600, "newer Lobos");
        let older = whole.replace("\"version\": 1", "\"version\": 0");
        refused(older.as_bytes(), 0o600, "damaged");
        let foreign = whole.replace("\"enabled\"", "\"enabld\"");
        refused(foreign.as_bytes(), 0o600, "damaged");
        let numeric = whole.replace(&format!("\"{SECRET}\""), "17");
        refused(numeric.as_bytes(), 0o600, "damaged");
        let again = serde_json::to_string(&user("ann")).unwrap();
        let twice = whole.replacen("\"users\": [", &format!("\"users\": [{again},"), 1);
        refused(twice.as_bytes(), 0o600, "twice");
        fs::write(file.path(), &whole).unwrap();
        assert_eq!(file.read().unwrap().0.len(), 1);
    }
}
