//! The service, and the facts behind a charge.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use futures_util::{StreamExt, TryStreamExt, future::try_join_all, stream::iter};
use uuid::Uuid;

use super::{
    health::{Health, Vitals},
    jobs::{JobState, Timetable},
};
use crate::biz::{
    audit_trail::AuditTrail,
    check::cache::{Inspected, ReadModel},
    jobs::runs::RunReader,
    limits::key_quota::KeyQuotaStore,
    recharge::RechargeStore,
    reports::record::{Record, RecordFilter, RecordStore},
    settlement::{
        accounts::Accounts,
        refund::Refunded,
        transaction::{ChargedBy, Reports, Reservation, Transaction, TransactionStore},
    },
    values::{
        error::Result,
        ids::{TraceId, UserId},
        paging::PageStart,
    },
};
use crate::service::{proto::GetTransactionReply, timestamp::Timestamp};

/// Most records of an account that are looked through for those of one charge.
const MAX_RECORDS: u32 = 5_000;
/// Most refunds of a charge that are shown.
const MAX_REFUNDS: u32 = 50;
/// Reads of one page at once.
const READS_AT_ONCE: usize = 2;
/// Runs of each job that are shown.
const LAST_RUNS: u32 = 3;
/// The time after the id of a record in which the record is written.
pub(super) const WRITTEN_WITHIN: TimeDelta = TimeDelta::seconds(60);

/// Reads for operators.
pub struct OperationsService {
    pub orders: Arc<dyn RechargeStore>,
    pub key_quotas: Arc<dyn KeyQuotaStore>,
    pub trail: Arc<dyn AuditTrail>,
    pub transactions: Arc<dyn TransactionStore>,
    pub records: Arc<dyn RecordStore>,
    pub accounts: Arc<Accounts>,
    pub model: Arc<ReadModel>,
    pub runs: Arc<dyn RunReader>,
    pub timetable: Arc<Timetable>,
    pub vitals: Arc<dyn Vitals>,
}

/// The rows behind a charge, and the state of its account.
#[derive(Debug)]
pub struct ChargeFacts {
    /// The records of the charge and of its refunds, oldest first.
    pub records: Vec<Record>,
    pub refunds: Vec<Refunded>,
    pub stream: Option<StreamFacts>,
    pub account: Inspected,
}

/// The stream of a charge.
#[derive(Debug)]
pub struct StreamFacts {
    /// `None` for a stream that ended before reports were kept.
    pub reports: Option<Reports>,
    pub charged_by: ChargedBy,
}

impl OperationsService {
    /// The facts behind a charge that `GetTransaction` has shown.
    ///
    /// # Errors
    /// [`Error::Overloaded`](crate::biz::values::error::Error::Overloaded),
    /// [`Error::Internal`](crate::biz::values::error::Error::Internal).
    pub async fn charge_facts(&self, charge: &GetTransactionReply) -> Result<ChargeFacts> {
        let (user, trace) = (UserId::parse("user_id", &charge.user_id)?, TraceId::parse("trace_id", &charge.trace_id)?);
        let refunds = async {
            let has_refunds = charge.refunded_count > 0 || charge.refunded_amount != 0.0;
            Ok(match has_refunds {
                true => self.transactions.refunds_of(&user, &trace, MAX_REFUNDS).await?,
                false => Vec::new(),
            })
        };
        let stream = async {
            // Only a reservation has a stream.
            Ok(match charge.expires_at {
                Some(_) => self.transactions.transaction(&user, &trace).await?.and_then(stream_of),
                None => None,
            })
        };
        let (refunds, stream, account) = futures_util::try_join!(refunds, stream, self.model.inspect(&user))?;
        let mut instants: Vec<DateTime<Utc>> = refunds.iter().map(|refund| refund.created_at).collect();
        instants.extend(charge.created_at.and_then(Timestamp::to_instant));
        let at = |instant| self.records_of(&user, &trace, (instant, instant + TimeDelta::microseconds(1)));
        let reads: Vec<_> = instants.into_iter().map(at).collect();
        let mut records: Vec<_> = iter(reads).buffered(READS_AT_ONCE).try_concat().await?;
        if let Some(written) = time_of(&charge.record_id)
            && !records.iter().any(|record: &Record| record.id == charge.record_id)
        {
            // The charge of a reservation is written at its commit.
            records.extend(self.records_of(&user, &trace, (written, written + WRITTEN_WITHIN)).await?);
        }
        records.sort_by(|one, other| (one.created_at, &one.id).cmp(&(other.created_at, &other.id)));
        records.dedup_by(|one, other| one.id == other.id);
        Ok(ChargeFacts { records, refunds, stream, account })
    }

    /// The records of a trace id in a span of time.
    async fn records_of(
        &self,
        user: &UserId,
        trace: &TraceId,
        between: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Vec<Record>> {
        let mut records = self.records_between(user, between).await?;
        records.retain(|record| record.trace.as_ref() == Some(trace));
        Ok(records)
    }

    pub(super) async fn records_between(
        &self,
        user: &UserId,
        between: (DateTime<Utc>, DateTime<Utc>),
    ) -> Result<Vec<Record>> {
        let filter = RecordFilter::of_days(user, None);
        Ok(self.records.records(&filter, Some(between), &PageStart::Offset(0), MAX_RECORDS).await?)
    }

    pub async fn health(&self) -> Health {
        self.vitals.health().await
    }

    /// All jobs.
    ///
    /// # Errors
    /// [`Error::Overloaded`](crate::biz::values::error::Error::Overloaded),
    /// [`Error::Internal`](crate::biz::values::error::Error::Internal).
    pub async fn jobs(&self) -> Result<Vec<JobState>> {
        let planned = (self.timetable)();
        let runs = planned.iter().map(|planned| self.runs.last_runs(planned.job, LAST_RUNS));
        let (runs, leased) = futures_util::try_join!(try_join_all(runs), self.runs.leased_jobs())?;
        let states = planned.into_iter().zip(runs).map(|(planned, runs)| {
            let is_running = leased.iter().any(|job| job == planned.job);
            JobState { planned, is_running, runs }
        });
        Ok(states.collect())
    }
}

fn stream_of(transaction: Transaction) -> Option<StreamFacts> {
    let Reservation { reports, charged_by, .. } = transaction.reservation?;
    (reports.is_some() || charged_by != ChargedBy::Commit).then_some(StreamFacts { reports, charged_by })
}

/// The time in an id that is ordered by time.
pub(super) fn time_of(id: &str) -> Option<DateTime<Utc>> {
    let (seconds, nanos) = id.parse::<Uuid>().ok()?.get_timestamp()?.to_unix();
    DateTime::from_timestamp(i64::try_from(seconds).ok()?, nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_record_has_its_time() {
        let time = time_of("01a229b3-088f-71d5-949e-fabb08a076de").unwrap();
        assert_eq!(time.timestamp_millis(), 0x01a2_29b3_088f);
        assert_eq!([time_of("call-1"), time_of("f47ac10b-58cc-4372-a567-0e02b2c3d479")], [None, None]);
    }
}
