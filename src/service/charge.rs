//! Checks and charges.

use std::time::Instant;

use futures_util::future::join_all;

use super::{
    Api,
    convert::{cost, count, estimate, int32, usage},
    errors,
    proto::{
        BatchDeductQuotaReply, BatchDeductQuotaRequest, BatchDeductQuotaResult, CheckQuotaReply, CheckQuotaRequest,
        DeductQuotaReply, DeductQuotaRequest, ItemError,
    },
};
use crate::{
    biz::{
        account::catalog::Price,
        charge::{
            Split,
            quote::{Ask, ESTIMATE},
        },
        check::{Check, Decision, Verdict},
        settlement::{
            engine::Settled,
            posting::{Charge, Effect, RecordIds},
            transaction::{ChargeContent, Transaction},
        },
        values::{
            error::{Error, Result},
            ids::{ApiKeyId, ModelName, TraceId, UserId},
            invalid::Invalid,
            usage,
        },
    },
    metrics::in_flight::{InFlight, Operation},
};

/// Items of one batch at most.
const MAX_ITEMS: usize = 1_000;

impl Api {
    pub async fn check_quota(&self, request: CheckQuotaRequest) -> Result<CheckQuotaReply> {
        let started = Instant::now();
        let service = request.service_name.clone();
        let verdict = self.verdict(request).await;
        let elapsed = started.elapsed().as_secs_f64();
        self.metrics.quota_check_duration_seconds.observe(elapsed);
        self.metrics.quota_check_duration_ms.observe(elapsed * 1000.0);
        self.metrics.duration_ms.with_label_values(&["check"]).observe(elapsed * 1000.0);
        let result = match &verdict {
            Ok(verdict) => reason(&verdict.decision).replace(' ', "_"),
            Err(error) => errors::kind(error).reason.to_lowercase(),
        };
        self.metrics.quota_check_total.with_label_values(&[self.service_label(&service), &result]).inc();
        verdict.map(check_reply)
    }

    async fn verdict(&self, request: CheckQuotaRequest) -> Result<Verdict> {
        let user = UserId::parse("user_id", &request.user_id)?;
        let api_key = ApiKeyId::parse_optional("api_key_id", &request.api_key_id)?;
        let model = ModelName::parse_optional("model", &request.model)?;
        let usage = estimate(request.estimated_input_tokens, request.estimated_output_tokens)?;
        let cost = cost("estimated_cost", request.estimated_cost)?;
        let (service, count) = (request.service_name, count(request.count)?);
        let check = Check { user, count, cost, service, api_key, model, usage };
        self.quotas.check(&check).await
    }

    /// Queues every item before it waits for the first, so that they share batches.
    pub async fn batch_deduct_quota(&self, request: BatchDeductQuotaRequest) -> Result<BatchDeductQuotaReply> {
        let items = request.items.len();
        if !(1..=MAX_ITEMS).contains(&items) {
            return Err(Invalid::new("items", format!("must be 1 to {MAX_ITEMS}, not {items}")).into());
        }
        let replies = join_all(request.items.into_iter().map(|item| self.deduct_quota(item))).await;
        let results = replies
            .into_iter()
            .map(|reply| match reply {
                Ok(reply) => BatchDeductQuotaResult { reply: Some(reply), error: None },
                Err(error) => {
                    let kind = errors::kind(&error);
                    BatchDeductQuotaResult {
                        reply: None,
                        error: Some(ItemError {
                            error_code: kind.error_code.into(),
                            reason: kind.reason.into(),
                            message: errors::message(&error),
                        }),
                    }
                }
            })
            .collect();
        Ok(BatchDeductQuotaReply { results })
    }

