//! Use by service, model, API key and day, and lists by model and API key: exact whatever comes late, runs
//! twice or is cut short.

mod lists;
mod passes;
mod repairs;

use std::collections::{BTreeMap, BTreeSet};

use billing_service::service::proto::{
    BatchDeductQuotaRequest, CommitReservationRequest, DeductQuotaRequest, GetUsageReply, GetUsageRequest,
    MeterStreamRequest, RefundChargeRequest, ReserveQuotaRequest, Usage, UsageGroup,
    meter_stream_reply::Event as Reply, meter_stream_request::Event as Message,
};
use rstest::rstest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::harness::{
    Backend, MySql, Service, Sqlite,
    caller::Dice,
    charge, code_of,
    wait::{soon, until},
};

/// `llm` is priced by model and has free calls.
const MODELS: &[(&str, &str)] = &[
    ("billing.model_services", "{llm: calls}"),
    ("billing.free_quotas", "{passport: 30, payment: 1000, asset: 100, llm: 5}"),
    (
        "billing.models",
        "{gpt-4.1: {input: 2, output: 8, service_tiers: {batch: 0.5}}, gpt-5: {input: 10, output: 30}, tiny: {input: 1, output: 1}}",
    ),
    ("billing.streams", "{progress: 20ms, grace: 50ms, idle_timeout: 20s}"),
];

const USER: &str = "u";
const NAMES: [&str; 4] = ["service", "model", "api_key", "day"];

/// Every figure of a group, as text, so that one comparison has all.
type Figures = Vec<String>;

fn usage_of(by: &str) -> GetUsageRequest {
    GetUsageRequest { user_id: USER.into(), from: "2026-09-01".into(), group_by: by.into(), ..Default::default() }
}

fn value_of(group: &UsageGroup) -> String {
    [&group.service_name, &group.model, &group.api_key_id, &group.date].map(String::as_str).concat()
}

fn figures_of(group: &UsageGroup) -> Figures {
    let counts = [
        group.calls,
        group.total_units,
        group.free_units,
        group.paid_units,
        group.refunded_units,
        group.input_tokens,
        group.cached_input_tokens,
        group.cache_write_tokens,
        group.cache_write_1h_tokens,
        group.audio_input_tokens,
        group.output_tokens,
        group.reasoning_tokens,
        group.audio_output_tokens,
        group.images,
    ];
    let micros = [group.total_cost, group.refunded_cost].map(|cost| (cost * 1e6).round().to_string());
    counts.map(|count| count.to_string()).into_iter().chain(micros).collect()
}

/// The groups of a reply by their values.
fn groups_of(reply: &GetUsageReply) -> BTreeMap<String, Figures> {
    let groups: BTreeMap<_, _> = reply.groups.iter().map(|group| (value_of(group), figures_of(group))).collect();
    assert_eq!(groups.len(), reply.groups.len(), "each value has one group");
    groups
}

/// The lines of the export of records, which knows nothing of the rollup.
async fn records(service: &Service) -> Vec<BTreeMap<String, String>> {
    let url = format!("http://{}/api/v1/billing/records.csv?user_id={USER}", service.app.http_addr);
    let text = service.http.get(url).send().await.unwrap().text().await.unwrap();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    reader.deserialize().map(Result::unwrap).collect()
}

/// The groups as they follow from the records. `broken` are the streams that their reports charged.
fn expected(
    records: &[BTreeMap<String, String>],
    by: &str,
    broken: &BTreeSet<String>,
    keep: impl Fn(&BTreeMap<String, String>) -> bool,
) -> BTreeMap<String, Figures> {
    let column = match by {
        "service" => "service_name",
        "model" => "model",
        "api_key" => "api_key_id",
        "day" => "billing_day",
        other => panic!("{other}"),
    };
    let mut groups: BTreeMap<String, Vec<&BTreeMap<String, String>>> = BTreeMap::new();
    for record in records.iter().filter(|record| keep(record)) {
        groups.entry(record[column].clone()).or_default().push(record);
    }
    let figures = |records: &Vec<&BTreeMap<String, String>>| {
        let of = |kinds: &'static [&str]| records.iter().filter(move |record| kinds.contains(&&*record["type"]));
        let count = |kinds| of(kinds).map(|record| record["count"].parse::<i64>().unwrap()).sum::<i64>();
        let micros = |kinds| {
            of(kinds).map(|record| (record["amount"].parse::<f64>().unwrap() * 1e6).round() as i64).sum::<i64>()
        };
        let calls: BTreeSet<_> =
            of(&["free", "balance"]).map(|record| (&record["trace_id"], &record["created_at"])).collect();
        let tokens = |name: &str| {
            let counted = records.iter().filter(|record| !broken.contains(&record["trace_id"]));
            counted.map(|record| record[name].parse::<i64>().unwrap()).sum::<i64>()
        };
        let counts = [
            calls.len() as i64,
            count(&["free", "balance"]),
            count(&["free"]),
            count(&["balance"]),
            count(&["free_refund", "balance_refund"]),
            tokens("input_tokens"),
            tokens("cached_input_tokens"),
            tokens("cache_write_tokens"),
            tokens("cache_write_1h_tokens"),
            tokens("audio_input_tokens"),
            tokens("output_tokens"),
            tokens("reasoning_tokens"),
            tokens("audio_output_tokens"),
            tokens("images"),
            micros(&["free", "balance"]),
            micros(&["free_refund", "balance_refund"]),
        ];
        counts.map(|count| count.to_string()).to_vec()
    };
    groups.iter().map(|(value, records)| (value.clone(), figures(records))).collect()
}

