//! The state before and after a change, figure by figure, as an audit event and a preview have it.

use chrono::DateTime;
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
/// The object of the prices of a version, and in it that of its base prices.
const PRICES: &str = "prices";
/// The figures that are instants.
const INSTANTS: [&str; 2] = ["effective_from", "replaced_secret_until"];
/// The figures that name the thing that has changed, beside its account.
const SUBJECTS: [&str; 4] = ["webhook_id", "model", "api_key_id", "payment_order_id"];
/// Most rows. A state has few; a price version has the most.
const MAX_ROWS: usize = 60;

/// A table of the figures: those of both states first. `currency` is that of amounts. A payment may have another one.
pub(super) fn table(texts: Texts, currency: &str, before: Option<&str>, after: Option<&str>) -> Markup {
    let change = Change::of(before, after);
    let mut names = change.names();
    let is_of_both = |name: &str| matches!(change.states(name), (Some(_), Some(_)));
    names.sort_by_key(|name| !is_of_both(name));
    let content = html! {
        (controls::head(&[texts.get("figures.figure")], &[texts.get("audit.before"), texts.get("audit.after")], &[]))
        tbody {
            @for name in names.into_iter().take(MAX_ROWS) {
                @let (was, is) = change.states(name);
                @let currency = change.currency_of(name, currency);
                tr.changed[was != is] {
                    th scope="row" { (texts.word("figure", name)) }
                    td.number { (shown(texts, currency, name, was)) }
                    td.number { (shown(texts, currency, name, is)) }
                }
            }
        }
    };
    controls::table(texts.get("figures.title"), &content)
}

/// The name of the thing that has changed, and its changed figures in one line each, at most so many. The page of the event has all of them.
pub(super) fn summary(texts: Texts, currency: &str, (before, after): (&str, &str), most: usize) -> Markup {
    let change = Change::of(Some(before), Some(after));
    let (mut names, same): (Vec<_>, Vec<_>) = change.names().into_iter().partition(|name| {
        let (was, is) = change.states(name);
        was != is
    });
    // One that is new or gone names itself among its changed figures, before the others.
    names.sort_by_key(|name| !SUBJECTS.contains(name));
    html! {
        ul.list {
            @for name in same.iter().filter(|name| SUBJECTS.contains(name)) {
                li { span.quiet { (texts.word("figure", name)) } " " (shown(texts, currency, name, change.states(name).1)) }
            }
            @for name in names.iter().take(most) {
                @let (was, is) = change.states(name);
                @let currency = change.currency_of(name, currency);
                li {
                    span.quiet { (texts.word("figure", name)) } " "
                    @if was.is_some() { (shown(texts, currency, name, was)) " \u{2192} " }
                    (shown(texts, currency, name, is))
                }
            }
            @if names.len() > most { li.quiet { "\u{2026}" } }
        }
    }
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

/// The figures of the states before and after a change.
struct Change {
    before: Vec<(String, Value)>,
    after: Vec<(String, Value)>,
}

impl Change {
    fn of(before: Option<&str>, after: Option<&str>) -> Self {
        Self { before: state(before), after: state(after) }
    }

    /// The names of all figures, sorted.
    fn names(&self) -> Vec<&str> {
        let mut names: Vec<_> = self.before.iter().chain(&self.after).map(|(name, _)| &**name).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// A figure before and after.
    fn states(&self, name: &str) -> (Option<&Value>, Option<&Value>) {
        (find(&self.before, name), find(&self.after, name))
    }

    /// The currency of a figure: that of the payment, if it is the amount of one, or else `usual`.
    fn currency_of<'s>(&'s self, name: &str, usual: &'s str) -> &'s str {
        let (before, after) = self.states("currency");
        let own = before.or(after).and_then(Value::as_str).filter(|_| name == AMOUNT);
        own.unwrap_or(usual)
    }
}

pub(super) fn find<'s>(state: &'s [(String, Value)], name: &str) -> Option<&'s Value> {
    state.iter().find(|(known, _)| known == name).map(|(_, value)| value).filter(|value| !value.is_null())
}

/// The figures of a state. The prices of a version are figures of their own.
pub(super) fn state(json: Option<&str>) -> Vec<(String, Value)> {
    let parsed: Map<String, Value> = json.and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let mut figures = Vec::new();
    add(&mut figures, parsed);
    figures
}

fn add(figures: &mut Vec<(String, Value)>, state: Map<String, Value>) {
    for (name, value) in state {
        match value {
            Value::Object(inner) if name == PRICES => add(figures, inner),
            value => figures.push((name, value)),
        }
    }
}

/// The words of the contract among the figures. Any other text is the choice of a person, or an id.
fn word<'t>(texts: Texts, name: &str, text: &'t str) -> &'t str {
    let found = match name {
        "status" => texts.find_word("choice", text).or_else(|| texts.find_word("unapplied_status", text)),
        "quota_type" | "period" => texts.find_word("choice", text),
        "state" => texts.find_word("webhook_state", text),
        _ => None,
    };
    found.unwrap_or(text)
}

