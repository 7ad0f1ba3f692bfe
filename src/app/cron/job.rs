//! The regular jobs, their schedules, and the begin of each period.

use std::{fmt, time::Duration};

use anyhow::Context;
use chrono::{DateTime, Timelike, Utc};
use croner::{Cron, parser::CronParser};

use crate::{
    biz::{
        jobs::{audit, deliver_webhooks, import_prices, runs::LONGEST_WORK},
        settlement::sweep,
    },
    config::{Config, CronConfig, WholeAudits},
};

/// A regular job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Open the quota rows of this month and the next for every user.
    ResetQuotas,
    /// End the reservations that are past their expiry: free the hold, or charge the reported usage
    /// of a stream.
    ExpireReservations,
    /// Look up pending top-ups and refunds at payment-service, and settle them.
    ReconcileRecharges,
    /// Compare the accounts and API keys in Redis with the database, and remove the entries that
    /// differ.
    ReconcileCache,
    /// Prove that every balance, quota and rollup follows from the last seal and the history since then.
    Audit,
    /// Prove the same from the first row on, with all seals.
    AuditAll,
    /// Seal the history of accounts up to the last closed month.
    SealMonths,
    /// Move records that are older than `billing.record_months` to the archive.
    ArchiveRecords,
    /// Rebuild the rollups from the records where they differ.
    RebuildRollup,
    /// Write the event of each month that has closed.
    CloseMonths,
    /// Send events to webhooks.
    DeliverWebhooks,
    /// Delete old events.
    ExpireEvents,
    /// Write the price versions of a published list.
    ImportPrices,
}

impl Job {
    pub const ALL: [Self; 13] = [
        Self::ResetQuotas,
        Self::ExpireReservations,
        Self::ReconcileRecharges,
        Self::ReconcileCache,
        Self::Audit,
        Self::AuditAll,
        Self::SealMonths,
        Self::ArchiveRecords,
        Self::RebuildRollup,
        Self::CloseMonths,
        Self::DeliverWebhooks,
        Self::ExpireEvents,
        Self::ImportPrices,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::ResetQuotas => "reset-quotas",
            Self::ExpireReservations => sweep::JOB,
            Self::ReconcileRecharges => "reconcile-recharges",
            Self::ReconcileCache => "reconcile-cache",
            Self::Audit => audit::JOB,
            Self::AuditAll => audit::WHOLE_JOB,
            Self::SealMonths => "seal-months",
            Self::ArchiveRecords => "archive-records",
            Self::RebuildRollup => "rebuild-rollup",
            Self::CloseMonths => "close-months",
            Self::DeliverWebhooks => deliver_webhooks::JOB,
            Self::ExpireEvents => "expire-events",
            Self::ImportPrices => import_prices::JOB,
        }
    }

    /// Cron fields in the billing zone: second, minute, hour, day of month, month, day of week.
    /// `None` means that the job only runs by hand.
    pub fn schedule(self, cron: &CronConfig) -> Option<&'static str> {
        match self {
            Self::ResetQuotas => Some("0 0 0 1 * *"),
            Self::ExpireReservations => Some("0 * * * * *"),
            Self::ReconcileRecharges => Some("0 */5 * * * *"),
            Self::ReconcileCache => Some("30 */5 * * * *"),
            Self::Audit => Some("0 30 3 * * *"),
            Self::AuditAll => match cron.audit_all {
                WholeAudits::Daily => Some("0 0 5 * * *"),
                WholeAudits::Weekly => Some("0 0 5 * * SUN"),
                WholeAudits::Monthly => Some("0 0 5 1 * *"),
                WholeAudits::Never => None,
            },
            Self::SealMonths => Some("0 30 2 * * *"),
            Self::ArchiveRecords => Some("0 30 4 2 * *"),
            Self::CloseMonths => Some("0 7 * * * *"),
            Self::DeliverWebhooks => Some("20 * * * * *"),
            Self::ExpireEvents => Some("0 15 4 * * *"),
            Self::RebuildRollup | Self::ImportPrices => None,
        }
    }

    /// Whether the configuration has work for the job.
    pub(super) fn applies(self, config: &Config) -> bool {
        match self {
            Self::ReconcileRecharges => config.payment_service.is_some(),
            Self::ReconcileCache => config.data.redis.is_some(),
            Self::ArchiveRecords => config.billing.record_months.is_some(),
            Self::DeliverWebhooks => config.billing.webhooks.key.is_some(),
            _ => true,
        }
    }

    pub fn description(self) -> &'static str {
        match self {
            Self::ResetQuotas => "open this month and the next for every user",
            Self::ExpireReservations => "end expired reservations",
            Self::ReconcileRecharges => "look up pending top-ups and refunds at payment-service, and settle them",
            Self::ReconcileCache => "compare Redis with the database, and remove the entries that differ",
            Self::Audit => "prove that balances, quotas and rollups follow from their history; exit 1 if not",
            Self::AuditAll => "prove the same for the whole history with all seals; exit 1 if not",
            Self::SealMonths => "seal the history of accounts up to the last closed month",
            Self::ArchiveRecords => "move records older than billing.record_months to the archive",
            Self::RebuildRollup => "recreate the rollups from the records where they differ",
            Self::CloseMonths => "write the event of each month that has closed",
            Self::DeliverWebhooks => "send events to webhooks, if no server does",
            Self::ExpireEvents => "delete events older than billing.events.keep",
            Self::ImportPrices => "write the price versions of a published list; needs --file",
        }
    }

    /// Whether the job runs every hour or more often. Its schedule is then the same in every zone.
    fn is_frequent(self) -> bool {
        matches!(
            self,
            Self::ExpireReservations
                | Self::ReconcileRecharges
                | Self::ReconcileCache
                | Self::CloseMonths
                | Self::DeliverWebhooks
        )
    }

    /// Whether the first run reads the whole history.
    pub(super) fn reads_all_history(self) -> bool {
        matches!(self, Self::AuditAll | Self::SealMonths)
    }

    /// Longest time of a run. The limit keeps a run that hangs from blocking the next ones.
    pub(super) fn limit(self) -> Duration {
        match self {
            Self::ResetQuotas
            | Self::Audit
            | Self::SealMonths
            | Self::ArchiveRecords
            | Self::RebuildRollup
            | Self::ExpireEvents => Duration::from_secs(6 * 3_600),
            // It goes on at its checkpoint.
            Self::AuditAll => Duration::from_secs(24 * 3_600),
            // All other processes wait for the lease, and the next minute goes on.
            Self::ExpireReservations => LONGEST_WORK,
            _ => Duration::from_secs(30 * 60),
        }
    }
}

