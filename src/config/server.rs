//! `server`: the listeners and their limits.

use std::{path::PathBuf, time::Duration};

use anyhow::bail;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::{
    access::{self, Cors, GrpcAuth, HttpAuth},
    choices::{self, FrontEndAuth, Style, UnknownFields},
    secret::Secret,
    shown::shown,
    values,
};

#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    pub http: HttpPort,
    pub grpc: GrpcPort,
    pub limits: ServerLimits,
    /// Allows a start with open doors in production.
    pub insecure: bool,
    /// The proxies whose `X-Forwarded-For` is believed.
    #[serde(deserialize_with = "access::networks", serialize_with = "shown")]
    pub trusted_proxies: Vec<IpNet>,
    /// TLS of both ports; `None` serves without TLS.
    pub tls: Option<ServerTls>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// The authorities of client certificates; `None` asks for no certificate.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpPort {
    #[serde(deserialize_with = "values::address")]
    pub addr: String,
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub timeout: Duration,
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub style: Style,
    pub internal_routes: bool,
    #[serde(deserialize_with = "choices::word", serialize_with = "shown")]
    pub unknown_fields: UnknownFields,
    pub auth: HttpAuth,
    pub cors: Cors,
    /// The names by which clients reach the port; an empty list allows every name.
    #[serde(deserialize_with = "access::hosts")]
    pub hosts: Vec<String>,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcPort {
    #[serde(deserialize_with = "values::address")]
    pub addr: String,
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub timeout: Duration,
    /// Tokens of callers with the role admin.
    #[serde(deserialize_with = "values::secrets")]
    pub internal_tokens: Vec<Secret>,
    internal_tokens_file: Option<PathBuf>,
    pub auth: GrpcAuth,
}

#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerLimits {
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub connections: usize,
    /// 0 means half of the connections of a port.
    #[serde(deserialize_with = "values::up_to_a_million_or_none")]
    pub connections_per_address: usize,
    /// Connections of a port on which no request has proven itself. 0 means half of a port.
    #[serde(deserialize_with = "values::up_to_a_million_or_none")]
    pub unproven_connections: usize,
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub idle_timeout: Duration,
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub write_timeout: Duration,
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub max_connection_age: Duration,
    /// Connections of a port that wait to be accepted.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub accept_queue: usize,
    /// Refused calls of one connection whose answers do not wait.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub refused_calls: usize,
    /// The wait of the answer to a refused call beyond them.
    #[serde(deserialize_with = "values::refusal_pause", serialize_with = "shown")]
    pub refusal_pause: Duration,
    /// Answers of a port that wait at once.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub held_refusals: usize,
    /// Answers of a connection that wait at once.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub held_refusals_per_connection: usize,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub requests: usize,
    /// Open requests of one caller. 0 means half of them, or all with fewer than two callers.
    #[serde(deserialize_with = "values::up_to_a_million_or_none")]
    pub requests_per_caller: usize,
    /// Open requests of one user of the public port.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub requests_per_user: usize,
    /// Open requests that need no proof.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub open_requests: usize,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub open_requests_per_address: usize,
    /// Streams of gRPC health and of reflection.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub watches: usize,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub watches_per_address: usize,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub streams: usize,
    /// Open streams of one caller. 0 means half of them, or all with fewer than two callers.
    #[serde(deserialize_with = "values::up_to_a_million_or_none")]
    pub streams_per_caller: usize,
    /// Streams of one caller whose first message has not come. They end together, so more of them would be a burst
    /// that others feel.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub unopened_streams_per_caller: usize,
    #[serde(deserialize_with = "values::body_bytes")]
    pub body_bytes: usize,
    /// Most bytes of request bodies in memory.
    #[serde(deserialize_with = "values::body_memory")]
    pub body_memory: usize,
    /// Callbacks without a proof that may look at an order, each second.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub callback_lookups: usize,
    /// Wrong tokens of one address at once.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub wrong_tokens: usize,
    /// Most top-ups that are being started.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub recharges: usize,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub recharges_per_user: usize,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub recharges_per_address: usize,
    /// Most top-ups of a user that wait for their payment.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub open_recharges: usize,
    /// Reads of lists and statistics of one account that run at once.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub reads_per_account: usize,
    /// Such reads of one account that wait for their turn.
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub waiting_reads_per_account: usize,
    #[serde(deserialize_with = "values::up_to_a_thousand")]
    pub exports: usize,
    #[serde(deserialize_with = "values::up_to_a_thousand")]
    pub exports_per_user: usize,
    /// Longest time in which a reader of an export takes nothing.
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub export_stall: Duration,
    /// The text of `/metrics` is made at most once in this time.
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub metrics_interval: Duration,
    #[serde(deserialize_with = "values::duration", serialize_with = "shown")]
    pub drain_timeout: Duration,
}

/// The least memory for bodies, as a multiple of the largest: three for the internal port, where a body
/// is there compressed, inflated and as a message, and one for the public port.
const BODIES_AT_LEAST: usize = 4;

