//! New price versions: of two that are confirmed at once, and their cost for the calls of yesterday.

use billing_service::service::proto::{DeductQuotaRequest, Usage};
use chrono::TimeDelta;
use futures_util::future::join_all;
use rstest::rstest;

use super::{
    OPEN,
    actions::{confirm, confirmation, events, previewed},
    visitor::{Shown, Visitor},
};
use crate::harness::{Backend, Database, MySql, Service, Sqlite, TestClock, charge, wait::until};

/// The preview of a version with its cost. A busy machine may need several.
pub async fn quoted(operator: &Visitor, fields: &[(&str, &str)]) -> Shown {
    let mut preview = None;
    until("the cost is read in time", async || {
        let shown = previewed(operator, "price", fields).await;
        let text = shown.text();
        // Without the time for a count, the number of all entries is a question mark.
        let is_read = !text.contains("The cost could not be read in time") && !text.contains(" / ?");
        preview = Some(shown);
        is_read
    })
    .await;
    preview.unwrap()
}

/// Pairs of confirmations. Without a comparison under lock, both of many pairs are made.
const PAIRS: usize = 12;

#[rstest]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_versions_that_are_confirmed_at_once_one_is_shown_beside_the_other(
    #[values(MySql, Sqlite)] on: Backend,
) {
    let service = super::open(on).await;
    let operator = Visitor::of_operators(&service);
    for pair in 0..PAIRS {
        let instants = [0, 30].map(|second| format!("2999-01-01T00:{pair:02}:{second:02}"));
        let mut sent = Vec::new();
        for from in &instants {
            let fields = [("model", "gpt-4.1"), ("effective_from", from.as_str()), ("input", "3"), ("output", "9")];
            let preview = previewed(&operator, "price", &fields).await;
            assert_eq!(preview.status, 200, "{}", preview.text());
            sent.push(confirmation(&preview, "price"));
        }
        let before = events(&service).await.len();
        let answers = join_all(sent.iter().map(|fields| confirm(&operator, "price", fields))).await;
        let mut statuses: Vec<u16> = answers.iter().map(|answer| answer.status).collect();
        statuses.sort_unstable();
        assert_eq!((statuses, events(&service).await.len()), (vec![303, 409], before + 1), "pair {pair}");
        let stale = answers.iter().find(|answer| answer.status == 409).unwrap();
        assert!(stale.text().contains("the state has changed since the preview"), "{}", stale.text());
        let made = confirm(&operator, "price", &confirmation(stale, "price")).await;
        assert_eq!((made.status, events(&service).await.len()), (303, before + 2), "{}", made.text());
    }
}

#[rstest]
#[tokio::test]
async fn the_calls_of_yesterday_that_came_by_an_alias_are_in_the_quote(#[values(MySql, Sqlite)] on: Backend) {
    let models = "{gpt-4.1: {input: 2, output: 8, aliases: ['gpt-4.1-2025*', large]}, \
                  tiny: {input: 1, output: 1, aliases: [small]}}";
    let settings: Vec<_> = OPEN.into_iter().filter(|(key, _)| *key != "billing.models").collect();
    let settings = [&settings[..], &[("billing.models", models)]].concat();
    let database = Database::create(on).await;
    let (clock, config) = (TestClock::real(), database.config(&settings));
    let service = Service::start_with_clock(database, config, clock.clone()).await;
    // Two users, each call of 3,001 input and 777 output tokens: 0.012218 at 2 and 8, 0.003778 at 1 and 1.
    for (user, model) in [("alice", "gpt-4.1"), ("alice", "gpt-4.1-2025-04-14"), ("bob", "large"), ("bob", "small")] {
        service.adjust(user, 5.0).await;
        let usage = Usage { input_tokens: 3_001, output_tokens: 777, ..Default::default() };
        let call = DeductQuotaRequest { model: model.into(), usage: Some(usage), ..charge(user, "llm", 1) };
        service.deduct(DeductQuotaRequest { trace_id: format!("of {model}"), ..call }).await;
    }
    for user in ["alice", "bob"] {
        // A read brings the use by model up to date.
        let (status, _) = service.get(&format!("/api/v1/billing/usage?user_id={user}&group_by=model")).await;
        assert_eq!(status, 200);
    }
    clock.advance(TimeDelta::days(1));
    let operator = Visitor::of_operators(&service);
    for (aliases, parts) in [
        // At 4 and 16, twice the present prices.
        (
            "gpt-4.1-2025* large",
            &["Calls 3", "At the prices in force 0.036654", "At the new prices 0.073308", "gpt-4.1-2025-04-14, large"]
                [..],
        ),
        // It takes a name over from another model.
        ("gpt-4.1-2025* large small", &["Calls 4", "At the prices in force 0.040432", "At the new prices 0.097744"]),
        // It gives a name up that no other model has.
        (
            "gpt-4.1-2025*",
            &[
                "Calls 3",
                "At the prices in force 0.036654",
                "At the new prices 0.048872",
                "Calls without a price then 1",
            ],
        ),
    ] {
        let fields = [
            ("model", "gpt-4.1"),
            ("effective_from", "2999-01-01T00:00:00"),
            ("input", "4"),
            ("output", "16"),
            ("aliases", aliases),
        ];
        let preview = quoted(&operator, &fields).await.text();
        for part in parts {
            assert!(preview.contains(part), "{aliases}: {part}: {preview}");
        }
    }
}

