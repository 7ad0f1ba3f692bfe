//! Plays histories on the real databases.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use async_trait::async_trait;
use billing_service::{
    biz::{
        account::{Account, Balance},
        audit_trail::{AuditEvent, AuditFilter, AuditTrail, SET_API_KEY_QUOTA, SET_USER_LIMITS},
        events::{EventFilter, reader::FeedReader},
        jobs::{
            archive::RecordArchive,
            audit::{
                self, Difference, Evidence, Sources,
                counts::{CapCounts, Counting, KeyCounts},
            },
            progress::Progress,
            seals::{
                job::{last_to_seal, seal_months},
                store::{END, Since, TimeSpan, TraceSpan, Unproven},
            },
        },
        limits::{
            caps::{Caps, LimitStore},
            key_quota::{KeyQuotaStore, KeyQuotas, NewKeyQuota},
        },
        recharge::{
            order::{Created, OrderStore},
            unapplied::UnappliedReport,
        },
        reports::{
            record::{Record, RecordFilter},
            statistics::DailyUse,
        },
        settlement::{
            ledger::Ledger,
            order::Order,
            order_refund::OrderRefund,
            posting::{Batch, Outcome},
            transaction::{Due, Transaction},
        },
        values::{
            calendar::{BillingTime, Calendar, DaySpan},
            error::StoreError,
            ids::{ApiKeyId, OrderId, PaymentId, RefundId, TraceId, UserId},
            paging::PageStart,
        },
    },
    data::Store,
};
use chrono::{DateTime, Datelike, Utc};

use super::histories::{
    Stage, USERS,
    events::shown,
    postings::{call, month},
};

/// More rows than any history has.
const ALL: u32 = 10_000;

/// Records that all histories have moved to the archive, and accounts that they have sealed.
pub static ARCHIVED: AtomicU64 = AtomicU64::new(0);
pub static SEALED: AtomicU64 = AtomicU64::new(0);

/// A checkpoint before the users of a case. There are none behind them.
struct Behind(String);

#[async_trait]
impl Progress for Behind {
    fn position(&self) -> Option<String> {
        Some(self.0.clone())
    }

    fn expect(&self, _: u64) {}

    async fn reached(&self, _: &str, _: u64) -> Result<(), StoreError> {
        Ok(())
    }

    fn report(&self, line: &str) {
        // The histories before have sealed all months, at their ends.
        if !line.contains("lacked seals") {
            println!("{line}");
        }
    }
}

impl Stage for Arc<dyn Store> {
    async fn settle(&self, batch: &Batch) -> Vec<Outcome> {
        Ledger::settle(&**self, batch).await.unwrap().outcomes
    }

    async fn account(&self, user: &UserId, number: u32) -> Account {
        let account = (**self).account(user, month(number)).await.unwrap();
        account.unwrap_or_else(|| Account { balance: Balance::default(), quotas: BTreeMap::new(), requests: None })
    }

    async fn set_caps(&self, user: &UserId, caps: Caps, at: BillingTime) {
        LimitStore::set_caps(&**self, user, caps, &call(SET_USER_LIMITS), at).await.unwrap().unwrap();
    }

    async fn set_key_quota(&self, quota: &NewKeyQuota, at: BillingTime) {
        KeyQuotaStore::set_key_quota(&**self, quota, &call(SET_API_KEY_QUOTA), at).await.unwrap().unwrap();
    }

    async fn key_quotas(&self, key: &ApiKeyId) -> KeyQuotas {
        KeyQuotaStore::key_quotas(&**self, key).await.unwrap()
    }

    async fn keep_order(&self, order: &Order) {
        assert_eq!(self.create_order(order, None).await.unwrap(), Created::Stored);
    }

    async fn order(&self, id: &OrderId) -> Option<Order> {
        OrderStore::order(&**self, id).await.unwrap()
    }

    async fn order_refund(&self, id: &RefundId) -> Option<OrderRefund> {
        OrderStore::order_refund(&**self, id).await.unwrap()
    }

    async fn keep_unapplied(&self, report: &UnappliedReport, at: DateTime<Utc>) {
        self.report_unapplied(report, at).await.unwrap();
    }

    async fn credited_to(&self, payment: &PaymentId) -> Option<UserId> {
        self.unapplied_payment(payment).await.unwrap().unwrap().user
    }

    async fn transaction(&self, user: &UserId, trace: &TraceId) -> Option<Transaction> {
        (**self).transaction(user, trace).await.unwrap()
    }

    async fn records(&self, user: &UserId) -> Vec<Record> {
        let filter = RecordFilter::of_days(user, None);
        (**self).records(&filter, None, &PageStart::Offset(0), ALL).await.unwrap()
    }

