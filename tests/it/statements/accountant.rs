//! Months of many users, exported and recomputed by `examples/recompute_statements.py`, which shares no code with
//! the service.

use std::{
    path::Path,
    process::{Command, Output},
};

use billing_service::{
    biz::values::calendar::Calendar,
    service::proto::{
        AdjustBalanceRequest, CommitReservationRequest, DeductQuotaRequest, RechargeRequest, ReserveQuotaRequest,
        Usage, billing_internal_service_client::BillingInternalServiceClient,
        billing_service_client::BillingServiceClient,
    },
};
use chrono::TimeDelta;
use futures_util::{StreamExt, stream};
use rstest::rstest;
use serde_json::json;
use tokio::sync::Mutex;
use tonic::{Status, transport::Channel};

use super::{refund, refund_of, start};
use crate::{
    harness::{
        Backend, Database, MySql, Service, Sqlite,
        caller::Dice,
        charge,
        load::Load,
        payments::{Paying, press, submit, success, until_reported},
        private_server::needs_installed,
        process::ServerProcess,
        traced,
        wait::until,
    },
    recharge::crash::Mortal,
};

/// Users, and those that act at once.
const USERS: usize = 50;
const AT_ONCE: usize = 8;
/// Actions of each user in each month.
const ACTIONS: usize = 12;

/// A user who acts at random.
struct Actor {
    user: String,
    dice: Dice,
    orders: Vec<(String, f64)>,
    unpaid: Vec<(String, f64)>,
    charges: Vec<String>,
    reserved: Vec<String>,
    ids: usize,
}

impl Actor {
    fn new(number: usize) -> Self {
        let user = format!("user-{number:02}");
        Self {
            dice: Dice(number as u64),
            user,
            orders: Vec::new(),
            unpaid: Vec::new(),
            charges: Vec::new(),
            reserved: Vec::new(),
            ids: 0,
        }
    }

    fn id(&mut self) -> String {
        self.ids += 1;
        format!("{}-{}", self.user, self.ids)
    }

    fn pick<T: Clone>(&mut self, from: impl Fn(&Self) -> &Vec<T>) -> Option<T> {
        let len = from(self).len();
        (len > 0).then(|| self.dice.below(len)).map(|at| from(self)[at].clone())
    }

