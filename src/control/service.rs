//! The methods of `loboscontrol.ControlPlane`. Each is short: what it asks of whom, and the line
//! in the audit log if it changes something.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use futures_util::Stream;
use prost_types::Timestamp as ProtoTimestamp;
use tokio::sync::mpsc;
use tonic::{Request, Response, Status};

use super::access::rfc3339;
use super::accounts::Accounts;
use super::caller::{Caller, Token};
use super::check::Checks;
use super::lines::LineFile;
use super::proto::control_plane_server::ControlPlane;
use super::proto::{self, UserPolicy};
use super::watch::Watchers;
use super::{buckets, check, insight, users};
use crate::log::LogLevel;
use crate::s3::S3;
use crate::tls::Certificates;

/// What the methods work on.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) s3: Arc<S3>,
    pub(super) accounts: Arc<Accounts>,
    pub(super) watchers: Arc<Watchers>,
    pub(super) checks: Checks,
    pub(super) facts: Facts,
    pub(super) log_level: LogLevel,
    pub(super) certificates: Option<Certificates>,
    pub(super) token_file: Option<PathBuf>,
    pub(super) token: Arc<ArcSwap<Token>>,
    /// Tells the server to end in order.
    pub(super) orders: mpsc::UnboundedSender<super::Signal>,
    /// Where changes are told beside the log.
    pub(super) audit: Option<Mutex<LineFile>>,
}

/// What stays as it is for as long as the process runs.
#[derive(Clone, Debug)]
pub struct Facts {
    pub started: crate::clock::Timestamp,
    pub listen: Vec<String>,
    pub auth: bool,
}

/// One answer.
type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl ControlPlane for Service {
    async fn add_user(
        &self,
        request: Request<proto::AddUserRequest>,
    ) -> Answer<proto::AddUserResponse> {
        let (caller, asked) = taken(request);
        let done = users::add(self, &asked).await;
        self.audit(&caller, "AddUser", &asked.name, done)
    }

    async fn get_user(&self, request: Request<proto::GetUserRequest>) -> Answer<proto::User> {
        users::get(self, request.into_inner().name)
            .await
            .map(Response::new)
    }

    async fn list_users(
        &self,
        _: Request<proto::ListUsersRequest>,
    ) -> Answer<proto::ListUsersResponse> {
        users::list(self).await.map(Response::new)
    }

    async fn delete_user(
        &self,
        request: Request<proto::DeleteUserRequest>,
    ) -> Answer<proto::DeleteUserResponse> {
        let (caller, asked) = taken(request);
        let done = users::delete(self, asked.name.clone()).await;
        self.audit(&caller, "DeleteUser", &asked.name, done)
    }

    async fn enable_user(&self, request: Request<proto::EnableUserRequest>) -> Answer<proto::User> {
        let (caller, asked) = taken(request);
        let done = users::set_enabled(self, asked.name.clone(), true).await;
        self.audit(&caller, "EnableUser", &asked.name, done)
    }

    async fn disable_user(
        &self,
        request: Request<proto::DisableUserRequest>,
    ) -> Answer<proto::User> {
        let (caller, asked) = taken(request);
        let done = users::set_enabled(self, asked.name.clone(), false).await;
        self.audit(&caller, "DisableUser", &asked.name, done)
    }

    async fn add_key(&self, request: Request<proto::AddKeyRequest>) -> Answer<proto::KeyPair> {
        let (caller, asked) = taken(request);
        let done = users::add_key(self, &asked).await;
        self.audit(&caller, "AddKey", &asked.name, done)
    }

    async fn rotate_key(
        &self,
        request: Request<proto::RotateKeyRequest>,
    ) -> Answer<proto::KeyPair> {
        let (caller, asked) = taken(request);
        let done = users::rotate_key(self, &asked).await;
        self.audit(&caller, "RotateKey", &asked.name, done)
    }

    async fn delete_key(&self, request: Request<proto::DeleteKeyRequest>) -> Answer<proto::User> {
        let (caller, asked) = taken(request);
        let done = users::delete_key(self, asked.clone()).await;
        self.audit(
            &caller,
            "DeleteKey",
            &format!("{} {}", asked.name, asked.key),
            done,
        )
    }

    async fn set_user_policy(
        &self,
        request: Request<proto::SetUserPolicyRequest>,
    ) -> Answer<UserPolicy> {
        let (caller, asked) = taken(request);
        let done = users::set_policy(self, asked.clone()).await;
        self.audit(&caller, "SetUserPolicy", &asked.name, done)
    }

    async fn get_user_policy(
        &self,
        request: Request<proto::GetUserPolicyRequest>,
    ) -> Answer<UserPolicy> {
        let user = users::get(self, request.into_inner().name).await?;
        Ok(Response::new(user.policy.unwrap_or_default()))
    }

    async fn create_bucket(
        &self,
        request: Request<proto::CreateBucketRequest>,
    ) -> Answer<proto::Bucket> {
        let (caller, asked) = taken(request);
        let done = buckets::create(self, &asked).await;
        self.audit(&caller, "CreateBucket", &asked.name, done)
    }

    async fn delete_bucket(
        &self,
        request: Request<proto::DeleteBucketRequest>,
    ) -> Answer<proto::DeleteBucketResponse> {
        let (caller, asked) = taken(request);
        let done = buckets::delete(self, &asked.name).await;
        self.audit(&caller, "DeleteBucket", &asked.name, done)
    }

    async fn list_buckets(
        &self,
        _: Request<proto::ListBucketsRequest>,
    ) -> Answer<proto::ListBucketsResponse> {
        buckets::list(self).await.map(Response::new)
    }

    async fn get_bucket_info(
        &self,
        request: Request<proto::GetBucketInfoRequest>,
    ) -> Answer<proto::Bucket> {
        let name = request.into_inner().name;
        buckets::get(self, &name).await.map(Response::new)
    }

    async fn set_bucket_settings(
        &self,
        request: Request<proto::SetBucketSettingsRequest>,
    ) -> Answer<proto::Bucket> {
        let (caller, asked) = taken(request);
        let done = buckets::set(self, &asked).await;
        self.audit(&caller, "SetBucketSettings", &asked.name, done)
    }

    async fn server_info(
        &self,
        _: Request<proto::ServerInfoRequest>,
    ) -> Answer<proto::ServerInfoResponse> {
        Ok(Response::new(insight::server(self)))
    }

    async fn engine_info(
        &self,
        _: Request<proto::EngineInfoRequest>,
    ) -> Answer<proto::EngineInfoResponse> {
        Ok(Response::new(insight::engine(self)))
    }

    async fn metrics(&self, _: Request<proto::MetricsRequest>) -> Answer<proto::MetricsResponse> {
        Ok(Response::new(insight::metrics(self)))
    }

    type WatchTraceStream = Pin<Box<dyn Stream<Item = Result<proto::TraceEvent, Status>> + Send>>;

    async fn watch_trace(
        &self,
        request: Request<proto::WatchTraceRequest>,
    ) -> Answer<Self::WatchTraceStream> {
        insight::watch(self, request.into_inner()).map(Response::new)
    }

    async fn checkpoint(
        &self,
        request: Request<proto::CheckpointRequest>,
    ) -> Answer<proto::CheckpointResponse> {
        let (caller, _) = taken(request);
        let done = insight::checkpoint(self).await;
        self.audit(&caller, "Checkpoint", "", done)
    }

    async fn start_check(
        &self,
        request: Request<proto::StartCheckRequest>,
    ) -> Answer<proto::StartCheckResponse> {
        let (caller, asked) = taken(request);
        let done = check::start(self, &asked.bucket).await;
        self.audit(&caller, "StartCheck", &asked.bucket, done)
    }

    type WatchCheckStream =
        Pin<Box<dyn Stream<Item = Result<proto::CheckProgress, Status>> + Send>>;

    async fn watch_check(
        &self,
        request: Request<proto::WatchCheckRequest>,
    ) -> Answer<Self::WatchCheckStream> {
        check::watch(self, request.into_inner().id).map(Response::new)
    }

    async fn stop_check(
        &self,
        request: Request<proto::StopCheckRequest>,
    ) -> Answer<proto::StopCheckResponse> {
        let (caller, _) = taken(request);
        let done = check::stop(self);
        self.audit(&caller, "StopCheck", "", done)
    }

    async fn set_log_level(
        &self,
        request: Request<proto::SetLogLevelRequest>,
    ) -> Answer<proto::SetLogLevelResponse> {
        let (caller, asked) = taken(request);
        let done = insight::set_log_level(self, &asked.level);
        self.audit(&caller, "SetLogLevel", &asked.level, done)
    }

    async fn reload_config(
        &self,
        request: Request<proto::ReloadConfigRequest>,
    ) -> Answer<proto::ReloadConfigResponse> {
        let (caller, _) = taken(request);
        let done = insight::reload(self);
        self.audit(&caller, "ReloadConfig", "", done)
    }

    async fn drain(&self, request: Request<proto::DrainRequest>) -> Answer<proto::DrainResponse> {
        let (caller, _) = taken(request);
        let done = insight::drain(self);
        self.audit(&caller, "Drain", "", done)
    }
}

