//! Watches several nodes, and changes the node in use: at once when it says that it is unfit, soon
//! when it stops answering, and back to a preferred node that has been well for a while.

use std::time::Duration;

use futures_util::future::join_all;
use sqlx::{MySqlConnection, mysql::MySqlConnectOptions};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    Nodes, Pace,
    check::{self, Fault},
};
use crate::{
    biz::values::error::StoreError,
    data::mysql::{connect::connect, connections::Connections},
};

/// Time between the starts of two rounds of checks.
const INTERVAL: Duration = Duration::from_secs(1);
/// As [`INTERVAL`], while the node in use does not answer.
const RETRY_INTERVAL: Duration = Duration::from_millis(250);
/// Deadline of the check of one node.
const CHECK_TIMEOUT: Duration = Duration::from_secs(1);
/// Rounds without an answer after which a node is left.
const MAX_SILENT_ROUNDS: u32 = 2;
/// Watches until the handle is dropped. `None` for a single node.
pub(crate) fn start(nodes: &Nodes, pools: Vec<Connections>) -> Option<AbortOnDropHandle<()>> {
    nodes.are_several().then(|| AbortOnDropHandle::new(tokio::spawn(watch(nodes.clone(), pools))))
}

async fn watch(nodes: Nodes, pools: Vec<Connections>) {
    let options = nodes.0.nodes.iter().map(|node| node.options.clone());
    let mut probes: Vec<_> = options.map(|options| Probe { options, connection: None }).collect();
    let mut preference = Preference::new(probes.len(), wait_before_return(nodes.0.pace));
    let mut next_round = Instant::now();
    loop {
        sleep_until(next_round).await;
        let begun = Instant::now();
        let checks = join_all(probes.iter_mut().map(Probe::check)).await;
        let in_use = nodes.in_use().index;
        match preference.decide(in_use, &checks, Instant::now()) {
            Decision::Stay => {}
            Decision::Change { to, is_lost } => {
                log_change(&nodes, in_use, to, &checks);
                nodes.change(to, is_lost);
                pools.iter().for_each(Connections::close_idle);
            }
            Decision::NoneUsable => tracing::error!(
                host = nodes.0.nodes[in_use].name,
                fault = fault_of(&checks[in_use]),
                "database host not usable, and no other host is"
            ),
        }
        next_round = begun + if preference.is_in_doubt() { RETRY_INTERVAL } else { INTERVAL };
    }
}

fn log_change(nodes: &Nodes, from: usize, to: usize, checks: &[Finding]) {
    let name = |index: usize| nodes.0.nodes[index].name.as_str();
    match &checks[from] {
        Finding::Well(_) => tracing::info!(from = name(from), to = name(to), "returning to a preferred database host"),
        Finding::Faulty(fault) => {
            tracing::warn!(from = name(from), to = name(to), %fault, "database host not usable; changing to another");
        }
    }
}

fn fault_of(finding: &Finding) -> String {
    match finding {
        Finding::Well(_) => String::new(),
        Finding::Faulty(fault) => fault.to_string(),
    }
}

fn wait_before_return(pace: Pace) -> Duration {
    pace.return_after + pace.return_jitter * fastrand::u32(..1_024) / 1_024
}

/// The result of one check.
#[derive(Debug)]
enum Finding {
    /// With the id of the database, if it has one yet.
    Well(Option<String>),
    Faulty(Fault),
}

/// The connection for the checks of one node.
struct Probe {
    options: MySqlConnectOptions,
    connection: Option<MySqlConnection>,
}

impl Probe {
    async fn check(&mut self) -> Finding {
        let silent = |_| Err(Fault::Silent(StoreError::Unavailable("no answer in time".into())));
        match timeout(CHECK_TIMEOUT, self.ask()).await.unwrap_or_else(silent) {
            Ok(id) => Finding::Well(id),
            Err(fault) => Finding::Faulty(fault),
        }
    }

    async fn ask(&mut self) -> Result<Option<String>, Fault> {
        // Out of `self`: a check that is cut off by its deadline must not leave its connection.
        if let Some(mut connection) = self.connection.take() {
            match check::database(&mut connection).await {
                // Closed while idle. A new connection finds out more.
                Err(Fault::Silent(_)) => {}
                answer => {
                    self.connection = Some(connection);
                    return answer;
                }
            }
        }
        let mut connection = connect(&self.options).await?;
        let answer = check::database(&mut connection).await;
        self.connection = Some(connection);
        answer
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Stay,
    /// `is_lost`: the node in use is faulty, and not left for a preferred one.
    Change {
        to: usize,
        is_lost: bool,
    },
    /// The node in use became unusable, and there is no better one. Follows once.
    NoneUsable,
}

/// The choice of the node, from what the checks found.
struct Preference {
    wait_before_return: Duration,
    silent_rounds: u32,
    /// For each node, the time since which all checks found it well.
    well_since: Vec<Option<Instant>>,
    /// The id that the node in use had last.
    database: Option<String>,
    said_none: bool,
}

impl Preference {
    fn new(nodes: usize, wait_before_return: Duration) -> Self {
        let well_since = vec![None; nodes];
        Self { wait_before_return, silent_rounds: 0, well_since, database: None, said_none: false }
    }

    /// Whether the node in use did not answer, and is not left yet.
    fn is_in_doubt(&self) -> bool {
        self.silent_rounds > 0
    }

