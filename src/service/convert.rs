//! Converts wire values to domain values, with errors that name the field, and back.

use chrono::{Days, NaiveDate};

use super::proto;
use crate::biz::{
    charge::{prices::PriceLine, quote::MAX_UNITS},
    values::{
        calendar::{DaySpan, parse_day},
        error::Result,
        ids::ServiceTier,
        invalid::Invalid,
        money::Money,
        usage::Usage,
    },
};

/// Parses the units of one call, 1 to 1,000,000,000.
pub fn count(value: i32) -> Result<u32> {
    u32::try_from(value)
        .ok()
        .filter(|count| (1..=MAX_UNITS).contains(count))
        .ok_or_else(|| Invalid::new("count", format!("must be 1 to {MAX_UNITS}")).into())
}

/// Parses a cost, which must not be negative. Zero means none.
pub fn cost(field: &str, value: f64) -> Result<Option<Money>> {
    let cost = Money::from_wire(field, value)?;
    if cost.is_negative() {
        return Err(Invalid::new(field, "must not be negative").into());
    }
    Ok(Some(cost).filter(|cost| !cost.is_zero()))
}

pub fn usage(usage: Option<proto::Usage>) -> Result<Option<Usage>> {
    let Some(usage) = usage else { return Ok(None) };
    let mut converted = Usage {
        input_tokens: tokens("usage.input_tokens", usage.input_tokens)?,
        output_tokens: tokens("usage.output_tokens", usage.output_tokens)?,
        cached_input_tokens: tokens("usage.cached_input_tokens", usage.cached_input_tokens)?,
        cache_write_tokens: tokens("usage.cache_write_tokens", usage.cache_write_tokens)?,
        cache_write_1h_tokens: tokens("usage.cache_write_1h_tokens", usage.cache_write_1h_tokens)?,
        audio_input_tokens: tokens("usage.audio_input_tokens", usage.audio_input_tokens)?,
        reasoning_tokens: tokens("usage.reasoning_tokens", usage.reasoning_tokens)?,
        audio_output_tokens: tokens("usage.audio_output_tokens", usage.audio_output_tokens)?,
        images: tokens("usage.images", usage.images)?,
    };
    if usage.input_excludes_cached {
        let parts = [converted.cached_input_tokens, converted.cache_write_tokens, converted.cache_write_1h_tokens];
        let whole = parts.into_iter().chain([converted.input_tokens]).map(u64::from).sum::<u64>();
        converted.input_tokens =
            i32::try_from(whole).ok().and_then(|whole| u32::try_from(whole).ok()).ok_or_else(|| {
                Invalid::new("usage.input_tokens", format!("must be at most {} with its parts", i32::MAX))
            })?;
    }
    converted.plain_input().and(converted.plain_output())?;
    Ok(Some(converted))
}

/// The usage of a reply.
pub fn wire_usage(usage: Usage) -> proto::Usage {
    proto::Usage {
        input_tokens: int32(usage.input_tokens),
        output_tokens: int32(usage.output_tokens),
        cached_input_tokens: int32(usage.cached_input_tokens),
        cache_write_tokens: int32(usage.cache_write_tokens),
        cache_write_1h_tokens: int32(usage.cache_write_1h_tokens),
        reasoning_tokens: int32(usage.reasoning_tokens),
        audio_input_tokens: int32(usage.audio_input_tokens),
        audio_output_tokens: int32(usage.audio_output_tokens),
        images: int32(usage.images),
        input_excludes_cached: false,
    }
}

pub fn service_tier(value: &str) -> Result<Option<ServiceTier>> {
    Ok(ServiceTier::parse_optional("service_tier", value)?)
}

pub fn price_line(line: PriceLine) -> proto::PriceLine {
    proto::PriceLine {
        class: line.class.into(),
        tokens: line.units.into(),
        price: line.price.to_wire(),
        // The text of a decimal is a number.
        factor: line.factor.to_string().parse().unwrap_or_default(),
        amount: line.amount.to_wire(),
    }
}

/// Parses the expected usage of a call. Zero tokens mean no estimate.
pub fn estimate(input: i32, output: i32) -> Result<Option<Usage>> {
    let usage = Usage::of_text(tokens("estimated_input_tokens", input)?, tokens("estimated_output_tokens", output)?);
    Ok(Some(usage).filter(|usage| usage.tokens() > 0))
}

pub fn tokens(field: &str, value: i32) -> Result<u32> {
    u32::try_from(value).map_err(|_| Invalid::new(field, "must not be negative").into())
}

/// Most days in the span of a request.
pub const MAX_DAYS: i64 = 366;

