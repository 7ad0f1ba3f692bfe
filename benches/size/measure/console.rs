//! Every page of the console, of both ports, for users with few and with many records. Each request is timed by itself,
//! from its beginning to the last byte.

use std::time::Instant;

use anyhow::{Context as _, ensure};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use super::{Context, LARGE};
use crate::{
    data::{Seeded, user_id},
    process::{Server, configure, run_job},
    report::{Bound, quantile},
};

/// Requests of each page for each kind of user.
const CALLS: usize = 60;
/// Most milliseconds and bytes of a page.
const MOST_MS: f64 = 100.0;
const MOST_BYTES: f64 = 100_000.0;

/// Pages of an account. Both ports have them.
const OF_ACCOUNT: [&str; 12] = [
    "/console?user_id={user}",
    "/console/usage?user_id={user}",
    "/console/usage?user_id={user}&by=model",
    "/console/usage?user_id={user}&by=api_key",
    "/console/records?user_id={user}",
    "/console/records?user_id={user}&service=asset",
    "/console/records?user_id={user}&model=gpt-4.1",
    "/console/top-ups?user_id={user}",
    "/console/top-ups/{order}?user_id={user}",
    "/console/statement?user_id={user}",
    "/console/statement?user_id={user}&month={month}",
    // Of the public port alone.
    "/console/top-up?user_id={user}",
];

/// Pages that only operators have.
const OF_OPERATORS: [&str; 30] = [
    "/console/find?id={user}",
    "/console/find?id={order}",
    "/console/find?id=nothing",
    "/console/find?id={trace}&user_id={user}",
    "/console/find?id={record}&user_id={user}",
    "/console/charge?user_id={user}&trace_id={trace}",
    "/console/unapplied-payments",
    "/console/unapplied-payments?status=dismissed",
    "/console/unapplied-payments?status=all",
    "/console/prices",
    "/console/prices?model=bench-7",
    "/console/api-key?api_key_id=bench-7",
    "/console/jobs",
    "/console/health",
    "/console/audit-events",
    "/console/audit-events?user_id={user}",
    "/console/audit-events?rpc=SetUserPlan&caller=bench-3",
    "/console/webhooks",
    "/console/actions/status?user_id={user}",
    "/console/actions/adjust?user_id={user}",
    "/console/actions/limits?user_id={user}",
    "/console/actions/plan?user_id={user}",
    "/console/actions/alerts?user_id={user}",
    "/console/actions/key-quota?api_key_id=bench-7",
    "/console/actions/open",
    "/console/actions/refund?user_id={user}&trace_id={trace}",
    "/console/actions/refund-top-up?order_id={order}",
    "/console/actions/resolve-payment?payment_order_id=bench-7",
    "/console/actions/price?model=bench-7",
    "/console/actions/delete-price?model=bench-7&version_id=v1",
];

/// Previews: the action and its fields.
const PREVIEWS: [(&str, &str); 4] = [
    ("adjust", "user_id={user}&amount=1&reason=r"),
    ("status", "user_id={user}&status=FROZEN&reason=r"),
    ("refund", "user_id={user}&trace_id={trace}&reason=r"),
    ("price", "model=bench-7&effective_from=2999-01-01T00:00:00&input=3&output=9"),
];

