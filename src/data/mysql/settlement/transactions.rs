//! Charges and reservations: rows of `billing_transaction`, and a row of `reservation_expiry` for
//! each reservation until the sweep finds it ended. Commits do not touch that row, because all
//! users share the table and would wait for each other.

use async_trait::async_trait;
use chrono::{DateTime, NaiveDate, Utc};

use crate::{
    biz::{
        charge::prices::Class,
        settlement::{
            refund::Refunded,
            rule::ReservationWrite,
            transaction::{Delivered, Due, Reservation, Status, Transaction, TransactionStore},
        },
        values::{
            error::StoreError,
            ids::{ApiKeyId, ModelName, PlanName, ServiceTier, TraceId, UserId},
            usage::Usage,
        },
    },
    data::{
        column_codes::{
            charged_by_number, has_price_details, price_details, quota_unit_name, reports_text, usage_parts,
        },
        mysql::{
            MySqlStore,
            record_transactions::with_content,
            statement::{Row as StatementRow, Statement},
        },
        rows::{
            refund::{refund_columns, refunded_of},
            transaction::{due_of, transaction_of},
        },
        transaction_archive::is_narrow,
    },
};

/// The columns of [`transaction_of`].
pub const COLUMNS: &str = "user_id, trace_id, status, service_name, count, cost, api_key_id, model, \
    input_tokens, output_tokens, cached_input_tokens, free_count, paid_count, amount, record_id, balance_after, \
    COALESCE(free_remaining_large, free_remaining_after), created_at, held_free, held_amount, full_cost, commit_cost, usage_date, expires_at, \
    price_version, input_price, cached_input_price, output_price, estimated_input_tokens, estimated_output_tokens, \
    quota_unit, shortfall, charged_by, refunded_free, refunded_paid, refunded_amount, late_date, cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, \
    reasoning_tokens, audio_output_tokens, images, service_tier, commit_service_tier, served_model, plan, price_details, reports";

/// The column of the status in [`COLUMNS`].
pub const STATUS: usize = 2;

/// Where transactions are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The table. An archived transaction is a narrow row there.
    Table,
    /// The view with the content of archived transactions. The server parses its text for each statement, which takes
    /// several times as long as the look-up of a row.
    Settled,
}

/// Reads transactions.
pub fn read<'k>(
    statement: &mut Statement,
    source: Source,
    keys: impl IntoIterator<Item = &'k (&'k UserId, &'k TraceId)>,
) {
    statement.push("SELECT ").push(COLUMNS).push(match source {
        Source::Table => " FROM billing_transaction",
        Source::Settled => " FROM settled_transaction",
    });
    statement.push(" WHERE (user_id, trace_id) IN (").pairs(keys).push("); ");
}

/// The transactions `t` with their content `a` in the archive, for a statement that needs few columns: a part of the
/// view `settled_transaction` without the time to parse it.
pub const WITH_ARCHIVE: &str = concat!("billing_transaction t", with_content!());

#[async_trait]
impl TransactionStore for MySqlStore {
    async fn transaction(&self, user: &UserId, trace: &TraceId) -> Result<Option<Transaction>, StoreError> {
        for source in [Source::Table, Source::Settled] {
            let mut statement = Statement::new("");
            read(&mut statement, source, [&(user, trace)]);
            let sets = self.reader.fetch(statement).await?;
            let row = sets.first().and_then(|rows| rows.first());
            match row {
                // The content does not come back to the table.
                Some(row) if source == Source::Table && is_narrow(row, STATUS) => {}
                _ => return row.map(transaction_of).transpose(),
            }
        }
        Ok(None)
    }

