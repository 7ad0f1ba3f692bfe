//! The bounds of one port.

use std::time::Duration;

/// Bounds of one port.
#[derive(Debug, Clone, Copy)]
pub struct ListenerLimits {
    /// Connections that are served. Those beyond reach health alone.
    pub connections: usize,
    /// The part of them that one address may have.
    pub connections_per_address: usize,
    /// The part of them that peers without a proof may have; `None` for a port that asks for no proof.
    pub unproven_connections: Option<usize>,
    /// Longest time of a connection without an open request.
    pub idle_timeout: Duration,
    /// Longest time in which a client takes nothing of what is sent to it.
    pub write_timeout: Duration,
    /// Age at which a connection takes no further requests, give or take a tenth.
    pub max_connection_age: Duration,
    /// Refused calls of one connection at once, whose answers do not wait. They come back within ten seconds.
    pub refused_calls: usize,
    /// The wait of the answer to a refused call beyond them.
    pub refusal_pause: Duration,
    /// Answers of the port that wait at once. A connection with a further one ends.
    pub held_refusals: usize,
    /// Answers of one connection that wait at once. With a further one it ends.
    pub held_refusals_per_connection: usize,
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

impl ListenerLimits {
    /// The bounds by default.
    pub const DEFAULT: Self = Self {
        connections: 1_000,
        connections_per_address: 1_000,
        unproven_connections: None,
        idle_timeout: Duration::from_secs(300),
        write_timeout: Duration::from_secs(30),
        max_connection_age: Duration::from_secs(600),
        refused_calls: 1_000,
        refusal_pause: Duration::from_secs(1),
        held_refusals: 20_000,
        held_refusals_per_connection: 256,
        drain_timeout: Duration::from_secs(30),
        connection_window: None,
    };
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}
