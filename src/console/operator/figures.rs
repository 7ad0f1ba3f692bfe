//! The state before and after a change, figure by figure, as an audit event and a preview have it.

use maud::{Markup, html};
use serde_json::{Map, Value};

use crate::{
    biz::values::money::Money,
    console::{controls, format},
    texts::Texts,
};

/// The figures that are amounts.
const AMOUNTS: [&str; 3] = [AMOUNT, "balance", "held"];
const AMOUNT: &str = "amount";
/// Most rows. A state has few; a price version has the most.
const MAX_ROWS: usize = 60;

/// A table of the figures: those of both states first. `currency` is that of amounts. A payment may have another one.
pub(super) fn table(texts: Texts, currency: &str, before: Option<&str>, after: Option<&str>) -> Markup {
    let (before, after) = (state(before), state(after));
    let own =
        find(&before, "currency").or_else(|| find(&after, "currency")).and_then(Value::as_str).unwrap_or(currency);
    let currency_of = |name: &str| if name == AMOUNT { own } else { currency };
    let names = before.iter().chain(&after).map(|(name, _)| name);
    let mut names: Vec<&String> = names.collect();
    let is_of_both = |name: &str| find(&before, name).is_some() && find(&after, name).is_some();
    names.sort_by_key(|name| (!is_of_both(name), *name));
    names.dedup();
    let content = html! {
        (controls::head(&[texts.get("figures.figure")], &[texts.get("audit.before"), texts.get("audit.after")], &[]))
        tbody {
            @for name in names.into_iter().take(MAX_ROWS) {
                @let (was, is) = (find(&before, name), find(&after, name));
                tr.changed[was != is] {
                    th scope="row" { (texts.word("figure", name)) }
                    td.number { (shown(texts, currency_of(name), name, was)) }
                    td.number { (shown(texts, currency_of(name), name, is)) }
                }
            }
        }
    };
    controls::table(texts.get("figures.title"), &content)
}

/// A table of fields of a form, with their values in force and to come.
pub(super) fn comparison(texts: Texts, rows: &[(&'static str, String, String)]) -> Markup {
    let content = html! {
        (controls::head(&[texts.get("figures.figure")], &[texts.get("figures.in_force"), texts.get("figures.new")], &[]))
        tbody {
            @for (name, was, is) in rows.iter().take(MAX_ROWS) {
                tr.changed[was != is] {
                    th scope="row" { (texts.word("field", name)) }
                    @for value in [was, is] {
                        td.number {
                            @if value.is_empty() { span.quiet { (texts.get("figures.none")) } }
                            @else { span.figure { (value) } }
                        }
                    }
                }
            }
        }
    };
    controls::table(texts.get("action.beside"), &content)
}

pub(super) fn find<'s>(state: &'s [(String, Value)], name: &str) -> Option<&'s Value> {
    state.iter().find(|(known, _)| known == name).map(|(_, value)| value).filter(|value| !value.is_null())
}

/// The figures of a state. Those of an object within it have their own names.
pub(super) fn state(json: Option<&str>) -> Vec<(String, Value)> {
    let parsed: Map<String, Value> = json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let mut figures = Vec::new();
    for (name, value) in parsed {
        match value {
            Value::Object(inner) => figures.extend(inner),
            value => figures.push((name, value)),
        }
    }
    figures
}

fn shown(texts: Texts, currency: &str, name: &str, value: Option<&Value>) -> Markup {
    let text = match value {
        None => return html! { span.quiet { (texts.get("figures.none")) } },
        Some(Value::String(text)) if AMOUNTS.contains(&name) => match text.parse::<Money>() {
            Ok(amount) => format!("{} {currency}", format::money(amount)),
            Err(_) => text.clone(),
        },
        Some(Value::String(text)) => texts.word("choice", text).to_owned(),
        Some(Value::Bool(true)) => texts.get("action.yes").to_owned(),
        Some(Value::Bool(false)) => texts.get("action.no").to_owned(),
        Some(Value::Array(values)) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Some(other) => other.to_string(),
    };
    html! { span.figure { (text) } }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
