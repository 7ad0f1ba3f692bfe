//! The scripts, called by their hash.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline, Script};

/// A script, and the name it is measured by.
pub(super) struct Named {
    pub name: &'static str,
    code: &'static str,
    script: LazyLock<Script>,
}

macro_rules! script {
    ($name:literal) => {
        Named {
            name: $name,
            code: include_str!(concat!($name, ".lua")),
            script: LazyLock::new(|| Script::new(include_str!(concat!($name, ".lua")))),
        }
    };
}

pub(super) static CHECK: Named = script!("quota_check");
pub(super) static DEDUCT: Named = script!("quota_deduct");
pub(super) static LOAD: Named = script!("quota_load");

impl Named {
    /// The call of a script; arguments follow.
    pub fn call(&self, keys: &[&str]) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(self.script.get_hash()).arg(keys.len()).arg(keys);
        call
    }
}

/// Has a server know all of them.
pub(super) fn load() -> Pipeline {
    let mut load = redis::pipe();
    for script in [&CHECK, &DEDUCT, &LOAD] {
        load.cmd("SCRIPT").arg("LOAD").arg(script.code);
    }
    load
}
