//! The rpcs of records, statistics, usage and exports.

pub mod export;
pub mod paging;
pub mod records;
pub mod statistics;
pub mod usage;

use std::sync::Arc;

use super::{
    exports::Exports,
    reads::{ReadBounds, Reads},
};
use crate::biz::{
    account::catalog::Catalog,
    reports::{
        record::RecordStore,
        statistics::Statistics,
        usage::{UseStore, keeper::UseKeeper},
    },
    values::calendar::Calendar,
};

/// Reports on charges.
pub struct ReportService {
    records: Arc<dyn RecordStore>,
    statistics: Arc<dyn Statistics>,
    uses: Arc<dyn UseStore>,
    keeper: Arc<UseKeeper>,
    catalog: Arc<Catalog>,
    calendar: Arc<Calendar>,
    exports: Arc<Exports>,
    reads: Reads,
}

/// The rollup by service, model and API key.
pub struct Uses {
    pub store: Arc<dyn UseStore>,
    pub keeper: Arc<UseKeeper>,
}

impl ReportService {
    pub fn new(
        (records, statistics): (Arc<dyn RecordStore>, Arc<dyn Statistics>),
        uses: Uses,
        catalog: Arc<Catalog>,
        calendar: Arc<Calendar>,
        ReadBounds { exports, reads }: ReadBounds,
    ) -> Self {
        let Uses { store: uses, keeper } = uses;
        Self { records, statistics, uses, keeper, catalog, calendar, exports, reads }
    }
}
