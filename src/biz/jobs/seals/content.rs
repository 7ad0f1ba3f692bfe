//! The content of a seal: the number and the digest of each kind of rows, and the figures that follow from them.

use std::fmt::Write;

use chrono::{DateTime, Utc};
use sha2::{Digest, Sha256};

use crate::biz::{
    jobs::audit::books::Evidence,
    values::{ids::UserId, money::Money},
};

/// A kind of rows in the history of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Records,
    Refunds,
    Adjustments,
    Openings,
    TopUps,
    TopUpRefunds,
}

impl Kind {
    pub const ALL: [Self; 6] =
        [Self::Records, Self::Refunds, Self::Adjustments, Self::Openings, Self::TopUps, Self::TopUpRefunds];
}

/// The names of the digests, in the order of [`Kind`]. The last one is that of the transactions of the records.
const NAMES: [&str; DIGESTS] =
    ["records", "refunds", "adjustments", "openings", "top-ups", "top-up refunds", "transactions"];
const DIGESTS: usize = 7;
const TRANSACTIONS: usize = 6;
/// Bytes of a digest that are stored.
const STORED_BYTES: usize = 16;

/// A row of the history. Each kind is read in the order of user, time and id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryRow {
    pub user: UserId,
    pub at: DateTime<Utc>,
    pub id: String,
    /// Its change of the balance.
    pub amount: Money,
    /// Whether it is a record of a refund, and the units that it gave back.
    pub is_refund: bool,
    pub given_back: i64,
    /// All values that nothing changes later, as text.
    pub content: String,
    /// The same of the transaction of a record; empty without a transaction.
    pub transaction: String,
}

/// The sums of the sealed history of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Figures {
    /// The closing balance.
    pub balance: Money,
    /// Of all records but refunds.
    pub charged: Money,
    /// Of all records of refunds.
    pub given_back: Money,
    pub given_back_count: i64,
}

impl Figures {
    /// Completes the evidence of the unsealed history.
    pub fn add_to(&self, evidence: &mut Evidence) {
        evidence.charged = evidence.charged.plus(self.charged);
        evidence.refunds.recorded_amount = evidence.refunds.recorded_amount.plus(self.given_back);
        evidence.refunds.recorded_count += self.given_back_count;
    }
}

/// The content of a seal under construction.
#[derive(Clone, Default)]
pub struct Content {
    digests: [Option<(u64, Sha256)>; DIGESTS],
    pub figures: Figures,
}

impl Content {
    /// Begins behind the figures of the seal before.
    pub fn behind(figures: Figures) -> Self {
        Self { digests: Default::default(), figures }
    }

    /// The same rows behind the figures of the seal before.
    pub fn moved_behind(mut self, before: Figures) -> Self {
        let Figures { balance, charged, given_back, given_back_count } = self.figures;
        self.figures = Figures {
            balance: balance.plus(before.balance),
            charged: charged.plus(before.charged),
            given_back: given_back.plus(before.given_back),
            given_back_count: given_back_count + before.given_back_count,
        };
        self
    }

    pub fn is_empty(&self) -> bool {
        self.digests.iter().all(Option::is_none)
    }

    /// Adds the next row of a kind.
    pub fn add(&mut self, kind: Kind, row: &HistoryRow) {
        self.digest(kind as usize, &[&row.at.timestamp_micros().to_string(), &row.id, &row.content]);
        if !row.transaction.is_empty() {
            self.digest(TRANSACTIONS, &[&row.transaction]);
        }
        let figures = &mut self.figures;
        figures.balance = figures.balance.plus(row.amount);
        match kind {
            Kind::Records if row.is_refund => {
                figures.given_back = figures.given_back.plus(row.amount);
                figures.given_back_count += row.given_back;
            }
            Kind::Records => figures.charged = figures.charged.minus(row.amount),
            _ => {}
        }
    }

    fn digest(&mut self, index: usize, values: &[&str]) {
        let (count, digest) = self.digests[index].get_or_insert_default();
        *count += 1;
        for value in values {
            // With its length, so that two values are never taken for two others.
            digest.update((value.len() as u64).to_le_bytes());
            digest.update(value);
        }
    }

    /// The stored form: `kind:number:digest`, separated by commas, without the kinds that have no rows.
    pub fn stored(&self) -> String {
        let mut text = String::new();
        for (name, digest) in NAMES.iter().zip(&self.digests) {
            let Some((count, digest)) = digest else { continue };
            let separator = if text.is_empty() { "" } else { "," };
            // A write to a String can't fail.
            let _ = write!(text, "{separator}{name}:{count}:{}", hex(&digest.clone().finalize()[..STORED_BYTES]));
        }
        text
    }
}

/// The kinds whose stored number or digest differ: each with its name, as stored and as computed.
pub fn differing(stored: &str, computed: &str) -> Vec<(String, String, String)> {
    let value = |text: &str, name: &str| {
        let mut parts = text.split(',').filter_map(|part| part.split_once(':'));
        parts.find(|(kind, _)| *kind == name).map_or("none".to_owned(), |(_, value)| {
            let (count, digest) = value.split_once(':').unwrap_or((value, ""));
            format!("{count} with the digest {digest}")
        })
    };
    let both = NAMES.iter().map(|name| ((*name).to_owned(), value(stored, name), value(computed, name)));
    both.filter(|(_, stored, computed)| stored != computed).collect()
}

/// Lower-case hexadecimal digits.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // A write to a String can't fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
