//! Errors as S3 answers them: a code, its status, a message, and the elements that some carry.

use std::borrow::Cow;
use std::fmt;

use http::StatusCode;

use crate::engine::EngineError;

/// One S3 error on its way to the client.
#[derive(Debug)]
pub struct S3Error {
    pub code: Code,
    pub message: Cow<'static, str>,
    /// Further elements of the error document, in order: `("ActualObjectSize", "0")`.
    pub details: Vec<(&'static str, String)>,
    /// Further headers of the reply: `("x-amz-delete-marker", "true")`.
    pub headers: Vec<(http::HeaderName, http::HeaderValue)>,
    /// What really happened, for the log only: it may speak of the operating system.
    pub cause: Option<EngineError>,
}

impl S3Error {
    /// An error with the code's standard message.
    pub fn new(code: Code) -> Self {
        Self::with_message(code, code.standard_message())
    }

    pub fn with_message(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
            details: Vec::new(),
            headers: Vec::new(),
            cause: None,
        }
    }

    /// `InvalidArgument` with S3's `ArgumentName` and `ArgumentValue`.
    pub fn invalid_argument(
        message: impl Into<Cow<'static, str>>,
        name: &str,
        value: impl Into<String>,
    ) -> Self {
        Self::with_message(Code::InvalidArgument, message)
            .detail("ArgumentName", name)
            .detail("ArgumentValue", value)
    }

    #[must_use]
    pub fn detail(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.details.push((name, value.into()));
        self
    }

    #[must_use]
    pub fn header(mut self, name: http::HeaderName, value: http::HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// A header whose text comes from elsewhere; one that no header can carry is left out.
    #[must_use]
    pub fn text_header(self, name: http::HeaderName, value: &str) -> Self {
        match http::HeaderValue::from_str(value) {
            Ok(value) => self.header(name, value),
            Err(_) => self,
        }
    }
}

/// Whose fault it is that a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Client,
    Device,
    Load,
    Bug,
}

impl S3Error {
    /// `None`: it says only that nothing changed.
    pub(super) fn fault(&self) -> Option<Fault> {
        match (self.code, &self.cause) {
            (Code::NotModified, _) => None,
            (Code::SlowDown, _) => Some(Fault::Load),
            (Code::InsufficientStorage | Code::ServiceUnavailable, _) | (_, Some(_)) => {
                Some(Fault::Device)
            }
            (Code::InternalError, None) => Some(Fault::Bug),
            _ => Some(Fault::Client),
        }
    }
}

impl fmt::Display for S3Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.code.as_str(), self.message)?;
        match &self.cause {
            None => Ok(()),
            Some(cause) => write!(f, " ({cause})"),
        }
    }
}

impl std::error::Error for S3Error {}

impl From<Code> for S3Error {
    fn from(code: Code) -> Self {
        Self::new(code)
    }
}

const BUCKETS_ARE_FIXED: &str = "Directories that this server was started with, and the bucket \
    `lobos` of a blob store, cannot be deleted. Other buckets can be created and deleted if it is \
    started with --root DIR or --blob PATH:SIZE.";

const FOREIGN_CONFIG: &str = "The bucket's .lobos/config was written by another installation and \
    is left as it is. Start the server with that installation's --state-dir, or move the file away.";

impl From<EngineError> for S3Error {
    /// The one place where an engine's error becomes an answer. Messages never hold paths.
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::NoSuchBucket => Self::new(Code::NoSuchBucket),
            EngineError::BucketExists => Self::new(Code::BucketAlreadyExists),
            EngineError::BucketNotEmpty => Self::new(Code::BucketNotEmpty),
            EngineError::BucketsAreFixed => {
                Self::with_message(Code::AccessDenied, BUCKETS_ARE_FIXED)
            }
            EngineError::ConfigTooLarge => Self::with_message(
                Code::InvalidRequest,
                "All configuration of one bucket together may not be larger than 384 KiB.",
            ),
            EngineError::ForeignConfig => Self::with_message(Code::AccessDenied, FOREIGN_CONFIG),
            EngineError::NoSuchKey | EngineError::DeleteMarker { .. } => Self::new(Code::NoSuchKey),
            EngineError::NoSuchVersion => Self::new(Code::NoSuchVersion),
            EngineError::NoSuchUpload => Self::new(Code::NoSuchUpload),
            EngineError::InvalidPart { number } => {
                Self::new(Code::InvalidPart).detail("PartNumber", number.to_string())
            }
            EngineError::PreconditionFailed => Self::new(Code::PreconditionFailed),
            EngineError::CannotRename { why } => cannot_rename(why),
            EngineError::Locked => Self::with_message(
                Code::AccessDenied,
                "Access Denied because object protected by object lock.",
            ),
            EngineError::NoObjectLock => Self::with_message(
                Code::InvalidRequest,
                "Bucket is missing Object Lock Configuration",
            ),
            EngineError::Full => Self::new(Code::InsufficientStorage),
            EngineError::IndexFull { budget_bytes } => Self::with_message(
                Code::InsufficientStorage,
                format!(
                    "The index of the store has used its memory budget of {budget_bytes} bytes: \
                     new keys are refused until others are deleted, or blob.index_memory is raised."
                ),
            ),
            EngineError::ReadOnly { why } => Self::with_message(
                Code::ServiceUnavailable,
                format!("The storage of this bucket is read-only: {why}."),
            ),
            EngineError::Denied => Self::with_message(
                Code::AccessDenied,
                "The server's user has no permission for the file of this key.",
            ),
            EngineError::Busy => Self::new(Code::SlowDown),
            EngineError::Unavailable { why } => Self::with_message(
                Code::ServiceUnavailable,
                format!("The storage of this bucket is not available: {why}."),
            ),
            EngineError::Changed => Self::with_message(
                Code::SlowDown,
                "Another program is changing the file of this key. Please try again.",
            ),
            EngineError::Corrupt { .. } | EngineError::Io { .. } => {
                let mut answer = Self::new(Code::InternalError);
                answer.cause = Some(error);
                answer
            }
        }
    }
}

