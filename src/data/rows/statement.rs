//! The books of a month, from several tables in one result.

use std::collections::BTreeMap;

use super::account::user_of;
use crate::{
    biz::{
        statements::statement::{Line, LineKey, LineKind, LineSums, MonthBooks},
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

/// The books of users, in key order. A row has: user, source, whether it is later than the month; service,
/// model, closed month; calls, free and paid units, three token columns, amount.
pub fn month_books_of(users: &[UserId], rows: &[impl Columns]) -> Result<Vec<MonthBooks>, StoreError> {
    let books = users.iter().map(|user| (user.clone(), MonthBooks::of(user.clone())));
    let mut books: BTreeMap<UserId, MonthBooks> = books.collect();
    for row in rows {
        let user = user_of(row)?;
        let books = books.get_mut(&user).ok_or_else(|| corrupt("user of a statement"))?;
        let amount = row.money(12)?;
        match Source::of(&row.text(1)?).ok_or_else(|| corrupt("source of a statement"))? {
            Source::Balance => books.balance = amount,
            Source::Line(_) if row.number::<u8>(2)? == 1 => books.later = books.later.plus(amount),
            Source::Line(kind) => books.lines.push(line_of(kind, row)?),
            Source::ByModel(kind) => books.by_model.get_or_insert_default().push(line_of(kind, row)?),
        }
    }
    Ok(books.into_values().collect())
}

/// As [`month_books_of`], of one user. Without a charge in the month, the charges by model are none.
pub fn month_book_of(user: &UserId, rows: &[impl Columns], splits_by_model: bool) -> Result<MonthBooks, StoreError> {
    let books = month_books_of(std::slice::from_ref(user), rows)?.pop();
    let books = books.unwrap_or_else(|| MonthBooks::of(user.clone()));
    let by_model = books.by_model.or(splits_by_model.then(Vec::new));
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
            input_tokens: row.number(9)?,
            output_tokens: row.number(10)?,
            cached_input_tokens: row.number(11)?,
            amount: row.money(12)?,
        },
    })
}
