//! Operators in a browser: ten tasks by clicks alone, each from `/console` on, whose numbers docs/console.md has; and every
//! action.

use std::{fs, path::Path};

use billing_service::{
    app::cron::Job,
    service::proto::{DeductQuotaRequest, PutWebhookRequest, SetApiKeyQuotaRequest, Usage},
};
use rstest::rstest;
use serde_json::json;

use crate::{
    cron::{Counted, runner},
    harness::{
        Backend, MySql, Sqlite, TestClock,
        browser::Browser,
        charge,
        payments::{Paying, success},
        wait::until,
    },
    webhooks::{
        self, deliveries, put_request,
        receiver::{Answer, Receiver},
    },
};

/// `rag` has no free quota, and its units are tokens.
const SETTINGS: [(&str, &str); 3] = [
    ("console.enabled", "true"),
    ("billing.model_services", "{rag: tokens}"),
    ("billing.models", "{gpt-4.1: {input: 2, output: 8}}"),
];

/// An operator before a browser, who counts.
struct Operator<'b> {
    browser: &'b Browser,
    first: String,
    clicks: u32,
    fields: u32,
    done: Vec<(String, u32, u32)>,
}

impl Operator<'_> {
    /// Begins at the first page.
    async fn begin(&mut self) {
        (self.clicks, self.fields) = (0, 0);
        self.browser.go_to(&self.first).await;
    }

    fn end(&mut self, task: &str) {
        self.done.push((task.to_owned(), self.clicks, self.fields));
    }

    /// Clicks the link, button or choice with a text, in a row of a table with another text if that is not empty.
    async fn click(&mut self, row: &str, text: &str) {
        let script = format!(
            "const [row, text] = {};
             const within = row ? [...document.querySelectorAll('tbody tr')].filter(one => one.innerText.includes(row)) : [document];
             const all = within.flatMap(one => [...one.querySelectorAll('a, button, label.choice')]);
             const found = all.filter(one => one.offsetParent && (!text || one.innerText.trim() === text));
             document.querySelectorAll('[data-next]').forEach(one => one.removeAttribute('data-next'));
             if (found[0]) found[0].setAttribute('data-next', '');
             return found.length",
            json!([row, text])
        );
        let found = self.browser.run(&script).await;
        assert_ne!(found, 0, "no {text:?} in {row:?}: {}", self.browser.text("main").await);
        self.browser.click("[data-next]").await;
        self.clicks += 1;
    }

    /// As [`Self::click`], and waits for the page that it leads to.
    async fn follow_in(&mut self, row: &str, text: &str) {
        self.browser.run("window.isLeft = true").await;
        self.click(row, text).await;
        until(&format!("{text:?} leads to a page"), async || {
            let script =
                "return !window.isLeft && document.readyState === 'complete' && !!document.querySelector('main h1')";
            self.browser.run(script).await == true
        })
        .await;
    }

    async fn follow(&mut self, text: &str) {
        self.follow_in("", text).await;
    }

    async fn fill(&mut self, field: &str, text: &str) {
        self.browser.fill(&format!("main [name={field}]"), text).await;
        self.fields += 1;
    }

    async fn find(&mut self, id: &str) {
        self.fill("id", id).await;
        self.follow("Open").await;
    }

    /// From a filled form to its result.
    async fn confirm(&mut self) {
        self.follow("Preview").await;
        self.follow("Confirm").await;
        self.sees(&["The change is made."]).await;
    }

    async fn sees(&self, parts: &[&str]) {
        let text = self.browser.text("main").await;
        for part in parts {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
}

/// The table of docs/console.md: task, clicks, fields.
fn documented() -> Vec<(String, u32, u32)> {
    let text = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/console.md")).unwrap();
    let rows = text.lines().skip_while(|line| !line.starts_with("| task |")).skip(2);
    let cells =
        |line: &str| -> Vec<String> { line.trim_matches('|').split('|').map(|cell| cell.trim().into()).collect() };
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| {
            let [task, clicks, fields] = &cells(line)[..] else { panic!("{line}") };
            (task.clone(), clicks.parse().unwrap(), fields.parse().unwrap())
        })
        .collect()
}

