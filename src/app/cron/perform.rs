//! Performs each job, in a run or as a dry run, and writes the lines of its report.

use anyhow::{Context, anyhow};
use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use tokio_util::sync::CancellationToken;

use super::{
    Job, JobReport, LAST_RUNS, Runner,
    counted::{agreeing, counted},
};
use crate::{
    app::jobs,
    biz::{
        charge::prices::{Prices, import},
        events::closing::{announce_closed_months, last_to_close},
        jobs::{
            archive::{Archived, Moved, archive_records},
            audit::{self, Sources},
            expire_events::{count_old_events, delete_old_events},
            import_prices,
            progress::Progress,
            reset::{self, reset_quotas},
            rollup::{Rebuilt, rebuild_rollup},
            runs::in_time,
            seals::job::{SealedMonths, seal_months},
        },
        recharge::reconcile::ReconciledOrders,
        settlement::{order::OrderStatus, sweep},
    },
};

/// The currency of a published price list.
const DOLLAR: &str = "USD";

/// Most reservations and orders that a dry run lists.
const LISTED: usize = 20;

impl Runner {
    /// Performs a job with the lease of `owner`. It ends soon after `interrupt`. Jobs that settle and deliver handle `interrupt`
    /// themselves, because they still send their updates to Redis. The others may be dropped at any
    /// await.
    pub(super) async fn perform(
        &self,
        job: Job,
        owner: &str,
        progress: &dyn Progress,
        interrupt: &CancellationToken,
    ) -> anyhow::Result<JobReport> {
        match job {
            Job::ResetQuotas => unless(interrupt, self.reset(progress)).await,
            Job::ExpireReservations => self.expire(interrupt).await,
            Job::ReconcileRecharges => self.settle_recharges(interrupt).await,
            Job::ReconcileCache => unless(interrupt, self.compare_cache(false)).await,
            Job::Audit => unless(interrupt, self.audit(progress)).await,
            Job::AuditAll => unless(interrupt, self.audit_all(progress)).await,
            Job::SealMonths => unless(interrupt, self.seal_months(false, progress)).await,
            Job::ArchiveRecords => unless(interrupt, self.archive(false, progress)).await,
            Job::RebuildRollup => unless(interrupt, self.rebuild_rollup(false, progress)).await,
            Job::CloseMonths => unless(interrupt, self.close_months()).await,
            Job::DeliverWebhooks => self.deliver_webhooks(owner, interrupt).await,
            Job::ExpireEvents => unless(interrupt, self.expire_events(progress)).await,
            Job::ImportPrices => unless(interrupt, self.import_prices(false, progress)).await,
        }
    }

    /// The preview of [`Self::perform`]. Changes nothing, and may be dropped at any await.
    pub(super) async fn preview(&self, job: Job, progress: &dyn Progress) -> anyhow::Result<JobReport> {
        match job {
            Job::ResetQuotas => self.preview_reset(progress).await,
            Job::ExpireReservations => self.preview_expire().await,
            Job::ReconcileRecharges => self.preview_recharges().await,
            Job::ReconcileCache => self.compare_cache(true).await,
            // The audits only read.
            Job::Audit => self.audit(progress).await,
            Job::AuditAll => self.audit_all(progress).await,
            Job::SealMonths => self.seal_months(true, progress).await,
            Job::ArchiveRecords => self.archive(true, progress).await,
            Job::RebuildRollup => self.rebuild_rollup(true, progress).await,
            Job::CloseMonths => self.preview_close_months().await,
            Job::DeliverWebhooks => self.preview_webhooks().await,
            Job::ExpireEvents => self.preview_expire_events(progress).await,
            Job::ImportPrices => self.import_prices(true, progress).await,
        }
    }

    async fn reset(&self, progress: &dyn Progress) -> anyhow::Result<JobReport> {
        let reset = reset_quotas(&*self.store, &self.config.catalog(), &self.calendar, progress).await?;
        let sum = format!("reset-quotas: {} open, {} failed", counted(reset.users, "user"), reset.failed);
        // The period is done, because another run would fail for the same users. The report is not
        // good, so that an operator looks at them.
        Ok(JobReport { lines: vec![sum], is_good: reset.failed == 0 })
    }

    async fn preview_reset(&self, progress: &dyn Progress) -> anyhow::Result<JobReport> {
        let preview = reset::preview(&*self.store, &self.config.catalog(), &self.calendar, progress).await?;
        let each = preview.lacking.iter().map(|(month, service, lacking)| {
            let (rows, totals) = (lacking.rows, lacking.totals);
            let (rows, totals) = (counted(rows, "row"), counted(totals, "total"));
            format!("reset-quotas: {month} {service}: {rows} would be written, {totals} changed")
        });
        let (rows, totals) = preview
            .lacking
            .iter()
            .fold((0, 0), |(rows, totals), (_, _, lacking)| (rows + lacking.rows, totals + lacking.totals));
        let (users, rows, totals) = (counted(preview.users, "user"), counted(rows, "row"), counted(totals, "total"));
        let sum = format!("reset-quotas: {users}, {rows} would be written, {totals} changed");
        Ok(JobReport { lines: each.chain([sum]).collect(), is_good: true })
    }

