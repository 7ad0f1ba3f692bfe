//! The statement of an account for a month: opening balance, one line for each kind of movement, and
//! closing balance.
//!
//! The balances are computed backwards from the balance of the account, so a statement reads nothing
//! that is older than its month. The closing balance is the balance less all later movements, and the
//! opening balance is the closing balance less those of the month. So the closing balance of a month is
//! the opening balance of the next one, and that of the running month is the balance.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::period::StatementPeriod;
use crate::biz::values::{
    calendar::Month,
    error::{Error, StoreError},
    ids::{ModelName, ServiceName, UserId},
    money::Money,
};

/// The kinds of movement, in the order of a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LineKind {
    /// Credited top-ups.
    TopUp,
    /// Credits of unapplied payments.
    UnappliedPayment,
    /// Refunds of top-ups, without chargebacks.
    TopUpRefund,
    Chargeback,
    /// Credits and debits of operators.
    Adjustment,
    Charge,
    /// Refunds of charges.
    ChargeRefund,
}

impl LineKind {
    pub const ALL: [Self; 7] = [
        Self::TopUp,
        Self::UnappliedPayment,
        Self::TopUpRefund,
        Self::Chargeback,
        Self::Adjustment,
        Self::Charge,
        Self::ChargeRefund,
    ];

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        match self {
            Self::TopUp => "top_up",
            Self::UnappliedPayment => "unapplied_payment",
            Self::TopUpRefund => "top_up_refund",
            Self::Chargeback => "chargeback",
            Self::Adjustment => "adjustment",
            Self::Charge => "charge",
            Self::ChargeRefund => "charge_refund",
        }
    }

    /// Whether it is about calls. The daily rollup has its sums.
    fn is_usage(self) -> bool {
        matches!(self, Self::Charge | Self::ChargeRefund)
    }
}

/// The movements of a month that one line sums up. The order of the fields is that of the lines.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineKey {
    pub kind: LineKind,
    /// Of charges and their refunds.
    pub service: Option<ServiceName>,
    /// `None` also if the charges of the month are not split by model.
    pub model: Option<ModelName>,
    /// The closed month of charges that were committed, or refunded, after its close.
    pub late_of: Option<Month>,
}

/// Tokens by class, and images: the sums of [`Usage`](crate::biz::values::usage::Usage).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct UsageSums {
    pub input_tokens: u64,
    pub output_tokens: u64,
    pub cached_input_tokens: u64,
    pub cache_write_tokens: u64,
    pub cache_write_1h_tokens: u64,
    pub reasoning_tokens: u64,
    pub audio_input_tokens: u64,
    pub audio_output_tokens: u64,
    pub images: u64,
}

impl UsageSums {
    fn plus(self, other: Self) -> Self {
        Self {
            input_tokens: self.input_tokens + other.input_tokens,
            output_tokens: self.output_tokens + other.output_tokens,
            cached_input_tokens: self.cached_input_tokens + other.cached_input_tokens,
            cache_write_tokens: self.cache_write_tokens + other.cache_write_tokens,
            cache_write_1h_tokens: self.cache_write_1h_tokens + other.cache_write_1h_tokens,
            reasoning_tokens: self.reasoning_tokens + other.reasoning_tokens,
            audio_input_tokens: self.audio_input_tokens + other.audio_input_tokens,
            audio_output_tokens: self.audio_output_tokens + other.audio_output_tokens,
            images: self.images + other.images,
        }
    }
}

/// The sums of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LineSums {
    /// Charges with a record, refunded charges, or movements of another kind. Zero for charges that are
    /// not split by model.
    pub calls: u64,
    pub free_count: u64,
    pub paid_count: u64,
    /// As far as it is final: without that of charges that a broken stream reported.
    pub usage: UsageSums,
    /// Signed as it moved the balance.
    pub amount: Money,
}

impl LineSums {
    fn plus(self, other: Self) -> Self {
        Self {
            calls: self.calls + other.calls,
            free_count: self.free_count + other.free_count,
            paid_count: self.paid_count + other.paid_count,
            usage: self.usage.plus(other.usage),
            amount: self.amount.plus(other.amount),
        }
    }
}

/// A line of a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub key: LineKey,
    pub sums: LineSums,
}

/// The books of one user from the begin of a month on, read in one snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MonthBooks {
    pub user: UserId,
    /// Zero for a user without an account.
    pub balance: Money,
    /// The movements of the month. Charges and their refunds are those of the rollup.
    pub lines: Vec<Line>,
    /// The sum of all later movements.
    pub later: Money,
    /// The charges and their refunds by model, from the records; `None` if they were not split, or make
    /// more lines than were asked for.
    pub by_model: Option<Vec<Line>>,
}

