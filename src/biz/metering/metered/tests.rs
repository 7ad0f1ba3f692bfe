use chrono::{DateTime, TimeDelta, Utc};
use uuid::Uuid;

use super::*;
use crate::biz::{
    account::catalog::QuotaUnit,
    charge::prices::{Class, Draft, Given, PriceList, PriceVersion},
    settlement::{
        refund::RefundedPart,
        transaction::{ChargeContent, ChargedBy},
    },
    values::ids::{PriceVersionId, ServiceName, TraceId, UserId},
};

const SETTINGS: StreamTimeouts = StreamTimeouts {
    ttl: TimeDelta::minutes(10),
    progress: Duration::from_secs(1),
    grace: Duration::from_secs(5),
    idle_timeout: Duration::from_secs(60),
};

fn yuan(amount: i64) -> Money {
    Money::from_micros(amount * 1_000_000)
}

fn usage(input_tokens: u32, output_tokens: u32) -> Usage {
    Usage::of_text(input_tokens, output_tokens)
}

/// A reservation of an estimated 3 input tokens at one yuan a token, with `held` yuan held.
fn reserved(held: i64, reported: Option<Usage>) -> Transaction {
    let dear = PriceList::flat(yuan(1_000_000), None, yuan(1_000_000));
    Transaction {
        user: UserId::from_stored("u"),
        trace: TraceId::from_stored("t"),
        content: ChargeContent {
            service: ServiceName::from_stored("llm"),
            count: 1,
            cost: None,
            api_key: None,
            model: None,
            usage: None,
            estimate: Some(usage(3, 20)),
            service_tier: None,
        },
        status: Status::Pending,
        quota_unit: QuotaUnit::Calls,
        price_version: Some(PriceVersion::new(PriceVersionId::from_stored("v"), dear)),
        plan: None,
        reservation: Some(Reservation {
            free: 0,
            amount: yuan(held),
            full_cost: yuan(23),
            expires_at: DateTime::<Utc>::UNIX_EPOCH,
            day: DateTime::<Utc>::UNIX_EPOCH.date_naive(),
            late_day: None,
            reported,
            reports: None,
            delivered: None,
            charged_by: ChargedBy::Commit,
        }),
        free: 0,
        paid: 0,
        amount: Money::ZERO,
        shortfall: Money::ZERO,
        record_id: Uuid::nil(),
        refunded: RefundedPart::default(),
        balance_after: Money::ZERO,
        free_remaining_after: 0,
        created_at: DateTime::UNIX_EPOCH,
    }
}

/// A stream with `counted` delivered tokens.
fn metered(held: i64, counted: usize) -> Metered {
    let mut metered = Metered::new(reserved(held, None));
    metered.set_counted(counted);
    metered
}

fn sent(report: &Report) -> Sent {
    Sent { target: report.target, stop: report.stop }
}

/// Sends the report that is due by `at`, and answers it with `held` yuan held. Returns its target.
fn report(metered: &mut Metered, at: Instant, held: i64) -> Option<Option<Usage>> {
    let report = metered.due_report(at, &SETTINGS)?;
    metered.set_reported(sent(&report), Ok((reserved(held, report.usage), false))).unwrap();
    Some(report.target)
}

#[test]
fn new_output_is_reported_once_per_interval() {
    let mut metered = metered(23, 5);
    let now = metered.reported_at;
    assert_eq!(report(&mut metered, now, 23), None);
    let later = now + SETTINGS.progress;
    assert_eq!(report(&mut metered, later, 23), Some(None));
    assert_eq!(metered.state().durable_output_tokens, 5);
    assert_eq!(report(&mut metered, later + SETTINGS.progress * 10, 23), None, "nothing is new");
    metered.set_counted(6);
    assert_eq!(report(&mut metered, later + SETTINGS.progress, 23), Some(None));
}

#[test]
fn a_hold_is_renewed_before_it_runs_out() {
    let mut metered = metered(23, 0);
    let half = metered.reported_at + Duration::from_secs(5 * 60);
    assert_eq!(metered.next_report(&SETTINGS), Some(half));
    // Also if the report interval is longer than that.
    let rare = StreamTimeouts { progress: Duration::from_secs(3_600), ..SETTINGS };
    metered.set_counted(1);
    assert_eq!(metered.next_report(&rare), Some(half));
}

#[test]
fn a_short_hold_grows_at_once_and_then_waits() {
    let mut metered = metered(23, 18);
    let now = metered.reported_at;
    // 18 output and 3 input tokens are 21; half a step more is 24.
    assert_eq!(report(&mut metered, now, 27), Some(Some(usage(3, 18 + 6))));
    assert_eq!(report(&mut metered, now, 27), None, "covered");
    metered.set_counted(21);
    // The report asks for 31, and the hold stays at 27.
    assert_eq!(report(&mut metered, now, 27), Some(Some(usage(3, 21 + 7))));
    assert!(!metered.state().stop, "three more are covered");
    assert_eq!(report(&mut metered, now, 27), None);
    assert_eq!(report(&mut metered, now + SETTINGS.progress, 27), Some(Some(usage(3, 28))));
}