/// A charge, a quota of an API key, a stray payment, and runs of jobs.
async fn prepare(paying: &Paying, on: Backend) {
    let service = &paying.service;
    service.adjust("u", 10.0).await;
    for (trace, input_tokens, output_tokens) in [("call-1", 100, 50), ("call-2", 13_001, 2_493), ("call-3", 7, 9)] {
        let usage = Some(Usage { input_tokens, output_tokens, ..Default::default() });
        let call = DeductQuotaRequest { model: "gpt-4.1".into(), usage, ..charge("u", "rag", 1) };
        service.deduct(DeductQuotaRequest { trace_id: trace.into(), ..call }).await;
    }
    let quota = SetApiKeyQuotaRequest {
        api_key_id: "key-1".into(),
        quota_type: "requests".into(),
        period: "month".into(),
        limit: Some(77.0),
    };
    service.internal.clone().set_api_key_quota(quota).await.unwrap();
    paying.notify(success("no-such-order", "stray", 5.0)).await.unwrap_err();
    let time = |text: &str, micros: i64| if on == MySql { format!("'{text}'") } else { micros.to_string() };
    let [begun, ended] =
        [time("2026-11-29 03:30:00", 1_795_923_000_000_000), time("2026-11-29 03:30:42", 1_795_923_042_000_000)];
    let runs = format!(
        "INSERT INTO job_run (job, period, position, started_at, finished_at) VALUES \
         ('expire-events', '2026-11-29T04:15:00Z', NULL, {begun}, {ended})"
    );
    service.database.execute(&runs).await;
    // The scheduled audit finds the balances that something else has changed.
    for user in ["zoe", "zara"] {
        service.adjust(user, 1.0).await;
    }
    service.database.execute("UPDATE user_balance SET balance = balance + 1 WHERE user_id IN ('zoe', 'zara')").await;
    let clock = TestClock::real();
    let counted = Counted::all();
    let cron = runner(service.database.config(&SETTINGS), &clock, counted.stop.clone()).await;
    let report = cron.run_due(Job::Audit, &counted).await.unwrap().unwrap();
    let last = report.lines.last().unwrap();
    assert!(last.ends_with("2 differences"), "{:?}", report.lines);
}

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_tasks_of_an_operator_take_the_clicks_that_the_document_tells(#[values(MySql, Sqlite)] on: Backend) {
    let paying = Paying::start_with(on, &[&SETTINGS[..], &webhooks::SETTINGS].concat()).await;
    let (service, receiver) = (&paying.service, Receiver::start().await);
    prepare(&paying, on).await;
    receiver.answer("/a", |_, _| Answer::Status(500));
    let webhook =
        PutWebhookRequest { types: vec!["account.status".into()], ..put_request("hook", &receiver.url("/a")) };
    service.internal.clone().put_webhook(webhook).await.unwrap();
    let browser = Browser::open().await;
    browser.look(1_280, 900, "light").await;
    let first = format!("http://{}/console", service.app.grpc_addr);
    let mut operator = Operator { browser: &browser, first, clicks: 0, fields: 0, done: Vec::new() };

    operator.begin().await;
    operator.find("u").await;
    operator.follow("Records").await;
    operator.follow_in("0.045946", "").await;
    operator.sees(&["13,001", "0.026002", "2,493", "0.019944", "0.045946"]).await;
    operator.end("find why a user was charged 0.045946");

    operator.begin().await;
    operator.find("u").await;
    operator.follow("Records").await;
    operator.follow_in("0.045946", "").await;
    operator.follow("Refund").await;
    operator.fill("count", "7747").await;
    operator.fill("reason", "half of it").await;
    operator.confirm().await;
    operator.end("refund half of it");
    let (_, charge) = service.internal_get("/internal/v1/billing/transactions/u/call-2").await;
    assert_eq!(charge["refunded_amount"], 0.022973);

    for (choice, status, task) in [("Frozen", "FROZEN", "freeze an account"), ("Active", "ACTIVE", "unfreeze it")] {
        operator.begin().await;
        operator.find("u").await;
        operator.follow("Status").await;
        operator.click("", choice).await;
        operator.fill("reason", "disputed").await;
        operator.confirm().await;
        operator.end(task);
        assert_eq!(service.account("u").await.status, status);
    }

    operator.begin().await;
    operator.find("key-1").await;
    operator.follow("Change: Requests").await;
    operator.fill("limit", "500").await;
    operator.confirm().await;
    operator.end("raise the quota of an API key");
    let quotas = service.database.rows(&["quota_limit"], "FROM api_key_quota WHERE api_key_id = 'key-1'").await;
    assert_eq!(quotas, [["500"]]);

    operator.begin().await;
    operator.follow("Jobs").await;
    let of_job = async |job: &str| {
        let script = "return [...document.querySelectorAll('tbody tr')].map(row => row.innerText)";
        let rows = browser.run(script).await;
        let row = rows.as_array().unwrap().iter().filter_map(|row| row.as_str()).find(|row| row.starts_with(job));
        row.unwrap_or_else(|| panic!("{job}: {rows}")).to_owned()
    };
    let audit = of_job("audit").await;
    assert!(audit.contains("Differences") && audit.contains("differences: 2"), "{audit}");
    operator.end("see what the audit found");

    operator.begin().await;
    operator.follow("Unapplied payments").await;
    operator.follow_in("stray", "Credit to the account").await;
    operator.fill("user_id", "u").await;
    operator.fill("reason", "asked for").await;
    let before = service.account("u").await.balance;
    operator.confirm().await;
    operator.end("credit an unapplied payment");
    assert!((service.account("u").await.balance - before - 5.0).abs() < 1e-9);

    operator.begin().await;
    operator.follow("Prices").await;
    operator.follow("gpt-4.1").await;
    operator.follow("New version").await;
    operator.fill("input", "3").await;
    operator.confirm().await;
    operator.end("put a new price version");
    let (_, versions) = service.internal_get("/internal/v1/billing/prices?model=gpt-4.1").await;
    assert!(versions.to_string().contains("\"input\":3.0"), "{versions}");

    operator.begin().await;
    operator.follow("Jobs").await;
    let expired = of_job("expire-events").await;
    assert!(expired.contains("Done") && expired.contains("took 42 s"), "{expired}");
    operator.end("see the last run of a job");

    until("a delivery has failed", async || !deliveries(&service.internal, "hook", "failed").await.is_empty()).await;
    operator.begin().await;
    operator.follow("Webhooks").await;
    operator.follow_in("hook", "hook").await;
    receiver.answer("/a", |_, _| Answer::Status(200));
    operator.follow_in("status 500", "Send").await;
    operator.sees(&["The event will be sent once more."]).await;
    until("it arrives", async || !receiver.accepted("/a").is_empty()).await;
    operator.end("send a failed delivery of a webhook again");

    assert_eq!(operator.done, documented());
}

