//! DeductQuota and BatchDeductQuota: charges that are made at once.

use std::sync::Arc;

use futures_util::future::join_all;

use super::{
    call::{CallParser, Part},
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
            engine::{Engine, Place, Settled},
            transaction::Transaction,
        },
        values::{
            error::{Error, Result},
            ids::TraceId,
            invalid::Invalid,
        },
    },
    context,
    metrics::{ChargeObserver, Operation, Outcome},
};

/// Most items of one batch.
pub(super) const MAX_ITEMS: usize = 1_000;

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

    pub async fn deduct_quota(&self, request: DeductQuotaRequest, request_id: &RequestId) -> Result<DeductQuotaReply> {
        self.deduct(request, (Part::Whole, Place::begin()), |trace| request_id.note_trace_id(trace)).await
    }

    /// Parses and queues the charge at once, and sets the retry id of the request. The future waits
    /// for the outcome.
    fn deduct<N: FnOnce(&TraceId)>(
        &self,
        request: DeductQuotaRequest,
        (part, place): (Part, Option<Box<Place>>),
        note: N,
    ) -> impl Future<Output = Result<DeductQuotaReply>> + Send + use<'_, N> {
        let in_flight = self.observer.begin(Operation::Deduct);
        let queued = self.calls.charge(request, part).map(|call| {
            note(&call.trace);
            self.engine.charge_at(call, place)
        });
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
        let place = Place::begin();
        let items = request.items.into_iter().map(move |item| {
            let item_id = request_id.of_item();
            let noted = item_id.clone();
            let charging = self.deduct(item, (Part::Item, place.clone()), move |trace| {
                noted.note_retry_id("trace_id", trace.as_str());
            });
            async move { item_result(charging.await, &item_id) }
        });
        Ok(BatchDeductQuotaReply { results: join_all(items).await })
    }
}

fn item_result(reply: Result<DeductQuotaReply>, item_id: &RequestId) -> BatchDeductQuotaResult {
    match reply {
        Ok(reply) => BatchDeductQuotaResult { reply: Some(reply), error: None },
        Err(error) => {
            errors::log(&error, item_id);
            BatchDeductQuotaResult { reply: None, error: Some(item_error(&error, item_id)) }
        }
    }
}

/// The error of an item has no metadata, so its message names the trace id.
fn item_error(error: &Error, item_id: &RequestId) -> ItemError {
    let kind = errors::kind(error);
    let message = match item_id.retry_id().filter(|_| errors::may_be_settled(error)) {
        Some((field, id)) => format!("{}; {field} {id}", errors::message(error)),
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
        replayed: context::note_replayed(replayed),
        shortfall: transaction.shortfall.to_wire(),
        free_remaining_units: int64(transaction.free_remaining_after),
    }
}
