//! A call as DeductQuota and ReserveQuota name it: parsed and quoted.

use std::sync::Arc;

use chrono::TimeDelta;

use super::{
    convert::{cost, count, estimate, service_tier, usage},
    gen_ai,
    proto::{DeductQuotaRequest, ReserveQuotaRequest},
};
use crate::biz::{
    account::catalog::Catalog,
    charge::quote::{Ask, ESTIMATE, Quoter},
    settlement::{
        posting::{Charge, RecordIds, Reserve, Served},
        transaction::ChargeContent,
    },
    values::{
        error::{Error, Result},
        ids::{ApiKeyId, ModelName, ServiceName, TraceId, UserId},
        usage::Usage,
    },
};

/// Parses calls and asks for their prices.
pub struct CallParser {
    catalog: Arc<Catalog>,
    quoter: Arc<Quoter>,
    reservation_ttl: TimeDelta,
}

impl CallParser {
    /// Reservations hold for `reservation_ttl`.
    pub fn new(catalog: Arc<Catalog>, quoter: Arc<Quoter>, reservation_ttl: TimeDelta) -> Self {
        Self { catalog, quoter, reservation_ttl }
    }

    pub(super) fn charge(&self, request: DeductQuotaRequest, part: Part) -> Result<Charge> {
        let charge = self.parse(Call {
            part,
            user_id: &request.user_id,
            service_name: &request.service_name,
            count: request.count,
            cost: request.cost,
            trace_id: &request.trace_id,
            api_key_id: &request.api_key_id,
            model: &request.model,
            service_tier: &request.service_tier,
            tokens: usage(request.usage).map(Tokens::Used),
        })?;
        Ok(Charge { is_delivered: request.delivered, ..charge })
    }

    /// The model that served a call, by the prices in use; `None` for an empty name.
    pub(super) fn served(&self, model: &str) -> Result<Option<Served>> {
        let model = ModelName::parse_optional("model", model)?;
        Ok(model.map(|model| Served { model, book: self.quoter.prices().book() }))
    }

    pub(super) fn reserve(&self, request: ReserveQuotaRequest) -> Result<Reserve> {
        let call = self.parse(Call {
            part: Part::Whole,
            user_id: &request.user_id,
            service_name: &request.service_name,
            count: request.count,
            cost: request.cost,
            trace_id: &request.trace_id,
            api_key_id: &request.api_key_id,
            model: &request.model,
            service_tier: &request.service_tier,
            tokens: estimate(request.estimated_input_tokens, request.estimated_output_tokens).map(Tokens::Estimated),
        })?;
        Ok(Reserve { call, ttl: self.reservation_ttl })
    }

    fn parse(&self, call: Call<'_>) -> Result<Charge> {
        let user = UserId::parse("user_id", call.user_id)?;
        let found = self.catalog.find(call.service_name);
        let service = match &found {
            Ok((service, _)) => (*service).clone(),
            // A charge of a service that left the configuration still replays.
            Err(unknown) => ServiceName::parse("service_name", call.service_name).map_err(|_| unknown.clone())?,
        };
        let count = count(call.count)?;
        let cost = cost("cost", call.cost)?;
        let trace = TraceId::parse_optional("trace_id", call.trace_id)?.unwrap_or_else(TraceId::fresh);
        let api_key = ApiKeyId::parse_optional("api_key_id", call.api_key_id)?;
        let model = ModelName::parse_optional("model", call.model)?;
        let (usage, estimate, tokens_field) = match call.tokens? {
            Tokens::Used(usage) => (usage, None, "usage"),
            Tokens::Estimated(estimate) => (None, estimate, ESTIMATE),
        };
        let service_tier = service_tier(call.service_tier)?;
        if call.part == Part::Whole {
            gen_ai::note_call(model.as_ref(), usage);
        }
        let ask = Ask {
            plan: None,
            count,
            cost,
            model: model.as_ref(),
            service_tier: service_tier.as_ref(),
            usage: usage.or(estimate),
            tokens_field,
        };
        let tariff = (found.is_ok() && self.catalog.has_plans()).then(|| self.quoter.tariff());
        let quote = found.and_then(|(_, terms)| self.quoter.quote(terms, ask));
        if call.trace_id.is_empty() && tariff.is_none() {
            // A call without an id repeats nothing, so there is no first outcome to find.
            quote.as_ref().map_err(Error::clone)?;
        }
        Ok(Charge {
            user,
            trace,
            is_delivered: false,
            quote,
            tariff,
            content: ChargeContent { service, count, cost, api_key, model, usage, estimate, service_tier },
            record_ids: RecordIds::fresh(),
        })
    }
}

/// The part of its request that a call is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// The span of the request has its model and its tokens.
    Whole,
    /// One of several items, which share the span of the request.
    Item,
}

/// The fields that both requests have.
struct Call<'r> {
    part: Part,
    user_id: &'r str,
    service_name: &'r str,
    count: i32,
    cost: f64,
    trace_id: &'r str,
    api_key_id: &'r str,
    model: &'r str,
    service_tier: &'r str,
    tokens: Result<Tokens>,
}

/// The tokens of a call.
enum Tokens {
    /// The call was made.
    Used(Option<Usage>),
    /// The call is about to be made.
    Estimated(Option<Usage>),
}
