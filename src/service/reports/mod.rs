//! Records, statistics, usage series and exports.

pub mod export;
pub mod paging;
pub mod records;
pub mod statistics;

use std::sync::Arc;

use tokio::sync::Semaphore;

use crate::biz::{
    account::catalog::Catalog,
    reports::{record::RecordStore, statistics::Statistics},
    values::{
        calendar::Calendar,
        error::Result,
        ids::{ServiceName, UserId},
    },
};

/// Exports at once; more would take the database from those who wait for it.
const MAX_EXPORTS: usize = 8;

/// Reports on charges that were made.
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

    /// The service that a read is about; empty stands for all services. A service that is not
    /// configured any more is known by what the user was charged for it.
    ///
    /// # Errors
    /// UNKNOWN_SERVICE where it is neither; those of a read.
    async fn service_filter(&self, user: &UserId, name: &str) -> Result<Option<ServiceName>> {
        if name.is_empty() {
            return Ok(None);
        }
        let unknown = match self.catalog.find(name) {
            Ok((service, _)) => return Ok(Some(service.clone())),
            Err(unknown) => unknown,
        };
        let retired = ServiceName::parse("service_name", name).map_err(|_| unknown.clone())?;
        let used = self.statistics.totals(user, None).await?;
        if used.contains_key(&retired) { Ok(Some(retired)) } else { Err(unknown) }
    }
}
