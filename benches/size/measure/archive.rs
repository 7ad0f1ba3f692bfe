//! Moves old records to the archive during charges. Afterwards records and transactions are moved back, so that
//! the data stay unchanged.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use billing_service::service::proto::{
    DeductQuotaRequest, billing_internal_service_client::BillingInternalServiceClient,
};
use sqlx::{Connection, MySqlConnection};
use tokio::task::JoinSet;
use tonic::Status;
use tonic_types::StatusExt;

use super::{Context, LARGE};
use crate::{
    process::{self, Server, configure},
    report::{Bound, quantile},
};

const CALLERS: usize = 50;
const WARM_UP: Duration = Duration::from_secs(5);
/// Time of the measurement of charges without the job.
const ALONE: Duration = Duration::from_secs(10);
/// Months to keep, so that the oldest month of the data moves.
const KEPT_MONTHS: &str = "10";

/// Adds records of the oldest month for the charged users, so that the job moves their records too.
const OLD_RECORDS: &str = "INSERT INTO billing_record \
    (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date) \
    SELECT old.billing_record_id, account.user_id, old.service_name, 1, 0, 1, old.created_at, old.usage_date \
    FROM user_balance account, (SELECT * FROM billing_record WHERE user_id = 'user00000001' \
    ORDER BY created_at LIMIT 100) old WHERE account.user_id LIKE 'load%'";

const PUT_BACK: &str = "INSERT INTO billing_record \
    (billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id) \
    SELECT billing_record_id, user_id, service_name, type, amount, count, created_at, usage_date, trace_id \
    FROM billing_record_archive; TRUNCATE TABLE billing_record_archive; \
    REPLACE INTO billing_transaction SELECT s.* FROM billing_transaction_archive a \
    JOIN settled_transaction s ON s.user_id = a.user_id AND s.trace_id = a.trace_id; \
    TRUNCATE TABLE billing_transaction_archive; DELETE FROM transactions_archived; \
    DELETE FROM user_balance WHERE user_id LIKE 'load%'; DELETE FROM free_quota WHERE user_id LIKE 'load%'; \
    DELETE FROM billing_record WHERE user_id LIKE 'load%'; DELETE FROM usage_daily WHERE user_id LIKE 'load%'; \
    DELETE FROM billing_transaction WHERE user_id LIKE 'load%'";

/// Measures the archive job beside charges. Later measurements read both tables.
///
/// # Errors
/// A charge fails otherwise than by OVERLOADED, or the job fails.
pub async fn archive(context: &mut Context<'_>) -> anyhow::Result<()> {
    let conf = configure(context.mariadb, LARGE, context.folder)?;
    let server = Server::start(&conf).await?;
    // The warm-up opens the accounts.
    let charges = Charges::start(&server);
    tokio::time::sleep(WARM_UP).await;
    charges.stop().await?;
    let mut connection = MySqlConnection::connect(&context.mariadb.url(LARGE)).await?;
    sqlx::raw_sql(OLD_RECORDS).execute(&mut connection).await?;
    let mut alone = {
        let charges = Charges::start(&server);
        tokio::time::sleep(ALONE).await;
        charges.stop().await?
    };
    let charges = Charges::start(&server);
    let took = process::run_job("archive-records", &conf, &[("BILLING__BILLING__RECORD_MONTHS", KEPT_MONTHS)]).await;
    let mut beside = charges.stop().await?;
    let took = took?;
    drop(server);
    let moved: i64 =
        sqlx::query_scalar("SELECT COUNT(*) FROM billing_record_archive").fetch_one(&mut connection).await?;
    connection.close().await?;

    let report = &mut context.report;
    report.add("archive-records: records moved", moved as f64, "", Bound::Above(0.0));
    report.add("archive-records: rate beside charges", moved as f64 / took.time.as_secs_f64(), "rows/s", Bound::None);
    report.add("archive-records: peak memory", took.peak, "MiB", Bound::None);
    for (name, charged, seconds) in
        [("without it", &mut alone, ALONE.as_secs_f64()), ("beside it", &mut beside, took.time.as_secs_f64())]
    {
        let Charged { times, refused } = charged;
        report.add(format!("charges {name}: refused as OVERLOADED"), *refused as f64, "", Bound::Below(1.0));
        report.add(format!("charges {name}: rate"), times.len() as f64 / seconds, "/s", Bound::None);
        report.add(format!("charges {name}: p50"), quantile(times, 0.5), "ms", Bound::None);
        report.add(format!("charges {name}: p99"), quantile(times, 0.99), "ms", Bound::None);
        report.add(format!("charges {name}: longest"), quantile(times, 1.0), "ms", Bound::Below(1_000.0));
    }
    Ok(())
}

/// Restores the created data, also after an interrupted run.
///
/// # Errors
/// The database refuses.
pub async fn put_back(context: &Context<'_>) -> anyhow::Result<()> {
    let mut connection = MySqlConnection::connect(&context.mariadb.url(LARGE)).await?;
    sqlx::raw_sql(PUT_BACK).execute(&mut connection).await?;
    Ok(connection.close().await?)
}

#[derive(Default)]
struct Charged {
    /// Latencies of charges in milliseconds.
    times: Vec<f64>,
    /// Charges that were refused because the server did not get to them in time.
    refused: usize,
}

fn is_overloaded(status: &Status) -> bool {
    status.get_error_details().error_info().is_some_and(|info| info.reason == "OVERLOADED")
}

/// Callers that charge without a pause.
struct Charges {
    callers: JoinSet<anyhow::Result<Charged>>,
    stop: Arc<AtomicBool>,
}

impl Charges {
    fn start(server: &Server) -> Self {
        let (mut callers, stop) = (JoinSet::new(), Arc::new(AtomicBool::new(false)));
        for caller in 0..CALLERS {
            let (url, stop) = (server.grpc.clone(), stop.clone());
            callers.spawn(async move {
                let mut client = BillingInternalServiceClient::connect(url).await?;
                let mut charged = Charged::default();
                while !stop.load(Ordering::Relaxed) {
                    let request = DeductQuotaRequest {
                        user_id: format!("load{:04}", caller * 20 + charged.times.len() % 20),
                        service_name: "passport".into(),
                        count: 1,
                        ..Default::default()
                    };
                    let begun = Instant::now();
                    match client.deduct_quota(request).await {
                        Ok(_) => charged.times.push(begun.elapsed().as_secs_f64() * 1_000.0),
                        Err(status) if is_overloaded(&status) => charged.refused += 1,
                        Err(status) => return Err(status.into()),
                    }
                }
                Ok(charged)
            });
        }
        Self { callers, stop }
    }

    async fn stop(self) -> anyhow::Result<Charged> {
        self.stop.store(true, Ordering::Relaxed);
        let mut sum = Charged::default();
        for charged in self.callers.join_all().await {
            let Charged { times, refused } = charged?;
            sum.times.extend(times);
            sum.refused += refused;
        }
        Ok(sum)
    }
}
