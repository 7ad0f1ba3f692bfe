//! Compares the events with the books: each crossing of a level has one event, in the order of the commits.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Books, comparison::assert_same, micros};
use crate::harness::Database;

/// The events of a user, in the order of their numbers. Those of one user are in the order of the commits.
type Told = BTreeMap<String, Vec<(String, Value)>>;

fn text(data: &Value, name: &str) -> String {
    data[name].as_str().unwrap_or_else(|| panic!("{name} in {data}")).to_owned()
}

fn amount(data: &Value, name: &str) -> i64 {
    micros(text(data, name).parse().unwrap())
}

impl Books {
    /// In the load a balance falls after its one credit, and the use of a free quota grows. So each level is crossed
    /// once at most, and the end says which levels were.
    pub(super) async fn assert_events(&self, database: &Database) {
        let mut told = Told::new();
        for row in
            database.rows(&["user_id", "type", "data"], "FROM event WHERE user_id IS NOT NULL ORDER BY seq").await
        {
            let data = serde_json::from_str(&row[2]).unwrap();
            told.entry(row[0].clone()).or_default().push((row[1].clone(), data));
        }
        assert_reached(&told, database).await;
        self.assert_low(&told, database).await;
        self.assert_exhausted(&told);
    }

    async fn assert_low(&self, told: &Told, database: &Database) {
        let balances = database.rows(&["user_id", "MICROS(balance)"], "FROM user_balance").await;
        let mut expected = Vec::new();
        for balance in balances {
            let (user, balance) = (&balance[0], balance[1].parse::<i64>().unwrap());
            let known = self.known();
            let of_user = known.thresholds.get(user).into_iter().flatten().filter(|threshold| balance < **threshold);
            let was_credited = known.credits.keys().any(|(credited, _)| credited == user);
            expected.extend(of_user.filter(|_| was_credited).map(|threshold| (user.clone(), *threshold)));
        }
        let mut found = Vec::new();
        for (user, events) in told {
            let low: Vec<_> = events.iter().filter(|(kind, _)| kind == "balance.low").map(|(_, data)| data).collect();
            let fallen: Vec<_> = low.iter().map(|data| (amount(data, "threshold"), amount(data, "balance"))).collect();
            let is_in_order = fallen.is_sorted_by(|one, next| one.0 > next.0 && one.1 >= next.1);
            assert!(is_in_order && fallen.iter().all(|(threshold, balance)| balance < threshold), "{user}: {fallen:?}");
            found.extend(fallen.into_iter().map(|(threshold, _)| (user.clone(), threshold)));
        }
        assert_same("balance.low", expected, found);
    }

    /// A user with a definite refusal is exhausted once. A refusal without an answer may have been followed by a
    /// success, after the end of a hold.
    fn assert_exhausted(&self, told: &Told) {
        let known = self.known();
        for (user, events) in told {
            let count = events.iter().filter(|(kind, _)| kind == "balance.exhausted").count();
            let is_refused =
                known.refused.range((user.clone(), String::new())..).next().is_some_and(|key| key.0 == *user);
            assert!(count == 1 || (count == 0 && !is_refused), "{user} is exhausted {count} times");
        }
        for (user, trace) in &known.refused {
            assert!(told.contains_key(user), "the refusal of {trace} left no event of {user}");
        }
    }
}

/// Each reached percentage of a free quota.
async fn assert_reached(told: &Told, database: &Database) {
    let columns = ["user_id", "service_name", "reset_month", "used_quota", "total_quota"];
    let mut expected = Vec::new();
    for row in database.rows(&columns, "FROM free_quota WHERE used_quota > 0").await {
        let (used, total): (u64, u64) = (row[3].parse().unwrap(), row[4].parse().unwrap());
        let reached = [50, 80, 100].into_iter().filter(|percent| used * 100 >= total * percent);
        expected.extend(reached.map(|percent| (row[0].clone(), row[1].clone(), row[2].clone(), percent)));
    }
    let mut found = Vec::new();
    for (user, events) in told {
        let mut last = BTreeMap::new();
        for (_, data) in events.iter().filter(|(kind, _)| kind == "quota.threshold") {
            let (service, month) = (text(data, "service_name"), text(data, "month"));
            let percent = data["percent"].as_u64().unwrap();
            let before = last.insert((service.clone(), month.clone()), percent);
            assert!(before < Some(percent), "{user}: {percent} after {before:?} of {service}");
            found.push((user.clone(), service, month, percent));
        }
    }
    assert_same("quota.threshold", expected, found);
}
