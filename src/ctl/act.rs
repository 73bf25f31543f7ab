//! The commands that ask once.

use serde_json::{Value, json};

use super::client::Client;
use super::show::{self, print};
use super::{Bucket, Config, CtlError, Policy, User};
use crate::control::proto::{self, UserPolicy, user_policy};

pub(super) async fn user(client: &mut Client, asked: User, json: bool) -> Result<(), CtlError> {
    match asked {
        User::Add { name, policy } => add(client, name, policy, json).await,
        User::List => {
            let answer = client.list_users(proto::ListUsersRequest {}).await?;
            let users = answer.into_inner().users;
            let value = Value::Array(users.iter().map(show::user).collect());
            print(json, &value, |list| {
                let mut list = list.clone();
                list.as_array_mut().into_iter().flatten().for_each(brief);
                show::table(&list, &["name", "enabled", "policy", "source", "keys"])
            });
            Ok(())
        }
        User::Show { name } => {
            let answer = client.get_user(proto::GetUserRequest { name }).await?;
            print_user(&answer.into_inner(), json);
            Ok(())
        }
        User::Rm { name } => {
            let asked = proto::DeleteUserRequest { name: name.clone() };
            client.delete_user(asked).await?;
            print(json, &json!({"removed": name}), show::lines);
            Ok(())
        }
        User::Enable { name } => {
            let answer = client
                .enable_user(proto::EnableUserRequest { name })
                .await?;
            print_user(&answer.into_inner(), json);
            Ok(())
        }
        User::Disable { name } => {
            let asked = proto::DisableUserRequest { name };
            print_user(&client.disable_user(asked).await?.into_inner(), json);
            Ok(())
        }
        User::AddKey { name, lifetime } => {
            let lifetime = lifetime.and_then(|lifetime| lifetime.try_into().ok());
            let answer = client
                .add_key(proto::AddKeyRequest { name, lifetime })
                .await?;
            print(json, &show::key_pair(answer.get_ref()), show::lines);
            Ok(())
        }
        User::Rotate { name, key, grace } => {
            let (key, grace) = (
                key.unwrap_or_default(),
                grace.and_then(|grace| grace.try_into().ok()),
            );
            let answer = client
                .rotate_key(proto::RotateKeyRequest { name, key, grace })
                .await?;
            print(json, &show::key_pair(answer.get_ref()), show::lines);
            Ok(())
        }
        User::RmKey { name, key } => {
            let answer = client
                .delete_key(proto::DeleteKeyRequest { name, key })
                .await?;
            print_user(&answer.into_inner(), json);
            Ok(())
        }
        User::Policy { name, policy } => policy_of(client, name, policy, json).await,
    }
}

async fn add(
    client: &mut Client,
    name: String,
    policy: Policy,
    json: bool,
) -> Result<(), CtlError> {
    let policy = policy.read()?;
    let answer = client
        .add_user(proto::AddUserRequest { name, policy })
        .await?;
    let params = answer.into_inner().params.unwrap_or_default();
    let value = json!({
        "name": params.name,
        "access_key": params.key,
        "secret_key": params.secret,
        "backend": params.backend,
    });
    print(json, &value, show::lines);
    Ok(())
}

async fn policy_of(
    client: &mut Client,
    name: String,
    policy: Policy,
    json: bool,
) -> Result<(), CtlError> {
    let answer = match policy.read()? {
        Some(policy) => {
            let policy = Some(policy);
            client
                .set_user_policy(proto::SetUserPolicyRequest { name, policy })
                .await?
        }
        None => {
            client
                .get_user_policy(proto::GetUserPolicyRequest { name })
                .await?
        }
    };
    print(
        json,
        &show::policy(answer.get_ref()),
        |policy| match policy {
            Value::String(name) => format!("{name}\n"),
            document => format!("{document:#}\n"),
        },
    );
    Ok(())
}

impl Policy {
    /// The policy that was given, if one was.
    fn read(self) -> Result<Option<UserPolicy>, CtlError> {
        let policy = match (self.name, self.file) {
            (Some(name), _) => user_policy::Policy::Name(name),
            (None, Some(file)) => {
                let text = std::fs::read_to_string(&file);
                let text = text.map_err(|error| {
                    CtlError::Local(format!("cannot read {}: {error}", file.display()))
                })?;
                user_policy::Policy::Document(text)
            }
            (None, None) => return Ok(None),
        };
        Ok(Some(UserPolicy {
            policy: Some(policy),
        }))
    }
}