/// The days of a request. Without an end they end at `last`. Without a begin they begin at
/// `first_before` the end.
pub fn span(
    from: &str,
    to: &str,
    last: NaiveDate,
    first_before: impl FnOnce(NaiveDate) -> NaiveDate,
) -> Result<DaySpan> {
    let last = if to.is_empty() { last } else { parse_day("to", to)? };
    let first = if from.is_empty() { first_before(last) } else { parse_day("from", from)? };
    if first > last {
        return Err(Invalid::new("from", "must not be after to").into());
    }
    Ok(DaySpan { first, last })
}

/// The days of a list; `None` for all days. Without `from` it begins with the first entry, without
/// `to` it ends with the last one.
pub fn optional_span(from: &str, to: &str, today: NaiveDate) -> Result<Option<DaySpan>> {
    if from.is_empty() && to.is_empty() {
        return Ok(None);
    }
    // An entry of the next second may belong to the next day.
    let tomorrow = today + Days::new(1);
    // A `from` in the future gives an empty list and no error.
    let last = parse_day("from", from).map_or(tomorrow, |from| from.max(tomorrow));
    span(from, to, last, |_| NaiveDate::default()).map(Some)
}

/// A count for a 32-bit field. A larger count becomes the largest 32-bit number. A second field has
/// the exact count, see [`int64`].
pub fn int32(value: impl TryInto<i32>) -> i32 {
    value.try_into().unwrap_or(i32::MAX)
}

/// A count in full.
pub fn int64(value: u64) -> i64 {
    value.try_into().unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_count_keeps_to_its_bounds() {
        assert_eq!(count(1).unwrap(), 1);
        assert_eq!(count(1_000_000_000).unwrap(), 1_000_000_000);
        for bad in [0, -1, i32::MIN, 1_000_000_001, i32::MAX] {
            assert!(count(bad).unwrap_err().to_string().starts_with("count:"), "{bad}");
        }
    }

    #[test]
    fn a_cost_of_zero_is_no_cost_and_a_negative_one_is_an_error() {
        assert_eq!(cost("cost", 0.0).unwrap(), None);
        assert_eq!(cost("cost", -0.0).unwrap(), None);
        assert_eq!(cost("cost", 0.1).unwrap(), Some("0.1".parse().unwrap()));
        for bad in [-0.01, f64::NAN, f64::NEG_INFINITY, 0.0000001] {
            assert!(cost("cost", bad).unwrap_err().to_string().starts_with("cost:"), "{bad}");
        }
    }

    #[test]
    fn an_input_without_its_parts_is_completed_and_parts_have_their_bounds() {
        let request = proto::Usage {
            input_tokens: 342,
            cached_input_tokens: 86_272,
            output_tokens: 44,
            input_excludes_cached: true,
            ..Default::default()
        };
        let converted = usage(Some(request)).unwrap().unwrap();
        assert_eq!((converted.input_tokens, converted.cached_input_tokens), (86_614, 86_272));
        assert_eq!(wire_usage(converted).input_tokens, 86_614);
        let written =
            proto::Usage { cache_write_tokens: 1, cache_write_1h_tokens: 2, audio_input_tokens: 3, ..request };
        assert_eq!(usage(Some(written)).unwrap().unwrap().input_tokens, 86_617);
        let refused = |request| usage(Some(request)).unwrap_err().to_string();
        for (request, field) in [
            (proto::Usage { input_excludes_cached: false, ..request }, "usage.cached_input_tokens: "),
            (proto::Usage { input_tokens: i32::MAX, ..request }, "usage.input_tokens: "),
            (proto::Usage { reasoning_tokens: 45, ..request }, "usage.reasoning_tokens: "),
            (proto::Usage { audio_output_tokens: 45, ..request }, "usage.audio_output_tokens: "),
            (proto::Usage { audio_input_tokens: 343, ..request }, "usage.audio_input_tokens: "),
            (proto::Usage { images: -1, ..request }, "usage.images: "),
            (proto::Usage { cache_write_tokens: -1, ..request }, "usage.cache_write_tokens: "),
        ] {
            assert!(refused(request).starts_with(field), "{field} {}", refused(request));
        }
    }

    #[test]
    fn half_a_span_is_completed() {
        let day = |text| parse_day("day", text).unwrap();
        let complete = |from, to| span(from, to, day("2026-11-21"), |last| last.pred_opt().unwrap());
        let days = |first, last| DaySpan { first: day(first), last: day(last) };
        assert_eq!(complete("", "").unwrap(), days("2026-11-20", "2026-11-21"));
        assert_eq!(complete("2026-11-01", "").unwrap(), days("2026-11-01", "2026-11-21"));
        assert_eq!(complete("", "2026-01-31").unwrap(), days("2026-01-30", "2026-01-31"));
        for (from, to) in [("2026-11-22", ""), ("2026-11-02", "2026-11-01"), ("1969-12-31", "")] {
            assert!(complete(from, to).unwrap_err().to_string().starts_with("from:"), "{from}");
        }
    }
}
