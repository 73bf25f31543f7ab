//! Sub-resources of a bucket that this server does not have: asked for, they answer what S3
//! answers for a bucket where nobody set them, so that tools which look at everything can read
//! on. Setting them is refused by name.

use http::StatusCode;

use super::error::{Code, S3Error};
use super::reply::{self, Reply};
use super::route::Operation;
use super::xml::Writer;

/// `None`: the operation is not one of these.
pub(super) fn answer(operation: Operation) -> Option<Result<Reply, S3Error>> {
    let absent = |code: Code| Err(code.into());
    Some(match operation {
        Operation::GetBucketAccelerateConfiguration => Ok(empty("AccelerateConfiguration")),
        Operation::GetBucketLogging => Ok(empty("BucketLoggingStatus")),
        Operation::GetBucketNotificationConfiguration => Ok(empty("NotificationConfiguration")),
        Operation::GetBucketRequestPayment => Ok(payer()),
        Operation::GetBucketEncryption => {
            absent(Code::ServerSideEncryptionConfigurationNotFoundError)
        }
        Operation::GetBucketReplication => absent(Code::ReplicationConfigurationNotFoundError),
        Operation::GetBucketWebsite => absent(Code::NoSuchWebsiteConfiguration),
        Operation::GetBucketAnalyticsConfiguration
        | Operation::GetBucketIntelligentTieringConfiguration
        | Operation::GetBucketInventoryConfiguration
        | Operation::GetBucketMetricsConfiguration => absent(Code::NoSuchConfiguration),
        Operation::ListBucketAnalyticsConfigurations => {
            Ok(nothing_listed("ListBucketAnalyticsConfigurationResult"))
        }
        Operation::ListBucketIntelligentTieringConfigurations => Ok(nothing_listed(
            "ListBucketIntelligentTieringConfigurationsOutput",
        )),
        Operation::ListBucketInventoryConfigurations => {
            Ok(nothing_listed("ListInventoryConfigurationsResult"))
        }
        Operation::ListBucketMetricsConfigurations => {
            Ok(nothing_listed("ListMetricsConfigurationsResult"))
        }
        Operation::DeleteBucketEncryption
        | Operation::DeleteBucketReplication
        | Operation::DeleteBucketWebsite => Ok(reply::empty(StatusCode::NO_CONTENT)),
        _ => return None,
    })
}

fn empty(root: &'static str) -> Reply {
    reply::xml(Writer::document(root).finish(root))
}

fn payer() -> Reply {
    let mut page = Writer::document("RequestPaymentConfiguration");
    page.leaf("Payer", "BucketOwner");
    reply::xml(page.finish("RequestPaymentConfiguration"))
}

fn nothing_listed(root: &'static str) -> Reply {
    let mut page = Writer::document(root);
    page.boolean("IsTruncated", false);
    reply::xml(page.finish(root))
}
