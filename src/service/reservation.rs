//! The rpcs of reservations (reserve, commit, release) and of transactions by their id.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::timeout;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use super::{
    call::CallParser,
    charge::outcome,
    convert::{cost, count, int32, int64, price_line, service_tier, tokens, usage, wire_usage},
    errors, gen_ai,
    prices::plan_name,
    proto::{
        CommitReservationReply, CommitReservationRequest, GetTransactionReply, GetTransactionRequest,
        ReleaseReservationReply, ReleaseReservationRequest, ReserveQuotaReply, ReserveQuotaRequest,
    },
    request::RequestId,
};
use crate::{
    biz::{
        limits::rate_limit::RateGuard,
        metering::{
            Comparison,
            tokens::{Encoding, Input, TokenCounter},
        },
        settlement::{
            engine::{Engine, Settled},
            posting::{Commit, Effect, RecordIds, Release, Reserve},
            transaction::{Delivered, Status, Transaction, TransactionStore},
        },
        values::{
            error::{Error, Result},
            ids::{ApiKeyId, ModelName, ServiceTier, TraceId, UserId},
            money::Money,
            usage,
        },
    },
    context,
    metrics::{ChargeObserver, Operation},
};

/// Deadline of the read of a reservation before its text is counted. The count runs beyond the
/// request.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Makes, commits and releases reservations.
pub struct ReservationService {
    pub calls: Arc<CallParser>,
    pub rates: Arc<RateGuard>,
    pub engine: Arc<Engine>,
    pub transactions: Arc<dyn TransactionStore>,
    pub tokens: Arc<TokenCounter>,
    pub observer: ChargeObserver,
    /// Tasks of commits, which go on when their callers go away.
    pub tasks: TaskTracker,
}

impl ReservationService {
    pub async fn reserve_quota(
        &self,
        request: ReserveQuotaRequest,
        request_id: &RequestId,
    ) -> Result<ReserveQuotaReply> {
        let in_flight = self.observer.begin(Operation::Reserve);
        let settled = match self.calls.reserve(request) {
            Ok(reserve) => {
                request_id.note_trace_id(&reserve.call.trace);
                self.reserve(reserve).await
            }
            Err(error) => Err(error),
        };
        in_flight.end();
        self.observer.count_reserve(is_repeat(&settled).map_err(errors::failure));
        settled.map(|(transaction, effect)| reserve_reply(&transaction, effect.is_repeat()))
    }

    async fn reserve(&self, reserve: Reserve) -> Settled {
        // Repeats count too, because only settlement recognises a repeat.
        self.rates.take(&reserve.call.user, reserve.call.content.api_key.as_ref()).await?;
        self.engine.reserve(reserve).await
    }

    pub async fn commit_reservation(
        self: &Arc<Self>,
        request: CommitReservationRequest,
    ) -> Result<CommitReservationReply> {
        let in_flight = self.observer.begin(Operation::Commit);
        let settled = self.commit(request).await;
        in_flight.end();
        settled.map(|(transaction, effect)| commit_reply(&transaction, effect.is_repeat()))
    }

    async fn commit(self: &Arc<Self>, request: CommitReservationRequest) -> Settled {
        let settled = match self.parse_commit(request) {
            Ok((commit, None)) => self.engine.commit(commit).await,
            Ok((commit, Some(text))) => match commit.usage.filter(|usage| !usage.is_empty()) {
                Some(usage) => self.commit_and_compare(commit, text, usage).await,
                // Zero tokens are no count of the vendor.
                None => return self.commit_text(commit, text).await,
            },
            Err(error) => Err(error),
        };
        self.observer.count_commit(outcome(&settled));
        settled
    }

