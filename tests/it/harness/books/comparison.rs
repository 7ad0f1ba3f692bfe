//! Compares the tables with the books of the callers.

use std::{collections::BTreeMap, fmt::Debug};

use billing_service::service::proto::CommitReservationReply;

use super::{Books, End, UserAndId, key, micros};
use crate::harness::{Database, MySql};

/// The expected row of a charge or a reservation.
struct Made {
    user: String,
    trace: String,
    service: String,
    count: i32,
    status: &'static str,
    /// Free units, and an amount in millionths.
    held: (i32, i64),
    /// All zero if nothing was charged.
    charged: CommitReservationReply,
}

impl Made {
    fn is_open(&self) -> bool {
        self.status == "PENDING"
    }
}

impl Books {
    /// The tables agree with the books, and the audit is clean.
    pub async fn assert_kept_in(&self, database: &Database) {
        let made = self.made();
        assert_transactions(&made, database).await;
        assert_records(&made, database).await;
        assert_expiries(&made, database).await;
        self.assert_adjustments(database).await;
        self.assert_balances(&made, database).await;
        assert_quotas(&made, database).await;
        self.assert_events(database).await;
        database.assert_audit_is_clean().await;
    }

    fn made(&self) -> Vec<Made> {
        let known = self.known();
        let charges = known.charges.values().map(|(request, reply)| Made {
            user: request.user_id.clone(),
            trace: request.trace_id.clone(),
            service: request.service_name.clone(),
            count: request.count,
            status: "COMMITTED",
            held: (0, 0),
            charged: CommitReservationReply {
                success: true,
                record_id: reply.record_id.clone(),
                free_count: reply.free_count,
                paid_count: reply.paid_count,
                amount: reply.amount,
                balance: reply.balance,
                free_remaining: reply.free_remaining,
                replayed: reply.replayed,
                shortfall: 0.0,
                free_remaining_units: reply.free_remaining_units,
            },
        });
        let holds = known.holds.values().map(|hold| Made {
            user: hold.request.user_id.clone(),
            trace: hold.request.trace_id.clone(),
            service: hold.request.service_name.clone(),
            count: hold.request.count,
            status: hold.status(),
            held: (hold.reply.free_count, micros(hold.reply.amount)),
            charged: match &hold.end {
                End::Committed(_, reply) => reply.clone(),
                End::Open | End::Released | End::Expired => CommitReservationReply::default(),
            },
        });
        charges.chain(holds).collect()
    }

    async fn assert_adjustments(&self, database: &Database) {
        let found = database.rows(&["user_id", "adjustment_id", "MICROS(amount)"], "FROM balance_adjustment").await;
        let known = self.known();
        let expected = known.credits.iter();
        let expected = expected.map(|((user, id), amount)| vec![user.clone(), id.clone(), amount.to_string()]);
        assert_same("balance_adjustment", expected.collect(), found);
    }

    async fn assert_balances(&self, made: &[Made], database: &Database) {
        let columns = ["user_id", "MICROS(balance)", "MICROS(held)"];
        let found = database.rows(&columns, "FROM user_balance WHERE balance <> 0 OR held <> 0").await;
        let mut balances = BTreeMap::<String, (i64, i64)>::new();
        for ((user, _), amount) in &self.known().credits {
            balances.entry(user.clone()).or_default().0 += amount;
        }
        for made in made {
            let (balance, held) = balances.entry(made.user.clone()).or_default();
            *balance -= micros(made.charged.amount);
            *held += if made.is_open() { made.held.1 } else { 0 };
        }
        let expected = balances.into_iter().filter(|(_, amounts)| *amounts != (0, 0));
        let expected = expected.map(|(user, (balance, held))| vec![user, balance.to_string(), held.to_string()]);
        assert_same("user_balance", expected.collect(), found);
    }
}

async fn assert_transactions(made: &[Made], database: &Database) {
    let columns = [
        "user_id",
        "trace_id",
        "status",
        "service_name",
        "count",
        // The record id of a transaction counts only after the commit.
        "CASE status WHEN 'COMMITTED' THEN record_id ELSE '' END",
        "free_count",
        "paid_count",
        "MICROS(amount)",
        "MICROS(balance_after)",
        "free_remaining_after",
        "COALESCE(held_free, 0)",
        "MICROS(COALESCE(held_amount, 0))",
    ];
    let found = database.rows(&columns, "FROM billing_transaction").await;
    let expected = made.iter().map(|made| {
        let charged = &made.charged;
        let texts = [&made.user, &made.trace, made.status, &made.service, &made.count.to_string(), &charged.record_id];
        let numbers = [
            charged.free_count.into(),
            charged.paid_count.into(),
            micros(charged.amount),
            micros(charged.balance),
            charged.free_remaining.into(),
            made.held.0.into(),
            made.held.1,
        ];
        texts.map(str::to_owned).into_iter().chain(numbers.map(|number: i64| number.to_string())).collect()
    });
    assert_same("billing_transaction", expected.collect(), found);
}