/// The form of an action, its choice, the other fields that are filled, and its rpc.
type Case<'c> = (&'c str, &'c str, &'c [(&'c str, &'c str)], &'c str);

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_action_is_made_in_a_browser(#[values(MySql, Sqlite)] on: Backend) {
    let paying =
        Paying::start_with(on, &[&SETTINGS[..], &[("billing.plans", "{gold: {multiplier: 2}}")]].concat()).await;
    let service = &paying.service;
    prepare(&paying, on).await;
    let order = paying.recharge("u", 12.0).await;
    paying.press(&order.payment_url, "SUCCESS").await;
    paying.until_order_is(&order.order_id, "success").await;
    let browser = Browser::open().await;
    browser.look(1_280, 900, "light").await;
    let mut operator = Operator { browser: &browser, first: String::new(), clicks: 0, fields: 0, done: Vec::new() };
    let why = ("reason", "as asked");
    let top_up = format!("refund-top-up?order_id={}", order.order_id);
    let cases: [Case<'_>; 12] = [
        ("open", "", &[("user_id", "newcomer")], "InitializeUser"),
        ("adjust?user_id=u", "", &[("amount", "2.5"), why], "AdjustBalance"),
        ("limits?user_id=u", "", &[("daily_limit", "600"), ("monthly_limit", "9000")], "SetUserLimits"),
        ("plan?user_id=u", "", &[("plan", "gold")], "SetUserPlan"),
        ("alerts?user_id=u", "", &[("balance_below", "5 0.25"), ("quota_percent", "50 90")], "SetAlerts"),
        ("key-quota?api_key_id=key-1", "", &[("limit", "99")], "SetApiKeyQuota"),
        ("status?user_id=u", "Frozen", &[why], "SetAccountStatus"),
        ("refund?user_id=u&trace_id=call-2", "", &[why], "RefundCharge"),
        (&top_up, "", &[("amount", "2"), why], "RefundRecharge"),
        ("resolve-payment?payment_order_id=stray", "Dismiss", &[why], "ResolvePayment"),
        (
            "price?model=gpt-4.1",
            "",
            &[("version_id", "v9"), ("effective_from", "2999-01-01T00:00:00"), ("input", "3")],
            "PutPriceVersion",
        ),
        ("delete-price?model=gpt-4.1&version_id=v9", "", &[], "DeletePriceVersion"),
    ];
    for (form, choice, fields, rpc) in cases {
        browser.go_to(&format!("http://{}/console/actions/{form}", service.app.grpc_addr)).await;
        if !choice.is_empty() {
            operator.click("", choice).await;
        }
        for (field, text) in fields {
            operator.fill(field, text).await;
        }
        operator.follow("Preview").await;
        operator.follow("Confirm").await;
        let (_, reply) = service.internal_get("/internal/v1/billing/audit-events?page_size=1").await;
        assert_eq!(reply["events"][0]["rpc"], rpc, "{form}");
        // The page of its event: made, or asked of the payment service.
        let title = browser.text("main h1").await;
        assert!(["Done", "Audit event"].contains(&title.as_str()), "{form}: {title}");
        assert_eq!(browser.complaints().await, Vec::<String>::new(), "{form}");
    }
}
