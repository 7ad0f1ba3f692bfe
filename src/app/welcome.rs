//! The lines that a server of a developer prints once it serves.

use std::{fmt::Write, net::SocketAddr};

use crate::{
    config::{Config, Driver, Environment, LogFormat},
    data::dsn,
    server::reachable,
};

/// The page that describes the API, on both ports.
const DOCS_PATH: &str = "/docs";

/// The first page of the console.
const CONSOLE_PATH: &str = "/console";

/// Addresses, documents, console, sandbox, data and the way to stop. `None` unless the environment is
/// `development` and the logs are text: other servers print nothing beside their log.
pub(super) fn lines(config: &Config, http: SocketAddr, grpc: SocketAddr) -> Option<String> {
    if config.environment != Some(Environment::Development) || config.log.format != LogFormat::Text {
        return None;
    }
    let scheme = if config.server.tls.is_some() { "https" } else { "http" };
    let (http, grpc) = (reachable(http), reachable(grpc));
    let docs = format!("{scheme}://{http}{DOCS_PATH}");
    let console = match config.console.enabled {
        true => format!("{scheme}://{http}{CONSOLE_PATH} for users; {scheme}://{grpc}{CONSOLE_PATH} for operators"),
        false => "off; console.enabled: true turns it on".into(),
    };
    let sandbox = match &config.payment_service {
        Some(payment) if payment.sandbox => {
            format!("http://{} simulates payment-service; no money moves", payment.grpc_addr)
        }
        Some(payment) => format!("none; payment-service is at {}", payment.grpc_addr),
        None => "none; top-ups are refused".into(),
    };
    let data = match config.data.database.driver {
        Driver::Sqlite => format!(
            "{}; stop the server and remove the file to begin anew",
            dsn::redacted(config.data.database.source.reveal())
        ),
        Driver::Mysql => "the MySQL database of data.database.source".into(),
    };
    let mut lines = String::new();
    for (name, text) in [
        ("serving", format!("REST on {scheme}://{http}; gRPC, internal REST and /metrics on {scheme}://{grpc}")),
        ("docs", docs),
        ("console", console),
        ("sandbox", sandbox),
        ("data", data),
        ("stop", format!("Ctrl-C, or kill {}", std::process::id())),
    ] {
        // Writing to a text never fails.
        let _ = writeln!(lines, "{name:<8} {text}");
    }
    Some(lines)
}