#[test]
fn stop_is_set_while_another_token_is_not_covered() {
    let mut metered = metered(23, 20);
    let now = metered.reported_at;
    assert!(!metered.state().stop, "no report was sent yet");
    report(&mut metered, now, 23);
    assert!(metered.state().stop);
    assert_eq!(metered.comparable(), None, "the vendor may count on");
    report(&mut metered, now + SETTINGS.progress, 40);
    assert!(!metered.state().stop);
}

#[test]
fn a_stop_is_told_at_once_and_again_until_a_report_has_told_it() {
    let mut metered = metered(23, 20);
    let now = metered.reported_at;
    report(&mut metered, now, 23);
    metered.state();
    let first = metered.stop().unwrap();
    assert_eq!(first.output_tokens, 20);
    metered.state();
    assert_eq!(metered.stop(), Some(first), "one stop, however often the gateway is told");
    // The report of the stop does not wait for the interval.
    let failed = metered.due_report(now, &SETTINGS).unwrap();
    assert_eq!(failed.stop, Some(first));
    metered.set_reported(sent(&failed), Err(Error::Overloaded("down".into()))).unwrap();
    assert!(metered.due_report(now, &SETTINGS).is_none(), "an outage is not asked at once again");
    let again = metered.due_report(now + SETTINGS.progress, &SETTINGS).unwrap();
    assert_eq!(again.stop, Some(first));
    metered.set_reported(sent(&again), Ok((reserved(23, again.usage), false))).unwrap();
    assert!(metered.state().stop);
    assert_eq!(metered.stop(), None, "the stop goes on, and is known");
    // More money, and its end.
    report(&mut metered, now + SETTINGS.progress * 2, 26).unwrap();
    assert!(!metered.state().stop);
    metered.set_counted(23);
    assert!(metered.state().stop);
    assert_ne!(metered.stop().unwrap().id, first.id);
}

#[test]
fn a_stream_that_is_opened_again_has_the_same_stop_until_its_hold_grows() {
    let stop_of = |held: i64, stream: u128| {
        let reservation = Transaction { record_id: Uuid::from_u128(stream), ..reserved(held, None) };
        let mut metered = Metered::new(reservation);
        metered.set_counted(20);
        let now = metered.reported_at;
        let target = metered.due_report(now, &SETTINGS).unwrap().target;
        let after = Transaction { record_id: Uuid::from_u128(stream), ..reserved(held, None) };
        metered.set_reported(Sent { target, stop: None }, Ok((after, false))).unwrap();
        assert!(metered.state().stop);
        metered.stop().unwrap().id
    };
    assert_eq!(stop_of(23, 1), stop_of(23, 2));
    assert_ne!(stop_of(23, 1), stop_of(22, 1));
}

#[test]
fn a_stop_during_an_earlier_report_is_told_by_the_next_one() {
    let mut metered = metered(23, 18);
    let now = metered.reported_at;
    report(&mut metered, now, 23);
    let earlier = metered.due_report(now + SETTINGS.progress, &SETTINGS).unwrap();
    metered.set_counted(20);
    assert!(metered.state().stop);
    metered.set_reported(sent(&earlier), Ok((reserved(23, earlier.usage), false))).unwrap();
    let next = metered.due_report(now + SETTINGS.progress, &SETTINGS).unwrap();
    assert_eq!(next.stop, metered.stop());
    assert!(next.stop.is_some());
}

#[test]
fn an_outage_alone_is_no_stop_for_want_of_funds() {
    let mut metered = metered(23, 20);
    let report = metered.due_report(metered.reported_at, &SETTINGS).unwrap();
    metered.set_reported(sent(&report), Err(Error::Overloaded("down".into()))).unwrap();
    assert!(metered.state().stop);
    assert_eq!(metered.stop(), None);
}

#[test]
fn while_reports_fail_the_hold_is_the_limit() {
    let mut metered = metered(23, 5);
    let now = metered.reported_at;
    let outage = || Err(Error::Overloaded("down".into()));
    metered.due_report(now + SETTINGS.progress, &SETTINGS).unwrap();
    metered.set_reported(Sent::default(), outage()).unwrap();
    assert!(!metered.state().stop);
    assert!(metered.due_report(now + SETTINGS.progress, &SETTINGS).is_none(), "not at once");
    metered.set_counted(20);
    assert!(metered.state().stop);
    assert!(metered.due_report(now + SETTINGS.progress * 2, &SETTINGS).is_some());
}

