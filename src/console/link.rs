//! Addresses with parameters.

use std::fmt::Write;

/// The path with the parameters that are not empty.
pub(super) fn link(path: &str, parameters: &[(&str, &str)]) -> String {
    let mut address = path.to_owned();
    let mut mark = '?';
    for (name, value) in parameters.iter().filter(|(_, value)| !value.is_empty()) {
        // Writing into a String can't fail.
        let _ = write!(address, "{mark}{name}={}", Encoded(value));
        mark = '&';
    }
    address
}

/// A text as a part of an address.
pub(super) struct Encoded<'t>(pub &'t str);

impl std::fmt::Display for Encoded<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for byte in self.0.bytes() {
            match byte {
                b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => f.write_char(byte.into())?,
                _ => write!(f, "%{byte:02X}")?,
            }
        }
        Ok(())
    }
}

/// Whether a text from a request is an address of a page of the console.
pub(super) fn is_own(address: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_graphic() && byte != b'\\';
    let rest = address.strip_prefix("/console");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']))
        && address.len() <= MAX_ADDRESS
        && address.bytes().all(is_plain)
}

/// Longest address that a form leads back to.
const MAX_ADDRESS: usize = 2_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_encoded_and_empty_ones_left_out() {
        assert_eq!(link("/console", &[]), "/console");
        assert_eq!(link("/c", &[("a", ""), ("b", "x y&z"), ("c", "é+")]), "/c?b=x%20y%26z&c=%C3%A9%2B");
    }

    #[test]
    fn forms_lead_back_to_pages_of_the_console_alone() {
        for own in ["/console", "/console?a=b", "/console/records?x=%20"] {
            assert!(is_own(own), "{own}");
        }
        for other in
            ["", "/", "//evil.example", "/consoles", "https://evil.example/console", "/console/\\x", "/console\r\nx"]
        {
            assert!(!is_own(other), "{other}");
        }
    }
}
