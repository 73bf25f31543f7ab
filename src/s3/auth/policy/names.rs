//! The actions and condition keys that S3 has, from its service authorization reference.

use super::pattern::{Pattern, Syntax};

/// What an action works on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Level {
    /// No bucket, or something that is none.
    Account,
    Bucket,
    Object,
}

/// The level of each action that the pattern (in lower case, with its `s3:`) takes in.
pub(super) fn levels(pattern: &Pattern) -> impl Iterator<Item = Level> {
    let takes = |name: &str| {
        let name = format!("s3:{}", name.to_ascii_lowercase());
        pattern.matches(&name, &|_| Vec::new())
    };
    let of = |level, names: &'static [&'static str]| names.iter().map(move |name| (level, *name));
    of(Level::Object, OBJECT)
        .chain(of(Level::Bucket, BUCKET))
        .chain(of(Level::Account, ACCOUNT))
        .filter(move |(_, name)| takes(name))
        .map(|(level, _)| level)
}

/// How actions are written: wildcards, no variables.
pub(super) const ACTION_SYNTAX: Syntax = Syntax {
    wildcards: true,
    variables: false,
};

/// Whether a condition of S3 may ask for this key (in lower case). Keys of `aws:` are all taken:
/// those that are not known here have no value.
pub(super) fn is_condition_key(key: &str) -> bool {
    if let Some(global) = key.strip_prefix("aws:") {
        return !global.is_empty();
    }
    let tag = TAG_KEYS.iter().find_map(|prefix| key.strip_prefix(prefix));
    tag.is_some_and(|tag| !tag.is_empty()) || CONDITION_KEYS.contains(&key)
}

const TAG_KEYS: [&str; 3] = [
    "s3:existingobjecttag/",
    "s3:requestobjecttag/",
    "s3:buckettag/",
];

#[rustfmt::skip]
const CONDITION_KEYS: &[&str] = &[
    "s3:accessgrantsinstancearn", "s3:accesspointnetworkorigin", "s3:authtype",
    "s3:dataaccesspointaccount", "s3:dataaccesspointarn", "s3:delimiter", "s3:destinationregion",
    "s3:existingjoboperation", "s3:existingjobpriority", "s3:if-match", "s3:if-none-match",
    "s3:inventoryaccessibleoptionalfields", "s3:isreplicationpauserequest", "s3:jobsuspendedcause",
    "s3:locationconstraint", "s3:max-keys", "s3:object-lock-legal-hold", "s3:object-lock-mode",
    "s3:object-lock-remaining-retention-days", "s3:object-lock-retain-until-date",
    "s3:objectcreationoperation", "s3:prefix", "s3:requestjoboperation", "s3:requestjobpriority",
    "s3:requestobjecttagkeys", "s3:resourceaccount", "s3:signatureage", "s3:signatureversion",
    "s3:tlsversion", "s3:versionid", "s3:x-amz-acl", "s3:x-amz-content-sha256",
    "s3:x-amz-copy-source", "s3:x-amz-grant-full-control", "s3:x-amz-grant-read",
    "s3:x-amz-grant-read-acp", "s3:x-amz-grant-write", "s3:x-amz-grant-write-acp",
    "s3:x-amz-metadata-directive", "s3:x-amz-object-ownership", "s3:x-amz-server-side-encryption",
    "s3:x-amz-server-side-encryption-aws-kms-key-id",
    "s3:x-amz-server-side-encryption-customer-algorithm", "s3:x-amz-storage-class",
    "s3:x-amz-website-redirect-location",
];

#[rustfmt::skip]
const OBJECT: &[&str] = &[
    "AbortMultipartUpload", "BypassGovernanceRetention", "DeleteObject", "DeleteObjectAnnotation",
    "DeleteObjectTagging", "DeleteObjectVersion", "DeleteObjectVersionAnnotation",
    "DeleteObjectVersionTagging", "GetObject", "GetObjectAcl", "GetObjectAnnotation",
    "GetObjectAttributes", "GetObjectLegalHold", "GetObjectRetention", "GetObjectTagging",
    "GetObjectTorrent", "GetObjectVersion", "GetObjectVersionAcl", "GetObjectVersionAnnotation",
    "GetObjectVersionAttributes", "GetObjectVersionForReplication", "GetObjectVersionTagging",
    "GetObjectVersionTorrent", "InitiateReplication", "ListMultipartUploadParts",
    "ObjectOwnerOverrideToBucketOwner", "PutObject", "PutObjectAcl", "PutObjectAnnotation",
    "PutObjectLegalHold", "PutObjectRetention", "PutObjectTagging", "PutObjectVersionAcl",
    "PutObjectVersionAnnotation", "PutObjectVersionTagging", "RenameObject", "ReplicateDelete",
    "ReplicateObject", "ReplicateTags", "RestoreObject", "UpdateObjectEncryption",
];

