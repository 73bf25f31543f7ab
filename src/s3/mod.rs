//! The S3 protocol: a request's head becomes a typed target and an operation, is authenticated
//! and authorised, and one verb answers it.
//!
//! Reading order: [`handle`], `request` (what is asked of what), `route` (which operation),
//! `auth` (who asks), `authorize` (may they), then one file per verb or family of verbs.

mod acl;
mod append;
mod attributes;
pub mod auth;
mod authorize;
mod bucket;
pub mod checksum;
mod conditions;
mod copy;
mod cors;
mod delete;
mod document;
mod error;
mod etag;
mod form;
mod get;
mod headers;
pub mod lifecycle;
mod list;
mod multipart;
mod object_lock;
pub mod payload;
mod policies;
mod post;
mod post_policy;
mod put;
mod quota;
mod range;
mod rename;
mod reply;
mod request;
mod route;
mod service;
mod sse;
mod tags;
#[cfg(test)]
mod tests;
mod unset;
mod versioning;
mod xml;

use std::fmt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response};
use http_body::Body;
use http_body_util::BodyExt;
use strum::VariantNames as _;
use tokio::sync::Notify;

pub use authorize::Ownership;
pub use cors::ForeignPage;
pub use error::{Code, S3Error};
pub use etag::ETagModes;
pub use reply::{ReplyBody, ReplyError};
pub use request::{Local, host_of, virtual_bucket, without_port};

use auth::{Authenticated, Gate, Identity, Users};
use authorize::{Access, RuleBook};
use error::Fault;
use payload::{Payload, Want};
use quota::Quotas;
use reply::{Flight, Reply, error as error_reply};
use request::{ObjectRef, Query, Target};
use route::Operation;

use crate::budget::{Budget, Permit};
use crate::clock::{Clock, Entropy};
use crate::engine::{BucketConfig, BucketName, ETagMode, Engines};
use crate::limits;
use crate::metrics::Metrics;
use crate::trace::{Event, Trace};

/// What the S3 layer is made of.
#[derive(Debug)]
pub struct S3Settings {
    pub engines: Engines,
    pub gate: Gate,
    pub users: Arc<ArcSwap<Users>>,
    /// The region that GetBucketLocation answers.
    pub region: Box<str>,
    /// `<bucket>.<domain>` names a bucket.
    pub domains: Vec<Box<str>>,
    /// Of buckets whose owner did not choose one.
    pub ownership: Ownership,
    /// Body bytes in flight in the whole process.
    pub budget: Arc<Budget>,
    pub clock: Clock,
    pub entropy: Entropy,
    pub etags: ETagModes,
    pub trace: Trace,
}

/// The S3 service; one for all shards.
#[derive(Debug)]
pub struct S3 {
    engines: Engines,
    gate: Gate,
    users: Arc<ArcSwap<Users>>,
    region: Box<str>,
    domains: Vec<Box<str>>,
    rules: RuleBook,
    budget: Arc<Budget>,
    clock: Clock,
    request_ids: RequestIds,
    metrics: Arc<Metrics>,
    entropy: Entropy,
    etags: ETagModes,
    quotas: Quotas,
    trace: Trace,
    lifecycle_changes: Notify,
}

impl S3 {
    pub fn new(settings: S3Settings) -> Self {
        let S3Settings {
            engines,
            gate,
            users,
            region,
            domains,
            ownership,
            budget,
            clock,
            entropy,
            etags,
            trace,
        } = settings;
        let request_ids = RequestIds::new(&entropy);
        Self {
            engines,
            gate,
            users,
            region,
            domains,
            rules: RuleBook::new(ownership),
            budget,
            clock,
            request_ids,
            entropy,
            etags,
            quotas: Quotas::default(),
            metrics: Arc::new(Metrics::new(Operation::VARIANTS)),
            trace,
            lifecycle_changes: Notify::new(),
        }
    }

    pub fn engines(&self) -> &Engines {
        &self.engines
    }

    /// Names under which the server is reached.
    pub fn domains(&self) -> &[Box<str>] {
        &self.domains
    }

    /// What this process counts.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Where answered requests are told.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// Told when a bucket was given lifecycle rules.
    pub fn lifecycle_changes(&self) -> &Notify {
        &self.lifecycle_changes
    }

    pub fn region(&self) -> &str {
        &self.region
    }

