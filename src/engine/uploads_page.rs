//! One page of open uploads, from all of them.

use std::sync::Arc;

use super::{Upload, UploadsPage, UploadsPlan};

/// The page that `plan` asks for. Ids sort as the uploads were opened, so that an id that is gone
/// still has its place.
pub(super) fn page(mut uploads: Vec<Arc<Upload>>, plan: &UploadsPlan) -> UploadsPage {
    uploads.sort_unstable_by(|a, b| (&a.key, &a.id).cmp(&(&b.key, &b.id)));
    let mut page = UploadsPage::default();
    for upload in uploads {
        let Some(rest) = upload.key.as_str().strip_prefix(&*plan.prefix) else {
            continue;
        };
        let is_before = match &plan.after_id {
            Some(id) if *upload.key.as_str() == *plan.after_key => upload.id <= *id,
            _ => *upload.key.as_str() <= *plan.after_key,
        };
        let common = plan.delimiter.as_deref().and_then(|delimiter| {
            let end = plan.prefix.len() + rest.find(delimiter)? + delimiter.len();
            upload.key.as_str().get(..end)
        });
        // A common prefix was on an earlier page if that ended with it, or with a key under it.
        let is_shown = common.is_some_and(|common| {
            plan.after_key.starts_with(common)
                || page
                    .common_prefixes
                    .last()
                    .is_some_and(|last| **last == *common)
        });
        if is_before || is_shown {
            continue;
        }
        if page.uploads.len() + page.common_prefixes.len() >= plan.limit {
            page.truncated = plan.limit > 0;
            break;
        }
        match common {
            Some(common) => page.common_prefixes.push(common.into()),
            None => page.uploads.push(upload),
        }
    }
    page
}
