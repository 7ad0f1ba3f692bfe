//! The jobs: their last runs, the one that goes on, and the next.

use axum::response::Response;
use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::desk::Desk;
use crate::{
    biz::jobs::{
        audit::{self, differences_at},
        runs::StoredRun,
    },
    console::{
        controls::{self, badge},
        format,
        layout::Tool,
    },
    service::JobState,
};

/// The jobs whose runs have a result beside their time.
const AUDITS: [&str; 2] = [audit::JOB, audit::WHOLE_JOB];

pub(super) async fn list(desk: Desk) -> Result<Response, Response> {
    let jobs = desk.ok(desk.console.api.operations.jobs().await)?;
    let texts = desk.texts;
    let content = html! {
        h1 { (texts.get("jobs.title")) }
        p.quiet { (texts.get("jobs.about")) }
        section.card { (table(&desk, &jobs)) }
    };
    Ok(desk.respond(Tool::Jobs, texts.get("jobs.title"), content))
}

fn table(desk: &Desk, jobs: &[JobState]) -> Markup {
    let texts = desk.texts;
    let columns = [texts.get("jobs.job"), texts.get("column.status"), texts.get("jobs.runs"), texts.get("jobs.next")];
    let content = html! {
        (controls::head(&columns, &[], &[]))
        tbody {
            @for job in jobs {
                tr {
                    th scope="row" { (job.planned.job) br; span.quiet { (texts.word("job_about", job.planned.job)) } }
                    td { (state(desk, job)) }
                    td {
                        @if job.runs.is_empty() { span.quiet { (texts.get("jobs.never")) } }
                        ul.list { @for run in &job.runs { li { (run_of(desk, job, run)) } } }
                    }
                    td.time {
                        @match job.planned.next {
                            Some(next) => (time(desk, next)),
                            None => span.quiet { (texts.get("jobs.by_hand")) },
                        }
                    }
                }
            }
        }
    };
    controls::table(texts.get("jobs.title"), &content)
}

fn time(desk: &Desk, at: DateTime<Utc>) -> String {
    format::time(&desk.console.calendar, Some(&at.into()))
}

fn state(desk: &Desk, job: &JobState) -> Markup {
    let texts = desk.texts;
    match job.runs.first() {
        Some(run) if differences(run).is_some_and(|count| count > 0) && !job.is_running => {
            badge("bad", texts.get("jobs.differs"))
        }
        _ if job.is_running => badge("warn", texts.get("jobs.running")),
        Some(run) if run.finished_at.is_some() => badge("good", texts.get("jobs.done")),
        Some(_) => badge("bad", texts.get("jobs.cut")),
        None => badge("neutral", texts.get("jobs.never")),
    }
}

/// The differences that a finished audit has found, by its last checkpoint; `None` for other runs. An audit without a
/// checkpoint has found no users, but perhaps quotas that differ, so nothing is said of it.
fn differences(run: &StoredRun) -> Option<u64> {
    let is_audit = AUDITS.contains(&run.job.as_str()) && run.finished_at.is_some();
    run.position.as_deref().filter(|_| is_audit).and_then(|position| differences_at(Some(position)))
}

fn run_of(desk: &Desk, job: &JobState, run: &StoredRun) -> Markup {
    let texts = desk.texts;
    html! {
        span.time { (time(desk, run.started_at)) }
        @match (run.finished_at, &run.position) {
            (Some(finished), _) => {
                " " span.quiet {
                    (texts.with("jobs.took", &[("seconds", &(finished - run.started_at).num_seconds().max(0))]))
                    @match differences(run) {
                        None => {}
                        Some(0) => { ", " (texts.get("jobs.no_difference")) }
                        Some(count) => { ", " strong { (texts.with("jobs.found", &[("count", &count)])) } }
                    }
                }
            }
            (None, Some(position)) => {
                " " span.quiet {
                    @if job.is_running { (texts.get("jobs.reached")) } @else { (texts.get("jobs.cut_at")) }
                }
                " " code { (position) }
            }
            (None, None) => {}
        }
    }
}
