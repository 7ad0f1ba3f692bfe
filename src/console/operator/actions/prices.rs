//! The actions on price versions.

use std::{collections::HashMap, time::Duration};

use chrono::{DateTime, NaiveDateTime, Utc};

use super::{
    action::{Action, Context},
    field::{Field, Values, parse_amount},
};
use crate::{
    biz::{
        audit_trail::{DELETE_PRICE_VERSION, PUT_PRICE_VERSION},
        values::{class::Class, error::Result, ids::ModelName, invalid::Invalid, money::Money},
    },
    console::format,
    service::{
        Api, DayQuote, prices_of_tier,
        proto::{DeletePriceVersionRequest, ListPriceVersionsRequest, PriceTier, PriceVersion, PutPriceVersionRequest},
        timestamp::Timestamp,
    },
};

const ID: usize = 128;
const LINES: usize = 4_000;
/// The form of an instant in the form, in UTC.
const INSTANT: &str = "%Y-%m-%dT%H:%M:%S";
/// Versions of a model that are looked through, by pages.
const PAGE_SIZE: i32 = 100;
const MOST_PAGES: usize = 10;
/// The longest wait for the cost of yesterday. A preview must come within 100 ms.
const PATIENCE: Duration = Duration::from_millis(60);
/// The fact of a preview without that cost.
const NOT_READ: (&str, String) = ("not_read", String::new());
/// Names of calls that a preview shows.
const MOST_NAMES: usize = 20;

pub(in crate::console) static PUT: Action = Action {
    current: Some(|api, values| Box::pin(current(api, values))),
    context: Some(|api, values| Box::pin(context(api, values))),
    ..Action::new(
        "price",
        PUT_PRICE_VERSION,
        &[
            Field::text("model", ID),
            Field::text("version_id", ID).optional(),
            Field::text("effective_from", 20).optional(),
            Field::decimal("input").optional(),
            Field::decimal("cached_input").optional(),
            Field::decimal("cache_write").optional(),
            Field::decimal("cache_write_1h").optional(),
            Field::decimal("audio_input").optional(),
            Field::decimal("output").optional(),
            Field::decimal("reasoning").optional(),
            Field::decimal("audio_output").optional(),
            Field::decimal("request").optional(),
            Field::decimal("image").optional(),
            Field::lines("tiers", LINES),
            Field::lines("service_tiers", LINES),
            Field::lines("aliases", LINES),
            Field::count("max_tokens").optional(),
        ],
        |api, values, attempt| {
            Box::pin(async move { api.prices.put_price_version(request(values)?, attempt.intent).await.map(drop) })
        },
    )
};

pub(in crate::console) static DELETE: Action = Action::new(
    "delete-price",
    DELETE_PRICE_VERSION,
    &[Field::text("model", ID), Field::text("version_id", ID)],
    |api, values, attempt| {
        Box::pin(async move {
            let request =
                DeletePriceVersionRequest { model: values.text("model"), version_id: values.text("version_id") };
            api.prices.delete_price_version(request, attempt.intent).await.map(drop)
        })
    },
);

/// The version that a form describes. Its instant must be named, so that a preview and its change have the same one.
pub(super) fn request(values: &Values) -> Result<PutPriceVersionRequest> {
    Ok(PutPriceVersionRequest {
        model: values.text("model"),
        effective_from: Some(instant(values.get("effective_from"))?),
        version_id: values.text("version_id"),
        input: values.amount("input")?,
        cached_input: values.amount("cached_input")?,
        cache_write: values.amount("cache_write")?,
        cache_write_1h: values.amount("cache_write_1h")?,
        audio_input: values.amount("audio_input")?,
        output: values.amount("output")?,
        reasoning: values.amount("reasoning")?,
        audio_output: values.amount("audio_output")?,
        request: values.amount("request")?,
        image: values.amount("image")?,
        tiers: values.get("tiers").lines().filter(|line| !line.trim().is_empty()).map(tier).collect::<Result<_>>()?,
        service_tiers: values.list("service_tiers", factor)?.into_iter().collect(),
        aliases: values.list("aliases", |alias| Ok(alias.to_owned()))?,
        max_tokens: values.count("max_tokens")?,
    })
}

fn instant(text: &str) -> Result<Timestamp> {
    let why = || Invalid::new("effective_from", "must be like 2026-12-01T00:00:00, in UTC");
    let text = text.trim_end_matches('Z');
    let parsed = NaiveDateTime::parse_from_str(text, INSTANT).map_err(|_| why())?;
    Ok(parsed.and_utc().into())
}

