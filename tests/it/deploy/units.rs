//! The units of deploy/systemd.

use std::{collections::BTreeMap, fs, process::Command};

use super::{check_config, root, text};
use crate::harness::process::{CRON, SERVER};

/// The values of each key of a unit, in order.
fn unit(name: &str) -> BTreeMap<String, Vec<String>> {
    let mut keys = BTreeMap::<String, Vec<String>>::new();
    for line in text(&format!("deploy/systemd/{name}.service")).lines() {
        if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            keys.entry(key.to_owned()).or_default().push(value.to_owned());
        }
    }
    keys
}

#[test]
fn the_units_run_programs_with_flags_variables_and_files_that_exist() {
    for (name, program) in [("server", SERVER), ("cron", CRON)] {
        let unit = unit(&format!("billing-{name}"));
        let start = &unit["ExecStart"][0];
        assert_eq!(*start, format!("/opt/billing/bin/{name} -conf /etc/billing/config.yaml"));
        assert!(program.ends_with(&format!("/{name}")));
        assert_eq!(unit["ExecStartPre"][0], format!("{start} --check-config"));
        // The configuration is the one of the repository, without the source.
        let source =
            "    source: root:password@tcp(127.0.0.1:3306)/billing_service?charset=utf8mb4&parseTime=True&loc=Local\n";
        let conf = text("configs/config.yaml");
        assert!(conf.contains(source));
        let (credential, file) = unit["LoadCredential"][0].split_once(':').unwrap();
        assert_eq!((credential, file), ("database", "/etc/billing/secrets/database"));
        let folder = tempfile::tempdir().unwrap();
        let here = folder.path().to_str().unwrap();
        fs::write(folder.path().join("database"), "billing:PW@tcp(127.0.0.1:3306)/billing_service").unwrap();
        let variables = unit["Environment"][0].replace("%d", here);
        let variables: Vec<(&str, &str)> =
            variables.split(' ').map(|variable| variable.split_once('=').unwrap()).collect();
        assert!(variables.iter().any(|(name, _)| *name == "BILLING__DATA__DATABASE__SOURCE_FILE"));
        check_config(&conf.replace(source, ""), "/nowhere", &[], &variables);
    }
}

/// The seconds of a duration in a key of configs/config.yaml.
fn seconds(key: &str) -> u64 {
    let conf = text("configs/config.yaml");
    let line = conf.lines().find_map(|line| line.trim().trim_start_matches("# ").strip_prefix(&format!("{key}: ")));
    line.unwrap().trim_end_matches('s').parse().unwrap()
}

#[test]
fn a_stop_has_the_time_that_a_server_needs_at_most() {
    let longest = seconds("drain_timeout") + 2 * seconds("retry_timeout");
    assert_eq!(longest, 50);
    for name in ["billing-server", "billing-cron"] {
        assert!(unit(name)["TimeoutStopSec"][0].parse::<u64>().unwrap() > longest);
    }
    let compose = text("deploy/compose.yaml");
    for grace in compose.split("stop_grace_period: ").skip(1) {
        assert!(grace.split('s').next().unwrap().parse::<u64>().unwrap() > longest);
    }
    let values = text("deploy/helm/billing-service/values.yaml");
    for grace in values.split("terminationGracePeriodSeconds: ").skip(1) {
        assert!(grace.lines().next().unwrap().parse::<u64>().unwrap() > longest);
    }
}

#[test]
fn the_units_have_the_files_of_all_connections() {
    let files = unit("billing-server")["LimitNOFILE"][0].parse::<u64>().unwrap();
    let conf = text("configs/config.yaml");
    let connections = conf.split("# connections: ").nth(1).unwrap().lines().next().unwrap();
    assert!(files > 2 * connections.parse::<u64>().unwrap(), "two ports");
}

/// systemd's own check, where it is installed. The programs are at another place here.
#[test]
fn systemd_accepts_the_units_and_finds_them_closed() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        eprintln!("systemd-analyze is not installed; skipped");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (name, program) in [("server", SERVER), ("cron", CRON)] {
        let file = format!("billing-{name}.service");
        let text = fs::read_to_string(root().join("deploy/systemd").join(&file)).unwrap();
        let path = folder.path().join(&file);
        fs::write(&path, text.replace(&format!("/opt/billing/bin/{name}"), program)).unwrap();
        let verified = Command::new("systemd-analyze").arg("verify").arg(&path).output().unwrap();
        let said = String::from_utf8_lossy(&verified.stderr).into_owned();
        assert!(verified.status.success() && !said.contains(&file), "{said}");
        // The levels go from 0 (closed) to 100 (open).
        let security = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--threshold=20"])
            .arg(&path)
            .output()
            .unwrap();
        assert!(security.status.success(), "{}", String::from_utf8_lossy(&security.stdout));
    }
}
