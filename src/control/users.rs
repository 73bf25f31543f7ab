//! The methods about users. What touches the disk runs beside the event loop.

use std::sync::Arc;
use std::time::Duration;

use prost_types::Duration as ProtoDuration;
use tonic::Status;

use super::accounts::{Account, Accounts, EditError};
use super::proto::{self, UserPolicy, UserSource, user_policy};
use super::service::{Service, proto_time};
use super::status::invalid;
use super::users_file::{StoredKey, StoredPolicy};
use crate::clock::Timestamp;
use crate::credentials::KeyPair;

pub(super) async fn add(
    service: &Service,
    asked: &proto::AddUserRequest,
) -> Result<proto::AddUserResponse, Status> {
    let policy = match &asked.policy {
        None => StoredPolicy::Readwrite,
        Some(policy) => stored_policy(policy)?,
    };
    let name = asked.name.clone();
    let pair = on_disk(service, move |accounts| accounts.add(&name, policy)).await?;
    let params = proto::UserParams {
        name: asked.name.clone(),
        key: pair.access_key.into(),
        secret: pair.secret_key.reveal().to_owned(),
        backend: super::insight::backend(&service.s3),
    };
    Ok(proto::AddUserResponse {
        params: Some(params),
    })
}

pub(super) async fn get(service: &Service, name: String) -> Result<proto::User, Status> {
    let account = on_disk(service, move |accounts| accounts.get(&name)).await?;
    Ok(user(&account))
}

pub(super) async fn list(service: &Service) -> Result<proto::ListUsersResponse, Status> {
    let accounts = on_disk(service, Accounts::list).await?;
    Ok(proto::ListUsersResponse {
        users: accounts.iter().map(user).collect(),
    })
}

pub(super) async fn delete(
    service: &Service,
    name: String,
) -> Result<proto::DeleteUserResponse, Status> {
    on_disk(service, move |accounts| accounts.remove(&name)).await?;
    Ok(proto::DeleteUserResponse {})
}

pub(super) async fn set_enabled(
    service: &Service,
    name: String,
    enabled: bool,
) -> Result<proto::User, Status> {
    let change = move |accounts: &Accounts| accounts.set_enabled(&name, enabled);
    Ok(user(&on_disk(service, change).await?))
}

pub(super) async fn add_key(
    service: &Service,
    asked: &proto::AddKeyRequest,
) -> Result<proto::KeyPair, Status> {
    let lifetime = span("lifetime", asked.lifetime.as_ref())?;
    let expires = lifetime.map(|lifetime| after(service, lifetime));
    let name = asked.name.clone();
    let pair = on_disk(service, move |accounts| accounts.add_key(&name, expires)).await?;
    Ok(key_pair(&asked.name, pair, expires))
}

pub(super) async fn rotate_key(
    service: &Service,
    asked: &proto::RotateKeyRequest,
) -> Result<proto::KeyPair, Status> {
    let grace = span("grace", asked.grace.as_ref())?;
    let until = grace.map(|grace| after(service, grace));
    let (name, key) = (asked.name.clone(), asked.key.clone());
    let change = move |accounts: &Accounts| {
        let key = Some(&*key).filter(|key| !key.is_empty());
        accounts.rotate_key(&name, key, until)
    };
    let pair = on_disk(service, change).await?;
    Ok(key_pair(&asked.name, pair, None))
}

pub(super) async fn delete_key(
    service: &Service,
    asked: proto::DeleteKeyRequest,
) -> Result<proto::User, Status> {
    let change = move |accounts: &Accounts| accounts.delete_key(&asked.name, &asked.key);
    Ok(user(&on_disk(service, change).await?))
}

pub(super) async fn set_policy(
    service: &Service,
    asked: proto::SetUserPolicyRequest,
) -> Result<UserPolicy, Status> {
    let policy = asked.policy.unwrap_or_default();
    let stored = stored_policy(&policy)?;
    let change = move |accounts: &Accounts| accounts.set_policy(&asked.name, stored);
    on_disk(service, change).await?;
    Ok(policy)
}

