//! The audit trail: one event for each change by an operator, in the transaction of the change.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use billing_service::service::proto::{
    AdjustBalanceRequest, AuditEvent, InitializeUserRequest, ListAuditEventsRequest, SetAccountStatusRequest,
    SetApiKeyQuotaRequest, SetUserLimitsRequest,
};
use futures_util::future::join_all;
use rstest::rstest;
use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::{Code, IntoRequest, Request, transport::Channel};

use crate::{
    cache::processes::servers::pair,
    harness::{
        Backend, Database, MySql, Service, Sqlite,
        caller::{Client, connections},
        charge, code_of,
        process::ServerProcess,
        traced,
        wait::until,
    },
    refunds::refund,
};

fn adjustment(user: &str, id: &str, amount: f64) -> AdjustBalanceRequest {
    AdjustBalanceRequest {
        user_id: user.into(),
        amount,
        reason: "a \"good\" reason\\".into(),
        adjustment_id: id.into(),
        operator: "anna".into(),
        allow_negative: false,
    }
}

fn status(user: &str, status: &str) -> SetAccountStatusRequest {
    SetAccountStatusRequest { user_id: user.into(), status: status.into(), reason: "disputed".into() }
}

fn caps(user: &str, daily_limit: Option<i32>, monthly_limit: Option<i32>) -> SetUserLimitsRequest {
    SetUserLimitsRequest { user_id: user.into(), daily_limit, monthly_limit }
}

fn key_quota(key: &str, quota_type: &str, period: &str, limit: Option<f64>) -> SetApiKeyQuotaRequest {
    SetApiKeyQuotaRequest { api_key_id: key.into(), quota_type: quota_type.into(), period: period.into(), limit }
}

/// A request with an id.
fn named<M>(id: &str, message: M) -> Request<M> {
    let mut request = message.into_request();
    request.metadata_mut().insert("x-request-id", id.parse().unwrap());
    request
}

async fn list(service: &Service, request: ListAuditEventsRequest) -> (Vec<AuditEvent>, String) {
    let reply = service.internal.clone().list_audit_events(request).await.unwrap().into_inner();
    (reply.events, reply.next_page_token)
}

/// All events, oldest first.
async fn all(service: &Service) -> Vec<AuditEvent> {
    let (mut events, next) = list(service, ListAuditEventsRequest { page_size: 100, ..Default::default() }).await;
    assert_eq!(next, "");
    events.reverse();
    events
}

fn state(text: &str) -> Value {
    if text.is_empty() { Value::Null } else { serde_json::from_str(text).unwrap() }
}

/// Rpc, user, state before and after.
fn shown(events: &[AuditEvent]) -> Vec<(&str, &str, Value, Value)> {
    events.iter().map(|event| (&*event.rpc, &*event.user_id, state(&event.before), state(&event.after))).collect()
}

