//! The books of a month, from several tables in one result.

use std::collections::BTreeMap;

use super::account::user_of;
use crate::{
    biz::{
        statements::statement::{Line, LineKey, LineKind, LineSums, MonthBooks, Split, UsageSums},
        values::{
            error::StoreError,
            ids::{ModelName, ServiceName, UserId},
        },
    },
    data::{error::corrupt, row::Columns},
};

/// The sources of a row, by the text in its second column.
enum Source {
    /// The balance of the account.
    Balance,
    Line(LineKind),
    /// The records of the month, by model.
    ByModel(LineKind),
}

impl Source {
    fn of(text: &str) -> Option<Self> {
        let kind = |name: &str| LineKind::ALL.into_iter().find(|kind| kind.name() == name);
        match text.strip_suffix("_by_model") {
            Some(name) => kind(name).map(Self::ByModel),
            None if text == "balance" => Some(Self::Balance),
            None => kind(text).map(Self::Line),
        }
    }
}

/// The position of the amount, the last column.
const AMOUNT: usize = 18;

/// The columns of the usage in a row without one.
macro_rules! no_usage {
    () => {
        "0, 0, 0, 0, 0, 0, 0, 0, 0"
    };
}
pub(in crate::data) use no_usage;

/// The books of users, in key order. A row has: user, source, whether it is later than the month; service,
/// model, closed month; calls, free and paid units, the nine columns of the usage, amount.
pub fn month_books_of(users: &[UserId], rows: &[impl Columns]) -> Result<Vec<MonthBooks>, StoreError> {
    let books = users.iter().map(|user| (user.clone(), MonthBooks::of(user.clone())));
    let mut books: BTreeMap<UserId, MonthBooks> = books.collect();
    for row in rows {
        let user = user_of(row)?;
        let books = books.get_mut(&user).ok_or_else(|| corrupt("user of a statement"))?;
        let amount = row.money(AMOUNT)?;
        match Source::of(&row.text(1)?).ok_or_else(|| corrupt("source of a statement"))? {
            Source::Balance => books.balance = amount,
            Source::Line(_) if row.number::<u8>(2)? == 1 => books.later = books.later.plus(amount),
            Source::Line(kind) => books.lines.push(line_of(kind, row)?),
            Source::ByModel(kind) => books.by_model.get_or_insert_default().push(line_of(kind, row)?),
        }
    }
    Ok(books.into_values().collect())
}

/// As [`month_books_of`], of one user, with the charges by model of a split. Without a charge in the month, they
/// are none.
pub fn month_book_of(user: &UserId, rows: &[impl Columns], split: Option<Split>) -> Result<MonthBooks, StoreError> {
    let books = month_books_of(std::slice::from_ref(user), rows)?.pop();
    let books = books.unwrap_or_else(|| MonthBooks::of(user.clone()));
    let most = split.map(|split| split.lines as usize);
    let by_model = most.map(|_| books.by_model.unwrap_or_default()).filter(|lines| Some(lines.len()) <= most);
    Ok(MonthBooks { by_model, ..books })
}

fn line_of(kind: LineKind, row: &impl Columns) -> Result<Line, StoreError> {
    let late_of = row.optional_text(5)?;
    Ok(Line {
        key: LineKey {
            kind,
            service: row.optional_text(3)?.map(ServiceName::from_stored),
            model: row.optional_text(4)?.map(ModelName::from_stored),
            late_of: late_of.map(|month| month.parse().map_err(|_| corrupt("late_of"))).transpose()?,
        },
        sums: LineSums {
            calls: row.number(6)?,
            free_count: row.number(7)?,
            paid_count: row.number(8)?,
            usage: UsageSums {
                input_tokens: row.number(9)?,
                output_tokens: row.number(10)?,
                cached_input_tokens: row.number(11)?,
                cache_write_tokens: row.number(12)?,
                cache_write_1h_tokens: row.number(13)?,
                reasoning_tokens: row.number(14)?,
                audio_input_tokens: row.number(15)?,
                audio_output_tokens: row.number(16)?,
                images: row.number(17)?,
            },
            amount: row.money(AMOUNT)?,
        },
    })
}
