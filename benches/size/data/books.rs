//! The books of one user: charges of the last twelve months, with matching balances, quotas,
//! rollup and orders, so that an audit finds no difference.
//!
//! Most users have about ten charges in one month. One user in 5,000 has thousands, spread over all
//! months. The first user has a twentieth of all charges, in the last full month.

use std::{collections::BTreeMap, fmt::Write};

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, TimeDelta, Utc};
use uuid::Uuid;

use super::{Size, seeded::Seeded};

/// Name, price in millionths, free units a month.
pub const SERVICES: [(&str, i64, i64); 3] =
    [("asset", 50_000, 1_000), ("passport", 10_000, 10_000), ("payment", 100_000, 1_000)];
/// Offset of Asia/Shanghai from UTC in hours.
const ZONE_HOURS: i64 = 8;
/// Percentage of free charges, while there is quota.
const FREE_PERCENT: u64 = 70;
const ONE_IN_HEAVY: u64 = 5_000;
const MICROS_PER_DAY: u64 = 86_400_000_000;

/// Rows in the format of LOAD DATA, one text per table.
#[derive(Default)]
pub struct Rows {
    pub user_balance: String,
    pub free_quota: String,
    pub billing_record: String,
    pub billing_transaction: String,
    pub usage_daily: String,
    pub recharge_order: String,
}

/// The id of a user. Ids sort by number.
pub fn user_id(number: u64) -> String {
    format!("user{number:08}")
}

impl Size {
    /// Number of users after the first that have thousands of charges.
    pub fn heavy_users(&self) -> u64 {
        self.users / ONE_IN_HEAVY + 1
    }
}

/// Number of charges of a user.
pub fn charges_of(number: u64, size: &Size) -> u64 {
    let heavy = size.heavy_users();
    let (first, of_heavy) = (size.records / 20, size.records / 5);
    match number {
        0 => first,
        number if number <= heavy => of_heavy / heavy,
        // The rest of the records, spread evenly.
        number => {
            let (rest, users) = (size.records - first - of_heavy / heavy * heavy, size.users - 1 - heavy);
            let before = u128::from(number - 1 - heavy) * u128::from(rest) / u128::from(users);
            let after = u128::from(number - heavy) * u128::from(rest) / u128::from(users);
            u64::try_from(after - before).unwrap_or(0)
        }
    }
}

#[derive(Default)]
struct Day {
    free_count: i64,
    paid_count: i64,
    amount: i64,
    free_records: i64,
    paid_records: i64,
}

/// Adds the rows of one user.
pub fn write(rows: &mut Rows, number: u64, size: &Size) -> std::fmt::Result {
    let mut seeded = Seeded::of(size.seed, number);
    let user = user_id(number);
    let mut charges: Vec<(NaiveDate, u64)> = days(number, size, &mut seeded);
    charges.sort_unstable();
    let mut used: BTreeMap<(String, &str), i64> = BTreeMap::new();
    let mut daily: BTreeMap<(NaiveDate, &str), Day> = BTreeMap::new();
    // The top-up at the beginning covers all charges.
    let paid_in = i64::try_from(charges.len()).unwrap_or(i64::MAX) * 1_000_000 + 5_000_000;
    let mut balance = paid_in;
    for (day, micros) in charges {
        let (service, price, total) = SERVICES[seeded.below(3) as usize];
        let count = 1 + seeded.below(5) as i64;
        let quota = used.entry((day.format("%Y-%m").to_string(), service)).or_default();
        let is_free = seeded.below(100) < FREE_PERCENT && *quota + count <= total;
        let amount = if is_free { 0 } else { price * count };
        let book = daily.entry((day, service)).or_default();
        if is_free {
            *quota += count;
            book.free_count += count;
            book.free_records += 1;
        } else {
            balance -= amount;
            book.paid_count += count;
            book.amount += amount;
            book.paid_records += 1;
        }
        let at = instant(day, micros);
        let (record, trace) = (record_id(at, &mut seeded), Uuid::from_u64_pair(seeded.next(), seeded.next()));
        let (kind, free, paid) = if is_free { (1, count, 0) } else { (2, 0, count) };
        let (at, amount, remaining) = (time(at), money(amount), total - *quota);
        writeln!(rows.billing_record, "{record}\t{user}\t{service}\t{kind}\t{amount}\t{count}\t{at}\t{day}\t{trace}")?;
        writeln!(
            rows.billing_transaction,
            "{user}\t{trace}\t{service}\t{count}\t{free}\t{paid}\t{amount}\t{record}\t{}\t{remaining}\t{at}",
            money(balance)
        )?;
    }
    for ((month, service), units) in used.into_iter().filter(|(_, units)| *units > 0) {
        let total = SERVICES.iter().find(|(name, ..)| *name == service).map_or(0, |(.., total)| *total);
        writeln!(rows.free_quota, "{user}\t{service}\t{total}\t{units}\t{month}")?;
    }
    for ((day, service), book) in daily {
        let Day { free_count, paid_count, amount, free_records, paid_records } = book;
        writeln!(
            rows.usage_daily,
            "{user}\t{day}\t{service}\t{free_count}\t{paid_count}\t{}\t{free_records}\t{paid_records}",
            money(amount)
        )?;
    }
    let began = time(instant(size.month - Months::new(12), 0));
    writeln!(rows.user_balance, "{user}\t{}\t{began}\t{began}", money(balance))?;
    writeln!(
        rows.recharge_order,
        "recharge_{user}_1\t{user}\t{}\tpay_{user}\tsuccess\t{began}\t{began}",
        money(paid_in)
    )
}

/// The day of each charge, and the time on that day in microseconds.
fn days(number: u64, size: &Size, seeded: &mut Seeded) -> Vec<(NaiveDate, u64)> {
    let count = charges_of(number, size);
    let is_heavy = (1..=size.heavy_users()).contains(&number);
    let own_month = seeded.below(12) as u32;
    (0..count)
        .map(|_| {
            let back = match (number, is_heavy) {
                (0, _) => 1,
                (_, true) => seeded.below(12) as u32,
                _ => own_month,
            };
            let month = size.month - Months::new(back);
            // Of the current month, only the first day.
            let days = if back == 0 { 1 } else { days_in(month) };
            (month + Days::new(seeded.below(days)), seeded.below(MICROS_PER_DAY))
        })
        .collect()
}

fn days_in(month: NaiveDate) -> u64 {
    (month + Months::new(1)).pred_opt().map_or(28, |last| last.day().into())
}

fn instant(day: NaiveDate, micros: u64) -> DateTime<Utc> {
    day.and_time(chrono::NaiveTime::MIN).and_utc() - TimeDelta::hours(ZONE_HOURS)
        + TimeDelta::microseconds(micros.cast_signed())
}

fn time(at: DateTime<Utc>) -> impl std::fmt::Display {
    at.format("%Y-%m-%d %H:%M:%S%.6f")
}

/// A record id in the order of time, as the service generates them.
fn record_id(at: DateTime<Utc>, seeded: &mut Seeded) -> Uuid {
    let mut random = [0; 10];
    random[..8].copy_from_slice(&seeded.next().to_le_bytes());
    random[8..].copy_from_slice(&seeded.next().to_le_bytes()[..2]);
    uuid::Builder::from_unix_timestamp_millis(at.timestamp_millis().unsigned_abs(), &random).into_uuid()
}

fn money(micros: i64) -> String {
    let sign = if micros < 0 { "-" } else { "" };
    let micros = micros.unsigned_abs();
    format!("{sign}{}.{:06}", micros / 1_000_000, micros % 1_000_000)
}
