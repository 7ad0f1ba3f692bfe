//! A year of history of one user: charges of services and models, top-ups, refunds, caps and quotas. It runs the
//! server of a configuration with a clock that goes through the year, and calls its rpcs, so the books are those of
//! the service. A second run adds only the days that the first one did not have.
//!
//! `cargo run --profile quick --example demo -- CONFIG [USER] [LAST_DAY]`: `make demo` runs it. The server itself must not run.

use std::{
    env::args,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
};

use anyhow::{Context, ensure};
use billing_service::{
    app::App,
    biz::values::calendar::Clock,
    config::{CallbackAuth, Config, Environment},
    service::proto::{
        BatchDeductQuotaRequest, DeductQuotaRequest, GetAccountRequest, GetUsageRequest, RechargeCallbackRequest,
        RechargeRequest, RefundChargeRequest, ReserveQuotaRequest, SetApiKeyQuotaRequest, SetUserLimitsRequest, Usage,
        billing_internal_service_client::BillingInternalServiceClient, billing_service_client::BillingServiceClient,
    },
};
use chrono::{DateTime, Datelike, Days, NaiveDate, TimeDelta, Utc};
use fastrand::Rng;
use tonic::transport::Channel;

/// Days of history, with the last one.
pub const DAYS: u64 = 366;
/// Days whose calls come one by one, each at its own time. Those of older days come in three batches a day.
const RECENT: i64 = 35;
/// The available amount, in the currency of the account, below which a last top-up pays the call in progress.
const ENOUGH: f64 = 1.0;
/// Most calls of a request of BatchDeductQuota.
const MAX_BATCH: usize = 1_000;
const KEYS: [&str; 3] = ["key_web", "key_mobile", "key_batch"];

/// A clock that the history sets.
#[derive(Clone, Default)]
struct SetClock(Arc<AtomicI64>);

impl SetClock {
    fn set(&self, instant: DateTime<Utc>) {
        self.0.store(instant.timestamp_micros(), SeqCst);
    }
}

impl Clock for SetClock {
    fn now(&self) -> DateTime<Utc> {
        DateTime::from_timestamp_micros(self.0.load(SeqCst)).unwrap_or_default()
    }
}

/// The calls of one user.
struct History {
    user: String,
    clock: SetClock,
    public: BillingServiceClient<Channel>,
    internal: BillingInternalServiceClient<Channel>,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut arguments = args().skip(1);
    let file = arguments.next().context("argument CONFIG is missing")?;
    let config = Config::load(Path::new(&file))?;
    let is_development = config.environment == Some(Environment::Development);
    ensure!(is_development, "config key environment: must be development; nothing else takes made-up history");
    let named = arguments.next().filter(|user| !user.is_empty());
    let user = named.unwrap_or_else(|| config.console.demo_user.clone());
    ensure!(!user.is_empty(), "config key console.demo_user: is empty; name a user as the second argument");
    let last: Option<NaiveDate> = arguments.next().map(|day| day.parse()).transpose().context("argument LAST_DAY")?;
    if let Some(folder) = Path::new(config.data.database.source.reveal()).parent() {
        std::fs::create_dir_all(folder)?;
    }
    let now = last.and_then(|day| day.and_hms_opt(12, 0, 0)).map_or_else(Utc::now, |noon| noon.and_utc());
    let calls = fill(config, &user, now, DAYS).await?;
    println!("user {user} has a year of history: {calls} calls");
    Ok(())
}

/// Writes the `days` until `now`, and a call that is in progress then. Returns the number of the other calls.
///
/// # Errors
/// The server does not start, for one because another one runs; or a call failed.
pub async fn fill(mut config: Config, user: &str, now: DateTime<Utc>, days: u64) -> anyhow::Result<usize> {
    // The callbacks come from here, at times of the past.
    let payment = config.payment_service.as_mut().filter(|payment| payment.sandbox);
    payment.context("config key payment_service.sandbox: must be true")?.chosen_callback_auth =
        Some(CallbackAuth::None);
    let clock = SetClock::default();
    clock.set(now - TimeDelta::days(i64::try_from(days)?));
    let app = App::start_with_clock(config, clock.clone()).await.context("a server that runs must be stopped first")?;
    let channel = Channel::from_shared(format!("http://{}", app.grpc_addr))?.connect().await?;
    let mut history = History {
        user: user.to_owned(),
        clock,
        public: BillingServiceClient::new(channel.clone()),
        internal: BillingInternalServiceClient::new(channel),
    };
    let written = history.write(now, days).await;
    app.stop().await;
    written
}

