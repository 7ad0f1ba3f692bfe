//! Free quotas, caps and quotas of API keys, as bars.

use std::collections::BTreeSet;

use futures_util::future::try_join_all;
use maud::{Markup, html};

use super::usage_data::{By, groups};
use crate::{
    biz::{jobs::low_balance::Thresholds, values::error::Result},
    console::{chart::part, controls::badge, format, page::Page},
    service::proto::{ApiKeyQuota, FreeQuota, GetApiKeyQuotaRequest, UserLimits},
    texts::Texts,
};

/// Most API keys whose quotas a page shows.
const MAX_KEYS: usize = 10;
/// The width of a bar in its own units.
const WIDTH: i64 = 1_000;

/// A bar: the used part, and the held part behind it.
struct Bar {
    name: String,
    used: i64,
    held: i64,
    total: i64,
    is_low: bool,
    /// The numbers in words.
    words: String,
}

impl Bar {
    fn show(&self, texts: Texts) -> Markup {
        let used = part(self.used, self.total, WIDTH);
        let held = part(self.held, self.total, WIDTH).min(WIDTH - used);
        html! {
            div.quota {
                div.line {
                    strong { (self.name) }
                    @if self.used + self.held >= self.total { (badge("bad", texts.get("quota.used_up"))) }
                    @else if self.is_low { (badge("warn", texts.get("quota.low"))) }
                    span.number { (self.words) }
                }
                svg.meter viewBox="0 0 1000 10" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
                    rect.track width="1000" height="10" {}
                    rect.used width=(used) height="10" {}
                    rect.held x=(used) width=(held) height="10" {}
                }
            }
        }
    }
}

/// The free quotas of the month, a bar each.
pub(super) fn free(page: &Page, quotas: &[FreeQuota]) -> Markup {
    let texts = page.texts;
    html! {
        @for quota in quotas {
            @if quota.total_units == 0 && quota.used_units == 0 {
                p.quiet { strong { (quota.service_name) } " " (texts.get("quota.no_free")) }
            } @else { (free_bar(texts, quota, page.console.settings.thresholds).show(texts)) }
        }
    }
}

fn free_bar(texts: Texts, quota: &FreeQuota, thresholds: Thresholds) -> Bar {
    let (used, held, total) = (quota.used_units, quota.held_units, quota.total_units);
    let left = total.saturating_sub(used).saturating_sub(held).max(0);
    Bar {
        name: quota.service_name.clone(),
        used,
        held,
        total,
        is_low: thresholds.is_low_quota(left, total),
        words: words(
            texts,
            &format::count(used),
            &format::count(total),
            Some(held).filter(|held| *held > 0).map(format::count),
        ),
    }
}

fn words(texts: Texts, used: &str, total: &str, held: Option<String>) -> String {
    match held {
        Some(held) => texts.with("quota.numbers_held", &[("used", &used), ("total", &total), ("held", &held)]),
        None => texts.with("quota.numbers", &[("used", &used), ("total", &total)]),
    }
}

/// The caps on requests.
pub(super) fn caps(texts: Texts, limits: &UserLimits) -> Markup {
    let cap = |name: &str, used: i32, limit: i32| Bar {
        name: name.to_owned(),
        used: used.into(),
        held: 0,
        total: limit.into(),
        is_low: false,
        words: words(texts, &format::count(used.into()), &format::count(limit.into()), None),
    };
    html! {
        @if let Some(limit) = limits.daily_limit {
            (cap(texts.get("quota.day"), limits.daily_used, limit).show(texts))
        }
        @if let Some(limit) = limits.monthly_limit {
            (cap(texts.get("quota.month"), limits.monthly_used, limit).show(texts))
        }
    }
}

/// The quotas of the API keys with which the account was charged in the last 30 days; none for readers who may not
/// see them.
pub(super) async fn of_keys(page: &Page) -> Result<Vec<(String, Vec<ApiKeyQuota>)>> {
    if !page.sees_key_quotas {
        return Ok(Vec::new());
    }
    let (groups, _) = groups(page, By::ApiKey).await?;
    let keys: BTreeSet<String> =
        groups.into_iter().map(|group| group.api_key_id).filter(|key| !key.is_empty()).take(MAX_KEYS).collect();
    let limits = &page.console.api.limits;
    let replies = keys.into_iter().map(|key| limits.get_api_key_quota(GetApiKeyQuotaRequest { api_key_id: key }));
    let replies = try_join_all(replies).await?.into_iter().filter(|reply| !reply.quotas.is_empty());
    Ok(replies.map(|reply| (reply.api_key_id, reply.quotas)).collect())
}

pub(in crate::console) fn key_quotas(texts: Texts, key: &str, quotas: &[ApiKeyQuota]) -> Markup {
    html! {
        h3 { code { (key) } }
        @for quota in quotas { (key_bar(texts, quota).show(texts)) }
    }
}

fn key_bar(texts: Texts, quota: &ApiKeyQuota) -> Bar {
    let (used, total) = (format::amount(quota.used), format::amount(quota.limit));
    let shown = |amount: crate::biz::values::money::Money| match quota.quota_type.as_str() {
        "amount" => format::money(amount),
        _ => format::count(amount.micros() / 1_000_000),
    };
    let kind = texts.word("quota_type", &quota.quota_type);
    Bar {
        name: texts.with("quota.of_key", &[("kind", &kind), ("period", &texts.word("period", &quota.period))]),
        used: used.micros(),
        held: 0,
        total: total.micros(),
        is_low: false,
        words: words(texts, &shown(used), &shown(total), None),
    }
}