/// Each charge has a record for its free part and one for its paid part. The answer has the id of the
/// paid one, if it exists.
async fn assert_records(made: &[Made], database: &Database) {
    let columns = ["user_id", "trace_id", "service_name", "type", "MICROS(amount)", "count", "billing_record_id"];
    let mut found = database.rows(&columns, "FROM billing_record").await;
    let answered: BTreeMap<UserAndId, &str> =
        made.iter().map(|made| (key(&made.user, &made.trace), made.charged.record_id.as_str())).collect();
    for record in &mut found {
        let is_answered = answered.get(&key(&record[0], &record[1])).is_some_and(|id| *id == record[6]);
        record[6] = if is_answered { "answered" } else { "part" }.to_owned();
    }
    let mut expected = Vec::new();
    for Made { user, trace, service, charged, .. } in made {
        let record = |kind: &str, amount: f64, count: i32, id: &str| {
            let numbers = [micros(amount).to_string(), count.to_string(), id.to_owned()];
            [user, trace, service, kind].map(str::to_owned).into_iter().chain(numbers).collect::<Vec<_>>()
        };
        if charged.free_count > 0 {
            let id = if charged.paid_count > 0 { "part" } else { "answered" };
            expected.push(record("1", 0.0, charged.free_count, id));
        }
        if charged.paid_count > 0 {
            expected.push(record("2", charged.amount, charged.paid_count, "answered"));
        }
    }
    assert_same("billing_record", expected, found);
}

/// The sweep must find each open reservation. On SQLite, the sweep reads the table of
/// transactions.
async fn assert_expiries(made: &[Made], database: &Database) {
    if database.backend != MySql {
        return;
    }
    let open = "FROM reservation_expiry e JOIN billing_transaction t ON t.user_id = e.user_id \
         AND t.trace_id = e.trace_id AND t.expires_at = e.expires_at WHERE t.status = 'PENDING'";
    let found = database.rows(&["t.user_id", "t.trace_id"], open).await;
    let expected = made.iter().filter(|made| made.is_open()).map(|made| vec![made.user.clone(), made.trace.clone()]);
    assert_same("reservation_expiry", expected.collect(), found);
}

async fn assert_quotas(made: &[Made], database: &Database) {
    let columns = ["user_id", "service_name", "SUM(used_quota)", "SUM(held_quota)"];
    let touched = "FROM free_quota GROUP BY user_id, service_name HAVING SUM(used_quota) > 0 OR SUM(held_quota) > 0";
    let found = database.rows(&columns, touched).await;
    let mut quotas = BTreeMap::<(String, String), (i32, i32)>::new();
    for made in made {
        let (used, held) = quotas.entry((made.user.clone(), made.service.clone())).or_default();
        *used += made.charged.free_count;
        *held += if made.is_open() { made.held.0 } else { 0 };
    }
    let expected = quotas.into_iter().filter(|(_, units)| *units != (0, 0));
    let expected =
        expected.map(|((user, service), (used, held))| vec![user, service, used.to_string(), held.to_string()]);
    assert_same("free_quota", expected.collect(), found);
}

/// Compares two lists of rows in any order, and counts equal rows. Shows the first rows that only
/// one list has.
pub(super) fn assert_same<R: Ord + Debug>(table: &str, mut expected: Vec<R>, mut found: Vec<R>) {
    expected.sort();
    found.sort();
    if expected == found {
        return;
    }
    let missing: Vec<_> = expected.iter().filter(|row| found.binary_search(row).is_err()).take(3).collect();
    let surplus: Vec<_> = found.iter().filter(|row| expected.binary_search(row).is_err()).take(3).collect();
    let twice: Vec<_> = found.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| &pair[0]).take(3).collect();
    panic!(
        "{table}: {} rows expected and {} found; missing {missing:#?}, surplus {surplus:#?}, twice {twice:#?}",
        expected.len(),
        found.len()
    );
}
