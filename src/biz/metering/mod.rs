//! Metering of streams: the output of a model is counted while it is delivered, made durable
//! at short intervals, and charged once, however its stream ends.

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
