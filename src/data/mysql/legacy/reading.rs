//! The zones and times by which the rows of the legacy service are read.

use chrono_tz::Tz;

use super::{progress::UpgradeProgress, times::Times};

/// How the rows of the legacy service are read.
pub(super) struct Reading {
    pub(super) zone: Tz,
    pub(super) billing_zone: Tz,
    /// Its sessions' `time_zone`, as SQL: in which TIMESTAMP columns show what it stored.
    pub(super) session: String,
    pub(super) times: Times,
    pub(super) begun: Option<UpgradeProgress>,
}
