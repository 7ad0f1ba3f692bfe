//! Closed loop: each caller sends its next call after the answer to the last one.

use std::{sync::Arc, time::Instant};

use anyhow::Context;
use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};

use crate::{
    locked::Locked,
    measure::{Counting, Recorder, Slice, Window},
    operation::{CALL_TIMEOUT, Users},
    scenario::{LOCKED, Scenario},
    usage::{Processes, Usage},
    world::Target,
};

/// Runs `scenario` on `target` through `window`.
///
/// # Errors
/// A process has ended, or a caller does not end.
pub async fn run(scenario: &Scenario, target: &Target, window: Window, seed: u64) -> anyhow::Result<Slice> {
    let recorder = Arc::new(Recorder::new(window, Counting::Ended)?);
    let locked = if scenario.shape == LOCKED { Some(Locked::hold(target).await?) } else { None };
    let mut callers = JoinSet::new();
    for caller in 0..scenario.callers {
        let channel = target.channel(caller);
        let (recorder, operation) = (recorder.clone(), scenario.operation);
        let mut users = Users::new(scenario.users, seed, caller as u64);
        callers.spawn(async move {
            loop {
                let begun = Instant::now();
                if begun >= window.until {
                    break;
                }
                let outcome = operation.call(&channel, &mut users).await;
                recorder.record(caller, begun, outcome);
            }
        });
    }
    let usage = measure(&target.processes, window).await?;
    timeout(CALL_TIMEOUT * 2, callers.join_all()).await.context("callers did not end in time")?;
    if let Some(locked) = locked {
        locked.release().await?;
    }
    let seconds = window.until.duration_since(window.from).as_secs_f64();
    Ok(Slice { seconds, tally: recorder.total()?, usage, due: 0, missed: 0 })
}

/// The CPU time and memory of the processes during `window`.
pub async fn measure(processes: &Processes, window: Window) -> anyhow::Result<Usage> {
    sleep_until(window.from.into()).await;
    processes.forget_peak()?;
    let before = processes.cpu()?;
    sleep_until(window.until.into()).await;
    let cpu = processes.cpu()? - before;
    Ok(Usage { cpu, memory: processes.memory()? })
}
