//! Models with classes, tiers, service tiers, aliases and plans, from the wire to the tables and back.

use billing_service::biz::values::calendar::Clock;
use billing_service::service::proto::{
    CheckQuotaRequest, CommitReservationRequest, DeductQuotaRequest, DeletePriceVersionRequest, GetApiKeyQuotaRequest,
    ListAuditEventsRequest, ListPriceVersionsRequest, PriceLine, PriceTier, PutPriceVersionRequest, QuotePriceRequest,
    ReserveQuotaRequest, SetApiKeyQuotaRequest, SetUserPlanRequest, Usage,
};
use chrono::{DateTime, TimeDelta, Utc};
use rstest::rstest;
use serde_json::{Value, json};

use super::{OF_OLD, Row, blamed, blames, call, delivered, hold, tokens};
use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, charge, code_of,
    process::{CRON, run},
    traced,
    wait::until,
};

pub(super) const MODELS: &[(&str, &str)] = &[
    ("billing.model_services", "{llm: calls, chat: tokens, rag: calls}"),
    ("billing.free_quotas", "{passport: 10, payment: 1000, asset: 1000}"),
    (
        "billing.models",
        "{gpt-4.1: {input: 15, cached_input: 4, output: 60, service_tiers: {batch: 0.5}, aliases: ['gpt-4.1-2025*']}, \
         gpt-4.1-mini: {input: 3, output: 12}, free: {input: 0, output: 0}, \
         long: {input: 5, output: 30, tiers: [{above_input_tokens: 272000, input: 10, output: 45}]}, \
         written: {input: 5, cache_write: 6.25, output: 25, max_tokens: 200000}, \
         cached: {input: 5, cached_input: 0.5, output: 25}}",
    ),
    (
        "billing.plans",
        "{reseller: {multiplier: 1.2, prices: {passport: 0.02}, free_quotas: {passport: 3}, \
         models: {own: {input: 1, output: 1}}}}",
    ),
    ("billing.price_refresh", "50ms"),
];

pub(super) fn sum(lines: &[PriceLine]) -> f64 {
    (lines.iter().map(|line| line.amount * 1e6).sum::<f64>()).round() / 1e6
}

impl Service {
    /// Charges a call, and reads it back: its amount is the sum of its lines.
    pub(super) async fn charged(&self, trace: &str, request: DeductQuotaRequest) -> f64 {
        let request = traced(trace, request);
        let reply = self.deduct(request.clone()).await;
        let found = self.found(trace).await;
        assert_eq!((found.amount, sum(&found.price_lines)), (reply.amount, reply.amount), "{:?}", found.price_lines);
        assert_eq!((&found.model, found.usage), (&request.model, request.usage.map(whole)));
        assert!(self.deduct(request).await.replayed);
        reply.amount
    }

    async fn quote(&self, request: QuotePriceRequest) -> f64 {
        let reply = self.internal.clone().quote_price(request).await.unwrap().into_inner();
        assert_eq!(sum(&reply.lines), reply.amount, "{:?}", reply.lines);
        reply.amount
    }

    /// Puts a version, and waits for a read of the versions: on a busy machine the call itself does not.
    pub(super) async fn put(&self, request: PutPriceVersionRequest) -> Result<bool, tonic::Status> {
        let changed = self.internal.clone().put_price_version(request).await?.into_inner().changed;
        // A test may let the read fail.
        let _ = self.internal.clone().list_price_versions(ListPriceVersionsRequest::default()).await;
        Ok(changed)
    }

    pub(super) async fn delete(&self, model: &str, version_id: &str) -> Result<bool, tonic::Status> {
        let request = DeletePriceVersionRequest { model: model.into(), version_id: version_id.into() };
        self.internal.clone().delete_price_version(request).await.map(|reply| reply.into_inner().changed)
    }
}

