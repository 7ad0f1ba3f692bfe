//! A load of many concurrent callers. Each sends one request after another until it is stopped, and
//! repeats each request until it has a definite answer.

use std::{sync::Arc, time::Duration};

use billing_service::service::proto::{
    AdjustBalanceRequest, CommitReservationRequest, DeductQuotaRequest, ReleaseReservationRequest, ReserveQuotaRequest,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    books::Books,
    caller::{Caller, Dice, connections},
    charge, traced,
};

const CALLERS: usize = 64;
/// This user has no free quota, so it pays from the first call on.
const HOT_USER: usize = 1;
/// Thresholds that a shared user who pays soon falls below.
const LOW_OF_SHARED: [f64; 4] = [1_000_000.0, 999_999.5, 999_990.0, 999_950.0];
/// Thresholds that most visitors fall below.
const LOW_OF_VISITORS: [f64; 3] = [0.0, 2.0, 10.0];
/// Number of charges in a batch.
const BATCH: usize = 20;
/// Time limit of every wait.
const DEADLINE: Duration = Duration::from_secs(120);

/// The users that all callers share, and the options of the callers.
#[derive(Clone, Copy)]
pub struct Crowd {
    pub users: usize,
    /// Whether every other charge is of the same user.
    pub has_hot_user: bool,
    /// See [`Caller::refusals_are_uncertain`].
    pub refusals_are_uncertain: bool,
    /// Another seed makes other requests.
    pub seed: u64,
}

impl Default for Crowd {
    fn default() -> Self {
        Self { users: 12, has_hot_user: false, refusals_are_uncertain: false, seed: 0 }
    }
}

pub struct Load {
    caller: Caller,
    servers: watch::Sender<Vec<Channel>>,
    stop: CancellationToken,
    running: JoinSet<()>,
}

impl Load {
    /// Prepares the shared users, and starts the callers.
    pub async fn start(servers: &[&str]) -> Self {
        Self::start_with(servers, Crowd::default()).await
    }

    pub async fn start_with(servers: &[&str], crowd: Crowd) -> Self {
        let servers = watch::Sender::new(connections(servers));
        let mut caller = Caller::new(servers.subscribe(), Dice(0));
        caller.refusals_are_uncertain = crowd.refusals_are_uncertain;
        for number in 0..crowd.users {
            let user = shared_user(number);
            caller.set_thresholds(&user, &LOW_OF_SHARED).await;
            caller.credit(credit(&user, 1_000_000.0)).await;
            if pays(number) {
                caller.charge(traced("whole free quota", charge(&user, "payment", 1000))).await;
            }
        }
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        for number in 1..=CALLERS {
            let mut caller = caller.clone();
            caller.dice = Dice((crowd.seed << 32) + number as u64);
            running.spawn(LoadCaller { caller, number, crowd, sent: 0, open: Vec::new() }.call_until(stop.clone()));
        }
        Self { caller, servers, stop, running }
    }

    /// From now on requests go to these servers.
    pub fn send_to(&self, servers: &[&str]) {
        self.servers.send_replace(connections(servers));
    }

    /// Waits until `more` further charges and steps of reservations have been acknowledged.
    pub async fn acknowledges(&mut self, more: usize) {
        let mut count = self.caller.books.acknowledged.subscribe();
        let enough = *count.borrow() + more;
        tokio::select! {
            reached = tokio::time::timeout(DEADLINE, count.wait_for(|count| *count >= enough)) => {
                reached.expect("charges go on").unwrap();
            }
            Some(ended) = self.running.join_next() => {
                ended.unwrap();
                panic!("a caller ended by itself");
            }
        }
    }

    /// Number of requests in flight.
    pub fn in_flight(&self) -> usize {
        self.caller.in_flight()
    }

    /// Number of attempts without a definite answer.
    pub fn unanswered(&self) -> usize {
        self.caller.unanswered()
    }

    /// Stops the callers after their definite answers. Then sends all acknowledged requests again: each
    /// must be a replay with the same answer.
    pub async fn finish(mut self) -> Arc<Books> {
        self.stop.cancel();
        let finished = async {
            while let Some(ended) = self.running.join_next().await {
                ended.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, finished).await.expect("every request gets its definite answer");
        for charges in self.caller.books.all().chunks(500) {
            self.caller.charge_batch(charges.to_vec()).await;
        }
        let mut again = JoinSet::new();
        for holds in self.caller.books.all_holds().chunks(50) {
            let (mut caller, holds) = (self.caller.clone(), holds.to_vec());
            again.spawn(async move {
                for hold in holds {
                    caller.repeat_hold(hold).await;
                }
            });
        }
        again.join_all().await;
        self.caller.settle_uncertain().await;
        println!("{} attempts had no definite answer", self.caller.unanswered());
        self.caller.books.assert_varied();
        self.caller.books
    }
}

fn shared_user(number: usize) -> String {
    format!("shared-{number}")
}

/// Whether a shared user pays from the first call on. The other users use their free quota.
fn pays(number: usize) -> bool {
    number % 2 == 1
}

/// The one credit of a user.
pub fn credit(user: &str, amount: f64) -> AdjustBalanceRequest {
    let (user_id, reason) = (user.to_owned(), "for a test".to_owned());
    let (adjustment_id, operator) = ("credit".into(), "tester".into());
    AdjustBalanceRequest { user_id, amount, reason, adjustment_id, operator, allow_negative: false }
}

/// One caller and its state.
struct LoadCaller {
    caller: Caller,
    number: usize,
    crowd: Crowd,
    sent: usize,
    /// Open reservations, to be ended later, or left open if the load stops first.
    open: Vec<ReserveQuotaRequest>,
}

impl LoadCaller {
    async fn call_until(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            match self.caller.dice.below(16) {
                0 => self.batch().await,
                1 if self.caller.dice.below(2) == 0 => self.visit().await,
                1 => self.visit_in_two_phases().await,
                2 | 3 => self.repeat().await,
                4 | 5 => self.hold().await,
                6 | 7 => self.end().await,
                _ => {
                    let charge = self.next_charge();
                    self.caller.charge(charge).await;
                }
            }
        }
    }

