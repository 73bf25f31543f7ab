//! The users as one immutable snapshot, and their secrets.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::policy::Policy;
use super::sigv4::SigningKeys;
use crate::clock::Timestamp;

/// A secret key. Wiped from memory when dropped, never printed, compared in constant time.
#[derive(Clone)]
pub struct Secret(Zeroizing<Box<str>>);

impl Secret {
    pub fn new(text: impl Into<Box<str>>) -> Self {
        Self(Zeroizing::new(text.into()))
    }

    /// The text itself, for the one who computes signatures.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_bytes().ct_eq(other.0.as_bytes()).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Somebody who may sign requests, with one of the keys to do it with.
#[derive(Clone, Debug)]
pub struct User {
    /// The display name in answers.
    pub name: Box<str>,
    /// The owner id in answers.
    pub id: Box<str>,
    pub access_key: Box<str>,
    pub secret_key: Secret,
    /// From then on the key is unknown.
    pub expires: Option<Timestamp>,
    /// May do everything.
    pub root: bool,
    /// What it may do beside working in the buckets that it owns. Without any it may still make
    /// buckets of its own.
    pub policies: Vec<Arc<Policy>>,
}

/// Who sent a request.
#[derive(Clone, Debug)]
pub enum Identity {
    User(Arc<User>),
    /// The request names nobody.
    Anonymous,
}

/// All users at one moment. A change publishes a new snapshot, and with it drops every signing
/// key that was derived from the old secrets.
#[derive(Debug)]
pub struct Users {
    accounts: HashMap<Box<str>, Account>,
    root: Arc<User>,
}

impl Users {
    /// Refuses two users with one access key. Users with an empty access key or secret are
    /// known but cannot sign requests. Without a root user there is one that has no key.
    pub fn new(users: Vec<User>) -> Result<Self, DuplicateKey> {
        let mut accounts = HashMap::with_capacity(users.len());
        let mut root = None;
        for user in users {
            let user = Arc::new(user);
            if user.root && root.is_none() {
                root = Some(Arc::clone(&user));
            }
            if user.access_key.is_empty() || user.secret_key.reveal().is_empty() {
                continue;
            }
            let access_key = user.access_key.clone();
            let account = Account {
                user,
                signing_keys: SigningKeys::default(),
            };
            if accounts.insert(access_key.clone(), account).is_some() {
                return Err(DuplicateKey { access_key });
            }
        }
        Ok(Self {
            accounts,
            root: root.unwrap_or_else(|| Arc::new(keyless_root())),
        })
    }

    pub fn by_access_key(&self, access_key: &str) -> Option<&Arc<User>> {
        self.accounts.get(access_key).map(|account| &account.user)
    }

    /// The user with that owner id; for names in answers, so a search is good enough.
    pub fn by_id(&self, id: &str) -> Option<&Arc<User>> {
        let mut users = self
            .accounts
            .values()
            .map(|account| &account.user)
            .chain([&self.root]);
        users.find(|user| *user.id == *id)
    }

    /// The user that may do everything, and the owner of what nobody created through S3.
    pub fn root(&self) -> Arc<User> {
        Arc::clone(&self.root)
    }

    /// The account that signs with that key, unless the key has ended by `now`.
    pub(super) fn account(&self, access_key: &str, now: Timestamp) -> Option<&Account> {
        let account = self.accounts.get(access_key)?;
        let is_live = account.user.expires.is_none_or(|expires| now < expires);
        is_live.then_some(account)
    }
}

/// Two users have the same access key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("two users have the access key '{access_key}'; give each user its own")]
pub struct DuplicateKey {
    pub access_key: Box<str>,
}

/// A user and the signing keys derived from the user's secret.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) user: Arc<User>,
    pub(super) signing_keys: SigningKeys,
}

fn keyless_root() -> User {
    User {
        name: "root".into(),
        id: "root".into(),
        access_key: "".into(),
        secret_key: Secret::new(""),
        expires: None,
        root: true,
        policies: Vec::new(),
    }
}