#[rstest]
#[tokio::test]
async fn each_change_leaves_an_event_with_its_caller_and_both_states(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let mut internal = service.internal.clone();
    internal.initialize_user(named("r-1", InitializeUserRequest { user_id: "u".into() })).await.unwrap();
    internal.adjust_balance(named("r-2", adjustment("u", "a-1", 12.5))).await.unwrap();
    internal.set_account_status(named("r-3", status("u", "FROZEN"))).await.unwrap();
    internal.set_user_limits(named("r-4", caps("u", Some(5), None))).await.unwrap();
    internal.set_user_limits(named("r-5", caps("u", None, None))).await.unwrap();
    internal.set_api_key_quota(named("r-6", key_quota("k", "amount", "day", Some(1.5)))).await.unwrap();
    internal.set_api_key_quota(named("r-7", key_quota("k", "amount", "month", Some(2.0)))).await.unwrap();
    internal.set_api_key_quota(named("r-8", key_quota("k", "tokens", "total", Some(7.0)))).await.unwrap();
    internal.set_api_key_quota(named("r-9", key_quota("k", "amount", "total", None))).await.unwrap();

    let events = all(&service).await;
    let key = |kind: &str, period: &str, limit: Value| json!({"api_key_id": "k", "quota_type": kind, "period": period, "limit": limit});
    assert_eq!(
        shown(&events),
        [
            ("InitializeUser", "u", Value::Null, json!({"balance": "0", "status": "ACTIVE"})),
            (
                "AdjustBalance",
                "u",
                json!({"balance": "0"}),
                json!({"balance": "12.5", "amount": "12.5", "adjustment_id": "a-1", "operator": "anna"})
            ),
            ("SetAccountStatus", "u", json!({"status": "ACTIVE"}), json!({"status": "FROZEN"})),
            ("SetUserLimits", "u", Value::Null, json!({"daily_limit": 5, "monthly_limit": null})),
            ("SetUserLimits", "u", json!({"daily_limit": 5, "monthly_limit": null}), Value::Null),
            ("SetApiKeyQuota", "", Value::Null, key("amount", "day", json!("1.5"))),
            ("SetApiKeyQuota", "", key("amount", "day", json!("1.5")), key("amount", "month", json!("2"))),
            ("SetApiKeyQuota", "", Value::Null, key("tokens", "total", json!(7))),
            ("SetApiKeyQuota", "", key("amount", "month", json!("2")), Value::Null),
        ]
    );
    for (number, event) in (1..).zip(&events) {
        assert_eq!(event.request_id, format!("r-{number}"));
        // The internal port needs no proof in this test.
        assert_eq!((event.caller.as_str(), event.role.as_str()), ("anonymous", "none"));
        assert!(event.created_at.is_some() && event.id.len() == 36);
    }
    let reasons: Vec<_> = events.iter().map(|event| event.reason.as_str()).collect();
    assert_eq!(reasons[..4], ["", "a \"good\" reason\\", "disputed", ""]);

    let (code, reply) = service.internal_get("/internal/v1/billing/audit-events?user_id=u&rpc=AdjustBalance").await;
    assert_eq!((code, reply["events"].as_array().unwrap().len()), (200, 1));
    assert_eq!(reply["events"][0]["after"], events[1].after);
    assert_eq!(reply["next_page_token"], "");
}

#[rstest]
#[tokio::test]
async fn rest_calls_leave_events_too(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    for (path, body) in [
        ("users", json!({"user_id": "u"})),
        ("adjust", json!({"user_id": "u", "amount": 1, "reason": "r", "adjustment_id": "a"})),
        ("users/u/status", json!({"status": "CLOSED", "reason": "r"})),
        ("users/u/limits", json!({"daily_limit": 1})),
        ("api-keys/k/quota", json!({"quota_type": "requests", "period": "day", "limit": 1})),
    ] {
        let url = format!("http://{}/internal/v1/billing/{path}", service.app.grpc_addr);
        let request = service.http.post(url).header("x-request-id", path).body(body.to_string());
        assert_eq!(request.send().await.unwrap().status(), 200, "{path}");
    }
    let events = all(&service).await;
    let ids: Vec<_> = events.iter().map(|event| (event.rpc.as_str(), event.request_id.as_str())).collect();
    assert_eq!(
        ids,
        [
            ("InitializeUser", "users"),
            ("AdjustBalance", "adjust"),
            ("SetAccountStatus", "users/u/status"),
            ("SetUserLimits", "users/u/limits"),
            ("SetApiKeyQuota", "api-keys/k/quota")
        ]
    );
}

