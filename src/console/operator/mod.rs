//! The pages of operators, on the internal port. They show any account as its user sees it, explain charges, and list
//! the calls of operators.

mod audit_events;
mod charge;
mod desk;
mod find;
mod routes;

pub use self::routes::operator_routes;