impl MonthBooks {
    pub fn of(user: UserId) -> Self {
        Self { user, balance: Money::ZERO, lines: Vec::new(), later: Money::ZERO, by_model: None }
    }
}

/// The statement of an account for a month.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Statement {
    pub user: UserId,
    pub month: Month,
    pub is_closed: bool,
    /// Whether the charges are split by model and closed month.
    pub is_by_model: bool,
    pub opening: Money,
    pub closing: Money,
    /// In the order of their keys. No line is empty.
    pub lines: Vec<Line>,
}

impl Statement {
    /// Whether the account had no balance and no movement.
    pub fn is_empty(&self) -> bool {
        self.opening.is_zero() && self.closing.is_zero() && self.lines.is_empty()
    }

    /// # Errors
    /// [`Error::Internal`] if the records of the month have other sums than the rollup, which the audit
    /// reports too.
    pub fn of(books: MonthBooks, period: &StatementPeriod) -> Result<Self, Error> {
        let moved = books.lines.iter().map(|line| line.sums.amount).sum::<Money>();
        let closing = books.balance.minus(books.later);
        let is_by_model = books.by_model.is_some();
        let mut lines = match books.by_model {
            None => books.lines,
            Some(by_model) => {
                check_sums(&books.user, period.month, &books.lines, &by_model)?;
                let others = books.lines.into_iter().filter(|line| !line.key.kind.is_usage());
                others.chain(by_model).collect()
            }
        };
        lines.retain(|line| line.sums != LineSums::default());
        lines.sort_by(|one, other| one.key.cmp(&other.key));
        let (user, month, is_closed) = (books.user, period.month, period.is_closed);
        Ok(Self { user, month, is_closed, is_by_model, opening: closing.minus(moved), closing, lines })
    }

    /// The sums of all lines of a kind.
    pub fn sums_of(&self, kind: LineKind) -> LineSums {
        let of_kind = self.lines.iter().filter(|line| line.key.kind == kind);
        of_kind.fold(LineSums::default(), |sum, line| sum.plus(line.sums))
    }
}

/// Compares the charges and their refunds by model with those of the rollup. A statement must not be
/// given out if they differ: one of them is wrong.
fn check_sums(user: &UserId, month: Month, rollup: &[Line], by_model: &[Line]) -> Result<(), Error> {
    let sums = |lines: &[Line]| {
        let mut sums = BTreeMap::<_, LineSums>::new();
        for Line { key, sums: line } in lines.iter().filter(|line| line.key.kind.is_usage()) {
            let sum = sums.entry((key.kind, key.service.clone())).or_default();
            *sum = sum.plus(*line);
        }
        sums.retain(|_, sum| sum.free_count != 0 || sum.paid_count != 0 || !sum.amount.is_zero());
        sums.into_iter().map(|(key, sum)| (key, (sum.free_count, sum.paid_count, sum.amount))).collect::<Vec<_>>()
    };
    if sums(rollup) == sums(by_model) {
        return Ok(());
    }
    Err(Error::Internal(format!("the rollup of {user} in {month} differs from the records; run the audit")))
}

/// The bounds of a split of charges by model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Most lines. More are not split, because callers choose the names of models.
    pub lines: u32,
    /// Longest time of the query. The database does not notice a reader that has gone.
    pub within: Duration,
}

