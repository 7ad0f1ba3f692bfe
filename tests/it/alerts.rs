//! The alert rules: promtool accepts them, and servers show their metrics.

use std::{collections::BTreeSet, process::Command, sync::Arc};

use billing_service::{
    app::{App, cron::Job},
    metrics::{FAILURES, Metrics},
};
use serde::Deserialize;

use crate::{
    cron::{Counted, runner},
    harness::{MySql, Service, private_server::needs_installed, wait::until},
};

const RULES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/alerts.yaml");
const TESTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/configs/alerts_test.yaml");

#[derive(Deserialize)]
struct File {
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Rule {
    alert: String,
    expr: String,
    labels: Labels,
    annotations: Annotations,
}

#[derive(Deserialize)]
struct Labels {
    severity: String,
}

#[derive(Deserialize)]
struct Annotations {
    summary: String,
    description: String,
    runbook_url: String,
}

fn rules() -> Vec<Rule> {
    let yaml = std::fs::read_to_string(RULES).unwrap();
    let file = config::File::from_str(&yaml, config::FileFormat::Yaml);
    let file: File = config::Config::builder().add_source(file).build().unwrap().try_deserialize().unwrap();
    file.groups.into_iter().flat_map(|group| group.rules).collect()
}

/// The metrics in an expression: names with an underscore that are no functions and are outside
/// of label selectors.
pub fn metrics_in(expr: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    // Every second part is inside braces.
    for outside in expr.split(['{', '}']).step_by(2) {
        let mut rest = outside;
        while let Some(begin) = rest.find(|letter: char| letter.is_ascii_alphabetic()) {
            let word = &rest[begin..];
            let end = word.find(|letter: char| !letter.is_ascii_alphanumeric() && letter != '_').unwrap_or(word.len());
            let (name, after) = word.split_at(end);
            if name.contains('_') && !after.trim_start().starts_with('(') {
                names.insert(name.to_owned());
            }
            rest = after;
        }
    }
    names
}

fn promtool(arguments: &[&str]) {
    needs_installed("promtool");
    let output = Command::new("promtool").args(arguments).output().expect("`make deps` installs promtool");
    let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

#[test]
fn promtool_accepts_the_rules_and_every_alert_fires_in_its_test() {
    promtool(&["check", "rules", "--lint=all", "--lint-fatal", RULES]);
    promtool(&["test", "rules", TESTS]);
}

#[test]
fn every_alert_has_a_test_a_severity_and_an_action() {
    let tests = std::fs::read_to_string(TESTS).unwrap();
    for Rule { alert, labels, annotations, .. } in rules() {
        assert!(["critical", "warning"].contains(&labels.severity.as_str()), "{alert}");
        assert!(!annotations.summary.is_empty() && annotations.description.len() > 100, "{alert}");
        let fires = format!("ALERTS{{alertname=\"{alert}\", alertstate=\"firing\", ");
        assert!(tests.contains(&fires), "no test of {alert}");
    }
}

#[test]
fn every_alert_has_a_section_of_the_operations_document_and_leads_to_it() {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let rules = rules();
    for Rule { alert, labels, annotations, .. } in &rules {
        let anchor = alert.to_lowercase();
        assert!(annotations.runbook_url.ends_with(&format!("/operations.md#{anchor}")), "{}", annotations.runbook_url);
        let row = document.lines().find(|line| line.starts_with(&format!("| [`{alert}`](#{anchor}) |")));
        let row = row.unwrap_or_else(|| panic!("{alert} is not in the table of docs/operations.md"));
        assert!(row.ends_with(&format!("| {} |", labels.severity)), "{row}");
        let section = document.split(&format!("\n### {alert}\n")).nth(1);
        let section = section.unwrap_or_else(|| panic!("docs/operations.md has no section {alert}"));
        let section = section.split("\n#").next().unwrap();
        for part in ["\n- Meaning: ", "\n- Look at: ", "\n- Do: "] {
            assert!(section.contains(part), "{alert} has no{part}");
        }
    }
    let sections = document.lines().filter(|line| line.starts_with("### Billing")).count();
    assert_eq!(sections, rules.len(), "docs/operations.md has a section without an alert");
}

#[test]
fn the_alerts_count_exactly_the_failures_of_the_service() {
    let rules = rules();
    for (alert, metric) in [
        ("BillingDeductFailures", "billing_deduct_failure"),
        ("BillingReserveFailures", "billing_reserve_failure_total"),
    ] {
        let rule = rules.iter().find(|rule| rule.alert == alert).unwrap();
        let failures = format!("{metric}{{reason=~\"{}\"}}", FAILURES.join("|"));
        assert_eq!(rule.expr.matches(&failures).count(), 2, "{}", rule.expr);
        assert_eq!(rule.expr.matches(metric).count(), 2, "{}", rule.expr);
    }
}

#[test]
fn metrics_are_distinguished_from_functions_and_labels() {
    let expr = "histogram_quantile(0.99, sum by (le) (rate(a_bucket{some_label=\"x_y\"}[2m]))) > max(b_c offset 1h)";
    assert_eq!(metrics_in(expr), BTreeSet::from(["a_bucket".to_owned(), "b_c".to_owned()]));
}

/// The metrics of a server with a shared Redis and a finished audit, and those of cron.
#[tokio::test]
async fn servers_show_every_metric_of_the_rules() {
    let service = Service::start(MySql).await;
    service.adjust("u", 1.0).await;
    let config = service.database.config(&[]);
    let of_cron = Arc::new(Metrics::new().unwrap());
    let cron = runner(config, &service.clock, Counted::all().stop).await.counting(Some(of_cron.clone()));
    assert!(cron.run_due(Job::Audit, &Counted::all()).await.unwrap().unwrap().is_good);
    assert!(cron.run_now(Job::AuditAll, false, &Counted::all()).await.unwrap().unwrap().is_good);
    let server = App::start_with_clock(service.database.config(&[]), service.clock.clone()).await.unwrap();
    let url = format!("http://{}/metrics", server.grpc_addr);
    let mut text = String::new();
    until("accounts are counted and ops_stats read", async || {
        text = reqwest::get(&url).await.unwrap().text().await.unwrap();
        text.contains("\nbilling_low_counted_")
            && text.contains("\nbilling_unapplied_payments ")
            && text.contains("\nbilling_webhooks_failed ")
            && text.contains("\nbilling_webhook_failed_users ")
    })
    .await;
    server.stop().await;
    text += &String::from_utf8(of_cron.render().unwrap())
        .unwrap()
        .lines()
        .filter(|line| line.starts_with("billing_job_"))
        .collect::<Vec<_>>()
        .join("\n");
    let asked: BTreeSet<String> = rules().iter().flat_map(|rule| metrics_in(&rule.expr)).collect();
    assert!(asked.len() > 8, "{asked:?}");
    let shows = |name: &str| text.lines().any(|line| line.split(['{', ' ']).next() == Some(name));
    let missing: Vec<_> = asked.iter().filter(|name| !shows(name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not in\n{text}");
    for reason in FAILURES {
        for metric in ["billing_deduct_failure", "billing_reserve_failure_total"] {
            let line = format!("{metric}{{reason=\"{reason}\"}} 0\n");
            assert!(text.contains(&line), "the counter does not start at zero: {line}");
        }
    }
    for result in ["bad", "unfinished"] {
        let line = format!("billing_job_runs_total{{job=\"expire-reservations\",result=\"{result}\"}} 0\n");
        assert!(text.contains(&line), "the counter does not start at zero: {line}");
    }
}