    async fn expire(&self, interrupt: &CancellationToken) -> anyhow::Result<JobReport> {
        let swept = jobs::sweep_counting(
            &self.config,
            self.store.clone(),
            self.clock.clone(),
            interrupt,
            self.metrics.as_ref(),
        )
        .await?;
        let line = format!(
            "expire-reservations: {} freed, {} charged, {} failed",
            counted(swept.freed, "hold"),
            counted(swept.charged, "stream"),
            swept.failed
        );
        Ok(JobReport { lines: vec![line], is_good: swept.failed == 0 })
    }

    async fn preview_expire(&self) -> anyhow::Result<JobReport> {
        let preview = sweep::preview(&*self.store, &self.calendar, LISTED).await?;
        let each = preview.first.iter().map(|due| {
            let expired = due.expires_at.format("%Y-%m-%dT%H:%M:%S%.6fZ");
            format!("expire-reservations: user {}, trace_id {}, expired at {expired}", due.user, due.trace)
        });
        let sum = format!("expire-reservations: {} would be ended", counted(preview.holds, "reservation"));
        Ok(JobReport { lines: each.chain([sum]).collect(), is_good: true })
    }

    async fn settle_recharges(&self, interrupt: &CancellationToken) -> anyhow::Result<JobReport> {
        let done = jobs::reconcile_recharges_counting(
            &self.config,
            self.store.clone(),
            self.clock.clone(),
            interrupt,
            self.metrics.as_ref(),
        )
        .await?;
        let line = format!(
            "reconcile-recharges: {} credited, {} failed, {} expired, {} left, {}",
            done.credited,
            done.failed,
            done.expired,
            done.left,
            counted(done.errors, "error")
        );
        Ok(JobReport { lines: refunds(&done).into_iter().chain([line]).collect(), is_good: done.errors == 0 })
    }

    async fn preview_recharges(&self) -> anyhow::Result<JobReport> {
        let (store, clock) = (self.store.clone(), self.clock.clone());
        let preview = jobs::preview_recharges(&self.config, store, clock, LISTED).await?;
        let each = preview.first.iter().map(|(order, after)| {
            let (amount, then) = (order.amount, order.status);
            match after {
                OrderStatus::Success => format!("reconcile-recharges: {}: {amount} would be credited", order.id),
                after if *after == then => format!("reconcile-recharges: {}: would stay {then}", order.id),
                after => format!("reconcile-recharges: {}: {then} would become {after}", order.id),
            }
        });
        let sum = preview.total;
        let refunds = refunds(&sum);
        let sum = format!(
            "reconcile-recharges: {} would be credited, {} failed, {} expired, {} left, {}",
            sum.credited,
            sum.failed,
            sum.expired,
            sum.left,
            counted(sum.errors, "error")
        );
        let lines = each.chain(refunds).chain([sum]).collect();
        Ok(JobReport { lines, is_good: preview.total.errors == 0 })
    }

    async fn audit(&self, progress: &dyn Progress) -> anyhow::Result<JobReport> {
        let runs = in_time(self.store.last_runs(audit::JOB, LAST_RUNS)).await?;
        let proven = audit::proven_by(&runs, self.config.billing.reservation_ttl, &self.calendar);
        let sources = Sources { proven, ..self.sources() };
        let report = audit::audit_unsealed(sources, progress).await?;
        let whole = agreeing(report.suspects, "user was audited whole", "users were audited whole");
        let whole = format!("audit: {whole}");
        let whole = (report.suspects > 0).then_some(whole);
        let (users, differences) = (counted(report.users, "user"), counted(report.difference_count, "difference"));
        let sum = format!("audit: {users}, {differences}");
        Ok(JobReport { lines: whole.into_iter().chain([sum]).collect(), is_good: report.difference_count == 0 })
    }

    async fn audit_all(&self, progress: &dyn Progress) -> anyhow::Result<JobReport> {
        let report = audit::audit(self.sources(), progress).await?;
        let (users, differences) = (counted(report.users, "user"), counted(report.difference_count, "difference"));
        let sum = format!("audit-all: {users}, {differences}");
        Ok(JobReport { lines: vec![sum], is_good: report.difference_count == 0 })
    }

