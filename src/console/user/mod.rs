//! The pages of users, on the public port.

mod language;
mod overview;
mod quotas;
mod records;
mod routes;
mod sign_in;
mod statement;
mod top_up;
mod top_ups;
mod usage;
mod usage_data;

pub(super) use self::quotas::key_quotas;
pub use self::routes::{account_routes, open_routes, top_up_routes};
