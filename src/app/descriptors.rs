//! The file descriptors of the process: as many as the configuration needs, and divided such that each port
//! has connections of its own.

use anyhow::bail;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::{
    biz::jobs::deliver_webhooks,
    config::{Config, Server},
    server::BEYOND_LIMIT,
};

/// Ports that take connections.
const PORTS: usize = 2;
/// Descriptors of all else: logs, files of SQLite, connections to Redis and payment-service, cron's and the
/// sandbox's ports.
const OTHERS: usize = 128;
/// Most connections to receivers of webhooks: those in use, and those that stay open.
const WEBHOOKS: usize = 2 * deliver_webhooks::IN_ALL;
/// Most lanes, each with a connection to the database.
const LANES: usize = 64;
/// Fewest connections of a port with which a server is of use.
const FEWEST: usize = 16;

/// Raises the limit of open files, and returns the connections that each port can have: as many as
/// configured, or as many as fit.
///
/// # Errors
/// The hard limit is too low for any use.
pub fn connections_of_a_port(config: &Config) -> anyhow::Result<usize> {
    let Server { limits, .. } = &config.server;
    let webhooks = if config.billing.webhooks.key.is_some() { WEBHOOKS } else { 0 };
    let own =
        OTHERS + webhooks + LANES + config.data.database.max_connections + config.billing.settlement.parked_connections;
    let wanted = own + PORTS * (limits.connections + BEYOND_LIMIT);
    let open_files = raise(wanted);
    let fits = fit(open_files, own);
    if fits < FEWEST {
        bail!(
            "config key server.limits.connections: the process may open {open_files} files (ulimit -Hn), which leaves \
             {fits} connections for a port; raise the limit to {wanted}"
        );
    }
    if fits < limits.connections {
        tracing::warn!(
            open_files,
            connections = fits,
            wanted,
            "server.limits.connections needs more open files than the hard limit (ulimit -Hn); each port takes fewer connections"
        );
    }
    Ok(fits.min(limits.connections))
}

/// Raises the soft limit to `wanted`, or to the hard limit if that is lower. Returns the limit in force.
/// It goes no higher, because programs exist that walk over all files that they may open.
fn raise(wanted: usize) -> usize {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let files = |limit: Option<u64>| limit.and_then(|limit| limit.try_into().ok()).unwrap_or(usize::MAX);
    let raised = wanted.min(files(maximum));
    if raised <= files(current) {
        return files(current);
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(raised as u64), maximum }) {
        Ok(()) => raised,
        Err(error) => {
            tracing::warn!(%error, "the limit of open files could not be raised");
            files(current)
        }
    }
}

/// The connections that each port can have with `open_files`, when the rest of the process has `own`.
fn fit(open_files: usize, own: usize) -> usize {
    (open_files.saturating_sub(own) / PORTS).saturating_sub(BEYOND_LIMIT)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_ports_fit_beside_the_rest() {
        for (open_files, own, connections) in [(1_024, 200, 348), (200, 200, 0), (330, 200, 1), (0, 200, 0)] {
            assert_eq!(fit(open_files, own), connections);
            assert!(connections == 0 || own + PORTS * (connections + BEYOND_LIMIT) <= open_files);
        }
    }
}
