//! Numbers in texts, as proto3 JSON has them: the text is a number of JSON.

/// Whether `text` is a number by the grammar of JSON: no plus sign, no leading zero, no blank,
/// digits on both sides of a point.
pub fn is_number(text: &str) -> bool {
    parts(text).is_some()
}

/// The exact whole number in `text`. `1.0` and `1e1` are whole.
pub fn whole(text: &str) -> Option<i64> {
    /// Digits of the largest i64.
    const MOST_DIGITS: usize = 19;
    let Parts { negative, whole, fraction, exponent } = parts(text)?;
    let digits = format!("{whole}{fraction}");
    let digits = digits.trim_start_matches('0');
    let significant = digits.trim_end_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let exponent: i64 = if exponent.is_empty() { 0 } else { exponent.parse().ok()? };
    let point = i64::try_from(fraction.len()).ok()?;
    let trimmed = i64::try_from(digits.len() - significant.len()).ok()?;
    // The value is `significant`, followed by this many zeros.
    let zeros = usize::try_from(exponent.checked_sub(point)?.checked_add(trimmed)?).ok()?;
    if significant.len().checked_add(zeros)? > MOST_DIGITS {
        return None;
    }
    let sign = if negative { "-" } else { "" };
    format!("{sign}{significant}{}", "0".repeat(zeros)).parse().ok()
}

struct Parts<'t> {
    negative: bool,
    whole: &'t str,
    fraction: &'t str,
    /// The exponent with its sign; empty if there is none.
    exponent: &'t str,
}

fn parts(text: &str) -> Option<Parts<'_>> {
    let is_digits = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    let (negative, unsigned) = match text.strip_prefix('-') {
        Some(unsigned) => (true, unsigned),
        None => (false, text),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) if is_digits(exponent.strip_prefix(['+', '-']).unwrap_or(exponent)) => {
            (mantissa, exponent)
        }
        Some(_) => return None,
        None => (unsigned, ""),
    };
    let (whole, fraction) = match mantissa.split_once('.') {
        Some((whole, fraction)) if is_digits(fraction) => (whole, fraction),
        Some(_) => return None,
        None => (mantissa, ""),
    };
    let is_whole = is_digits(whole) && (whole == "0" || !whole.starts_with('0'));
    is_whole.then_some(Parts { negative, whole, fraction, exponent })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_read_exactly_in_every_form() {
        for (text, number) in [
            ("0", 0),
            ("-0", 0),
            ("0.000", 0),
            ("0e99999999999999999999", 0),
            ("1", 1),
            ("-7", -7),
            ("1.0", 1),
            ("1e1", 10),
            ("1E+1", 10),
            ("1.50e1", 15),
            ("100e-2", 1),
            ("12.5e1", 125),
            ("9007199254740993", 9_007_199_254_740_993),
            ("9223372036854775807", i64::MAX),
            ("-9223372036854775808", i64::MIN),
            ("1e18", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(whole(text), Some(number), "{text}");
            assert!(is_number(text), "{text}");
        }
    }

    #[test]
    fn fractions_and_numbers_beyond_64_bits_are_not_whole() {
        for text in ["0.5", "1e-1", "12.55e1", "9223372036854775808", "1e19", "1e9999999999", "1e99999999999999999999"]
        {
            assert_eq!(whole(text), None, "{text}");
            assert!(is_number(text), "{text}");
        }
    }

    #[test]
    fn texts_that_json_would_not_take_are_no_numbers() {
        for text in [
            "", "+1", "01", "-01", "00", " 1", "1 ", "1.", ".5", "-", "-.5", "1e", "1e+", "e1", "1e1.0", "1_0", "0x1",
            "1,0", "NaN", "inf", "Infinity", "1f", "１", "--1", "\u{a0}1",
        ] {
            assert_eq!(whole(text), None, "{text}");
            assert!(!is_number(text), "{text}");
        }
    }
}
