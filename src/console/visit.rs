//! The visit of a browser, as the layer around all pages and the pages tell each other.

use std::time::Instant;

use super::session::Session;
use crate::texts::Language;

/// The visit of a browser: what the layer knows of a request.
#[derive(Debug, Clone)]
pub(super) struct Visit {
    pub language: Language,
    pub session: Session,
    /// Path and query.
    pub address: String,
    /// Whether the browser came over TLS.
    pub is_secure: bool,
    /// Whether another site may have led here, so that the browser kept its cookies to itself. Over plain HTTP a
    /// browser does not say so.
    pub may_lack_cookies: bool,
    /// The begin of the request.
    pub begun: Instant,
}

/// The session that a response begins in place of the old one.
#[derive(Debug, Clone)]
pub(super) struct NewSession(pub Session);

/// The language that a response sets.
#[derive(Debug, Clone, Copy)]
pub(super) struct NewLanguage(pub Language);