    async fn refunds_of(&self, user: &UserId, trace: &TraceId, limit: u32) -> Result<Vec<Refunded>, StoreError> {
        let query = sqlx::query(concat!(
            "SELECT ",
            refund_columns!(),
            " FROM charge_refund WHERE user_id = ? AND trace_id = ? ORDER BY created_at, refund_id LIMIT ?"
        ));
        let query = query.bind(user.as_str()).bind(trace.as_str().as_bytes()).bind(limit);
        self.reader.fetch_all(query).await?.iter().map(refunded_of).collect()
    }

    async fn due(&self, until: DateTime<Utc>, after: Option<&Due>, limit: u32) -> Result<Vec<Due>, StoreError> {
        let (after_time, after_user, after_trace) = match after {
            Some(due) => (due.expires_at, due.user.as_str(), due.trace.as_str()),
            None => (DateTime::UNIX_EPOCH, "", ""),
        };
        let query = sqlx::query(
            "SELECT e.expires_at, e.user_id, e.trace_id, COALESCE(t.status, '') = 'PENDING' \
             FROM reservation_expiry e \
             LEFT JOIN billing_transaction t ON t.user_id = e.user_id AND t.trace_id = e.trace_id \
             WHERE e.expires_at >= ? AND e.expires_at <= ? AND (e.expires_at, e.user_id, e.trace_id) > (?, ?, ?) \
             AND NOT (COALESCE(t.status, '') = 'PENDING' AND t.expires_at > ?) \
             ORDER BY e.expires_at, e.user_id, e.trace_id LIMIT ?",
        )
        .bind(after_time.naive_utc())
        .bind(until.naive_utc())
        .bind(after_time.naive_utc())
        .bind(after_user)
        .bind(after_trace.as_bytes())
        // Each report of a stream extends its hold, but the row keeps the first expiry.
        .bind(until.naive_utc())
        .bind(limit);
        let rows = self.reader.fetch_all(query).await?;
        rows.iter().map(due_of).collect()
    }

    async fn forget(&self, ended: &[Due]) -> Result<(), StoreError> {
        // One statement a row: for a list the optimizer may choose a scan, which waits for the
        // inserts of other transactions.
        let forget = Statement::transaction(|statement| {
            for due in ended {
                statement
                    .push("DELETE FROM reservation_expiry WHERE expires_at = ")
                    .instant(due.expires_at)
                    .push(" AND user_id = ")
                    .texts([due.user.as_str()])
                    .push(" AND trace_id = ")
                    .texts([due.trace.as_str()])
                    .push("; ");
            }
        });
        self.waiter.run(forget).await
    }
}

/// A column that few transactions fill. The statement names it only if one of them does.
struct Optional {
    names: &'static str,
    is_filled: fn(&Transaction) -> bool,
    fill: for<'r, 's> fn(&'r mut StatementRow<'s>, &Transaction) -> &'r mut StatementRow<'s>,
}

const PRICE_VERSION: Optional = Optional {
    names: ", price_version, input_price, cached_input_price, output_price",
    is_filled: |transaction| transaction.price_version.is_some(),
    fill: price_version,
};

const PRICE_DETAILS: Optional = Optional {
    names: ", price_details",
    is_filled: has_price_details,
    fill: |row, transaction| row.optional(price_details(transaction).as_deref(), StatementRow::text),
};

const USAGE_PARTS: Optional = Optional {
    names: concat!(
        ", cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, reasoning_tokens, audio_output_tokens, ",
        "images"
    ),
    is_filled: |transaction| usage_parts(usage_of(transaction)).iter().any(Option::is_some),
    fill: |row, transaction| {
        let parts = usage_parts(usage_of(transaction));
        parts.into_iter().fold(row, |row, part| row.optional(part, StatementRow::number))
    },
};

const SERVICE_TIER: Optional = Optional {
    names: ", service_tier",
    is_filled: |transaction| transaction.content.service_tier.is_some(),
    fill: |row, transaction| {
        row.optional(transaction.content.service_tier.as_ref().map(ServiceTier::as_str), StatementRow::text)
    },
};