    /// Commits, then compares the vendor's count with ours in the background.
    async fn commit_and_compare(self: &Arc<Self>, commit: Commit, text: OutputText, usage: usage::Usage) -> Settled {
        let settled = self.engine.commit(commit).await;
        if let Ok((transaction, Effect::Applied)) = &settled {
            let (service, model) = (self.clone(), transaction.served_model().cloned());
            let comparing = async move {
                if let Ok(ours) = service.count_output(model.as_ref(), text.output).await {
                    let compared = Comparison::new(model.as_ref(), ours, usage, text.hidden_tokens);
                    compared.into_iter().for_each(|compared| service.observer.count_comparison(compared));
                }
            };
            self.tasks.spawn(context::carry(comparing));
        }
        settled
    }

    /// Counts and charges in a task of its own, which goes on when the caller goes away.
    async fn commit_text(self: &Arc<Self>, commit: Commit, text: OutputText) -> Settled {
        let service = self.clone();
        let counting = async move {
            let settled = match service.count_reserved(&commit, text.output).await {
                Ok(output) => service.engine.commit(Commit { counted_output: Some(output), ..commit }).await,
                Err(error) => Err(error),
            };
            service.observer.count_commit(outcome(&settled));
            settled
        };
        let counting = self.tasks.spawn(context::carry(counting));
        counting.await.map_err(|error| Error::Internal(format!("a commit ended abnormally: {error}")))?
    }

    /// Counts the tokens of a text by the model that served the call or, if the commit names none, by that of
    /// the reservation.
    async fn count_reserved(&self, commit: &Commit, output: Input) -> Result<u32> {
        let found = timeout(READ_TIMEOUT, self.transactions.transaction(&commit.user, &commit.trace)).await;
        let found = found.map_err(|_| Error::Overloaded("the database does not answer; retry later".into()))??;
        let found = found.ok_or_else(|| Error::TransactionNotFound(commit.trace.to_string()))?;
        let served = commit.served.as_ref().map(|served| &served.model);
        self.count_output(served.or(found.served_model()), output).await
    }

    async fn count_output(&self, model: Option<&ModelName>, output: Input) -> Result<u32> {
        let tokens = self.tokens.count(Encoding::of(model), output).await?;
        Ok(u32::try_from(tokens).unwrap_or(u32::MAX))
    }

    pub async fn release_reservation(&self, request: ReleaseReservationRequest) -> Result<ReleaseReservationReply> {
        let started = Instant::now();
        let release = Release {
            user: UserId::parse("user_id", &request.user_id)?,
            trace: TraceId::parse("trace_id", &request.trace_id)?,
            request: Uuid::now_v7(),
        };
        let settled = self.engine.release(release).await;
        self.observer.count_release(is_repeat(&settled), started.elapsed());
        let (_, effect) = settled?;
        Ok(ReleaseReservationReply { success: true, replayed: context::note_replayed(effect.is_repeat()) })
    }

    pub async fn get_transaction(&self, request: GetTransactionRequest) -> Result<GetTransactionReply> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let trace = TraceId::parse("trace_id", &request.trace_id)?;
        let found = self.transactions.transaction(&user, &trace).await?;
        found.map(transaction_reply).ok_or_else(|| Error::TransactionNotFound(trace.to_string()))
    }
}

fn is_repeat(settled: &Settled) -> std::result::Result<bool, &Error> {
    settled.as_ref().map(|(_, effect)| effect.is_repeat())
}

pub(super) fn reserve_reply(transaction: &Transaction, replayed: bool) -> ReserveQuotaReply {
    let held = transaction.reservation.as_ref();
    let free = held.map_or(0, |held| held.free);
    ReserveQuotaReply {
        success: true,
        trace_id: transaction.trace.to_string(),
        free_count: int32(free),
        paid_count: int32(transaction.units().saturating_sub(free)),
        amount: held.map_or(Money::ZERO, |held| held.amount).to_wire(),
        expires_at: held.map(|held| held.expires_at.into()),
        status: transaction.status.to_string(),
        replayed: context::note_replayed(replayed),
    }
}

