//! Random histories against the reference model, in memory.

use std::{cell::RefCell, collections::BTreeMap, thread};

use super::{
    books::Books,
    histories::{cases, histories, play, share_of_runner},
};

/// The rare events that the histories must contain, so that the test proves its claim.
const RARE: [&str; 71] = [
    "a stream that was replaced reports",
    "a stream that was replaced commits",
    "a text has less than its stream had reported",
    "a stream takes over",
    "a report comes late",
    "a hold grows",
    "a hold grows as far as the balance",
    "a hold grows as far as the key",
    "a hold grows after midnight",
    "free units are held with a stream",
    "an unfinished stream is charged",
    "a stream that broke had reported more",
    "a hold with a report is freed",
    "a commit has more than the report",
    "a commit has less than the report",
    "an addition falls short",
    "an addition is partly free",
    "a stream reports after its charge",
    "a stream has more than the sweep charged",
    "a stream reports after its expiry",
    "a key has no tokens left for a stream",
    "an expired hold is charged late",
    "a capped commit falls short",
    "a spilled commit falls short",
    "a commit spills",
    "a spill meets a debt",
    "a commit overdraws",
    "a stream goes on after midnight",
    "a stream goes on after the end of the month",
    "tokens are partly free",
    "a charge in tokens is partly free",
    "prices changed since the reserve",
    "a cost takes the place of the prices",
    "a call has no price",
    "a delivery has no price",
    "an account that is not active refuses a call",
    "an account is active again",
    "a request that has set the status comes again",
    "a hold of an account that is not active stays",
    "a hold of an account that is not active is charged",
    "more is refunded than is left",
    "a charge is refunded in parts",
    "a refund is partly free",
    "free units of a past month lapse",
    "a refund comes after its month has closed",
    "a refund pays a debt",
    "a refunded charge had been added to",
    "an addition meets a refund",
    "an addition comes after its month has closed",
    "a charge comes after its month has closed",
    "a late charge takes the free quota of this month",
    "delivered work falls short",
    "delivered work overdraws",
    "delivered work passes a cap",
    "an adjustment overdraws",
    "a call that was refunded is a call again",
    "a refund id belongs to another user",
    "a refund fails and frees its hold",
    "a refund asks for more than is left",
    "a refund asks for more than is free",
    "a refund is forced below zero",
    "a refund succeeds",
    "a refund succeeds after its failure",
    "money goes back before it is credited",
    "a report waits for a pending refund",
    "a late success waits for a pending refund",
    "a chargeback takes the balance below zero",
    "an order is refunded in full",
    "an unapplied payment is credited again",
    "an unapplied payment has another user",
    "an unapplied payment pays a debt",
];

const CASES: u32 = 10_000;

/// Threads that play the cases, so that a second processor helps.
const SHARES: u32 = 4;

#[test]
fn random_histories_follow_the_model_in_memory() {
    let mut seen: BTreeMap<&str, u32> = BTreeMap::new();
    thread::scope(|scope| {
        let shares: Vec<_> = (0..SHARES).map(|share| scope.spawn(move || rare_events_of_share(share))).collect();
        for share in shares {
            for (rare, histories) in share.join().unwrap() {
                *seen.entry(rare).or_default() += histories;
            }
        }
    });
    println!("{seen:#?}");
    // A smaller number of cases, as for mutants, is too small for all rare events.
    let cases = cases(CASES);
    for rare in RARE.iter().filter(|_| cases >= CASES) {
        let histories = seen.get(rare).copied().unwrap_or(0);
        assert!(histories >= cases / 1_000, "{rare}: in {histories} histories");
    }
}

/// Plays the histories of a share. Returns the number of histories with each rare event.
fn rare_events_of_share(share: u32) -> BTreeMap<&'static str, u32> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let seen: RefCell<BTreeMap<&str, u32>> = RefCell::default();
    share_of_runner(CASES, share, SHARES)
        .run(&histories(), |history| {
            for rare in runtime.block_on(play(&Books::default(), "u", &history))? {
                *seen.borrow_mut().entry(rare).or_default() += 1;
            }
            Ok(())
        })
        .unwrap();
    seen.into_inner()
}