impl History {
    /// The history until `now`. Returns the number of its calls.
    async fn write(&mut self, now: DateTime<Utc>, days: u64) -> anyhow::Result<usize> {
        let (today, mut calls) = (now.date_naive(), 0);
        let after = today.succ_opt().context("the day is out of range")?;
        let first = after.checked_sub_days(Days::new(days)).context("the day is out of range")?;
        for day in first.iter_days().take_while(|day| *day <= today) {
            let mut random = Rng::with_seed(u64::from(day.num_days_from_ce().unsigned_abs()));
            if day.day() == 1 || day == first {
                self.monthly_top_up(day, &mut random).await?;
            }
            if (today - day).num_days() == RECENT {
                self.limits(day).await?;
            }
            let of_day = self.calls(day, &mut random, (day - first).num_days(), now);
            calls += of_day.len();
            if (today - day).num_days() < RECENT {
                for (at, call) in of_day {
                    self.clock.set(at);
                    // An empty balance refuses a call, as it would any user's.
                    let _ = self.internal.deduct_quota(call).await;
                }
            } else {
                self.batches(of_day).await?;
            }
            if day.day() == 20 {
                self.refund(day).await?;
            }
        }
        self.clock.set(now);
        self.pay_for_a_call(now).await?;
        self.reserve(now).await?;
        // Sums up the last days by model and API key.
        let usage = GetUsageRequest { user_id: self.user.clone(), group_by: "model".into(), ..Default::default() };
        self.public.get_usage(usage).await?;
        Ok(calls)
    }

    /// The calls of a day with their times. Use grows through the year, and rests at weekends.
    fn calls(
        &self,
        day: NaiveDate,
        random: &mut Rng,
        age: i64,
        now: DateTime<Utc>,
    ) -> Vec<(DateTime<Utc>, DeductQuotaRequest)> {
        let growth = 12 + usize::try_from(age / 20).unwrap_or(0);
        let is_weekend = day.weekday().number_from_monday() > 5;
        let number = random.usize(growth / 2..growth * 3 / 2) / if is_weekend { 3 } else { 1 };
        let midnight = day.and_time(chrono::NaiveTime::MIN).and_utc();
        let mut seconds: Vec<i64> = (0..number).map(|_| random.i64(0..80_000)).collect();
        seconds.sort_unstable();
        let at = |second| midnight + TimeDelta::seconds(second);
        let calls = seconds.into_iter().enumerate().map(|(index, second)| (at(second), self.call(day, index, random)));
        calls.filter(|(at, _)| *at < now).collect()
    }

    fn call(&self, day: NaiveDate, index: usize, random: &mut Rng) -> DeductQuotaRequest {
        let call = DeductQuotaRequest {
            user_id: self.user.clone(),
            trace_id: format!("demo-{day}-{index:03}"),
            api_key_id: KEYS[random.usize(0..KEYS.len())].into(),
            count: 1,
            ..Default::default()
        };
        match random.u8(0..10) {
            0..6 => {
                let input = random.i32(300..6_000);
                let usage = Usage {
                    input_tokens: input,
                    cached_input_tokens: random.i32(0..input / 2),
                    output_tokens: random.i32(50..1_500),
                    ..Default::default()
                };
                let model = if random.u8(0..3) == 0 { "gpt-4.1" } else { "gpt-4.1-mini" };
                DeductQuotaRequest { service_name: "llm".into(), model: model.into(), usage: Some(usage), ..call }
            }
            6..8 => DeductQuotaRequest { service_name: "passport".into(), count: random.i32(5..200), ..call },
            8 => DeductQuotaRequest { service_name: "asset".into(), count: random.i32(2..25), ..call },
            _ => DeductQuotaRequest { service_name: "payment".into(), ..call },
        }
    }

    /// Sends the calls of a day in three parts, each at the time of its last call.
    async fn batches(&mut self, calls: Vec<(DateTime<Utc>, DeductQuotaRequest)>) -> anyhow::Result<()> {
        let part = calls.len().div_ceil(3).clamp(1, MAX_BATCH);
        for part in calls.chunks(part) {
            if let Some((at, _)) = part.last() {
                self.clock.set(*at);
            }
            let items = part.iter().map(|(_, call)| call.clone()).collect();
            self.internal.batch_deduct_quota(BatchDeductQuotaRequest { items }).await?;
        }
        Ok(())
    }