    async fn seal_months(&self, is_dry_run: bool, progress: &dyn Progress) -> anyhow::Result<JobReport> {
        let is_forgotten = self.is_sealing_forgotten().await?;
        let SealedMonths { accounts, left, lacking, month } = seal_months(self.sources(), is_dry_run, progress).await?;
        let verb = if is_dry_run { "would be sealed" } else { "sealed" };
        let lost = format!("seal-months: {} lacked seals of earlier months", counted(lacking, "account"));
        let accounts = counted(accounts, "account");
        let line = format!("seal-months: {accounts} {verb} up to {month}, {left} with differences left");
        let forgotten = "seal-months: all_sealed has no row, although a run has finished: it was deleted, perhaps with seals; \
             no run can name the accounts that lacked them";
        let forgotten = is_forgotten.then(|| forgotten.to_owned());
        let lines = forgotten.into_iter().chain((lacking > 0).then_some(lost)).chain([line]).collect();
        Ok(JobReport { lines, is_good: left == 0 && lacking == 0 && !is_forgotten })
    }

    /// Whether the month is gone that a finished run has stored, without which nobody misses a deleted seal.
    async fn is_sealing_forgotten(&self) -> anyhow::Result<bool> {
        let runs = in_time(self.store.last_runs(Job::SealMonths.name(), LAST_RUNS)).await?;
        let has_sealed = runs.iter().any(|run| run.finished_at.is_some());
        Ok(has_sealed && in_time(self.store.all_sealed_up_to()).await?.is_none())
    }

