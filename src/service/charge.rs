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
            invalid::Invalid,
        },
    },
    metrics::{ChargeObserver, Operation, Outcome},
};

/// Items of one batch at most.
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

    /// Parses and queues at once; the future waits for the outcome.
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
        let replies = join_all(request.items.into_iter().map(|item| self.deduct_quota(item))).await;
        let results = replies.into_iter().map(|reply| item_result(reply, request_id)).collect();
        Ok(BatchDeductQuotaReply { results })
    }
}

fn item_result(reply: Result<DeductQuotaReply>, request_id: &RequestId) -> BatchDeductQuotaResult {
    match reply {
        Ok(reply) => BatchDeductQuotaResult { reply: Some(reply), error: None },
        Err(error) => {
            errors::log(&error, request_id);
            BatchDeductQuotaResult { reply: None, error: Some(item_error(&error)) }
        }
    }
}

fn item_error(error: &Error) -> ItemError {
    let kind = errors::kind(error);
    ItemError { error_code: kind.error_code.into(), reason: kind.reason.into(), message: errors::message(error) }
}

/// The outcome of a charge or a commit, as it is counted.
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