const PLAN: Optional = Optional {
    names: ", plan",
    is_filled: |transaction| transaction.plan.is_some(),
    fill: |row, transaction| row.optional(transaction.plan.as_ref().map(PlanName::as_str), StatementRow::text),
};

const QUOTA_UNIT: Optional = Optional {
    names: ", quota_unit",
    is_filled: |transaction| quota_unit_name(transaction).is_some(),
    fill: |row, transaction| row.optional(quota_unit_name(transaction), StatementRow::text),
};

/// A remaining quota beyond the range of `free_remaining_after`.
const FREE_REMAINING: Optional = Optional {
    names: ", free_remaining_large",
    is_filled: |transaction| large_remaining(transaction).is_some(),
    fill: |row, transaction| row.optional(large_remaining(transaction), StatementRow::number),
};

const SHORTFALL: Optional = Optional {
    names: ", shortfall",
    is_filled: |transaction| !transaction.shortfall.is_zero(),
    fill: |row, transaction| row.money(transaction.shortfall),
};

const OF_CHARGES: [Optional; 12] = [
    Optional {
        names: ", cost",
        is_filled: |charge| charge.content.cost.is_some(),
        fill: |row, charge| row.optional(charge.content.cost, StatementRow::money),
    },
    Optional {
        names: ", api_key_id",
        is_filled: |charge| charge.content.api_key.is_some(),
        fill: |row, charge| row.optional(charge.content.api_key.as_ref().map(ApiKeyId::as_str), StatementRow::text),
    },
    Optional {
        names: ", model",
        is_filled: |charge| charge.content.model.is_some(),
        fill: |row, charge| row.optional(charge.content.model.as_ref().map(ModelName::as_str), StatementRow::text),
    },
    Optional {
        names: ", input_tokens, output_tokens, cached_input_tokens",
        is_filled: |charge| charge.content.usage.is_some(),
        fill: |row, charge| tokens(row, charge.content.usage),
    },
    PRICE_VERSION,
    PRICE_DETAILS,
    USAGE_PARTS,
    SERVICE_TIER,
    PLAN,
    QUOTA_UNIT,
    FREE_REMAINING,
    SHORTFALL,
];

const OF_RESERVATIONS: [Optional; 13] = [
    Optional {
        names: ", estimated_input_tokens, estimated_output_tokens",
        is_filled: |reservation| reservation.content.estimate.is_some(),
        fill: |row, reservation| {
            let estimate = reservation.content.estimate;
            row.optional(estimate.map(|usage| usage.input_tokens), StatementRow::number)
                .optional(estimate.map(|usage| usage.output_tokens), StatementRow::number)
        },
    },
    PRICE_VERSION,
    PRICE_DETAILS,
    USAGE_PARTS,
    SERVICE_TIER,
    PLAN,
    OF_COMMIT,
    QUOTA_UNIT,
    FREE_REMAINING,
    SHORTFALL,
    Optional {
        names: ", late_date",
        is_filled: |reservation| late_day(reservation).is_some(),
        fill: |row, reservation| row.optional(late_day(reservation), StatementRow::day),
    },
    Optional {
        names: ", charged_by",
        is_filled: |reservation| charged_by_number(reservation).is_some(),
        fill: |row, reservation| row.optional(charged_by_number(reservation), StatementRow::number),
    },
    Optional {
        names: ", reports",
        is_filled: |reservation| reservation.reservation.as_ref().is_some_and(|state| state.reports.is_some()),
        fill: |row, reservation| row.optional(reports_text(reservation).as_deref(), StatementRow::text),
    },
];

/// The service tier and the model that a commit names.
const OF_COMMIT: Optional = Optional {
    names: ", commit_service_tier, served_model",
    is_filled: |transaction| {
        delivered_of(transaction).is_some_and(|delivered| delivered.service_tier.is_some() || delivered.model.is_some())
    },
    fill: |row, transaction| {
        let delivered = delivered_of(transaction);
        let service_tier = delivered.and_then(|delivered| delivered.service_tier.as_ref());
        let model = delivered.and_then(|delivered| delivered.model.as_ref());
        row.optional(service_tier.map(ServiceTier::as_str), StatementRow::text)
            .optional(model.map(ModelName::as_str), StatementRow::text)
    },
};