    /// Id of a bucket's owner, and the user's name where there is one with that id.
    pub fn owner(&self, config: &BucketConfig) -> (Box<str>, Option<Box<str>>) {
        let id = authorize::owner_id(self, config);
        let name = self.users.load().by_id(&id).map(|user| user.name.clone());
        (id, name)
    }

    /// What the ETags of new objects of a bucket are made of.
    pub fn etag_mode(&self, name: &BucketName, config: &BucketConfig) -> ETagMode {
        config.etag.unwrap_or_else(|| self.etags.of(name))
    }

    /// Bytes of all objects of a bucket with a quota, as far as they were measured.
    pub fn quota_used_bytes(&self, name: &BucketName) -> Option<u64> {
        self.quotas.used_bytes(name)
    }

    /// Memory for bodies in flight: what is free of it, and all of it.
    pub fn body_memory_bytes(&self) -> (usize, usize) {
        (self.budget.free_bytes(), self.budget.total_bytes())
    }

    /// Counts one reply. `operation`: `None` if the request was refused before it was known.
    fn count(&self, operation: Option<Operation>, reply: &Reply, elapsed: Duration) {
        let index = operation.map(|operation| operation as usize);
        self.metrics
            .observe(index, reply.status().as_u16(), elapsed);
    }

    fn count_fault(&self, error: &S3Error) {
        let faults = &self.metrics.faults;
        match error.fault() {
            None => {}
            Some(Fault::Client) => faults.client.add(1),
            Some(Fault::Device) => faults.device.add(1),
            Some(Fault::Load) => faults.load.add(1),
            Some(Fault::Bug) => faults.bug.add(1),
        }
    }

    /// Requests that wait for memory for their bodies.
    pub fn waiting_for_memory(&self) -> usize {
        self.budget.waiting()
    }

    /// A new `x-amz-request-id`, for a reply that is made outside of [`handle`].
    pub fn request_id(&self) -> HeaderValue {
        self.request_ids.next().header()
    }
}

/// A request's body as it comes from the connection.
pub type RequestBody = Pin<Box<dyn Body<Data = Bytes, Error = BodyError>>>;
type BodyError = Box<dyn std::error::Error + Send + Sync>;

/// Answers one request. Every error becomes a reply; so does a panic, with `connection: close`.
pub async fn handle<B>(s3: &S3, local: &Local, request: Request<B>) -> Response<ReplyBody>
where
    B: Body<Data = Bytes, Error: Into<BodyError>> + 'static,
{
    let began = Instant::now();
    let flight = Flight::begin(Arc::clone(&s3.metrics));
    let mut seen = Seen {
        peer: local.peer,
        ..Seen::default()
    };
    let id = s3.request_ids.next();
    let (head, body) = request.into_parts();
    let mut body: Option<RequestBody> = Some(Box::pin(body.map_err(Into::into)));
    let work = AssertUnwindSafe(answer(s3, local, &head, &mut body, &mut seen));
    let outcome = match futures_util::FutureExt::catch_unwind(work).await {
        Ok(outcome) => outcome,
        Err(_) => {
            s3.metrics.panics.add(1);
            tracing::error!(request_id = %id, method = %head.method, path = head.uri.path(),
                "a panic ended this request; please report it");
            let close = (http::header::CONNECTION, HeaderValue::from_static("close"));
            Err(S3Error::new(Code::InternalError).header(close.0, close.1))
        }
    };
    let mut reply = match outcome {
        Ok(reply) => reply,
        Err(error) => {
            log_error(&error, &head, &id);
            s3.count_fault(&error);
            error_reply(&error, &head, id.as_str())
        }
    };
    drain(&head, body).await;
    if head.headers.contains_key(http::header::ORIGIN) {
        cors::label(s3, local, &head, reply.headers_mut()).await;
    }
    label(&mut reply, &id);
    let elapsed = began.elapsed();
    s3.count(seen.operation, &reply, elapsed);
    let judged = seen.admitted.map_or(elapsed, |at| at - began);
    s3.metrics.stages.auth.observe(judged);
    if seen.admitted.is_some() {
        let rest = elapsed.saturating_sub(judged);
        s3.metrics.stages.engine.observe(rest);
    }
    reply.body_mut().set_flight(flight);
    if s3.trace.is_watched() {
        s3.trace.tell(event(s3, seen, &head, &reply, &id, elapsed));
    }
    tracing::debug!(request_id = %id, method = %head.method, path = head.uri.path(),
        status = reply.status().as_u16(), "request");
    reply
}

