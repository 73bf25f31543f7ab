//! LIST.

use std::sync::Arc;

use super::FsBucket;
use crate::engine::{EngineError, ScanPage, ScanPlan};

impl FsBucket {
    pub async fn scan(self: &Arc<Self>, _: &ScanPlan) -> Result<ScanPage, EngineError> {
        unimplemented!()
    }
}
