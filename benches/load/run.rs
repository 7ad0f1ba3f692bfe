//! One run: starts the servers, measures in rounds, audits the books, and reports.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;

use crate::{
    arguments::Arguments,
    closed,
    context::Context,
    measure::{Slice, Window, median},
    open,
    report::{Report, Row},
    scenario::{BUSIEST, OVERLOAD, Plan, Scenario, System},
    scratch::Scratch,
    table,
    world::{Target, World},
};

/// Unmeasured time before every slice.
const WARM_UP: Duration = Duration::from_millis(500);

/// Runs the benchmark.
///
/// # Errors
/// A process does not start or ends early, or an audit finds differences.
pub async fn run(arguments: &Arguments, scratch: &Scratch) -> anyhow::Result<ExitCode> {
    let plan = Plan::new(arguments)?;
    let world = World::start(&plan, scratch).await?;
    let context = Context::read(arguments, scratch.path(), world.mariadb.clone())?;
    print!("{}", context.describe());

    let mut slices: Vec<Vec<Slice>> = plan.scenarios.iter().map(|_| Vec::new()).collect();
    for round in 1..=arguments.rounds {
        for (scenario, slices) in plan.scenarios.iter().zip(&mut slices) {
            let slice = measure(arguments, scenario, &world, round).await?;
            progress(round, scenario, &slice);
            slices.push(slice);
        }
    }
    let mut rows = Vec::new();
    for (scenario, slices) in plan.scenarios.iter().zip(&slices) {
        rows.push(Row::new(scenario, slices, arguments.open)?);
    }
    for &system in &plan.overload {
        rows.push(overload(arguments, &world, &plan, (system, &slices)).await?);
    }
    let mut audits = Vec::new();
    for (system, target) in &world.targets {
        eprintln!("auditing {}", system.name());
        let audit = target.audit().await.with_context(|| system.name())?;
        audits.extend(audit.map(|printed| format!("{}: {printed}", system.name())));
    }

    let report = Report::new(context, rows, audits);
    print!("\n{}", table::render(&report.rows));
    report.audits.iter().for_each(|audit| println!("{audit}"));
    report.write(&arguments.json)?;
    println!("numbers: {}", arguments.json.display());
    let failed: Vec<String> = report.failures();
    failed.iter().for_each(|failure| eprintln!("error: {failure}"));
    Ok(if failed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn target(world: &World, system: System) -> anyhow::Result<&Arc<Target>> {
    world.targets.get(&system).with_context(|| format!("{} was not started", system.name()))
}

async fn measure(arguments: &Arguments, scenario: &Scenario, world: &World, round: usize) -> anyhow::Result<Slice> {
    let window = Window::after(WARM_UP, arguments.slice());
    // A different order of users in every round.
    let seed = arguments.seed.wrapping_add(round as u64);
    let target = target(world, scenario.system)?;
    match (arguments.open, scenario.fleet, &world.servers) {
        (Some(rate), ..) => open::run(scenario, target, (window, rate), seed).await,
        (None, Some(fleet), Some(servers)) => servers.run(scenario, fleet, window, seed).await,
        (None, ..) => closed::run(scenario, target, window, seed).await,
    }
    .with_context(|| scenario.name())
}

/// Measures at twice the rate of the closed loop [`BUSIEST`].
async fn overload(
    arguments: &Arguments,
    world: &World,
    plan: &Plan,
    (system, slices): (System, &[Vec<Slice>]),
) -> anyhow::Result<Row> {
    let busiest = plan.scenarios.iter().position(|one| one.system == system && one.shape == BUSIEST);
    let busiest = busiest.context("overload needs the closed loop batch-50")?;
    let rates: Vec<f64> = slices[busiest].iter().map(Slice::rate).collect();
    let scenario = Scenario { shape: OVERLOAD, ..plan.scenarios[busiest].clone() };
    let rate = (median(&rates) * 2.0 / f64::from(scenario.operation.items())).max(1.0);
    let target = target(world, system)?;
    let mut slices = Vec::new();
    for round in 1..=arguments.rounds {
        let window = Window::after(WARM_UP, arguments.slice());
        let seed = arguments.seed.wrapping_add(round as u64);
        let slice = open::run(&scenario, target, (window, rate), seed).await.with_context(|| scenario.name())?;
        progress(round, &scenario, &slice);
        slices.push(slice);
    }
    Row::new(&scenario, &slices, Some(rate))
}

fn progress(round: usize, scenario: &Scenario, slice: &Slice) {
    let errors = slice.tally.error_count();
    eprintln!("round {round}  {:<26} {:>9.0}/s  {errors} errors", scenario.name(), slice.rate());
}