/// The use of a day: a call of each of many names, and many of the model's own name, each of 1,000 input tokens. That is
/// 0.002 at a price of 2.
async fn use_of_day(service: &Service, day: &str, aliases: usize, own: usize) {
    let names = (0..aliases).map(|at| format!("a-{at:03}")).chain((0..own).map(|_| "gpt-4.1".to_owned()));
    let rows = names.enumerate().map(|(at, name)| {
        format!("('user{at}', '{day}', 1, 'llm', '{name}', '', 1, 0, 1, 0, 0, 0, 1, 0, 0, 1000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)")
    });
    let columns = "user_id, usage_date, part, service_name, model, api_key_id, calls, free_count, paid_count, refunded_free, \
                   refunded_paid, free_records, paid_records, free_refunds, paid_refunds, input_tokens, cached_input_tokens, \
                   cache_write_tokens, cache_write_1h_tokens, audio_input_tokens, output_tokens, reasoning_tokens, \
                   audio_output_tokens, images, amount, refunded_amount";
    let rows = rows.collect::<Vec<_>>().join(", ");
    service.database.execute(&format!("INSERT INTO usage_by ({columns}) VALUES {rows}")).await;
}

#[rstest]
// 500 names: the own one, that of an alias without calls, and the first 498 others, which have no price yet.
#[case::names(501, 10, ["Calls 508", "At the prices in force 0.02", "At the new prices 2.032", "508 / 508"])]
#[case::entries(3, 2_300, ["Calls 2,003", "At the prices in force 4", "At the new prices 8.012", "2,003 / 2,303"])]
#[tokio::test]
async fn a_quote_of_much_use_has_the_own_name_of_the_model_and_tells_its_part(
    #[values(MySql, Sqlite)] on: Backend,
    #[case] aliases: usize,
    #[case] own: usize,
    #[case] parts: [&str; 4],
) {
    let database = Database::create(on).await;
    let (clock, config) = (TestClock::real(), database.config(&OPEN));
    clock.set("2026-11-20T04:00:00Z");
    let service = Service::start_with_clock(database, config, clock).await;
    use_of_day(&service, "2026-11-19", aliases, own).await;
    let operator = Visitor::of_operators(&service);
    let fields = [
        ("model", "gpt-4.1"),
        ("effective_from", "2999-01-01T00:00:00"),
        ("input", "4"),
        ("output", "16"),
        ("aliases", "a-* large"),
    ];
    let preview = quoted(&operator, &fields).await.text();
    for part in parts.iter().chain(&["The day has more use than is summed here"]) {
        assert!(preview.contains(part), "{part}: {preview}");
    }
}