/// The reply to a request that never reached [`handle`].
pub fn refuse(s3: &S3, error: &S3Error, head: &Parts) -> Response<ReplyBody> {
    let id = s3.request_ids.next();
    log_error(error, head, &id);
    s3.count_fault(error);
    let mut reply = error_reply(error, head, id.as_str());
    s3.count(None, &reply, Duration::ZERO);
    label(&mut reply, &id);
    reply
}

/// What every reply carries: its id, and the word that keeps browsers from guessing that what
/// somebody stored is a page.
fn label(reply: &mut Reply, id: &RequestId) {
    reply.body_mut().set_request_id(*id);
    let headers = reply.headers_mut();
    headers.insert("x-amz-request-id", id.header());
    let nosniff = HeaderValue::from_static("nosniff");
    headers.insert(http::header::X_CONTENT_TYPE_OPTIONS, nosniff);
}

/// What became clear of a request on its way; who it is about only while somebody watches.
#[derive(Debug, Default)]
struct Seen {
    peer: Option<IpAddr>,
    operation: Option<Operation>,
    /// When it was clear who asks and that they may.
    admitted: Option<Instant>,
    bucket: Option<Box<str>>,
    key: Option<Box<str>>,
    user: Option<Box<str>>,
}

impl Seen {
    fn target(&mut self, target: &Target) {
        match target {
            Target::Service => {}
            Target::Bucket(bucket) => self.bucket = Some(bucket.as_str().into()),
            Target::Object(object) => {
                self.bucket = Some(object.bucket.as_str().into());
                self.key = Some(object.key.as_str().into());
            }
        }
    }

    fn user(&mut self, who: &Identity) {
        if let Identity::User(user) = who {
            self.user = Some(user.name.clone());
        }
    }
}

/// An answered request as watchers see it.
fn event(
    s3: &S3,
    seen: Seen,
    head: &Parts,
    reply: &Reply,
    id: &RequestId,
    elapsed: Duration,
) -> Event {
    let length = |headers: &http::HeaderMap| {
        let value = headers.get(http::header::CONTENT_LENGTH)?;
        value.to_str().ok()?.parse().ok()
    };
    let agent = head.headers.get(http::header::USER_AGENT);
    let agent = agent.and_then(|agent| agent.to_str().ok());
    let name = |operation: Operation| Operation::VARIANTS.get(operation as usize).copied();
    Event {
        time: s3.clock.now(),
        request_id: id.as_str().into(),
        peer: seen.peer,
        user: seen.user,
        operation: seen.operation.and_then(name),
        bucket: seen.bucket,
        key: seen.key,
        method: head.method.clone(),
        status: reply.status().as_u16(),
        elapsed,
        request_bytes: length(&head.headers),
        reply_bytes: reply.body().size_hint().exact(),
        user_agent: agent.map(Into::into),
    }
}

/// Target, identity, operation, permission; then the verb. `seen` is told what becomes clear.
async fn answer(
    s3: &S3,
    local: &Local,
    head: &Parts,
    body: &mut Option<RequestBody>,
    seen: &mut Seen,
) -> Result<Reply, S3Error> {
    let virtual_bucket = virtual_bucket(head, &s3.domains, local);
    let target = request::target(head, virtual_bucket)?;
    let is_watched = s3.trace.is_watched();
    if is_watched {
        seen.target(&target);
    }
    let query = Query::parse(head.uri.query())?;
    if head.method == Method::OPTIONS {
        // A browser asks without credentials, and about a request that is still to come.
        seen.operation = Some(route::route(&head.method, &target, &query, false)?);
        return cors::preflight(s3, head, &target).await;
    }
    if head.extensions.get::<ForeignPage>().is_some() {
        cors::admit_page(s3, head, &target).await?;
    }
    let who = s3.gate.authenticate(head, virtual_bucket)?;
    if is_watched {
        seen.user(who.identity());
    }
    // From here on a presigned request's parameters are the headers that they stand for.
    let hoisted = auth::hoisted(head)?;
    let head = hoisted.as_ref().unwrap_or(head);
    let copies = head.headers.contains_key("x-amz-copy-source");
    let operation = route::route(&head.method, &target, &query, copies)?;
    seen.operation = Some(operation);
    let call = Call {
        s3,
        head,
        local,
        query,
        who,
        body,
    };
    perform(call, operation, target, seen).await
}

