//! The stored seals, and the accounts that may have changed since theirs.

use crate::{
    biz::{
        jobs::seals::{
            content::Figures,
            store::{Changed, Sealed, Since, StoredSeal},
        },
        values::{calendar::Month, error::StoreError, ids::UserId},
    },
    data::{error::corrupt, row::Columns, rows::account::user_of},
};

/// The users with rows of a small table since their seals.
macro_rules! moved_since {
    ($table:literal, $at:literal) => {
        concat!(
            "SELECT h.user_id FROM ",
            $table,
            " h JOIN sealed_account s ON s.user_id = h.user_id AND h.",
            $at,
            " >= s.sealed_until WHERE h.user_id > {first} AND h.user_id <= {last}"
        )
    };
}

/// The accounts behind `{first}` up to `{last}` that may have changed since their seals. The hour covers the
/// difference of two clocks: the database writes the time of a change, and a server decides its month.
///
/// The newest record of each account is read too, because a batch that was committed in part may lack the write of
/// the account. It is one probe of the clustered key; MariaDB would read all records of an account for an EXISTS.
/// Adjustments, top-ups and their refunds are few, so they are read first.
pub(in crate::data) const CHANGED: &str = concat!(
    "SELECT b.user_id, b.version, \
    CASE WHEN s.user_id IS NULL AND (SELECT m.month FROM sealed_month m WHERE m.user_id = b.user_id LIMIT 1) \
    IS NOT NULL THEN 1 ELSE 0 END, s.month, s.sealed_until, s.version, s.balance, \
    s.charged, s.given_back, s.given_back_count, s.seal FROM user_balance b \
    LEFT JOIN sealed_account s ON s.user_id = b.user_id \
    LEFT JOIN (",
    moved_since!("balance_adjustment", "created_at"),
    " UNION ",
    moved_since!("recharge_order", "updated_at"),
    " UNION ",
    moved_since!("recharge_refund", "settled_at"),
    ") m ON m.user_id = b.user_id \
    WHERE b.user_id > {first} AND b.user_id <= {last} AND (s.user_id IS NULL OR b.version <> s.version \
    OR b.balance <> s.balance OR b.held <> 0 OR b.updated_at >= {an_hour_before_the_end_of_s} \
    OR (SELECT r.created_at FROM billing_record r WHERE r.user_id = b.user_id \
    ORDER BY r.created_at DESC LIMIT 1) >= s.sealed_until OR m.user_id IS NOT NULL) ORDER BY b.user_id"
);

/// A row of [`CHANGED`].
pub(in crate::data) fn changed_of(row: &impl Columns) -> Result<Changed, StoreError> {
    let sealed = match row.optional_text(3)? {
        Some(month) => Some(sealed_at(row, &month, 4)?),
        None => None,
    };
    Ok(Changed { user: user_of(row)?, version: row.number(1)?, sealed, has_lost_seal: row.number::<i64>(2)? != 0 })
}

/// The number of seals of the users behind `{first}` up to `{last}`.
pub(in crate::data) const SEAL_COUNT: &str =
    "SELECT COUNT(*) FROM sealed_account WHERE user_id > {first} AND user_id <= {last}";

/// The users behind `{first}` up to `{last}` with a seal and without an account.
pub(in crate::data) const SEALED_WITHOUT_ACCOUNT: &str = "SELECT s.user_id FROM sealed_account s \
    LEFT JOIN user_balance b ON b.user_id = s.user_id \
    WHERE s.user_id > {first} AND s.user_id <= {last} AND b.user_id IS NULL";

/// The users behind `{first}` up to `{last}` with a quota of `{month}` and without an account.
pub(in crate::data) const QUOTA_WITHOUT_ACCOUNT: &str = "SELECT DISTINCT q.user_id FROM free_quota q \
    LEFT JOIN user_balance b ON b.user_id = q.user_id \
    WHERE q.reset_month = {month} AND q.user_id > {first} AND q.user_id <= {last} AND b.user_id IS NULL";

/// The accounts behind `{first}` up to `{last}` whose last seal is not among the seals, with its month. One probe of a
/// primary key for each account.
pub(in crate::data) const LOST_SEALS: &str = "SELECT s.user_id, s.month FROM sealed_account s \
    LEFT JOIN sealed_month m ON m.user_id = s.user_id AND m.month = s.month \
    WHERE s.user_id > {first} AND s.user_id <= {last} AND m.user_id IS NULL ORDER BY s.user_id";

/// A row of [`LOST_SEALS`].
pub(in crate::data) fn lost_seal_of(row: &impl Columns) -> Result<(UserId, Month), StoreError> {
    Ok((user_of(row)?, month_of(&row.text(1)?)?))
}

/// The month of `all_sealed`.
pub(in crate::data) const ALL_SEALED: &str = "SELECT month FROM all_sealed";

/// A row of [`ALL_SEALED`].
pub(in crate::data) fn all_sealed_of(row: &impl Columns) -> Result<Month, StoreError> {
    month_of(&row.text(0)?)
}

/// The last seal of a month, from column `first` on.
fn sealed_at(row: &impl Columns, month: &str, first: usize) -> Result<Sealed, StoreError> {
    let month = month_of(month)?;
    Ok(Sealed {
        month,
        since: Since { at: row.time(first)?, day: month.next().first_day() },
        version: row.number(first + 1)?,
        figures: Figures {
            balance: row.money(first + 2)?,
            charged: row.money(first + 3)?,
            given_back: row.money(first + 4)?,
            given_back_count: row.number(first + 5)?,
        },
        seal: row.text(first + 6)?,
    })
}

fn month_of(text: &str) -> Result<Month, StoreError> {
    text.parse().map_err(|_| corrupt("month of a seal"))
}

/// The seals of `{users}`.
pub(in crate::data) const SEALS: &str = "SELECT user_id, month, content, balance, seal FROM sealed_month WHERE user_id IN ({users}) ORDER BY user_id, month";

/// A row of [`SEALS`].
pub(in crate::data) fn stored_seal_of(row: &impl Columns) -> Result<StoredSeal, StoreError> {
    Ok(StoredSeal {
        user: user_of(row)?,
        month: month_of(&row.text(1)?)?,
        content: row.text(2)?,
        balance: row.money(3)?,
        seal: row.text(4)?,
    })
}

/// The last seals of `{users}`.
pub(in crate::data) const LAST_SEALS: &str = "SELECT user_id, month, sealed_until, version, balance, charged, given_back, \
    given_back_count, seal FROM sealed_account WHERE user_id IN ({users})";

/// A row of [`LAST_SEALS`].
pub(in crate::data) fn last_seal_of(row: &impl Columns) -> Result<(UserId, Sealed), StoreError> {
    Ok((user_of(row)?, sealed_at(row, &row.text(1)?, 2)?))
}
