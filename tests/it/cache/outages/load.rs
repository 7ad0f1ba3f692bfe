//! A steady load of checks and charges. Each caller has its own accounts, and knows the right
//! reply to every check of them. All callers also use up some shared accounts.

use std::{
    ops::Range,
    sync::{Arc, Mutex},
    time::Duration,
};

use billing_service::service::proto::{
    AdjustBalanceRequest, CheckQuotaReply, CheckQuotaRequest, DeductQuotaReply, DeductQuotaRequest, GetAccountRequest,
    ReserveQuotaRequest, SetApiKeyQuotaRequest, SetUserLimitsRequest, billing_service_client::BillingServiceClient,
};
use futures_util::future::join_all;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::account::{Account, Kind, micros};
use crate::harness::{
    Service,
    books::Books,
    caller::{Caller, Client, Dice, connections},
    charge, code_of,
};

const CALLERS: usize = 4;
/// Accounts of each kind that a caller has.
const OF_EACH_KIND: usize = 2;
/// Time between two steps of a caller.
const STEP: Duration = Duration::from_millis(10);
/// Time limit of every wait.
const DEADLINE: Duration = Duration::from_secs(60);
/// The contract: 99 of 100 checks take less time.
const P99: Duration = Duration::from_millis(100);
/// The usual 99th percentile of reads of an account, which do not use Redis. A longer time is due to
/// a busy machine and not to the outage, so the limit of checks grows by it.
const READS_P99: Duration = Duration::from_millis(20);
/// Sleep of a task that detects stalls of the machine. Its delay is due to the machine, and is
/// subtracted from the time of an answer.
const NAP: Duration = Duration::from_millis(5);
/// Fewer checks give no meaningful percentile.
const ENOUGH_CHECKS: usize = 1_000;
/// Most attempts of one charge.
const ATTEMPTS: usize = 5;
/// Requests that a cap or the quota of a key allows before the test raises it.
const ROOM: i32 = 5;
/// Charges that the limit of each shared account allows.
const SHARED_ROOM: i32 = 60;
const SHARED: [Kind; 3] = [Kind::Poor, Kind::Capped, Kind::Keyed];

pub struct Load {
    pub books: Arc<Books>,
    server: String,
    times: Arc<Times>,
    stop: CancellationToken,
    running: JoinSet<Vec<Account>>,
}

/// The times of waits for answers.
#[derive(Default)]
struct Times {
    checks: Mutex<Vec<Range<Instant>>>,
    reads: Mutex<Vec<Range<Instant>>>,
    /// The stalls of the machine.
    stalls: Mutex<Vec<Range<Instant>>>,
}

impl Times {
    async fn watch_for_stalls(&self, stop: CancellationToken) {
        let mut due = Instant::now() + NAP;
        while stop.run_until_cancelled(sleep_until(due)).await.is_some() {
            let woken = Instant::now();
            if woken > due + NAP {
                self.stalls.lock().unwrap().push(due..woken);
            }
            due = woken + NAP;
        }
    }

    /// The durations of the waits without stalls, in ascending order.
    fn sorted(&self, waits: &Mutex<Vec<Range<Instant>>>) -> Vec<Duration> {
        let stalls = self.stalls.lock().unwrap();
        let time = |wait: &Range<Instant>| {
            let first = stalls.partition_point(|stall| stall.end <= wait.start);
            let met = stalls[first..].iter().take_while(|stall| stall.start < wait.end);
            let stalled = met.map(|stall| stall.end.min(wait.end) - stall.start.max(wait.start)).sum();
            (wait.end - wait.start).saturating_sub(stalled)
        };
        let mut times: Vec<Duration> = waits.lock().unwrap().iter().map(time).collect();
        times.sort();
        times
    }
}

