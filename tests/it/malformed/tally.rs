//! The answers of a load, by their codes, and those that are faults.

use std::{collections::BTreeMap, fmt};

/// Faults that are shown.
const SHOWN: usize = 10;

#[derive(Default)]
pub struct Tally {
    /// The number of answers of each code. `none` is a connection that ended without an answer.
    codes: BTreeMap<String, usize>,
    faults: Vec<String>,
}

impl Tally {
    /// Notes the answer of REST to a request, which is shown if the answer is a fault.
    pub fn rest(&mut self, status: u16, body: &[u8], request: impl FnOnce() -> String) {
        let is_overloaded = status == 503 && String::from_utf8_lossy(body).contains("10014");
        if status >= 500 && !is_overloaded {
            self.fault(format!("{status} {}\n  to {}", String::from_utf8_lossy(body), request()));
        }
        self.code(status.to_string());
    }

    pub fn code(&mut self, code: impl Into<String>) {
        *self.codes.entry(code.into()).or_default() += 1;
    }

    pub fn fault(&mut self, fault: String) {
        if self.faults.len() < SHOWN {
            self.faults.push(fault);
        }
    }

    pub fn add(&mut self, other: Self) {
        for (code, count) in other.codes {
            *self.codes.entry(code).or_default() += count;
        }
        self.faults.extend(other.faults);
    }

    pub fn assert_no_fault(&self) {
        let shown: Vec<&str> = self.faults.iter().take(SHOWN).map(String::as_str).collect();
        assert!(shown.is_empty(), "{}", shown.join("\n"));
    }

    /// The load passed every gate in a part of the requests: some were valid, and many were refused for their
    /// content.
    pub fn assert_reached(&self, requests: usize) {
        let count = |code: &str| self.codes.get(code).copied().unwrap_or_default();
        let (valid, invalid) = (count("200") + count("OK"), count("400") + count("INVALID_ARGUMENT"));
        assert_eq!(self.codes.values().sum::<usize>(), requests, "{self}");
        assert!(valid > requests / 100 && invalid > requests / 10, "{self}");
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (code, count) in &self.codes {
            write!(f, "{code}: {count}, ")?;
        }
        write!(f, "{} faults", self.faults.len())
    }
}