#[rustfmt::skip]
const BUCKET: &[&str] = &[
    "CreateBucket", "CreateBucketMetadataTableConfiguration", "DeleteBucket",
    "DeleteBucketMetadataTableConfiguration", "DeleteBucketOwnershipControls",
    "DeleteBucketPolicy", "DeleteBucketPublicAccessBlock", "DeleteBucketTagging",
    "DeleteBucketWebsite", "GetAccelerateConfiguration",
    "GetAnalyticsConfiguration", "GetBucketAbac", "GetBucketAcl", "GetBucketCORS",
    "GetBucketLocation", "GetBucketLogging", "GetBucketMetadataTableConfiguration",
    "GetBucketNotification", "GetBucketObjectLockConfiguration", "GetBucketOwnershipControls",
    "GetBucketPolicy", "GetBucketPolicyStatus", "GetBucketPublicAccessBlock",
    "GetBucketRequestPayment", "GetBucketTagging", "GetBucketVersioning", "GetBucketWebsite",
    "GetEncryptionConfiguration", "GetIntelligentTieringConfiguration",
    "GetInventoryConfiguration", "GetLifecycleConfiguration", "GetMetricsConfiguration",
    "GetReplicationConfiguration", "ListBucket", "ListBucketMultipartUploads",
    "ListBucketVersions", "PutAccelerateConfiguration", "PutAnalyticsConfiguration",
    "PutBucketAbac", "PutBucketAcl", "PutBucketCORS", "PutBucketLogging", "PutBucketNotification",
    "PutBucketObjectLockConfiguration", "PutBucketOwnershipControls", "PutBucketPolicy",
    "PutBucketPublicAccessBlock", "PutBucketRequestPayment", "PutBucketTagging",
    "PutBucketVersioning", "PutBucketWebsite", "PutEncryptionConfiguration",
    "PutIntelligentTieringConfiguration", "PutInventoryConfiguration",
    "PutLifecycleConfiguration", "PutMetricsConfiguration", "PutReplicationConfiguration",
    "UpdateBucketMetadataInventoryTableConfiguration",
    "UpdateBucketMetadataJournalTableConfiguration",
];

#[rustfmt::skip]
const ACCOUNT: &[&str] = &[
    "AssociateAccessGrantsIdentityCenter", "CreateAccessGrant", "CreateAccessGrantsInstance",
    "CreateAccessGrantsLocation", "CreateAccessPoint", "CreateAccessPointForObjectLambda",
    "CreateJob", "CreateMultiRegionAccessPoint", "CreateStorageLensGroup", "DeleteAccessGrant",
    "DeleteAccessGrantsInstance", "DeleteAccessGrantsLocation", "DeleteAccessPoint",
    "DeleteAccessPointPolicy", "DeleteJobTagging", "DeleteMultiRegionAccessPoint",
    "DeleteStorageLensConfiguration", "DeleteStorageLensGroup", "DescribeJob",
    "DescribeMultiRegionAccessPointOperation", "GetAccessGrant", "GetAccessGrantsInstance",
    "GetAccessGrantsLocation", "GetAccessPoint", "GetAccessPointPolicy",
    "GetAccessPointPolicyStatus", "GetAccountPublicAccessBlock", "GetDataAccess",
    "GetJobTagging", "GetMultiRegionAccessPoint", "GetMultiRegionAccessPointPolicy",
    "GetMultiRegionAccessPointPolicyStatus", "GetMultiRegionAccessPointRoutes",
    "GetStorageLensConfiguration", "GetStorageLensDashboard", "GetStorageLensGroup",
    "ListAccessGrants", "ListAccessGrantsInstances", "ListAccessGrantsLocations",
    "ListAccessPoints", "ListAllMyBuckets", "ListCallerAccessGrants", "ListJobs",
    "ListMultiRegionAccessPoints", "ListStorageLensConfigurations", "ListStorageLensGroups",
    "ListTagsForResource", "PauseReplication", "PutAccessPointPolicy",
    "PutAccountPublicAccessBlock", "PutJobTagging", "PutMultiRegionAccessPointPolicy",
    "PutStorageLensConfiguration", "SubmitMultiRegionAccessPointRoutes", "TagResource",
    "UntagResource", "UpdateAccessGrantsLocation", "UpdateJobPriority", "UpdateJobStatus",
    "UpdateStorageLensGroup",
];
