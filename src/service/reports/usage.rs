//! Use over days: daily series per service, and groups by service, model, API key or day.

use std::{collections::BTreeMap, time::Duration};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use chrono::{Days, NaiveDate};

use super::ReportService;
use crate::{
    biz::{
        reports::{
            statistics::{DailyUse, Totals},
            usage::{GroupBy, UseCount, UseFilter, UseSums, keeper::LONGEST_OF_READ},
        },
        values::{
            calendar::{DaySpan, parse_day},
            error::Result,
            ids::{ApiKeyId, ModelName, ServiceName, UserId},
            invalid::Invalid,
        },
    },
    service::{
        convert::{MAX_DAYS, int32, int64, span},
        proto::{GetUsageReply, GetUsageRequest, UsageDay, UsageGroup, UsageSeries},
    },
};

/// Days of a usage series if the request names none.
const DEFAULT_DAYS: u64 = 30;
/// Most groups of a reply.
pub const MAX_GROUPS: u32 = 1_000;
/// Longest page token: that of the longest API key.
pub const MAX_TOKEN: usize = 256;

impl ReportService {
    pub async fn get_usage(&self, request: GetUsageRequest) -> Result<GetUsageReply> {
        self.get_usage_within(request, LONGEST_OF_READ).await
    }

    /// As [`Self::get_usage`], for a reader with less time: what is not summed after `longest` is pending.
    ///
    /// # Errors
    /// As [`Self::get_usage`].
    pub async fn get_usage_within(&self, request: GetUsageRequest, longest: Duration) -> Result<GetUsageReply> {
        let by = group_by(&request.group_by)?;
        let page = GroupPage::parse(by, &request)?;
        let user = UserId::parse("user_id", &request.user_id)?;
        let _turn = self.reads.begin(&user).await?;
        let filter = UseFilter {
            service: self.service_filter(&user, &request.service_name).await?,
            user,
            span: self.usage_span(&request)?,
            model: ModelName::parse_optional("model", &request.model)?,
            api_key: ApiKeyId::parse_optional("api_key_id", &request.api_key_id)?,
        };
        let reply = GetUsageReply {
            user_id: request.user_id,
            from: filter.span.first.to_string(),
            to: filter.span.last.to_string(),
            ..Default::default()
        };
        let Some(by) = by else {
            let (days, missing) = self.days_of(&filter, longest).await?;
            return Ok(GetUsageReply { series: self.series(&filter, days), pending_records: int64(missing), ..reply });
        };
        self.keeper.up_to_date_within(&filter.user, filter.span, longest).await?;
        // The additional group shows whether another page follows.
        let (mut groups, missing) = self.uses.grouped(&filter, by, page.after.as_deref(), page.size + 1).await?;
        let has_next = groups.len() > page.size as usize;
        groups.truncate(page.size as usize);
        let last = groups.last().filter(|_| has_next);
        Ok(GetUsageReply {
            next_page_token: last.map(|(value, _)| token(by, value)).unwrap_or_default(),
            groups: groups.iter().map(|(value, sums)| usage_group(by, value, sums)).collect(),
            pending_records: int64(missing),
            ..reply
        })
    }

    /// The days with use, and the number of records that they lack. The charges keep the sums of each
    /// service themselves.
    async fn days_of(&self, filter: &UseFilter, longest: Duration) -> Result<(Vec<DailyUse>, u64)> {
        if filter.model.is_none() && filter.api_key.is_none() {
            return Ok((self.statistics.daily(&filter.user, filter.span).await?, 0));
        }
        self.keeper.up_to_date_within(&filter.user, filter.span, longest).await?;
        Ok(self.uses.daily_of(filter).await?)
    }

    /// A series for each configured service, and for each service that is no longer configured but
    /// was used in these days.
    fn series(&self, filter: &UseFilter, days: Vec<DailyUse>) -> Vec<UsageSeries> {
        let mut by_service: BTreeMap<ServiceName, BTreeMap<NaiveDate, Totals>> = match &filter.service {
            Some(service) => [(service.clone(), BTreeMap::new())].into(),
            None => self.catalog.services().map(|service| (service.clone(), BTreeMap::new())).collect(),
        };
        for day in days {
            if filter.service.as_ref().is_none_or(|only| *only == day.service) {
                by_service.entry(day.service).or_default().insert(day.day, day.totals);
            }
        }
        let span = filter.span;
        let series = by_service.into_iter().map(|(service, days)| UsageSeries {
            service_name: service.to_string(),
            days: span
                .first
                .iter_days()
                .take_while(|day| *day <= span.last)
                .map(|day| usage_day(day, days.get(&day).copied().unwrap_or_default()))
                .collect(),
        });
        series.collect()
    }

    fn usage_span(&self, request: &GetUsageRequest) -> Result<DaySpan> {
        let today = self.calendar.now().day;
        let last = parse_day("from", &request.from).map_or(today, |from| from.max(today));
        let span = span(&request.from, &request.to, last, |last| {
            last.checked_sub_days(Days::new(DEFAULT_DAYS - 1)).unwrap_or(last)
        })?;
        if span.days() > MAX_DAYS {
            return Err(Invalid::new("from", format!("must be at most {MAX_DAYS} days before to")).into());
        }
        Ok(span)
    }
}

