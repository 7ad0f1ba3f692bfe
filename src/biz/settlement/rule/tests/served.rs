//! Reservations that another model served, and calls of users with a plan.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::account::{TestAccount, calls, commit_with, reported, tokens, units, yuan};
use crate::biz::{
    audit_trail::SET_USER_PLAN,
    charge::prices::{Alias, Class, Draft, PlanPrices, PriceBook, PriceVersion},
    settlement::posting::{Charge, Commit, PlanChange, Posting, Served},
    values::{
        ids::{ModelName, PlanName, PriceVersionId, ServiceTier, TraceId},
        money::Money,
    },
};

/// A version of a model, with the prices of one token and a batch at half of them.
fn version(id: &str, input: &str, output: &str) -> PriceVersion {
    version_of(id, input, output, &[("batch", "0.5")])
}

fn version_of(id: &str, input: &str, output: &str, service_tiers: &[(&str, &str)]) -> PriceVersion {
    let million = |price: &str| Some(Money::from_micros(yuan(price).micros() * 1_000_000));
    let mut draft = Draft::default();
    draft.given[Class::Input as usize] = million(input);
    draft.given[Class::Output as usize] = million(output);
    for (name, factor) in service_tiers {
        draft.service_tiers.insert(ServiceTier::from_stored(*name), factor.parse().unwrap());
    }
    PriceVersion::new(PriceVersionId::from_stored(id), draft.check().unwrap())
}

fn served(model: &str) -> Served {
    let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
    let mut book = PriceBook::default();
    for (model, from, version) in [
        ("other", "2026-11-01T00:00:00Z", version("other-1", "3", "12")),
        // After the reserve of these cases.
        ("other", "2026-11-30T05:00:00Z", version("other-2", "100", "100")),
        ("m", "2026-11-01T00:00:00Z", version("m-2", "100", "100")),
        ("plain", "2026-11-01T00:00:00Z", version_of("plain-1", "3", "12", &[])),
    ] {
        book.set(ModelName::from_stored(model), at(from), Ok(version));
    }
    Served { model: ModelName::from_stored(model), book: Arc::new(book) }
}

fn commit_served(model: &str, input: u32, output: u32) -> Commit {
    Commit { served: Some(served(model)), ..commit_with(input, output) }
}

fn lines(account: &TestAccount) -> Vec<String> {
    let transaction = account.transaction();
    let lines = transaction.price_lines();
    assert_eq!(lines.iter().map(|line| line.amount).sum::<Money>(), transaction.amount);
    let text =
        |line: &crate::biz::charge::prices::PriceLine| format!("{} {} = {}", line.class, line.units, line.amount);
    lines.iter().map(text).collect()
}

#[test]
fn the_version_of_the_served_model_at_the_reserve_prices_a_commit() {
    let mut account = TestAccount::with("200");
    account.reserve(calls(5, 3, 1));
    account.pass(chrono::TimeDelta::hours(2));
    // Four of the five calls are free.
    assert_eq!(account.settle(commit_served("other", 3, 2)), "charged 4 free, 1 paid for 6.6");
    let transaction = account.transaction();
    assert_eq!(transaction.priced_by().unwrap().id.as_str(), "other-1");
    assert_eq!(transaction.content.model.as_ref().unwrap().as_str(), "m");
    let delivered = transaction.reservation.as_ref().unwrap().delivered.clone().unwrap();
    assert_eq!(delivered.model.unwrap().as_str(), "other");
    assert_eq!(lines(&account), ["input 3 = 9", "output 2 = 24", "free_quota 4 = -26.4"]);
    assert_eq!(account.settle(commit_served("other", 3, 2)), "found: charged 4 free, 1 paid for 6.6");
    let refused = "refused: trace_id was used before with other content; these fields differ: model";
    assert_eq!(account.settle(commit_with(3, 2)), refused);
}

#[test]
fn the_reserved_model_keeps_its_pinned_version() {
    let account = TestAccount::with("200");
    account.reserve(calls(5, 3, 1));
    assert_eq!(account.settle(commit_served("m", 3, 2)), "charged 4 free, 1 paid for 1.4");
    assert_eq!(account.transaction().priced_by().unwrap().id.as_str(), "v");
}

