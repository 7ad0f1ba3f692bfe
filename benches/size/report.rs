//! The results: as text with their bounds, and as JSON.

use std::path::Path;

use serde::Serialize;

/// The expected range of a result.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub enum Bound {
    Below(f64),
    Above(f64),
    /// No bound; only reported.
    None,
}

#[derive(Debug, Serialize)]
struct Number {
    name: String,
    value: f64,
    unit: &'static str,
    bound: Bound,
}

#[derive(Debug, Default, Serialize)]
pub struct Report {
    numbers: Vec<Number>,
}

impl Report {
    /// Adds a result, and prints it.
    pub fn add(&mut self, name: impl Into<String>, value: f64, unit: &'static str, bound: Bound) {
        let number = Number { name: name.into(), value, unit, bound };
        let verdict = match bound {
            Bound::Below(most) if value < most => format!("below {most}"),
            Bound::Below(most) => format!("NOT below {most}"),
            Bound::Above(least) if value > least => format!("above {least}"),
            Bound::Above(least) => format!("NOT above {least}"),
            Bound::None => String::new(),
        };
        println!("{:<58} {value:>12.2} {unit:<7} {verdict}", number.name);
        self.numbers.push(number);
    }

    /// Whether all results are within their bounds.
    pub fn is_good(&self) -> bool {
        self.numbers.iter().all(|number| match number.bound {
            Bound::Below(most) => number.value < most,
            Bound::Above(least) => number.value > least,
            Bound::None => true,
        })
    }

    /// Writes the results as JSON.
    ///
    /// # Errors
    /// The file can't be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        if let Some(folder) = file.parent() {
            std::fs::create_dir_all(folder)?;
        }
        Ok(std::fs::write(file, serde_json::to_string_pretty(self)?)?)
    }
}

/// The quantile `share` of `values`. Sorts the slice.
pub fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let index = (values.len() as f64 * share) as usize;
    values.get(index.min(values.len().saturating_sub(1))).copied().unwrap_or_default()
}