    /// A top-up in the morning, paid a minute later. Every fourth one fails at first.
    async fn monthly_top_up(&mut self, day: NaiveDate, random: &mut Rng) -> anyhow::Result<()> {
        let morning = day.and_hms_opt(1, 30, 0).context("no such time")?.and_utc();
        let amount = f64::from(random.i32(1..4) * 10);
        for (attempt, status) in ["FAILED", "SUCCESS"].into_iter().enumerate() {
            if status == "FAILED" && !day.month().is_multiple_of(4) {
                continue;
            }
            let at = morning + TimeDelta::minutes(10 * attempt as i64);
            let method = ["alipay", "wechatpay", "stripe"][random.usize(0..3)];
            self.clock.set(at);
            let order_id = self.recharge(&format!("{day}-{attempt}"), amount, method).await?;
            self.clock.set(at + TimeDelta::minutes(1));
            self.call_back(&format!("{day}-{attempt}"), order_id, amount, status).await?;
        }
        Ok(())
    }

    /// Starts a top-up with a name of its own. Returns its order.
    async fn recharge(&mut self, name: &str, amount: f64, method: &str) -> anyhow::Result<String> {
        let request = RechargeRequest {
            user_id: self.user.clone(),
            amount,
            payment_method: method.into(),
            idempotency_key: format!("demo-{name}"),
            ..Default::default()
        };
        Ok(self.public.recharge(request).await?.into_inner().order_id)
    }

    /// The callback of the payment of a top-up.
    async fn call_back(&mut self, name: &str, order_id: String, amount: f64, status: &str) -> anyhow::Result<()> {
        let payment_order_id = format!("demo-{}-{name}", self.user);
        let status = status.to_owned();
        let callback = RechargeCallbackRequest { order_id, payment_order_id, amount, status, ..Default::default() };
        self.internal.recharge_callback(callback).await.context("callback")?;
        Ok(())
    }

    /// A further top-up, if the year has left too little for the call in progress.
    async fn pay_for_a_call(&mut self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let account = GetAccountRequest { user_id: self.user.clone() };
        let account = self.public.get_account(account).await?.into_inner();
        if account.balance - account.held >= ENOUGH {
            return Ok(());
        }
        let (name, amount) = (format!("{}-open", now.timestamp()), 10.0);
        let order_id = self.recharge(&name, amount, "alipay").await?;
        self.call_back(&name, order_id, amount, "SUCCESS").await
    }

    /// Gives the first call of the day back.
    async fn refund(&mut self, day: NaiveDate) -> anyhow::Result<()> {
        let refund = RefundChargeRequest {
            user_id: self.user.clone(),
            trace_id: format!("demo-{day}-000"),
            refund_id: format!("demo-{day}"),
            reason: "the answer was empty".into(),
            ..Default::default()
        };
        // A call that was refused for an empty balance has nothing to give back.
        let _ = self.internal.refund_charge(refund).await;
        Ok(())
    }

    /// Caps, and quotas of API keys.
    async fn limits(&mut self, day: NaiveDate) -> anyhow::Result<()> {
        self.clock.set(day.and_time(chrono::NaiveTime::MIN).and_utc());
        let user_id = self.user.clone();
        let caps = SetUserLimitsRequest { user_id, daily_limit: Some(500), monthly_limit: Some(10_000) };
        self.internal.set_user_limits(caps).await?;
        for (key, quota_type, period, limit) in [
            ("key_web", "requests", "day", 200.0),
            ("key_mobile", "tokens", "month", 2_000_000.0),
            ("key_batch", "amount", "month", 25.0),
        ] {
            let [api_key_id, quota_type, period] = [key, quota_type, period].map(str::to_owned);
            let quota = SetApiKeyQuotaRequest { api_key_id, quota_type, period, limit: Some(limit) };
            self.internal.set_api_key_quota(quota).await?;
        }
        Ok(())
    }

    /// A call in progress.
    async fn reserve(&mut self, now: DateTime<Utc>) -> anyhow::Result<()> {
        let reserve = ReserveQuotaRequest {
            user_id: self.user.clone(),
            trace_id: format!("demo-{}-open", now.timestamp()),
            service_name: "llm".into(),
            model: "gpt-4.1".into(),
            api_key_id: "key_web".into(),
            count: 1,
            estimated_input_tokens: 4_000,
            estimated_output_tokens: 2_000,
            ..Default::default()
        };
        self.internal.reserve_quota(reserve).await?;
        Ok(())
    }
}
