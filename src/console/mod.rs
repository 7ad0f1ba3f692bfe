//! The console: pages for users on the public port, and for operators on the internal one. They call the services of the contract, so a page shows and does what its reader may
//! read and do over REST. Everything that a page needs is embedded, and no page needs a script.

mod assets;
mod chart;
mod controls;
mod failure;
mod form;
mod format;
mod layer;
mod layout;
mod link;
mod operator;
mod page;
mod policy;
mod session;
mod state;
mod user;
mod visit;

pub use self::{
    layer::within_session,
    operator::{ACTIONS, Action, admin_routes, operator_routes},
    session::Sessions,
    state::{Console, Port, Settings},
    user::{account_routes, open_routes, top_up_routes},
};