fn cannot_rename(why: &str) -> S3Error {
    let message = format!("This object cannot be renamed at once: {why}. Copy it and delete it.");
    S3Error::with_message(Code::NotImplemented, message)
}

/// Declares the codes once: variant, status, standard message (S3's API reference).
macro_rules! codes {
    ($($code:ident $status:ident $message:literal,)*) => {
        /// S3's error codes, by the names that clients compare.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Code { $($code,)* }

        impl Code {
            /// The text of the `Code` element.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$code => stringify!($code),)* }
            }

            pub fn status(self) -> StatusCode {
                match self { $(Self::$code => StatusCode::$status,)* }
            }

            fn standard_message(self) -> &'static str {
                match self { $(Self::$code => $message,)* }
            }
        }
    };
}

codes! {
    AccessControlListNotSupported BAD_REQUEST "The bucket does not allow ACLs",
    AccessDenied FORBIDDEN "Access Denied",
    AccessForbidden FORBIDDEN "CORSResponse: This CORS request is not allowed.",
    AuthorizationHeaderMalformed BAD_REQUEST "The authorization header that you provided is not valid.",
    AuthorizationQueryParametersError BAD_REQUEST "The authorization query parameters that you provided are not valid.",
    BadDigest BAD_REQUEST "The Content-MD5 or checksum value that you specified did not match what the server received.",
    BadRequest BAD_REQUEST "Bad Request",
    BucketAlreadyExists CONFLICT "The requested bucket name is not available. Select a different name and try again.",
    BucketAlreadyOwnedByYou CONFLICT "The bucket that you tried to create already exists, and you own it.",
    BucketNotEmpty CONFLICT "The bucket that you tried to delete is not empty.",
    EntityTooLarge BAD_REQUEST "Your proposed upload exceeds the maximum allowed object size.",
    EntityTooSmall BAD_REQUEST "Your proposed upload is smaller than the minimum allowed object size.",
    ExpiredToken BAD_REQUEST "The provided token has expired.",
    IllegalVersioningConfigurationException BAD_REQUEST "The Versioning element must be specified",
    IllegalLocationConstraintException BAD_REQUEST "The specified location constraint is not valid for this server's region.",
    IncompleteBody BAD_REQUEST "You did not provide the number of bytes specified by the Content-Length HTTP header.",
    InsufficientStorage INSUFFICIENT_STORAGE "There is not enough space left to store the object.",
    InternalError INTERNAL_SERVER_ERROR "We encountered an internal error. Please try again.",
    InvalidAccessKeyId FORBIDDEN "The access key ID that you provided does not exist in our records.",
    InvalidArgument BAD_REQUEST "Invalid Argument",
    InvalidBucketAclWithObjectOwnership BAD_REQUEST "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
    InvalidBucketState CONFLICT "The request is not valid with the current state of the bucket.",
    InvalidBucketName BAD_REQUEST "The specified bucket is not valid.",
    InvalidDigest BAD_REQUEST "The Content-MD5 or checksum value that you specified is not valid.",
    InvalidLocationConstraint BAD_REQUEST "The specified location constraint is not valid.",
    InvalidPart BAD_REQUEST "One or more of the specified parts could not be found. The part might not have been uploaded, or the specified entity tag might not have matched the part's entity tag.",
    InvalidPartNumber RANGE_NOT_SATISFIABLE "The requested partnumber is not satisfiable",
    InvalidPartOrder BAD_REQUEST "The list of parts was not in ascending order. The parts list must be specified in order by part number.",
    InvalidPolicyDocument BAD_REQUEST "The content of the form does not meet the conditions specified in the policy document.",
    InvalidRange RANGE_NOT_SATISFIABLE "The requested range is not satisfiable",
    InvalidRequest BAD_REQUEST "Invalid Request",
    InvalidRetentionPeriod BAD_REQUEST "The retention period is not valid.",
    InvalidStorageClass BAD_REQUEST "The storage class that you specified is not valid",
    InvalidTag BAD_REQUEST "The tag provided was not a valid tag.",
    InvalidToken BAD_REQUEST "The provided token is malformed or otherwise not valid.",
    InvalidURI BAD_REQUEST "The specified URI couldn't be parsed.",
    InvalidWriteOffset BAD_REQUEST "The write offset value that you specified does not match the current object size.",
    KeyTooLongError BAD_REQUEST "Your key is too long.",
    MalformedACLError BAD_REQUEST "The ACL that you provided was not well formed or did not validate against our published schema.",
    MalformedPOSTRequest BAD_REQUEST "The body of your POST request is not well-formed multipart/form-data.",
    MalformedPolicy BAD_REQUEST "This policy contains invalid Json",
    MalformedTrailerError BAD_REQUEST "The request contained trailing data that was not well-formed or did not conform to our published schema.",
    MalformedXML BAD_REQUEST "The XML that you provided was not well formed or did not validate against our published schema.",
    MaxPostPreDataLengthExceededError BAD_REQUEST "Your POST request fields preceding the upload file were too large.",
    MetadataTooLarge BAD_REQUEST "Your metadata headers exceed the maximum allowed metadata size.",
    MethodNotAllowed METHOD_NOT_ALLOWED "The specified method is not allowed against this resource.",
    MissingContentLength LENGTH_REQUIRED "You must provide the Content-Length HTTP header.",
    MissingRequestBodyError BAD_REQUEST "Request Body is empty",
    MissingSecurityHeader BAD_REQUEST "Your request was missing a required header.",
    NoSuchBucket NOT_FOUND "The specified bucket does not exist",
    NoSuchBucketPolicy NOT_FOUND "The bucket policy does not exist",
    NoSuchCORSConfiguration NOT_FOUND "The CORS configuration does not exist",
    NoSuchConfiguration NOT_FOUND "The specified configuration does not exist.",
    NoSuchKey NOT_FOUND "The specified key does not exist.",
    NoSuchLifecycleConfiguration NOT_FOUND "The lifecycle configuration does not exist",
    NoSuchObjectLockConfiguration NOT_FOUND "The specified object does not have a ObjectLock configuration",
    NoSuchPublicAccessBlockConfiguration NOT_FOUND "The public access block configuration was not found",
    NoSuchTagSet NOT_FOUND "The TagSet does not exist",
    NoSuchUpload NOT_FOUND "The specified multipart upload does not exist. The upload ID might not be valid, or the multipart upload might have been aborted or completed.",
    NoSuchVersion NOT_FOUND "The specified version does not exist.",
    NoSuchWebsiteConfiguration NOT_FOUND "The specified bucket does not have a website configuration",
    NotImplemented NOT_IMPLEMENTED "A header or operation that you provided implies functionality that is not implemented.",
    NotModified NOT_MODIFIED "Not Modified",
    ObjectLockConfigurationNotFoundError NOT_FOUND "Object Lock configuration does not exist for this bucket",
    OwnershipControlsNotFoundError NOT_FOUND "The bucket ownership controls were not found",
    PreconditionFailed PRECONDITION_FAILED "At least one of the preconditions that you specified did not hold.",
    ReplicationConfigurationNotFoundError NOT_FOUND "The replication configuration was not found",
    QuotaExceeded FORBIDDEN "The bucket's quota does not leave room for this.",
    RequestHeaderSectionTooLarge REQUEST_HEADER_FIELDS_TOO_LARGE "Your request header section exceeds the maximum allowed size.",
    RequestTimeTooSkewed FORBIDDEN "The difference between the request time and the server's time is too large.",
    RequestTimeout REQUEST_TIMEOUT "Your socket connection to the server was not read from or written to within the timeout period.",
    ServerSideEncryptionConfigurationNotFoundError NOT_FOUND "The server side encryption configuration was not found",
    ServiceUnavailable SERVICE_UNAVAILABLE "Service is unable to handle request.",
    SignatureDoesNotMatch FORBIDDEN "The request signature that the server calculated does not match the signature that you provided. Check your secret access key and signing method.",
    SlowDown SERVICE_UNAVAILABLE "Please reduce your request rate.",
    UnexpectedContent BAD_REQUEST "This request does not support content",
    UnresolvableGrantByEmailAddress BAD_REQUEST "The e-mail address you provided does not match any account on record.",
    XAmzContentChecksumMismatch BAD_REQUEST "The provided 'x-amz-checksum' header does not match what was computed.",
    XAmzContentSHA256Mismatch BAD_REQUEST "The provided 'x-amz-content-sha256' header does not match what was computed.",
}
