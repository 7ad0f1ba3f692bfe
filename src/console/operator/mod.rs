//! The pages of operators, on the internal port. They show any account as its user sees it, explain charges, list the
//! calls of operators, and make such calls after a preview.

mod actions;
mod audit_events;
mod charge;
mod desk;
mod event;
mod figures;
mod find;
mod routes;

pub(super) use self::actions::OF_ACCOUNT;
pub use self::{
    actions::{ACTIONS, Action},
    routes::{action_routes, operator_routes},
};
