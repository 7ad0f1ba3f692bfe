//! The parts that several features share, started in the order in which they need each other.

use std::sync::{Arc, atomic::AtomicBool};

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    caches::{self, Keeper, Started},
    clock_watch::{ClockWatch, ensure_clock_agrees},
    connect, database, prices, rates,
    use_rollup::Listeners,
};
use crate::{
    biz::{
        account::catalog::Catalog,
        charge::quote::Quoter,
        check::cache::{Caches, ReadModel},
        events::reader::FeedReader,
        limits::rate_limit::RateGuard,
        metering::tokens::TokenCounter,
        reports::usage::keeper::UseKeeper,
        settlement::{accounts::Accounts, engine::Engine},
        values::calendar::{Calendar, Clock},
    },
    config::Config,
    data::{Store, redis::RedisCache, vocabulary::EmbeddedVocabularies},
    metrics::{ChargeObserver, Metrics},
    server::Sight,
};

pub(super) struct Core {
    pub clock: Arc<dyn Clock>,
    pub store: Arc<dyn Store>,
    pub feed: Arc<FeedReader>,
    pub catalog: Arc<Catalog>,
    pub calendar: Arc<Calendar>,
    pub metrics: Arc<Metrics>,
    pub sight: Sight,
    pub observer: ChargeObserver,
    pub caches: Arc<Caches>,
    pub use_keeper: Arc<UseKeeper>,
    pub redis: Option<Arc<RedisCache>>,
    pub engine: Arc<Engine>,
    pub accounts: Arc<Accounts>,
    pub model: Arc<ReadModel>,
    pub quoter: Arc<Quoter>,
    pub rates: Arc<RateGuard>,
    pub tokens: Arc<TokenCounter>,
    /// Tasks that go on when their caller goes away.
    pub tasks: TaskTracker,
    /// Cancelled when the server stops accepting requests.
    pub stop: CancellationToken,
}

impl Core {
    /// Connects to the database and to Redis, and starts the lanes.
    ///
    /// # Errors
    /// The database does not answer in time or refuses.
    pub async fn start(config: &Config, clock: Arc<dyn Clock>) -> anyhow::Result<Self> {
        let store = connect(config).await?;
        let skew = ensure_clock_agrees(config, &*store, &*clock).await?;
        let catalog = Arc::new(config.catalog());
        let calendar = Arc::new(config.calendar(clock.clone()));
        let metrics = Arc::new(Metrics::new()?);
        metrics.show_clock_skew(skew);
        let identity = database::identity(config, &*store).await?;
        let Started { caches, redis } = caches::of_server(config, &identity, &metrics)?;
        caches::wait_for(redis.as_deref()).await;
        let lanes = database::limits(config);
        let use_keeper = Arc::new(UseKeeper::new(store.clone(), calendar.clone()));
        let listeners =
            Arc::new(Listeners { caches: caches.clone(), keeper: use_keeper.clone(), metrics: metrics.clone() });
        let engine =
            Arc::new(Engine::start(store.clone().ledger(), listeners, catalog.clone(), calendar.clone(), lanes));
        let accounts = Arc::new(Accounts::new(store.clone(), engine.clone(), catalog.clone(), calendar.clone()));
        let stop = CancellationToken::new();
        let reader = prices::PriceReader { store: store.clone(), calendar: calendar.clone(), metrics: metrics.clone() };
        let prices = prices::start(config, reader, stop.clone()).await?;
        Ok(Self {
            observer: ChargeObserver::new(metrics.clone(), catalog.clone(), config.billing.usage_sanity),
            model: Arc::new(ReadModel::new(caches.clone(), accounts.clone(), store.clone())),
            quoter: Arc::new(Quoter::new(prices, calendar.clone())),
            rates: rates::guard(config, redis.clone(), clock.clone()),
            tokens: Arc::new(TokenCounter::new(Arc::new(EmbeddedVocabularies::default()))),
            tasks: TaskTracker::new(),
            feed: Arc::new(FeedReader::new(store.clone())),
            clock,
            store,
            catalog,
            calendar,
            sight: Sight::new(metrics.clone(), &config.log, &config.telemetry),
            metrics,
            caches,
            use_keeper,
            redis,
            engine,
            accounts,
            stop,
        })
    }

    /// Watches the clock that decides expiry.
    pub fn clock_watch(&self, config: &Config) -> ClockWatch {
        ClockWatch {
            database: self.store.clone(),
            clock: self.clock.clone(),
            max: config.data.database.max_clock_skew,
            metrics: self.metrics.clone(),
            is_beyond: AtomicBool::new(false),
        }
    }

    /// Keeps the caches current and warm.
    pub fn keeper(&self) -> Keeper {
        Keeper {
            caches: self.caches.clone(),
            redis: self.redis.clone(),
            model: self.model.clone(),
            store: self.store.clone(),
            calendar: self.calendar.clone(),
            metrics: self.metrics.clone(),
        }
    }
}
