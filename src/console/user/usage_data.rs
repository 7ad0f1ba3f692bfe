//! The use of an account over the last days, for charts and their tables.

use std::collections::BTreeMap;

use futures_util::{
    TryStreamExt,
    stream::{StreamExt, iter},
    try_join,
};

use crate::{
    biz::values::{error::Result, money::Money},
    console::{
        chart::{COLOURS, Chart, Measure},
        format,
        page::Page,
    },
    service::proto::{GetUsageReply, GetUsageRequest, UsageDay, UsageGroup},
};

/// Reads of one account at once. More of them would wait for their turn.
const READS_AT_ONCE: usize = 2;

/// The property by which use is grouped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Service,
    Model,
    ApiKey,
}

impl By {
    pub const ALL: [Self; 3] = [Self::Service, Self::Model, Self::ApiKey];

    /// Its name in the contract and in addresses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Model => "model",
            Self::ApiKey => "api_key",
        }
    }

    pub fn of_name(name: &str) -> Self {
        Self::ALL.into_iter().find(|by| by.name() == name).unwrap_or(Self::Service)
    }

    /// The value of a group.
    pub fn value(self, group: &UsageGroup) -> &str {
        match self {
            Self::Service => &group.service_name,
            Self::Model => &group.model,
            Self::ApiKey => &group.api_key_id,
        }
    }
}

/// Most groups that a page shows, so that it stays small. A name has at most 128 bytes.
const MAX_ROWS: usize = 50;

/// The use of some days.
pub(super) struct Use {
    pub chart: Chart,
    /// Largest first; at most [`MAX_ROWS`].
    pub groups: Vec<UsageGroup>,
    /// The sum of the smaller groups.
    pub others: Option<UsageGroup>,
    /// Whether the account has more groups than one reply has.
    pub has_more: bool,
    pub from: String,
    pub to: String,
    /// Charges that the groups may lack.
    pub pending: i64,
}

/// The groups of the last 30 days, those of the largest cost first, and the reply that has them.
pub(super) async fn groups(page: &Page, by: By) -> Result<(Vec<UsageGroup>, GetUsageReply)> {
    let reports = &page.console.api.reports;
    let request = GetUsageRequest { group_by: by.name().into(), ..of_user(page) };
    let mut reply = reports.get_usage_within(request, page.patience()).await?;
    let mut groups = std::mem::take(&mut reply.groups);
    groups.sort_by_key(|group| std::cmp::Reverse((format::amount(group.total_cost), group.total_units)));
    Ok((groups, reply))
}

/// The use of the last 30 days. `measure` is the cost unless nothing was paid, if the page names none.
pub(super) async fn load(page: &Page, by: By, measure: Option<Measure>) -> Result<Use> {
    let ((mut groups, reply), all) = try_join!(groups(page, by), page.console.api.reports.get_usage(of_user(page)))?;
    let is_paid = groups.iter().any(|group| group.total_cost != 0.0);
    let measure = measure.unwrap_or(if is_paid { Measure::Cost } else { Measure::Units });
    if measure == Measure::Units {
        groups.sort_by_key(|group| std::cmp::Reverse(group.total_units));
    }
    let days = all.series.first().map(|series| series.days.iter().map(|day| day.date.clone()).collect());
    let days: Vec<String> = days.unwrap_or_default();
    let total = sum_of(&all, measure, days.len());
    let (mut series, pending) = match by {
        By::Service => (services(&all, measure), 0),
        By::Model | By::ApiKey => named(page, by, &groups, measure, days.len()).await?,
    };
    series.truncate(COLOURS - 1);
    let mut rest = total;
    for (_, values) in &series {
        // A charge that came between two reads must not show as less than nothing.
        rest.iter_mut().zip(values).for_each(|(rest, value)| *rest = (*rest - value).max(0));
    }
    if rest.iter().any(|value| *value > 0) {
        series.push((page.texts.get("usage.other").to_owned(), rest));
    }
    let chart = Chart { measure, series, days };
    let smaller = groups.split_off(MAX_ROWS.min(groups.len()));
    let has_more = !reply.next_page_token.is_empty();
    let others = sum_of_groups(&smaller);
    Ok(Use {
        chart,
        groups,
        others,
        has_more,
        from: reply.from,
        to: reply.to,
        pending: reply.pending_records.max(pending),
    })
}