impl Service {
    async fn usage(&self, request: GetUsageRequest) -> GetUsageReply {
        self.public.clone().get_usage(request).await.unwrap().into_inner()
    }

    /// Reads the usage until nothing is pending.
    async fn whole_usage(&self, request: GetUsageRequest) -> GetUsageReply {
        let mut reply = GetUsageReply::default();
        until("no record is pending", async || {
            reply = self.usage(request.clone()).await;
            reply.pending_records == 0
        })
        .await;
        reply
    }

    /// Compares every grouping with the records.
    async fn assert_is_exact(&self, broken: &BTreeSet<String>) {
        let records = records(self).await;
        for by in NAMES {
            let reply = self.whole_usage(usage_of(by)).await;
            assert_eq!(groups_of(&reply), expected(&records, by, broken, |_| true), "{by}");
        }
    }

    /// Charges in batches of a thousand.
    async fn charge_many(&self, prefix: &str, count: usize, call: &DeductQuotaRequest) {
        let traces: Vec<_> = (0..count).map(|n| format!("{prefix}-{n}")).collect();
        for traces in traces.chunks(1_000) {
            let item = |trace: &String| DeductQuotaRequest { trace_id: trace.clone(), ..call.clone() };
            let request = BatchDeductQuotaRequest { items: traces.iter().map(item).collect() };
            let reply = self.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner();
            assert!(reply.results.iter().all(|result| result.error.is_none()));
        }
    }
}

async fn start(on: Backend) -> Service {
    let service = Service::start_with(on, MODELS).await;
    service.clock.set("2026-11-20T04:00:00Z");
    service.adjust(USER, 100_000.0).await;
    service
}

fn random_call(dice: &mut Dice, trace: String) -> DeductQuotaRequest {
    let key = ["", "key-a", "key-b", "key,\"c\""][dice.below(4)];
    let (service, model) = match dice.below(6) {
        0 => ("passport", ""),
        1 => ("asset", "not-priced"),
        2 => ("llm", "gpt-5"),
        3 => ("llm", "tiny"),
        _ => ("llm", "gpt-4.1"),
    };
    let mut part = || dice.below(50) as i32;
    let usage = (service == "llm").then(|| {
        let parts = [part(), part(), part(), part(), part(), part()];
        Usage {
            input_tokens: parts[..4].iter().sum::<i32>() + 500,
            cached_input_tokens: parts[0],
            cache_write_tokens: parts[1],
            cache_write_1h_tokens: parts[2],
            audio_input_tokens: parts[3],
            output_tokens: parts[4] + parts[5] + 7,
            reasoning_tokens: parts[4],
            audio_output_tokens: parts[5],
            images: part(),
            ..Default::default()
        }
    });
    let count = if usage.is_some() { 1 } else { 1 + part() };
    let service_tier = if model == "gpt-4.1" && count % 2 == 1 { "batch" } else { "" };
    DeductQuotaRequest {
        trace_id: trace,
        api_key_id: key.into(),
        model: model.into(),
        usage,
        service_tier: service_tier.into(),
        ..charge(USER, service, count)
    }
}

fn reserve_of(call: &DeductQuotaRequest) -> ReserveQuotaRequest {
    ReserveQuotaRequest {
        user_id: call.user_id.clone(),
        trace_id: call.trace_id.clone(),
        service_name: call.service_name.clone(),
        count: call.count,
        model: call.model.clone(),
        api_key_id: call.api_key_id.clone(),
        estimated_input_tokens: if call.usage.is_some() { 100 } else { 0 },
        estimated_output_tokens: if call.usage.is_some() { 100 } else { 0 },
        ..Default::default()
    }
}

