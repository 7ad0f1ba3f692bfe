//! Amounts, numbers and times as people read them.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use crate::{
    biz::values::{calendar::Calendar, money::Money},
    service::timestamp::Timestamp,
};

/// The exact amount of a reply. A wire double is read by its shortest decimal form.
pub(super) fn amount(wire: f64) -> Money {
    wire.to_string().parse().ok().and_then(Money::from_decimal).unwrap_or_default()
}

/// With two places at least, and commas: 1,234.50.
pub(super) fn money(amount: Money) -> String {
    places(&Decimal::new(amount.micros(), 6).to_string())
}

/// A number of a reply with all its places, as [`money`]. A product of factors has more places than an amount.
pub(super) fn number(wire: f64) -> String {
    // Without the sign of a negative zero.
    places(&(wire + 0.0).to_string())
}

/// A time in milliseconds, as short as it is exact.
pub(super) fn milliseconds(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.1}") } else { format!("{ms:.0}") }
}

/// A number of events in a second.
pub(super) fn rate(events: u64, seconds: f64) -> String {
    format!("{:.2}", events as f64 / seconds)
}

/// A number of a reply for a field of a form: without commas, and as a wire double is read.
pub(super) fn plain(wire: f64) -> String {
    (wire + 0.0).to_string()
}

fn places(text: &str) -> String {
    let (number, fraction) = text.split_once('.').unwrap_or((text, ""));
    let fraction = fraction.trim_end_matches('0');
    let (sign, whole) = number.strip_prefix('-').map_or(("", number), |whole| ("\u{2212}", whole));
    format!("{sign}{}.{fraction:0<2}", grouped(whole))
}

/// As [`money`], in two parts: with two places, and the places behind them.
pub(super) fn money_parts(amount: Money) -> (String, String) {
    let mut shown = money(amount);
    let end = shown.find('.').map_or(shown.len(), |point| point + 3);
    let rest = shown.split_off(end);
    (shown, rest)
}

/// An amount of a reply, as [`money`]. A number that is no amount shows as it is, and not as 0.
pub(super) fn wire_money(wire: f64) -> String {
    number(wire)
}

/// With commas: 1,234.
pub(super) fn count(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let sign = if number < 0 { "\u{2212}" } else { "" };
    format!("{sign}{}", grouped(&digits))
}

fn grouped(digits: &str) -> String {
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Day and time in the billing zone: 2026-11-30 08:05:00.
pub(super) fn time(calendar: &Calendar, at: Option<&Timestamp>) -> String {
    let instant: Option<DateTime<Utc>> = at.and_then(|at| DateTime::from_timestamp(at.seconds, 0));
    instant.map(|instant| calendar.local(instant).format("%Y-%m-%d %H:%M:%S").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_two_to_six_places() {
        for (micros, text) in [
            (0, "0.00"),
            (1, "0.000001"),
            (45_946, "0.045946"),
            (4_500_000, "4.50"),
            (-1_234_500_000, "\u{2212}1,234.50"),
            (999_999_999_999_999, "999,999,999.999999"),
        ] {
            assert_eq!(money(Money::from_micros(micros)), text);
            let (two, rest) = money_parts(Money::from_micros(micros));
            assert_eq!((format!("{two}{rest}").as_str(), two.len() - two.find('.').unwrap()), (text, 3));
            assert_eq!(wire_money(Money::from_micros(micros).to_wire()), text);
        }
    }

    #[test]
    fn a_product_of_factors_shows_all_its_places() {
        for (wire, text) in [
            (0.5 * 1.2, "0.60"),
            (1.000_001 * 1.000_001, "1.000002000001"),
            (0.012_345_67, "0.01234567"),
            (1.0, "1.00"),
            (-12_345.123_456_7, "\u{2212}12,345.1234567"),
        ] {
            assert_eq!((number(wire).as_str(), wire_money(wire).as_str()), (text, text));
        }
    }

    #[test]
    fn counts_have_commas() {
        let texts = [0, 999, 1_000, -12_345_678].map(count);
        assert_eq!(texts, ["0", "999", "1,000", "\u{2212}12,345,678"]);
    }
}
