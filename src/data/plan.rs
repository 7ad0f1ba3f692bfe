//! The plan of bringing a database up to date, shown before it is carried out.

use std::fmt;

/// A plan, in lines for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpgradePlan {
    pub lines: Vec<String>,
    /// Whether the plan changes anything.
    pub has_work: bool,
}

impl UpgradePlan {
    /// Adds a line with the migrations that will run.
    pub(super) fn add_migrations(&mut self, pending: &[&str]) {
        self.has_work |= !pending.is_empty();
        let pending = if pending.is_empty() { "none".to_owned() } else { pending.join(", ") };
        self.lines.push(format!("migrations to run: {pending}"));
    }
}

impl fmt::Display for UpgradePlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "{line}"))
    }
}

/// A callback that receives the plan before anything is changed.
pub type Announce = dyn Fn(&UpgradePlan) + Send + Sync;