impl Load {
    /// Prepares the accounts, and starts the callers.
    pub async fn start(service: &Service) -> Self {
        let (books, times, stop) = (Arc::new(Books::default()), Arc::<Times>::default(), CancellationToken::new());
        let server = format!("http://{}", service.app.grpc_addr);
        let channels = connections(&[&server]);
        let caller = |number: usize| CheckingCaller {
            client: Client::new(channels[number % channels.len()].clone()),
            reader: BillingServiceClient::new(channels[number % channels.len()].clone()),
            books: Arc::clone(&books),
            times: Arc::clone(&times),
            dice: Dice(number as u64),
            number,
            sent: 0,
            accounts: Vec::new(),
            is_used_up: [false; SHARED.len()],
        };
        caller(0).open_shared().await;
        let mut callers: Vec<_> = (1..=CALLERS).map(caller).collect();
        join_all(callers.iter_mut().map(CheckingCaller::open)).await;
        let mut running = JoinSet::new();
        for caller in callers {
            running.spawn(caller.call_until(stop.clone()));
        }
        let (watching, stopped) = (Arc::clone(&times), stop.clone());
        running.spawn(async move {
            watching.watch_for_stalls(stopped).await;
            Vec::new()
        });
        Self { books, server, times, stop, running }
    }

    /// Waits for more charges, and for ten times as many checks.
    pub async fn goes_on(&mut self) {
        let mut charges = self.books.acknowledged.subscribe();
        let enough = *charges.borrow() + 60;
        tokio::select! {
            reached = timeout(DEADLINE, charges.wait_for(|charges| *charges >= enough)) => {
                reached.expect("charges go on").unwrap();
            }
            Some(ended) = self.running.join_next() => {
                ended.unwrap();
                panic!("a caller ended by itself");
            }
        }
    }

    /// Waits while the callers go on.
    pub async fn goes_on_for(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.goes_on().await;
        }
    }

    /// Waits until there are enough checks for a percentile.
    pub async fn until_enough_checks(&mut self) {
        while self.times.checks.lock().unwrap().len() < ENOUGH_CHECKS {
            self.goes_on().await;
        }
    }

    /// Stops the callers. Returns the expected states of their accounts.
    pub async fn stop(&mut self) -> Vec<Account> {
        self.stop.cancel();
        let mut accounts = Vec::new();
        while let Some(ended) = timeout(DEADLINE, self.running.join_next()).await.expect("every call is answered") {
            accounts.extend(ended.unwrap());
        }
        accounts
    }

    /// The 99th percentile of checks is below the limit.
    pub fn assert_checks_were_fast(&self) {
        let of = |times: &[Duration], percent: usize| times[(times.len() * percent).div_ceil(100) - 1];
        let (checks, reads) = (self.times.sorted(&self.times.checks), self.times.sorted(&self.times.reads));
        let [p50, p99, longest] = [50, 99, 100].map(|percent| of(&checks, percent));
        let reads_p99 = of(&reads, 99);
        println!("{} checks: p50 {p50:?}, p99 {p99:?}, longest {longest:?}; reads: p99 {reads_p99:?}", checks.len());
        let limit = P99 + reads_p99.saturating_sub(READS_P99);
        assert!(p99 < limit, "p99 of {} checks is {p99:?}, and {reads_p99:?} of reads", checks.len());
    }

    /// Sends every acknowledged request again. The answers are the same.
    pub async fn repeat_all(&self) {
        let servers = watch::Sender::new(connections(&[&self.server]));
        let mut caller = Caller::new(servers.subscribe(), Dice(0));
        caller.books = self.books.clone();
        for charges in self.books.all().chunks(500) {
            caller.charge_batch(charges.to_vec()).await;
        }
    }
}

/// The accounts that all callers use. A charge beyond their limits was wrongly admitted.
pub fn shared() -> [Account; 3] {
    SHARED.map(|kind| Account::new(format!("shared-{kind:?}"), kind))
}

