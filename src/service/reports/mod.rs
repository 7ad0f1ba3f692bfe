//! The rpcs of records, statistics, usage series and exports.

pub mod export;
pub mod paging;
pub mod records;
pub mod statistics;
