//! The rpcs of records, statistics, usage series and exports.

pub mod export;
pub mod paging;
pub mod records;
pub mod statistics;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::biz::{
    account::catalog::Catalog,
    reports::{record::RecordStore, statistics::Statistics},
    values::calendar::Calendar,
};

/// Exports at once; more would delay the other readers of the database.
const MAX_EXPORTS: usize = 8;

/// Reports on charges.
pub struct ReportService {
    records: Arc<dyn RecordStore>,
    statistics: Arc<dyn Statistics>,
    catalog: Arc<Catalog>,
    calendar: Arc<Calendar>,
    /// A permit for each export.
    exports: Arc<Semaphore>,
}

impl ReportService {
    pub fn new(
        records: Arc<dyn RecordStore>,
        statistics: Arc<dyn Statistics>,
        catalog: Arc<Catalog>,
        calendar: Arc<Calendar>,
    ) -> Self {
        Self { records, statistics, catalog, calendar, exports: Arc::new(Semaphore::new(MAX_EXPORTS)) }
    }
}