/// Who asks, and what for.
fn taken<T>(mut request: Request<T>) -> (Caller, T) {
    let caller = request.extensions_mut().remove();
    let unknown = || Caller::Stranger {
        who: "somebody".to_owned(),
    };
    (caller.unwrap_or_else(unknown), request.into_inner())
}

impl Service {
    /// One line for each change that was asked for: who, what, about what, and what came of it.
    fn audit<T>(
        &self,
        caller: &Caller,
        method: &str,
        about: &str,
        done: Result<T, Status>,
    ) -> Answer<T> {
        match &done {
            Ok(_) => tracing::info!(target: "lobos::audit", %caller, method, about, "done"),
            Err(status) => {
                let (code, why) = (status.code(), status.message());
                tracing::info!(target: "lobos::audit", %caller, method, about, ?code, why, "refused");
            }
        }
        if let Some(file) = &self.audit {
            let status = done.as_ref().err();
            let line = serde_json::json!({
                "time": rfc3339(self.accounts.now()),
                "caller": caller.to_string(),
                "method": method,
                "about": about,
                "code": format!("{:?}", status.map_or(tonic::Code::Ok, Status::code)),
                "why": status.map(Status::message),
            });
            let mut file = file.lock().unwrap_or_else(PoisonError::into_inner);
            file.write(&format!("{line}\n"));
        }
        done.map(Response::new)
    }
}

pub(super) fn proto_time(time: crate::clock::Timestamp) -> ProtoTimestamp {
    ProtoTimestamp {
        seconds: time.unix_seconds(),
        nanos: i32::try_from(time.unix_nanos.rem_euclid(1_000_000_000)).unwrap_or(0),
    }
}