    async fn daily(&self, user: &UserId, span: DaySpan) -> Vec<DailyUse> {
        (**self).daily(user, span).await.unwrap()
    }

    async fn due(&self, until: DateTime<Utc>) -> Option<BTreeSet<(UserId, TraceId)>> {
        let due = (**self).due(until, None, ALL).await.unwrap();
        let (pending, ended): (Vec<_>, Vec<Due>) = due.into_iter().partition(|due| due.is_pending);
        if !ended.is_empty() {
            self.forget(&ended).await.unwrap();
        }
        Some(pending.into_iter().map(|due| (due.user, due.trace)).collect())
    }

    async fn audit_events(&self, user: &UserId) -> Vec<AuditEvent> {
        let filter = AuditFilter { user: Some(user.clone()), ..Default::default() };
        AuditTrail::audit_events(&**self, &filter, None, ALL).await.unwrap()
    }

    async fn events(&self, user: &UserId) -> Vec<String> {
        let filter = EventFilter { user: Some(user.clone()), ..Default::default() };
        let page = FeedReader::new(self.clone()).read(&filter, 0, ALL).await.unwrap();
        page.events
            .iter()
            .map(|event| shown(event.kind.parse().unwrap(), &serde_json::from_str(&event.data).unwrap()))
            .collect()
    }

    async fn differing_limits(&self, users: &[UserId], key: &ApiKeyId, rule: Counting) -> Vec<Difference> {
        let caps = self.cap_counts(users, rule).await.unwrap();
        let keys = self.key_counts(std::slice::from_ref(key), Some(users), rule).await.unwrap();
        let of_caps = caps.iter().flat_map(CapCounts::differences);
        of_caps.chain(keys.iter().flat_map(KeyCounts::differences)).collect()
    }

    async fn archive(&self, users: &[UserId], before: DateTime<Utc>) {
        let moved = RecordArchive::archive(&**self, users, before, ALL).await.unwrap();
        assert_eq!(moved.contested, 0);
        ARCHIVED.fetch_add(moved.records, Ordering::Relaxed);
    }

    async fn seal(&self, case: &str, calendar: &Calendar) {
        let month = last_to_seal(calendar).first_day().num_days_from_ce();
        let behind = Behind(format!("0 0 0 {month} {case}"));
        let sealed = seal_months(Sources::new(&**self, calendar), false, &behind).await.unwrap();
        assert_eq!(sealed.left, 0);
        SEALED.fetch_add(sealed.accounts, Ordering::Relaxed);
    }

    async fn audit(&self, case: &str, calendar: &Calendar) -> Vec<Difference> {
        let behind = Behind(format!("0 0 {case}"));
        audit::audit(Sources::new(&**self, calendar), &behind).await.unwrap().differences
    }

    async fn evidence(&self, case: &str) -> Vec<Evidence> {
        let all = (**self).evidence(Some(&UserId::from_stored(format!("{case}-"))), USERS.into()).await.unwrap();
        let mut evidence: Vec<Evidence> =
            all.into_iter().filter(|evidence| evidence.user.as_str().starts_with(case)).collect();
        // The nightly audit reads the same, without seals.
        let users: Vec<UserId> = evidence.iter().map(|evidence| evidence.user.clone()).collect();
        if users.is_empty() {
            return evidence;
        }
        let unsealed =
            self.unsealed(&users, Unproven { sums: Since::BEGINNING, records: Since::BEGINNING }).await.unwrap();
        assert_eq!(unsealed.differing, []);
        assert_eq!(self.differing_use_since(&users, Since::BEGINNING).await.unwrap(), []);
        let times = TimeSpan { from: Since::BEGINNING.at, until: Since::END, is_part: false };
        assert_eq!(self.differing_charges(&users, &times, ALL).await.unwrap(), []);
        // Only late charges have their records at another time.
        let traces = TraceSpan { after: String::new(), last: END.to_owned() };
        let elsewhere = self.unrecorded(&users, Since::BEGINNING, &traces, ALL).await.unwrap();
        let elsewhere: BTreeSet<_> = elsewhere.into_iter().map(|(user, found)| (user, found.trace)).collect();
        let searched: Vec<String> = elsewhere.iter().map(|(_, trace)| trace.clone()).collect();
        if !searched.is_empty() {
            let recorded = self.recorded(&users, Since::BEGINNING, &searched).await.unwrap();
            assert!(elsewhere.is_subset(&recorded.into_iter().collect()), "{elsewhere:?}");
        }
        evidence.extend(unsealed.evidence);
        evidence
    }
}