#[rstest]
#[tokio::test]
async fn replays_refusals_and_calls_without_a_change_leave_no_event(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    let mut internal = service.internal.clone();
    for _ in 0..2 {
        // A charge opens the account, and no operator does.
        service.deduct(charge("u", "asset", 1)).await;
        assert!(
            !internal
                .initialize_user(InitializeUserRequest { user_id: "u".into() })
                .await
                .unwrap()
                .into_inner()
                .created
        );
        internal.adjust_balance(adjustment("u", "a", 1.0)).await.unwrap();
        internal.set_account_status(status("u", "ACTIVE")).await.unwrap();
        internal.set_user_limits(caps("u", None, None)).await.unwrap();
        internal.set_user_limits(caps("v", Some(1), Some(2))).await.unwrap();
        internal.set_api_key_quota(key_quota("k", "requests", "day", None)).await.unwrap();
        internal.set_api_key_quota(key_quota("k", "tokens", "day", Some(1.0))).await.unwrap();
        service.check("by_check", "asset", 1).await;
    }
    for refused in [adjustment("u", "a", 2.0), adjustment("u", "b", -9.0), adjustment("u", "", 1.0)] {
        internal.adjust_balance(refused).await.unwrap_err();
    }
    internal.set_account_status(status("u", "GONE")).await.unwrap_err();
    internal.set_user_limits(caps("u", Some(-1), None)).await.unwrap_err();
    internal.set_api_key_quota(key_quota("k", "tokens", "year", Some(1.0))).await.unwrap_err();
    let events = all(&service).await;
    let rpcs: Vec<_> = events.iter().map(|event| event.rpc.as_str()).collect();
    assert_eq!(rpcs, ["AdjustBalance", "SetUserLimits", "SetApiKeyQuota"]);
}

