//! The settings for reading legacy rows.

use chrono_tz::Tz;

use super::{progress::UpgradeProgress, times::Times};

/// The zones, the time conversion and the progress with which legacy rows are read.
pub(super) struct Reading {
    pub(super) zone: Tz,
    pub(super) billing_zone: Tz,
    /// `time_zone` of the legacy sessions, as SQL. In it, TIMESTAMP columns show the stored times.
    pub(super) session: String,
    pub(super) times: Times,
    pub(super) begun: Option<UpgradeProgress>,
}
