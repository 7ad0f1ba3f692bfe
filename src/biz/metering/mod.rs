//! Metering of streams: counts the output of a model while it is delivered, makes the count
//! durable at short intervals, and charges it once, however the stream ends.

mod disconnect;
mod events;
mod meter;
mod metered;
mod session;
pub mod tokens;

pub use self::{
    events::{Comparison, Ended, Event, Finish, MeterState, Update},
    meter::{Meter, StreamTimeouts},
    session::Session,
};