impl fmt::Display for Job {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The periods of a job that only runs by hand are days: a run resumes from the checkpoint of an
/// interrupted run of the same day.
const BY_HAND: &str = "0 0 0 * * *";

/// The begin of the period that contains `at`.
pub(super) fn period_began(
    job: Job,
    at: DateTime<Utc>,
    zone: chrono_tz::Tz,
    cron: &CronConfig,
) -> anyhow::Result<DateTime<Utc>> {
    // When clocks go back, one hour of the zone repeats and its minutes are ambiguous. UTC is not.
    let zone = if job.is_frequent() { chrono_tz::UTC } else { zone };
    // The schedule parser works in whole seconds.
    let at = at.with_timezone(&zone).with_nanosecond(0).unwrap_or_else(|| at.with_timezone(&zone));
    let schedule = schedule(job, cron)?;
    let began = schedule.find_previous_occurrence(&at, true)?;
    // A scheduled time that the clocks skip is only found by a forward search.
    let next = schedule.find_next_occurrence(&began, false)?;
    Ok(if next <= at { next } else { began }.to_utc())
}

pub(super) fn schedule(job: Job, cron: &CronConfig) -> anyhow::Result<Cron> {
    let parser = CronParser::builder().seconds(croner::parser::Seconds::Required).build();
    let schedule = job.schedule(cron).unwrap_or(BY_HAND);
    parser.parse(schedule).with_context(|| format!("the schedule of {job}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn began(job: Job, at: &str, zone: &str) -> String {
        let began = period_began(job, at.parse().unwrap(), zone.parse().unwrap(), &CronConfig::default()).unwrap();
        began.format("%Y-%m-%dT%H:%M:%SZ").to_string()
    }

    #[test]
    fn a_period_begins_with_its_first_instant() {
        let began = |at: &str| began(Job::ResetQuotas, at, "Asia/Shanghai");
        assert_eq!(began("2026-10-31T15:59:59.999999Z"), "2026-09-30T16:00:00Z");
        assert_eq!(began("2026-10-31T16:00:00Z"), "2026-10-31T16:00:00Z");
        assert_eq!(began("2026-10-31T16:00:00.000001Z"), "2026-10-31T16:00:00Z");
        assert_eq!(began("2028-02-29T15:59:59Z"), "2028-01-31T16:00:00Z");
        assert_eq!(began("2028-02-29T16:00:00Z"), "2028-02-29T16:00:00Z");
    }

    #[test]
    fn periods_follow_the_clocks_of_the_zone() {
        // Before and after the change to summer time, and back.
        for (at, expected) in [
            ("2026-03-28T12:00:00Z", "2026-03-28T02:30:00Z"),
            ("2026-03-29T12:00:00Z", "2026-03-29T01:30:00Z"),
            ("2026-10-24T12:00:00Z", "2026-10-24T01:30:00Z"),
            ("2026-10-25T12:00:00Z", "2026-10-25T02:30:00Z"),
        ] {
            assert_eq!(began(Job::Audit, at, "Europe/Berlin"), expected);
        }
    }

    #[test]
    fn minutes_go_on_in_the_hour_that_comes_twice() {
        let minute = |at: &str| began(Job::ExpireReservations, at, "Europe/Berlin");
        assert_eq!(minute("2026-10-25T00:30:10Z"), "2026-10-25T00:30:00Z");
        assert_eq!(minute("2026-10-25T01:30:10Z"), "2026-10-25T01:30:00Z");
        assert_eq!(began(Job::ReconcileCache, "2026-10-25T01:34:10Z", "Europe/Berlin"), "2026-10-25T01:30:30Z");
    }

    #[test]
    fn a_month_with_a_skipped_first_midnight_begins() {
        // Clocks went from 24:00 to 01:00 on that day.
        let at = "2017-10-01T04:00:01Z";
        let october = began(Job::ResetQuotas, at, "America/Asuncion");
        assert!(october.starts_with("2017-10-01T"), "{october}");
    }

    #[test]
    fn a_month_with_a_repeated_first_midnight_begins_once() {
        // Clocks go from 01:00 to 00:00 on that day.
        let at = |at: &str| began(Job::ResetQuotas, at, "America/Havana");
        assert_eq!(at("2026-11-01T03:59:59Z"), "2026-10-01T04:00:00Z");
        for after in ["2026-11-01T04:00:00Z", "2026-11-01T04:59:59Z", "2026-11-01T05:00:00Z", "2026-11-01T06:00:00Z"] {
            assert_eq!(at(after), "2026-11-01T04:00:00Z", "{after}");
        }
    }

    #[test]
    fn the_console_describes_every_job() {
        let texts = crate::texts::Texts(crate::texts::Language::English);
        let missing: Vec<_> =
            Job::ALL.into_iter().filter(|job| texts.find_word("job_about", job.name()).is_none()).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn the_whole_audit_runs_as_often_as_configured() {
        for (audit_all, expected) in [
            (WholeAudits::Daily, "2026-11-20T21:00:00+00:00"),
            (WholeAudits::Weekly, "2026-11-14T21:00:00+00:00"),
            (WholeAudits::Monthly, "2026-10-31T21:00:00+00:00"),
            (WholeAudits::Never, "2026-11-20T16:00:00+00:00"),
        ] {
            let cron = CronConfig { audit_all, ..CronConfig::default() };
            let at = "2026-11-21T04:00:00Z".parse().unwrap();
            let began = period_began(Job::AuditAll, at, chrono_tz::Asia::Shanghai, &cron).unwrap();
            assert_eq!(began.to_rfc3339(), expected, "{audit_all:?}");
        }
    }

    #[test]
    fn every_schedule_is_understood() {
        for job in Job::ALL {
            assert!(began(job, "2026-11-21T12:00:00Z", "Asia/Shanghai").as_str() <= "2026-11-21T12:00:00Z", "{job}");
        }
    }
}
