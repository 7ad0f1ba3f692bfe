//! The tools of operators: the way to an id, unapplied payments, prices, jobs, health, and the facts behind a charge.

use chrono::TimeDelta;
use rstest::rstest;

use super::{
    OPEN, history,
    operators::{settings, token},
    prices::quoted,
    visitor::Visitor,
};
use crate::harness::{
    Backend, Database, MySql, Service, Sqlite, TestClock,
    payments::{Paying, success},
};

#[rstest]
#[tokio::test]
async fn each_id_leads_to_its_page(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &OPEN).await;
    let service = &paying.service;
    history(service, "alice").await;
    let order = paying.recharge("alice", 12.0).await;
    paying.press(&order.payment_url, "SUCCESS").await;
    paying.until_order_is(&order.order_id, "success").await;
    let payment = paying.order(&order.order_id).await.payment_order_id;
    paying.notify(success("no-such-order", "stray", 5.0)).await.unwrap_err();
    let (_, events) = service.internal_get("/internal/v1/billing/audit-events").await;
    let event = events["events"][0]["id"].as_str().unwrap().to_owned();
    let (_, charge) = service.internal_get("/internal/v1/billing/transactions/alice/llm-2").await;
    let record = charge["record_id"].as_str().unwrap();
    let operator = Visitor::of_operators(service);
    let top_up = format!("/console/top-ups/{}?user_id=alice", order.order_id);
    for (id, account, page) in [
        ("alice", "", "/console?user_id=alice"),
        (&order.order_id, "", &top_up),
        (&payment, "", &top_up),
        ("stray", "", "/console/unapplied-payments?payment_order_id=stray"),
        ("key <1>", "", "/console/api-key?api_key_id=key%20%3C1%3E"),
        (&event, "", &format!("/console/audit-events/{event}")),
        ("llm-2", "alice", "/console/charge?trace_id=llm-2&user_id=alice"),
        (record, "alice", "/console/charge?trace_id=llm-2&user_id=alice"),
    ] {
        let encoded = id.replace(' ', "%20").replace('<', "%3C").replace('>', "%3E");
        let found = operator.get(&format!("/console/find?id={encoded}&user_id={account}")).await;
        assert_eq!((found.status, found.header("location")), (303, page), "{id}: {}", found.text());
        assert_eq!(operator.get(page).await.status, 200, "{page}");
    }
    for (id, account) in [("nothing", ""), ("llm-2", ""), (record, ""), ("llm-2", "bob"), (record, "bob")] {
        let missing = operator.get(&format!("/console/find?id={id}&user_id={account}")).await;
        assert!(missing.status == 404 && missing.text().contains("name its account too"), "{id}: {}", missing.text());
    }
    // A key that is named as an account is.
    let quota = r#"{"quota_type":"requests","period":"month","limit":7}"#;
    let url = format!("http://{}/internal/v1/billing/api-keys/alice/quota", service.app.grpc_addr);
    let set = service.http.post(url).header("content-type", "application/json").body(quota).send().await.unwrap();
    assert_eq!(set.status(), 200);
    let several = operator.get("/console/find?id=alice").await;
    let links = several.attributes("href");
    assert!(links.contains(&"/console?user_id=alice".into()), "{links:?}");
    assert!(links.contains(&"/console/api-key?api_key_id=alice".into()), "{links:?}");
}

#[rstest]
#[tokio::test]
async fn unapplied_payments_are_listed_by_status_with_their_decisions(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &OPEN).await;
    for payment in ["one", "two"] {
        paying.notify(success("no-such-order", payment, 5.0)).await.unwrap_err();
    }
    let operator = Visitor::of_operators(&paying.service);
    let open = operator.get("/console/unapplied-payments").await;
    for text in ["one", "two", "5.00 CNY", "Unknown order", "Open"] {
        assert!(open.text().contains(text), "{text}: {}", open.text());
    }
    let decisions = open.attributes("href");
    for action in ["credit", "refund", "dismiss"] {
        let form = format!("/console/actions/resolve-payment?payment_order_id=one&action={action}");
        assert!(decisions.contains(&form), "{decisions:?}");
        assert!(operator.get(&form).await.html.contains(&format!("value=\"{action}\" required checked")));
    }
    assert!(operator.get("/console/unapplied-payments?status=dismissed").await.text().contains("No payments match."));
    assert_eq!(operator.get("/console/unapplied-payments?status=lost").await.status, 400);
}

