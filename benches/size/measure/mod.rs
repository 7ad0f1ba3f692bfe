//! The measurements, one per file.

mod archive;
mod console;
mod export;
mod jobs;
mod pages;
mod reads;
mod sealed;

use std::path::Path;

use crate::{data::Size, mariadb::MariaDb, report::Report};

pub use self::{
    archive::{archive, put_back},
    console::console,
    export::export,
    jobs::{audit, rebuild_rollup, reset_quotas},
    pages::pages,
    reads::reads,
    sealed::sealed,
};

/// The databases of the requested size and of little data.
pub const LARGE: &str = "large";
pub const SMALL: &str = "small";

/// The state that the measurements share.
pub struct Context<'c> {
    pub mariadb: &'c MariaDb,
    pub folder: &'c Path,
    pub large: &'c Size,
    pub small: &'c Size,
    pub report: Report,
}
