//! DeductQuota and BatchDeductQuota: charges that are made at once.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{
    call::CallParser,
    convert::{int32, int64},
    errors,
    proto::{
        BatchDeductQuotaReply, BatchDeductQuotaRequest, BatchDeductQuotaResult, DeductQuotaReply, DeductQuotaRequest,
        ItemError,
    },
    request::RequestId,
};
use crate::{
    biz::{
        settlement::{
            engine::{Engine, Settled},
            transaction::Transaction,
        },
        values::{
            error::{Error, Result},
            ids::TraceId,
            invalid::Invalid,
        },
    },
    metrics::{ChargeObserver, Operation, Outcome},
};

/// Most items of one batch.
const MAX_ITEMS: usize = 1_000;

/// Makes charges.
pub struct ChargeService {
    calls: Arc<CallParser>,
    engine: Arc<Engine>,
    observer: ChargeObserver,
}

impl ChargeService {
    pub fn new(calls: Arc<CallParser>, engine: Arc<Engine>, observer: ChargeObserver) -> Self {
        Self { calls, engine, observer }
    }

    /// Parses and queues the charge at once. The future waits for the outcome.
    pub fn deduct_quota(
        &self,
        request: DeductQuotaRequest,
    ) -> impl Future<Output = Result<DeductQuotaReply>> + Send + '_ {
        let in_flight = self.observer.begin(Operation::Deduct);
        let queued = self.calls.charge(request).map(|call| self.engine.charge(call));
        async move {
            let settled = match queued {
                Ok(outcome) => outcome.await,
                Err(error) => Err(error),
            };
            in_flight.end();
            self.observer.count_deduct(outcome(&settled));
            settled.map(|(transaction, effect)| deduct_reply(transaction, effect.is_repeat()))
        }
    }

    /// Queues every item before it waits for the first, so that they share batches. Logs the
    /// errors of items, which have no status of their own, under the id of `request_id`.
    pub async fn batch_deduct_quota(
        &self,
        request: BatchDeductQuotaRequest,
        request_id: &RequestId,
    ) -> Result<BatchDeductQuotaReply> {
        let items = request.items.len();
        if !(1..=MAX_ITEMS).contains(&items) {
            return Err(Invalid::new("items", format!("must be 1 to {MAX_ITEMS}, not {items}")).into());
        }
        let items = request.items.into_iter().map(|mut item| {
            let fresh = item.trace_id.is_empty().then(|| TraceId::fresh().to_string());
            item.trace_id.extend(fresh.as_deref());
            let charging = self.deduct_quota(item);
            async move { item_result(charging.await, fresh.as_deref(), request_id) }
        });
        Ok(BatchDeductQuotaReply { results: join_all(items).await })
    }
}

/// `fresh` is the trace id of an item that came without one.
fn item_result(reply: Result<DeductQuotaReply>, fresh: Option<&str>, request_id: &RequestId) -> BatchDeductQuotaResult {
    match reply {
        Ok(reply) => BatchDeductQuotaResult { reply: Some(reply), error: None },
        Err(error) => {
            errors::log(&error, request_id);
            BatchDeductQuotaResult { reply: None, error: Some(item_error(&error, fresh)) }
        }
    }
}

fn item_error(error: &Error, fresh: Option<&str>) -> ItemError {
    let kind = errors::kind(error);
    let message = match fresh.filter(|_| errors::may_be_settled(error)) {
        Some(trace_id) => format!("{}; trace_id {trace_id}", errors::message(error)),
        None => errors::message(error),
    };
    ItemError { error_code: kind.error_code.into(), reason: kind.reason.into(), message }
}

/// The outcome of a charge or a commit, for the metrics.
pub(super) fn outcome(settled: &Settled) -> Outcome<'_> {
    settled.as_ref().map(|(transaction, effect)| (transaction, *effect)).map_err(errors::failure)
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
        free_remaining_units: int64(transaction.free_remaining_after),
    }
}