/// Reads the books of months.
#[async_trait]
pub trait StatementStore: Send + Sync + 'static {
    /// The time at which a database of the legacy service was taken over; `None` for a database that was
    /// always this service's.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn taken_over_at(&self) -> Result<Option<DateTime<Utc>>, StoreError>;

    /// The books of some users, in one snapshot and in key order. Of each table only rows since the begin
    /// of the month are read.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], [`StoreError::Failed`].
    async fn books_of(&self, users: &[UserId], period: &StatementPeriod) -> Result<Vec<MonthBooks>, StoreError>;

    /// As [`Self::books_of`] of one user. With `split`, the database also sums the records of the month up by model.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`], also at the end of the time of the split; [`StoreError::Failed`].
    async fn month_books(
        &self,
        user: &UserId,
        period: &StatementPeriod,
        split: Option<Split>,
    ) -> Result<MonthBooks, StoreError>;
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::biz::values::calendar::{Calendar, Clock};

    struct Fixed;
    impl Clock for Fixed {
        fn now(&self) -> DateTime<Utc> {
            "2026-12-20T00:00:00Z".parse().unwrap()
        }
    }

    fn period(month: &str) -> StatementPeriod {
        let calendar = Calendar::new("Asia/Shanghai".parse().unwrap(), Fixed);
        StatementPeriod::of(month.parse().unwrap(), &calendar, std::time::Duration::ZERO, None).unwrap()
    }

    fn user() -> UserId {
        UserId::from_stored("u")
    }

    fn line(kind: LineKind, service: Option<&str>, model: Option<&str>, micros: i64) -> Line {
        let service = service.map(ServiceName::from_stored);
        let key = LineKey { kind, service, model: model.map(ModelName::from_stored), late_of: None };
        let (calls, paid_count) = if model.is_some() { (1, 1) } else { (0, u64::from(kind.is_usage())) };
        Line { key, sums: LineSums { calls, paid_count, amount: Money::from_micros(micros), ..LineSums::default() } }
    }

    #[test]
    fn a_statement_adds_up_and_leaves_later_movements_out() {
        let lines = vec![
            line(LineKind::Charge, Some("asset"), None, -250_001),
            line(LineKind::TopUp, None, None, 10_000_000),
            line(LineKind::Adjustment, None, None, 0),
        ];
        let books = MonthBooks {
            balance: Money::from_micros(12_000_000),
            later: Money::from_micros(3_000_000),
            lines,
            ..MonthBooks::of(user())
        };
        let statement = Statement::of(books, &period("2026-10")).unwrap();
        assert_eq!((statement.opening.to_string(), statement.closing.to_string()), ("-0.749999".into(), "9".into()));
        let kinds: Vec<_> = statement.lines.iter().map(|line| line.key.kind.name()).collect();
        // An empty line is left out.
        assert_eq!(kinds, ["top_up", "charge"]);
        assert!(statement.is_closed && !statement.is_by_model);
    }

    #[test]
    fn charges_by_model_replace_those_of_the_rollup() {
        let lines = vec![line(LineKind::Adjustment, None, None, 5), two_calls()];
        let by_model = vec![
            line(LineKind::Charge, Some("llm"), Some("b"), -2),
            line(LineKind::Charge, Some("llm"), Some("a"), -1),
        ];
        let books = MonthBooks { lines, by_model: Some(by_model), ..MonthBooks::of(user()) };
        let statement = Statement::of(books, &period("2026-12")).unwrap();
        let lines: Vec<_> = statement
            .lines
            .iter()
            .map(|line| (line.key.model.as_ref().map(ModelName::as_str), line.sums.amount.micros()))
            .collect();
        assert_eq!(lines, [(None, 5), (Some("a"), -1), (Some("b"), -2)]);
        assert_eq!((statement.opening.micros(), statement.closing.micros(), statement.is_closed), (-2, 0, false));
        assert_eq!(statement.sums_of(LineKind::Charge).calls, 2);
    }

    /// The line of the rollup for two paid calls.
    fn two_calls() -> Line {
        let rollup = line(LineKind::Charge, Some("llm"), None, -3);
        Line { sums: LineSums { paid_count: 2, ..rollup.sums }, ..rollup }
    }

    #[test]
    fn a_statement_whose_records_and_rollup_differ_is_refused() {
        for by_model in [vec![], vec![line(LineKind::Charge, Some("llm"), Some("a"), -3)]] {
            let books = MonthBooks { lines: vec![two_calls()], by_model: Some(by_model), ..MonthBooks::of(user()) };
            let refused = Statement::of(books, &period("2026-12")).unwrap_err();
            assert!(refused.to_string().contains("the rollup of u in 2026-12 differs"), "{refused}");
        }
    }

    const MONTHS: [&str; 4] = ["2026-09", "2026-10", "2026-11", "2026-12"];

    proptest! {
        /// Movements of four months, each of a kind and an amount.
        #[test]
        fn statements_of_all_months_chain(moved in prop::collection::vec((0..4usize, 0..7usize, -1_000_000_000i64..1_000_000_000), 0..60)) {
            let balance: i64 = moved.iter().map(|(.., micros)| micros).sum();
            let mut before = Money::ZERO;
            for (number, month) in MONTHS.into_iter().enumerate() {
                let service = |kind: LineKind| kind.is_usage().then_some("asset");
                let of_month = moved.iter().filter(|(at, ..)| *at == number);
                let lines = of_month.map(|(_, kind, micros)| (LineKind::ALL[*kind], *micros));
                let later = moved.iter().filter(|(at, ..)| *at > number).map(|(.., micros)| micros).sum();
                let books = MonthBooks {
                    balance: Money::from_micros(balance),
                    later: Money::from_micros(later),
                    lines: lines.map(|(kind, micros)| line(kind, service(kind), None, micros)).collect(),
                    ..MonthBooks::of(user())
                };
                let statement = Statement::of(books, &period(month)).unwrap();
                prop_assert_eq!(statement.opening, before);
                let kinds = LineKind::ALL.map(|kind| statement.sums_of(kind).amount);
                prop_assert_eq!(statement.opening.plus(kinds.into_iter().sum()), statement.closing);
                before = statement.closing;
            }
            prop_assert_eq!(before.micros(), balance);
        }
    }
}