fn shown(texts: Texts, currency: &str, name: &str, value: Option<&Value>) -> Markup {
    let text = match value {
        None => return html! { span.quiet { (texts.get("figures.none")) } },
        Some(Value::String(text)) if AMOUNTS.contains(&name) => match text.parse::<Money>() {
            Ok(amount) => format!("{} {currency}", format::money(amount)),
            Err(_) => text.clone(),
        },
        Some(Value::String(text)) if INSTANTS.contains(&name) => match DateTime::parse_from_rfc3339(text) {
            Ok(at) => at.to_utc().format("%Y-%m-%d %H:%M:%S UTC").to_string(),
            Err(_) => text.clone(),
        },
        Some(Value::String(text)) => word(texts, name, text).to_owned(),
        Some(Value::Bool(true)) => texts.get("action.yes").to_owned(),
        Some(Value::Bool(false)) => texts.get("action.no").to_owned(),
        Some(other) => plain(other),
    };
    html! { span.figure { (text) } }
}

/// A value as the form of a price version writes it, such as `200000 input=6` for a tier.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(values) => values.iter().map(plain).collect::<Vec<_>>().join(", "),
        Value::Object(members) => {
            let member = |(name, value): (&String, &Value)| match value {
                Value::Object(_) => plain(value),
                Value::Number(above) if name == "above_input_tokens" => above.to_string(),
                value => format!("{name}={}", plain(value)),
            };
            members.iter().map(member).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use uuid::Uuid;

    use super::*;
    use crate::{
        biz::{
            audit_trail::{Actor, AuditEvent, AuditedCall, PUT_WEBHOOK},
            events::{Event, EventType},
            values::{class::Class, ids::WebhookId},
            webhooks::{
                Types, Webhook,
                changes::{self, Change, Expected, PutWebhook},
                delivery::Resend,
                url::WebhookUrl,
            },
        },
        texts::Language,
    };

    /// The names of the figures of webhooks, which have no preview: of one that was made, one that got another URL and
    /// another secret, and an event that was sent again.
    fn of_webhooks() -> Vec<String> {
        let (at, id) = (DateTime::UNIX_EPOCH, WebhookId::from_stored("w"));
        let call = AuditedCall::new(PUT_WEBHOOK, Actor::new("ops", "admin", "r"), "");
        let put = |url: &str, rotation, stored: Option<&Webhook>| {
            let target = Some((WebhookUrl::from_stored(url), Types::All));
            let (id, expected, fresh) = (id.clone(), Expected::Any, "sealed".to_owned());
            let put = PutWebhook { id, expected, target, is_active: None, rotation, fresh };
            match put.decide(stored, 0, &call, at) {
                Change::Write(written) => *written,
                other => panic!("{other:?}"),
            }
        };
        let made = put("https://a/", None, None);
        let changed = put("https://b/", Some(TimeDelta::hours(1)), Some(&made.webhook));
        let (kind, data) = (EventType::AccountStatus.name().to_owned(), "{}".to_owned());
        let event = Event { position: 1, id: Uuid::nil(), kind, user: None, data, at };
        let resend = Resend { webhook: id.clone(), id: Uuid::nil(), message: (&event).into() };
        let events: [AuditEvent; 3] = [made.event, changed.event, changes::resent(&resend, &call, at)];
        let states = events.iter().flat_map(|event| [&event.before, &event.after]);
        states.flat_map(|json| state(json.as_deref())).map(|(name, _)| name).collect()
    }

    #[test]
    fn each_figure_has_a_text() {
        let of_prices = ["tiers", "service_tiers", "aliases", "max_tokens", "defect"];
        let of_prices = Class::ALL.map(Class::name).into_iter().chain(of_prices).map(str::to_owned);
        let of_webhooks = of_webhooks();
        assert!(of_webhooks.len() > 15, "{of_webhooks:?}");
        let is_missing = |name: &String| Texts(Language::English).find_word("figure", name).is_none();
        let missing: Vec<_> = of_prices.chain(of_webhooks).filter(is_missing).collect();
        assert!(missing.is_empty(), "{missing:?}");
    }

    #[test]
    fn a_summary_names_the_webhook_and_its_instants_without_fractions() {
        let before = r#"{"webhook_id":"shop","active":true,"secrets":1}"#;
        let after = r#"{"webhook_id":"shop","active":true,"secrets":2,
            "replaced_secret_until":"2026-11-22T04:00:00.055265Z"}"#;
        let html = summary(Texts(Language::English), "CNY", (before, after), 3).into_string();
        let end = "<span class=\"figure\">2026-11-22 04:00:00 UTC</span>";
        assert!(html.contains("Webhook</span> <span class=\"figure\">shop</span>") && html.contains(end), "{html}");
        assert!(!html.contains("Active"), "only changed figures: {html}");
    }

    #[test]
    fn a_price_version_is_shown_price_by_price() {
        let json = r#"{"model":"day","prices":{"prices":{"input":"3"},"service_tiers":{"batch":"0.5"},
            "tiers":[{"above_input_tokens":200000,"prices":{"input":"6","output":"22.5"}}]}}"#;
        let html = table(Texts(Language::English), "CNY", None, Some(json)).into_string();
        for text in ["Input tokens", ">batch=0.5<", ">200000 input=6 output=22.5<", ">day<"] {
            assert!(html.contains(text), "{text}: {html}");
        }
        assert_eq!(word(Texts(Language::English), "status", "refunding"), "Being refunded");
    }
}