/// The configured prices of the reserved model were edited, and the server was started again.
#[test]
fn another_name_of_the_reserved_model_keeps_its_pinned_version() {
    let named = |model: &str, aliases: &[&str]| {
        let mut draft = version("m-edited", "100", "100").prices.draft();
        draft.aliases = aliases.iter().map(|alias| Alias::parse(alias).unwrap()).collect();
        let edited = PriceVersion::new(PriceVersionId::from_stored("m-edited"), draft.check().unwrap());
        let mut book = PriceBook::default();
        book.set(ModelName::from_stored("m"), DateTime::UNIX_EPOCH, Ok(edited));
        Served { model: ModelName::from_stored(model), book: Arc::new(book) }
    };
    for (model, aliases, answer) in [
        ("m-2026", &["m-*"][..], "charged 4 free, 1 paid for 1.4"),
        ("m", &["m-*"], "charged 4 free, 1 paid for 1.4"),
        ("m-2026", &[], "refused: model: \"m-2026\" has no price"),
    ] {
        let account = TestAccount::with("200");
        account.reserve(calls(5, 3, 1));
        let commit = || Commit { served: Some(named(model, aliases)), ..commit_with(3, 2) };
        assert_eq!(account.settle(commit()), answer, "{model} {aliases:?}");
        if answer.starts_with("charged") {
            assert_eq!(account.transaction().priced_by().unwrap().id.as_str(), "v");
            assert_eq!(account.settle(commit()), format!("found: {answer}"));
        }
    }
    // The reserve named the model by an alias.
    let account = TestAccount::with("200");
    let mut reserve = account.reserve_of(calls(5, 3, 1));
    reserve.call.content.model = Some(ModelName::from_stored("m-2026"));
    account.settle(reserve);
    let commit = Commit { served: Some(named("m", &["m-*"])), ..commit_with(3, 2) };
    assert_eq!(account.settle(commit), "charged 4 free, 1 paid for 1.4");
}

#[test]
fn a_served_model_is_priced_in_the_plan_of_the_reserve() {
    let account = TestAccount::with("200");
    let pro = PlanName::from_stored("pro");
    let mut reserve = account.reserve_of(calls(5, 3, 1));
    reserve.call.quote.as_mut().unwrap().plan = Some(pro);
    account.settle(reserve);
    let Served { model, book } = served("other");
    let mut book = (*book).clone();
    book.add_plan(pro, PlanPrices { multiplier: "1.2".parse().unwrap(), models: PriceBook::default() });
    let served = Some(Served { model, book: Arc::new(book) });
    let commit = Commit { served, service_tier: Some(ServiceTier::from_stored("batch")), ..commit_with(3, 2) };
    // (3 * 3 + 2 * 12) * 0.5 * 1.2 for five calls, of which four are free.
    assert_eq!(account.settle(commit), "charged 4 free, 1 paid for 3.96");
}

#[test]
fn a_served_model_without_a_price_is_refused_and_the_hold_stays() {
    let account = TestAccount::with("200");
    account.reserve(calls(5, 3, 1));
    let held = account.state_of("calls");
    assert_eq!(account.settle(commit_served("none", 3, 2)), "refused: model: \"none\" has no price");
    assert_eq!(account.state_of("calls"), held);
    assert_eq!(account.settle(commit_with(3, 2)), "charged 4 free, 1 paid for 1.4");
}

#[test]
fn a_service_that_no_model_prices_only_keeps_the_model() {
    let account = TestAccount::with("20");
    account.reserve(units(6));
    assert_eq!(account.settle(commit_served("none", 3, 2)), "charged 4 free, 2 paid for 2");
    assert_eq!(lines(&account), ["unit 2 = 2"]);
}

#[test]
fn a_commit_names_the_service_tier_that_it_got() {
    let account = TestAccount::with("200");
    account.reserve(calls(5, 3, 1));
    let tier = |name: &str| Some(ServiceTier::from_stored(name));
    let of = |name: &str| Commit { service_tier: tier(name), ..commit_served("other", 3, 2) };
    let unknown = of("flex");
    assert_eq!(account.settle(unknown), "refused: service_tier: \"flex\" is none of this model (batch)");
    assert_eq!(account.settle(of("batch")), "charged 4 free, 1 paid for 3.3");
    assert_eq!(account.settle(of("batch")), "found: charged 4 free, 1 paid for 3.3");
}

