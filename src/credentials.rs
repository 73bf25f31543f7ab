//! The state directory: the generated key pair and the installation's id.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::clock::Entropy;
use crate::config::SecretText;

/// A directory of mode 0700 with `credentials` (0600) and `installation`.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// An access key and its secret.
#[derive(Clone, Debug)]
pub struct KeyPair {
    pub access_key: Box<str>,
    pub secret_key: SecretText,
}

/// Where a state directory may be when the operator names none.
#[derive(Clone, Debug, Default)]
pub struct Places {
    /// `$XDG_STATE_HOME`.
    pub xdg_state_home: Option<PathBuf>,
    /// `$HOME`.
    pub home: Option<PathBuf>,
}

/// Why the state directory or what is in it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    #[error(
        "no state directory can be written ({tried}); name one with --state-dir DIR \
         (or LOBOS_STATE_DIR)"
    )]
    NoPlace { tried: String },
    #[error(
        "the state directory {} cannot be written: {source}; name another one with --state-dir DIR",
        path.display()
    )]
    Unusable { path: PathBuf, source: io::Error },
    #[error("{} can be read by others (mode {mode:04o}); run chmod 600 on it", path.display())]
    Exposed { path: PathBuf, mode: u32 },
    #[error(
        "{} belongs to the user {owner}, who could give the server keys of their own; \
         make it the server's with chown {own}, or remove it to get a new one",
        path.display()
    )]
    Foreign { path: PathBuf, owner: u32, own: u32 },
    #[error("{} is damaged: {why}; restore it, or remove it to get a new one", path.display())]
    Damaged { path: PathBuf, why: String },
    #[error("there is no key pair in {} yet; the first `lobos serve` with authentication makes one", path.display())]
    NoKeys { path: PathBuf },
}

impl StateDir {
    /// The directory that `chosen` names, or the first of the usual places that can be written.
    pub fn open(chosen: Option<&Path>, places: &Places) -> Result<Self, StateError> {
        if let Some(path) = chosen {
            return Self::prepare(path).map_err(|source| StateError::Unusable {
                path: path.into(),
                source,
            });
        }
        let mut tried = Vec::new();
        for path in places.candidates() {
            match Self::prepare(&path) {
                Ok(state) => return Ok(state),
                Err(error) => tried.push(format!("{}: {error}", path.display())),
            }
        }
        if tried.is_empty() {
            tried.push(NO_HOME.to_owned());
        }
        Err(StateError::NoPlace {
            tried: tried.join("; "),
        })
    }

    /// The directory that `chosen` names, or the first of the usual places with a key pair, as they
    /// are: nothing is made.
    pub fn find(chosen: Option<&Path>, places: &Places) -> Result<Self, StateError> {
        let all = match chosen {
            Some(path) => vec![path.to_owned()],
            None => places.candidates(),
        };
        let with_keys = all.iter().find(|path| path.join(CREDENTIALS).exists());
        match with_keys.or(all.first()) {
            Some(path) => Ok(Self { path: path.clone() }),
            None => Err(StateError::NoPlace {
                tried: NO_HOME.to_owned(),
            }),
        }
    }