    fn sources(&self) -> Sources<'_> {
        let (settlement, database) = (&self.config.billing.settlement, &self.config.data.database);
        let unsure = audit::unsure(settlement.retry_timeout, database.max_clock_skew);
        Sources { unsure, ..Sources::new(&*self.store, &self.calendar) }
    }

    async fn archive(&self, is_dry_run: bool, progress: &dyn Progress) -> anyhow::Result<JobReport> {
        let Some(months) = self.config.billing.record_months else {
            let line = "archive-records: billing.record_months is not configured; all records stay".into();
            return Ok(JobReport { lines: vec![line], is_good: true });
        };
        let Archived { moved: Moved { records, transactions, contested }, first_kept } =
            archive_records(&*self.store, &self.calendar, months, is_dry_run, progress).await?;
        let verb = if is_dry_run { "would be moved" } else { "moved" };
        let (records, transactions) = (counted(records, "record"), counted(transactions, "transaction"));
        let line = format!("archive-records: {records} and {transactions} from before {first_kept} {verb}");
        let stay = agreeing(
            contested,
            "transaction stays, because the archive has content with its id already; `cron --once audit --full` names it",
            "transactions stay, because the archive has content with their ids already; \
             `cron --once audit --full` names them",
        );
        let contested_line = format!("archive-records: {stay}");
        let lines = [Some(line), (contested > 0).then_some(contested_line)].into_iter().flatten().collect();
        Ok(JobReport { lines, is_good: contested == 0 })
    }

    async fn rebuild_rollup(&self, is_dry_run: bool, progress: &dyn Progress) -> anyhow::Result<JobReport> {
        let Rebuilt { users, differing, use_days } =
            rebuild_rollup(&*self.store, &self.calendar, is_dry_run, progress).await?;
        let users = counted(users, "user");
        let line = match (differing, is_dry_run) {
            (0, _) => format!("rebuild-rollup: {users}, 0 differing, nothing to rebuild"),
            (_, true) => format!("rebuild-rollup: {users}, {differing} differing, would be rebuilt"),
            (_, false) => format!("rebuild-rollup: {users}, {differing} differing, rebuilt"),
        };
        let (days, verb) = (counted(use_days, "day"), if is_dry_run { "would be summed" } else { "summed" });
        let by = format!("rebuild-rollup: {days} by service, model and API key {verb}");
        Ok(JobReport { lines: vec![by, line], is_good: true })
    }

    async fn close_months(&self) -> anyhow::Result<JobReport> {
        let months = announce_closed_months(&*self.store, &self.calendar).await?;
        let line = format!("close-months: {}", agreeing(months.len(), "month has closed", "months have closed"));
        let closed = months.iter().map(|month| format!("close-months: {month} has closed"));
        Ok(JobReport { lines: closed.chain([line]).collect(), is_good: true })
    }

    async fn preview_close_months(&self) -> anyhow::Result<JobReport> {
        let closed = last_to_close(&self.calendar, self.calendar.now());
        let line = match self.store.last_closed().await? {
            None => format!("close-months: begins behind {closed}"),
            Some(last) if last < closed => format!("close-months: the months after {last} up to {closed} have closed"),
            Some(_) => "close-months: 0 months have closed".into(),
        };
        Ok(JobReport { lines: vec![line], is_good: true })
    }

    async fn expire_events(&self, progress: &dyn Progress) -> anyhow::Result<JobReport> {
        let before = self.events_before();
        let deleted = delete_old_events(&*self.store, before, progress).await?;
        Ok(JobReport { lines: vec![format!("expire-events: {} deleted", counted(deleted, "event"))], is_good: true })
    }

    async fn preview_expire_events(&self, progress: &dyn Progress) -> anyhow::Result<JobReport> {
        let old = count_old_events(&*self.store, self.events_before(), progress).await?;
        Ok(JobReport {
            lines: vec![format!("expire-events: {} would be deleted", counted(old, "event"))],
            is_good: true,
        })
    }

    /// Older events are deleted.
    fn events_before(&self) -> DateTime<Utc> {
        self.calendar.now().utc - self.config.billing.events.keep
    }

    /// Reads the price list, and writes the versions that the book lacks unless this is a dry run.
    async fn import_prices(&self, is_dry_run: bool, progress: &dyn Progress) -> anyhow::Result<JobReport> {
        let import = self.import.as_ref().context("import-prices needs --file")?;
        let text = std::fs::read_to_string(&import.file);
        let text = text.with_context(|| format!("{} can't be read", import.file.display()))?;
        let file = import::read(&text, import.conversion)?;
        let (prices, now) = (Prices::new(self.config.price_book()), self.calendar.now().utc);
        prices.refresh(&*self.store, now).await?;
        let imports = import_prices::plan(&file, &prices.book(), now);
        let (rate, currency) = (import.conversion.rate, self.config.billing.currency);
        // The rate is 1 if it was forgotten.
        let is_by_default = rate == Decimal::ONE && currency.code() != DOLLAR;
        let rate = is_by_default.then(|| format!("rate 1: dollars are taken as {currency}"));
        let notes = file.notes.iter().map(|note| format!("note: {note}"));
        let mut lines: Vec<String> = rate.into_iter().chain(notes).collect();
        lines.extend(file.skipped.iter().map(|(model, why)| format!("skipped: {model}: {why}")));
        if !file.ignored.is_empty() {
            let ignored = file.ignored.iter().map(|(member, entries)| format!("{member} ({entries})"));
            lines.push(format!("ignored members: {}", ignored.collect::<Vec<_>>().join(", ")));
        }
        lines.extend(imports.iter().map(|import| {
            let verb = if import.is_new { "new" } else { "changed" };
            format!("{verb}: {}: {}", import.model, import.difference)
        }));
        let new = imports.iter().filter(|import| import.is_new).count();
        let (changed, same) = (imports.len() - new, file.models.len() - imports.len());
        let skipped = file.skipped.len();
        let (verb, refused) = match is_dry_run {
            true => ("would be written", Vec::new()),
            false => {
                let reason = format!("import of {}", import.file.file_name().unwrap_or_default().to_string_lossy());
                let reason: String = reason.chars().take(255).collect();
                ("written", import_prices::write(&*self.store, imports, &reason, now, progress).await?.refused)
            }
        };
        lines.extend(refused.iter().map(|why| format!("refused: {why}")));
        lines.push(format!(
            "import-prices: {new} new and {} {verb}, {same} unchanged, {skipped} skipped",
            counted(changed, "changed version")
        ));
        Ok(JobReport { lines, is_good: refused.is_empty() })
    }

    /// Reports the differences of [`Job::ReconcileCache`], and repairs them unless this is a dry
    /// run.
    async fn compare_cache(&self, is_dry_run: bool) -> anyhow::Result<JobReport> {
        let clock = self.clock.clone();
        let Some(found) = jobs::reconcile_cache(&self.config, self.store.clone(), clock, is_dry_run).await? else {
            let line = "reconcile-cache: data.redis is not configured; there is nothing to compare".into();
            return Ok(JobReport { lines: vec![line], is_good: true });
        };
        let differences = found.differences.iter().map(ToString::to_string);
        let (compared, differing, repaired) = (found.compared, found.differing, found.repaired);
        let sum = format!("reconcile-cache: {compared} compared, {differing} differing, {repaired} repaired");
        Ok(JobReport { lines: differences.chain([sum]).collect(), is_good: repaired == differing })
    }
}

/// The line about refunds, if any were looked up.
fn refunds(of: &ReconciledOrders) -> Option<String> {
    let ReconciledOrders { refunded, not_refunded, refunds_left, .. } = of;
    let line = format!("reconcile-recharges: refunds: {refunded} made, {not_refunded} failed, {refunds_left} left");
    (refunded + not_refunded + refunds_left > 0).then_some(line)
}

async fn unless(
    interrupt: &CancellationToken,
    running: impl Future<Output = anyhow::Result<JobReport>>,
) -> anyhow::Result<JobReport> {
    interrupt.run_until_cancelled(running).await.unwrap_or_else(|| Err(anyhow!("interrupted")))
}
