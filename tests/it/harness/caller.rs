//! A caller that retries: it sends each request again, with the same id, to any server that is up,
//! until it has a definite answer.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use billing_service::service::proto::{
    AdjustBalanceRequest, BatchDeductQuotaRequest, BatchDeductQuotaResult, CommitReservationRequest,
    DeductQuotaRequest, ReleaseReservationRequest, ReserveQuotaRequest, SetAlertsRequest,
    billing_internal_service_client::BillingInternalServiceClient,
};
use tokio::{sync::watch, time::Instant};
use tonic::{Response, Status, transport::Channel};
use tonic_types::StatusExt;

use super::books::{Books, End, Hold};

pub type Client = BillingInternalServiceClient<Channel>;

/// Time limit of one attempt.
const ANSWER: Duration = Duration::from_secs(30);
/// Time limit for a definite answer.
const CERTAINTY: Duration = Duration::from_secs(90);
/// Pause before a retry. It ends early if the list of servers changes.
const PAUSE: Duration = Duration::from_millis(20);

/// Random numbers that are the same in every run.
#[derive(Clone)]
pub struct Dice(pub u64);

impl Dice {
    /// A number from 0 to `limit - 1`. The generator is SplitMix64.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }
}

/// Several connections to each of `servers`.
pub fn connections(servers: &[&str]) -> Vec<Channel> {
    let connection = |server: &&str| Channel::from_shared(server.to_string()).unwrap().connect_lazy();
    servers.iter().flat_map(|server| [server; 4]).map(connection).collect()
}

#[derive(Clone)]
pub struct Caller {
    pub books: Arc<Books>,
    pub dice: Dice,
    /// Whether a server without an answer may continue with a request, while another one refuses it. Then a
    /// refusal is definite only if the request is sent again later.
    pub refusals_are_uncertain: bool,
    servers: watch::Receiver<Vec<Channel>>,
    attempts: Arc<Attempts>,
}

/// Counts of all callers together.
#[derive(Default)]
struct Attempts {
    in_flight: AtomicUsize,
    unanswered: AtomicUsize,
}

impl Caller {
    pub fn new(servers: watch::Receiver<Vec<Channel>>, dice: Dice) -> Self {
        Self { books: Arc::default(), dice, refusals_are_uncertain: false, servers, attempts: Arc::default() }
    }

    /// Requests that wait for an answer.
    pub fn in_flight(&self) -> usize {
        self.attempts.in_flight.load(SeqCst)
    }

    /// Number of attempts without a definite answer.
    pub fn unanswered(&self) -> usize {
        self.attempts.unanswered.load(SeqCst)
    }

