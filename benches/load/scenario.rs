//! The list of what is measured. A new scenario is a line in [`SHAPES`].

use anyhow::ensure;
use serde::Serialize;

use crate::{arguments::Arguments, operation::Operation};

/// What is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// The baseline design on MariaDB.
    Baseline,
    Mysql,
    Sqlite,
}

impl System {
    pub fn name(self) -> &'static str {
        match self {
            System::Baseline => "baseline",
            System::Mysql => "mysql",
            System::Sqlite => "sqlite",
        }
    }
}

/// Callers and users of one operation, and whether the baseline is measured with it.
struct Shape {
    name: &'static str,
    operation: Operation,
    callers: usize,
    users: u32,
    baseline: bool,
}

/// Every shape there is. `hot` is one user, `spread` are many.
const SHAPES: &[Shape] = &[
    shape(EMPTY, Operation::Empty, 100, 1, false),
    shape("deduct-lone", Operation::Deduct, 1, 1_000, true),
    shape("deduct-100-spread", Operation::Deduct, 100, 1_000, true),
    shape("deduct-100-hot", Operation::Deduct, 100, 1, true),
    shape("deduct-1000-spread", Operation::Deduct, 1_000, 10_000, true),
    shape("deduct-1000-hot", Operation::Deduct, 1_000, 1, false),
    shape("batch-500", Operation::Batch { items: 500 }, 8, 1_000, false),
    shape(BUSIEST, Operation::Batch { items: 50 }, 64, 10_000, false),
    shape("check", Operation::Check { count: 1 }, 100, 1_000, false),
    // So many units are no thousandth of what the users have: each is read from Redis.
    shape("check-near-limit", Operation::Check { count: 20 }, 100, 1_000, false),
    shape("reserve-commit", Operation::Pair, 100, 1_000, false),
    shape("stream-chunks", Operation::Stream { chunks: 500, pause_ms: 0 }, 100, 1_000, false),
    // Twenty tokens a second each.
    shape("stream-paced", Operation::Stream { chunks: 20, pause_ms: 50 }, 1_000, 1_000, false),
];

const fn shape(name: &'static str, operation: Operation, callers: usize, users: u32, baseline: bool) -> Shape {
    Shape { name, operation, callers, users, baseline }
}

/// The shape that the others are compared to.
pub const EMPTY: &str = "empty";
/// The shape whose rate overload is twice. Batches, because with a call for each charge
/// the callers, on the same cores, could not send twice what the service takes.
pub const BUSIEST: &str = "batch-50";
/// Twice the rate that [`BUSIEST`] reached, whatever the answers.
pub const OVERLOAD: &str = "overload";
/// Users that any shape may call.
pub const USERS: u32 = 10_000;

/// One shape on one system.
#[derive(Debug, Clone, PartialEq)]
pub struct Scenario {
    pub system: System,
    pub shape: &'static str,
    pub operation: Operation,
    pub callers: usize,
    pub users: u32,
}

impl Scenario {
    pub fn name(&self) -> String {
        format!("{}.{}", self.system.name(), self.shape)
    }
}

/// What one run measures.
pub struct Plan {
    /// In the order of a round: the systems of one shape side by side.
    pub scenarios: Vec<Scenario>,
    /// Systems to overload at the end.
    pub overload: Vec<System>,
}

impl Plan {
    /// What `arguments` ask for.
    ///
    /// # Errors
    /// Nothing fits.
    pub fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let systems: Vec<System> = [System::Baseline, System::Mysql, System::Sqlite]
            .into_iter()
            .filter(|system| if *system == System::Sqlite { !arguments.skip_sqlite } else { !arguments.skip_mysql })
            .collect();
        let wanted = |system: System, shape: &str| {
            let name = format!("{}.{shape}", system.name());
            arguments.only.is_empty() || arguments.only.iter().any(|part| name.contains(part.as_str()))
        };
        let overload: Vec<System> = systems
            .iter()
            .copied()
            .filter(|&system| system != System::Baseline && wanted(system, OVERLOAD) && arguments.open.is_none())
            .collect();
        let mut scenarios = Vec::new();
        for shape in SHAPES {
            for &system in &systems {
                let exists = shape.baseline || system != System::Baseline;
                let needed = shape.name == BUSIEST && overload.contains(&system);
                if exists && (needed || wanted(system, shape.name)) {
                    let &Shape { name, operation, callers, users, .. } = shape;
                    scenarios.push(Scenario { system, shape: name, operation, callers, users });
                }
            }
        }
        ensure!(!scenarios.is_empty(), "no scenario has a name with {}", arguments.only.join(" or "));
        Ok(Self { scenarios, overload })
    }

    pub fn needs(&self, system: System) -> bool {
        self.scenarios.iter().any(|scenario| scenario.system == system)
    }
}