/// Reserves five calls of "m" as a batch.
fn reserve_a_batch(account: &TestAccount) {
    let mut reserve = account.reserve_of(calls(5, 3, 1));
    reserve.call.content.service_tier = Some(ServiceTier::from_stored("batch"));
    let quote = reserve.call.quote.as_mut().unwrap();
    quote.version = Some(version("m-1", "1", "2"));
    assert_eq!(account.settle(reserve), "holds 4 free and 1");
}

#[test]
fn a_served_model_without_the_service_tier_of_the_reserve_costs_as_without_one() {
    for (model, answer, version, service_tier) in [
        ("m", "charged 4 free, 1 paid for 0.7", "m-1", Some("batch")),
        ("other", "charged 4 free, 1 paid for 3.3", "other-1", Some("batch")),
        ("plain", "charged 4 free, 1 paid for 6.6", "plain-1", None),
    ] {
        let account = TestAccount::with("200");
        reserve_a_batch(&account);
        assert_eq!(account.settle(commit_served(model, 3, 2)), answer, "{model}");
        assert_eq!(account.transaction().priced_by().unwrap().id.as_str(), version);
        assert_eq!(account.transaction().service_tier().map(ServiceTier::as_str), service_tier);
        assert_eq!(account.transaction().price_lines().len(), 3, "the lines of both classes and the free quota");
        assert_eq!(lines(&account).last().unwrap().split(' ').next(), Some("free_quota"));
        assert_eq!(account.settle(commit_served(model, 3, 2)), format!("found: {answer}"));
    }
    let account = TestAccount::with("200");
    reserve_a_batch(&account);
    let named = Commit { service_tier: Some(ServiceTier::from_stored("batch")), ..commit_served("plain", 3, 2) };
    assert_eq!(account.settle(named), "refused: service_tier: \"batch\" is none of this model (none)");
}

#[test]
fn a_commit_with_a_cost_needs_no_price_of_the_served_model() {
    let account = TestAccount::with("200");
    account.reserve(calls(5, 3, 1));
    let paid = |cost: &str| Commit { cost: Some(yuan(cost)), ..commit_served("none", 3, 2) };
    assert_eq!(account.settle(paid("10")), "charged 4 free, 1 paid for 2");
    assert_eq!(account.transaction().priced_by(), None);
    assert_eq!(account.settle(paid("10")), "found: charged 4 free, 1 paid for 2");

    // The same for an addition to a reported charge.
    let account = TestAccount::with("200");
    account.reserve(tokens(3, 1));
    account.settle(reported(3, 2));
    account.settle(super::account::break_off(1, None));
    let answer = account.settle(paid("10"));
    assert_eq!(answer, "added 0 free, 0 paid for 0.6, 0 short: charged 4 free, 1 paid for 2");
}

#[test]
fn a_finish_may_add_the_served_model_to_a_reported_charge() {
    let account = TestAccount::with("200");
    account.reserve(tokens(3, 1));
    account.settle(reported(3, 2));
    account.settle(super::account::break_off(1, None));
    assert_eq!(account.transaction().amount, yuan("1.4"));
    let answer = account.settle(commit_served("other", 3, 2));
    assert_eq!(answer, "added 0 free, 0 paid for 5.2, 0 short: charged 4 free, 1 paid for 6.6");
    assert_eq!(account.transaction().priced_by().unwrap().id.as_str(), "other-1");
}

#[test]
fn a_stream_that_breaks_after_the_text_of_a_served_model_keeps_that_model() {
    let account = TestAccount::with("200");
    account.reserve(tokens(3, 1));
    account.settle(reported(3, 2));
    let text = Commit { counted_output: Some(1), usage: None, ..commit_served("other", 3, 1) };
    assert_eq!(account.settle(text), "charged 4 free, 1 paid for 6.6");
    account.settle(super::account::break_off(1, Some(super::account::usage(3, 3))));
    let transaction = account.transaction();
    assert_eq!((transaction.amount, transaction.priced_by().unwrap().id.as_str()), (yuan("15"), "other-1"));
    let delivered = transaction.reservation.as_ref().unwrap().delivered.clone().unwrap();
    assert_eq!(delivered.model.unwrap().as_str(), "other");
}

