//! The price versions: of all models, and those of one model on a time line.

use axum::response::Response;
use maud::{Markup, html};

use super::{actions, desk::Desk};
use crate::{
    console::{
        controls::{
            self,
            Column::{Number, Text},
            badge,
        },
        format,
        layout::Tool,
        link::link,
    },
    service::{
        proto::{ListPriceVersionsRequest, PriceVersion},
        timestamp::Timestamp,
    },
    texts::Texts,
};

/// Versions of one page. A time line has no more.
const PAGE_SIZE: i32 = 50;
const PATH: &str = "/console/prices";

pub(super) async fn list(desk: Desk) -> Result<Response, Response> {
    let (model, after) = (desk.parameter("model"), desk.parameter("after"));
    let request =
        ListPriceVersionsRequest { model: model.to_owned(), page_size: PAGE_SIZE, page_token: after.to_owned() };
    let reply = desk.ok(desk.console.api.prices.list_price_versions(request).await)?;
    let texts = desk.texts;
    let page = |after: &str| link(PATH, &[("model", model), ("after", after)]);
    let newest = Some(page("")).filter(|_| !after.is_empty());
    let older = Some(page(&reply.next_page_token)).filter(|_| !reply.next_page_token.is_empty());
    let content = html! {
        div.line {
            h1 { (texts.get("prices.title")) @if !model.is_empty() { " " (model) } }
            a.button.primary href=(link(&actions::PUT_PRICE.path(), &[("model", model)])) { (texts.get("prices.new")) }
        }
        form.filters method="get" action=(PATH) {
            label { span { (texts.get("column.model")) }
                input name="model" maxlength="128" autocomplete="off" value=(model);
            }
            button.primary { (texts.get("filter.apply")) }
            @if !model.is_empty() { a href=(PATH) { (texts.get("filter.clear")) } }
        }
        @if !model.is_empty() && reply.versions.len() > 1 {
            section.card { (time_line(&desk, &reply.versions)) }
        }
        section.card {
            @if reply.versions.is_empty() { p.empty { (texts.get("prices.none")) } } @else { (table(&desk, &reply.versions, model)) }
            (controls::pager(texts, newest, older))
        }
    };
    Ok(desk.respond(Tool::Prices, texts.get("prices.title"), content))
}

fn seconds(at: Option<&Timestamp>) -> i64 {
    at.map_or(0, |at| at.seconds)
}

fn table(desk: &Desk, versions: &[PriceVersion], model: &str) -> Markup {
    let texts = desk.texts;
    let now = desk.console.calendar.now().utc.timestamp();
    let columns = [
        Text(texts.get("column.model")),
        Text(texts.get("column.status")),
        Number(texts.word("price_class", "input")),
        Number(texts.word("price_class", "cached_input")),
        Number(texts.word("price_class", "output")),
        Text(texts.get("prices.since")),
        Text(texts.get("prices.version")),
        Text(texts.get("prices.further")),
    ];
    // A page of one model names it above.
    let columns = if model.is_empty() { &columns[..] } else { &columns[1..] };
    let content = html! {
        (controls::columns(columns))
        tbody {
            @for version in versions {
                @let since = seconds(version.effective_from.as_ref());
                tr {
                    @if model.is_empty() {
                        td.model { a href=(link(PATH, &[("model", &version.model)])) { (version.model) } }
                    }
                    td.status {
                        @if !version.defect.is_empty() { (badge("bad", texts.get("prices.defect"))) " " (version.defect) }
                        @else if version.in_force { (badge("good", texts.get("prices.in_force"))) }
                        @else if since > now {
                            (badge("warn", texts.get("prices.to_come"))) " "
                            a href=(link(&actions::DELETE_PRICE.path(), &[("model", &version.model), ("version_id", &version.version_id)])) {
                                (texts.get("prices.delete"))
                            }
                        } @else { (badge("neutral", texts.get("prices.past"))) }
                    }
                    @for price in [version.input, version.cached_input, version.output] {
                        td.number { (price.map(format::number).unwrap_or_default()) }
                    }
                    td.time {
                        // Versions of the configuration have always been there.
                        @if since > 0 { (format::time(&desk.console.calendar, version.effective_from.as_ref())) }
                        @else { span.quiet { (texts.get("prices.configured")) } }
                    }
                    td { code { (version.version_id) } }
                    td { (further(texts, version)) }
                }
            }
        }
    };
    controls::table(texts.get("prices.title"), &content)
}