impl ServerLimits {
    /// The part of the public port, whose bodies are small.
    pub fn public_body_memory(&self) -> usize {
        self.body_memory / 4
    }

    /// The part of the internal port.
    pub fn internal_body_memory(&self) -> usize {
        self.body_memory - self.public_body_memory()
    }
}

impl Server {
    /// Whether the internal port asks its callers for a proof.
    pub fn has_callers(&self) -> bool {
        !self.grpc.internal_tokens.is_empty() || !self.grpc.auth.callers.is_empty()
    }

    /// The most that one caller has of `all`: the configured number, or by default half. Without another
    /// caller nobody needs the other half.
    pub fn share_of_caller(&self, configured: usize, all: usize) -> usize {
        let tokens = usize::from(!self.grpc.internal_tokens.is_empty());
        match configured {
            0 if tokens + self.grpc.auth.callers.len() < 2 => all,
            0 => all.div_ceil(2),
            configured => configured,
        }
    }

    /// Checks the rules that involve several keys.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.grpc.auth.check()?;
        self.http.auth.check()?;
        if self.limits.body_memory / BODIES_AT_LEAST < self.limits.body_bytes {
            bail!(
                "config key server.limits.body_memory: must be at least {BODIES_AT_LEAST} times server.limits.body_bytes"
            );
        }
        if self.http.auth.mode() == FrontEndAuth::Gateway && !self.has_callers() {
            bail!(
                "config key server.grpc.auth.callers: mode gateway of server.http.auth needs a caller with the role gateway"
            );
        }
        let asks_for_certificates = self.tls.as_ref().is_some_and(|tls| tls.client_ca_file.is_some());
        if !asks_for_certificates && self.grpc.auth.callers.iter().any(|caller| !caller.certificate.is_empty()) {
            bail!(
                "config key server.tls.client_ca_file: a caller of server.grpc.auth.callers has a certificate, which needs it"
            );
        }
        if self.grpc.auth.protect_operations && !self.has_callers() {
            bail!("config key server.grpc.auth.protect_operations: needs server.grpc.auth.callers");
        }
        Ok(())
    }

    /// The keys that leave a door open, with the danger of each.
    pub(super) fn open_doors(&self) -> Vec<(&'static str, &'static str)> {
        let mut open = Vec::new();
        if !self.has_callers() {
            open.push(("server.grpc.auth.callers", "is empty, so any peer of the port may charge and adjust accounts"));
        }
        if self.http.auth.mode() == FrontEndAuth::None && !is_loopback(&self.http.addr) {
            open.push(("server.http.auth.mode", "is none, so any peer of the port reads any account"));
        }
        if self.http.hosts.is_empty() && !is_loopback(&self.http.addr) {
            open.push((
                "server.http.hosts",
                "is empty, so a page of an attacker may reach the port under a name of its own",
            ));
        }
        if self.http.internal_routes {
            open.push(("server.http.internal_routes", "serves the internal routes to front ends"));
        }
        open
    }
}

/// Whether a listener on `addr` is out of reach for other machines.
pub(super) fn is_loopback(addr: &str) -> bool {
    let host = addr.rsplit_once(':').map_or(addr, |(host, _)| host).trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Default for HttpPort {
    fn default() -> Self {
        Self {
            addr: "0.0.0.0:8107".into(),
            timeout: Duration::from_secs(1),
            style: Style::Plain,
            internal_routes: false,
            unknown_fields: UnknownFields::Warn,
            auth: HttpAuth::default(),
            cors: Cors::default(),
            hosts: Vec::new(),
        }
    }
}

impl Default for GrpcPort {
    fn default() -> Self {
        Self {
            addr: "0.0.0.0:9107".into(),
            timeout: Duration::from_secs(1),
            internal_tokens: Vec::new(),
            internal_tokens_file: None,
            auth: GrpcAuth::default(),
        }
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 0,
            unproven_connections: 0,
            idle_timeout: Duration::from_secs(300),
            write_timeout: Duration::from_secs(30),
            max_connection_age: Duration::from_secs(600),
            accept_queue: 4_096,
            refused_calls: 1_000,
            refusal_pause: Duration::from_secs(1),
            held_refusals: 20_000,
            held_refusals_per_connection: 256,
            requests: 20_000,
            requests_per_caller: 0,
            requests_per_user: 100,
            open_requests: 256,
            open_requests_per_address: 64,
            watches: 1_000,
            watches_per_address: 100,
            streams: 10_000,
            streams_per_caller: 0,
            unopened_streams_per_caller: 1_000,
            body_bytes: 1024 * 1024,
            body_memory: 64 * 1024 * 1024,
            callback_lookups: 100,
            wrong_tokens: 100,
            recharges: 200,
            recharges_per_user: 5,
            recharges_per_address: 50,
            open_recharges: 100,
            reads_per_account: 2,
            waiting_reads_per_account: 20,
            exports: 8,
            exports_per_user: 2,
            export_stall: Duration::from_secs(30),
            metrics_interval: Duration::from_secs(1),
            drain_timeout: Duration::from_secs(30),
        }
    }
}
