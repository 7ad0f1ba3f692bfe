//! The rpcs of records, statistics, usage series and exports.

pub mod export;
pub mod paging;
pub mod records;
pub mod statistics;

use std::{sync::Arc, time::Duration};

use tokio::sync::Semaphore;

use crate::biz::{
    account::catalog::Catalog,
    limits::shares::Shares,
    reports::{record::RecordStore, statistics::Statistics},
    values::{calendar::Calendar, ids::UserId},
};

/// The bounds of exports: more would delay the other readers of the database.
#[derive(Debug, Clone, Copy)]
pub struct ExportLimits {
    /// Most exports at once.
    pub exports: usize,
    pub per_user: usize,
    /// Longest time in which a reader takes nothing.
    pub stall: Duration,
}

/// Reports on charges.
pub struct ReportService {
    records: Arc<dyn RecordStore>,
    statistics: Arc<dyn Statistics>,
    catalog: Arc<Catalog>,
    calendar: Arc<Calendar>,
    /// A permit for each export.
    exports: Arc<Semaphore>,
    exports_of_user: Arc<Shares<UserId>>,
    export_stall: Duration,
}

impl ReportService {
    pub fn new(
        records: Arc<dyn RecordStore>,
        statistics: Arc<dyn Statistics>,
        catalog: Arc<Catalog>,
        calendar: Arc<Calendar>,
        limits: ExportLimits,
    ) -> Self {
        Self {
            records,
            statistics,
            catalog,
            calendar,
            exports: Arc::new(Semaphore::new(limits.exports)),
            exports_of_user: Shares::new(limits.per_user),
            export_stall: limits.stall,
        }
    }
}