    /// The definite answer, and whether it took more than one attempt.
    async fn ask<T, F>(&mut self, call: impl Fn(Client) -> F) -> (Result<T, Refused>, bool)
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let deadline = Instant::now() + CERTAINTY;
        let mut retried = false;
        loop {
            let servers = self.servers.borrow_and_update().clone();
            let client = Client::new(servers[self.dice.below(servers.len())].clone());
            self.attempts.in_flight.fetch_add(1, SeqCst);
            let answer = tokio::time::timeout(ANSWER, call(client)).await;
            self.attempts.in_flight.fetch_sub(1, SeqCst);
            let answer = answer.unwrap_or_else(|_| Err(Status::deadline_exceeded("the time limit of the caller")));
            let unknown = match answer {
                Ok(reply) => return (Ok(reply.into_inner()), retried),
                Err(status) => status,
            };
            let details = unknown.get_error_details();
            match details.error_info().map(|info| info.metadata["error_code"].as_str()) {
                // Overloaded, or an error without details: the connection broke.
                Some("10014") | None => {}
                Some("10001") => return (Err(Refused), retried),
                Some(_) => panic!("neither an outage nor a refusal: {unknown:?}"),
            }
            assert!(Instant::now() < deadline, "no definite answer, the last one was {unknown:?}");
            self.attempts.unanswered.fetch_add(1, SeqCst);
            retried = true;
            // Either end of the wait starts the next attempt.
            let _ = tokio::time::timeout(PAUSE, self.servers.changed()).await;
        }
    }

    pub async fn charge(&mut self, request: DeductQuotaRequest) {
        self.settle(request, false).await;
    }

    /// Like [`Self::charge`], for a charge that was sent before without waiting for the answer.
    pub async fn charge_again(&mut self, request: DeductQuotaRequest) {
        self.settle(request, true).await;
    }

    async fn settle(&mut self, request: DeductQuotaRequest, sent_before: bool) {
        let call = self.ask(|mut client| {
            let request = request.clone();
            async move { client.deduct_quota(request).await }
        });
        match call.await {
            (Ok(reply), retried) => self.books.acknowledge(&request, reply, sent_before || retried),
            (Err(Refused), true) if self.refusals_are_uncertain => self.books.refuse_charge_uncertainly(&request),
            (Err(Refused), _) => self.books.refuse(&request.user_id, &request.trace_id),
        }
    }

    /// Charges a batch, and sends items without a definite result again.
    pub async fn charge_batch(&mut self, mut items: Vec<DeductQuotaRequest>) {
        let deadline = Instant::now() + CERTAINTY;
        let mut retried = false;
        while !items.is_empty() {
            let call = self.ask(|mut client| {
                let request = BatchDeductQuotaRequest { items: items.clone() };
                async move { client.batch_deduct_quota(request).await }
            });
            let (Ok(reply), again) = call.await else { panic!("a batch is not refused as a whole") };
            retried |= again;
            assert_eq!(reply.results.len(), items.len());
            let mut open = Vec::new();
            for (item, result) in items.into_iter().zip(reply.results) {
                match result {
                    BatchDeductQuotaResult { reply: Some(reply), error: None } => {
                        self.books.acknowledge(&item, reply, retried);
                    }
                    BatchDeductQuotaResult { reply: None, error: Some(error) } => match error.error_code.as_str() {
                        "10014" => open.push(item),
                        "10001" => self.books.refuse(&item.user_id, &item.trace_id),
                        _ => panic!("neither an outage nor a refusal: {error:?}"),
                    },
                    neither => panic!("an item has either a reply or an error: {neither:?}"),
                }
            }
            items = open;
            retried = true;
            assert!(Instant::now() < deadline, "no definite answer to {items:?}");
        }
    }

    pub async fn credit(&mut self, request: AdjustBalanceRequest) {
        let call = self.ask(|mut client| {
            let request = request.clone();
            async move { client.adjust_balance(request).await }
        });
        let (Ok(_), _) = call.await else { panic!("a credit is not refused") };
        self.books.credit(&request);
    }

    pub async fn set_thresholds(&mut self, user: &str, balance_below: &[f64]) {
        let request = SetAlertsRequest {
            user_id: user.into(),
            balance_below: balance_below.into(),
            quota_percent: vec![50, 80, 100],
            ..Default::default()
        };
        let call = self.ask(|mut client| {
            let request = request.clone();
            async move { client.set_alerts(request).await }
        });
        let (Ok(_), _) = call.await else { panic!("alerts are not refused") };
        self.books.set_thresholds(user, balance_below);
    }

    pub async fn reserve(&mut self, request: ReserveQuotaRequest) {
        self.settle_hold(request, false).await;
    }

    /// Like [`Self::reserve`], for a reserve that was sent before.
    async fn reserve_again(&mut self, request: ReserveQuotaRequest) {
        self.settle_hold(request, true).await;
    }

    /// Sends all requests with uncertain refusals again, when no attempt is in flight any more.
    pub async fn settle_uncertain(&mut self) {
        self.refusals_are_uncertain = false;
        let uncertain = self.books.take_uncertain();
        println!("{} uncertain refusals", uncertain.charges.len() + uncertain.holds.len());
        for charge in uncertain.charges {
            self.charge_again(charge).await;
        }
        for hold in uncertain.holds {
            self.reserve_again(hold).await;
        }
    }

    async fn settle_hold(&mut self, request: ReserveQuotaRequest, sent_before: bool) {
        let call = self.ask(|mut client| {
            let request = request.clone();
            async move { client.reserve_quota(request).await }
        });
        match call.await {
            (Ok(reply), retried) => self.books.hold(&request, reply, sent_before || retried),
            (Err(Refused), true) if self.refusals_are_uncertain => self.books.refuse_hold_uncertainly(&request),
            (Err(Refused), _) => self.books.refuse(&request.user_id, &request.trace_id),
        }
    }

    pub async fn commit(&mut self, request: CommitReservationRequest) {
        let call = self.ask(|mut client| {
            let request = request.clone();
            async move { client.commit_reservation(request).await }
        });
        let (Ok(reply), retried) = call.await else { panic!("a commit is not refused: {request:?}") };
        self.books.commit(&request, reply, retried);
    }

    pub async fn release(&mut self, request: ReleaseReservationRequest) {
        let call = self.ask(|mut client| {
            let request = request.clone();
            async move { client.release_reservation(request).await }
        });
        let (Ok(reply), retried) = call.await else { panic!("a release is not refused: {request:?}") };
        self.books.release(&request, &reply, retried);
    }

    /// Sends the acknowledged requests of a reservation again. After a release, it only sends the release:
    /// a reserve would be refused.
    pub async fn repeat_hold(&mut self, Hold { request, end, .. }: Hold) {
        match end {
            End::Open | End::Expired => self.reserve(request).await,
            End::Released => {
                let (user_id, trace_id) = (request.user_id, request.trace_id);
                self.release(ReleaseReservationRequest { user_id, trace_id }).await;
            }
            End::Committed(commit, _) => {
                self.reserve(request).await;
                self.commit(*commit).await;
            }
        }
    }
}

/// The balance is too low.
struct Refused;