fn commit_of(call: &DeductQuotaRequest) -> CommitReservationRequest {
    CommitReservationRequest {
        user_id: call.user_id.clone(),
        trace_id: call.trace_id.clone(),
        usage: call.usage,
        ..Default::default()
    }
}

/// A stream that delivers some tokens and breaks. Its last report is charged.
async fn break_stream(service: &Service, trace: &str) {
    let (messages, sent) = mpsc::channel(8);
    let call = DeductQuotaRequest {
        trace_id: trace.into(),
        model: "gpt-5".into(),
        usage: Some(Usage::default()),
        ..charge(USER, "llm", 1)
    };
    let send = async |event| messages.send(MeterStreamRequest { event: Some(event) }).await.unwrap();
    let mut client = service.internal.clone();
    let mut replies = soon(client.meter_stream(ReceiverStream::new(sent))).await.unwrap().into_inner();
    send(Message::Open(reserve_of(&call))).await;
    send(Message::Output(" hello".repeat(4).into_bytes())).await;
    loop {
        match soon(replies.message()).await.unwrap().unwrap().event.unwrap() {
            Reply::State(state) if state.output_tokens == 4 => break,
            _ => {}
        }
    }
    drop((messages, replies));
    until("the stream is charged", async || service.transaction(USER, trace).await.status == "COMMITTED").await;
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_group_is_the_sum_of_its_records(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    let mut dice = Dice(7);
    let mut held: Vec<DeductQuotaRequest> = Vec::new();
    let mut charged: Vec<String> = Vec::new();
    let mut broken = BTreeSet::new();
    for (number, at) in [
        "2026-09-30T15:50:00Z",
        "2026-10-01T10:00:00Z",
        "2026-10-31T15:59:59Z",
        "2026-10-31T16:00:00Z",
        "2026-11-02T04:00:00Z",
        "2026-11-20T04:00:00Z",
    ]
    .into_iter()
    .enumerate()
    {
        service.clock.set(at);
        let calls: Vec<_> = (0..12).map(|n| random_call(&mut dice, format!("call-{number}-{n}"))).collect();
        charged.extend(calls.iter().map(|call| call.trace_id.clone()));
        let request = BatchDeductQuotaRequest { items: calls };
        let reply = service.internal.clone().batch_deduct_quota(request).await.unwrap().into_inner();
        assert!(reply.results.iter().all(|result| result.error.is_none()), "{reply:?}");
        for n in 0..4 {
            let call = random_call(&mut dice, format!("hold-{number}-{n}"));
            service.internal.clone().reserve_quota(reserve_of(&call)).await.unwrap();
            held.push(call);
        }
        // Some holds are committed later, after their day was read, and some after their month has closed.
        while held.len() > 6 {
            let call = held.remove(dice.below(held.len()));
            service.internal.clone().commit_reservation(commit_of(&call)).await.unwrap();
            charged.push(call.trace_id);
        }
        for n in 0..3 {
            let trace = charged[dice.below(charged.len())].clone();
            let refund = RefundChargeRequest {
                user_id: USER.into(),
                trace_id: trace,
                refund_id: format!("refund-{number}-{n}"),
                count: (n > 0).then_some(1),
                reason: "for a test".into(),
            };
            // A charge that was refunded already is refused.
            let _ = service.internal.clone().refund_charge(refund).await;
        }
        let stream = format!("stream-{number}");
        break_stream(&service, &stream).await;
        broken.insert(stream);
        service.assert_is_exact(&broken).await;
    }
    let late = service.database.rows(&["COUNT(*)"], "FROM billing_record WHERE late_of IS NOT NULL").await;
    let refunds = service.database.rows(&["COUNT(*)"], "FROM billing_record WHERE type IN (3, 4)").await;
    assert!(late[0][0] != "0" && refunds[0][0] != "0", "{late:?} {refunds:?}");
    // The commit of a broken stream adds the rest.
    let rest = Usage { input_tokens: 500, output_tokens: 400, ..Default::default() };
    let commit = CommitReservationRequest {
        user_id: USER.into(),
        trace_id: "stream-5".into(),
        usage: Some(rest),
        ..Default::default()
    };
    service.internal.clone().commit_reservation(commit).await.unwrap();
    service.assert_is_exact(&broken).await;
    service.assert_audit_is_clean().await;
    filters_restrict_groups_and_series(&service, &broken).await;
}

async fn filters_restrict_groups_and_series(service: &Service, broken: &BTreeSet<String>) {
    let records = records(service).await;
    for (service_name, model, key) in [
        ("", "gpt-4.1", ""),
        ("", "", "key-a"),
        ("llm", "gpt-5", "key-b"),
        ("asset", "", "key,\"c\""),
        ("", "none", ""),
    ] {
        let keep = |record: &BTreeMap<String, String>| {
            [("service_name", service_name), ("model", model), ("api_key_id", key)]
                .iter()
                .all(|(column, wanted)| wanted.is_empty() || record[*column] == *wanted)
        };
        let filtered = |by: &str| GetUsageRequest {
            service_name: service_name.into(),
            model: model.into(),
            api_key_id: key.into(),
            ..usage_of(by)
        };
        for by in NAMES {
            let reply = service.whole_usage(filtered(by)).await;
            assert_eq!(groups_of(&reply), expected(&records, by, broken, keep), "{by} {model} {key}");
        }
        let mut units: BTreeMap<String, i64> = BTreeMap::new();
        for series in service.whole_usage(filtered("")).await.series {
            for day in series.days.iter().filter(|day| day.total_units + day.refunded_units > 0) {
                *units.entry(day.date.clone()).or_default() += day.total_units;
            }
        }
        let days = expected(&records, "day", broken, keep);
        let expected: BTreeMap<_, i64> = days.iter().map(|(day, of)| (day.clone(), of[1].parse().unwrap())).collect();
        assert_eq!(units, expected, "{model} {key}");
    }
}

#[rstest]
#[tokio::test]
async fn groups_come_in_pages(#[values(MySql, Sqlite)] on: Backend) {
    let service = start(on).await;
    for n in 0..25 {
        let call = DeductQuotaRequest { api_key_id: format!("key-{n:02}"), ..charge(USER, "asset", n + 1) };
        service.deduct(call).await;
    }
    service.deduct(charge(USER, "asset", 1)).await;
    let whole = service.whole_usage(usage_of("api_key")).await;
    assert_eq!((whole.groups.len(), whole.next_page_token.as_str()), (26, ""));
    assert_eq!(whole.groups[0].api_key_id, "", "calls without a key");
    let (mut groups, mut token) = (Vec::new(), String::new());
    for expected in [10, 10, 6] {
        let request = GetUsageRequest { page_size: 10, page_token: token, ..usage_of("api_key") };
        let page = service.usage(request).await;
        assert_eq!(page.groups.len(), expected);
        groups.extend(page.groups);
        token = page.next_page_token;
    }
    assert_eq!((groups, token.as_str()), (whole.groups, ""));
}

#[tokio::test]
async fn a_bad_grouping_or_filter_is_named() {
    let service = start(Sqlite).await;
    service.deduct(charge(USER, "asset", 1)).await;
    let token = {
        service.deduct(DeductQuotaRequest { model: "m".into(), ..charge(USER, "asset", 1) }).await;
        service.usage(GetUsageRequest { page_size: 1, ..usage_of("model") }).await.next_page_token
    };
    let long = "x".repeat(129);
    for (request, field) in [
        (usage_of("hour"), "group_by"),
        (usage_of("Model"), "group_by"),
        (GetUsageRequest { page_size: 1_001, ..usage_of("model") }, "page_size"),
        (GetUsageRequest { page_size: -1, ..usage_of("model") }, "page_size"),
        (GetUsageRequest { page_size: 5, ..usage_of("") }, "page_size"),
        (GetUsageRequest { page_token: "x".into(), ..usage_of("model") }, "page_token"),
        (GetUsageRequest { page_token: token.clone(), ..usage_of("service") }, "page_token"),
        (GetUsageRequest { page_token: token, ..usage_of("") }, "page_token"),
        (GetUsageRequest { model: long.clone(), ..usage_of("day") }, "model"),
        (GetUsageRequest { api_key_id: long, ..usage_of("") }, "api_key_id"),
        (GetUsageRequest { from: "2024-01-01".into(), ..usage_of("day") }, "from"),
    ] {
        let refused = service.public.clone().get_usage(request.clone()).await.unwrap_err();
        assert_eq!(code_of(&refused).1, "10009", "{request:?}");
        assert!(refused.message().contains(field), "{field}: {}", refused.message());
    }
    let (status, reply) = service.get("/api/v1/billing/usage?user_id=u&group_by=model&model=m").await;
    assert_eq!((status, &reply["groups"][0]["model"], &reply["groups"][0]["calls"]), (200, &"m".into(), &"1".into()));
    let (status, reply) = service.get("/api/v1/billing/usage?user_id=u&groupBy=hour").await;
    assert_eq!((status, &reply["metadata"]["field"]), (400, &"group_by".into()));
}
