//! One charge, one transaction: lock the rows, read, decide, write, commit.

use billing_service::service::proto::{DeductQuotaReply, DeductQuotaRequest};
use chrono::Utc;
use rust_decimal::{Decimal, prelude::ToPrimitive};
use sqlx::{Connection, MySqlConnection};
use tonic::Status;
use uuid::Uuid;

/// The price per unit (0.01) and the free units per month, as in the configuration of the service.
const PRICE: Decimal = Decimal::from_parts(1, 0, 0, false, 2);
const FREE_UNITS: i32 = 10_000;

const INSERT_QUOTA: &str = "INSERT IGNORE INTO free_quota \
    (free_quota_id, user_id, service_name, total_quota, reset_month) VALUES (?, ?, ?, ?, ?)";
const LOCK_QUOTA: &str = "SELECT free_quota_id, total_quota, used_quota FROM free_quota \
    WHERE user_id = ? AND service_name = ? AND reset_month = ? FOR UPDATE";
const LOCK_BALANCE: &str = "SELECT user_balance_id, balance FROM user_balance WHERE user_id = ? FOR UPDATE";
const UPDATE_QUOTA: &str = "UPDATE free_quota SET used_quota = used_quota + ? WHERE free_quota_id = ?";
const UPDATE_BALANCE: &str =
    "UPDATE user_balance SET balance = balance - ?, version = version + 1 WHERE user_balance_id = ?";
const INSERT_RECORD: &str = "INSERT INTO billing_record \
    (billing_record_id, user_id, service_name, type, amount, count) VALUES (?, ?, ?, ?, ?, ?)";

const FREE: i8 = 1;
const PAID: i8 = 2;

/// Charges `request`: free quota first, then balance.
///
/// # Errors
/// The balance is too low, or the database fails.
pub async fn charge(
    connection: &mut MySqlConnection,
    request: &DeductQuotaRequest,
) -> Result<DeductQuotaReply, Status> {
    let mut transaction = connection.begin().await.map_err(failed)?;
    let (quota_id, total, used) = lock_quota(&mut transaction, request).await.map_err(failed)?;
    let (balance_id, balance): (String, Decimal) = sqlx::query_as(LOCK_BALANCE)
        .bind(&request.user_id)
        .fetch_optional(&mut *transaction)
        .await
        .map_err(failed)?
        .ok_or_else(|| Status::failed_precondition("no balance"))?;

    let free = request.count.min(total - used).max(0);
    let paid = request.count - free;
    let amount = PRICE * Decimal::from(paid);
    if amount > balance {
        return Err(Status::failed_precondition("insufficient balance"));
    }

    let mut record_id = String::new();
    if free > 0 {
        let update = sqlx::query(UPDATE_QUOTA).bind(free).bind(&quota_id);
        update.execute(&mut *transaction).await.map_err(failed)?;
        record_id = record(&mut transaction, request, (FREE, Decimal::ZERO, free)).await.map_err(failed)?;
    }
    if paid > 0 {
        let update = sqlx::query(UPDATE_BALANCE).bind(amount).bind(&balance_id);
        update.execute(&mut *transaction).await.map_err(failed)?;
        record_id = record(&mut transaction, request, (PAID, amount, paid)).await.map_err(failed)?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(DeductQuotaReply {
        success: true,
        record_id,
        free_count: free,
        paid_count: paid,
        amount: amount.to_f64().unwrap_or(f64::NAN),
        balance: (balance - amount).to_f64().unwrap_or(f64::NAN),
        free_remaining: total - used - free,
        free_remaining_units: (total - used - free).into(),
        replayed: false,
        shortfall: 0.0,
    })
}

/// Id, total and used units of this month's quota, which is created if it does not exist.
async fn lock_quota(
    connection: &mut MySqlConnection,
    request: &DeductQuotaRequest,
) -> Result<(String, i32, i32), sqlx::Error> {
    let month = Utc::now().format("%Y-%m").to_string();
    let lock = || sqlx::query_as(LOCK_QUOTA).bind(&request.user_id).bind(&request.service_name).bind(&month);
    if let Some(quota) = lock().fetch_optional(&mut *connection).await? {
        return Ok(quota);
    }
    sqlx::query(INSERT_QUOTA)
        .bind(Uuid::now_v7().to_string())
        .bind(&request.user_id)
        .bind(&request.service_name)
        .bind(FREE_UNITS)
        .bind(&month)
        .execute(&mut *connection)
        .await?;
    lock().fetch_one(connection).await
}

/// Writes a record of `(type, amount, count)`, and returns its id.
async fn record(
    connection: &mut MySqlConnection,
    request: &DeductQuotaRequest,
    (kind, amount, count): (i8, Decimal, i32),
) -> Result<String, sqlx::Error> {
    // Ordered by time, so that inserts go to the end of the primary key.
    let id = Uuid::now_v7().to_string();
    sqlx::query(INSERT_RECORD)
        .bind(&id)
        .bind(&request.user_id)
        .bind(&request.service_name)
        .bind(kind)
        .bind(amount)
        .bind(count)
        .execute(connection)
        .await?;
    Ok(id)
}

fn failed(error: sqlx::Error) -> Status {
    Status::internal(format!("mysql: {error}"))
}
