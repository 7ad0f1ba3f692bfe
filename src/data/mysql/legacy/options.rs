//! The zones of an upgrade.

use chrono_tz::Tz;

use crate::data::legacy_zone::LegacyZone;

/// The zones that bringing a schema up to date needs beside the database.
#[derive(Debug, Clone)]
pub struct UpgradeOptions {
    pub legacy_zone: LegacyZone,
    pub billing_zone: Tz,
}
