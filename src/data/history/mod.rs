//! The SQL of seals and of the nightly audit that both databases understand, and its rows.
//!
//! A statement has names in braces for the values of a [`Scope`]. Each database fills them in.

mod books;
mod charges;
mod limits;
mod rows;
mod seals;

use chrono::{DateTime, NaiveDate, Utc};

pub(super) use self::{
    books::{DIFFERING_DAYS, DIFFERING_USE, UNSEALED_SIZES, unsealed_books},
    charges::{DIFFERING_CHARGES, RECORDED, TIME_BEHIND, TRACE_BEHIND, UNRECORDED},
    limits::{
        CALLS_OF_USERS, CAPS, KEY_QUOTAS, KEYS_WITH_QUOTAS, USERS_OF_KEYS, by_key, by_month, calls_of_keys,
        cap_counts_of, count_of_cap, count_of_key, first_of_keys, keys_and_users_of,
    },
    rows::{history_row_of, rows},
    seals::{
        ALL_SEALED, CHANGED, LAST_SEALS, LOST_SEALS, QUOTA_WITHOUT_ACCOUNT, SEAL_COUNT, SEALED_WITHOUT_ACCOUNT, SEALS,
        all_sealed_of, changed_of, last_seal_of, lost_seal_of, stored_seal_of,
    },
};
use crate::biz::{
    account::users::UserSpan,
    jobs::seals::store::{HistoryPage, Since, TimeSpan, TraceSpan},
    values::ids::{ApiKeyId, UserId},
};

/// The values of a statement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Scope<'s> {
    /// `{users}`
    pub users: &'s [UserId],
    /// `{first}` and `{last}`
    pub first: &'s str,
    pub last: &'s str,
    /// `{from}` and `{until}`
    pub from: DateTime<Utc>,
    pub until: DateTime<Utc>,
    /// `{id}`
    pub id: &'s str,
    /// `{after_trace}` and `{last_trace}`
    pub after_trace: &'s str,
    pub last_trace: &'s str,
    /// `{traces}`
    pub traces: &'s [String],
    /// `{keys}`
    pub keys: &'s [ApiKeyId],
    /// `{first_key}` and `{last_key}`
    pub first_key: &'s str,
    pub last_key: &'s str,
    /// `{is_part}`: 1 if the history goes on beyond `{from}` and `{until}`, otherwise 0
    pub is_part: bool,
    /// `{day}`, and its month `{month}`
    pub day: NaiveDate,
    /// `{limit}`
    pub limit: u32,
}

impl<'s> Scope<'s> {
    pub fn of_users(users: &'s [UserId], since: Since) -> Self {
        let Since { at, day } = since;
        let [first, last, id, after_trace, last_trace, first_key, last_key] = [""; 7];
        let (traces, keys, is_part, limit) = (&[][..], &[][..], false, u32::MAX);
        Self {
            users,
            first,
            last,
            from: at,
            until: at,
            id,
            after_trace,
            last_trace,
            traces,
            keys,
            first_key,
            last_key,
            is_part,
            day,
            limit,
        }
    }

    /// The users behind `first` up to `last`.
    pub fn of_span(span: &'s UserSpan) -> Self {
        Self { first: span.after(), last: span.last.as_str(), ..Self::of_users(&[], Since::BEGINNING) }
    }

    /// API keys, with their transactions since `from`.
    pub fn of_keys(keys: &'s [ApiKeyId], from: DateTime<Utc>) -> Self {
        Self { keys, from, ..Self::of_users(&[], Since::BEGINNING) }
    }

    pub fn with_traces(self, traces: &'s TraceSpan) -> Self {
        Self { after_trace: &traces.after, last_trace: &traces.last, ..self }
    }

    /// A part of the records of some users.
    pub fn of_times(users: &'s [UserId], times: &TimeSpan) -> Self {
        let TimeSpan { from, until, is_part } = *times;
        Self { from, until, is_part, ..Self::of_users(users, Since::BEGINNING) }
    }

    pub fn of_page(page: HistoryPage<'s>) -> Self {
        let HistoryPage { users, from, after_id: id, until, limit } = page;
        Self { from, until, id, limit, ..Self::of_users(users, Since::BEGINNING) }
    }
}

/// A part of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    Sql(&'static str),
    /// The name of a value.
    Value(&'static str),
}

/// The parts of a statement, in order.
pub(super) fn pieces(sql: &'static str) -> impl Iterator<Item = Piece> {
    sql.split('{')
        .enumerate()
        .flat_map(|(index, part)| match (index, part.split_once('}')) {
            (1.., Some((name, sql))) => [Some(Piece::Value(name)), Some(Piece::Sql(sql))],
            _ => [Some(Piece::Sql(part)), None],
        })
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_is_cut_at_its_values() {
        let pieces: Vec<_> = pieces("SELECT {first} WHERE {last}").collect();
        let expected =
            [Piece::Sql("SELECT "), Piece::Value("first"), Piece::Sql(" WHERE "), Piece::Value("last"), Piece::Sql("")];
        assert_eq!(pieces, expected);
    }
}
