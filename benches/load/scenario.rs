//! The scenarios. To add one, add a line in [`SHAPES`].

use anyhow::ensure;
use serde::Serialize;

use crate::{
    arguments::Arguments,
    fleet::{
        Fleet,
        Routing::{self, Affine, Random},
    },
    operation::Operation,
};

/// The measured system.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// The baseline design on MariaDB.
    Baseline,
    /// A rate limiter that counts in Redis.
    Limiter,
    Mysql,
    /// As [`Self::Mysql`], with TLS and with tokens of the callers.
    Secured,
    /// As [`Self::Mysql`], with traces of 1% of the calls.
    Telemetry,
    /// As [`Self::Mysql`], where every user has ten thresholds of each kind.
    Alerts,
    Sqlite,
}

/// All systems, in the order of a round.
const SYSTEMS: [System; 7] = [
    System::Baseline,
    System::Limiter,
    System::Mysql,
    System::Secured,
    System::Telemetry,
    System::Alerts,
    System::Sqlite,
];

impl System {
    pub fn name(self) -> &'static str {
        match self {
            System::Baseline => "baseline",
            System::Limiter => "limiter",
            System::Mysql => "mysql",
            System::Secured => "secured",
            System::Telemetry => "telemetry",
            System::Alerts => "alerts",
            System::Sqlite => "sqlite",
        }
    }
}

/// An operation with its numbers of callers and users. `baseline`: also measured on the baseline and the limiter; `varied`:
/// also with TLS and tokens, with traces and, if it charges, with alerts.
struct Shape {
    name: &'static str,
    operation: Operation,
    callers: usize,
    users: u32,
    baseline: bool,
    varied: bool,
    fleet: Option<Fleet>,
}

/// All shapes. `hot` means one user, and `spread` many users.
const SHAPES: &[Shape] = &[
    shape(EMPTY, Operation::Empty, 100, 1, false),
    shape("deduct-lone", Operation::Deduct, 1, 1_000, true),
    also_varied(shape("deduct-100-spread", Operation::Deduct, 100, 1_000, true)),
    shape("deduct-100-hot", Operation::Deduct, 100, 1, true),
    shape("deduct-1000-spread", Operation::Deduct, 1_000, 10_000, true),
    shape("deduct-1000-hot", Operation::Deduct, 1_000, 1, false),
    shape("deduct-50-spread", Operation::Deduct, 50, 220, false),
    shape(LOCKED, Operation::Deduct, 50, 220, false),
    // The second one is to reach nine tenths of the first.
    shape("deduct-model-flat", Operation::Model { is_tiered: false }, 100, 1_000, false),
    shape("deduct-model-tiered", Operation::Model { is_tiered: true }, 100, 1_000, false),
    shape("batch-500", Operation::Batch { items: 500 }, 8, 1_000, false),
    shape(BUSIEST, Operation::Batch { items: 50 }, 64, 10_000, false),
    also_varied(shape("check", Operation::Check { count: 1 }, 100, 1_000, false)),
    // The users have less than a thousand times these units, so each check reads Redis.
    shape("check-near-limit", Operation::Check { count: 20 }, 100, 1_000, false),
    shape("reserve-commit", Operation::Pair, 100, 1_000, false),
    shape("stream-chunks", Operation::Stream { chunks: 500, pause_ms: 0 }, 100, 1_000, false),
    // Twenty tokens per second and stream.
    shape("stream-paced", Operation::Stream { chunks: 20, pause_ms: 50 }, 1_000, 1_000, false),
    servers(ONE_SERVER, 1_000, 1, Random),
    servers("servers-2-random", 1_000, 2, Random),
    servers("servers-2-affine", 1_000, 2, Affine),
    servers("servers-4-random", 1_000, 4, Random),
    servers("servers-4-affine", 1_000, 4, Affine),
    with_a_kill(servers("servers-2-random-killed", 1_000, 2, Random)),
    with_a_kill(servers("servers-2-affine-killed", 1_000, 2, Affine)),
    with_a_kill(servers("servers-4-affine-killed", 1_000, 4, Affine)),
    servers(ONE_SERVER_HOT, 1, 1, Random),
    servers("servers-2-hot", 1, 2, Random),
    servers("servers-4-hot", 1, 4, Random),
];

const fn shape(name: &'static str, operation: Operation, callers: usize, users: u32, baseline: bool) -> Shape {
    Shape { name, operation, callers, users, baseline, varied: false, fleet: None }
}

