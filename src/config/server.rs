//! `server`: the listeners and their limits.

use std::{path::PathBuf, time::Duration};

use serde::Deserialize;

use super::{
    choices::{self, Style, UnknownFields},
    secret::Secret,
    values,
};

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    pub http: HttpPort,
    pub grpc: GrpcPort,
    pub limits: ServerLimits,
    /// TLS of both ports; `None` serves without TLS.
    pub tls: Option<ServerTls>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerTls {
    pub cert_file: PathBuf,
    pub key_file: PathBuf,
    /// The authorities of client certificates; `None` asks for no certificate.
    #[serde(default)]
    pub client_ca_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpPort {
    #[serde(deserialize_with = "values::address")]
    pub addr: String,
    #[serde(deserialize_with = "values::duration")]
    pub timeout: Duration,
    #[serde(deserialize_with = "choices::style")]
    pub style: Style,
    pub internal_routes: bool,
    #[serde(deserialize_with = "choices::unknown_fields")]
    pub unknown_fields: UnknownFields,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GrpcPort {
    #[serde(deserialize_with = "values::address")]
    pub addr: String,
    #[serde(deserialize_with = "values::duration")]
    pub timeout: Duration,
    /// Callers of the internal service must send one of these tokens. An empty list means no check.
    #[serde(deserialize_with = "values::secrets")]
    pub internal_tokens: Vec<Secret>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerLimits {
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub connections: usize,
    /// 0 means half of the connections of a port.
    #[serde(deserialize_with = "values::up_to_a_million_or_none")]
    pub connections_per_address: usize,
    #[serde(deserialize_with = "values::duration")]
    pub idle_timeout: Duration,
    #[serde(deserialize_with = "values::duration")]
    pub write_timeout: Duration,
    #[serde(deserialize_with = "values::duration")]
    pub max_connection_age: Duration,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub requests: usize,
    #[serde(deserialize_with = "values::up_to_a_million")]
    pub streams: usize,
    #[serde(deserialize_with = "values::body_bytes")]
    pub body_bytes: usize,
    #[serde(deserialize_with = "values::duration")]
    pub drain_timeout: Duration,
}

impl Default for HttpPort {
    fn default() -> Self {
        Self {
            addr: "0.0.0.0:8107".into(),
            timeout: Duration::from_secs(1),
            style: Style::Plain,
            internal_routes: false,
            unknown_fields: UnknownFields::Warn,
        }
    }
}

impl Default for GrpcPort {
    fn default() -> Self {
        Self { addr: "0.0.0.0:9107".into(), timeout: Duration::from_secs(1), internal_tokens: Vec::new() }
    }
}

impl Default for ServerLimits {
    fn default() -> Self {
        Self {
            connections: 10_000,
            connections_per_address: 0,
            idle_timeout: Duration::from_secs(300),
            write_timeout: Duration::from_secs(30),
            max_connection_age: Duration::from_secs(600),
            requests: 20_000,
            streams: 10_000,
            body_bytes: 1024 * 1024,
            drain_timeout: Duration::from_secs(30),
        }
    }
}