    /// Refusals are part of the game: they must leave no trace.
    async fn act(&mut self, paying: &Paying) {
        let service = &paying.service;
        let mut internal = service.internal.clone();
        let (user, id) = (self.user.clone(), self.id());
        let amount = (self.dice.below(5_000) + 1) as f64 / 100.0;
        match self.dice.below(12) {
            0 => self.orders.push((paying.top_up(&user, amount).await, amount)),
            1 => self.unpaid.push((paying.unreported(&user, amount).await, amount)),
            2 => {
                if let Some((order, amount)) = self.unpaid.pop() {
                    paying.settle(&order, amount).await;
                    self.orders.push((order, amount));
                }
            }
            3 => {
                if let Some((order, most)) = self.pick(|actor| &actor.orders) {
                    let _ = internal.refund_recharge(refund_of(&order, &id, (most * 50.0).round() / 100.0)).await;
                }
            }
            4 => {
                if let Some((order, most)) = self.pick(|actor| &actor.orders) {
                    let payment = paying.order(&order).await.payment_order_id;
                    let status = if self.dice.below(2) == 0 { "CHARGEBACK" } else { "REFUNDED" };
                    let mut report = success(&order, &payment, (most * 30.0).round() / 100.0);
                    (report.status, report.refund_id) = (status.into(), id);
                    let _ = paying.report(report).await;
                }
            }
            5 => {
                if let Some((order, _)) = self.pick(|actor| &actor.orders) {
                    paying.credit_unapplied(&order, &id, (&user, amount)).await;
                }
            }
            6 => {
                let micros = (amount * 1e6).round() + self.dice.below(1_000) as f64;
                service.adjust(&user, micros / 1e6).await;
            }
            7 | 8 => {
                let model = ["", "small", "large"][self.dice.below(3)];
                let cost = self.dice.below(3_000_000) as f64 / 1e6;
                let mut part = |most: usize| self.dice.below(most) as i32;
                let usage = Usage {
                    input_tokens: 400 + part(600),
                    output_tokens: 200 + part(300),
                    cached_input_tokens: part(100),
                    cache_write_tokens: part(100),
                    cache_write_1h_tokens: part(100),
                    audio_input_tokens: part(100),
                    reasoning_tokens: part(100),
                    audio_output_tokens: part(100),
                    images: part(4),
                    ..Default::default()
                };
                let call = DeductQuotaRequest {
                    cost,
                    model: model.into(),
                    usage: Some(usage).filter(|_| !model.is_empty()),
                    delivered: true,
                    ..traced(
                        &id,
                        charge(&user, ["asset", "payment"][self.dice.below(2)], self.dice.below(20) as i32 + 1),
                    )
                };
                service.deduct(call).await;
                self.charges.push(id);
            }
            9 => {
                let reserve = ReserveQuotaRequest {
                    user_id: user,
                    service_name: "asset".into(),
                    count: self.dice.below(9) as i32 + 1,
                    trace_id: id.clone(),
                    ..Default::default()
                };
                if internal.reserve_quota(reserve).await.is_ok() {
                    self.reserved.push(id);
                }
            }
            10 => {
                if let Some(trace) = self.reserved.pop() {
                    let commit =
                        CommitReservationRequest { user_id: user, trace_id: trace.clone(), ..Default::default() };
                    internal.commit_reservation(commit).await.unwrap();
                    self.charges.push(trace);
                }
            }
            _ => {
                if let Some(trace) = self.pick(|actor| &actor.charges) {
                    let count = Some(self.dice.below(6) as i32 + 1).filter(|_| self.dice.clone().below(3) > 0);
                    let _ = internal.refund_charge(refund(&user, &trace, &id, count)).await;
                }
            }
        }
    }
}

/// Writes all exports to a folder.
async fn export(service: &Service, folder: &Path, months: &[&str], users: &[String]) {
    for file in ["records", "recharges", "recharge-refunds", "adjustments"] {
        let path = format!("/internal/v1/billing/{file}.csv?from={}-01", months[0]);
        std::fs::write(folder.join(format!("{file}.csv")), service.csv(&path).await).unwrap();
    }
    for month in months {
        let csv = service.csv(&format!("/internal/v1/billing/statements.csv?month={month}")).await;
        std::fs::write(folder.join(format!("statements-{month}.csv")), csv).unwrap();
        for user in users {
            let csv = service.csv(&format!("/api/v1/billing/statement.csv?user_id={user}&month={month}")).await;
            std::fs::write(folder.join(format!("statement-{user}-{month}.csv")), csv).unwrap();
        }
    }
}

/// Runs the accountant's program.
fn recompute(folder: &Path) -> Output {
    needs_installed("python3");
    let program = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/recompute_statements.py");
    Command::new("python3").arg(program).arg(folder).output().expect("`make deps` installs python3")
}

/// A CSV whose first number above zero in a column is one more.
fn with_one_more(csv: &str, column: &str) -> Vec<u8> {
    let mut reader = csv::Reader::from_reader(csv.as_bytes());
    let headers = reader.headers().unwrap().clone();
    let at = headers.iter().position(|header| header == column).unwrap();
    let mut rows: Vec<Vec<String>> =
        reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect()).collect();
    let row = rows.iter_mut().find(|row| row[at] != "0").unwrap();
    row[at] = (row[at].parse::<u64>().unwrap() + 1).to_string();
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record(&headers).unwrap();
    rows.iter().for_each(|row| writer.write_record(row).unwrap());
    writer.into_inner().unwrap()
}

