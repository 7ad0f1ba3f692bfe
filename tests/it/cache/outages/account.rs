//! The expected state of an account. Only one caller changes it.

use billing_service::service::proto::{CheckQuotaReply, CheckQuotaRequest, DeductQuotaRequest, Usage};

use crate::harness::charge;

/// The limit of an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// No limit: it pays, holds a small amount, and never runs out of money.
    Rich,
    /// Its balance covers three calls.
    Poor,
    /// Its free quota ends, and then its balance.
    Ending,
    /// A daily cap on its requests.
    Capped,
    /// A quota of its API key.
    Keyed,
}

impl Kind {
    pub const ALL: [Self; 5] = [Self::Rich, Self::Poor, Self::Ending, Self::Capped, Self::Keyed];

    pub fn service(self) -> &'static str {
        match self {
            Self::Rich | Self::Poor => "payment",
            Self::Ending => "asset",
            Self::Capped | Self::Keyed => "passport",
        }
    }

    /// The price of a unit in millionths.
    fn price(self) -> i64 {
        match self {
            Self::Rich | Self::Poor => 100_000,
            Self::Ending => 50_000,
            Self::Capped | Self::Keyed => 10_000,
        }
    }
}

#[derive(Debug, Clone)]
pub struct Account {
    pub user: String,
    pub kind: Kind,
    /// In millionths.
    pub balance: i64,
    pub free: i32,
    /// Requests that count to its cap or to the quota of its key, and their limit.
    pub used: i32,
    pub limit: i32,
}

impl Account {
    pub fn new(user: String, kind: Kind) -> Self {
        Self { user, kind, balance: 0, free: 0, used: 0, limit: i32::MAX }
    }

    /// Its API key, or `""`.
    pub fn api_key(&self) -> String {
        if self.kind == Kind::Keyed { format!("key of {}", self.user) } else { String::new() }
    }

    fn usage(&self) -> Option<Usage> {
        (self.kind == Kind::Keyed).then(|| Usage { input_tokens: 5, output_tokens: 2, ..Default::default() })
    }

    pub fn charge(&self, trace_id: String) -> DeductQuotaRequest {
        let (api_key_id, usage) = (self.api_key(), self.usage());
        DeductQuotaRequest { trace_id, api_key_id, usage, ..charge(&self.user, self.kind.service(), 1) }
    }

    pub fn check(&self) -> CheckQuotaRequest {
        CheckQuotaRequest {
            user_id: self.user.clone(),
            service_name: self.kind.service().into(),
            count: 1,
            api_key_id: self.api_key(),
            estimated_input_tokens: 5,
            estimated_output_tokens: 2,
            ..Default::default()
        }
    }

    pub fn is_funded(&self) -> bool {
        self.free > 0 || self.balance >= self.kind.price()
    }

    pub fn is_at_limit(&self) -> bool {
        self.used >= self.limit
    }

    /// A check from any source agrees with the last acknowledged change.
    pub fn assert_agrees_with(&self, reply: &CheckQuotaReply) {
        assert_eq!((micros(reply.balance), reply.free_remaining), (self.balance, self.free), "{self:?} got {reply:?}");
        assert_eq!(reply.allowed, self.is_funded() && !self.is_at_limit(), "{self:?} got {reply:?}");
        let left = (self.kind == Kind::Capped).then(|| self.limit - self.used);
        assert_eq!(reply.daily_remaining, left, "{self:?} got {reply:?}");
    }
}

pub fn micros(amount: f64) -> i64 {
    (amount * 1e6).round() as i64
}