fn print_user(user: &proto::User, json: bool) {
    print(json, &show::user(user), |user| {
        let mut user = user.clone();
        let keys = user.get("keys").cloned().unwrap_or_default();
        brief(&mut user);
        if let Some(fields) = user.as_object_mut() {
            fields.remove("keys");
        }
        let keys = show::table(&keys, &["key", "created", "expires"]);
        format!("{}\n{keys}", show::lines(&user))
    });
}

/// A user in one row: of its keys the names, of a document that it is one.
fn brief(user: &mut Value) {
    let Some(fields) = user.as_object_mut() else {
        return;
    };
    if let Some(keys) = fields.get_mut("keys").and_then(Value::as_array_mut) {
        for key in keys {
            *key = key.get("key").cloned().unwrap_or_default();
        }
    }
    if fields.get("policy").is_some_and(Value::is_object) {
        fields.insert("policy".to_owned(), "(document)".into());
    }
}

pub(super) async fn bucket(client: &mut Client, asked: Bucket, json: bool) -> Result<(), CtlError> {
    match asked {
        Bucket::Create { name, owner } => {
            let owner = owner.unwrap_or_default();
            let answer = client
                .create_bucket(proto::CreateBucketRequest { name, owner })
                .await?;
            print(json, &show::bucket(answer.get_ref()), show::lines);
        }
        Bucket::List => {
            let answer = client.list_buckets(proto::ListBucketsRequest {}).await?;
            let buckets = answer.get_ref().buckets.iter().map(show::bucket);
            print(json, &buckets.collect(), |list| {
                show::table(list, &["name", "owner", "created", "durability"])
            });
        }
        Bucket::Info { name } => {
            let answer = client
                .get_bucket_info(proto::GetBucketInfoRequest { name })
                .await?;
            print(json, &show::bucket(answer.get_ref()), show::lines);
        }
        Bucket::Set { name, settings } => {
            let word = |word: Option<String>| word.map(|word| word.replace("server", ""));
            let asked = proto::SetBucketSettingsRequest {
                name,
                durability: word(settings.durability),
                etag: word(settings.etag),
                quota_bytes: settings.quota,
                owner: settings.owner,
            };
            let answer = client.set_bucket_settings(asked).await?;
            print(json, &show::bucket(answer.get_ref()), show::lines);
        }
        Bucket::Rm { name } => {
            let asked = proto::DeleteBucketRequest { name: name.clone() };
            client.delete_bucket(asked).await?;
            print(json, &json!({"removed": name}), show::lines);
        }
    }
    Ok(())
}

pub(super) async fn info(client: &mut Client, json: bool) -> Result<(), CtlError> {
    let server = client.server_info(proto::ServerInfoRequest {}).await?;
    let engine = client.engine_info(proto::EngineInfoRequest {}).await?;
    let value = show::info(server.get_ref(), engine.get_ref());
    print(json, &value, show::info_text);
    Ok(())
}

pub(super) async fn checkpoint(client: &mut Client, json: bool) -> Result<(), CtlError> {
    let answer = client.checkpoint(proto::CheckpointRequest {}).await?;
    let value = json!({
        "journal_before_bytes": answer.get_ref().journal_before_bytes,
        "journal_after_bytes": answer.get_ref().journal_after_bytes,
    });
    print(json, &value, show::lines);
    Ok(())
}

pub(super) async fn drain(client: &mut Client, json: bool) -> Result<(), CtlError> {
    let answer = client.drain(proto::DrainRequest {}).await?;
    let value = json!({"open_connections": answer.get_ref().connections});
    print(json, &value, show::lines);
    Ok(())
}

pub(super) async fn config(client: &mut Client, asked: Config, json: bool) -> Result<(), CtlError> {
    let value = match asked {
        Config::Reload => {
            let answer = client.reload_config(proto::ReloadConfigRequest {}).await?;
            json!({"read_again": answer.get_ref().reloaded})
        }
        Config::LogLevel { level } => {
            let asked = proto::SetLogLevelRequest {
                level: level.clone(),
            };
            let answer = client.set_log_level(asked).await?;
            json!({"log_level": level, "before": answer.get_ref().previous})
        }
    };
    print(json, &value, show::lines);
    Ok(())
}