/// Rows beside the data: of operators, of payments and of prices, and the use of a model on the day before. The use of the
/// users is not summed, so that the first page of each has to do it.
const MORE: &str = "
    TRUNCATE TABLE usage_parts; TRUNCATE TABLE usage_by;
    INSERT IGNORE INTO audit_event (event_id, created_at, caller, role, request_id, rpc, user_id, reason)
        SELECT CONCAT('01a00000-0000-7000-8000-', LPAD(seq, 12, '0')), UTC_TIMESTAMP(6) - INTERVAL seq MINUTE,
            CONCAT('bench-', seq % 7), 'admin', 'bench', IF(seq % 5 = 0, 'SetUserPlan', 'AdjustBalance'),
            CONCAT('user', LPAD(seq, 8, '0')), 'bench' FROM seq_1_to_200000;
    INSERT IGNORE INTO unapplied_payment (payment_order_id, order_id, amount, currency, cause, first_seen_at, last_seen_at, status)
        SELECT CONCAT('bench-', seq), CONCAT('order-', seq), 5, 'CNY', 'unknown order', UTC_TIMESTAMP(6) - INTERVAL seq MINUTE,
            UTC_TIMESTAMP(6), IF(seq % 10 = 0, 'open', 'dismissed') FROM seq_1_to_100000;
    INSERT IGNORE INTO price_version (model, effective_from, version_id, input_price, output_price)
        SELECT CONCAT('bench-', seq % 100), '2026-01-01' + INTERVAL seq MINUTE, CONCAT('v', seq), 2, 8 FROM seq_1_to_5000;
    INSERT IGNORE INTO api_key_quota (api_key_id, quota_type, period, quota_limit, usage_date, created_at, updated_at)
        SELECT CONCAT('bench-', seq), 'requests', 'month', 100, CURRENT_DATE, UTC_TIMESTAMP(6), UTC_TIMESTAMP(6) FROM seq_1_to_100000;
    INSERT IGNORE INTO usage_by (user_id, usage_date, part, service_name, model, api_key_id, calls, free_count, paid_count,
        refunded_free, refunded_paid, free_records, paid_records, free_refunds, paid_refunds, input_tokens, cached_input_tokens,
        cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, output_tokens, reasoning_tokens, audio_output_tokens,
        images, amount, refunded_amount)
        SELECT CONCAT('bench', seq), DATE(UTC_TIMESTAMP() + INTERVAL 8 HOUR - INTERVAL 1 DAY), 1, 'llm',
            CONCAT('bench-', IF(seq % 4 = 0, seq % 500, 7)), '', 1, 0, 1, 0, 0, 0, 1, 0, 0, 1000, 0, 0, 0, 0, 500, 0, 0, 0, 1, 0
        FROM seq_1_to_200000";

/// Removes [`MORE`], also that of a measurement that was killed.
const NO_MORE: &str = "
    DELETE FROM audit_event WHERE request_id = 'bench'; DELETE FROM unapplied_payment WHERE payment_order_id LIKE 'bench-%';
    DELETE FROM price_version WHERE model LIKE 'bench-%'; DELETE FROM api_key_quota WHERE api_key_id LIKE 'bench-%';
    DELETE FROM usage_by WHERE user_id LIKE 'bench%'";

/// Ids of a user for the addresses.
struct Ids {
    user: String,
    order: String,
    trace: String,
    record: String,
}

/// Measures the pages.
///
/// # Errors
/// The server does not start, or answers with another status than it should.
pub async fn console(context: &mut Context<'_>) -> anyhow::Result<()> {
    let conf = configure(context.mariadb, LARGE, context.folder)?;
    let mut connection = MySqlConnection::connect(&context.mariadb.url(LARGE)).await?;
    sqlx::raw_sql(NO_MORE).execute(&mut connection).await?;
    let measured = async {
        sqlx::raw_sql(MORE).execute(&mut connection).await?;
        let tables = "ANALYZE TABLE audit_event, unapplied_payment, price_version, api_key_quota, usage_by";
        sqlx::raw_sql(tables).execute(&mut connection).await?;
        // The first read of an account would open its month.
        run_job("reset-quotas", &conf, &[]).await?;
        measure(context, &mut connection).await
    };
    let measured = measured.await;
    // In every case: other measurements have the same database.
    let cleaned = sqlx::raw_sql(NO_MORE).execute(&mut connection).await;
    measured?;
    cleaned?;
    Ok(connection.close().await?)
}

