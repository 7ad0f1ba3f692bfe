//! What bringing a database up to date will do, said before it is done.

use std::fmt;

/// A plan, in lines for people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpgradePlan {
    pub lines: Vec<String>,
    /// Whether there is anything to do.
    pub has_work: bool,
}

impl UpgradePlan {
    /// The numbered migrations that are still to run; none is no work.
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

/// Told the plan before anything is changed.
pub type Announce = dyn Fn(&UpgradePlan) + Send + Sync;