pub(super) fn commit_reply(transaction: &Transaction, replayed: bool) -> CommitReservationReply {
    CommitReservationReply {
        success: true,
        record_id: transaction.record_id.to_string(),
        free_count: int32(transaction.free),
        paid_count: int32(transaction.paid),
        amount: transaction.amount.to_wire(),
        balance: transaction.balance_after.to_wire(),
        free_remaining: int32(transaction.free_remaining_after),
        replayed: context::note_replayed(replayed),
        shortfall: transaction.shortfall.to_wire(),
        free_remaining_units: int64(transaction.free_remaining_after),
    }
}

/// The output text of a model.
struct OutputText {
    output: Input,
    /// The output tokens of the vendor that are not in the text.
    hidden_tokens: u32,
}

impl ReservationService {
    fn parse_commit(&self, request: CommitReservationRequest) -> Result<(Commit, Option<OutputText>)> {
        let hidden_tokens = tokens("hidden_output_tokens", request.hidden_output_tokens)?;
        let output = request.output_text.map(|output| Input::text("output_text", output)).transpose()?;
        let commit = Commit {
            user: UserId::parse("user_id", &request.user_id)?,
            trace: TraceId::parse("trace_id", &request.trace_id)?,
            count: request.count.map(count).transpose()?,
            cost: cost("cost", request.cost)?,
            usage: usage(request.usage)?,
            counted_output: None,
            service_tier: service_tier(&request.service_tier)?,
            served: self.calls.served(&request.model)?,
            stream: None,
            stop: None,
            record_ids: RecordIds::fresh(),
        };
        gen_ai::note_served(commit.served.as_ref().map(|served| &served.model), commit.usage);
        Ok((commit, output.map(|output| OutputText { output, hidden_tokens })))
    }
}

fn transaction_reply(transaction: Transaction) -> GetTransactionReply {
    let reservation = transaction.reservation.as_ref();
    let usage = transaction.content.usage.or(reservation.and_then(|reservation| reservation.usage()));
    let delivered: Option<&Delivered> = reservation.and_then(|reservation| reservation.delivered.as_ref());
    let served_model = delivered.and_then(|delivered| delivered.model.as_ref());
    GetTransactionReply {
        user_id: transaction.user.to_string(),
        trace_id: transaction.trace.to_string(),
        status: transaction.status.to_string(),
        service_name: transaction.content.service.to_string(),
        count: int32(transaction.content.count),
        cost: transaction.content.cost.unwrap_or_default().to_wire(),
        api_key_id: transaction.content.api_key.as_ref().map(ApiKeyId::to_string).unwrap_or_default(),
        model: transaction.content.model.as_ref().map(ModelName::to_string).unwrap_or_default(),
        usage: usage.map(wire_usage),
        free_count: int32(transaction.free),
        paid_count: int32(transaction.paid),
        amount: transaction.amount.to_wire(),
        record_id: match transaction.status {
            Status::Committed => transaction.record_id.to_string(),
            _ => String::new(),
        },
        created_at: Some(transaction.created_at.into()),
        held_free_count: reservation.map_or(0, |reservation| int32(reservation.free)),
        held_amount: reservation.map_or_else(Default::default, |reservation| reservation.amount).to_wire(),
        expires_at: reservation.map(|reservation| reservation.expires_at.into()),
        refunded_count: int32(transaction.refunded.units()),
        refunded_amount: transaction.refunded.amount.to_wire(),
        price_version: transaction.priced_by().map(|version| version.id.to_string()).unwrap_or_default(),
        shortfall: transaction.shortfall.to_wire(),
        service_tier: transaction.service_tier().map(ServiceTier::to_string).unwrap_or_default(),
        served_model: served_model.map(ModelName::to_string).unwrap_or_default(),
        plan: plan_name(transaction.plan),
        price_lines: transaction.price_lines().into_iter().map(price_line).collect(),
    }
}
