//! The Lua scripts, called by their hash.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline, Script};

/// A script with the name of its metric.
pub(super) struct Named {
    pub name: &'static str,
    /// Whether a caller of the service waits for the script.
    pub is_awaited: bool,
    code: &'static str,
    script: LazyLock<Script>,
}

macro_rules! script {
    ($name:literal, $is_awaited:literal) => {
        Named {
            name: $name,
            is_awaited: $is_awaited,
            code: include_str!(concat!($name, ".lua")),
            script: LazyLock::new(|| Script::new(include_str!(concat!($name, ".lua")))),
        }
    };
}

pub(super) static CHECK: Named = script!("quota_check", true);
pub(super) static DEDUCT: Named = script!("quota_deduct", false);
pub(super) static RATE: Named = script!("rate_limit", true);
pub(super) static LOAD: Named = script!("quota_load", true);

impl Named {
    /// The EVALSHA command with its keys; the caller appends the arguments.
    pub fn call(&self, keys: &[&str]) -> Cmd {
        let mut call = redis::cmd("EVALSHA");
        call.arg(self.script.get_hash()).arg(keys.len()).arg(keys);
        call
    }
}

/// The name of the script with a hash.
pub(super) fn name_of(hash: &str) -> Option<&'static str> {
    [&CHECK, &DEDUCT, &LOAD, &RATE]
        .into_iter()
        .find(|script| script.script.get_hash() == hash)
        .map(|script| script.name)
}

/// The commands that load all scripts into a server.
pub(super) fn load() -> Pipeline {
    let mut load = redis::pipe();
    for script in [&CHECK, &DEDUCT, &LOAD, &RATE] {
        load.cmd("SCRIPT").arg("LOAD").arg(script.code);
    }
    load
}
