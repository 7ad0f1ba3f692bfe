//! Reads for operators that no rpc has: the way to an id, the facts behind a charge, the runs of jobs, and the health of
//! this server. Each is bounded, and changes nothing.

mod facts;
mod find;
mod health;
mod jobs;

pub use self::{
    facts::{ChargeFacts, OperationsService, StreamFacts},
    find::Finding,
    health::{Health, Hour, OperationTime, RpcCount, Vitals},
    jobs::{JobState, Planned, Timetable},
};
