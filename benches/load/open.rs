//! Open loop: calls are due at a fixed rate, independent of earlier calls. Latencies count from the
//! time at which a call is due, so that a wait before the send counts.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Context;
use tokio::{
    sync::Semaphore,
    task::yield_now,
    time::{sleep, timeout},
};

use crate::{
    closed::measure,
    measure::{Counting, Recorder, Slice, Window},
    operation::{CALL_TIMEOUT, Users},
    scenario::Scenario,
    world::Target,
};

/// Most open calls; a further due call is missed. More than the server accepts
/// (`server.limits.requests` and its lanes), so that the server is the one that refuses.
const MOST_OPEN: u32 = 40_000;
/// Pause while no call is due.
const TICK: Duration = Duration::from_millis(1);
/// Calls sent in a row before the task yields.
const BURST: u32 = 64;

/// Runs the operation of `scenario` on `target` at `rate` calls a second through `window`.
///
/// # Errors
/// A process has ended, or calls do not end.
pub async fn run(
    scenario: &Scenario,
    target: &Arc<Target>,
    (window, rate): (Window, f64),
    seed: u64,
) -> anyhow::Result<Slice> {
    let recorder = Arc::new(Recorder::new(window, Counting::Due)?);
    let permits = Arc::new(Semaphore::new(MOST_OPEN as usize));
    let sender = send(scenario, target.clone(), (window, rate), seed, (recorder.clone(), permits.clone()));
    let sending = tokio::spawn(sender);
    let usage = measure(&target.processes, window).await?;
    let (due, missed) = sending.await?;
    let _all =
        timeout(CALL_TIMEOUT * 2, permits.acquire_many(MOST_OPEN)).await.context("calls did not end in time")??;
    let seconds = window.until.duration_since(window.from).as_secs_f64();
    Ok(Slice { seconds, tally: recorder.total()?, usage, due, missed })
}

/// Sends until the window ends. Returns the numbers of due and of missed calls in the window.
fn send(
    scenario: &Scenario,
    target: Arc<Target>,
    (window, rate): (Window, f64),
    seed: u64,
    (recorder, permits): (Arc<Recorder>, Arc<Semaphore>),
) -> impl Future<Output = (u64, u64)> + use<> {
    let (operation, user_count) = (scenario.operation, scenario.users);
    async move {
        let begin = Instant::now();
        let (mut number, mut due_count, mut missed) = (0_u32, 0, 0);
        loop {
            let due = begin + Duration::from_secs_f64(f64::from(number) / rate);
            if due >= window.until {
                return (due_count, missed);
            }
            if due > Instant::now() {
                sleep(TICK).await;
                continue;
            }
            let within = u64::from(window.contains(due));
            due_count += within;
            if let Ok(permit) = permits.clone().try_acquire_owned() {
                let caller = number as usize;
                let (channel, recorder) = (target.channel(caller), recorder.clone());
                let mut users = Users::new(user_count, seed, u64::from(number));
                tokio::spawn(async move {
                    let outcome = operation.call(&channel, &mut users).await;
                    recorder.record(caller, due, outcome);
                    drop(permit);
                });
            } else {
                missed += within;
            }
            number = number.wrapping_add(1);
            if number.is_multiple_of(BURST) {
                yield_now().await;
            }
        }
    }
}
