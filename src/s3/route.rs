//! Which operation a request asks for: a total table over method, target and query.
//!
//! Every operation of S3's public model is in the table, either as an [`Operation`] that a verb
//! answers or by its name, which `NotImplemented` then tells. A query parameter that no operation
//! knows is refused by name where ignoring it could do harm: always on a request that changes
//! something, and on a read when it has no value (the form of a sub-resource).

use http::Method;

use super::error::{Code, S3Error};
use super::request::{Query, Target};

/// The operations that this server answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, strum::VariantNames)]
pub(super) enum Operation {
    ListBuckets,
    CreateBucket,
    HeadBucket,
    DeleteBucket,
    GetBucketLocation,
    GetBucketVersioning,
    PutBucketVersioning,
    GetBucketAcl,
    ListObjects,
    ListObjectsV2,
    ListObjectVersions,
    DeleteObjects,
    ListMultipartUploads,
    HeadObject,
    GetObject,
    GetObjectAcl,
    PutObject,
    CopyObject,
    DeleteObject,
    CreateMultipartUpload,
    UploadPart,
    UploadPartCopy,
    CompleteMultipartUpload,
    AbortMultipartUpload,
    ListParts,
    GetBucketTagging,
    PutBucketTagging,
    DeleteBucketTagging,
    GetBucketCors,
    PutBucketCors,
    DeleteBucketCors,
    GetObjectTagging,
    PutObjectTagging,
    DeleteObjectTagging,
    PreflightRequest,
    PostObject,
    GetObjectAttributes,
    GetBucketAccelerateConfiguration,
    GetBucketLogging,
    GetBucketNotificationConfiguration,
    GetBucketRequestPayment,
    GetBucketEncryption,
    GetBucketLifecycleConfiguration,
    GetBucketReplication,
    GetBucketWebsite,
    GetObjectLockConfiguration,
    GetBucketAnalyticsConfiguration,
    GetBucketIntelligentTieringConfiguration,
    GetBucketInventoryConfiguration,
    GetBucketMetricsConfiguration,
    ListBucketAnalyticsConfigurations,
    ListBucketIntelligentTieringConfigurations,
    ListBucketInventoryConfigurations,
    ListBucketMetricsConfigurations,
    DeleteBucketEncryption,
    DeleteBucketLifecycle,
    DeleteBucketReplication,
    DeleteBucketWebsite,
    PutBucketAcl,
    GetBucketPolicy,
    PutBucketPolicy,
    DeleteBucketPolicy,
    GetBucketPolicyStatus,
    GetPublicAccessBlock,
    PutPublicAccessBlock,
    DeletePublicAccessBlock,
    GetBucketOwnershipControls,
    PutBucketOwnershipControls,
    DeleteBucketOwnershipControls,
    PutObjectAcl,
    PutObjectLockConfiguration,
    GetObjectRetention,
    PutObjectRetention,
    GetObjectLegalHold,
    PutObjectLegalHold,
    PutBucketLifecycleConfiguration,
    RenameObject,
}

/// Finds the operation. `copies`: the request has an `x-amz-copy-source` header.
pub(super) fn route(
    method: &Method,
    target: &Target,
    query: &Query<'_>,
    copies: bool,
) -> Result<Operation, S3Error> {
    let level = match target {
        Target::Service => Level::Service,
        Target::Bucket(_) => Level::Bucket,
        Target::Object(_) => Level::Object,
    };
    let plain = query.iter().all(|(name, _)| is_common_parameter(name));
    let mut found: Option<&Row> = None;
    for row in TABLE {
        let fits = *row.method == *method.as_str()
            && row.level == level
            && row.query.iter().all(|wanted| wanted.fits(query))
            && row.copies.is_none_or(|wanted| wanted == copies);
        // The row that asks for the most parameters is the most specific one.
        if fits && found.is_none_or(|best| row.query.len() > best.query.len()) {
            found = Some(row);
            if plain {
                break;
            }
        }
    }
    let Some(row) = found else {
        return Err(no_operation(method));
    };
    match row.answer {
        Answer::Verb(Operation::PreflightRequest) => Ok(Operation::PreflightRequest),
        Answer::Verb(operation) => {
            refuse_foreign_parameters(method, level, row, query)?;
            Ok(operation)
        }
        Answer::NotImplemented(name) => Err(not_implemented(name)),
    }
}

