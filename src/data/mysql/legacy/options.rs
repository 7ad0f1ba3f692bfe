//! The options of bringing a schema up to date.

use chrono_tz::Tz;

use crate::data::legacy_zone::LegacyZone;

/// The zones of the legacy times and of the billing days.
#[derive(Debug, Clone)]
pub struct UpgradeOptions {
    pub legacy_zone: LegacyZone,
    pub billing_zone: Tz,
}
