//! The first page: balance, free quotas, limits, and the use of the last 30 days.

use axum::response::Response;
use futures_util::try_join;
use maud::{Markup, html};

use super::{
    quotas,
    usage::{days, heading},
    usage_data::{By, load},
};
use crate::{
    biz::values::money::Money,
    console::{
        controls::{amount, badge},
        format,
        layout::Section,
        page::Page,
    },
    service::proto::{GetAccountReply, GetAccountRequest, GetStatsMonthRequest, GetStatsReply},
    texts::Texts,
};

/// The status of an account that takes calls.
pub(super) const ACTIVE: &str = "ACTIVE";

pub(super) async fn show(page: Page) -> Result<Response, Response> {
    let api = &page.console.api;
    let month = GetStatsMonthRequest { user_id: page.user.clone(), ..Default::default() };
    let read = try_join!(
        api.accounts.get_account(GetAccountRequest { user_id: page.user.clone() }),
        api.reports.get_stats_month(month),
        load(&page, By::Service, None),
        quotas::of_keys(&page),
    );
    let (account, month, usage, keys) = page.ok(read)?;
    let texts = page.texts;
    let has_caps = account.limits.is_some_and(|caps| caps.daily_limit.is_some() || caps.monthly_limit.is_some());
    let content = html! {
        h1 { (texts.get("overview.title")) }
        (status(&page, &account))
        (balance(&page, &account, &month))
        section.card {
            div.line {
                h2 { (heading(texts, usage.chart.measure, &account.currency)) }
                a href=(page.link("/console/usage", &[])) { (texts.get("overview.more_usage")) }
            }
            @if usage.chart.is_empty() { p.empty { (texts.get("usage.none")) } }
            @else {
                (usage.chart.draw(texts, texts.get("usage.title")))
                details { summary { (texts.get("usage.by_day")) } (days(&page, &usage)) }
            }
        }
        div.halves {
            section.card {
                h2 { (texts.with("overview.quotas", &[("month", &quota_month(&account))])) }
                (quotas::free(&page, &account.quotas))
            }
            @if has_caps || !keys.is_empty() {
                div.column {
                    @if has_caps && let Some(limits) = &account.limits {
                        section.card { h2 { (texts.get("overview.caps")) } (quotas::caps(texts, limits)) }
                    }
                    @if !keys.is_empty() {
                        section.card {
                            h2 { (texts.get("overview.keys")) }
                            @for (key, of_key) in &keys { (quotas::key_quotas(texts, key, of_key)) }
                        }
                    }
                }
            }
        }
    };
    Ok(page.respond(Section::Overview, texts.get("overview.title"), content))
}

/// Warnings about the account.
fn status(page: &Page, account: &GetAccountReply) -> Markup {
    let texts = page.texts;
    html! {
        @if account.status != ACTIVE {
            (not_active(texts, &account.status))
        }
        @if page.is_read_only && !page.is_for_operators() { p.notice { (texts.get("overview.read_only")) } }
    }
}

/// The notice of an account with another status than [`ACTIVE`].
pub(super) fn not_active(texts: Texts, status: &str) -> Markup {
    html! {
        p.notice.bad role="status" {
            (texts.with("overview.not_active", &[("status", &texts.word("account_status", status))]))
        }
    }
}

/// Balance and available amount, and the month so far.
fn balance(page: &Page, account: &GetAccountReply, month: &GetStatsReply) -> Markup {
    let texts = page.texts;
    let available = available(account);
    let is_low = page.console.settings.thresholds.is_low_balance(available);
    let (currency, held) = (&account.currency, format::wire_money(account.held));
    let (total, free) = (format::count(month.total_units), format::count(month.free_units));
    html! {
        div.tiles {
            section.card.tile {
                h2 { (texts.get("overview.available")) }
                (amount(available, currency))
                @if available.is_negative() { p { (badge("bad", texts.get("overview.debt"))) } }
                @else if is_low { p { (badge("warn", texts.get("overview.low"))) } }
                @if account.status == ACTIVE && !page.is_read_only {
                    p { a.button.primary href=(page.link("/console/top-up", &[])) { (texts.get("top_up.title")) } }
                }
            }
            section.card.tile {
                h2 { (texts.get("overview.balance")) }
                (amount(format::amount(account.balance), currency))
                p.quiet { (texts.with("overview.held", &[("amount", &held), ("currency", currency)])) }
            }
            section.card.tile {
                h2 { (texts.get("overview.month")) }
                (amount(format::amount(month.total_cost), currency))
                p.quiet { (texts.with("overview.plan", &[("plan", &account.plan)])) }
                p.quiet {
                    (texts.with("overview.units", &[("total", &total), ("free", &free)]))
                }
            }
        }
    }
}

/// The balance without its holds.
fn available(account: &GetAccountReply) -> Money {
    format::amount(account.balance).minus(format::amount(account.held))
}

fn quota_month(account: &GetAccountReply) -> &str {
    account.quotas.first().map(|quota| quota.reset_month.as_str()).unwrap_or_default()
}