#[rstest]
#[tokio::test]
async fn a_list_is_filtered_and_continues_by_its_token(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start(on).await;
    // One second before midnight in Shanghai. Several events have the same instant.
    service.clock.stop_at("2026-11-20T15:59:59Z".parse().unwrap());
    for number in 0..7 {
        let user = format!("u{}", number % 2);
        service.internal.clone().adjust_balance(adjustment(&user, &format!("a{number}"), 1.0)).await.unwrap();
    }
    service.clock.stop_at("2026-11-20T16:00:00Z".parse().unwrap());
    service.internal.clone().set_account_status(status("u1", "FROZEN")).await.unwrap();
    let everything = all(&service).await;
    assert_eq!(everything.len(), 8);
    assert_eq!(everything[7].rpc, "SetAccountStatus");

    let any = ListAuditEventsRequest::default;
    for size in [1, 2, 3, 8, 9] {
        let (mut found, mut page_token) = (Vec::new(), String::new());
        for _ in 0..9 {
            let (events, next) = list(&service, ListAuditEventsRequest { page_size: size, page_token, ..any() }).await;
            assert!(events.len() <= size as usize);
            found.extend(events);
            page_token = next;
            if page_token.is_empty() {
                break;
            }
        }
        found.reverse();
        assert_eq!(found, everything, "{size}");
    }
    let count = async |request| list(&service, request).await.0.len();
    assert_eq!(count(ListAuditEventsRequest { user_id: "u0".into(), ..any() }).await, 4);
    assert_eq!(
        count(ListAuditEventsRequest { user_id: "u1".into(), rpc: "SetAccountStatus".into(), ..any() }).await,
        1
    );
    assert_eq!(count(ListAuditEventsRequest { user_id: "other".into(), ..any() }).await, 0);
    assert_eq!(count(ListAuditEventsRequest { rpc: "AdjustBalance".into(), ..any() }).await, 7);
    assert_eq!(count(ListAuditEventsRequest { caller: "anonymous".into(), ..any() }).await, 8);
    assert_eq!(count(ListAuditEventsRequest { caller: "Anonymous".into(), ..any() }).await, 0);
    let days = |from: &str, to: &str| ListAuditEventsRequest { from: from.into(), to: to.into(), ..any() };
    assert_eq!(count(days("2026-11-20", "2026-11-20")).await, 7);
    assert_eq!(count(days("2026-11-21", "")).await, 1);
    assert_eq!(count(days("", "2026-11-19")).await, 0);
    assert_eq!(count(days("2026-11-20", "2026-11-21")).await, 8);
    // A token continues with its filter.
    let of_user = ListAuditEventsRequest { user_id: "u0".into(), page_size: 3, ..any() };
    let (_, page_token) = list(&service, of_user.clone()).await;
    assert_eq!(count(ListAuditEventsRequest { page_token, ..of_user }).await, 1);

    for (wrong, field) in [
        (ListAuditEventsRequest { user_id: "no user".into(), ..any() }, "user_id"),
        (ListAuditEventsRequest { rpc: "DeductQuota".into(), ..any() }, "rpc"),
        (ListAuditEventsRequest { caller: "c".repeat(65), ..any() }, "caller"),
        (days("yesterday", ""), "from"),
        (days("2026-11-21", "2026-11-20"), "from"),
        (ListAuditEventsRequest { page_token: "x".into(), ..any() }, "page_token"),
        (ListAuditEventsRequest { page_size: 101, ..any() }, "page_size"),
    ] {
        let refused = service.internal.clone().list_audit_events(wrong).await.unwrap_err();
        assert_eq!(code_of(&refused), (Code::InvalidArgument, "10009".into()));
        assert!(refused.message().starts_with(field), "{field}: {}", refused.message());
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_of_two_servers_at_once_leave_one_event_each(#[values(MySql, Sqlite)] on: Backend) {
    let (one, other) = pair(on).await;
    let client = |number: usize| if number.is_multiple_of(2) { one.internal.clone() } else { other.internal.clone() };
    let opened = join_all((0..40).map(|number| {
        let mut client = client(number);
        let request = InitializeUserRequest { user_id: format!("u{}", number / 10) };
        async move { client.initialize_user(request).await.unwrap() }
    }));
    opened.await;
    // Each call sets another value, so that each event except the first begins with the end of another one.
    let set = join_all((1..=30).map(|number| {
        let (mut caps_client, mut key_client) = (client(number), client(number));
        let limit = i32::try_from(number).unwrap();
        async move {
            caps_client.set_user_limits(caps("u", Some(limit), None)).await.unwrap();
            key_client.set_api_key_quota(key_quota("k", "requests", "day", Some(limit.into()))).await.unwrap();
        }
    }));
    set.await;
    let events = all(&one).await;
    let of = |rpc: &str| events.iter().filter(|event| event.rpc == rpc).collect::<Vec<_>>();
    assert_eq!(of("InitializeUser").len(), 4);
    let users: BTreeSet<_> = of("InitializeUser").iter().map(|event| event.user_id.clone()).collect();
    assert_eq!(users.len(), 4);
    for rpc in ["SetUserLimits", "SetApiKeyQuota"] {
        assert_eq!(of(rpc).len(), 30, "{rpc}");
        let before: BTreeSet<_> = of(rpc).iter().map(|event| event.before.clone()).collect();
        let after: BTreeSet<_> = of(rpc).iter().map(|event| event.after.clone()).collect();
        assert_eq!((before.len(), after.len()), (30, 30), "{rpc}");
        assert!(before.contains("") && before.difference(&after).count() == 1, "{rpc}");
        let last: Vec<_> = after.difference(&before).map(|last| state(last)).collect();
        let stored = match rpc {
            "SetUserLimits" => one.database.rows(&["daily_limit"], "FROM tenant_quota WHERE user_id = 'u'").await,
            _ => one.database.rows(&["quota_limit"], "FROM api_key_quota").await,
        };
        let field = if rpc == "SetUserLimits" { "daily_limit" } else { "limit" };
        assert_eq!(stored, [[last[0][field].to_string()]], "{rpc}");
    }
}

/// Operators that make one call after the other on their own users and keys, and ignore errors.
struct Operators {
    servers: watch::Sender<Vec<Channel>>,
    /// Calls that succeeded.
    done: Arc<AtomicUsize>,
    unanswered: Arc<AtomicUsize>,
    stop: CancellationToken,
    running: JoinSet<()>,
}

const OPERATORS: usize = 8;

impl Operators {
    /// Each operator's user has a charge of free units, to be refunded.
    async fn start(servers: &[&str]) -> Self {
        for number in 0..OPERATORS {
            let client = Client::new(connections(servers)[0].clone());
            let charge = traced("to refund", charge(&format!("u{number}"), "passport", 10_000));
            client.clone().deduct_quota(charge).await.unwrap();
        }
        let (servers, stop) = (watch::Sender::new(connections(servers)), CancellationToken::new());
        let (done, unanswered) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
        let mut running = JoinSet::new();
        for number in 0..OPERATORS {
            let (servers, stop) = (servers.subscribe(), stop.clone());
            let (done, unanswered) = (done.clone(), unanswered.clone());
            running.spawn(async move {
                for call in 0.. {
                    if stop.is_cancelled() {
                        return;
                    }
                    let channel = servers.borrow()[call % servers.borrow().len()].clone();
                    let calling = operate(Client::new(channel), number, call);
                    match tokio::time::timeout(Duration::from_secs(30), calling).await {
                        Ok(Ok(())) => drop(done.fetch_add(1, SeqCst)),
                        Ok(Err(_)) | Err(_) => {
                            unanswered.fetch_add(1, SeqCst);
                            tokio::time::sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
            });
        }
        Self { servers, done, unanswered, stop, running }
    }

    async fn succeed(&self, more: usize) {
        let enough = self.done.load(SeqCst) + more;
        until("calls succeed", async || self.done.load(SeqCst) >= enough).await;
    }

    /// Returns the number of calls without an answer.
    async fn stop(self) -> usize {
        self.stop.cancel();
        self.running.join_all().await;
        println!("{} calls succeeded, {} had no answer", self.done.load(SeqCst), self.unanswered.load(SeqCst));
        self.unanswered.load(SeqCst)
    }
}

/// The next call of an operator. Each operator has its own user and API key.
async fn operate(mut client: Client, number: usize, call: usize) -> Result<(), tonic::Status> {
    let (user, limit) = (format!("u{number}"), i32::try_from(call).unwrap());
    match call % 6 {
        5 => client.refund_charge(refund(&user, "to refund", &format!("r{call}"), 1)).await.map(drop),
        0 => client.adjust_balance(adjustment(&user, &format!("a{call}"), 1.0)).await.map(drop),
        1 => {
            let to = ["ACTIVE", "FROZEN", "CLOSED"][call / 6 % 3];
            client.set_account_status(status(&user, to)).await.map(drop)
        }
        2 => client.set_user_limits(caps(&user, Some(limit).filter(|_| call % 12 == 2), None)).await.map(drop),
        3 => {
            let limit = Some(f64::from(limit)).filter(|_| call % 12 == 3);
            client.set_api_key_quota(key_quota(&format!("k{number}"), "requests", "day", limit)).await.map(drop)
        }
        _ => {
            let user_id = format!("new-{number}-{call}");
            client.initialize_user(InitializeUserRequest { user_id }).await.map(drop)
        }
    }
}

/// Each change has exactly one event, and each event has its change.
async fn assert_trail_is_whole(database: &Database) {
    let select = "FROM audit_event ORDER BY created_at, event_id";
    let columns = ["rpc", "COALESCE(user_id, '')", "COALESCE(state_before, '')", "COALESCE(state_after, '')"];
    let events = database.rows(&columns, select).await;
    let of = |rpc: &str| -> Vec<(String, Value, Value)> {
        let events = events.iter().filter(|event| event[0] == rpc);
        events.map(|event| (event[1].clone(), state(&event[2]), state(&event[3]))).collect()
    };

    let mut adjusted: Vec<_> =
        of("AdjustBalance").iter().map(|(user, _, after)| vec![user.clone(), text(&after["adjustment_id"])]).collect();
    adjusted.sort();
    let ids = ["user_id", "adjustment_id"];
    let mut stored = database.rows(&ids, "FROM balance_adjustment").await;
    stored.sort();
    assert_eq!(adjusted, stored);

    let mut refunded: Vec<_> =
        of("RefundCharge").iter().map(|(user, _, after)| vec![user.clone(), text(&after["refund_id"])]).collect();
    refunded.sort();
    let mut stored = database.rows(&["user_id", "refund_id"], "FROM charge_refund").await;
    stored.sort();
    assert!(!stored.is_empty());
    assert_eq!(refunded, stored);

    let mut opened: Vec<_> = of("InitializeUser").into_iter().map(|(user, ..)| vec![user]).collect();
    opened.sort();
    let mut stored = database.rows(&["user_id"], "FROM user_balance WHERE user_id LIKE 'new-%'").await;
    stored.sort();
    // Another call of an operator could also open a new user, but none does in this test.
    assert_eq!(opened, stored);

    let statuses = database.rows(&["user_id", "status"], "FROM user_balance WHERE user_id LIKE 'u%'").await;
    let names = ["ACTIVE", "FROZEN", "CLOSED"];
    let statuses =
        statuses.into_iter().map(|row| (row[0].clone(), json!({"status": names[row[1].parse::<usize>().unwrap()]})));
    assert_chains(&of("SetAccountStatus"), &statuses.collect(), &json!({"status": "ACTIVE"}));

    let caps = database.rows(&["user_id", "daily_limit"], "FROM tenant_quota").await;
    let caps = caps
        .into_iter()
        .map(|row| (row[0].clone(), json!({"daily_limit": row[1].parse::<i64>().unwrap(), "monthly_limit": null})));
    assert_chains(&of("SetUserLimits"), &caps.collect(), &Value::Null);

    let keyed = of("SetApiKeyQuota").into_iter().map(|(_, before, after)| {
        let key = if before.is_null() { &after } else { &before };
        (text(&key["api_key_id"]), before.clone(), after.clone())
    });
    let quotas = database.rows(&["api_key_id", "quota_limit"], "FROM api_key_quota").await;
    let quotas = quotas.into_iter().map(|row| {
        let limit: i64 = row[1].parse().unwrap();
        let quota = json!({"api_key_id": row[0], "quota_type": "requests", "period": "day", "limit": limit});
        (row[0].clone(), quota)
    });
    assert_chains(&keyed.collect::<Vec<_>>(), &quotas.collect(), &Value::Null);
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

/// The events of each owner lead from the first state to the stored one, without a gap.
fn assert_chains(events: &[(String, Value, Value)], stored: &BTreeMap<String, Value>, first: &Value) {
    assert!(!events.is_empty());
    let mut last: BTreeMap<&String, &Value> = BTreeMap::new();
    for (owner, before, after) in events {
        assert_eq!(*last.get(owner).unwrap_or(&first), before, "{owner}");
        assert_ne!(before, after, "{owner}");
        last.insert(owner, after);
    }
    for owner in last.keys().copied().chain(stored.keys()) {
        assert_eq!(*last.get(owner).unwrap_or(&first), stored.get(owner).unwrap_or(first), "{owner}");
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_the_server_leave_no_change_without_its_event(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let conf = database.config_file(&[]);
    let mut server = ServerProcess::start_beside(&conf).await;
    let operators = Operators::start(&[&server.grpc]).await;
    for _ in 0..8 {
        operators.succeed(60).await;
        server.kill();
        server = ServerProcess::start_beside(&conf).await;
        operators.servers.send_replace(connections(&[&server.grpc]));
    }
    operators.succeed(60).await;
    assert!(operators.stop().await > 0, "no call was without an answer");
    assert_trail_is_whole(&database).await;
    database.assert_audit_is_clean().await;
}

/// The lanes settle batches again if the commit got no answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retried_batches_leave_each_event_once() {
    let database = Database::create(MySql).await;
    let server = ServerProcess::start_beside(&database.config_file(&[])).await;
    let operators = Operators::start(&[&server.grpc]).await;
    let mut killed = 0;
    for _ in 0..60 {
        operators.succeed(8).await;
        let others = "FROM information_schema.processlist WHERE db = DATABASE() AND id <> CONNECTION_ID()";
        for id in database.rows(&["id"], others).await {
            // Fails if the connection has ended meanwhile.
            let kill = sqlx::AssertSqlSafe(format!("KILL CONNECTION {}", id[0]));
            killed += usize::from(sqlx::raw_sql(kill).execute(&mut database.mysql().await).await.is_ok());
        }
    }
    assert!(killed >= 60, "{killed}");
    operators.stop().await;
    assert_trail_is_whole(&database).await;
    database.assert_audit_is_clean().await;
}

#[test]
fn no_statement_changes_or_deletes_an_event() {
    let mut folders = vec![std::path::PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/src"))];
    let mut read = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let source = std::fs::read_to_string(&path).unwrap();
            read += source.matches("audit_event").count();
            for change in [
                "UPDATE audit_event",
                "DELETE FROM audit_event",
                "REPLACE INTO audit_event",
                "TRUNCATE TABLE audit_event",
            ] {
                assert!(!source.contains(change), "{}: {change}", path.display());
            }
        }
    }
    assert!(read > 10, "the table has another name");
}