fn delivered_of(transaction: &Transaction) -> Option<&Delivered> {
    transaction.reservation.as_ref()?.delivered.as_ref()
}

/// The usage in the columns of a transaction.
fn usage_of(transaction: &Transaction) -> Option<Usage> {
    transaction.reservation.as_ref().map_or(transaction.content.usage, Reservation::usage)
}

/// Rows of charges. Parsing costs time for each value, so default values and the columns of
/// reservations are left out.
pub fn insert_charges(statement: &mut Statement, charges: &[Transaction]) {
    let filled: Vec<_> = OF_CHARGES.iter().filter(|column| charges.iter().any(column.is_filled)).collect();
    statement.push(
        "INSERT INTO billing_transaction (user_id, trace_id, service_name, count, free_count, paid_count, amount, \
         record_id, balance_after, free_remaining_after, created_at",
    );
    for column in &filled {
        statement.push(column.names);
    }
    statement
        .push(") VALUES ")
        .rows(charges, |row, charge| {
            identity(row, charge).number(charge.content.count);
            outcome(row, charge);
            for column in &filled {
                (column.fill)(row, charge);
            }
        })
        .push("; ");
}

/// Writes reservations, new or with their new state, and a row of `reservation_expiry` for each new
/// one.
pub fn write_reservations(statement: &mut Statement, writes: &[ReservationWrite]) {
    let all = writes
        .iter()
        .filter_map(|write| Some((write.was, &write.transaction, write.transaction.reservation.as_ref()?)));
    let (changed, new): (Vec<_>, Vec<_>) = all.partition(|(was, ..)| was.is_some());
    // A plain insert, so that an id in use fails.
    put_reservations(statement, &new, "; ");
    put_reservations(
        statement,
        &changed,
        " ON DUPLICATE KEY UPDATE status = VALUES(status), input_tokens = VALUES(input_tokens), \
         output_tokens = VALUES(output_tokens), cached_input_tokens = VALUES(cached_input_tokens), \
         free_count = VALUES(free_count), paid_count = VALUES(paid_count), amount = VALUES(amount), \
         record_id = VALUES(record_id), balance_after = VALUES(balance_after), \
         free_remaining_after = VALUES(free_remaining_after), \
         free_remaining_large = VALUES(free_remaining_large), commit_cost = VALUES(commit_cost), \
         held_free = VALUES(held_free), held_amount = VALUES(held_amount), expires_at = VALUES(expires_at), \
         shortfall = VALUES(shortfall), charged_by = VALUES(charged_by), late_date = VALUES(late_date), \
         cache_write_tokens = VALUES(cache_write_tokens), cache_write_1h_tokens = VALUES(cache_write_1h_tokens), \
         audio_input_tokens = VALUES(audio_input_tokens), reasoning_tokens = VALUES(reasoning_tokens), \
         audio_output_tokens = VALUES(audio_output_tokens), images = VALUES(images), \
         commit_service_tier = VALUES(commit_service_tier), served_model = VALUES(served_model), \
         price_version = VALUES(price_version), input_price = VALUES(input_price), \
         cached_input_price = VALUES(cached_input_price), output_price = VALUES(output_price), \
         price_details = VALUES(price_details), reports = VALUES(reports); ",
    );
    let starts: Vec<_> = new.iter().filter(|(_, transaction, _)| transaction.status == Status::Pending).collect();
    if !starts.is_empty() {
        statement
            .push("INSERT INTO reservation_expiry (expires_at, user_id, trace_id) VALUES ")
            .rows(starts, |row, (_, transaction, reservation)| {
                row.instant(reservation.expires_at).text(transaction.user.as_str()).text(transaction.trace.as_str());
            })
            .push("; ");
    }
}

