//! The users of a running server: those of the configuration, which stay, and the stored ones,
//! which are edited here. Every change is durable first and then published as one new table, which
//! the next request on every shard sees; changes by other processes are found by a look at the
//! file's stamp twice a second.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};

use arc_swap::ArcSwap;

use super::users_file::{Stamp, StoredKey, StoredPolicy, StoredUser, UsersFile, UsersFileError};
use crate::clock::{Clock, Entropy, Timestamp};
use crate::credentials::KeyPair;
use crate::limits::{POLICY_BYTES_MAX, USER_KEYS_MAX, USER_NAME_BYTES_MAX, USERS_MAX};
use crate::s3::auth::policy::{self, Policy, PolicyError};
use crate::s3::auth::{DuplicateKey, Secret, User, Users};

/// The users of this process and the file that keeps the stored ones.
#[derive(Debug)]
pub struct Accounts {
    configured: Vec<User>,
    live: Arc<ArcSwap<Users>>,
    file: UsersFile,
    clock: Clock,
    entropy: Entropy,
    seen: Mutex<Seen>,
}

/// What the live table was made from.
#[derive(Debug, Default)]
struct Seen {
    stamp: Stamp,
    /// The file could not be used; the stored users are locked out until it can.
    trouble: Option<String>,
}

/// Why a change was refused. The text is for the operator.
#[derive(Debug, thiserror::Error)]
pub enum EditError {
    #[error(transparent)]
    File(#[from] UsersFileError),
    #[error("there is no user `{0}`")]
    NoSuchUser(Box<str>),
    #[error("the user `{user}` has no key `{key}`")]
    NoSuchKey { user: Box<str>, key: Box<str> },
    #[error("there is a user `{0}` already")]
    Exists(Box<str>),
    #[error("the user `{0}` is one of the configuration file; change it there and start again")]
    Configured(Box<str>),
    #[error("{why}")]
    Invalid { field: &'static str, why: String },
    #[error("{0}")]
    TooMany(String),
}

/// A user that is kept, or one of the configuration.
#[derive(Debug)]
pub enum Account {
    Stored(StoredUser),
    Configured(User),
}

impl Account {
    pub fn name(&self) -> &str {
        match self {
            Self::Stored(user) => &user.name,
            Self::Configured(user) => &user.name,
        }
    }

    pub fn id(&self) -> &str {
        match self {
            Self::Stored(user) => &user.id,
            Self::Configured(user) => &user.id,
        }
    }
}

impl Accounts {
    /// Reads the stored users and publishes them beside the configured ones, which must have
    /// names, ids and keys of their own. A file that cannot be trusted is an error.
    pub fn open(
        configured: Vec<User>,
        file: UsersFile,
        clock: Clock,
        entropy: Entropy,
    ) -> Result<Self, AccountsError> {
        let (stored, stamp) = file.read()?;
        let users = table(&configured, &stored)?;
        Ok(Self {
            configured,
            live: Arc::new(ArcSwap::from_pointee(users)),
            file,
            clock,
            entropy,
            seen: Mutex::new(Seen {
                stamp,
                trouble: None,
            }),
        })
    }

    /// The table that requests are authenticated with.
    pub fn live(&self) -> &Arc<ArcSwap<Users>> {
        &self.live
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Publishes what another process wrote, if it did. Cheap if it did not. While the file
    /// cannot be trusted no stored user is let in, and the error says what is wrong with it.
    pub fn refresh(&self) -> Result<(), String> {
        let mut seen = match self.seen.try_lock() {
            Ok(seen) => seen,
            Err(TryLockError::Poisoned(seen)) => seen.into_inner(),
            // An edit of this process that is under way publishes its own result.
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        let stamp = self.file.stamp();
        if seen.trouble.is_none() && matches!(&stamp, Ok(stamp) if *stamp == seen.stamp) {
            return Ok(());
        }
        match self.file.read() {
            Ok((users, stamp)) => {
                self.publish(&users);
                tracing::info!(users = users.len(), "the stored users were read again");
                *seen = Seen {
                    stamp,
                    trouble: None,
                };
                Ok(())
            }
            Err(error) => {
                let trouble = error.to_string();
                if seen.trouble.as_ref() != Some(&trouble) {
                    tracing::error!("the stored users are locked out: {trouble}");
                    self.publish(&[]);
                }
                seen.trouble = Some(trouble.clone());
                Err(trouble)
            }
        }
    }

    /// All users ordered by name.
    pub fn list(&self) -> Result<Vec<Account>, EditError> {
        let (stored, _) = self.file.read()?;
        let configured = self.configured.iter().cloned().map(Account::Configured);
        let mut all: Vec<_> = configured
            .chain(stored.into_iter().map(Account::Stored))
            .collect();
        all.sort_by(|a, b| a.name().cmp(b.name()));
        Ok(all)
    }

    pub fn get(&self, name: &str) -> Result<Account, EditError> {
        if let Some(user) = self.configured_named(name) {
            return Ok(Account::Configured(user.clone()));
        }
        let (mut stored, _) = self.file.read()?;
        let user = find(&mut stored, name)?.clone();
        Ok(Account::Stored(user))
    }

    /// Makes a user with one key pair, which it answers.
    pub fn add(&self, name: &str, policy: StoredPolicy) -> Result<KeyPair, EditError> {
        check_name(name)?;
        check_policy(&policy)?;
        let taken = |user: &User| *user.name == *name || *user.id == *name;
        if self.configured.iter().any(taken) {
            return Err(EditError::Exists(name.into()));
        }
        let now = self.clock.now();
        self.edit(|users| {
            if users.iter().any(|user| *user.name == *name) {
                return Err(EditError::Exists(name.into()));
            }
            if users.len() >= USERS_MAX {
                return Err(EditError::TooMany(format!(
                    "there are {USERS_MAX} users, which is as many as there may be"
                )));
            }
            let (key, pair) = self.fresh_key(now, None);
            users.push(StoredUser {
                name: name.into(),
                id: format!("{:032x}", u128::from_be_bytes(self.entropy.bytes())).into(),
                created: now,
                enabled: true,
                policy,
                keys: vec![key],
            });
            Ok(pair)
        })
    }

    /// Removes a user with all its keys.
    pub fn remove(&self, name: &str) -> Result<(), EditError> {
        self.refuse_configured(name)?;
        self.edit(|users| {
            find(users, name)?;
            users.retain(|user| *user.name != *name);
            Ok(())
        })
    }

    pub fn set_enabled(&self, name: &str, enabled: bool) -> Result<Account, EditError> {
        self.change(name, |user| {
            user.enabled = enabled;
            Ok(Account::Stored(user.clone()))
        })
    }

    pub fn set_policy(&self, name: &str, policy: StoredPolicy) -> Result<(), EditError> {
        check_policy(&policy)?;
        self.change(name, |user| {
            user.policy = policy;
            Ok(())
        })
    }

    /// Makes a further key pair, good until `expires`.
    pub fn add_key(&self, name: &str, expires: Option<Timestamp>) -> Result<KeyPair, EditError> {
        let now = self.clock.now();
        self.change(name, |user| {
            forget_ended(user, now);
            refuse_more_keys(user)?;
            let (key, pair) = self.fresh_key(now, expires);
            user.keys.push(key);
            Ok(pair)
        })
    }

    /// Makes a new key pair; `key` (or the only one) ends at `until`, or now.
    pub fn rotate_key(
        &self,
        name: &str,
        key: Option<&str>,
        until: Option<Timestamp>,
    ) -> Result<KeyPair, EditError> {
        let now = self.clock.now();
        self.change(name, |user| {
            forget_ended(user, now);
            let index = match (key, user.keys.len()) {
                (Some(key), _) => key_index(user, key)?,
                (None, 0 | 1) => 0,
                (None, count) => {
                    return Err(EditError::Invalid {
                        field: "key",
                        why: format!("`{name}` has {count} keys: say which one ends"),
                    });
                }
            };
            match (user.keys.get_mut(index), until) {
                (Some(old), Some(until)) => {
                    let sooner = old.expires.map_or(until, |expires| expires.min(until));
                    old.expires = Some(sooner);
                    refuse_more_keys(user)?;
                }
                (Some(_), None) => {
                    user.keys.remove(index);
                }
                (None, _) => {}
            }
            let (key, pair) = self.fresh_key(now, None);
            user.keys.push(key);
            Ok(pair)
        })
    }

    pub fn delete_key(&self, name: &str, key: &str) -> Result<Account, EditError> {
        self.change(name, |user| {
            let index = key_index(user, key)?;
            user.keys.remove(index);
            Ok(Account::Stored(user.clone()))
        })
    }

    fn change<T>(
        &self,
        name: &str,
        change: impl FnOnce(&mut StoredUser) -> Result<T, EditError>,
    ) -> Result<T, EditError> {
        self.refuse_configured(name)?;
        self.edit(|users| change(find(users, name)?))
    }

    /// Changes the file, then the live table, in this order.
    fn edit<T>(
        &self,
        change: impl FnOnce(&mut Vec<StoredUser>) -> Result<T, EditError>,
    ) -> Result<T, EditError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (done, users, stamp) = self.file.edit(change)?;
        self.publish(&users);
        *seen = Seen {
            stamp,
            trouble: None,
        };
        Ok(done)
    }

    fn publish(&self, stored: &[StoredUser]) {
        match table(&self.configured, stored) {
            Ok(users) => self.live.store(Arc::new(users)),
            // `table` leaves out what would collide, so this cannot be; the old table stays.
            Err(error) => tracing::error!(%error, "the users stay as they were"),
        }
    }

    fn fresh_key(&self, now: Timestamp, expires: Option<Timestamp>) -> (StoredKey, KeyPair) {
        let pair = KeyPair::generate_for_user(&self.entropy);
        let key = StoredKey {
            key: pair.access_key.clone(),
            secret: pair.secret_key.clone(),
            created: now,
            expires,
        };
        (key, pair)
    }

    fn configured_named(&self, name: &str) -> Option<&User> {
        self.configured.iter().find(|user| *user.name == *name)
    }

    fn refuse_configured(&self, name: &str) -> Result<(), EditError> {
        match self.configured_named(name) {
            Some(user) => Err(EditError::Configured(user.name.clone())),
            None => Ok(()),
        }
    }
}

/// Why the users cannot be put together at the start.
#[derive(Debug, thiserror::Error)]
pub enum AccountsError {
    #[error(transparent)]
    File(#[from] UsersFileError),
    #[error(transparent)]
    Duplicate(#[from] DuplicateKey),
}

/// The configured users and those stored ones that may sign and collide with none of them.
fn table(configured: &[User], stored: &[StoredUser]) -> Result<Users, DuplicateKey> {
    let mut users = configured.to_vec();
    let mut ready_made = ReadyMade::default();
    for user in stored.iter().filter(|user| user.enabled) {
        let collides = configured.iter().any(|other| {
            let same_key = user.keys.iter().any(|key| *key.key == *other.access_key);
            *other.name == *user.name || *other.id == *user.id || same_key
        });
        if collides {
            tracing::error!(user = %user.name, "this stored user is locked out: one of the \
                 configuration file has its name, id or key");
            continue;
        }
        let policies = match ready_made.policies(&user.policy) {
            Ok(policies) => policies,
            Err(error) => {
                tracing::error!(user = %user.name, %error, "this stored user is locked out: its \
                     policy cannot be read");
                continue;
            }
        };
        users.extend(user.keys.iter().map(|key| User {
            name: user.name.clone(),
            id: user.id.clone(),
            access_key: key.key.clone(),
            secret_key: Secret::new(key.secret.reveal()),
            expires: key.expires,
            root: false,
            policies: policies.clone(),
        }));
    }
    Users::new(users)
}

/// Ready-made policies, each read once for all who have it.
#[derive(Debug, Default)]
struct ReadyMade {
    read: HashMap<&'static str, Arc<Policy>>,
}

impl ReadyMade {
    fn policies(&mut self, stored: &StoredPolicy) -> Result<Vec<Arc<Policy>>, PolicyError> {
        let name = match stored {
            StoredPolicy::Document(text) => return Ok(vec![Arc::new(Policy::of_user(text)?)]),
            StoredPolicy::None => return Ok(Vec::new()),
            named => named.name().unwrap_or_default(),
        };
        if let Some(policy) = self.read.get(name) {
            return Ok(vec![Arc::clone(policy)]);
        }
        // A name that is not known is no document either.
        let text = policy::ready_made(name).unwrap_or_default();
        let policy = Arc::new(Policy::of_user(text)?);
        self.read.insert(name, Arc::clone(&policy));
        Ok(vec![policy])
    }
}

fn find<'a>(users: &'a mut [StoredUser], name: &str) -> Result<&'a mut StoredUser, EditError> {
    users
        .iter_mut()
        .find(|user| *user.name == *name)
        .ok_or_else(|| EditError::NoSuchUser(name.into()))
}

fn key_index(user: &StoredUser, key: &str) -> Result<usize, EditError> {
    let index = user.keys.iter().position(|stored| *stored.key == *key);
    index.ok_or_else(|| EditError::NoSuchKey {
        user: user.name.clone(),
        key: key.into(),
    })
}

/// Keys whose time is over take no place.
fn forget_ended(user: &mut StoredUser, now: Timestamp) {
    user.keys
        .retain(|key| key.expires.is_none_or(|expires| now < expires));
}

fn refuse_more_keys(user: &StoredUser) -> Result<(), EditError> {
    if user.keys.len() < USER_KEYS_MAX {
        return Ok(());
    }
    Err(EditError::TooMany(format!(
        "`{}` has {USER_KEYS_MAX} keys, which is as many as a user may have; delete one first",
        user.name
    )))
}

fn check_name(name: &str) -> Result<(), EditError> {
    let legal = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
    if (1..=USER_NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(legal) {
        return Ok(());
    }
    Err(EditError::Invalid {
        field: "name",
        why: format!(
            "a user's name is 1 to {USER_NAME_BYTES_MAX} letters, digits and +=,.@_- \
             of ASCII"
        ),
    })
}

fn check_policy(policy: &StoredPolicy) -> Result<(), EditError> {
    let refused = |why: String| {
        Err(EditError::Invalid {
            field: "policy",
            why,
        })
    };
    let StoredPolicy::Document(text) = policy else {
        return Ok(());
    };
    if text.len() > POLICY_BYTES_MAX {
        return refused(format!(
            "the policy document has {} bytes; {POLICY_BYTES_MAX} are allowed",
            text.len()
        ));
    }
    match Policy::of_user(text) {
        Ok(_) => Ok(()),
        Err(error) => refused(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn root() -> User {
        User {
            name: "root".into(),
            id: "root".into(),
            access_key: "ROOTKEY".into(),
            secret_key: Secret::new("root's secret"),
            expires: None,
            root: true,
            policies: Vec::new(),
        }
    }

    fn open(dir: &std::path::Path) -> Accounts {
        let file = UsersFile::new(dir, Entropy::system());
        Accounts::open(vec![root()], file, Clock::system(), Entropy::system()).unwrap()
    }

    fn is_let_in(accounts: &Accounts, key: &str) -> bool {
        accounts.live().load().by_access_key(key).is_some()
    }

    #[test]
    fn a_change_is_live_when_it_is_answered() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = open(dir.path());
        let pair = accounts.add("ann", StoredPolicy::Readwrite).unwrap();
        assert_eq!(
            (pair.access_key.len(), pair.secret_key.reveal().len()),
            (20, 40)
        );
        assert!(pair.access_key.starts_with("LB"));
        assert!(is_let_in(&accounts, &pair.access_key) && is_let_in(&accounts, "ROOTKEY"));
        accounts.set_enabled("ann", false).unwrap();
        assert!(!is_let_in(&accounts, &pair.access_key));
        accounts.set_enabled("ann", true).unwrap();
        let second = accounts.add_key("ann", None).unwrap();
        assert!(is_let_in(&accounts, &pair.access_key) && is_let_in(&accounts, &second.access_key));
        let third = accounts
            .rotate_key("ann", Some(&pair.access_key), None)
            .unwrap();
        assert!(!is_let_in(&accounts, &pair.access_key) && is_let_in(&accounts, &third.access_key));
        accounts.delete_key("ann", &second.access_key).unwrap();
        assert!(!is_let_in(&accounts, &second.access_key));
        accounts.remove("ann").unwrap();
        assert!(!is_let_in(&accounts, &third.access_key) && is_let_in(&accounts, "ROOTKEY"));
    }

    #[test]
    fn what_another_process_changes_is_seen_and_what_it_breaks_locks_out() {
        let dir = tempfile::tempdir().unwrap();
        let (here, there) = (open(dir.path()), open(dir.path()));
        let pair = there.add("ann", StoredPolicy::None).unwrap();
        here.refresh().unwrap();
        assert!(is_let_in(&here, &pair.access_key));
        let whole = std::fs::read(dir.path().join("users.json")).unwrap();
        std::fs::write(dir.path().join("users.json"), &whole[..whole.len() / 2]).unwrap();
        // As often as somebody asks, though the log is told once.
        for _ in 0..2 {
            let why = here.refresh().unwrap_err();
            assert!(why.contains("users.json"), "{why}");
        }
        assert!(!is_let_in(&here, &pair.access_key) && is_let_in(&here, "ROOTKEY"));
        assert!(matches!(
            here.add("bob", StoredPolicy::None),
            Err(EditError::File(_))
        ));
        std::fs::write(dir.path().join("users.json"), &whole).unwrap();
        here.refresh().unwrap();
        assert!(is_let_in(&here, &pair.access_key));
        there.remove("ann").unwrap();
        here.refresh().unwrap();
        assert!(!is_let_in(&here, &pair.access_key));
    }

    #[test]
    fn a_name_used_again_is_another_owner() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = open(dir.path());
        let id = |accounts: &Accounts| accounts.get("ann").unwrap().id().to_owned();
        accounts.add("ann", StoredPolicy::None).unwrap();
        let first = id(&accounts);
        accounts.remove("ann").unwrap();
        accounts.add("ann", StoredPolicy::None).unwrap();
        assert_ne!(first, id(&accounts));
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_its_field() {
        let dir = tempfile::tempdir().unwrap();
        let accounts = open(dir.path());
        let long = "x".repeat(65);
        for name in ["", "a b", "a\n", "a\u{7f}", "ä", "a/b", &long] {
            let error = accounts.add(name, StoredPolicy::None).unwrap_err();
            assert!(
                matches!(error, EditError::Invalid { field: "name", .. }),
                "{name:?}: {error}"
            );
        }
        let document = StoredPolicy::Document("x".repeat(POLICY_BYTES_MAX + 1).into());
        let error = accounts.add("ann", document).unwrap_err();
        assert!(
            matches!(
                error,
                EditError::Invalid {
                    field: "policy",
                    ..
                }
            ),
            "{error}"
        );
        assert!(matches!(
            accounts.remove("ann"),
            Err(EditError::NoSuchUser(_))
        ));
        assert!(matches!(
            accounts.remove("root"),
            Err(EditError::Configured(_))
        ));
        assert!(matches!(
            accounts.add("root", StoredPolicy::None),
            Err(EditError::Exists(_))
        ));
        accounts.add("ann", StoredPolicy::None).unwrap();
        assert!(matches!(
            accounts.add("ann", StoredPolicy::None),
            Err(EditError::Exists(_))
        ));
        for _ in 1..USER_KEYS_MAX {
            accounts.add_key("ann", None).unwrap();
        }
        assert!(matches!(
            accounts.add_key("ann", None),
            Err(EditError::TooMany(_))
        ));
        let error = accounts.rotate_key("ann", None, None).unwrap_err();
        assert!(
            matches!(error, EditError::Invalid { field: "key", .. }),
            "{error}"
        );
        let error = accounts.delete_key("ann", "LBNOBODY").unwrap_err();
        assert!(matches!(error, EditError::NoSuchKey { .. }), "{error}");
    }

    #[test]
    fn every_policy_with_a_name_can_be_read_and_a_damaged_document_locks_out() {
        let mut ready_made = ReadyMade::default();
        for (name, policy) in StoredPolicy::NAMED {
            let count = usize::from(policy != StoredPolicy::None);
            assert_eq!(ready_made.policies(&policy).unwrap().len(), count, "{name}");
        }
        let stored = |policy| StoredUser {
            name: "ann".into(),
            id: "1".into(),
            created: Timestamp::default(),
            enabled: true,
            policy,
            keys: vec![StoredKey {
                key: "LBANN".into(),
                secret: crate::config::SecretText::new("a secret".to_owned()),
                created: Timestamp::default(),
                expires: None,
            }],
        };
        let is_let_in = |policy| {
            let users = table(&[root()], &[stored(policy)]).unwrap();
            users.by_access_key("LBANN").is_some()
        };
        assert!(is_let_in(StoredPolicy::Readonly));
        assert!(!is_let_in(StoredPolicy::Document(
            "{\"Statement\": 7}".into()
        )));
    }

    #[test]
    fn a_stored_user_never_takes_a_configured_ones_place() {
        let dir = tempfile::tempdir().unwrap();
        let pair = open(dir.path())
            .add("ann", StoredPolicy::Readwrite)
            .unwrap();
        let ann = User {
            name: "ann".into(),
            id: "ann".into(),
            access_key: "ANNKEY".into(),
            root: false,
            ..root()
        };
        let file = UsersFile::new(dir.path(), Entropy::system());
        let both = vec![root(), ann];
        let accounts = Accounts::open(both, file, Clock::system(), Entropy::system()).unwrap();
        assert!(!is_let_in(&accounts, &pair.access_key) && is_let_in(&accounts, "ANNKEY"));
    }
}