/// A usage as replies have it.
fn whole(usage: Usage) -> Usage {
    let written = usage.cached_input_tokens + usage.cache_write_tokens + usage.cache_write_1h_tokens;
    match usage.input_excludes_cached {
        true => Usage { input_tokens: usage.input_tokens + written, input_excludes_cached: false, ..usage },
        false => usage,
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_costs_what_its_classes_its_tier_and_its_model_say(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 1_000.0).await;
    for (trace, model, usage, amount) in [
        ("tier-below", "long", tokens(272_000, 0, 1_000), 1.39),
        ("tier-above", "long", tokens(272_001, 0, 1_000), 2.76501),
        (
            "written",
            "written",
            Some(Usage { cache_write_tokens: 159_217, ..tokens(159_223, 0, 2_745).unwrap() }),
            1.063761,
        ),
        (
            "excluded",
            "cached",
            Some(Usage { input_excludes_cached: true, ..tokens(342, 86_272, 44).unwrap() }),
            0.045946,
        ),
        ("alias", "gpt-4.1-2025-04-14", tokens(3_000, 0, 1_000), 0.105),
    ] {
        assert_eq!(service.charged(trace, call("rag", model, usage)).await, amount, "{trace}");
        let quote = QuotePriceRequest { service_name: "rag".into(), model: model.into(), usage, ..Default::default() };
        assert_eq!(service.quote(quote).await, amount, "{trace}");
    }
    let batch = DeductQuotaRequest { service_tier: "batch".into(), ..call("rag", "gpt-4.1", tokens(3_000, 0, 1_000)) };
    assert_eq!(service.charged("batch", batch.clone()).await, 0.0525);
    assert_eq!(service.found("batch").await.service_tier, "batch");
    let conflict =
        service.try_deduct(traced("batch", DeductQuotaRequest { service_tier: String::new(), ..batch.clone() }));
    assert!(conflict.await.unwrap_err().message().ends_with("service_tier"));
    let unknown = DeductQuotaRequest { service_tier: "flex".into(), ..batch };
    assert_eq!(blamed(service.try_deduct(unknown).await), blames("service_tier"));
    let above = Usage { reasoning_tokens: 2, ..tokens(1, 0, 1).unwrap() };
    let refused = service.try_deduct(call("rag", "long", Some(above))).await;
    assert_eq!(blamed(refused), blames("usage.reasoning_tokens"));

    // Another model served the call, and the first one was free.
    for (trace, reserved, model, amount) in
        [("mini", "gpt-4.1", "gpt-4.1-mini", 0.021), ("large", "free", "gpt-4.1", 0.105)]
    {
        let reserve = ReserveQuotaRequest { model: reserved.into(), ..hold(trace, "rag", (3_000, 1_000)) };
        service.hold_tokens(reserve).await.unwrap();
        let commit = CommitReservationRequest { model: model.into(), ..delivered(trace, tokens(3_000, 0, 1_000)) };
        assert_eq!(service.deliver(commit.clone()).await.unwrap().amount, amount, "{trace}");
        assert!(service.deliver(commit).await.unwrap().replayed);
        let found = service.found(trace).await;
        assert_eq!((found.model.as_str(), found.served_model.as_str()), (reserved, model));
        assert_eq!((found.amount, sum(&found.price_lines)), (amount, amount));
    }
    assert!(service.found("mini").await.price_version.starts_with("config:3/3/12"));

    // Estimates agree with the charge on both sides of a tier, and a large usage is charged and counted.
    for input in [272_000, 272_001] {
        let amount = if input == 272_000 { 1.39 } else { 2.76501 };
        let quote = QuotePriceRequest {
            service_name: "rag".into(),
            model: "long".into(),
            estimated_input_tokens: input,
            estimated_output_tokens: 1_000,
            ..Default::default()
        };
        assert_eq!(service.quote(quote).await, amount);
        let check = CheckQuotaRequest {
            user_id: "u".into(),
            service_name: "rag".into(),
            count: 1,
            model: "long".into(),
            estimated_input_tokens: input,
            estimated_output_tokens: 1_000,
            ..Default::default()
        };
        assert_eq!(service.estimate(check).await.unwrap().estimated_cost, amount);
        let trace = format!("estimate-{input}");
        let reserve = ReserveQuotaRequest { model: "long".into(), ..hold(&trace, "rag", (input, 1_000)) };
        assert_eq!(service.hold_tokens(reserve).await.unwrap().amount, amount);
        assert_eq!(service.deliver(delivered(&trace, tokens(input, 0, 1_000))).await.unwrap().amount, amount);
    }
    service.hold_tokens(hold("huge", "chat", (50, 50))).await.unwrap();
    let huge = service.deliver(delivered("huge", tokens(0, 0, i32::MAX))).await.unwrap();
    assert_eq!((huge.amount, huge.paid_count), (128_849.018_82, i32::MAX));
    assert!(service.metrics().await.contains("\nbilling_usage_suspicious 1\n"));
    service.assert_audit_is_clean().await;
}

pub(super) fn put(model: &str, version_id: &str, effective_from: DateTime<Utc>, input: f64) -> PutPriceVersionRequest {
    PutPriceVersionRequest {
        model: model.into(),
        version_id: version_id.into(),
        effective_from: Some(effective_from.into()),
        input: Some(input),
        output: Some(0.0),
        tiers: vec![PriceTier { above_input_tokens: 1_000_000, input: Some(2.0 * input), ..Default::default() }],
        service_tiers: [("batch".to_owned(), 0.5)].into(),
        aliases: vec![format!("{model}-*")],
        ..Default::default()
    }
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn versions_are_put_listed_and_deleted_before_they_are_in_force(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 1_000.0).await;
    let now = service.clock.now();
    let (past, later) = (now - TimeDelta::days(1), now + TimeDelta::days(1));
    assert!(service.put(put("m", "v1", past, 2.0)).await.unwrap());
    assert!(!service.put(put("m", "v1", past, 2.0)).await.unwrap());
    assert_eq!(blamed(service.put(put("m", "v2", past, 3.0)).await), blames("effective_from"));
    assert!(service.put(put("m", "v2", later, 3.0)).await.unwrap());
    assert!(service.put(put("m", "v3", later, 4.0)).await.unwrap());
    assert_eq!(blamed(service.put(put("m", "v1", later + TimeDelta::days(1), 4.0)).await), blames("version_id"));
    let bad = PutPriceVersionRequest { output: None, ..put("m", "v9", later, 1.0) };
    assert_eq!(blamed(service.put(bad).await), blames("output"));

    // The server that wrote the version uses it at once.
    let million = |model: &str, input| call("rag", model, tokens(input, 0, 0));
    assert_eq!(service.charged("a", million("m", 1_000_000)).await, 2.0);
    assert_eq!(service.charged("b", million("m-2026", 1_000_001)).await, 4.000004);
    let mut all = Vec::new();
    let mut request = ListPriceVersionsRequest { page_size: 1, model: "m".into(), ..Default::default() };
    loop {
        let page = service.internal.clone().list_price_versions(request.clone()).await.unwrap().into_inner();
        all.extend(page.versions);
        if page.next_page_token.is_empty() {
            break;
        }
        request.page_token = page.next_page_token;
    }
    let shown: Vec<_> =
        all.iter().map(|version| (version.version_id.as_str(), version.input, version.in_force)).collect();
    assert_eq!(shown, [("v1", Some(2.0), true), ("v3", Some(4.0), false)]);
    assert_eq!((&all[0].tiers[0].input, all[0].service_tiers["batch"]), (&Some(4.0), 0.5));
    assert_eq!(all[0].aliases, ["m-*"]);

    // A version before the one in force, and a repeat of a replaced one, are not in force.
    let older = put("m", "v0", past - TimeDelta::days(1), 1.0);
    for changed in [true, false] {
        let reply = service.internal.clone().put_price_version(older.clone()).await.unwrap().into_inner();
        let shown = reply.version.unwrap();
        assert_eq!((reply.changed, shown.in_force, shown.version_id.as_str()), (changed, false, "v0"));
    }
    let newer = service.internal.clone().put_price_version(put("m", "v1", past, 2.0)).await.unwrap().into_inner();
    assert!(!newer.changed && newer.version.unwrap().in_force);

    // A repeat without an instant finds the first version.
    let at_once = PutPriceVersionRequest { effective_from: None, ..put("once", "v1", past, 2.0) };
    let first = service.internal.clone().put_price_version(at_once.clone()).await.unwrap().into_inner();
    service.clock.advance(TimeDelta::seconds(2));
    let again = service.internal.clone().put_price_version(at_once.clone()).await.unwrap().into_inner();
    assert_eq!((first.changed, again.changed, &again.version), (true, false, &first.version));
    assert!(first.version.unwrap().in_force);
    let dearer = PutPriceVersionRequest { output: Some(1.0), ..at_once };
    assert_eq!(blamed(service.put(dearer).await), blames("version_id"));
    let of_one = ListPriceVersionsRequest { model: "once".into(), ..Default::default() };
    let listed = service.internal.clone().list_price_versions(of_one).await.unwrap().into_inner().versions;
    assert_eq!(listed.len(), 1);

    assert_eq!(blamed(service.delete("m", "v1").await), blames("version_id"));
    assert!(service.delete("m", "v3").await.unwrap());
    assert!(!service.delete("m", "v3").await.unwrap());
    let events = ListAuditEventsRequest { rpc: "PutPriceVersion".into(), ..Default::default() };
    let events = service.internal.clone().list_audit_events(events).await.unwrap().into_inner().events;
    assert_eq!(events.len(), 5);
    let replaced: Value = serde_json::from_str(&events[2].before).unwrap();
    assert_eq!((&replaced["version_id"], &replaced["prices"]["prices"]["input"]), (&json!("v2"), &json!("3")));

    // Over REST, and a version that a hand wrote.
    let url = format!("http://{}/internal/v1/billing/prices", service.app.grpc_addr);
    let body = json!({"model": "rest", "input": "1.5", "output": 2, "serviceTiers": {"priority": 2}, "tiers":
        [{"aboveInputTokens": 10, "input": 3}]});
    let reply: Value = service.http.post(&url).json(&body).send().await.unwrap().json().await.unwrap();
    assert_eq!((&reply["changed"], &reply["version"]["service_tiers"]["priority"]), (&json!(true), &json!(2.0)));
    let deleted = service.http.delete(format!("{url}?model=rest&version_id=none")).send().await.unwrap();
    assert_eq!(deleted.json::<Value>().await.unwrap(), json!({"success": true, "changed": false}));
    service.database.set_price(Row("hand", OF_OLD, "by-hand", ["7000000", "NULL", "1"])).await;
    service.until_input_costs("hand", Some(7.0)).await;
    service.database.execute("UPDATE price_version SET input_price = input_price * 2 WHERE model = 'hand'").await;
    service.until_input_costs("hand", Some(14.0)).await;
    service.database.execute("UPDATE price_version SET price_details = '{' WHERE model = 'hand'").await;
    until("the row is refused", async || service.metrics().await.contains("\nbilling_price_rows_refused 1\n")).await;
    service.until_input_costs("hand", None).await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plan_prices_the_next_call_and_the_free_quota_of_the_next_month(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 1_000.0).await;
    let batch =
        || DeductQuotaRequest { service_tier: "batch".into(), ..call("rag", "gpt-4.1", tokens(3_000, 0, 1_000)) };
    assert_eq!(service.charged("list", batch()).await, 0.0525);
    assert_eq!(service.deduct(traced("free", charge("u", "passport", 10))).await.free_count, 10);
    service.hold_tokens(hold("r", "rag", (3_000, 1_000))).await.unwrap();
    let unit_hold = ReserveQuotaRequest { model: String::new(), count: 2, ..hold("unit", "passport", (0, 0)) };
    assert_eq!(service.hold_tokens(unit_hold).await.unwrap().amount, 0.02);

    let set = async |plan: &str| {
        let request = SetUserPlanRequest { user_id: "u".into(), plan: plan.into(), reason: "sold".into() };
        service.internal.clone().set_user_plan(request).await.map(|reply| reply.into_inner().changed)
    };
    assert_eq!(blamed(set("none").await), blames("plan"));
    assert!(set("reseller").await.unwrap());
    assert!(!set("reseller").await.unwrap());
    assert_eq!(service.account("u").await.plan, "reseller");
    assert_eq!(service.charged("plan", batch()).await, 0.063);
    assert_eq!(service.found("plan").await.plan, "reseller");
    assert_eq!(service.charged("own", call("rag", "own", tokens(1_000_000, 0, 0))).await, 1.0);
    assert_eq!(
        service.charged("unit-plan", DeductQuotaRequest { usage: None, ..charge("u", "passport", 1) }).await,
        0.02
    );
    let check = CheckQuotaRequest {
        user_id: "u".into(),
        service_name: "rag".into(),
        count: 1,
        model: "gpt-4.1".into(),
        estimated_input_tokens: 3_000,
        estimated_output_tokens: 1_000,
        service_tier: "batch".into(),
        ..Default::default()
    };
    assert_eq!(service.estimate(check).await.unwrap().estimated_cost, 0.063);
    for (user_id, plan, amount) in [("u", "reseller", 0.126), ("", "default", 0.105), ("other", "default", 0.105)] {
        let quote = QuotePriceRequest {
            user_id: user_id.into(),
            service_name: "rag".into(),
            model: "gpt-4.1".into(),
            usage: tokens(3_000, 0, 1_000),
            ..Default::default()
        };
        let reply = service.internal.clone().quote_price(quote).await.unwrap().into_inner();
        assert_eq!((reply.plan.as_str(), reply.amount), (plan, amount));
    }
    // A reservation keeps its plan, whatever serves it.
    let commit = CommitReservationRequest { model: "gpt-4.1-mini".into(), ..delivered("r", tokens(3_000, 0, 1_000)) };
    assert_eq!(service.deliver(commit).await.unwrap().amount, 0.021);
    assert_eq!(service.deliver(delivered("unit", None)).await.unwrap().amount, 0.02);

    // This month keeps its quota, and the next one has that of the plan.
    let passport = async || {
        let quotas = service.account("u").await.quotas;
        quotas.into_iter().find(|quota| quota.service_name == "passport").unwrap().total_quota
    };
    assert_eq!(passport().await, 10);
    service.clock.advance(TimeDelta::days(32));
    assert_eq!(passport().await, 3);
    assert_eq!(service.deduct(traced("next", charge("u", "passport", 4))).await.free_count, 3);
    assert!(set("default").await.unwrap());
    assert_eq!(service.charged("back", batch()).await, 0.0525);
    assert_eq!(code_of(&service.try_deduct(call("rag", "own", tokens(1, 0, 0))).await.unwrap_err()).1, "10009");
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_free_quota_counts_the_parts_of_a_call_by_their_weights(#[values(MySql, Sqlite)] on: Backend) {
    let weights = ("billing.quota_weights", "{chat: {cached_input: 0.1, output: 4}}");
    let quotas = ("billing.free_quotas", "{passport: 10, payment: 1000, asset: 1000, chat: 1000}");
    let changes: Vec<_> = MODELS.iter().copied().chain([quotas]).collect();
    let service = Service::start_on(Database::create(on).await, &[&changes[..], &[weights]].concat()).await;
    service.adjust("u", 100.0).await;
    let limit = SetApiKeyQuotaRequest {
        api_key_id: "k".into(),
        quota_type: "tokens".into(),
        period: "day".into(),
        limit: Some(5_000.0),
    };
    service.internal.clone().set_api_key_quota(limit).await.unwrap();
    let keyed = |usage| DeductQuotaRequest { api_key_id: "k".into(), ..call("chat", "gpt-4.1", usage) };

    // 100 + 0.1 * 900 + 4 * 50
    let usage = tokens(1_000, 900, 50);
    let quote = QuotePriceRequest {
        user_id: "u".into(),
        service_name: "chat".into(),
        model: "gpt-4.1".into(),
        usage,
        ..Default::default()
    };
    assert_eq!(service.quote(quote).await, 0.0081);
    let free = service.deduct(traced("t", keyed(usage))).await;
    assert_eq!((free.free_count, free.paid_count, free.amount, free.free_remaining), (390, 0, 0.0, 610));
    assert_eq!(service.found("t").await.free_count, 390);
    // 200 + 4 * 100, and later 300 + 4 * 150: 610 of 900 units are free.
    let held = service.hold_tokens(ReserveQuotaRequest { api_key_id: "k".into(), ..hold("r", "chat", (200, 100)) });
    assert_eq!(held.await.unwrap().free_count, 600);
    assert_eq!(service.account("u").await.quotas[1].held_quota, 600);

    // A reservation keeps its weights.
    service.app.stop().await;
    let service = Service::start_on(service.database, &changes).await;
    let done = service.deliver(delivered("r", tokens(300, 0, 150))).await.unwrap();
    // 290 of 900 units at 300 * 15 + 150 * 60 millionths.
    assert_eq!((done.free_count, done.paid_count, done.amount), (610, 290, 0.00435));
    assert!(service.deliver(delivered("r", tokens(300, 0, 150))).await.unwrap().replayed);
    let found = service.found("r").await;
    assert_eq!((found.free_count, found.paid_count, sum(&found.price_lines)), (610, 290, 0.00435));
    // The quota of a key counts every token as one.
    let key = GetApiKeyQuotaRequest { api_key_id: "k".into() };
    let used = service.internal.clone().get_api_key_quota(key).await.unwrap().into_inner().quotas[0].used;
    assert_eq!(used, 1_500.0);
    service.assert_audit_is_clean().await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_published_price_list_is_imported_once(#[values(MySql, Sqlite)] on: Backend) {
    let service = Service::start_with(on, MODELS).await;
    service.adjust("u", 1_000.0).await;
    let conf = service.database.config_file(MODELS);
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/model_prices.json");
    let import = |more: &[&str]| {
        let arguments = ["-conf", conf.to_str().unwrap(), "--once", "import-prices", "--rate", "7", "--factor", "1.5"];
        let output = run(CRON, &[&arguments, more].concat(), &[]);
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    assert!(!import(&[]).0, "there is no file");
    let without_rate = ["-conf", conf.to_str().unwrap(), "--once", "import-prices", "--file", file, "--dry-run"];
    let first_line = |arguments: &[&str]| {
        let output = String::from_utf8(run(CRON, arguments, &[]).stdout).unwrap();
        output.lines().next().unwrap().to_owned()
    };
    assert_eq!(first_line(&without_rate), "rate 1: dollars are taken as CNY");
    assert!(first_line(&[&without_rate[..], &["--rate", "7"]].concat()).starts_with("note: "));
    let (good, shown) = import(&["--file", file, "--dry-run"]);
    assert!(
        good && shown.contains("new: aurora-large: max_tokens 1114112, cached_input 1.3125, input 13.125, output 105"),
        "{shown}"
    );
    assert!(shown.contains("46 new and 0 changed versions would be written, 0 unchanged, 4 skipped"), "{shown}");
    assert!(shown.contains("skipped: cascade-unpriced: has no output_cost_per_token"), "{shown}");
    assert!(shown.contains("ignored members: ") && shown.contains("tiered_pricing (1)"), "{shown}");
    assert_eq!(service.database.rows(&["model"], "FROM price_version").await.len(), 0);

    let (good, shown) = import(&["--file", file]);
    assert!(good && shown.contains("46 new and 0 changed versions written"), "{shown}");
    let (good, shown) = import(&["--file", file]);
    assert!(good && shown.contains("0 new and 0 changed versions written, 46 unchanged"), "{shown}");
    assert_eq!(service.database.rows(&["model"], "FROM price_version").await.len(), 46);
    service.until_input_costs("aurora-large", Some(13.125)).await;
    // 7 times 1.5 times the list: above 200,000 tokens of input.
    let long = call("rag", "aurora-large-long", tokens(1_000_000, 0, 1_000));
    assert_eq!(service.charged("long", long).await, 26.4075);
    let thought = Usage { reasoning_tokens: 1_000_000, ..tokens(0, 0, 1_000_000).unwrap() };
    let thought = DeductQuotaRequest { service_tier: "flex".into(), ..call("rag", "aurora-thinker", Some(thought)) };
    assert_eq!(service.charged("thought", thought).await, 47.25);
}