#[test]
fn a_finish_keeps_the_model_and_the_service_tier_of_the_text_before_it() {
    let text = || Commit {
        counted_output: Some(1),
        usage: None,
        service_tier: Some(ServiceTier::from_stored("batch")),
        ..commit_served("other", 3, 1)
    };
    for (finish, answer, model, priced_by) in [
        (commit_with(3, 2), "found: charged 4 free, 1 paid for 3.3", "other", "other-1"),
        // (3 * 3 + 4 * 12) * 0.5 for three of seven tokens.
        (
            commit_with(3, 4),
            "added 0 free, 2 paid for 8.914286, 0 short: charged 4 free, 3 paid for 12.214286",
            "other",
            "other-1",
        ),
        (
            commit_served("other", 3, 4),
            "added 0 free, 2 paid for 8.914286, 0 short: charged 4 free, 3 paid for 12.214286",
            "other",
            "other-1",
        ),
        // (3 + 4) * 100 * 0.5 for three of seven tokens: the reserved model served the rest after all.
        (
            commit_served("m", 3, 4),
            "added 0 free, 2 paid for 146.7, 0 short: charged 4 free, 3 paid for 150",
            "m",
            "m-2",
        ),
    ] {
        let account = TestAccount::with("400");
        account.reserve(tokens(3, 1));
        account.settle(reported(3, 2));
        assert_eq!(account.settle(text()), "charged 4 free, 1 paid for 3.3");
        assert_eq!(account.settle(text()), "found: charged 4 free, 1 paid for 3.3");
        assert_eq!(account.settle(finish.clone()), answer);
        let transaction = account.transaction();
        assert_eq!(transaction.served_model().unwrap().as_str(), model);
        assert_eq!(transaction.priced_by().unwrap().id.as_str(), priced_by);
        assert_eq!(transaction.service_tier().unwrap().as_str(), "batch");
        assert!(account.settle(finish).starts_with("found: charged 4 free"));
    }
}

#[test]
fn a_finish_by_a_model_without_the_service_tier_of_the_text_costs_as_without_one() {
    let text = Commit {
        counted_output: Some(1),
        usage: None,
        service_tier: Some(ServiceTier::from_stored("batch")),
        ..commit_served("other", 3, 1)
    };
    let account = TestAccount::with("400");
    account.reserve(tokens(3, 1));
    account.settle(reported(3, 2));
    assert_eq!(account.settle(text), "charged 4 free, 1 paid for 3.3");
    // 3 * 3 + 4 * 12 for three of seven tokens.
    let finished = "added 0 free, 2 paid for 21.128571, 0 short: charged 4 free, 3 paid for 24.428571";
    assert_eq!(account.settle(commit_served("plain", 3, 4)), finished);
    assert_eq!(account.transaction().service_tier(), None);
}

#[test]
fn an_earlier_charge_that_the_delivery_does_not_explain_has_a_line() {
    let account = TestAccount::with("200");
    let of_free_quota = account.charge_of(tokens(4, 0));
    account.settle(Charge { trace: TraceId::from_stored("before"), ..of_free_quota });
    account.reserve(tokens(3, 1));
    account.settle(reported(3, 2));
    account.settle(super::account::break_off(1, None));
    assert_eq!(lines(&account), ["input 3 = 3", "output 2 = 4"]);
    let answer = account.settle(commit_with(6, 0));
    assert_eq!(answer, "added 0 free, 1 paid for 0, 0 short: charged 0 free, 6 paid for 7");
    assert_eq!(lines(&account), ["input 6 = 6", "earlier_charge 0 = 1"]);
}

fn set_plan(plan: Option<&str>) -> Posting {
    let plan = plan.map(PlanName::from_stored);
    Posting::SetPlan(PlanChange {
        user: super::account::user(),
        plan,
        call: super::histories::postings::call(SET_USER_PLAN),
    })
}

#[test]
fn a_plan_is_set_once_and_leaves_an_event() {
    let account = TestAccount::with("20");
    assert_eq!(account.settle(set_plan(Some("pro"))), "set");
    assert_eq!(account.settle(set_plan(Some("pro"))), "unchanged");
    assert_eq!(account.settle_all([set_plan(None), set_plan(Some("pro")), set_plan(None)]), ["set"; 3]);
    let repeated = set_plan(Some("pro"));
    assert_eq!(account.settle_all([repeated.clone(), repeated]), ["set"; 2]);
    assert_eq!(account.books.balance(&super::account::user()).plan, Some(PlanName::from_stored("pro")));
}