    /// Makes the directory if it is missing, and the installation's id in it as proof that it
    /// can be written.
    fn prepare(path: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path)?;
        let state = Self {
            path: std::path::absolute(path)?,
        };
        if !state.path.join(INSTALLATION).exists() {
            let probe = state.path.join(format!(".probe-{}", std::process::id()));
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&probe)?;
            // Another thread of this process may have removed it.
            let _ = fs::remove_file(&probe);
        }
        Ok(state)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    pub fn credentials_path(&self) -> PathBuf {
        self.path.join(CREDENTIALS)
    }

    /// The key pair, made at the first call. Two processes that start at once get the same.
    pub fn keys(&self, entropy: &Entropy) -> Result<KeyPair, StateError> {
        match self.existing_keys() {
            Err(StateError::NoKeys { .. }) => {}
            found => return found,
        }
        let fresh = KeyPair::generate(entropy);
        let text = Zeroizing::new(format!(
            "# The root user's keys of this Lobos installation. Keep this file to yourself.\n\
             access_key = \"{}\"\nsecret_key = \"{}\"\n",
            fresh.access_key,
            fresh.secret_key.reveal()
        ));
        self.create_once(CREDENTIALS, text.as_bytes(), entropy)?;
        self.existing_keys()
    }

    /// The key pair that an earlier start made.
    pub fn existing_keys(&self) -> Result<KeyPair, StateError> {
        let path = self.credentials_path();
        let Some(text) = self.read(CREDENTIALS)? else {
            return Err(StateError::NoKeys {
                path: self.path.clone(),
            });
        };
        check_guarded(&path)?;
        let stored: StoredKeys = toml::from_str(&text).map_err(|error| StateError::Damaged {
            path: path.clone(),
            // The message alone: the error's own text quotes lines of the file.
            why: error.message().to_owned(),
        })?;
        if stored.access_key.len() < 3 || stored.secret_key.reveal().len() < 8 {
            let why = "a key is too short".to_owned();
            return Err(StateError::Damaged { path, why });
        }
        Ok(KeyPair {
            access_key: stored.access_key,
            secret_key: stored.secret_key,
        })
    }

    /// The id of this installation: bucket records that carry another one are not trusted.
    pub fn installation(&self, entropy: &Entropy) -> Result<[u8; 16], StateError> {
        if self.read(INSTALLATION)?.is_none() {
            let id = u128::from_be_bytes(entropy.bytes());
            self.create_once(INSTALLATION, format!("{id:032x}\n").as_bytes(), entropy)?;
        }
        let text = self.read(INSTALLATION)?.unwrap_or_default();
        let text = text.trim();
        u128::from_str_radix(text, 16)
            .ok()
            .filter(|_| text.len() == 32)
            .map(u128::to_be_bytes)
            .ok_or_else(|| StateError::Damaged {
                path: self.path.join(INSTALLATION),
                why: "it must hold 32 hexadecimal digits".to_owned(),
            })
    }

    fn read(&self, name: &str) -> Result<Option<Zeroizing<String>>, StateError> {
        let mut text = Zeroizing::new(String::new());
        let read = File::open(self.path.join(name))
            .and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
        match read {
            Ok(_) => Ok(Some(text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(StateError::Unusable {
                path: self.path.join(name),
                source,
            }),
        }
    }

    /// Gives `name` this content unless it exists: whole and durable, or not at all.
    fn create_once(&self, name: &str, content: &[u8], entropy: &Entropy) -> Result<(), StateError> {
        let unique = u64::from_be_bytes(entropy.bytes());
        let draft = self.path.join(format!(".{name}-{unique:016x}"));
        let write = || -> io::Result<()> {
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&draft)?;
            // The umask may have taken the owner's bits.
            file.set_permissions(fs::Permissions::from_mode(0o600))?;
            file.write_all(content)?;
            file.sync_all()?;
            match fs::hard_link(&draft, self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
                _ => File::open(&self.path)?.sync_all(),
            }
        };
        let written = write();
        let _ = fs::remove_file(&draft);
        written.map_err(|source| StateError::Unusable {
            path: self.path.clone(),
            source,
        })
    }
}

/// Nobody but root and the server's own user may write or read the file.
fn check_guarded(path: &Path) -> Result<(), StateError> {
    let path = path.to_owned();
    let meta = match fs::metadata(&path) {
        Ok(meta) => meta,
        Err(source) => return Err(StateError::Unusable { path, source }),
    };
    let (owner, own) = (meta.uid(), rustix::process::geteuid().as_raw());
    if owner != 0 && owner != own {
        return Err(StateError::Foreign { path, owner, own });
    }
    let mode = meta.mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(StateError::Exposed { path, mode });
    }
    Ok(())
}

impl Places {
    fn candidates(&self) -> Vec<PathBuf> {
        // The specification of XDG directories: relative paths are to be ignored.
        let xdg = self.xdg_state_home.iter().filter(|path| path.is_absolute());
        let home = self.home.iter().filter(|path| path.is_absolute());
        let home = home.map(|home| home.join(".local/state/lobos"));
        xdg.map(|dir| dir.join("lobos")).chain(home).collect()
    }
}

impl KeyPair {
    /// A fresh pair: 20 and 40 characters, 90 and 238 bits of randomness.
    pub fn generate(entropy: &Entropy) -> Self {
        Self {
            access_key: format!("LOBOS{}", random_text(entropy, UPPER, 15)).into(),
            secret_key: SecretText::new(random_text(entropy, ALPHANUMERIC, 40)),
        }
    }

    /// A fresh pair for a user that the control plane makes: `LB` and 18 characters, 93 bits.
    pub fn generate_for_user(entropy: &Entropy) -> Self {
        Self {
            access_key: format!("LB{}", random_text(entropy, UPPER_AND_DIGITS, 18)).into(),
            secret_key: SecretText::new(random_text(entropy, ALPHANUMERIC, 40)),
        }
    }
}

