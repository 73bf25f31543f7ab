//! Which action of IAM an operation is, from S3's service authorization reference.

use std::borrow::Cow;

use http::HeaderMap;
use strum::VariantNames as _;

use crate::s3::route::Operation;

/// The action of an operation. `versioned`: the request names a version.
pub(super) fn of(operation: Operation, versioned: bool) -> Cow<'static, str> {
    let names = Operation::VARIANTS;
    let name = names.get(operation as usize).copied().unwrap_or_default();
    of_name(name, versioned)
}

/// Most actions have the name of their operation. One that nobody knows is allowed by nothing
/// but `s3:*`.
fn of_name(name: &'static str, versioned: bool) -> Cow<'static, str> {
    let found = |rows: &[(&str, &'static str)]| {
        let row = rows.iter().find(|(operation, _)| *operation == name);
        row.map(|(_, action)| Cow::Borrowed(*action))
    };
    versioned
        .then(|| found(OF_VERSIONS))
        .flatten()
        .or_else(|| found(OTHERS))
        .unwrap_or_else(|| Cow::Owned(format!("s3:{name}")))
}

/// Actions that the headers of a request ask for beside the operation's own.
pub(super) fn further(
    operation: Operation,
    headers: &HeaderMap,
) -> impl Iterator<Item = &'static str> {
    let writes = matches!(
        operation,
        Operation::PutObject
            | Operation::CopyObject
            | Operation::CreateMultipartUpload
            | Operation::PostObject
    );
    FURTHER
        .iter()
        .filter(move |(header, _)| writes && headers.contains_key(*header))
        .map(|(_, action)| *action)
}

/// The content of an object is asked about by `If-Match`, and by an append: its size, its checksum.
const FURTHER: [(&str, &str); 6] = [
    ("if-match", "s3:GetObject"),
    ("x-amz-write-offset-bytes", "s3:GetObject"),
    ("x-amz-tagging", "s3:PutObjectTagging"),
    ("x-amz-object-lock-mode", "s3:PutObjectRetention"),
    (
        "x-amz-object-lock-retain-until-date",
        "s3:PutObjectRetention",
    ),
    ("x-amz-object-lock-legal-hold", "s3:PutObjectLegalHold"),
];

const OF_VERSIONS: &[(&str, &str)] = &[
    ("DeleteObject", "s3:DeleteObjectVersion"),
    ("DeleteObjectTagging", "s3:DeleteObjectVersionTagging"),
    ("GetObject", "s3:GetObjectVersion"),
    ("GetObjectAcl", "s3:GetObjectVersionAcl"),
    ("GetObjectAttributes", "s3:GetObjectVersionAttributes"),
    ("GetObjectTagging", "s3:GetObjectVersionTagging"),
    ("GetObjectTorrent", "s3:GetObjectVersionTorrent"),
    ("HeadObject", "s3:GetObjectVersion"),
    ("PutObjectAcl", "s3:PutObjectVersionAcl"),
    ("PutObjectTagging", "s3:PutObjectVersionTagging"),
];

#[rustfmt::skip]
const OTHERS: &[(&str, &str)] = &[
    ("CompleteMultipartUpload", "s3:PutObject"),
    ("CopyObject", "s3:PutObject"),
    ("CreateMultipartUpload", "s3:PutObject"),
    ("DeleteBucketAnalyticsConfiguration", "s3:PutAnalyticsConfiguration"),
    ("DeleteBucketCors", "s3:PutBucketCORS"),
    ("DeleteBucketEncryption", "s3:PutEncryptionConfiguration"),
    ("DeleteBucketIntelligentTieringConfiguration", "s3:PutIntelligentTieringConfiguration"),
    ("DeleteBucketInventoryConfiguration", "s3:PutInventoryConfiguration"),
    ("DeleteBucketLifecycle", "s3:PutLifecycleConfiguration"),
    ("DeleteBucketMetricsConfiguration", "s3:PutMetricsConfiguration"),
    ("DeleteBucketOwnershipControls", "s3:PutBucketOwnershipControls"),
    ("DeleteBucketReplication", "s3:PutReplicationConfiguration"),
    ("DeleteBucketTagging", "s3:PutBucketTagging"),
    // Each key is asked about when it comes.
    ("DeleteObjects", "s3:DeleteObject"),
    ("DeletePublicAccessBlock", "s3:PutBucketPublicAccessBlock"),
    ("GetBucketAccelerateConfiguration", "s3:GetAccelerateConfiguration"),
    ("GetBucketAnalyticsConfiguration", "s3:GetAnalyticsConfiguration"),
    ("GetBucketEncryption", "s3:GetEncryptionConfiguration"),
    ("GetBucketIntelligentTieringConfiguration", "s3:GetIntelligentTieringConfiguration"),
    ("GetBucketInventoryConfiguration", "s3:GetInventoryConfiguration"),
    ("GetBucketLifecycleConfiguration", "s3:GetLifecycleConfiguration"),
    ("GetBucketMetricsConfiguration", "s3:GetMetricsConfiguration"),
    ("GetBucketNotificationConfiguration", "s3:GetBucketNotification"),
    ("GetBucketReplication", "s3:GetReplicationConfiguration"),
    ("GetObjectLockConfiguration", "s3:GetBucketObjectLockConfiguration"),
    ("GetPublicAccessBlock", "s3:GetBucketPublicAccessBlock"),
    ("HeadBucket", "s3:ListBucket"),
    ("HeadObject", "s3:GetObject"),
    ("ListBucketAnalyticsConfigurations", "s3:GetAnalyticsConfiguration"),
    ("ListBucketIntelligentTieringConfigurations", "s3:GetIntelligentTieringConfiguration"),
    ("ListBucketInventoryConfigurations", "s3:GetInventoryConfiguration"),
    ("ListBucketMetricsConfigurations", "s3:GetMetricsConfiguration"),
    ("ListBuckets", "s3:ListAllMyBuckets"),
    ("ListMultipartUploads", "s3:ListBucketMultipartUploads"),
    ("ListObjectVersions", "s3:ListBucketVersions"),
    ("ListObjects", "s3:ListBucket"),
    ("ListObjectsV2", "s3:ListBucket"),
    ("ListParts", "s3:ListMultipartUploadParts"),
    ("PostObject", "s3:PutObject"),
    ("PutBucketAccelerateConfiguration", "s3:PutAccelerateConfiguration"),
    ("PutBucketAnalyticsConfiguration", "s3:PutAnalyticsConfiguration"),
    ("PutBucketEncryption", "s3:PutEncryptionConfiguration"),
    ("PutBucketIntelligentTieringConfiguration", "s3:PutIntelligentTieringConfiguration"),
    ("PutBucketInventoryConfiguration", "s3:PutInventoryConfiguration"),
    ("PutBucketLifecycleConfiguration", "s3:PutLifecycleConfiguration"),
    ("PutBucketMetricsConfiguration", "s3:PutMetricsConfiguration"),
    ("PutBucketNotificationConfiguration", "s3:PutBucketNotification"),
    ("PutBucketReplication", "s3:PutReplicationConfiguration"),
    ("PutObjectLockConfiguration", "s3:PutBucketObjectLockConfiguration"),
    ("PutPublicAccessBlock", "s3:PutBucketPublicAccessBlock"),
    ("RenameObject", "s3:PutObject"),
    ("SelectObjectContent", "s3:GetObject"),
    ("UploadPart", "s3:PutObject"),
    ("UploadPartCopy", "s3:PutObject"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::s3::auth::policy::Policy;

    #[test]
    fn every_operation_is_an_action_that_s3_has() {
        for name in Operation::VARIANTS {
            if *name == "PreflightRequest" {
                // A browser asks without saying who it is, and learns only what CORS rules say.
                continue;
            }
            for versioned in [false, true] {
                let action = of_name(name, versioned);
                let text = serde_json::json!({"Statement": {
                    "Effect": "Allow", "Action": action, "Resource": "*"}});
                let policy = Policy::of_user(&text.to_string());
                assert!(policy.is_ok(), "{name}: {action}: {policy:?}");
            }
        }
        assert_eq!(of(Operation::HeadObject, true), "s3:GetObjectVersion");
        assert_eq!(of(Operation::PutObject, true), "s3:PutObject");
        assert_eq!(of(Operation::ListObjectsV2, false), "s3:ListBucket");
    }
}
