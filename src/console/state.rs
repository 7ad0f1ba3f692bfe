//! The state of the pages.

use std::sync::Arc;

use super::session::Sessions;
use crate::{
    biz::{jobs::low_balance::Thresholds, values::calendar::Calendar},
    service::{Api, origin::Forwarding},
};

/// The state of all pages.
#[derive(Clone)]
pub struct Console {
    pub api: Arc<Api>,
    pub sessions: Arc<Sessions>,
    pub calendar: Arc<Calendar>,
    pub settings: Arc<Settings>,
}

/// The settings of all pages.
pub struct Settings {
    /// The port of the pages.
    pub port: Port,
    /// Whether readers sign in with a token.
    pub signs_in: bool,
    /// The account of a page that nobody named; empty for none. Counts only where users need no proof.
    pub demo_user: String,
    /// The configured origin of the pages of users.
    pub url: Option<String>,
    /// Whether the check of other origins admits listed values of `Host` alone.
    pub knows_hosts: bool,
    /// The currency of every amount.
    pub currency: String,
    /// Below them an account shows as low.
    pub thresholds: Thresholds,
    /// Whether the port has TLS.
    pub is_tls: bool,
    pub forwarding: Forwarding,
}

/// The port of pages, and so their readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Public,
    Internal,
}

impl Port {
    /// The cookie of its sessions. Cookies of one host are for all its ports.
    pub fn cookie(self) -> &'static str {
        match self {
            Self::Public => "billing_console",
            Self::Internal => "billing_operator",
        }
    }
}
