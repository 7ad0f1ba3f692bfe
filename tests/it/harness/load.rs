//! Many callers at once, each sending one thing after another until it is stopped, and
//! staying with each until its answer is definite.

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
/// It pays from the first call on.
const HOT_USER: usize = 1;
/// Charges of one batch.
const BATCH: usize = 20;
/// What a test waits for comes by then.
const DEADLINE: Duration = Duration::from_secs(120);

/// The users whom all callers charge at once, and the choices of the callers.
#[derive(Clone, Copy)]
pub struct Crowd {
    pub users: usize,
    /// Whether every other charge is of one of them.
    pub has_hot_user: bool,
    /// As of [`Caller::doubts_refusals`].
    pub doubts_refusals: bool,
    /// Another one makes other requests.
    pub seed: u64,
}

impl Default for Crowd {
    fn default() -> Self {
        Self { users: 12, has_hot_user: false, doubts_refusals: false, seed: 0 }
    }
}

pub struct Load {
    caller: Caller,
    servers: watch::Sender<Vec<Channel>>,
    stop: CancellationToken,
    running: JoinSet<()>,
}

impl Load {
    /// Makes the shared users what they are, and starts the callers.
    pub async fn start(servers: &[&str]) -> Self {
        Self::start_with(servers, Crowd::default()).await
    }

    pub async fn start_with(servers: &[&str], crowd: Crowd) -> Self {
        let servers = watch::Sender::new(connections(servers));
        let mut caller = Caller::new(servers.subscribe(), Dice(0));
        caller.doubts_refusals = crowd.doubts_refusals;
        for number in 0..crowd.users {
            let user = shared_user(number);
            caller.credit(credit(&user, 1_000_000.0)).await;
            if pays(number) {
                caller.charge(traced("all that is free", charge(&user, "payment", 1000))).await;
            }
        }
        let (stop, mut running) = (CancellationToken::new(), JoinSet::new());
        for number in 1..=CALLERS {
            let mut caller = caller.clone();
            caller.dice = Dice((crowd.seed << 32) + number as u64);
            running.spawn(Customer { caller, number, crowd, sent: 0, open: Vec::new() }.call_until(stop.clone()));
        }
        Self { caller, servers, stop, running }
    }

    /// From now on requests go to these servers.
    pub fn send_to(&self, servers: &[&str]) {
        self.servers.send_replace(connections(servers));
    }

    /// Waits until so many more charges, or steps of a reservation, have been acknowledged.
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

    /// Requests that wait for their answer at this moment.
    pub fn in_flight(&self) -> usize {
        self.caller.in_flight()
    }

    /// Requests so far that had no definite answer.
    pub fn unanswered(&self) -> usize {
        self.caller.unanswered()
    }

    /// Lets every caller come to its definite answer, then sends all that was
    /// acknowledged once more: nothing of it may be made, nor answered differently.
    pub async fn finish(mut self) -> Arc<Books> {
        self.stop.cancel();
        let finished = async {
            while let Some(ended) = self.running.join_next().await {
                ended.unwrap();
            }
        };
        tokio::time::timeout(DEADLINE, finished).await.expect("every request comes to its answer");
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
        self.caller.settle_doubts().await;
        println!("{} requests had no definite answer at first", self.caller.unanswered());
        self.caller.books.assert_varied();
        self.caller.books
    }
}

fn shared_user(number: usize) -> String {
    format!("shared-{number}")
}

/// Whether a shared user pays from the first call on; others use their free quota.
fn pays(number: usize) -> bool {
    number % 2 == 1
}

/// The one credit of a user.
pub fn credit(user: &str, amount: f64) -> AdjustBalanceRequest {
    let (user_id, reason) = (user.to_owned(), "for a test".to_owned());
    let (adjustment_id, operator) = ("credit".into(), "tester".into());
    AdjustBalanceRequest { user_id, amount, reason, adjustment_id, operator, allow_negative: false }
}

/// One caller and what it does.
struct Customer {
    caller: Caller,
    number: usize,
    crowd: Crowd,
    sent: usize,
    /// Reservations that it will end, or leave open if it is stopped first.
    open: Vec<ReserveQuotaRequest>,
}

impl Customer {
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

    /// A charge of a shared user, under an id of its own, often at a cost of its own.
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

    /// Sends again what was acknowledged long ago or just now, perhaps to another.
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

    /// A user of the caller's own, new to the service, with money for ten paid units and
    /// a little more: free charges, a mixed one, a refused one, and a paid one to the end.
    async fn visit(&mut self) {
        let user = format!("visitor-{}-{}", self.number, self.sent);
        self.caller.credit(credit(&user, 15.0)).await;
        for count in [300, 300, 300, 300, 300, 100] {
            let charge = self.own_id(charge(&user, "asset", count));
            self.caller.charge(charge).await;
        }
    }

    /// A reservation of a shared user, which stays open for a while, through kills as well.
    async fn hold(&mut self) {
        let DeductQuotaRequest { user_id, service_name, count, cost, .. } = self.next_charge();
        let request = self.own_hold(&user_id, &service_name, count);
        let request = ReserveQuotaRequest { cost, ..request };
        self.caller.reserve(request.clone()).await;
        self.open.push(request);
    }

    /// Ends one that it holds, whichever; before that it sometimes asks for it again.
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

    /// As [`Self::visit`], by reservations: while they hold, others are refused; one
    /// delivers less than it holds, and one so much that the balance ends below zero.
    async fn visit_in_two_phases(&mut self) {
        let user = format!("visitor-{}-{}", self.number, self.sent);
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
