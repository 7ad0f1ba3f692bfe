//! The rate limit service of Envoy: a check for each descriptor.

use futures_util::future::join_all;

use super::{
    CheckService,
    fields::Named,
    policies::{self, FREE_QUOTA, Headers, Period, Policy},
};
use crate::{
    biz::{
        check::{Decision, Verdict},
        values::{
            error::{Error, Result},
            invalid::Invalid,
            limit::Limit,
        },
    },
    service::{
        envoy::{
            Code, DescriptorStatus, HeaderValue, RateLimit, RateLimitDescriptor, RateLimitRequest, RateLimitResponse,
            Unit,
        },
        errors::ErrorBody,
        json::UnknownNames,
        proto::CheckQuotaRequest,
        request::RequestId,
    },
};

/// Most descriptors of a request. Envoy sends one for each rule of a route.
const MAX_DESCRIPTORS: usize = 16;
/// Most entries of a descriptor.
const MAX_ENTRIES: usize = 32;
/// The name of the rpc, in metrics and logs of unknown keys.
const RPC: &str = "ShouldRateLimit";
/// The status with which Envoy answers a refusal, unless it is configured otherwise.
const TOO_MANY_REQUESTS: u16 = 429;

impl CheckService {
    /// Checks the call of each descriptor. The calls do not add up.
    ///
    /// # Errors
    /// As [`CheckService::check_quota`]. Nothing is checked if any descriptor is invalid.
    pub async fn should_rate_limit(&self, request: RateLimitRequest, id: &RequestId) -> Result<RateLimitResponse> {
        let calls = self.calls(request)?;
        let checks = calls.into_iter().map(|call| async {
            match call {
                Some(call) => self.checked(call).await.map(Some),
                None => Ok(None),
            }
        });
        let verdicts = join_all(checks).await.into_iter().collect::<Result<Vec<_>>>()?;
        Ok(self.response(&verdicts, id))
    }

    /// The call of each descriptor; `None` for one without any key of this service.
    fn calls(&self, request: RateLimitRequest) -> Result<Vec<Option<CheckQuotaRequest>>> {
        let RateLimitRequest { descriptors, hits_addend, .. } = request;
        if !(1..=MAX_DESCRIPTORS).contains(&descriptors.len()) {
            return Err(Invalid::new("descriptors", format!("must be 1 to {MAX_DESCRIPTORS}")).into());
        }
        let mut unknown = UnknownNames::default();
        let calls = descriptors.iter().map(|descriptor| call(descriptor, hits_addend.into(), &mut unknown));
        let calls = calls.collect::<Result<Vec<_>>>()?;
        self.unknown.apply(RPC, &unknown)?;
        Ok(calls)
    }

    /// The response. Its headers are those of the first refusal, or else of the first check.
    fn response(&self, verdicts: &[Option<Verdict>], id: &RequestId) -> RateLimitResponse {
        let with_policies = |verdict| (verdict, policies::policies(verdict, &self.calendar));
        let checked: Vec<_> = verdicts.iter().map(|verdict| verdict.as_ref().map(with_policies)).collect();
        let statuses = checked.iter().map(|checked| match checked {
            Some((verdict, policies)) => status(verdict, policies),
            None => DescriptorStatus { code: Code::Ok.into(), ..Default::default() },
        });
        let statuses: Vec<DescriptorStatus> = statuses.collect();
        let refused = checked.iter().flatten().find_map(|(verdict, policies)| match &verdict.decision {
            Decision::Refused(error) => Some((verdict, policies, error)),
            Decision::Free | Decision::Balance => None,
        });
        let Some((verdict, policies, error)) = refused else {
            let first = checked.iter().flatten().next();
            let headers = first.map_or_else(Headers::new, |(verdict, policies)| policies::headers(verdict, policies));
            return response(Code::Ok, statuses, headers);
        };
        let mut headers = policies::headers(verdict, policies);
        headers.push((http::header::CONTENT_TYPE, "application/json".into()));
        let body = ErrorBody { code: TOO_MANY_REQUESTS, ..ErrorBody::new(error, id) };
        // The body has no map with other keys than texts, so it is always JSON.
        let raw_body = serde_json::to_vec(&body).unwrap_or_default();
        RateLimitResponse { raw_body, ..response(Code::OverLimit, statuses, headers) }
    }
}

/// The call of a descriptor. An entry counts before the descriptor's own number of units, and that
/// before the number of the request.
fn call(
    descriptor: &RateLimitDescriptor,
    of_request: u64,
    unknown: &mut UnknownNames,
) -> Result<Option<CheckQuotaRequest>> {
    if descriptor.entries.len() > MAX_ENTRIES {
        return Err(Invalid::new("entries", format!("must be at most {MAX_ENTRIES}")).into());
    }
    // Too many units for the field are too many for any call.
    let units = descriptor.hits_addend.unwrap_or(of_request).max(1);
    let mut named = Named::of(units.try_into().unwrap_or(i32::MAX));
    for entry in &descriptor.entries {
        if !named.set(|field| field.key == entry.key, &entry.value)? {
            unknown.add(|| format!("descriptors.{}", entry.key));
        }
    }
    Ok((!named.is_empty()).then_some(named.check))
}

fn response(code: Code, statuses: Vec<DescriptorStatus>, headers: Headers) -> RateLimitResponse {
    let headers = headers.into_iter().map(|(name, value)| HeaderValue { key: name.as_str().to_owned(), value });
    RateLimitResponse {
        overall_code: code.into(),
        statuses,
        response_headers_to_add: headers.collect(),
        ..Default::default()
    }
}

/// The limit that refused the call, if its size is known; or else the one with the least left.
fn limit_of<'p>(verdict: &Verdict, policies: &'p [Policy]) -> Option<&'p Policy> {
    let of = |period| policies.iter().find(|policy| policy.period == period && policy.name != FREE_QUOTA);
    match &verdict.decision {
        Decision::Refused(Error::InsufficientQuota(Limit::Daily)) => of(Period::Day),
        Decision::Refused(Error::InsufficientQuota(Limit::Monthly)) => of(Period::Month),
        Decision::Refused(Error::InsufficientBalance { .. }) => {
            policies.iter().find(|policy| policy.name == FREE_QUOTA)
        }
        Decision::Refused(_) => None,
        Decision::Free | Decision::Balance => policies.iter().min_by_key(|policy| policy.remaining),
    }
}

/// The status of a descriptor.
fn status(verdict: &Verdict, policies: &[Policy]) -> DescriptorStatus {
    let code = match verdict.decision {
        Decision::Refused(_) => Code::OverLimit,
        Decision::Free | Decision::Balance => Code::Ok,
    };
    let limit = limit_of(verdict, policies);
    let mut reset = limit.and_then(|policy| policy.reset.to_std().ok());
    if let Decision::Refused(Error::InsufficientQuota(Limit::Rate { retry_after })) = verdict.decision {
        reset = Some(retry_after);
    }
    DescriptorStatus {
        code: code.into(),
        current_limit: limit.map(|policy| RateLimit {
            name: policy.name.into(),
            requests_per_unit: int(policy.quota),
            unit: match policy.period {
                Period::Day => Unit::Day,
                Period::Month => Unit::Month,
            }
            .into(),
        }),
        limit_remaining: limit.map_or(0, |policy| int(policy.remaining)),
        duration_until_reset: reset.and_then(|reset| prost_types::Duration::try_from(reset).ok()),
    }
}

fn int(value: u64) -> u32 {
    value.try_into().unwrap_or(u32::MAX)
}
