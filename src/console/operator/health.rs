//! The health of this server.

use axum::response::Response;
use maud::{Markup, html};

use super::desk::Desk;
use crate::{
    console::{
        controls::{self, badge},
        format,
        layout::Tool,
    },
    service::{Health, Hour},
    texts::Texts,
};

/// Most rpcs that the page lists.
const MAX_RPCS: usize = 40;

pub(super) async fn show(desk: Desk) -> Result<Response, Response> {
    let health = desk.console.api.operations.health().await;
    let texts = desk.texts;
    let content = html! {
        h1 { (texts.get("health.title")) }
        p.quiet { (texts.with("health.about", &[("version", &health.version)])) }
        section.card { h2 { (texts.get("health.parts")) } (parts(texts, &health)) }
        section.card {
            h2 { (texts.with("health.hour", &[("minutes", &(health.hour.covers.as_secs() / 60))])) }
            @if health.hour.times.is_empty() { p.empty { (texts.get("health.no_calls")) } } @else { (times(texts, &health.hour)) }
        }
        section.card {
            h2 { (texts.get("health.rates")) }
            @if health.hour.rpcs.is_empty() { p.empty { (texts.get("health.no_calls")) } } @else { (rates(texts, &health.hour)) }
        }
    };
    Ok(desk.respond(Tool::Health, texts.get("health.title"), content))
}

fn up(texts: Texts, is_up: bool) -> Markup {
    if is_up { badge("good", texts.get("health.up")) } else { badge("bad", texts.get("health.down")) }
}

fn parts(texts: Texts, health: &Health) -> Markup {
    let waiting: usize = health.lanes.iter().sum();
    let longest = health.lanes.iter().max().copied().unwrap_or_default();
    html! {
        dl.facts {
            dt { (texts.get("health.database")) }
            dd {
                (up(texts, health.database.is_some()))
                @if let Some(took) = health.database {
                    " " (texts.with("health.answered", &[("ms", &format::milliseconds(took.as_secs_f64() * 1_000.0))]))
                }
                @if !health.is_on_first_host { " " (badge("warn", texts.get("health.other_host"))) }
            }
            dt { "Redis" }
            dd {
                @match health.redis {
                    Some(is_up) => (up(texts, is_up)),
                    None => span.quiet { (texts.get("health.no_redis")) },
                }
            }
            dt { (texts.get("health.skew")) }
            dd { (texts.with("health.seconds", &[("seconds", &format!("{:+.3}", health.clock_skew_seconds))])) }
            dt { (texts.get("health.lanes")) }
            dd {
                (texts.with("health.waiting", &[("lanes", &health.lanes.len()), ("waiting", &waiting), ("longest", &longest)]))
            }
            dt { (texts.get("health.parked")) }
            dd {
                (texts.with("health.parked_of", &[("postings", &health.parked_postings), ("accounts", &health.parked_accounts)]))
            }
            dt { (texts.get("health.reads")) }
            dd {
                @let [near, shared, database] = health.reads.map(|count| format::count(i64::try_from(count).unwrap_or(i64::MAX)));
                (texts.with("health.read_from", &[("near", &near), ("shared", &shared), ("database", &database)]))
            }
        }
    }
}

fn times(texts: Texts, hour: &Hour) -> Markup {
    let numbers = [texts.get("health.count"), "p50", "p99"];
    let content = html! {
        (controls::head(&[texts.get("health.operation")], &numbers, &[]))
        tbody {
            @for time in &hour.times {
                tr {
                    th scope="row" { (texts.word("operation", &time.operation)) }
                    td.number { (format::count(i64::try_from(time.count).unwrap_or(i64::MAX))) }
                    td.number { (bound(texts, time.p50_ms)) }
                    td.number { (bound(texts, time.p99_ms)) }
                }
            }
        }
    };
    controls::table(texts.get("health.operation"), &content)
}

/// The upper bound of a bucket.
fn bound(texts: Texts, ms: f64) -> String {
    if ms.is_finite() {
        texts.with("health.at_most", &[("ms", &format::milliseconds(ms))])
    } else {
        texts.get("health.beyond").to_owned()
    }
}

fn rates(texts: Texts, hour: &Hour) -> Markup {
    let seconds = hour.covers.as_secs_f64().max(1.0);
    let numbers = [texts.get("health.count"), texts.get("health.per_second"), texts.get("health.faults")];
    let content = html! {
        (controls::head(&[texts.get("audit.rpc")], &numbers, &[]))
        tbody {
            @for rpc in hour.rpcs.iter().take(MAX_RPCS) {
                tr {
                    th scope="row" { (rpc.rpc) }
                    td.number { (format::count(i64::try_from(rpc.requests).unwrap_or(i64::MAX))) }
                    td.number { (format::rate(rpc.requests, seconds)) }
                    td.number { (format::count(i64::try_from(rpc.faults).unwrap_or(i64::MAX))) }
                }
            }
        }
    };
    controls::table(texts.get("health.rates"), &content)
}