/// A line such as `200000 input=6 output=22.5`.
fn tier(line: &str) -> Result<PriceTier> {
    let invalid = |why: &str| Invalid::new("tiers", format!("{why}; a line is like: 200000 input=6 output=22.5"));
    let mut parts = line.split_whitespace();
    let above = parts.next().and_then(|above| above.parse().ok());
    let above_input_tokens = above.ok_or_else(|| invalid("begins with no whole number"))?;
    let mut tier = PriceTier { above_input_tokens, ..Default::default() };
    for part in parts {
        let (class, price) = part.split_once('=').ok_or_else(|| invalid("has a part without ="))?;
        let price = Some(parse_amount("tiers", price)?.to_wire());
        match class {
            "input" => tier.input = price,
            "cached_input" => tier.cached_input = price,
            "cache_write" => tier.cache_write = price,
            "cache_write_1h" => tier.cache_write_1h = price,
            "audio_input" => tier.audio_input = price,
            "output" => tier.output = price,
            "reasoning" => tier.reasoning = price,
            "audio_output" => tier.audio_output = price,
            "request" => tier.request = price,
            "image" => tier.image = price,
            _ => return Err(invalid("names an unknown class").into()),
        }
    }
    Ok(tier)
}

/// A part such as `batch=0.5`.
fn factor(part: &str) -> Result<(String, f64)> {
    let invalid = || Invalid::new("service_tiers", "must be like: batch=0.5 priority=2");
    let (name, factor) = part.split_once('=').ok_or_else(invalid)?;
    let factor: Money = parse_amount("service_tiers", factor)?;
    Ok((name.to_owned(), factor.to_wire()))
}

/// The version in force and the new one field by field, and the cost of the calls of yesterday. A preview without that cost
/// is better than none, and says so.
async fn context(api: &Api, values: &Values) -> Result<Context> {
    let versions = versions(api, values).await?;
    let (new, in_force) = (request(values)?, in_force(&versions));
    let mut facts = quote(api, &new).await.unwrap_or_else(|error| {
        tracing::warn!(%error, "use of yesterday not read; the preview of a price lacks its cost");
        vec![NOT_READ]
    });
    let from = new.effective_from.map_or((0, 0), |at| (at.seconds, at.nanos));
    if in_force.is_some_and(|version| since(version) > from) {
        facts.push(("superseded", String::new()));
    }
    let fields = in_force.map(|version| beside(version, new)).unwrap_or_default();
    Ok(Context { fields, facts })
}

/// The cost of the calls of yesterday at the new prices, beside the present ones.
async fn quote(api: &Api, new: &PutPriceVersionRequest) -> Result<Vec<(&'static str, String)>> {
    let Some(quote) = api.prices.quote_of_yesterday(new, PATIENCE).await? else { return Ok(vec![NOT_READ]) };
    let amount = |amount: Option<Money>| amount.map(format::money).unwrap_or_else(|| "-".to_owned());
    let mut facts = vec![
        ("day", quote.day.to_string()),
        ("calls", format::count(quote.calls)),
        ("aliases", names(&quote.aliases)),
        ("charged", format::money(quote.charged)),
        ("in_force", amount(quote.in_force)),
        ("new", amount(quote.new)),
    ];
    if quote.unpriced > 0 {
        facts.push(("unpriced", format::count(quote.unpriced)));
    }
    facts.retain(|(_, value)| !value.is_empty());
    if quote.is_cut {
        let of = match quote.entries {
            None => "?".to_owned(),
            Some(all) if all >= u64::from(DayQuote::MOST_COUNTED) => format!("> {}", shown(all)),
            Some(all) => shown(all),
        };
        facts.push(("entries", format!("{} / {of}", shown(quote.summed))));
        facts.push(("is_cut", String::new()));
    }
    Ok(facts)
}

fn shown(number: u64) -> String {
    format::count(i64::try_from(number).unwrap_or(i64::MAX))
}

/// The first names of a list.
fn names(all: &[ModelName]) -> String {
    let shown: Vec<_> = all.iter().take(MOST_NAMES).map(ModelName::as_str).collect();
    let more = if all.len() > MOST_NAMES { ", \u{2026}" } else { "" };
    format!("{}{more}", shown.join(", "))
}

/// Fills the form with the version of the model that is in force, and with this moment.
async fn current(api: &Api, values: &mut Values) -> Result<()> {
    if !values.is_set("effective_from") {
        let now: DateTime<Utc> = Utc::now();
        values.set("effective_from", now.format(INSTANT).to_string());
    }
    if !values.is_set("model") {
        return Ok(());
    }
    if let Some(version) = in_force(&versions(api, values).await?) {
        fill(values, version);
    }
    Ok(())
}