/// `most`: the months of all users. A month in which a user had nothing has no statement.
fn assert_recomputed(folder: &Path, most: usize) {
    let done = recompute(folder);
    let (printed, failed) = (String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr));
    assert!(done.status.success(), "{printed}{failed}");
    let statements = printed.split_once(" statements of all users and ").and_then(|(count, _)| count.parse().ok());
    assert!(statements.is_some_and(|count: usize| count <= most && count > most / 4), "{printed}");
    assert!(printed.ends_with(", 0 differences\n"), "{printed}");
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accountant_recomputes_every_statement_from_the_exports(#[values(MySql, Sqlite)] on: Backend) {
    let paying = start(on).await;
    let service = &paying.service;
    let actors: Vec<_> = (0..USERS).map(|number| Mutex::new(Actor::new(number))).collect();
    // Two times of some months lie before the close of the month before, and others behind it.
    for (number, instant) in
        ["2026-10-10T04:00:00Z", "2026-11-02T04:00:00Z", "2026-11-20T04:00:00Z", "2026-12-15T04:00:00Z"]
            .into_iter()
            .enumerate()
    {
        service.clock.set(instant);
        // In early November payment-service fails all refunds.
        paying.switch(if number == 1 { json!({"lose": true, "refund": "fail"}) } else { json!({"lose": true}) });
        let acting = stream::iter(&actors).for_each_concurrent(AT_ONCE, async |actor| {
            let mut actor = actor.lock().await;
            for _ in 0..ACTIONS {
                actor.act(&paying).await;
            }
        });
        acting.await;
    }
    service.clock.set("2027-01-10T04:00:00Z");
    assert!(service.archive().await > 100);
    service.assert_audit_is_clean().await;
    let (folder, months) = (tempfile::tempdir().unwrap(), ["2026-10", "2026-11", "2026-12", "2027-01"]);
    let users: Vec<_> = (0..USERS).map(|number| format!("user-{number:02}")).collect();
    export(service, folder.path(), &months, &users).await;
    assert_recomputed(folder.path(), months.len() * USERS);

    // The charges of very many records are not split.
    let many = "UPDATE usage_daily SET free_records = 6000000 WHERE user_id = 'user-07'";
    service.database.execute(many).await;
    let not_split = tempfile::tempdir().unwrap();
    export(service, not_split.path(), &months, &users).await;
    assert_recomputed(not_split.path(), months.len() * USERS);

    // The program notices one token, and a millionth.
    let file = folder.path().join("records.csv");
    let records = std::fs::read_to_string(&file).unwrap();
    for column in ["cache_write_tokens", "cache_write_1h_tokens", "reasoning_tokens", "audio_input_tokens", "images"] {
        std::fs::write(&file, with_one_more(&records, column)).unwrap();
        assert_eq!(recompute(folder.path()).status.code(), Some(1), "{column}");
    }
    std::fs::write(&file, records).unwrap();
    assert_recomputed(folder.path(), months.len() * USERS);
    let file = folder.path().join("adjustments.csv");
    let adjustments = std::fs::read_to_string(&file).unwrap();
    let mut reader = csv::Reader::from_reader(adjustments.as_bytes());
    let first = reader.records().next().unwrap().unwrap();
    let (id, amount) = (&first[0], &first[2]);
    let other: f64 = amount.parse::<f64>().unwrap() + 0.000001;
    let wrong = adjustments.replacen(
        &format!("\"{id}\",\"{}\",{amount},", &first[1]),
        &format!("\"{id}\",\"{}\",{other:.6},", &first[1]),
        1,
    );
    assert_ne!(wrong, adjustments);
    std::fs::write(&file, wrong).unwrap();
    assert_eq!(recompute(folder.path()).status.code(), Some(1));
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accountant_recomputes_every_statement_after_kills(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[]);
    let mut server = ServerProcess::start_beside(&conf).await;
    let mut load = Load::start(&[&server.grpc]).await;
    for _ in 0..5 {
        load.acknowledges(200).await;
        server.kill();
        server = ServerProcess::start_beside(&conf).await;
        load.send_to(&[&server.grpc]);
    }
    load.acknowledges(200).await;
    load.finish().await.assert_kept_in(&database).await;
    server.kill();
    let service = Service::start_on(database, &[]).await;
    let today = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone()).now();
    let (before, month) = (today.month.previous().to_string(), today.month.to_string());
    let users = service.database.rows(&["user_id"], "FROM user_balance").await;
    let users: Vec<String> = users.into_iter().flatten().collect();
    assert!(!users.is_empty());
    let folder = tempfile::tempdir().unwrap();
    export(&service, folder.path(), &[&before, &month], &users).await;
    assert_recomputed(folder.path(), 2 * users.len());
}