/// Lets the request in, and gives it to its verb.
async fn perform(
    call: Call<'_>,
    operation: Operation,
    target: Target,
    seen: &mut Seen,
) -> Result<Reply, S3Error> {
    let (s3, head, local) = (call.s3, call.head, call.local);
    let mut admit = || seen.admitted = Some(Instant::now());
    match target {
        Target::Service => {
            admit();
            service::list_buckets(&call).await
        }
        Target::Bucket(name) => match operation {
            // Whether they may is asked on the way.
            Operation::CreateBucket => {
                admit();
                bucket::create(call, &name).await
            }
            Operation::PostObject => {
                admit();
                post::object(call, &name).await
            }
            operation => {
                let who = call.who.identity();
                let access = authorize::enter(s3, who, head, local, &name).await?;
                match operation {
                    // Each of its keys is asked about by itself.
                    Operation::DeleteObjects => access.refuse_hopeless().await?,
                    operation => access.permit(operation, None).await?,
                }
                admit();
                bucket_verb(call, operation, &access).await
            }
        },
        Target::Object(object) => {
            let who = call.who.identity();
            let access = authorize::enter(s3, who, head, local, &object.bucket).await?;
            permit_on_object(&call, operation, &access, &object).await?;
            admit();
            let reads = matches!(head.method, Method::GET | Method::HEAD);
            let outcome = object_verb(call, operation, &access, &object).await;
            let outcome = lifecycle::announce(operation, outcome, &access, &object).await;
            if reads {
                return access.hide_missing(&object.key, outcome).await;
            }
            outcome
        }
    }
}

