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

/// The names of the cookies of a port.
#[derive(Debug, Clone, Copy)]
pub struct Cookies {
    /// A session with the token of its user. Only a sign-in, a sign-out, a renewal and the end of a session change it.
    pub session: &'static str,
    /// A session without a token, which binds the forms of visitors who have not signed in.
    pub visitor: &'static str,
}

/// The port of pages, and so their readers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Port {
    Public,
    Internal,
}

impl Port {
    /// The cookies of its sessions. Cookies of one host are for all its ports. Over TLS, the prefix keeps pages of
    /// neighbouring hosts from setting them.
    pub fn cookies(self, is_secure: bool) -> Cookies {
        match (self, is_secure) {
            (Self::Public, false) => Cookies { session: "billing_console", visitor: "billing_console_visitor" },
            (Self::Public, true) => {
                Cookies { session: "__Host-billing_console", visitor: "__Host-billing_console_visitor" }
            }
            (Self::Internal, false) => Cookies { session: "billing_operator", visitor: "billing_operator_visitor" },
            (Self::Internal, true) => {
                Cookies { session: "__Host-billing_operator", visitor: "__Host-billing_operator_visitor" }
            }
        }
    }
}