fn group_by(name: &str) -> Result<Option<GroupBy>> {
    if name.is_empty() {
        return Ok(None);
    }
    let names = GroupBy::ALL.map(GroupBy::name).join(", ");
    let by = GroupBy::from_name(name)
        .ok_or_else(|| Invalid::new("group_by", format!("must be one of {names}, or empty")))?;
    Ok(Some(by))
}

/// A requested page of groups.
#[derive(Debug)]
struct GroupPage {
    /// The last value of the page before.
    after: Option<String>,
    size: u32,
}

impl GroupPage {
    fn parse(by: Option<GroupBy>, request: &GetUsageRequest) -> Result<Self> {
        let size = match u32::try_from(request.page_size) {
            Ok(0) => MAX_GROUPS,
            Ok(size) if size <= MAX_GROUPS && by.is_some() => size,
            _ if by.is_none() => return Err(Invalid::new("page_size", "must be absent without group_by").into()),
            _ => return Err(Invalid::new("page_size", format!("must be 1 to {MAX_GROUPS}")).into()),
        };
        let after = match request.page_token.as_str() {
            "" => None,
            given => {
                let value = by.and_then(|by| value_of(by, given));
                Some(value.ok_or_else(|| Invalid::new("page_token", "is not a next_page_token of these groups"))?)
            }
        };
        Ok(Self { after, size })
    }
}

/// The end of a page, opaque to callers.
fn token(by: GroupBy, value: &str) -> String {
    BASE64_URL_SAFE_NO_PAD.encode(format!("{}.{value}", by.name()))
}

fn value_of(by: GroupBy, token: &str) -> Option<String> {
    if token.len() > MAX_TOKEN {
        return None;
    }
    let decoded = String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    let value = decoded.strip_prefix(by.name())?.strip_prefix('.')?;
    let is_value = match by {
        GroupBy::Day => parse_day("page_token", value).is_ok(),
        _ => value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()),
    };
    is_value.then(|| value.to_owned())
}

fn usage_group(by: GroupBy, value: &str, sums: &UseSums) -> UsageGroup {
    let of = |property: GroupBy| if property == by { value.to_owned() } else { String::new() };
    let (free, paid) = (sums.get(UseCount::FreeUnits), sums.get(UseCount::PaidUnits));
    let refunded = sums.get(UseCount::RefundedFree).saturating_add(sums.get(UseCount::RefundedPaid));
    UsageGroup {
        service_name: of(GroupBy::Service),
        model: of(GroupBy::Model),
        api_key_id: of(GroupBy::ApiKey),
        date: of(GroupBy::Day),
        calls: sums.get(UseCount::Calls),
        total_units: free.saturating_add(paid),
        free_units: free,
        paid_units: paid,
        total_cost: sums.amount.to_wire(),
        refunded_units: refunded,
        refunded_cost: sums.refunded_amount.to_wire(),
        input_tokens: sums.get(UseCount::InputTokens),
        cached_input_tokens: sums.get(UseCount::CachedInputTokens),
        cache_write_tokens: sums.get(UseCount::CacheWriteTokens),
        cache_write_1h_tokens: sums.get(UseCount::CacheWrite1hTokens),
        audio_input_tokens: sums.get(UseCount::AudioInputTokens),
        output_tokens: sums.get(UseCount::OutputTokens),
        reasoning_tokens: sums.get(UseCount::ReasoningTokens),
        audio_output_tokens: sums.get(UseCount::AudioOutputTokens),
        images: sums.get(UseCount::Images),
    }
}

fn usage_day(day: NaiveDate, totals: Totals) -> UsageDay {
    UsageDay {
        date: day.to_string(),
        total_count: int32(totals.total_count()),
        total_cost: totals.amount.to_wire(),
        free_count: int32(totals.free_count),
        paid_count: int32(totals.paid_count),
        total_units: int64(totals.total_count()),
        free_units: int64(totals.free_count),
        paid_units: int64(totals.paid_count),
        refunded_count: int32(totals.refunded_count),
        refunded_cost: totals.refunded_amount.to_wire(),
        refunded_units: int64(totals.refunded_count),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_leads_on_only_in_its_own_groups() {
        for by in GroupBy::ALL {
            let value = if by == GroupBy::Day { "2026-11-21" } else { "a b.c" };
            assert_eq!(value_of(by, &token(by, value)), Some(value.to_owned()));
            for other in GroupBy::ALL.into_iter().filter(|other| *other != by) {
                assert_eq!(value_of(other, &token(by, value)), None, "{} {}", by.name(), other.name());
            }
        }
        assert_eq!(value_of(GroupBy::Model, &token(GroupBy::Model, "")), Some(String::new()));
        assert_eq!(value_of(GroupBy::Model, &token(GroupBy::Model, "\u{e9}")), None);
        assert_eq!(value_of(GroupBy::Model, "===="), None);
        let longest = "x".repeat(ApiKeyId::MAX_LEN);
        assert_eq!(value_of(GroupBy::ApiKey, &token(GroupBy::ApiKey, &longest)), Some(longest));
    }
}
