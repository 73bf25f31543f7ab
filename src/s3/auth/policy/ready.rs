//! Policies for everyday use, by name.

/// Their names.
pub const READY_MADE: [&str; 4] = ["bucket-owner", "readonly", "readwrite", "writeonly"];

/// The document of a ready-made user policy.
pub fn ready_made(name: &str) -> Option<&'static str> {
    match name {
        "bucket-owner" => Some(BUCKET_OWNER),
        "readonly" => Some(READ_ONLY),
        "readwrite" => Some(READ_WRITE),
        "writeonly" => Some(WRITE_ONLY),
        _ => None,
    }
}

/// Own buckets only: may make them; owning does the rest.
const BUCKET_OWNER: &str = r#"{
  "Version": "2012-10-17",
  "Statement": [{
    "Effect": "Allow",
    "Action": ["s3:CreateBucket", "s3:ListAllMyBuckets"],
    "Resource": "*"
  }]
}"#;

const READ_ONLY: &str = r#"{
  "Version": "2012-10-17",
  "Statement": [{
    "Effect": "Allow",
    "Action": ["s3:Get*", "s3:List*"],
    "Resource": "*"
  }]
}"#;

/// Everything but saying who may do what, in buckets of others.
const READ_WRITE: &str = r#"{
  "Version": "2012-10-17",
  "Statement": [{
    "Effect": "Allow",
    "NotAction": [
      "s3:BypassGovernanceRetention",
      "s3:DeleteBucketPolicy",
      "s3:PutAccountPublicAccessBlock",
      "s3:PutBucketAcl",
      "s3:PutBucketOwnershipControls",
      "s3:PutBucketPolicy",
      "s3:PutBucketPublicAccessBlock",
      "s3:PutObjectAcl",
      "s3:PutObjectVersionAcl"
    ],
    "Resource": "*"
  }]
}"#;

const WRITE_ONLY: &str = r#"{
  "Version": "2012-10-17",
  "Statement": [{
    "Effect": "Allow",
    "Action": ["s3:PutObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"],
    "Resource": "*"
  }]
}"#;
