//! Work beside the requests: scheduled jobs with their runs and checkpoints, and the operators'
//! figures.

pub mod archive;
pub mod audit;
pub mod deliver_webhooks;
pub mod expire_events;
pub mod import_prices;
pub mod low_balance;
pub mod ops_stats;
pub mod progress;
pub mod reset;
pub mod retry;
pub mod rollup;
pub mod runs;
pub mod seals;
pub mod use_audit;
