//! The use of the last 30 days, by service, model or API key.

use axum::response::Response;
use maud::{Markup, html};

use super::usage_data::{By, Use, load};
use crate::{
    console::{
        chart::Measure,
        controls::{self, select},
        format,
        layout::Section,
        page::Page,
    },
    service::proto::UsageGroup,
    texts::Texts,
};

pub(super) async fn show(page: Page) -> Result<Response, Response> {
    let by = By::of_name(page.parameter("by"));
    let measure = match page.parameter("measure") {
        "cost" => Some(Measure::Cost),
        "units" => Some(Measure::Units),
        _ => None,
    };
    let shown = page.ok(load(&page, by, measure).await)?;
    let (texts, zone) = (page.texts, page.console.calendar.zone_name());
    let content = html! {
        h1 { (texts.get("usage.title")) }
        p.quiet { (texts.with("usage.span", &[("from", &shown.from), ("to", &shown.to), ("zone", &zone)])) }
        (filters(&page, by, shown.chart.measure))
        @if shown.pending > 0 {
            p.notice { (texts.with("usage.pending", &[("count", &format::count(shown.pending))])) }
        }
        section.card {
            h2 { (heading(texts, shown.chart.measure, &page.console.settings.currency)) }
            @if shown.chart.is_empty() {
                p.empty { (texts.get("usage.none")) }
            } @else {
                (shown.chart.draw(texts, texts.get("usage.title")))
            }
        }
        @if !shown.groups.is_empty() {
            section.card {
                h2 { (by_name(texts, by)) }
                @if shown.has_more { p.notice { (texts.get("usage.more")) } }
                (sums(texts, by, &shown))
            }
            section.card { h2 { (texts.get("usage.by_day")) } (days(&page, &shown)) }
        }
    };
    Ok(page.respond(Section::Usage, texts.get("usage.title"), content))
}

pub(super) fn heading(texts: Texts, measure: Measure, currency: &str) -> String {
    match measure {
        Measure::Cost => texts.with("usage.cost_by_day", &[("currency", &currency)]),
        Measure::Units => texts.get("usage.units_by_day").to_owned(),
    }
}

fn by_name(texts: Texts, by: By) -> &'static str {
    match by {
        By::Service => texts.get("usage.by_service"),
        By::Model => texts.get("usage.by_model"),
        By::ApiKey => texts.get("usage.by_api_key"),
    }
}

/// The head of the column of the groups.
fn column(texts: Texts, by: By) -> &'static str {
    match by {
        By::Service => texts.get("column.service"),
        By::Model => texts.get("column.model"),
        By::ApiKey => texts.get("column.api_key"),
    }
}

fn filters(page: &Page, by: By, measure: Measure) -> Markup {
    let texts = page.texts;
    let groups = By::ALL.map(|by| (by.name().to_owned(), by_name(texts, by).to_owned()));
    let measures = [("cost", texts.get("usage.cost")), ("units", texts.get("usage.units"))];
    let measures = measures.map(|(value, text)| (value.to_owned(), text.to_owned()));
    let measure = if measure == Measure::Cost { "cost" } else { "units" };
    html! {
        form.filters method="get" action="/console/usage" data-apply {
            @if !page.named().is_empty() { (controls::hidden("user_id", page.named())) }
            (select("by", texts.get("usage.group"), "", &groups, by.name()))
            (select("measure", texts.get("usage.measure"), "", &measures, measure))
            button { (texts.get("filter.apply")) }
        }
    }
}

fn sums(texts: Texts, by: By, shown: &Use) -> Markup {
    let name = |group: &UsageGroup| match by.value(group) {
        "" => texts.get("usage.without").to_owned(),
        value => value.to_owned(),
    };
    let numbers = [
        texts.get("column.cost"),
        texts.get("column.calls"),
        texts.get("column.units"),
        texts.get("column.free"),
        texts.get("column.tokens_in"),
        texts.get("column.tokens_out"),
        texts.get("column.refunded"),
    ];
    let counts = |group: &UsageGroup| {
        [group.calls, group.total_units, group.free_units, group.input_tokens, group.output_tokens].map(format::count)
    };
    let content = html! {
        (controls::head(&[column(texts, by)], &numbers, &[]))
        tbody {
            @let others = shown.others.iter().map(|group| (texts.get("usage.other").to_owned(), group));
            @for (name, group) in shown.groups.iter().map(|group| (name(group), group)).chain(others) {
                tr {
                    th scope="row" { (name) }
                    td.number { (format::wire_money(group.total_cost)) }
                    @for count in counts(group) { td.number { (count) } }
                    td.number { (format::wire_money(group.refunded_cost)) }
                }
            }
        }
    };
    controls::table(by_name(texts, by), &content)
}

/// The numbers of the chart, newest first. A day leads to its records.
pub(super) fn days(page: &Page, shown: &Use) -> Markup {
    let (texts, chart) = (page.texts, &shown.chart);
    let columns = chart.series.iter().map(|(name, _)| name.as_str());
    let columns: Vec<&str> = [texts.get("chart.total")].into_iter().chain(columns).collect();
    let content = html! {
        (controls::head(&[texts.get("column.day")], &columns, &[]))
        tbody {
            @for (day, date) in chart.days.iter().enumerate().rev() {
                tr {
                    th scope="row" {
                        a href=(page.link("/console/records", &[("from", date), ("to", date)])) { (date) }
                    }
                    td.number { (chart.measure.text(chart.total(day))) }
                    @for (_, values) in &chart.series { td.number { (chart.measure.text(values[day])) } }
                }
            }
        }
    };
    controls::table(texts.get("usage.by_day"), &content)
}