/// A top-up, its refund and a chargeback, an adjustment, a charge and its refund. The server may die at any step.
async fn spend(grpc: String, http: reqwest::Client, (user, round): (String, usize)) -> Result<(), Status> {
    let channel = Channel::from_shared(grpc).unwrap().connect_lazy();
    let (mut public, mut internal) =
        (BillingServiceClient::new(channel.clone()), BillingInternalServiceClient::new(channel));
    let id = |name: &str| format!("{name}-{user}-{round}");
    let reason = "for a test".to_owned();
    let adjustment = AdjustBalanceRequest {
        user_id: user.clone(),
        amount: 1.250001,
        reason: reason.clone(),
        adjustment_id: id("adjustment"),
        operator: "tester".into(),
        allow_negative: false,
    };
    internal.adjust_balance(adjustment).await?;
    let recharge =
        RechargeRequest { user_id: user.clone(), amount: 20.0, payment_method: "alipay".into(), ..Default::default() };
    let paid = public.recharge(recharge).await?.into_inner();
    press(&http, &paid.payment_url, "SUCCESS").await;
    let call = DeductQuotaRequest { cost: 0.333333, delivered: true, ..charge(&user, "asset", 7) };
    internal.deduct_quota(traced(&id("call"), call)).await?;
    internal.refund_charge(refund(&user, &id("call"), &id("back"), Some(2))).await?;
    // Before the callback, the order is not credited.
    let _ = internal.refund_recharge(refund_of(&paid.order_id, &id("refund"), 3.5)).await?;
    submit(&http, &paid.payment_url, "result=CHARGEBACK&amount=2").await;
    Ok(())
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_accountant_recomputes_payments_after_kills(#[values(MySql, Sqlite)] on: Backend) {
    let mut mortal = Mortal::start(on, None).await;
    for round in 0..6 {
        let acting: Vec<_> = (0..8)
            .map(|user| {
                let (grpc, http) = (mortal.process.grpc.clone(), mortal.http.clone());
                tokio::spawn(spend(grpc, http, (format!("user-{user}"), round)))
            })
            .collect();
        // Each round at another step.
        let table =
            ["recharge_order", "billing_record", "charge_refund", "recharge_refund", "balance_adjustment"][round % 5];
        let (count, from) = (["COUNT(*)"], format!("FROM {table}"));
        let before: usize = mortal.database.rows(&count, &from).await[0][0].parse().unwrap();
        until("the server is in the middle", async || {
            let now: usize = mortal.database.rows(&count, &from).await[0][0].parse().unwrap();
            now > before || acting.iter().all(|actor| actor.is_finished())
        })
        .await;
        mortal.process.kill();
        for actor in acting {
            let _ = actor.await.unwrap();
        }
        mortal.start_again().await;
    }
    until_reported(&mortal.sandbox).await;
    mortal.process.kill();
    mortal.reconcile().await;
    let service = Service::start_on(mortal.database, &[]).await;
    // The look-up was made on the next day.
    service.clock.advance(TimeDelta::hours(26));
    service.assert_audit_is_clean().await;
    let rows = async |from: &str| service.database.rows(&["COUNT(*)"], from).await[0][0].parse::<usize>().unwrap();
    assert!(rows("FROM recharge_order WHERE status = 'success'").await > 8);
    assert!(rows("FROM recharge_refund WHERE status = 'success'").await > 0);
    let today = Calendar::new(chrono_tz::Asia::Shanghai, service.clock.clone()).now();
    let months = [today.month.previous().to_string(), today.month.to_string()];
    let users: Vec<_> = (0..8).map(|user| format!("user-{user}")).collect();
    let folder = tempfile::tempdir().unwrap();
    export(&service, folder.path(), &[&months[0], &months[1]], &users).await;
    assert_recomputed(folder.path(), 2 * users.len());
}