/// The versions of the model, as they are now on all servers.
async fn versions(api: &Api, values: &Values) -> Result<Vec<PriceVersion>> {
    let mut versions = Vec::new();
    let mut page_token = String::new();
    for _ in 0..MOST_PAGES {
        let request = ListPriceVersionsRequest { model: values.text("model"), page_size: PAGE_SIZE, page_token };
        let reply = api.prices.list_price_versions(request).await?;
        versions.extend(reply.versions);
        page_token = reply.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    Ok(versions)
}

fn in_force(versions: &[PriceVersion]) -> Option<&PriceVersion> {
    versions.iter().find(|version| version.in_force)
}

fn since(version: &PriceVersion) -> (i64, i32) {
    version.effective_from.as_ref().map_or((0, 0), |at| (at.seconds, at.nanos))
}

/// The fields of the version in force and of the new one.
fn beside(in_force: &PriceVersion, new: PutPriceVersionRequest) -> Vec<(&'static str, String, String)> {
    let (mut was, mut is) = (Values::default(), Values::default());
    fill(&mut was, in_force);
    fill(&mut is, &described(new));
    let fields = PUT.fields.iter().map(|field| (field.name, was.text(field.name), is.text(field.name)));
    fields.filter(|(_, was, is)| !(was.is_empty() && is.is_empty())).collect()
}

/// The version that a request describes.
fn described(request: PutPriceVersionRequest) -> PriceVersion {
    PriceVersion {
        input: request.input,
        cached_input: request.cached_input,
        cache_write: request.cache_write,
        cache_write_1h: request.cache_write_1h,
        audio_input: request.audio_input,
        output: request.output,
        reasoning: request.reasoning,
        audio_output: request.audio_output,
        request: request.request,
        image: request.image,
        tiers: request.tiers,
        service_tiers: request.service_tiers,
        aliases: request.aliases,
        max_tokens: request.max_tokens,
        ..Default::default()
    }
}

fn fill(values: &mut Values, version: &PriceVersion) {
    for (name, price) in [
        ("input", version.input),
        ("cached_input", version.cached_input),
        ("cache_write", version.cache_write),
        ("cache_write_1h", version.cache_write_1h),
        ("audio_input", version.audio_input),
        ("output", version.output),
        ("reasoning", version.reasoning),
        ("audio_output", version.audio_output),
        ("request", version.request),
        ("image", version.image),
    ] {
        values.set(name, price.map(format::plain).unwrap_or_default());
    }
    values.set("tiers", version.tiers.iter().map(tier_line).collect::<Vec<_>>().join("\n"));
    values.set("service_tiers", factors(&version.service_tiers));
    values.set("aliases", version.aliases.join("\n"));
    values.set("max_tokens", version.max_tokens.map(|most| most.to_string()).unwrap_or_default());
}

fn tier_line(tier: &PriceTier) -> String {
    let given = Class::ALL.into_iter().zip(prices_of_tier(tier));
    let given = given.filter_map(|(class, price)| Some(format!(" {}={}", class.name(), format::plain(price?))));
    format!("{}{}", tier.above_input_tokens, given.collect::<String>())
}

fn factors(tiers: &HashMap<String, f64>) -> String {
    let mut lines: Vec<_> = tiers.iter().map(|(name, factor)| format!("{name}={}", format::plain(*factor))).collect();
    lines.sort();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_goes_through_the_form_unchanged() {
        let tiers =
            vec![PriceTier { above_input_tokens: 200_000, input: Some(6.0), output: Some(22.5), ..Default::default() }];
        let version = PriceVersion {
            model: "m".into(),
            input: Some(3.0),
            output: Some(15.0),
            request: Some(0.000_001),
            tiers,
            service_tiers: HashMap::from([("batch".into(), 0.5), ("priority".into(), 2.0)]),
            aliases: vec!["m-*".into(), "n".into()],
            max_tokens: Some(1_000_000),
            ..Default::default()
        };
        let mut values = Values::default();
        fill(&mut values, &version);
        values.set("effective_from", "2026-12-01T00:00:00");
        let sent = request(&values).unwrap();
        let mut again = Values::default();
        fill(&mut again, &described(sent.clone()));
        assert!(PUT.fields.iter().skip(3).all(|field| again.get(field.name) == values.get(field.name)), "{again:?}");
        assert_eq!((sent.input, sent.output, sent.cached_input), (version.input, version.output, None));
        assert_eq!((sent.request, sent.tiers, sent.max_tokens), (version.request, version.tiers, version.max_tokens));
        assert_eq!((sent.service_tiers, sent.aliases), (version.service_tiers, version.aliases));
        assert_eq!(sent.effective_from.unwrap().seconds, 1_796_083_200);
    }

    #[test]
    fn a_malformed_line_names_its_field() {
        for (name, text) in [
            ("tiers", "input=6"),
            ("tiers", "200000 input"),
            ("tiers", "200000 speed=6"),
            ("tiers", "200000 input=x"),
            ("service_tiers", "batch"),
            ("effective_from", "tomorrow"),
            ("input", "1e3"),
        ] {
            let mut values = Values::default();
            values.set("effective_from", "2026-12-01T00:00:00");
            values.set(name, text);
            let error = request(&values).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}