type Written<'w> = (Option<Status>, &'w Transaction, &'w Reservation);

fn put_reservations(statement: &mut Statement, rows: &[Written<'_>], end: &'static str) {
    if rows.is_empty() {
        return;
    }
    let is_filled = |column: &&Optional| rows.iter().any(|(_, transaction, _)| (column.is_filled)(transaction));
    let filled: Vec<_> = OF_RESERVATIONS.iter().filter(is_filled).collect();
    statement.push(
        "INSERT INTO billing_transaction (user_id, trace_id, service_name, count, free_count, paid_count, amount, \
             record_id, balance_after, free_remaining_after, created_at, status, cost, api_key_id, model, \
             input_tokens, output_tokens, cached_input_tokens, held_free, held_amount, full_cost, commit_cost, \
             usage_date, expires_at",
    );
    for column in &filled {
        statement.push(column.names);
    }
    statement
        .push(") VALUES ")
        .rows(rows, |row, (_, transaction, reservation)| {
            let content = &transaction.content;
            let delivered = reservation.delivered.as_ref();
            identity(row, transaction).number(content.count);
            outcome(row, transaction)
                .text(transaction.status.name())
                .optional(content.cost, StatementRow::money)
                .optional(content.api_key.as_ref().map(ApiKeyId::as_str), StatementRow::text)
                .optional(content.model.as_ref().map(ModelName::as_str), StatementRow::text);
            tokens(row, reservation.usage())
                .number(reservation.free)
                .money(reservation.amount)
                .money(reservation.full_cost)
                .optional(delivered.and_then(|delivered| delivered.cost), StatementRow::money)
                .day(reservation.day)
                .instant(reservation.expires_at);
            for column in &filled {
                (column.fill)(row, transaction);
            }
        })
        .push(end);
}

fn identity<'r, 's>(row: &'r mut StatementRow<'s>, transaction: &Transaction) -> &'r mut StatementRow<'s> {
    row.text(transaction.user.as_str()).text(transaction.trace.as_str()).text(transaction.content.service.as_str())
}

fn outcome<'r, 's>(row: &'r mut StatementRow<'s>, transaction: &Transaction) -> &'r mut StatementRow<'s> {
    row.number(transaction.free)
        .number(transaction.paid)
        .money(transaction.amount)
        .text(&transaction.record_id.to_string())
        .money(transaction.balance_after)
        .number(i32::try_from(transaction.free_remaining_after).unwrap_or(i32::MAX))
        .instant(transaction.created_at)
}

fn late_day(transaction: &Transaction) -> Option<NaiveDate> {
    transaction.reservation.as_ref()?.late_day
}

fn large_remaining(transaction: &Transaction) -> Option<u64> {
    Some(transaction.free_remaining_after).filter(|remaining| i32::try_from(*remaining).is_err())
}

fn tokens<'r, 's>(row: &'r mut StatementRow<'s>, usage: Option<Usage>) -> &'r mut StatementRow<'s> {
    row.optional(usage.map(|usage| usage.input_tokens), StatementRow::number)
        .optional(usage.map(|usage| usage.output_tokens), StatementRow::number)
        .optional(usage.map(|usage| usage.cached_input_tokens), StatementRow::number)
}

fn price_version<'r, 's>(row: &'r mut StatementRow<'s>, transaction: &Transaction) -> &'r mut StatementRow<'s> {
    let version = transaction.price_version.as_ref();
    let price = |class| version.and_then(|version| version.prices.base().given(class));
    row.optional(version.map(|version| version.id.as_str()), StatementRow::text)
        .optional(price(Class::Input), StatementRow::money)
        .optional(price(Class::CachedInput), StatementRow::money)
        .optional(price(Class::Output), StatementRow::money)
}