async fn permit_on_object(
    call: &Call<'_>,
    operation: Operation,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<(), S3Error> {
    match operation {
        Operation::ListParts | Operation::AbortMultipartUpload => {
            let id = multipart::upload_id(call);
            access.permit_on_upload(operation, &object.key, &id).await
        }
        operation => access.permit(operation, Some(&object.key)).await,
    }
}

async fn bucket_verb(
    call: Call<'_>,
    operation: Operation,
    access: &Access<'_>,
) -> Result<Reply, S3Error> {
    let (bucket, name) = (access.bucket.clone(), &access.name);
    match operation {
        Operation::HeadBucket => bucket::head(&call).await,
        Operation::DeleteBucket => bucket::delete(&call, name).await,
        Operation::GetBucketLocation => bucket::location(&call).await,
        Operation::GetBucketVersioning => versioning::get(&bucket).await,
        Operation::PutBucketVersioning => versioning::put(call, &bucket).await,
        Operation::GetBucketAcl => acl::get_of_bucket(access).await,
        Operation::PutBucketAcl => acl::put_of_bucket(call, access).await,
        Operation::GetBucketPolicy => policies::get_policy(access).await,
        Operation::PutBucketPolicy => policies::put_policy(call, access).await,
        Operation::DeleteBucketPolicy => policies::delete_policy(access).await,
        Operation::GetBucketPolicyStatus => policies::policy_status(access).await,
        Operation::GetPublicAccessBlock => policies::get_public_access(access).await,
        Operation::PutPublicAccessBlock => policies::put_public_access(call, access).await,
        Operation::DeletePublicAccessBlock => policies::delete_public_access(access).await,
        Operation::GetBucketOwnershipControls => policies::get_ownership(access).await,
        Operation::PutBucketOwnershipControls => policies::put_ownership(call, access).await,
        Operation::DeleteBucketOwnershipControls => policies::delete_ownership(access).await,
        Operation::ListObjects => list::objects_v1(&call, &bucket, name).await,
        Operation::ListObjectsV2 => list::objects_v2(&call, &bucket, name).await,
        Operation::ListObjectVersions => list::versions(&call, &bucket, name).await,
        Operation::ListMultipartUploads => multipart::list_uploads(&call, &bucket, name).await,
        Operation::DeleteObjects => delete::objects(call, access).await,
        Operation::GetBucketTagging => tags::get_of_bucket(&bucket).await,
        Operation::PutBucketTagging => tags::put_of_bucket(call, &bucket).await,
        Operation::DeleteBucketTagging => tags::delete_of_bucket(&bucket).await,
        Operation::GetObjectLockConfiguration => object_lock::get_of_bucket(&bucket).await,
        Operation::PutObjectLockConfiguration => object_lock::put_of_bucket(call, &bucket).await,
        Operation::GetBucketLifecycleConfiguration => lifecycle::get(&bucket).await,
        Operation::PutBucketLifecycleConfiguration => lifecycle::put(call, &bucket).await,
        Operation::DeleteBucketLifecycle => lifecycle::delete(&bucket).await,
        Operation::GetBucketCors => cors::get(&bucket).await,
        Operation::PutBucketCors => cors::put(call, &bucket).await,
        Operation::DeleteBucketCors => cors::delete(&bucket).await,
        other => unset::answer(other).unwrap_or_else(|| Err(misrouted(other))),
    }
}

async fn object_verb(
    call: Call<'_>,
    operation: Operation,
    access: &Access<'_>,
    object: &ObjectRef,
) -> Result<Reply, S3Error> {
    let bucket = access.bucket.clone();
    match operation {
        Operation::GetObject => {
            let reply = get::object(&call, access, object).await?;
            Ok(object_lock::shown(reply, access, object).await)
        }
        Operation::HeadObject => {
            let reply = get::head(&call, &bucket, object).await?;
            Ok(object_lock::shown(reply, access, object).await)
        }
        Operation::GetObjectRetention => object_lock::get_retention(&call, &bucket, object).await,
        Operation::PutObjectRetention => object_lock::put_retention(call, access, object).await,
        Operation::GetObjectLegalHold => object_lock::get_legal_hold(&call, &bucket, object).await,
        Operation::PutObjectLegalHold => object_lock::put_legal_hold(call, access, object).await,
        Operation::GetObjectAcl => acl::get_of_object(&call, access, object).await,
        Operation::PutObjectAcl => acl::put_of_object(call, access, object).await,
        Operation::GetObjectAttributes => attributes::object(&call, &bucket, object).await,
        Operation::PutObject => put::object(call, access, object).await,
        Operation::RenameObject => rename::object(&call, access, object).await,
        Operation::CopyObject => copy::object(&call, access, object).await,
        Operation::DeleteObject => delete::object(&call, access, object).await,
        Operation::CreateMultipartUpload => multipart::create(&call, access, object).await,
        Operation::UploadPart => multipart::upload_part(call, &bucket, object).await,
        Operation::UploadPartCopy => multipart::upload_part_copy(&call, access, object).await,
        Operation::CompleteMultipartUpload => multipart::complete(call, &bucket, object).await,
        Operation::AbortMultipartUpload => multipart::abort(&call, &bucket, object).await,
        Operation::GetObjectTagging => tags::get_of_object(&call, &bucket, object).await,
        Operation::PutObjectTagging => tags::put_of_object(call, &bucket, object).await,
        Operation::DeleteObjectTagging => tags::delete_of_object(&call, &bucket, object).await,
        Operation::ListParts => multipart::list_parts(&call, &bucket, object).await,
        other => Err(misrouted(other)),
    }
}

/// The routing table gives each level only its own operations; this answers if it ever does not.
fn misrouted(operation: Operation) -> S3Error {
    route::not_implemented(&format!("{operation:?}"))
}

/// One authenticated request, as the verbs see it.
struct Call<'a> {
    s3: &'a S3,
    head: &'a Parts,
    local: &'a Local,
    query: Query<'a>,
    who: Authenticated,
    body: &'a mut Option<RequestBody>,
}

impl Call<'_> {
    fn identity(&self) -> &Identity {
        self.who.identity()
    }

    /// A header's text; `None` if it is missing or not ASCII.
    fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// The verified body of an object or a part, which moves through a window of memory, or that of
    /// a document, which is held as a whole. Its share of the memory for bodies is reserved before
    /// its first byte is read.
    async fn payload(self, want: Want) -> Result<(Payload, Permit), S3Error> {
        let s3 = self.s3;
        let payload = self.open(want)?;
        let size = payload.size_bytes().unwrap_or(u64::MAX);
        let permit = match want.is_data {
            true => reserve(s3, size).await?,
            false => reserve_bytes(s3, document_bytes(size)).await?,
        };
        Ok((payload, permit))
    }

    /// The verified body of a posted form, whose file moves through a window of memory.
    async fn form(self) -> Result<(Payload, Permit), S3Error> {
        let s3 = self.s3;
        let payload = self.open(Want::default())?;
        let permit = reserve(s3, payload.size_bytes().unwrap_or(u64::MAX)).await?;
        Ok((payload, permit))
    }

    fn open(self, want: Want) -> Result<Payload, S3Error> {
        let Some(body) = self.body.take() else {
            return Err(Code::IncompleteBody.into());
        };
        Payload::new(body, self.who.into_payload(), self.head, want)
    }
}