/// `NotImplemented`, naming the operation.
pub(super) fn not_implemented(name: &str) -> S3Error {
    S3Error::with_message(
        Code::NotImplemented,
        format!("{name} is not implemented by this server."),
    )
    .detail("Operation", name)
}

fn no_operation(method: &Method) -> S3Error {
    S3Error::new(Code::MethodNotAllowed)
        .detail("Method", method.as_str())
        .detail("ResourceType", "SERVICE")
}

fn refuse_foreign_parameters(
    method: &Method,
    level: Level,
    row: &Row,
    query: &Query<'_>,
) -> Result<(), S3Error> {
    let reads = *method == Method::GET || *method == Method::HEAD;
    for (name, value) in query.iter() {
        let belongs = row.query.iter().any(|wanted| wanted.name == name)
            || row.optional.contains(&name)
            || is_common_parameter(name);
        if belongs || (reads && !value.is_empty() && !is_selector(level, name)) {
            continue;
        }
        let message = format!(
            "The query parameter '{name}' does not belong to a {method} request of this kind, \
             or names a sub-resource that this server does not know."
        );
        return Err(
            S3Error::with_message(Code::NotImplemented, message).detail("ParameterName", name)
        );
    }
    Ok(())
}

/// Selects an operation at this level, so it must not be passed over beside another one.
fn is_selector(level: Level, name: &str) -> bool {
    TABLE
        .iter()
        .any(|row| row.level == level && row.query.iter().any(|q| q.name == name))
}

/// Signatures in the query, and `x-id`, with which newer SDKs repeat the operation's name.
fn is_common_parameter(name: &str) -> bool {
    const NAMES: [&str; 7] = [
        "AWSAccessKeyId",
        // boto3 repeats these headers in presigned links of version 2.
        "content-md5",
        "content-type",
        "Signature",
        "Expires",
        "x-id",
        "x-amz-security-token",
    ];
    NAMES.contains(&name)
        || name
            .get(..6)
            .is_some_and(|start| start.eq_ignore_ascii_case("x-amz-"))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Service,
    Bucket,
    Object,
}

#[derive(Debug)]
struct Row {
    method: &'static str,
    level: Level,
    query: &'static [Wanted],
    copies: Option<bool>,
    optional: &'static [&'static str],
    answer: Answer,
}

/// A query parameter that must be there, with any value or a given one.
#[derive(Debug)]
struct Wanted {
    name: &'static str,
    value: Option<&'static str>,
}

impl Wanted {
    fn fits(&self, query: &Query<'_>) -> bool {
        query
            .get(self.name)
            .is_some_and(|is| self.value.is_none_or(|value| value == is))
    }
}

#[derive(Clone, Copy, Debug)]
enum Answer {
    Verb(Operation),
    NotImplemented(&'static str),
}

const fn row(
    method: &'static str,
    level: Level,
    query: &'static [Wanted],
    optional: &'static [&'static str],
    answer: Answer,
) -> Row {
    Row {
        method,
        level,
        query,
        copies: None,
        optional,
        answer,
    }
}

const fn has(name: &'static str) -> Wanted {
    Wanted { name, value: None }
}

const fn verb(operation: Operation) -> Answer {
    Answer::Verb(operation)
}

/// A sub-resource whose operation is not implemented, known by one parameter.
macro_rules! missing {
    ($method:literal $level:ident $name:literal $($operation:literal)? $(, $more:literal)*) => {
        row(
            $method,
            Level::$level,
            &[has($name) $(, has($more))*],
            &[],
            Answer::NotImplemented($($operation)?),
        )
    };
}

/// A sub-resource that a verb answers.
macro_rules! sub {
    ($method:literal $level:ident $name:literal $operation:ident $(, $more:literal)*
     $(, optional $optional:literal)*) => {
        row(
            $method,
            Level::$level,
            &[has($name) $(, has($more))*],
            &[$($optional),*],
            Answer::Verb(Operation::$operation),
        )
    };
}