#[rstest]
#[tokio::test]
async fn a_new_price_is_quoted_for_the_calls_of_yesterday(#[values(MySql, Sqlite)] on: Backend) {
    let database = Database::create(on).await;
    let (clock, config) = (TestClock::real(), database.config(&OPEN));
    let service = Service::start_with_clock(database, config, clock.clone()).await;
    history(&service, "alice").await;
    // A read brings the use by model up to date.
    let (status, _) = service.get("/api/v1/billing/usage?user_id=alice&group_by=model").await;
    assert_eq!(status, 200);
    clock.advance(TimeDelta::days(1));
    let operator = Visitor::of_operators(&service);
    let form = operator.get("/console/actions/price?model=gpt-4.1").await;
    assert!(form.html.contains("name=\"input\"") && form.html.contains("value=\"2\""), "filled in: {}", form.html);
    let put = |from: &'static str, id: &'static str| {
        let fields =
            [("model", "gpt-4.1"), ("version_id", id), ("effective_from", from), ("input", "4"), ("output", "16")];
        let operator = &operator;
        async move { quoted(operator, &fields).await }
    };
    let preview = put("2999-01-01T00:00:00", "next").await;
    // Three calls of 3,001 input and 777 output tokens, at 2 and 8, and at twice that, a million.
    for text in ["Calls 3", "At the prices in force 0.036654", "At the new prices 0.073308"] {
        assert!(preview.text().contains(text), "{text}: {}", preview.text());
    }
    let confirmation = preview.hidden("/console/actions/price");
    let fields: Vec<_> = confirmation.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    assert_eq!(operator.post("/console/actions/price", &fields).await.status, 303);
    let listed = operator.get("/console/prices?model=gpt-4.1").await;
    for text in ["next", "To come", "In force", "configured", "16.00"] {
        assert!(listed.text().contains(text), "{text}: {}", listed.text());
    }
    assert!(listed.html.contains("<svg class=\"time-line\""), "{}", listed.html);
    let delete = "/console/actions/delete-price?model=gpt-4.1&version_id=next".to_owned();
    assert!(listed.attributes("href").contains(&delete));
}

#[tokio::test]
async fn jobs_are_shown_with_their_last_runs_and_their_next_one() {
    let service = super::open(Sqlite).await;
    service
        .database
        .execute(
            "INSERT INTO job_run (job, period, position, started_at, finished_at) VALUES \
             ('audit', '2026-11-29T03:30:00Z', NULL, 1795923000000000, 1795923042000000), \
             ('expire-events', '2026-11-29T04:15:00Z', '500 3 mallory', 1795925700000000, NULL), \
             ('reset-quotas', '2026-11-01T00:00:00Z x', '7 u', 1793462400000000, NULL)",
        )
        .await;
    service
        .database
        .execute("INSERT INTO job_lease (job, owner, ends_at) VALUES ('reset-quotas', 'o', 9999999999999999)")
        .await;
    let shown = Visitor::of_operators(&service).get("/console/jobs").await;
    let row = |job: &str| {
        let row = shown.html.split("<tr>").find(|row| row.contains(&format!("<th scope=\"row\">{job}"))).unwrap();
        row.split('<').filter_map(|part| part.split_once('>')).map(|(_, text)| text).collect::<Vec<_>>().join(" ")
    };
    assert!(row("audit").contains("Done") && row("audit").contains("took 42 s"), "{}", row("audit"));
    assert!(row("expire-events").contains("Interrupted"), "{}", row("expire-events"));
    assert!(row("expire-events").contains("500 3 mallory"), "{}", row("expire-events"));
    let reset = row("reset-quotas");
    assert!(reset.contains("Running") && reset.contains("has reached") && reset.contains("7 u"), "{reset}");
    assert!(reset.contains("-01 00:00:00"), "the next month: {reset}");
    assert!(row("rebuild-rollup").contains("by hand only"));
    assert!(!shown.html.contains("reconcile-cache"), "there is no Redis");
}

