//! New price versions.

use futures_util::future::join_all;
use rstest::rstest;

use super::{
    actions::{confirm, confirmation, events, previewed},
    visitor::Visitor,
};
use crate::harness::{Backend, MySql, Sqlite};

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