/// `size` characters of `alphabet` (at most 64), each as likely as the others.
fn random_text(entropy: &Entropy, alphabet: &[u8], size: usize) -> String {
    let mut text = String::with_capacity(size);
    while text.len() < size {
        let bytes = Zeroizing::new(entropy.bytes::<64>());
        let picks = bytes.iter().map(|byte| usize::from(byte & 63));
        let room = size - text.len();
        let legal = picks.filter_map(|pick| alphabet.get(pick)).take(room);
        text.extend(legal.map(|&b| char::from(b)));
    }
    text
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoredKeys {
    access_key: Box<str>,
    secret_key: SecretText,
}

const NO_HOME: &str = "neither XDG_STATE_HOME nor HOME is set";
const CREDENTIALS: &str = "credentials";
const INSTALLATION: &str = "installation";
const FILE_BYTES_MAX: u64 = 64 << 10;
const UPPER: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const UPPER_AND_DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
const ALPHANUMERIC: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> StateDir {
        StateDir::open(Some(dir), &Places::default()).unwrap()
    }

    #[test]
    fn keys_are_made_once_and_only_the_owner_can_read_them() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(&dir.path().join("a/b"));
        assert!(matches!(
            state.existing_keys(),
            Err(StateError::NoKeys { .. })
        ));
        let keys = state.keys(&Entropy::system()).unwrap();
        assert_eq!(
            (keys.access_key.len(), keys.secret_key.reveal().len()),
            (20, 40)
        );
        let again = state.keys(&Entropy::system()).unwrap();
        assert_eq!(again.secret_key.reveal(), keys.secret_key.reveal());
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(mode(&state.credentials_path()), 0o600);
        assert_eq!(mode(&dir.path().join("a/b")), 0o700);
        assert!(!format!("{keys:?}").contains(keys.secret_key.reveal()));
        assert_eq!(
            fs::read_dir(dir.path().join("a/b")).unwrap().count(),
            1,
            "no drafts left"
        );
    }

    #[test]
    fn processes_that_start_at_once_agree_on_the_keys_and_the_id() {
        let dir = tempfile::tempdir().unwrap();
        let start = || {
            let state = open(dir.path());
            let keys = state.keys(&Entropy::system()).unwrap();
            let id = state.installation(&Entropy::system()).unwrap();
            (keys.secret_key.reveal().to_owned(), id)
        };
        let found: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..16).map(|_| scope.spawn(start)).collect();
            threads
                .into_iter()
                .map(|thread| thread.join().unwrap())
                .collect()
        });
        assert!(found.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[test]
    fn sec_secrets_an_exposed_or_damaged_key_file_is_refused_with_the_remedy() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        state.keys(&Entropy::system()).unwrap();
        let path = state.credentials_path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = state.existing_keys().unwrap_err().to_string();
        assert!(
            error.contains("chmod 600") && error.contains("0640"),
            "{error}"
        );
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "access_key = \"abc\"\nsecret_key = hunter2hunter2\n").unwrap();
        let error = state.existing_keys().unwrap_err().to_string();
        assert!(
            error.contains("damaged") && !error.contains("hunter2"),
            "{error}"
        );
    }

    #[test]
    fn sec_secrets_a_key_file_of_another_user_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let state = open(dir.path());
        state.keys(&Entropy::system()).unwrap();
        if std::os::unix::fs::chown(state.credentials_path(), Some(12_345), None).is_err() {
            println!("skipped: credentials::another_user: only root can give files away");
            return;
        }
        let error = state.existing_keys().unwrap_err();
        assert!(matches!(error, StateError::Foreign { owner: 12_345, .. }));
        assert!(error.to_string().contains("chown"), "{error}");
    }

    #[test]
    fn looking_for_keys_makes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let chosen = dir.path().join("a");
        let state = StateDir::find(Some(&chosen), &Places::default()).unwrap();
        let error = state.existing_keys().unwrap_err();
        assert!(matches!(error, StateError::NoKeys { .. }), "{error}");
        assert!(!chosen.exists());
        let places = Places {
            xdg_state_home: Some(dir.path().join("xdg")),
            home: Some(dir.path().join("home")),
        };
        let kept = open(&dir.path().join("home/.local/state/lobos"));
        let keys = kept.keys(&Entropy::system()).unwrap();
        let found = StateDir::find(None, &places).unwrap();
        assert_eq!(found.existing_keys().unwrap().access_key, keys.access_key);
    }

    #[test]
    fn without_a_place_the_error_names_the_flag() {
        let nowhere = StateDir::open(None, &Places::default())
            .unwrap_err()
            .to_string();
        assert!(nowhere.contains("--state-dir"), "{nowhere}");
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, "").unwrap();
        let chosen = StateDir::open(Some(&file.join("x")), &Places::default()).unwrap_err();
        assert!(chosen.to_string().contains("--state-dir"), "{chosen}");
        let places = Places {
            xdg_state_home: Some(file.join("x")),
            home: Some(dir.path().into()),
        };
        let state = StateDir::open(None, &places).unwrap();
        assert!(
            state
                .credentials_path()
                .starts_with(dir.path().join(".local/state/lobos"))
        );
    }
}
