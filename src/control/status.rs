//! Errors as gRPC status codes; every error has its own, here.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use super::accounts::EditError;
use super::users_file::UsersFileError;
use crate::engine::{EngineError, InvalidName};

/// Bad input: the field is told as google.rpc.BadRequest too.
pub(super) fn invalid(field: &str, why: impl Into<String>) -> Status {
    let why = why.into();
    let details = ErrorDetails::with_bad_request_violation(field, why.clone());
    Status::with_error_details(Code::InvalidArgument, format!("`{field}`: {why}"), details)
}

impl From<EditError> for Status {
    fn from(error: EditError) -> Self {
        let text = error.to_string();
        match error {
            EditError::File(UsersFileError::Busy) => Self::unavailable(text),
            EditError::File(UsersFileError::Full { .. }) => Self::resource_exhausted(text),
            EditError::File(UsersFileError::Io { .. }) => {
                tracing::error!("{text}");
                Self::internal(text)
            }
            EditError::File(
                UsersFileError::Exposed { .. }
                | UsersFileError::Foreign { .. }
                | UsersFileError::Damaged { .. }
                | UsersFileError::Newer { .. },
            )
            | EditError::Configured(_) => Self::failed_precondition(text),
            EditError::NoSuchUser(_) | EditError::NoSuchKey { .. } => Self::not_found(text),
            EditError::Exists(_) => Self::already_exists(text),
            EditError::Invalid { field, why } => invalid(field, why),
            EditError::TooMany(_) => Self::resource_exhausted(text),
        }
    }
}

/// An engine's error about the bucket `name`. Those about objects never come here.
pub(super) fn of_engine(error: &EngineError, name: &str) -> Status {
    let text = format!("`{name}`: {error}");
    match error {
        EngineError::NoSuchBucket => Status::not_found(text),
        EngineError::BucketExists => Status::already_exists(text),
        EngineError::BucketNotEmpty
        | EngineError::BucketsAreFixed
        | EngineError::ConfigTooLarge
        | EngineError::ForeignConfig
        | EngineError::ReadOnly { .. } => Status::failed_precondition(text),
        EngineError::Full | EngineError::IndexFull { .. } => Status::resource_exhausted(text),
        EngineError::Denied => Status::permission_denied(text),
        EngineError::Busy | EngineError::Unavailable { .. } => Status::unavailable(text),
        EngineError::Corrupt { .. } => Status::data_loss(text),
        _ => Status::internal(text),
    }
}

pub(super) fn of_name(error: &InvalidName) -> Status {
    invalid("name", format!("it {}", error.reason))
}