/// Room for a request that moves `size_bytes` through memory, at most a window of it at a time: the
/// permit says how much.
async fn reserve(s3: &S3, size_bytes: u64) -> Result<Permit, S3Error> {
    let whole_bytes = window_bytes(size_bytes);
    s3.budget
        .reserve_window(whole_bytes, limits::REQUEST_WINDOW_BYTES_MIN)
        .await
        .map_err(|_| S3Error::new(Code::SlowDown))
}

/// Room for all that a request will hold at once: it may not ask for more later.
async fn reserve_bytes(s3: &S3, bytes: usize) -> Result<Permit, S3Error> {
    s3.budget
        .reserve(bytes)
        .await
        .map_err(|_| S3Error::new(Code::SlowDown))
}

fn window_bytes(size_bytes: u64) -> usize {
    usize::try_from(size_bytes)
        .unwrap_or(usize::MAX)
        .min(limits::REQUEST_WINDOW_BYTES)
}

/// What an XML body of this size takes while it is read and answered: its bytes several times over,
/// and the tree. Longer bodies than the longest that a verb takes are refused unread.
fn document_bytes(size_bytes: u64) -> usize {
    let size = usize::try_from(size_bytes)
        .unwrap_or(usize::MAX)
        .min(limits::DELETE_XML_BYTES_MAX);
    let elements = (size / limits::XML_ELEMENT_BYTES_MIN).min(limits::XML_ELEMENTS_MAX);
    size * limits::XML_COPIES_MAX + elements * limits::XML_ELEMENT_MEMORY_BYTES
}

/// Reads a small body that nobody wanted, so that the connection stays usable. A client
/// that waits for `100 Continue` is not asked for its body.
async fn drain(head: &Parts, body: Option<RequestBody>) {
    let Some(body) = body else { return };
    let size = body
        .size_hint()
        .upper()
        .and_then(|size| usize::try_from(size).ok());
    let small = size.is_some_and(|size| size <= DRAIN_BYTES_MAX);
    if !small || body.is_end_stream() || head.headers.contains_key(http::header::EXPECT) {
        return;
    }
    let read = http_body_util::Limited::new(body, DRAIN_BYTES_MAX).collect();
    let _ = tokio::time::timeout(DRAIN_TIME_MAX, read).await;
}

const DRAIN_BYTES_MAX: usize = 256 << 10;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// The server's own faults are errors in the log, clients' mistakes are only for who looks.
fn log_error(error: &S3Error, head: &Parts, id: &RequestId) {
    let (method, path) = (&head.method, head.uri.path());
    if error.code.status().is_server_error() && error.code != Code::NotImplemented {
        tracing::error!(request_id = %id, %method, path, %error, "request failed");
    } else {
        tracing::info!(request_id = %id, %method, path, %error, "request refused");
    }
}

/// Ids that do not repeat within a process and hardly across processes.
#[derive(Debug)]
struct RequestIds {
    start: u64,
    count: AtomicU64,
}

impl RequestIds {
    fn new(entropy: &Entropy) -> Self {
        Self {
            start: u64::from_le_bytes(entropy.bytes()),
            count: AtomicU64::new(0),
        }
    }

    fn next(&self) -> RequestId {
        // An odd factor maps the counter one to one onto all 64-bit numbers.
        let count = self.count.fetch_add(1, Ordering::Relaxed);
        let value = self
            .start
            .wrapping_add(count.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        RequestId {
            digits: hex_digits(value),
        }
    }
}

/// 16 upper-case hexadecimal digits, on the reply and in the log.
#[derive(Clone, Copy, Debug)]
struct RequestId {
    digits: [u8; 16],
}

impl RequestId {
    fn as_str(&self) -> &str {
        std::str::from_utf8(&self.digits).unwrap_or_default()
    }

    fn header(&self) -> HeaderValue {
        HeaderValue::from_bytes(&self.digits).unwrap_or(HeaderValue::from_static("0"))
    }
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

fn hex_digits(value: u64) -> [u8; 16] {
    let mut left = value;
    let mut digits = [b'0'; 16];
    for digit in digits.iter_mut().rev() {
        let nibble = u8::try_from(left & 0xf).unwrap_or(0);
        *digit = if nibble < 10 {
            b'0' + nibble
        } else {
            b'A' + nibble - 10
        };
        left >>= 4;
    }
    digits
}