/// The prices beside the three of the table, in words.
fn further(texts: Texts, version: &PriceVersion) -> String {
    let classes = [
        ("cache_write", version.cache_write),
        ("cache_write_1h", version.cache_write_1h),
        ("audio_input", version.audio_input),
        ("reasoning", version.reasoning),
        ("audio_output", version.audio_output),
        ("request", version.request),
        ("image", version.image),
    ];
    let given = classes
        .into_iter()
        .filter_map(|(class, price)| Some(format!("{} {}", texts.word("price_class", class), format::number(price?))));
    let mut parts: Vec<String> = given.collect();
    let (tiers, factors, aliases) = (version.tiers.len(), version.service_tiers.len(), version.aliases.len());
    let counted = [
        (tiers, texts.with("prices.tiers", &[("count", &tiers)])),
        (factors, texts.with("prices.factors", &[("count", &factors)])),
        (aliases, texts.with("prices.aliases", &[("count", &aliases)])),
    ];
    parts.extend(counted.into_iter().filter(|(count, _)| *count > 0).map(|(_, text)| text));
    parts.join(", ")
}

/// The drawing in its own units.
const WIDTH: f64 = 1_000.0;
const HEIGHT: f64 = 220.0;
/// The time before the first version and after the last one, as a part of the whole.
const MARGIN: f64 = 0.05;
const DAY: i64 = 86_400;

/// The prices of input and output as steps over time. The table beneath has the same numbers.
fn time_line(desk: &Desk, versions: &[PriceVersion]) -> Markup {
    let texts = desk.texts;
    let now = desk.console.calendar.now().utc.timestamp();
    let mut sorted: Vec<&PriceVersion> = versions.iter().filter(|version| version.defect.is_empty()).collect();
    sorted.sort_by_key(|version| seconds(version.effective_from.as_ref()));
    let dated = sorted.iter().map(|version| seconds(version.effective_from.as_ref())).filter(|since| *since > 0);
    let dated: Vec<i64> = dated.chain([now]).collect();
    let (first, last) = (dated.iter().min().copied().unwrap_or(now), dated.iter().max().copied().unwrap_or(now));
    let span = (last - first).max(DAY) as f64;
    let (begin, width) = (first as f64 - span * MARGIN, span * (1.0 + 2.0 * MARGIN));
    let x = |at: i64| ((at as f64 - begin) / width * WIDTH).clamp(0.0, WIDTH);
    let prices = sorted.iter().flat_map(|version| [version.input, version.output]).flatten();
    let top = prices.fold(0.0_f64, f64::max).max(f64::MIN_POSITIVE);
    let y = |price: f64| HEIGHT - price / top * (HEIGHT - 20.0);
    let steps = |price: fn(&PriceVersion) -> Option<f64>| {
        let mut path = String::new();
        for (index, version) in sorted.iter().enumerate() {
            let Some(price) = price(version) else { continue };
            let from = x(seconds(version.effective_from.as_ref()));
            let until = sorted.get(index + 1).map_or(WIDTH, |next| x(seconds(next.effective_from.as_ref())));
            let step = if path.is_empty() { "M" } else { "L" };
            path.push_str(&format!("{step}{from:.1} {y:.1}H{until:.1}", y = y(price)));
        }
        path
    };
    let at_now = format!("{:.1}", x(now));
    html! {
        figure.chart {
            p.quiet { (texts.with("prices.top", &[("price", &format::number(top))])) }
            svg.time-line viewBox="0 0 1000 220" preserveAspectRatio="none" role="img" aria-label=(texts.get("prices.line")) {
                line.now x1=(at_now) x2=(at_now) y1="0" y2="220" {}
                path.s0 d=(steps(|version| version.input)) {}
                path.s1 d=(steps(|version| version.output)) {}
            }
            div.dates aria-hidden="true" {
                span { (format::time(&desk.console.calendar, Some(&at(first)))) }
                span { (format::time(&desk.console.calendar, Some(&at(last)))) }
            }
            figcaption {
                ul.legend {
                    li { (controls::swatch("c0")) (texts.word("price_class", "input")) }
                    li { (controls::swatch("c1")) (texts.word("price_class", "output")) }
                    li { (controls::swatch("c6")) (texts.get("prices.now")) }
                }
            }
        }
    }
}

fn at(seconds: i64) -> Timestamp {
    Timestamp { seconds, nanos: 0 }
}
