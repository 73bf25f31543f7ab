//! The methods about buckets. Engines are asked on the control plane's own event loop.

use std::sync::Arc;

use tonic::Status;

use super::proto;
use super::service::{Service, proto_time};
use super::status::{invalid, of_engine, of_name};
use crate::clock::Timestamp;
use crate::engine::{BucketConfig, BucketName, Durability, ETagMode, EngineError};
use crate::s3::S3;

pub(super) async fn create(
    service: &Service,
    asked: &proto::CreateBucketRequest,
) -> Result<proto::Bucket, Status> {
    let name = parse(&asked.name)?;
    let owner = match &*asked.owner {
        "" => None,
        owner => Some(owner_id(service, owner).await?),
    };
    let config = BucketConfig::new(owner, service.accounts.now());
    on_engine(service, &asked.name, async move |s3| {
        s3.engines().create_bucket(&name, config).await
    })
    .await?;
    get(service, &asked.name).await
}

/// Changes all that is named in one edit of the bucket's configuration.
pub(super) async fn set(
    service: &Service,
    asked: &proto::SetBucketSettingsRequest,
) -> Result<proto::Bucket, Status> {
    let name = parse(&asked.name)?;
    let durability = chosen("durability", asked.durability.as_deref(), &DURABILITIES)?;
    let etag = chosen("etag", asked.etag.as_deref(), &ETAGS)?;
    let quota = asked.quota_bytes;
    let owner = match asked.owner.as_deref() {
        None => None,
        Some("") => return Err(invalid("owner", "it is empty; name a user, such as root")),
        Some(owner) => Some(owner_id(service, owner).await?),
    };
    on_engine(service, &asked.name, async move |s3| {
        let bucket = s3.engines().bucket(&name).await?;
        let change = move |config: &mut BucketConfig| {
            config.durability = durability.unwrap_or(config.durability);
            config.etag = etag.unwrap_or(config.etag);
            config.owner = owner.or(config.owner.take());
            if let Some(bytes) = quota {
                config.quota_bytes = Some(bytes).filter(|bytes| *bytes > 0);
            }
            Ok::<_, EngineError>(())
        };
        bucket.change_config(change).await
    })
    .await?;
    get(service, &asked.name).await
}

/// A choice by its word; the empty one is that of the server. The outer `None`: nothing is said.
fn chosen<T: Copy>(
    field: &str,
    word: Option<&str>,
    choices: &[(&str, T)],
) -> Result<Option<Option<T>>, Status> {
    match word {
        None => Ok(None),
        Some("") => Ok(Some(None)),
        Some(word) => match choices.iter().find(|(name, _)| *name == word) {
            Some((_, choice)) => Ok(Some(Some(*choice))),
            None => {
                let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
                let why = format!("it is {}, or empty", names.join(" or "));
                Err(invalid(field, why))
            }
        },
    }
}

async fn owner_id(service: &Service, owner: &str) -> Result<Box<str>, Status> {
    let owner = owner.to_owned();
    let accounts = Arc::clone(&service.accounts);
    let found = tokio::task::spawn_blocking(move || accounts.get(&owner)).await;
    let found = found.map_err(|_| Status::internal("a panic ended this call"))?;
    Ok(found?.id().into())
}

pub(super) async fn delete(
    service: &Service,
    name: &str,
) -> Result<proto::DeleteBucketResponse, Status> {
    let bucket = parse(name)?;
    on_engine(service, name, async move |s3| {
        s3.engines().delete_bucket(&bucket).await
    })
    .await?;
    Ok(proto::DeleteBucketResponse {})
}

pub(super) async fn list(service: &Service) -> Result<proto::ListBucketsResponse, Status> {
    let listed = on_engine(service, "the buckets", async move |s3| {
        let mut found = Vec::new();
        for info in s3.engines().list_buckets().await? {
            // One that went away meanwhile is no longer there.
            if let Ok(bucket) = s3.engines().bucket(&info.name).await {
                found.push((info.name, info.config, bucket.durability()));
            }
        }
        Ok(found)
    })
    .await?;
    let one = |(name, config, durability): &(BucketName, Arc<BucketConfig>, Durability)| {
        described(&service.s3, name, config, *durability)
    };
    Ok(proto::ListBucketsResponse {
        buckets: listed.iter().map(one).collect(),
    })
}

pub(super) async fn get(service: &Service, name: &str) -> Result<proto::Bucket, Status> {
    let bucket = parse(name)?;
    let found = bucket.clone();
    let (config, durability) = on_engine(service, name, async move |s3| {
        let bucket = s3.engines().bucket(&found).await?;
        Ok((bucket.config().await?, bucket.durability()))
    })
    .await?;
    Ok(described(&service.s3, &bucket, &config, durability))
}

/// What an engine is asked may stay on one thread, which the futures of this service may not.
pub(super) async fn on_engine<T, F>(
    service: &Service,
    about: &str,
    ask: impl FnOnce(Arc<S3>) -> F + 'static,
) -> Result<T, Status>
where
    T: Send + 'static,
    F: Future<Output = Result<T, EngineError>> + 'static,
{
    let asked = tokio::task::spawn_local(ask(Arc::clone(&service.s3)));
    match asked.await {
        Ok(done) => done.map_err(|error| of_engine(&error, about)),
        Err(_) => Err(Status::internal(
            "a panic ended this call; please report it",
        )),
    }
}

pub(super) fn parse(name: &str) -> Result<BucketName, Status> {
    if name.is_empty() {
        return Err(invalid("name", "it is missing"));
    }
    BucketName::parse(name).map_err(|error| of_name(&error))
}

fn described(
    s3: &S3,
    name: &BucketName,
    config: &BucketConfig,
    durability: Durability,
) -> proto::Bucket {
    let (owner_id, owner) = s3.owner(config);
    proto::Bucket {
        name: name.to_string(),
        owner_id: owner_id.into(),
        owner: owner.map(String::from).unwrap_or_default(),
        created: Some(config.created)
            .filter(|created| *created != Timestamp::default())
            .map(proto_time),
        durability: config.durability.unwrap_or(durability).as_str().to_owned(),
        etag: s3.etag_mode(name, config).as_str().to_owned(),
        quota_bytes: config.quota_bytes.unwrap_or(0),
        quota_used_bytes: config.quota_bytes.and(s3.quota_used_bytes(name)),
    }
}

const DURABILITIES: [(&str, Durability); 2] = [
    ("strict", Durability::Strict),
    ("relaxed", Durability::Relaxed),
];
const ETAGS: [(&str, ETagMode); 2] = [("md5", ETagMode::Md5), ("fast", ETagMode::Fast)];
