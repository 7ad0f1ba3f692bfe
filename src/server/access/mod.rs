//! Access: the callers of the internal port by their roles, and the users of the front end by
//! their accounts. The checks run before the body is read, and before a request takes a
//! permit.

mod callers;
mod cross_site;
mod front_end;
mod gate;
mod jwks;
mod jwt;
mod refusals;
pub mod table;

pub use self::{
    callers::Callers,
    cross_site::{CrossSite, cors},
    front_end::{FrontEnd, GATEWAY_TOKEN},
    gate::{Gate, Gated, protect},
    jwks::KeySource,
    refusals::{Reason, Refusals, UNKNOWN},
};
