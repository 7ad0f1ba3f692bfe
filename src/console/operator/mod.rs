//! The pages of operators, on the internal port. They show any account as its user sees it, explain charges, list the
//! calls of operators, make such calls after a preview, and show and change webhooks.

mod actions;
mod api_key;
mod audit_events;
mod charge;
mod desk;
mod event;
mod figures;
mod find;
mod health;
mod jobs;
mod prices;
mod routes;
mod unapplied;
mod webhook;
mod webhook_form;
mod webhooks;

pub(super) use self::actions::{OF_ACCOUNT, REFUND_TOP_UP};
pub use self::{
    actions::{ACTIONS, Action},
    routes::{admin_routes, operator_routes},
};