#[test]
fn the_usage_of_the_vendor_replaces_the_estimate() {
    let mut metered = metered(23, 4);
    assert_eq!(metered.usage(), usage(3, 4));
    metered.set_upstream(usage(0, 6)).unwrap();
    assert_eq!(metered.usage(), usage(3, 6), "the vendor reported no input");
    metered.set_upstream(usage(9, 1)).unwrap();
    assert_eq!(metered.usage(), usage(9, 4));
    metered.set_upstream(usage(0, 6)).unwrap();
    assert_eq!(metered.usage(), usage(9, 6), "the vendor reported the input before");
    metered.set_upstream(usage(0, 0)).unwrap();
    assert_eq!(metered.usage(), usage(9, 6), "a usage of zero is ignored");
    metered.set_upstream(usage(u32::MAX, u32::MAX)).unwrap_err();
    assert_eq!(metered.usage(), usage(9, 6), "a usage that can't be priced is refused");
}

#[test]
fn nothing_is_delivered_until_a_count_is_known() {
    let mut metered = metered(23, 0);
    assert_eq!(metered.delivered(), None);
    metered.set_upstream(usage(9, 0)).unwrap();
    assert_eq!(metered.delivered(), Some(usage(9, 0)));
    // A stream that is opened again continues from its last report.
    assert_eq!(Metered::new(reserved(23, Some(usage(9, 7)))).delivered(), Some(usage(9, 7)));
}

#[test]
fn a_stream_that_the_sweep_ended_can_still_be_charged() {
    let mut metered = metered(23, 4);
    metered.set_reported(Sent::default(), Err(Error::TransactionState("taken over".into()))).unwrap_err();
    assert!(metered.is_gone());
    let expired = Transaction { status: Status::Expired, ..reserved(23, None) };
    metered.set_reported(Sent::default(), Ok((expired, true))).unwrap_err();
    assert!(!metered.is_gone());
}

/// A stream whose tokens cost one yuan, those of reasoning three, and all of a call with more than 10 tokens
/// of input twice as much.
fn tiered(held: i64) -> Metered {
    let million = |yuans: i64| Some(yuan(yuans * 1_000_000));
    let mut draft = Draft::default();
    let given = |factor: i64, given: &mut Given| {
        given[Class::Input as usize] = million(factor);
        given[Class::Output as usize] = million(factor);
        given[Class::Reasoning as usize] = million(3 * factor);
    };
    given(1, &mut draft.given);
    let mut tier = Given::default();
    given(2, &mut tier);
    draft.tiers.push((10, tier));
    let version = PriceVersion::new(PriceVersionId::from_stored("v"), draft.check().unwrap());
    Metered::new(Transaction { price_version: Some(version), ..reserved(held, None) })
}

#[test]
fn a_stream_that_crosses_a_tier_is_priced_anew_as_a_whole() {
    let mut metered = tiered(31);
    metered.set_counted(5);
    assert_eq!(metered.state().amount, yuan(8));
    let now = metered.reported_at;
    assert_eq!(report(&mut metered, now, 31), None, "covered");
    metered.set_upstream(usage(10, 5)).unwrap();
    assert_eq!(metered.state().amount, yuan(15));
    metered.set_upstream(usage(11, 5)).unwrap();
    assert_eq!(metered.state().amount, yuan(32));
    let target = metered.due_report(now, &SETTINGS).unwrap().target;
    assert_eq!(target, Some(usage(11, 5 + 3)), "the hold has to grow at once");
    let held = Transaction { price_version: metered.reservation().price_version.clone(), ..reserved(33, None) };
    metered.set_reported(Sent { target, stop: None }, Ok((held, false))).unwrap();
    assert!(metered.state().stop, "another token makes 34");
}

#[test]
fn a_heartbeat_may_bring_any_class() {
    let mut metered = tiered(100);
    let thought = Usage { reasoning_tokens: 2, cached_input_tokens: 1, ..usage(3, 4) };
    metered.set_upstream(thought).unwrap();
    assert_eq!((metered.usage(), metered.state().amount), (thought, yuan(3 + 2 + 3 * 2)));
    // Only the output, as it grows; the input is that of before.
    metered.set_upstream(Usage { reasoning_tokens: 5, ..usage(0, 6) }).unwrap();
    let grown = Usage { output_tokens: 6, reasoning_tokens: 5, ..thought };
    assert_eq!((metered.usage(), metered.state().amount), (grown, yuan(3 + 1 + 3 * 5)));
    metered.set_upstream(Usage { reasoning_tokens: 7, ..usage(3, 6) }).unwrap_err();
    assert_eq!(metered.usage(), grown, "a part above its whole is refused");
    // Our own count is larger, and all of the rest is text.
    metered.set_counted(9);
    assert_eq!((metered.usage().output_tokens, metered.state().amount), (9, yuan(3 + 4 + 3 * 5)));
}