    fn decide(&mut self, in_use: usize, checks: &[Finding], now: Instant) -> Decision {
        if let Some(Finding::Well(Some(id))) = checks.get(in_use) {
            self.database = Some(id.clone());
        }
        for (since, finding) in self.well_since.iter_mut().zip(checks) {
            match finding {
                // A node with another database would get charges that the others do not have.
                Finding::Well(id) if self.database.is_none() || *id == self.database => {
                    since.get_or_insert(now);
                }
                _ => *since = None,
            }
        }
        match checks.get(in_use) {
            Some(Finding::Faulty(Fault::Silent(_))) => {
                self.silent_rounds += 1;
                if self.silent_rounds < MAX_SILENT_ROUNDS {
                    return Decision::Stay;
                }
            }
            Some(Finding::Faulty(_)) => {}
            _ => {
                (self.silent_rounds, self.said_none) = (0, false);
                return self.best_return(in_use, now);
            }
        }
        match self.well_since.iter().position(Option::is_some) {
            Some(to) => {
                (self.silent_rounds, self.said_none) = (0, false);
                Decision::Change { to, is_lost: true }
            }
            None if std::mem::replace(&mut self.said_none, true) => Decision::Stay,
            None => Decision::NoneUsable,
        }
    }

    fn best_return(&self, in_use: usize, now: Instant) -> Decision {
        let mut preferred = self.well_since.iter().take(in_use);
        let has_waited = |since: &Option<Instant>| since.is_some_and(|since| now - since >= self.wait_before_return);
        match preferred.position(has_waited) {
            Some(to) => Decision::Change { to, is_lost: false },
            None => Decision::Stay,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{RETURN_AFTER, RETURN_JITTER},
        *,
    };

    fn well() -> Finding {
        Finding::Well(Some("id".into()))
    }

    fn silent() -> Finding {
        Finding::Faulty(Fault::Silent(StoreError::Unavailable("silent".into())))
    }

    fn read_only() -> Finding {
        Finding::Faulty(Fault::Unfit("read-only"))
    }

    fn preference() -> Preference {
        let mut preference = Preference::new(3, RETURN_AFTER);
        assert_eq!(preference.decide(0, &[well(), well(), well()], Instant::now()), Decision::Stay);
        preference
    }

    #[test]
    fn a_silent_node_is_left_after_some_rounds_and_an_unfit_node_at_once() {
        let now = Instant::now();
        let mut preference = preference();
        for round in 1..MAX_SILENT_ROUNDS {
            assert_eq!(preference.decide(0, &[silent(), well(), well()], now), Decision::Stay, "{round}");
            assert!(preference.is_in_doubt());
        }
        let lost = Decision::Change { to: 1, is_lost: true };
        assert_eq!(preference.decide(0, &[silent(), well(), well()], now), lost);
        assert!(!preference.is_in_doubt());
        // An answer between two silent rounds counts.
        assert_eq!(preference.decide(1, &[silent(), silent(), well()], now), Decision::Stay);
        assert_eq!(preference.decide(1, &[silent(), well(), well()], now), Decision::Stay);
        assert_eq!(preference.decide(1, &[silent(), silent(), well()], now), Decision::Stay);
        let unfit = Decision::Change { to: 2, is_lost: true };
        assert_eq!(preference.decide(1, &[silent(), read_only(), well()], now), unfit);
        let refused = Finding::Faulty(Fault::Refused("no such user".into()));
        let first = Decision::Change { to: 0, is_lost: true };
        assert_eq!(preference.decide(2, &[well(), well(), refused], now), first, "the first in order");
    }

    #[test]
    fn a_preferred_node_is_used_again_after_it_was_well_for_long() {
        let (mut preference, begun) = (preference(), Instant::now());
        assert!(matches!(
            preference.decide(0, &[read_only(), read_only(), well()], begun),
            Decision::Change { to: 2, .. }
        ));
        let mut decide =
            |checks: [Finding; 3], second: u64| preference.decide(2, &checks, begun + Duration::from_secs(second));
        assert_eq!(decide([well(), read_only(), well()], 1), Decision::Stay);
        // One failed check begins the wait anew.
        assert_eq!(decide([silent(), well(), well()], 50), Decision::Stay);
        assert_eq!(decide([well(), well(), well()], 51), Decision::Stay);
        assert_eq!(decide([well(), well(), well()], 109), Decision::Stay);
        let second = Decision::Change { to: 1, is_lost: false };
        assert_eq!(decide([well(), well(), well()], 110), second, "the second has waited, the first has not");
        assert_eq!(decide([well(), well(), well()], 111), Decision::Change { to: 0, is_lost: false });
    }

    #[test]
    fn a_node_that_is_lost_before_its_first_check_is_left() {
        let mut preference = Preference::new(2, RETURN_AFTER);
        let unfit = Decision::Change { to: 1, is_lost: true };
        assert_eq!(preference.decide(0, &[read_only(), well()], Instant::now()), unfit);
    }

    #[test]
    fn a_node_with_another_database_is_never_used() {
        let mut preference = preference();
        let other = || Finding::Well(Some("other".into()));
        let empty = || Finding::Well(None);
        let now = Instant::now();
        assert_eq!(preference.decide(0, &[read_only(), other(), empty()], now), Decision::NoneUsable);
        assert_eq!(preference.decide(0, &[read_only(), other(), empty()], now), Decision::Stay, "said already");
        let third = Decision::Change { to: 2, is_lost: true };
        assert_eq!(preference.decide(0, &[read_only(), other(), well()], now), third);
        let later = now + 2 * RETURN_AFTER;
        assert_eq!(preference.decide(2, &[other(), other(), well()], later), Decision::Stay);
    }

    #[test]
    fn the_wait_before_a_return_is_within_its_limits() {
        for _ in 0..100 {
            let wait = wait_before_return(Pace::default());
            assert!((RETURN_AFTER..RETURN_AFTER + RETURN_JITTER).contains(&wait), "{wait:?}");
        }
    }
}
