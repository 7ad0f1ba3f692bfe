//! The bounds of one port.

use std::time::Duration;

/// Bounds of one port.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    pub connections: usize,
    /// Longest time of open requests after the stop.
    pub drain_timeout: Duration,
    /// The receive window of an HTTP/2 connection, in bytes; `None` means hyper's default.
    pub connection_window: Option<u32>,
}

/// The receive window of the port that meters streams. h2 also bounds small unread frames by it: each
/// counts 255 bytes of half the window. Messages of metered streams are small, and a thousand streams
/// may wait for the database at once. The window has room for sixteen messages of each, so that the
/// connection is not closed.
pub const METERING_WINDOW: u32 = 8 * 1024 * 1024;