const LIST_V1: &[&str] = &["delimiter", "encoding-type", "marker", "max-keys", "prefix"];
const LIST_V2: &[&str] = &[
    "delimiter",
    "encoding-type",
    "max-keys",
    "prefix",
    "continuation-token",
    "fetch-owner",
    "start-after",
];
const LIST_VERSIONS: &[&str] = &[
    "delimiter",
    "encoding-type",
    "key-marker",
    "max-keys",
    "prefix",
    "version-id-marker",
];
const LIST_UPLOADS: &[&str] = &[
    "delimiter",
    "encoding-type",
    "key-marker",
    "max-uploads",
    "prefix",
    "upload-id-marker",
];
const GET_OBJECT: &[&str] = &[
    "versionId",
    "partNumber",
    "response-cache-control",
    "response-content-disposition",
    "response-content-encoding",
    "response-content-language",
    "response-content-type",
    "response-expires",
];
const PART: &[Wanted] = &[has("partNumber"), has("uploadId")];

/// The S3 model (2006-03-01) by method, level and selecting parameters.
static TABLE: &[Row] = &[
    row(
        "GET",
        Level::Object,
        &[],
        GET_OBJECT,
        verb(Operation::GetObject),
    ),
    row(
        "HEAD",
        Level::Object,
        &[],
        GET_OBJECT,
        verb(Operation::HeadObject),
    ),
    Row {
        copies: Some(false),
        ..row("PUT", Level::Object, &[], &[], verb(Operation::PutObject))
    },
    row(
        "GET",
        Level::Service,
        &[],
        &[
            "max-buckets",
            "continuation-token",
            "prefix",
            "bucket-region",
        ],
        verb(Operation::ListBuckets),
    ),
    missing!("GET" Service "max-directory-buckets" "ListDirectoryBuckets"),
    row(
        "PUT",
        Level::Bucket,
        &[],
        &[],
        verb(Operation::CreateBucket),
    ),
    row("HEAD", Level::Bucket, &[], &[], verb(Operation::HeadBucket)),
    row(
        "DELETE",
        Level::Bucket,
        &[],
        &[],
        verb(Operation::DeleteBucket),
    ),
    row(
        "GET",
        Level::Bucket,
        &[],
        LIST_V1,
        verb(Operation::ListObjects),
    ),
    row(
        "GET",
        Level::Bucket,
        &[Wanted {
            name: "list-type",
            value: Some("2"),
        }],
        LIST_V2,
        verb(Operation::ListObjectsV2),
    ),
    row(
        "GET",
        Level::Bucket,
        &[has("versions")],
        LIST_VERSIONS,
        verb(Operation::ListObjectVersions),
    ),
    row(
        "GET",
        Level::Bucket,
        &[has("uploads")],
        LIST_UPLOADS,
        verb(Operation::ListMultipartUploads),
    ),
    row(
        "GET",
        Level::Bucket,
        &[has("location")],
        &[],
        verb(Operation::GetBucketLocation),
    ),
    row(
        "GET",
        Level::Bucket,
        &[has("versioning")],
        &[],
        verb(Operation::GetBucketVersioning),
    ),
    row(
        "PUT",
        Level::Bucket,
        &[has("versioning")],
        &[],
        verb(Operation::PutBucketVersioning),
    ),
    row(
        "GET",
        Level::Bucket,
        &[has("acl")],
        &[],
        verb(Operation::GetBucketAcl),
    ),
    row(
        "POST",
        Level::Bucket,
        &[has("delete")],
        &[],
        verb(Operation::DeleteObjects),
    ),
    row(
        "GET",
        Level::Object,
        &[has("acl")],
        &["versionId"],
        verb(Operation::GetObjectAcl),
    ),
    Row {
        copies: Some(true),
        ..row("PUT", Level::Object, &[], &[], verb(Operation::CopyObject))
    },
    row(
        "DELETE",
        Level::Object,
        &[],
        &["versionId"],
        verb(Operation::DeleteObject),
    ),
    row(
        "POST",
        Level::Object,
        &[has("uploads")],
        &[],
        verb(Operation::CreateMultipartUpload),
    ),
    Row {
        copies: Some(false),
        ..row("PUT", Level::Object, PART, &[], verb(Operation::UploadPart))
    },
    Row {
        copies: Some(true),
        ..row(
            "PUT",
            Level::Object,
            PART,
            &[],
            verb(Operation::UploadPartCopy),
        )
    },
    row(
        "POST",
        Level::Object,
        &[has("uploadId")],
        &[],
        verb(Operation::CompleteMultipartUpload),
    ),
    row(
        "DELETE",
        Level::Object,
        &[has("uploadId")],
        &[],
        verb(Operation::AbortMultipartUpload),
    ),
    row(
        "GET",
        Level::Object,
        &[has("uploadId")],
        &["max-parts", "part-number-marker", "encoding-type"],
        verb(Operation::ListParts),
    ),
    missing!("POST" Bucket "metadataConfiguration" "CreateBucketMetadataConfiguration"),
    missing!("POST" Bucket "metadataTable" "CreateBucketMetadataTableConfiguration"),
    missing!("GET" Bucket "session" "CreateSession"),
    missing!("DELETE" Bucket "analytics" "DeleteBucketAnalyticsConfiguration", "id"),
    sub!("DELETE" Bucket "cors" DeleteBucketCors),
    sub!("DELETE" Bucket "encryption" DeleteBucketEncryption),
    missing!("DELETE" Bucket "intelligent-tiering" "DeleteBucketIntelligentTieringConfiguration", "id"),
    missing!("DELETE" Bucket "inventory" "DeleteBucketInventoryConfiguration", "id"),
    sub!("DELETE" Bucket "lifecycle" DeleteBucketLifecycle),
    missing!("DELETE" Bucket "metadataConfiguration" "DeleteBucketMetadataConfiguration"),
    missing!("DELETE" Bucket "metadataTable" "DeleteBucketMetadataTableConfiguration"),
    missing!("DELETE" Bucket "metrics" "DeleteBucketMetricsConfiguration", "id"),
    sub!("DELETE" Bucket "ownershipControls" DeleteBucketOwnershipControls),
    sub!("DELETE" Bucket "policy" DeleteBucketPolicy),
    sub!("DELETE" Bucket "replication" DeleteBucketReplication),
    sub!("DELETE" Bucket "tagging" DeleteBucketTagging),
    sub!("DELETE" Bucket "website" DeleteBucketWebsite),
    sub!("DELETE" Bucket "publicAccessBlock" DeletePublicAccessBlock),
    missing!("DELETE" Object "annotation" "DeleteObjectAnnotation"),
    sub!("DELETE" Object "tagging" DeleteObjectTagging, optional "versionId"),
    missing!("GET" Bucket "abac" "GetBucketAbac"),
    sub!("GET" Bucket "accelerate" GetBucketAccelerateConfiguration),
    sub!("GET" Bucket "analytics" GetBucketAnalyticsConfiguration, "id"),
    sub!("GET" Bucket "cors" GetBucketCors),
    sub!("GET" Bucket "encryption" GetBucketEncryption),
    sub!("GET" Bucket "intelligent-tiering" GetBucketIntelligentTieringConfiguration, "id"),
    sub!("GET" Bucket "inventory" GetBucketInventoryConfiguration, "id"),
    sub!("GET" Bucket "lifecycle" GetBucketLifecycleConfiguration),
    sub!("GET" Bucket "logging" GetBucketLogging),
    missing!("GET" Bucket "metadataConfiguration" "GetBucketMetadataConfiguration"),
    missing!("GET" Bucket "metadataTable" "GetBucketMetadataTableConfiguration"),
    sub!("GET" Bucket "metrics" GetBucketMetricsConfiguration, "id"),
    sub!("GET" Bucket "notification" GetBucketNotificationConfiguration),
    sub!("GET" Bucket "ownershipControls" GetBucketOwnershipControls),
    sub!("GET" Bucket "policy" GetBucketPolicy),
    sub!("GET" Bucket "policyStatus" GetBucketPolicyStatus),
    sub!("GET" Bucket "replication" GetBucketReplication),
    sub!("GET" Bucket "requestPayment" GetBucketRequestPayment),
    sub!("GET" Bucket "tagging" GetBucketTagging),
    sub!("GET" Bucket "website" GetBucketWebsite),
    sub!("GET" Bucket "object-lock" GetObjectLockConfiguration),
    sub!("GET" Bucket "publicAccessBlock" GetPublicAccessBlock),
    sub!("GET" Bucket "analytics" ListBucketAnalyticsConfigurations, optional "continuation-token"),
    sub!("GET" Bucket "intelligent-tiering" ListBucketIntelligentTieringConfigurations, optional "continuation-token"),
    sub!("GET" Bucket "inventory" ListBucketInventoryConfigurations, optional "continuation-token"),
    sub!("GET" Bucket "metrics" ListBucketMetricsConfigurations, optional "continuation-token"),
    missing!("GET" Object "annotation" "GetObjectAnnotation", "annotationName"),
    missing!("GET" Object "annotation" "ListObjectAnnotations"),
    sub!("GET" Object "attributes" GetObjectAttributes, optional "versionId"),
    sub!("GET" Object "legal-hold" GetObjectLegalHold, optional "versionId"),
    sub!("GET" Object "retention" GetObjectRetention, optional "versionId"),
    sub!("GET" Object "tagging" GetObjectTagging, optional "versionId"),
    missing!("GET" Object "torrent" "GetObjectTorrent"),
    missing!("PUT" Bucket "abac" "PutBucketAbac"),
    missing!("PUT" Bucket "accelerate" "PutBucketAccelerateConfiguration"),
    sub!("PUT" Bucket "acl" PutBucketAcl),
    missing!("PUT" Bucket "analytics" "PutBucketAnalyticsConfiguration"),
    sub!("PUT" Bucket "cors" PutBucketCors),
    missing!("PUT" Bucket "encryption" "PutBucketEncryption"),
    missing!("PUT" Bucket "intelligent-tiering" "PutBucketIntelligentTieringConfiguration"),
    missing!("PUT" Bucket "inventory" "PutBucketInventoryConfiguration"),
    sub!("PUT" Bucket "lifecycle" PutBucketLifecycleConfiguration),
    missing!("PUT" Bucket "logging" "PutBucketLogging"),
    missing!("PUT" Bucket "metrics" "PutBucketMetricsConfiguration"),
    missing!("PUT" Bucket "notification" "PutBucketNotificationConfiguration"),
    sub!("PUT" Bucket "ownershipControls" PutBucketOwnershipControls),
    sub!("PUT" Bucket "policy" PutBucketPolicy),
    missing!("PUT" Bucket "replication" "PutBucketReplication"),
    missing!("PUT" Bucket "requestPayment" "PutBucketRequestPayment"),
    sub!("PUT" Bucket "tagging" PutBucketTagging),
    missing!("PUT" Bucket "website" "PutBucketWebsite"),
    sub!("PUT" Bucket "object-lock" PutObjectLockConfiguration),
    sub!("PUT" Bucket "publicAccessBlock" PutPublicAccessBlock),
    missing!("PUT" Bucket "metadataAnnotationTable" "UpdateBucketMetadataAnnotationTableConfiguration"),
    missing!("PUT" Bucket "metadataInventoryTable" "UpdateBucketMetadataInventoryTableConfiguration"),
    missing!("PUT" Bucket "metadataJournalTable" "UpdateBucketMetadataJournalTableConfiguration"),
    sub!("PUT" Object "acl" PutObjectAcl, optional "versionId"),
    missing!("PUT" Object "annotation" "PutObjectAnnotation"),
    sub!("PUT" Object "legal-hold" PutObjectLegalHold, optional "versionId"),
    sub!("PUT" Object "retention" PutObjectRetention, optional "versionId"),
    sub!("PUT" Object "tagging" PutObjectTagging, optional "versionId"),
    sub!("PUT" Object "renameObject" RenameObject),
    missing!("PUT" Object "encryption" "UpdateObjectEncryption"),
    missing!("POST" Object "restore" "RestoreObject"),
    missing!("POST" Object "select" "SelectObjectContent"),
    // A browser's form upload; its fields are in the body.
    row("POST", Level::Bucket, &[], &[], verb(Operation::PostObject)),
    row(
        "POST",
        Level::Object,
        &[],
        &[],
        Answer::NotImplemented("PostObject"),
    ),
    // The pre-flight of a cross-origin request, about whatever request will follow it.
    row(
        "OPTIONS",
        Level::Bucket,
        &[],
        &[],
        verb(Operation::PreflightRequest),
    ),
    row(
        "OPTIONS",
        Level::Object,
        &[],
        &[],
        verb(Operation::PreflightRequest),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{BucketName, ObjectKey};
    use crate::s3::request::ObjectRef;

    fn bucket() -> BucketName {
        BucketName::parse("demo").unwrap()
    }

    fn ask(method: Method, level: Level, query: &str, copies: bool) -> Result<Operation, S3Error> {
        let target = match level {
            Level::Service => Target::Service,
            Level::Bucket => Target::Bucket(bucket()),
            Level::Object => Target::Object(ObjectRef {
                bucket: bucket(),
                key: ObjectKey::parse("k").unwrap(),
            }),
        };
        route(
            &method,
            &target,
            &Query::parse(Some(query)).unwrap(),
            copies,
        )
    }

    #[test]
    fn each_request_finds_its_verb() {
        use Level::{Bucket, Object, Service};
        let rows = [
            (Method::GET, Service, "", false, Operation::ListBuckets),
            (Method::GET, Bucket, "", false, Operation::ListObjects),
            (
                Method::GET,
                Bucket,
                "prefix=a&max-keys=3",
                false,
                Operation::ListObjects,
            ),
            (
                Method::GET,
                Bucket,
                "list-type=2&start-after=x",
                false,
                Operation::ListObjectsV2,
            ),
            (
                Method::GET,
                Bucket,
                "location",
                false,
                Operation::GetBucketLocation,
            ),
            (
                Method::POST,
                Bucket,
                "delete=",
                false,
                Operation::DeleteObjects,
            ),
            (
                Method::PUT,
                Object,
                "x-id=PutObject",
                false,
                Operation::PutObject,
            ),
            (Method::PUT, Object, "", true, Operation::CopyObject),
            (
                Method::PUT,
                Object,
                "partNumber=1&uploadId=u",
                false,
                Operation::UploadPart,
            ),
            (
                Method::PUT,
                Object,
                "partNumber=1&uploadId=u",
                true,
                Operation::UploadPartCopy,
            ),
            (
                Method::GET,
                Object,
                "partNumber=1",
                false,
                Operation::GetObject,
            ),
            (
                Method::GET,
                Object,
                "uploadId=u&max-parts=2",
                false,
                Operation::ListParts,
            ),
            (
                Method::DELETE,
                Object,
                "uploadId=u",
                false,
                Operation::AbortMultipartUpload,
            ),
        ];
        for (method, level, query, copies, operation) in rows {
            assert_eq!(
                ask(method, level, query, copies).unwrap(),
                operation,
                "{query}"
            );
        }
    }

    #[test]
    fn what_is_missing_is_refused_by_its_name() {
        let error = ask(Method::GET, Level::Object, "torrent", false).unwrap_err();
        assert_eq!(error.code, Code::NotImplemented);
        assert!(error.message.contains("GetObjectTorrent"));
        let error = ask(Method::PUT, Level::Bucket, "analytics&id=1", false).unwrap_err();
        assert!(error.message.contains("PutBucketAnalyticsConfiguration"));
    }

    #[test]
    fn sec_routing_an_unknown_sub_resource_never_becomes_a_plain_verb() {
        for (method, level, query) in [
            (Method::PUT, Level::Object, "acl2"),
            (Method::PUT, Level::Object, "partNumber=1"),
            (Method::PUT, Level::Object, "uploadId=u"),
            (Method::PUT, Level::Bucket, "unheard-of=1"),
            (Method::DELETE, Level::Bucket, "unheard-of"),
            (Method::DELETE, Level::Object, "uploadId=u&tagging"),
            (Method::GET, Level::Object, "unheard-of"),
            (Method::GET, Level::Bucket, "list-type=3"),
        ] {
            let error = ask(method.clone(), level, query, false).unwrap_err();
            assert_eq!(error.code, Code::NotImplemented, "{method} {query}");
        }
        assert!(ask(Method::GET, Level::Object, "cache-buster=7", false).is_ok());
    }
}