    /// A charge of a shared user with a new id, and often with an explicit cost.
    fn next_charge(&mut self) -> DeductQuotaRequest {
        let dice = &mut self.caller.dice;
        let is_hot = self.crowd.has_hot_user && dice.below(2) == 0;
        let user = if is_hot { HOT_USER } else { dice.below(self.crowd.users) };
        let service = if pays(user) { "payment" } else { "passport" };
        let cost = [0.0, 0.0, 0.333_333, 1.0][dice.below(4)];
        let charge = charge(&shared_user(user), service, 1 + dice.below(3) as i32);
        self.own_id(DeductQuotaRequest { cost, ..charge })
    }

    fn own_id(&mut self, charge: DeductQuotaRequest) -> DeductQuotaRequest {
        self.sent += 1;
        traced(&format!("{}-{}", self.number, self.sent), charge)
    }

    /// Sends a random acknowledged request again, maybe to another server.
    async fn repeat(&mut self) {
        if let Some(charge) = self.caller.books.any(&mut self.caller.dice) {
            self.caller.charge(charge).await;
        }
        if let Some(hold) = self.caller.books.any_ended_hold(&mut self.caller.dice) {
            self.caller.repeat_hold(hold).await;
        }
    }

    async fn batch(&mut self) {
        let mut charges: Vec<_> = (1..BATCH).map(|_| self.next_charge()).collect();
        charges.extend(self.caller.books.any(&mut self.caller.dice));
        self.caller.charge_batch(charges).await;
    }

    /// Makes charges for a new user with money for ten paid units and a little more: free ones, a mixed
    /// one, a refused one, and a paid one that uses up the balance.
    async fn visit(&mut self) {
        let user = format!("visitor-{}-{}", self.number, self.sent);
        self.caller.set_thresholds(&user, &LOW_OF_VISITORS).await;
        self.caller.credit(credit(&user, 15.0)).await;
        for count in [300, 300, 300, 300, 300, 100] {
            let charge = self.own_id(charge(&user, "asset", count));
            self.caller.charge(charge).await;
        }
    }

    /// Makes a reservation for a shared user. It stays open for a while, even during kills.
    async fn hold(&mut self) {
        let DeductQuotaRequest { user_id, service_name, count, cost, .. } = self.next_charge();
        let request = self.own_hold(&user_id, &service_name, count);
        let request = ReserveQuotaRequest { cost, ..request };
        self.caller.reserve(request.clone()).await;
        self.open.push(request);
    }

    /// Ends a random open reservation. Sometimes repeats the reserve before.
    async fn end(&mut self) {
        let dice = &mut self.caller.dice;
        if self.open.is_empty() {
            return;
        }
        let held = self.open.swap_remove(dice.below(self.open.len()));
        if dice.below(4) == 0 {
            self.caller.reserve(held.clone()).await;
        }
        let dice = &mut self.caller.dice;
        if dice.below(4) == 0 {
            let ReserveQuotaRequest { user_id, trace_id, .. } = held;
            self.caller.release(ReleaseReservationRequest { user_id, trace_id }).await;
            return;
        }
        let count = [None, Some(1), Some(held.count), Some(held.count + 2)][dice.below(4)];
        let cost = [0.0, 0.0, 0.333_333, 1.0][dice.below(4)];
        let commit = CommitReservationRequest { cost, ..delivered(&held, count) };
        self.caller.commit(commit.clone()).await;
        if self.caller.dice.below(4) == 0 {
            self.caller.commit(commit).await;
        }
    }

    fn own_hold(&mut self, user: &str, service: &str, count: i32) -> ReserveQuotaRequest {
        self.sent += 1;
        ReserveQuotaRequest {
            user_id: user.into(),
            trace_id: format!("hold-{}-{}", self.number, self.sent),
            service_name: service.into(),
            count,
            ..Default::default()
        }
    }

    /// Like [`Self::visit`], with reservations. Open holds make other reserves fail. One commit is below
    /// its hold, and one takes the balance below zero.
    async fn visit_in_two_phases(&mut self) {
        let user = format!("visitor-{}-{}", self.number, self.sent);
        self.caller.set_thresholds(&user, &LOW_OF_VISITORS).await;
        self.caller.credit(credit(&user, 15.0)).await;
        let [less, more, refused] = [900, 200, 300].map(|count| self.own_hold(&user, "asset", count));
        for request in [&less, &more, &refused] {
            self.caller.reserve(request.clone()).await;
        }
        self.caller.commit(delivered(&less, Some(300))).await;
        self.caller.commit(delivered(&more, Some(1500))).await;
        let charge = self.own_id(charge(&user, "asset", 1));
        self.caller.charge(charge).await;
    }
}

/// The commit of a reservation, at its unit cost.
fn delivered(held: &ReserveQuotaRequest, count: Option<i32>) -> CommitReservationRequest {
    let (user_id, trace_id) = (held.user_id.clone(), held.trace_id.clone());
    CommitReservationRequest { user_id, trace_id, count, ..Default::default() }
}