/// Waits for `work` beside the event loop, so that a slow disk holds up nobody else.
async fn on_disk<T: Send + 'static>(
    service: &Service,
    work: impl FnOnce(&Accounts) -> Result<T, EditError> + Send + 'static,
) -> Result<T, Status> {
    let accounts = Arc::clone(&service.accounts);
    match tokio::task::spawn_blocking(move || work(&accounts)).await {
        Ok(done) => Ok(done?),
        Err(_) => Err(Status::internal(
            "a panic ended this call; please report it",
        )),
    }
}

fn stored_policy(policy: &UserPolicy) -> Result<StoredPolicy, Status> {
    let name = match &policy.policy {
        Some(user_policy::Policy::Document(text)) => {
            return Ok(StoredPolicy::Document(text.as_str().into()));
        }
        Some(user_policy::Policy::Name(name)) => &**name,
        None => "",
    };
    StoredPolicy::NAMED
        .into_iter()
        .find_map(|(known, policy)| (known == name).then_some(policy))
        .ok_or_else(|| {
            let names = StoredPolicy::NAMED.map(|(name, _)| name).join(", ");
            invalid(
                "policy",
                format!("`{name}` is none of {names}, and no document"),
            )
        })
}

fn shown_policy(policy: &StoredPolicy) -> UserPolicy {
    let shown = match policy {
        StoredPolicy::Document(text) => user_policy::Policy::Document(text.to_string()),
        policy => user_policy::Policy::Name(policy.name().unwrap_or_default().to_owned()),
    };
    UserPolicy {
        policy: Some(shown),
    }
}

fn user(account: &Account) -> proto::User {
    match account {
        Account::Stored(user) => proto::User {
            name: user.name.to_string(),
            id: user.id.to_string(),
            enabled: user.enabled,
            created: Some(proto_time(user.created)),
            keys: user.keys.iter().map(shown_key).collect(),
            policy: Some(shown_policy(&user.policy)),
            source: UserSource::Stored.into(),
        },
        Account::Configured(user) => proto::User {
            name: user.name.to_string(),
            id: user.id.to_string(),
            enabled: true,
            created: None,
            keys: vec![proto::Key {
                key: user.access_key.to_string(),
                created: None,
                expires: None,
            }],
            // What the root user and those with a policy of the file may do has no name here.
            policy: (!user.root && user.policies.is_empty())
                .then(|| shown_policy(&StoredPolicy::BucketOwner)),
            source: if user.root {
                UserSource::Root.into()
            } else {
                UserSource::Configured.into()
            },
        },
    }
}

fn shown_key(key: &StoredKey) -> proto::Key {
    proto::Key {
        key: key.key.to_string(),
        created: Some(proto_time(key.created)),
        expires: key.expires.map(proto_time),
    }
}

fn key_pair(name: &str, pair: KeyPair, expires: Option<Timestamp>) -> proto::KeyPair {
    proto::KeyPair {
        name: name.to_owned(),
        key: pair.access_key.into(),
        secret: pair.secret_key.reveal().to_owned(),
        expires: expires.map(proto_time),
    }
}

/// A time that was asked for: positive, and short enough to be added to any clock.
fn span(field: &'static str, asked: Option<&ProtoDuration>) -> Result<Option<Duration>, Status> {
    let Some(asked) = asked else { return Ok(None) };
    let span = Duration::try_from(*asked).ok();
    match span.filter(|span| !span.is_zero() && *span <= SPAN_MAX) {
        Some(span) => Ok(Some(span)),
        None => Err(invalid(
            field,
            "it must be more than 0 and at most 100 years",
        )),
    }
}

fn after(service: &Service, span: Duration) -> Timestamp {
    let nanos = i64::try_from(span.as_nanos()).unwrap_or(i64::MAX);
    let now = service.accounts.now().unix_nanos;
    Timestamp::from_unix_nanos(now.saturating_add(nanos))
}

const SPAN_MAX: Duration = Duration::from_secs(100 * 365 * 86_400);
