//! The services of the features, one constructor each.

use std::sync::Arc;

use chrono::TimeDelta;
use tokio::sync::Semaphore;

use super::{
    core::Core,
    cron,
    payments::{self, Payments},
    vitals::ServerVitals,
    webhooks,
};
use crate::{
    biz::{
        check::{Quotas, cache::Watched, refusals::Refusals},
        limits::shares::Shares,
        metering::{Meter, StreamTimeouts},
    },
    config::{Config, ServerLimits, Streams},
    service::{
        AccountService, Admission, Api, AuditTrailService, CallParser, ChargeService, CheckService, EventService,
        Hints, LimitService, OperationsService, PriceService, ReadBounds, Reads, RechargeService, RefundService,
        ReportService, ReservationService, StatementService, StatementTerms, StreamService, TokenService, Uses,
        WebhookService,
        exports::{ExportLimits, Exports},
        json::UnknownPolicy,
    },
};

/// # Errors
/// A time of the configuration that is out of range, or an unusable key.
pub(super) fn api(config: &Config, core: &Core, payments: &Payments) -> anyhow::Result<Api> {
    let ttl = TimeDelta::from_std(config.billing.reservation_ttl)?;
    let calls = Arc::new(CallParser::new(core.catalog.clone(), core.quoter.clone(), ttl));
    let reads = Reads::new(&config.server.limits);
    let bounds = ReadBounds { exports: exports(config), reads: reads.clone() };
    Ok(Api {
        accounts: accounts(config, core, reads.clone()),
        events: EventService::new(core.feed.clone()),
        webhooks: WebhookService {
            store: core.store.clone(),
            feed: core.feed.clone(),
            vault: webhooks::vault(config)?,
            is_private_allowed: config.billing.webhooks.allow_private,
            calendar: core.calendar.clone(),
        },
        audit_trail: AuditTrailService::new(core.store.clone(), core.calendar.clone()),
        checks: checks(config, core),
        charges: ChargeService::new(calls.clone(), core.engine.clone(), core.observer.clone()),
        refunds: RefundService::new(core.engine.clone(), core.observer.clone()),
        reservations: Arc::new(reservations(core, calls.clone())),
        limits: limits(core),
        streams: Arc::new(streams(config, core, calls, ttl)),
        prices: PriceService::new(
            core.catalog.clone(),
            core.quoter.clone(),
            core.accounts.clone(),
            core.store.clone(),
            core.store.clone(),
            (core.store.clone(), core.calendar.clone()),
        ),
        tokens: TokenService::new(core.tokens.clone()),
        recharges: recharges(config, core, payments, reads),
        reports: reports(core, bounds.clone()),
        statements: statements(config, core, bounds),
        operations: operations(config, core),
    })
}

fn operations(config: &Config, core: &Core) -> OperationsService {
    OperationsService {
        orders: core.store.clone(),
        key_quotas: core.store.clone(),
        trail: core.store.clone(),
        transactions: core.store.clone(),
        records: core.store.clone(),
        accounts: core.accounts.clone(),
        model: core.model.clone(),
        runs: core.store.clone(),
        timetable: cron::timetable(config, core.calendar.clone()),
        vitals: Arc::new(ServerVitals::start(core, config.console.enabled)),
    }
}

fn accounts(config: &Config, core: &Core, reads: Reads) -> AccountService {
    let currency = config.billing.currency;
    let (engine, adjustments, catalog) = (core.engine.clone(), core.store.clone(), core.catalog.clone());
    AccountService::new((core.accounts.clone(), catalog), engine, (adjustments, reads), core.observer.clone(), currency)
}

fn checks(config: &Config, core: &Core) -> CheckService {
    let quotas = Quotas::new(
        core.model.clone(),
        core.rates.clone(),
        core.catalog.clone(),
        core.quoter.clone(),
        (core.calendar.clone(), Refusals::new(core.engine.clone())),
    );
    let unknown = UnknownPolicy::new(config.server.http.unknown_fields, core.metrics.clone());
    CheckService::new(quotas, core.catalog.clone(), core.metrics.clone(), core.calendar.clone(), unknown)
}

fn reservations(core: &Core, calls: Arc<CallParser>) -> ReservationService {
    ReservationService {
        calls,
        rates: core.rates.clone(),
        engine: core.engine.clone(),
        transactions: core.store.clone(),
        tokens: core.tokens.clone(),
        observer: core.observer.clone(),
        tasks: core.tasks.clone(),
    }
}

fn limits(core: &Core) -> LimitService {
    let watched = Arc::new(Watched::new(core.store.clone(), core.caches.clone()));
    LimitService::new(watched.clone(), watched, core.accounts.clone(), core.calendar.clone())
}

fn streams(config: &Config, core: &Core, calls: Arc<CallParser>, ttl: TimeDelta) -> StreamService {
    let Streams { progress, grace, idle_timeout } = config.billing.streams;
    let timeouts = StreamTimeouts { ttl, progress, grace, idle_timeout };
    let limits = &config.server.limits;
    let most = limits.streams;
    let share = |configured, all| config.server.share_of_caller(configured, all);
    let requests_of_caller = share(limits.requests_per_caller, limits.requests);
    let unopened_of_caller = requests_of_caller.min(limits.unopened_streams_per_caller);
    StreamService {
        calls,
        rates: core.rates.clone(),
        meter: Meter::new(core.engine.clone(), core.tokens.clone(), timeouts, most, core.stop.clone()),
        transactions: core.store.clone(),
        observer: core.observer.clone(),
        tasks: core.tasks.clone(),
        unopened: Arc::new(Semaphore::new(limits.requests)),
        unopened_of_caller: Shares::new(unopened_of_caller),
        open_of_caller: Shares::new(share(limits.streams_per_caller, most)),
    }
}

fn recharges(config: &Config, core: &Core, payments: &Payments, reads: Reads) -> RechargeService {
    let (store, engine, gateway) = (core.store.clone(), core.engine.clone(), payments.gateway.clone());
    RechargeService {
        recharges: Arc::new(payments::recharges(config, store, engine, core.calendar.clone(), gateway)),
        orders: core.store.clone(),
        metrics: core.metrics.clone(),
        currency: config.billing.currency,
        tasks: core.tasks.clone(),
        admission: Admission::new(&config.server.limits),
        hints: Hints::new(&config.server.limits),
        reads,
    }
}

fn exports(config: &Config) -> Arc<Exports> {
    let ServerLimits { exports, exports_per_user: per_user, export_stall: stall, .. } = config.server.limits;
    Arc::new(Exports::new(ExportLimits { exports, per_user, stall }))
}

fn reports(core: &Core, bounds: ReadBounds) -> ReportService {
    let uses = Uses { store: core.store.clone(), keeper: core.use_keeper.clone() };
    let stores = (core.store.clone() as _, core.store.clone() as _);
    ReportService::new(stores, uses, core.catalog.clone(), core.calendar.clone(), bounds)
}

fn statements(config: &Config, core: &Core, bounds: ReadBounds) -> StatementService {
    let retry_timeout = config.billing.settlement.retry_timeout;
    let terms = StatementTerms {
        calendar: core.calendar.clone(),
        currency: config.billing.currency,
        retry_timeout,
        connections: config.data.database.max_connections,
    };
    StatementService::new(core.store.clone(), core.store.clone(), core.store.clone(), terms, bounds)
}