    /// Parses and queues at once; the future waits for the outcome.
    pub fn deduct_quota(
        &self,
        request: DeductQuotaRequest,
    ) -> impl Future<Output = Result<DeductQuotaReply>> + Send + '_ {
        let in_flight = InFlight::begin(&self.metrics, Operation::Deduct);
        let call = self.parse_call(Call {
            user_id: &request.user_id,
            service_name: &request.service_name,
            count: request.count,
            cost: request.cost,
            trace_id: &request.trace_id,
            api_key_id: &request.api_key_id,
            model: &request.model,
            tokens: usage(request.usage).map(Tokens::Used),
        });
        let queued = call.map(|call| self.engine.charge(call));
        async move {
            let settled = match queued {
                Ok(outcome) => outcome.await,
                Err(error) => Err(error),
            };
            in_flight.end();
            self.count_deduct(&settled);
            settled.map(|(transaction, effect)| deduct_reply(transaction, effect.is_repeat()))
        }
    }

    /// A call to charge, or to hold.
    pub(super) fn parse_call(&self, call: Call<'_>) -> Result<Charge> {
        let user = UserId::parse("user_id", call.user_id)?;
        let (service, plan) = self.catalog.find(call.service_name)?;
        let count = count(call.count)?;
        let cost = cost("cost", call.cost)?;
        let trace = TraceId::parse_optional("trace_id", call.trace_id)?.unwrap_or_else(TraceId::fresh);
        let api_key = ApiKeyId::parse_optional("api_key_id", call.api_key_id)?;
        let model = ModelName::parse_optional("model", call.model)?;
        let (usage, estimate, tokens_field) = match call.tokens? {
            Tokens::Used(usage) => (usage, None, "usage"),
            Tokens::Estimated(estimate) => (None, estimate, ESTIMATE),
        };
        let ask = Ask { count, cost, model: model.as_ref(), usage: usage.or(estimate), tokens_field };
        let quote = self.quoter.quote(plan, ask);
        if call.trace_id.is_empty() || matches!(plan.price, Price::Unit(_)) {
            // No repeat of anything, or the same each time: there is nothing to look for.
            quote.as_ref().map_err(Error::clone)?;
        }
        Ok(Charge {
            user,
            trace,
            quote,
            content: ChargeContent { service: service.clone(), count, cost, api_key, model, usage, estimate },
            record_ids: RecordIds::fresh(),
        })
    }

    /// Counts the outcome of a charge, made at once or by a commit.
    pub(super) fn count_deduct(&self, settled: &Settled) {
        let metrics = &self.metrics;
        match settled {
            Ok((transaction, effect)) => {
                metrics.deduct_success.inc();
                match effect {
                    Effect::Made => self.count_charge(transaction, transaction.split()),
                    Effect::Added { split, .. } => self.count_charge(transaction, *split),
                    Effect::Found => metrics.idempotent_hit.inc(),
                }
            }
            Err(error) => {
                if matches!(error, Error::IdempotencyConflict { .. }) {
                    metrics.idempotent_conflict.inc();
                }
                let reason = errors::kind(error).reason.to_lowercase();
                metrics.deduct_failure.with_label_values(&[&reason]).inc();
            }
        }
    }

    fn count_charge(&self, transaction: &Transaction, split: Split) {
        let kind = match (split.free, split.is_paid()) {
            // All that was to be added fell short.
            (0, false) => return,
            (_, false) => "free",
            (0, true) => "balance",
            _ => "mixed",
        };
        let service = self.service_label(transaction.content.service.as_str());
        self.metrics.quota_deduct_total.with_label_values(&[service, kind]).inc();
        if !split.amount.is_zero() {
            self.metrics.balance_total.with_label_values(&["deduct"]).inc();
            self.metrics.balance_amount.with_label_values(&["deduct"]).inc_by(split.amount.to_wire());
        }
    }

    /// A label from a bounded set, whatever callers send.
    fn service_label<'a>(&'a self, service: &'a str) -> &'a str {
        match self.catalog.find(service) {
            Ok((known, _)) => known.as_str(),
            Err(_) => "unknown",
        }
    }
}

/// What DeductQuota and ReserveQuota say of a call.
pub(super) struct Call<'r> {
    pub user_id: &'r str,
    pub service_name: &'r str,
    pub count: i32,
    pub cost: f64,
    pub trace_id: &'r str,
    pub api_key_id: &'r str,
    pub model: &'r str,
    pub tokens: Result<Tokens>,
}

/// The tokens of a call.
pub(super) enum Tokens {
    /// It was made.
    Used(Option<usage::Usage>),
    /// It is about to be.
    Estimated(Option<usage::Usage>),
}

/// The reason of a check, as the contract words it.
fn reason(decision: &Decision) -> String {
    match decision {
        Decision::Free => "free".into(),
        Decision::Balance => "balance".into(),
        Decision::Refused(Error::InsufficientBalance { .. }) => "insufficient balance".into(),
        Decision::Refused(Error::InsufficientQuota(limit)) => limit.to_string(),
        Decision::Refused(_) => "refused".into(),
    }
}

fn check_reply(verdict: Verdict) -> CheckQuotaReply {
    let (error_code, retry_after_ms) = match &verdict.decision {
        Decision::Refused(refusal) => (errors::kind(refusal).error_code, errors::retry_after_ms(refusal)),
        Decision::Free | Decision::Balance => ("", None),
    };
    CheckQuotaReply {
        allowed: error_code.is_empty(),
        reason: reason(&verdict.decision),
        free_remaining: int32(verdict.free_remaining),
        balance: verdict.balance.to_wire(),
        daily_remaining: verdict.daily_remaining.map(int32),
        monthly_remaining: verdict.monthly_remaining.map(int32),
        estimated_cost: verdict.amount.to_wire(),
        error_code: error_code.into(),
        retry_after_ms,
    }
}

fn deduct_reply(transaction: Transaction, replayed: bool) -> DeductQuotaReply {
    DeductQuotaReply {
        success: true,
        record_id: transaction.record_id.to_string(),
        free_count: int32(transaction.free),
        paid_count: int32(transaction.paid),
        amount: transaction.amount.to_wire(),
        balance: transaction.balance_after.to_wire(),
        free_remaining: int32(transaction.free_remaining_after),
        replayed,
    }
}