/// No shared account has more charges than its limit allows.
pub fn assert_shared_kept_limits(books: &Books) {
    let charges = books.all();
    for Account { user, .. } in shared() {
        let made = charges.iter().filter(|made| made.user_id == user && made.count == 1).count();
        assert!((1..=SHARED_ROOM as usize).contains(&made), "{made} charges of {user}");
    }
}

struct CheckingCaller {
    client: Client,
    reader: BillingServiceClient<Channel>,
    books: Arc<Books>,
    times: Arc<Times>,
    dice: Dice,
    number: usize,
    sent: usize,
    accounts: Vec<Account>,
    /// Whether a charge of each shared account was refused. After that, no check may allow one.
    is_used_up: [bool; SHARED.len()],
}

impl CheckingCaller {
    /// Makes one step at each tick of a clock.
    async fn call_until(mut self, stop: CancellationToken) -> Vec<Account> {
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(steps.tick()).await.is_some() {
            let own = self.dice.below(self.accounts.len());
            if self.dice.below(4) == 0 {
                self.change(own).await;
            }
            self.check_own(own).await;
            let another = self.dice.below(self.accounts.len());
            self.check_own(another).await;
            self.use_shared().await;
            if self.dice.below(4) == 0 {
                self.read(own).await;
            }
        }
        self.accounts
    }

    async fn open(&mut self) {
        for (number, kind) in (0..OF_EACH_KIND).flat_map(|number| Kind::ALL.map(|kind| (number, kind))) {
            let mut account = Account::new(format!("{kind:?}-{}-{number}", self.number), kind);
            let money = match kind {
                Kind::Rich => 1_000_000.0,
                _ => 0.0,
            };
            self.open_account(&mut account, money, ROOM).await;
            self.accounts.push(account);
        }
    }

    async fn open_shared(&mut self) {
        for mut account in shared() {
            let price = 0.1;
            self.open_account(&mut account, f64::from(SHARED_ROOM) * price, SHARED_ROOM).await;
        }
    }

    async fn open_account(&mut self, account: &mut Account, money: f64, room: i32) {
        self.credit(account, if money > 0.0 { money } else { 0.01 }).await;
        let used_up = match account.kind {
            Kind::Rich | Kind::Poor => 1000,
            Kind::Ending => 980,
            Kind::Capped | Kind::Keyed => 0,
        };
        if used_up > 0 {
            let id = self.next_id();
            let request = DeductQuotaRequest { trace_id: id, ..charge(&account.user, account.kind.service(), used_up) };
            self.deduct(request).await.unwrap();
        }
        self.raise_limit(account, room).await;
        account.free = self.check(account.check()).await.free_remaining;
    }

    /// Charges one of its own accounts. If the account has reached its limit, raises the limit.
    async fn change(&mut self, at: usize) {
        let mut account = self.accounts[at].clone();
        if account.kind == Kind::Rich && self.dice.below(4) == 0 {
            return self.reserve(&account).await;
        }
        let id = self.next_id();
        match self.deduct(account.charge(id)).await {
            Ok(reply) => {
                assert!(account.is_funded() && !account.is_at_limit(), "{account:?} got {reply:?}");
                (account.balance, account.free) = (micros(reply.balance), reply.free_remaining);
                account.used += 1;
            }
            Err(code) if code == "10001" => {
                assert!(!account.is_funded(), "{account:?} was refused");
                self.credit(&mut account, 0.3).await;
            }
            Err(code) => {
                assert!(code == "10002" && account.is_at_limit(), "{account:?} was refused: {code}");
                self.raise_limit(&mut account, ROOM).await;
            }
        }
        self.accounts[at] = account;
    }

    async fn check_own(&mut self, at: usize) {
        let reply = self.check(self.accounts[at].check()).await;
        self.accounts[at].assert_agrees_with(&reply);
    }

