//! The pages of operators, on the internal port. They show any account as its user sees it, explain charges, list
//! the calls of operators, and show and change webhooks.

mod audit_events;
mod charge;
mod desk;
mod find;
mod routes;
mod webhook;
mod webhook_form;
mod webhooks;

pub use self::routes::{change_routes, operator_routes};
