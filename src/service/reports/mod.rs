//! The rpcs of records, statistics, usage series and exports.

pub mod export;
pub mod paging;
pub mod records;
pub mod statistics;

use std::sync::Arc;

use super::{
    exports::Exports,
    reads::{ReadBounds, Reads},
};
use crate::biz::{
    account::catalog::Catalog,
    reports::{record::RecordStore, statistics::Statistics},
    values::calendar::Calendar,
};

/// Reports on charges.
pub struct ReportService {
    records: Arc<dyn RecordStore>,
    statistics: Arc<dyn Statistics>,
    catalog: Arc<Catalog>,
    calendar: Arc<Calendar>,
    exports: Arc<Exports>,
    reads: Reads,
}

impl ReportService {
    pub fn new(
        records: Arc<dyn RecordStore>,
        statistics: Arc<dyn Statistics>,
        catalog: Arc<Catalog>,
        calendar: Arc<Calendar>,
        ReadBounds { exports, reads }: ReadBounds,
    ) -> Self {
        Self { records, statistics, catalog, calendar, exports, reads }
    }
}