    async fn use_shared(&mut self) {
        let at = self.dice.below(SHARED.len());
        let account = &shared()[at];
        if self.dice.below(8) == 0 {
            let id = self.next_id();
            self.is_used_up[at] |= self.deduct(account.charge(id)).await.is_err();
        }
        let reply = self.check(account.check()).await;
        assert!(!(reply.allowed && self.is_used_up[at]), "{account:?} is used up and got {reply:?}");
    }

    /// Reads one of its own accounts from the database.
    async fn read(&mut self, at: usize) {
        let (account, asked) = (&self.accounts[at], Instant::now());
        let request = GetAccountRequest { user_id: account.user.clone() };
        let reply = self.reader.get_account(request).await.unwrap().into_inner();
        self.times.reads.lock().unwrap().push(asked..Instant::now());
        assert_eq!(micros(reply.balance), account.balance);
    }

    /// # Panics
    /// On any error.
    async fn check(&mut self, request: CheckQuotaRequest) -> CheckQuotaReply {
        let asked = Instant::now();
        let reply = self.client.check_quota(request).await.expect("every check is answered").into_inner();
        self.times.checks.lock().unwrap().push(asked..Instant::now());
        reply
    }

    /// Charges, and returns the error code if a limit refuses the charge. After an outage error, such as
    /// a slow database on a busy machine, the charge is sent again.
    async fn deduct(&mut self, request: DeductQuotaRequest) -> Result<DeductQuotaReply, String> {
        for attempt in 0..ATTEMPTS {
            let code = match self.client.deduct_quota(request.clone()).await.map(|reply| reply.into_inner()) {
                Ok(reply) => {
                    self.books.acknowledge(&request, reply.clone(), attempt > 0);
                    return Ok(reply);
                }
                Err(status) => code_of(&status).1,
            };
            match code.as_str() {
                "10014" => {}
                "10001" => {
                    self.books.refuse(&request.user_id, &request.trace_id);
                    return Err(code);
                }
                "10002" => return Err(code),
                _ => panic!("neither an outage nor a refusal: {code}"),
            }
        }
        panic!("no definite answer to {request:?}");
    }

    async fn credit(&mut self, account: &mut Account, amount: f64) {
        let request = AdjustBalanceRequest {
            user_id: account.user.clone(),
            amount,
            reason: "for a test".into(),
            adjustment_id: self.next_id(),
            operator: "tester".into(),
            allow_negative: false,
        };
        let reply = self.client.adjust_balance(request.clone()).await.unwrap().into_inner();
        self.books.credit(&request);
        account.balance = micros(reply.balance);
    }

    async fn raise_limit(&mut self, account: &mut Account, by: i32) {
        let limit = account.used + by;
        match account.kind {
            Kind::Capped => {
                let request = SetUserLimitsRequest {
                    user_id: account.user.clone(),
                    daily_limit: Some(limit),
                    monthly_limit: None,
                };
                self.client.set_user_limits(request).await.unwrap();
            }
            Kind::Keyed => {
                for (kind, period, limit) in [("requests", "day", limit), ("tokens", "total", 1_000_000_000)] {
                    let request = SetApiKeyQuotaRequest {
                        api_key_id: account.api_key(),
                        quota_type: kind.into(),
                        period: period.into(),
                        limit: Some(limit.into()),
                    };
                    self.client.set_api_key_quota(request).await.unwrap();
                }
            }
            Kind::Rich | Kind::Poor | Kind::Ending => return,
        }
        account.limit = limit;
    }

    /// Reserves a part of the balance, and leaves the hold open.
    async fn reserve(&mut self, account: &Account) {
        let request = ReserveQuotaRequest {
            user_id: account.user.clone(),
            trace_id: self.next_id(),
            service_name: account.kind.service().into(),
            count: 1,
            ..Default::default()
        };
        let reply = self.client.reserve_quota(request.clone()).await.unwrap().into_inner();
        self.books.hold(&request, reply, false);
    }

    fn next_id(&mut self) -> String {
        self.sent += 1;
        format!("{}-{}", self.number, self.sent)
    }
}