const fn also_varied(shape: Shape) -> Shape {
    Shape { varied: true, ..shape }
}

/// Charges by 100 callers through several servers on one database.
const fn servers(name: &'static str, users: u32, servers: usize, routing: Routing) -> Shape {
    let fleet = Some(Fleet { servers, routing, kills_one: false });
    Shape { fleet, ..shape(name, Operation::Deduct, 100, users, false) }
}

const fn with_a_kill(shape: Shape) -> Shape {
    match shape.fleet {
        Some(fleet) => Shape { fleet: Some(Fleet { kills_one: true, ..fleet }), ..shape },
        None => shape,
    }
}

/// The shape that other shapes are compared with.
pub const EMPTY: &str = "empty";
/// The shape that overload doubles. It uses batches, because with one call per charge the
/// callers, on the same cores, could not send twice the rate that the service reaches.
pub const BUSIEST: &str = "batch-50";
/// Like `deduct-50-spread`, while another session locks the row of one more user, and that user is
/// charged once a second. Both scenarios should have the same rate.
pub const LOCKED: &str = "deduct-50-locked";
/// The shapes that several servers are compared with, for many users and for one.
pub const ONE_SERVER: &str = "servers-1";
pub const ONE_SERVER_HOT: &str = "servers-1-hot";
/// An open loop at twice the rate of [`BUSIEST`].
pub const OVERLOAD: &str = "overload";
/// Number of users in the databases.
pub const USERS: u32 = 10_000;

/// One shape on one system.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    pub system: System,
    pub shape: &'static str,
    pub operation: Operation,
    pub callers: usize,
    pub users: u32,
    pub fleet: Option<Fleet>,
}

impl Scenario {
    /// The shape with one server that this one is compared with.
    pub fn one_server(&self) -> Option<&'static str> {
        self.fleet.filter(|fleet| fleet.servers > 1).map(|_| match self.users {
            1 => ONE_SERVER_HOT,
            _ => ONE_SERVER,
        })
    }

    pub fn name(&self) -> String {
        format!("{}.{}", self.system.name(), self.shape)
    }
}

/// The scenarios of one run.
pub struct Plan {
    /// In the order of a round: for each shape, one system after the other.
    pub scenarios: Vec<Scenario>,
    /// Systems to overload at the end.
    pub overload: Vec<System>,
}

impl Plan {
    /// The scenarios that `arguments` select.
    ///
    /// # Errors
    /// No scenario matches.
    pub fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let systems: Vec<System> = SYSTEMS
            .into_iter()
            .filter(|system| if *system == System::Sqlite { !arguments.skip_sqlite } else { !arguments.skip_mysql })
            .collect();
        let is_selected = |system: System, shape: &str| {
            let name = format!("{}.{shape}", system.name());
            arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part.as_str()))
        };
        let overload: Vec<System> = systems
            .iter()
            .copied()
            .filter(|&system| matches!(system, System::Mysql | System::Sqlite))
            .filter(|&system| is_selected(system, OVERLOAD) && arguments.open.is_none())
            .collect();
        let mut scenarios = Vec::new();
        for shape in SHAPES {
            for &system in &systems {
                let exists = match system {
                    // Several servers need MariaDB, and an open loop has one target.
                    _ if shape.fleet.is_some() => system == System::Mysql && arguments.open.is_none(),
                    System::Baseline => shape.baseline,
                    System::Limiter => shape.baseline && shape.callers > 1,
                    System::Mysql => true,
                    System::Secured | System::Telemetry => shape.varied,
                    System::Alerts => shape.varied && shape.operation == Operation::Deduct,
                    // SQLite has one writer at a time, and no row locks.
                    System::Sqlite => shape.name != LOCKED,
                };
                let needed = shape.name == BUSIEST && overload.contains(&system);
                if exists && (needed || is_selected(system, shape.name)) {
                    let &Shape { name, operation, callers, users, fleet, .. } = shape;
                    scenarios.push(Scenario { system, shape: name, operation, callers, users, fleet });
                }
            }
        }
        ensure!(!scenarios.is_empty(), "no scenario name contains {}", arguments.only.join(" or "));
        Ok(Self { scenarios, overload })
    }

    pub fn needs(&self, system: System) -> bool {
        self.scenarios.iter().any(|scenario| scenario.system == system)
    }
}