async fn measure(context: &mut Context<'_>, connection: &mut MySqlConnection) -> anyhow::Result<()> {
    let server = Server::start(&configure(context.mariadb, LARGE, context.folder)?).await?;
    let http = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build()?;
    let (users, heavy) = (context.large.users, context.large.heavy_users());
    let mut seeded = Seeded::of(context.large.seed, 3);
    let mut of_users = Vec::new();
    let mut of_heavy = Vec::new();
    for _ in 0..CALLS {
        of_users.push(ids(connection, user_id(1 + heavy + seeded.below(users - 1 - heavy))).await?);
        of_heavy.push(ids(connection, user_id(1 + seeded.below(heavy))).await?);
    }
    let largest = vec![ids(connection, user_id(0)).await?];
    let month = (context.large.month - chrono::Months::new(1)).format("%Y-%m").to_string();
    for (whose, all) in [("a user", &of_users), ("a heavy user", &of_heavy), ("the largest user", &largest)] {
        for (port, base, pages) in [
            ("8107", &server.http, &OF_ACCOUNT[..]),
            ("9107", &server.grpc, &OF_ACCOUNT[..OF_ACCOUNT.len() - 1]),
            ("9107", &server.grpc, &OF_OPERATORS[..]),
        ] {
            for page in pages.iter().filter(|page| whose == "a user" || page.contains("{user}")) {
                let mut timed = Timed::default();
                for call in 0..CALLS {
                    let path = filled(page, &all[call % all.len()], &month);
                    let begun = Instant::now();
                    let reply = http.get(format!("{base}{path}")).send().await?;
                    let status = reply.status().as_u16();
                    timed.add(begun, reply.bytes().await?.len());
                    let is_led = page.contains("/find?") && !page.contains("nothing");
                    let expected = if is_led {
                        303
                    } else if page.contains("nothing") {
                        404
                    } else {
                        200
                    };
                    ensure!(status == expected, "{path}: {status}");
                }
                timed.report(context, &format!("{port} {page} of {whose}"));
            }
        }
        for (action, fields) in PREVIEWS.iter().filter(|(_, fields)| whose == "a user" || fields.contains("{user}")) {
            let form = http.get(format!("{}/console/actions/{action}", server.grpc)).send().await?;
            let cookie = form.headers().get("set-cookie").context("no cookie")?.to_str()?.to_owned();
            let cookie = cookie.split(';').next().unwrap_or_default().to_owned();
            let html = form.text().await?;
            let form = html.split(&format!("action=\"/console/actions/{action}\"")).nth(1).context("no form")?;
            let proof = form.split("name=\"form_token\" value=\"").nth(1).and_then(|rest| rest.split('"').next());
            let proof = proof.context("no proof")?.to_owned();
            let mut timed = Timed::default();
            for call in 0..CALLS {
                let body = format!("form_token={proof}&{}", filled(fields, &all[call % all.len()], &month));
                let begun = Instant::now();
                let sending = http.post(format!("{}/console/actions/{action}", server.grpc)).body(body);
                let sending = sending.header("origin", &server.grpc).header("cookie", &cookie);
                let reply = sending.header("content-type", "application/x-www-form-urlencoded").send().await?;
                let status = reply.status().as_u16();
                let html = reply.text().await?;
                timed.add(begun, html.len());
                ensure!(status == 200 && html.contains("name=\"seen\""), "{action}: {status} {html}");
            }
            timed.report(context, &format!("9107 preview of {action} of {whose}"));
        }
    }
    Ok(())
}

/// The times and sizes of the answers of one page.
#[derive(Default)]
struct Timed {
    ms: Vec<f64>,
    most_bytes: usize,
}

impl Timed {
    fn add(&mut self, begun: Instant, bytes: usize) {
        self.ms.push(begun.elapsed().as_secs_f64() * 1_000.0);
        self.most_bytes = self.most_bytes.max(bytes);
    }

    fn report(mut self, context: &mut Context<'_>, page: &str) {
        context.report.add(format!("{page}: p50"), quantile(&mut self.ms, 0.5), "ms", Bound::None);
        context.report.add(format!("{page}: longest"), quantile(&mut self.ms, 1.0), "ms", Bound::Below(MOST_MS));
        context.report.add(format!("{page}: size"), self.most_bytes as f64, "bytes", Bound::Below(MOST_BYTES));
    }
}

async fn ids(connection: &mut MySqlConnection, user: String) -> anyhow::Result<Ids> {
    let sql = format!(
        "SELECT CAST(t.trace_id AS CHAR), CAST(t.record_id AS CHAR), (SELECT o.order_id FROM recharge_order o \
         WHERE o.user_id = t.user_id LIMIT 1) FROM billing_transaction t WHERE t.user_id = '{user}' LIMIT 1"
    );
    let row: (String, String, String) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(connection).await?;
    let (trace, record, order) = row;
    Ok(Ids { user, order, trace, record })
}

fn filled(template: &str, ids: &Ids, month: &str) -> String {
    [
        ("{user}", ids.user.as_str()),
        ("{order}", &ids.order),
        ("{trace}", &ids.trace),
        ("{record}", &ids.record),
        ("{month}", month),
    ]
    .into_iter()
    .fold(template.to_owned(), |path, (name, value)| path.replace(name, value))
}
