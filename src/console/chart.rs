//! Stacked bars, one for each day: shapes in SVG, made on the server. Pointing at a bar or moving to it by keyboard
//! shows its numbers, without a script.

use maud::{Markup, html};

use super::{controls, format};
use crate::{biz::values::money::Money, texts::Texts};

/// The series that have a colour of their own; the last colour is for the rest.
pub(super) const COLOURS: usize = 7;
/// The height of the drawing in its own units.
const HEIGHT: i64 = 1_000;

/// The unit of the values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Measure {
    /// Millionths of the currency.
    Cost,
    Units,
}

impl Measure {
    pub fn text(self, value: i64) -> String {
        match self {
            Self::Cost => format::money(Money::from_micros(value)),
            Self::Units => format::count(value),
        }
    }
}

/// The values of some series over the same days.
pub(super) struct Chart {
    pub measure: Measure,
    /// The name and the values of each series, largest first; at most [`COLOURS`].
    pub series: Vec<(String, Vec<i64>)>,
    /// The days, `2026-11-30`.
    pub days: Vec<String>,
}

impl Chart {
    /// The sum of a day.
    pub fn total(&self, day: usize) -> i64 {
        self.series.iter().map(|(_, values)| values[day]).fold(0, i64::saturating_add)
    }

    fn sum(&self) -> i64 {
        (0..self.days.len()).map(|day| self.total(day)).fold(0, i64::saturating_add)
    }

    pub fn is_empty(&self) -> bool {
        self.sum() == 0
    }

    pub fn draw(&self, texts: Texts, title: &str) -> Markup {
        let top = nice((0..self.days.len()).map(|day| self.total(day)).max().unwrap_or(0));
        html! {
            figure.chart {
                div.plot {
                    div.scale aria-hidden="true" {
                        span { (self.measure.text(top)) } span { (self.measure.text(top / 2)) } span { "0" }
                    }
                    p.sum { (texts.get("chart.sum")) " " strong { (self.measure.text(self.sum())) } }
                    ol.bars aria-label=(title) {
                        @for day in 0..self.days.len() {
                            li tabindex="0" { (self.bar(day, top)) (self.tip(texts, day)) }
                        }
                    }
                }
                div.dates aria-hidden="true" {
                    @for day in [0, self.days.len() / 2, self.days.len().saturating_sub(1)] {
                        span { (self.days.get(day).map_or("", |day| day.get(5..).unwrap_or(day))) }
                    }
                }
                figcaption {
                    ul.legend {
                        @for (index, (name, _)) in self.series.iter().enumerate() {
                            li { (swatch(index)) (name) }
                        }
                    }
                    p.quiet.hint { (texts.get("chart.hint")) }
                }
            }
        }
    }

    fn bar(&self, day: usize, top: i64) -> Markup {
        // Each part stands on the one before.
        let parts = self.series.iter().enumerate().scan(HEIGHT, |floor, (index, (_, values))| {
            let height = part(values[day], top, HEIGHT).min(*floor);
            *floor -= height;
            Some((colour(index), *floor, height))
        });
        html! {
            svg viewBox="0 0 10 1000" preserveAspectRatio="none" aria-hidden="true" focusable="false" {
                @for (colour, y, height) in parts.filter(|(_, _, height)| *height > 0) {
                    rect class=(colour) x="1" width="8" y=(y) height=(height) {}
                }
            }
        }
    }

    fn tip(&self, texts: Texts, day: usize) -> Markup {
        let of_day = self.series.iter().enumerate().filter(|(_, (_, values))| values[day] != 0);
        html! {
            div.tip {
                b { (self.days[day]) } " " (texts.get("chart.total")) " " (self.measure.text(self.total(day)))
                @for (index, (name, values)) in of_day {
                    span { (swatch(index)) (name) " " (self.measure.text(values[day])) }
                }
            }
        }
    }
}

/// The part of a value in whole units of `whole`; something is never nothing.
pub(super) fn part(value: i64, top: i64, whole: i64) -> i64 {
    if value <= 0 || top <= 0 {
        return 0;
    }
    let part = i128::from(value) * i128::from(whole) / i128::from(top);
    i64::try_from(part).unwrap_or(whole).clamp(1, whole)
}

pub(super) fn colour(index: usize) -> String {
    format!("c{}", index.min(COLOURS - 1))
}

fn swatch(index: usize) -> Markup {
    controls::swatch(&colour(index))
}

/// The next number of the form 1, 2, 4, 6 or 8 times a power of ten, so that the labels of the scale are short.
fn nice(value: i64) -> i64 {
    let mut power: i64 = 1;
    loop {
        for factor in [1, 2, 4, 6, 8] {
            match power.checked_mul(factor) {
                Some(step) if step < value => {}
                Some(step) => return step.max(2),
                None => return value,
            }
        }
        power = match power.checked_mul(10) {
            Some(next) => next,
            None => return value,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scale_ends_at_a_short_number() {
        for (value, top) in [(0, 2), (1, 2), (3, 4), (10, 10), (11, 20), (21, 40), (99, 100), (i64::MAX, i64::MAX)] {
            assert_eq!(nice(value), top, "{value}");
        }
    }

    #[test]
    fn something_is_never_drawn_as_nothing_and_nothing_beyond_its_frame() {
        assert_eq!(part(1, 1_000_000_000, 1_000), 1);
        assert_eq!(part(500, 1_000, 1_000), 500);
        assert_eq!(part(3_000, 1_000, 1_000), 1_000);
        assert_eq!((part(0, 10, 1_000), part(-5, 10, 1_000), part(5, 0, 1_000)), (0, 0, 0));
    }
}