#[rstest]
#[tokio::test]
async fn health_shows_the_calls_of_the_last_hour(#[values(MySql, Sqlite)] on: Backend) {
    let service = super::open(on).await;
    history(&service, "alice").await;
    let shown = Visitor::of_operators(&service).get("/console/health").await;
    let text = shown.text();
    for part in ["Database Up answered in", "Redis", "Charge 6 at most", "DeductQuota 6"] {
        assert!(text.contains(part), "{part}: {text}");
    }
}

#[rstest]
#[tokio::test]
async fn a_charge_is_explained_with_its_records_refunds_and_caches(#[values(MySql, Sqlite)] on: Backend) {
    let service = super::open(on).await;
    history(&service, "alice").await;
    let refund = r#"{"user_id":"alice","trace_id":"call-1","count":12,"refund_id":"back-1","reason":"half of it"}"#;
    let url = format!("http://{}/internal/v1/billing/refund", service.app.grpc_addr);
    let made = service.http.post(url).header("content-type", "application/json").body(refund).send().await.unwrap();
    assert_eq!(made.status(), 200, "{}", made.text().await.unwrap());
    service.check("alice", "passport", 1).await;
    let operator = Visitor::of_operators(&service);
    let shown = operator.get("/console/charge?user_id=alice&trace_id=call-1").await;
    let text = shown.text();
    let (_, records) = service.get("/api/v1/billing/records?user_id=alice&service_name=passport").await;
    let records = records["records"].as_array().unwrap();
    assert_eq!(records.len(), 4, "free and paid, of the charge and of its refund");
    for record in records {
        assert!(text.contains(record["id"].as_str().unwrap()), "{record} is not in {text}");
    }
    for part in ["half of it back-1", "Balance given back", "Free quota given back", "As in the database"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(shown.attributes("href").contains(&"/console/actions/refund?user_id=alice&trace_id=call-1".to_owned()));
    let tokens = operator.get("/console/charge?user_id=alice&trace_id=llm-2").await.text();
    assert!(tokens.contains("Usage Input tokens 3,001 Output tokens 777"), "{tokens}");
}

#[tokio::test]
async fn prices_and_api_keys_are_for_admins_alone() {
    let service = Service::start_with(Sqlite, &settings()).await;
    for (role, status) in [("support", 403), ("admin", 200)] {
        let operator = Visitor::of_operators(&service).with("authorization", &format!("Bearer {}", token(role)));
        for page in ["/console/prices", "/console/api-key?api_key_id=k"] {
            assert_eq!(operator.get(page).await.status, status, "{page} as {role}");
        }
        let find = operator.get("/console/find").await;
        assert_eq!(find.attributes("href").contains(&"/console/prices".to_owned()), role == "admin", "{role}");
    }
}

#[tokio::test]
async fn an_unknown_path_is_a_page_and_says_so() {
    let service = super::open(Sqlite).await;
    for visitor in [Visitor::of(&service), Visitor::of_operators(&service)] {
        for path in ["/console/nothing", "/console/top-ups/x/y/z", "/console/assets/none.css/x"] {
            let missing = visitor.get(path).await;
            assert_eq!((missing.status, missing.header("content-type")), (404, "text/html; charset=utf-8"), "{path}");
            assert!(missing.text().contains("There is no page at this address."), "{}", missing.text());
            assert!(missing.header("content-security-policy").contains("default-src 'none'"), "{path}");
        }
        let first = visitor.get("/console/?user_id=alice").await;
        assert_eq!((first.status, first.header("location")), (303, "/console?user_id=alice"));
        let chinese = Visitor::of(&service).with("accept-language", "zh").get("/console/nothing").await;
        assert!(chinese.text().contains("此地址没有页面"), "{}", chinese.text());
    }
}
