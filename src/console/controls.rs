//! Small parts of pages.

use maud::{Markup, html};

use super::format::money_parts;
use crate::{biz::values::money::Money, texts::Texts};

/// The field with the proof of a form.
pub(super) const PROOF: &str = "form_token";

/// A hidden field of a form.
pub(super) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// A table that scrolls by itself where the page is too narrow for it. A keyboard scrolls it too.
pub(super) fn table(caption: &str, content: &Markup) -> Markup {
    html! {
        div.scroll tabindex="0" role="region" aria-label=(caption) {
            table { caption.unseen { (caption) } (content) }
        }
    }
}

/// A column of a table, with its name.
pub(super) enum Column<'t> {
    Text(&'t str),
    Number(&'t str),
}

/// The head of a table. Money, status and actions come early, so that a narrow page shows them.
pub(super) fn columns(columns: &[Column<'_>]) -> Markup {
    html! {
        thead {
            tr {
                @for column in columns {
                    @match column {
                        Column::Text(name) => th scope="col" { (name) },
                        Column::Number(name) => th.number scope="col" { (name) },
                    }
                }
            }
        }
    }
}

/// As [`columns`]: texts, then numbers, then texts again.
pub(super) fn head(texts: &[&str], numbers: &[&str], more: &[&str]) -> Markup {
    let all = texts.iter().map(|name| Column::Text(name)).chain(numbers.iter().map(|name| Column::Number(name)));
    columns(&all.chain(more.iter().map(|name| Column::Text(name))).collect::<Vec<_>>())
}

/// The links to the first and to the next page of a list.
pub(super) fn pager(texts: Texts, newest: Option<String>, older: Option<String>) -> Markup {
    html! {
        @if newest.is_some() || older.is_some() {
            nav.pager aria-label=(texts.get("pager.label")) {
                @if let Some(newest) = newest { a.button href=(newest) { (texts.get("pager.newest")) } }
                @if let Some(older) = older { a.button href=(older) { (texts.get("pager.older")) } }
            }
        }
    }
}

/// A square in a colour of charts.
pub(super) fn swatch(colour: &str) -> Markup {
    html! {
        svg.swatch viewBox="0 0 10 10" aria-hidden="true" focusable="false" {
            rect class=(colour) width="10" height="10" rx="2" {}
        }
    }
}

/// A short word in a colour.
pub(super) fn badge(kind: &str, word: &str) -> Markup {
    html! { span class={ "badge " (kind) } { (word) } }
}

/// A list of choices. The first one stands for no choice.
pub(super) fn select(name: &str, label: &str, all: &str, choices: &[(String, String)], chosen: &str) -> Markup {
    html! {
        label { span { (label) }
            select name=(name) {
                @if !all.is_empty() { option value="" selected[chosen.is_empty()] { (all) } }
                @for (value, text) in choices {
                    option value=(value) selected[value == chosen] { (text) }
                }
            }
        }
    }
}

/// An amount in large letters. The places behind two are smaller, and are there.
pub(super) fn amount(amount: Money, currency: &str) -> Markup {
    let (shown, rest) = money_parts(amount);
    html! { p.amount { (shown) @if !rest.is_empty() { span.rest { (rest) } } " " small { (currency) } } }
}