/// The columns of the table of some groups; `None` without a group.
fn sum_of_groups(groups: &[UsageGroup]) -> Option<UsageGroup> {
    let count = |number: fn(&UsageGroup) -> i64| groups.iter().map(number).fold(0, i64::saturating_add);
    let cost = |number: fn(&UsageGroup) -> f64| {
        let micros = groups.iter().map(|group| format::amount(number(group)).micros()).fold(0, i64::saturating_add);
        Money::from_micros(micros).to_wire()
    };
    (!groups.is_empty()).then(|| UsageGroup {
        calls: count(|group| group.calls),
        total_units: count(|group| group.total_units),
        free_units: count(|group| group.free_units),
        input_tokens: count(|group| group.input_tokens),
        output_tokens: count(|group| group.output_tokens),
        refunded_cost: cost(|group| group.refunded_cost),
        total_cost: cost(|group| group.total_cost),
        ..Default::default()
    })
}

/// The services with use, largest first. The charges keep their sums, so they lack nothing.
fn services(all: &GetUsageReply, measure: Measure) -> Vec<(String, Vec<i64>)> {
    let of_service = all.series.iter().map(|one| (one.service_name.clone(), values(&one.days, measure)));
    let sum = |values: &[i64]| values.iter().fold(0_i64, |sum, value| sum.saturating_add(*value));
    let mut services: Vec<_> = of_service.filter(|(_, values)| sum(values) > 0).collect();
    services.sort_by_key(|(_, values)| std::cmp::Reverse(sum(values)));
    services
}

/// The largest models or API keys, and the number of records that their reads lack.
async fn named(
    page: &Page,
    by: By,
    groups: &[UsageGroup],
    measure: Measure,
    days: usize,
) -> Result<(Vec<(String, Vec<i64>)>, i64)> {
    let names = groups.iter().map(|group| by.value(group)).filter(|value| !value.is_empty());
    let names: Vec<&str> = names.take(COLOURS - 1).collect();
    let reads = names.iter().map(|value| days_of(page, by, value, measure, days));
    let daily: Vec<_> = iter(reads.collect::<Vec<_>>()).buffered(READS_AT_ONCE).try_collect().await?;
    let (daily, pending): (Vec<_>, Vec<_>) = daily.into_iter().unzip();
    let series = names.into_iter().map(str::to_owned).zip(daily).collect();
    Ok((series, pending.into_iter().max().unwrap_or_default()))
}

/// The daily use of one model or API key, over all services, and the number of records that it lacks.
async fn days_of(page: &Page, by: By, value: &str, measure: Measure, days: usize) -> Result<(Vec<i64>, i64)> {
    let mut request = of_user(page);
    match by {
        By::Model => request.model = value.into(),
        _ => request.api_key_id = value.into(),
    }
    let reply = page.console.api.reports.get_usage_within(request, page.patience()).await?;
    Ok((sum_of(&reply, measure, days), reply.pending_records))
}

fn sum_of(reply: &GetUsageReply, measure: Measure, days: usize) -> Vec<i64> {
    let mut sums = BTreeMap::<usize, i64>::new();
    for series in &reply.series {
        for (day, value) in values(&series.days, measure).into_iter().enumerate() {
            let sum = sums.entry(day).or_default();
            *sum = sum.saturating_add(value);
        }
    }
    (0..days).map(|day| sums.get(&day).copied().unwrap_or_default()).collect()
}

fn values(days: &[UsageDay], measure: Measure) -> Vec<i64> {
    let value = |day: &UsageDay| match measure {
        Measure::Cost => format::amount(day.total_cost).micros(),
        Measure::Units => day.total_units,
    };
    days.iter().map(value).collect()
}

fn of_user(page: &Page) -> GetUsageRequest {
    GetUsageRequest { user_id: page.user.clone(), ..Default::default() }
}
