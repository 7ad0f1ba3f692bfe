//! deploy/compose.yaml, and the files that it mounts.

use std::process::Command;

use yaml_rust2::Yaml;

use super::{at, check_config, port, root, str_at, text, texts, yaml};
use crate::harness::private_server::needs_installed;

fn compose() -> Yaml {
    yaml("deploy/compose.yaml", &text("deploy/compose.yaml")).remove(0)
}

fn config() -> Yaml {
    yaml("deploy/compose/config.yaml", &text("deploy/compose/config.yaml")).remove(0)
}

#[test]
fn the_configuration_of_compose_is_valid_and_its_secrets_fit_each_other() {
    let database = text("deploy/compose/secrets/database");
    let password = text("deploy/compose/secrets/mariadb-password");
    let mariadb = &compose()["services"]["mariadb"]["environment"];
    let source = format!(
        "{}:{password}@tcp(mariadb:3306)/{}?charset=utf8mb4",
        str_at(mariadb, "MARIADB_USER"),
        str_at(mariadb, "MARIADB_DATABASE")
    );
    assert_eq!(database, source);
    let callbacks = text("deploy/compose/secrets/callbacks");
    let secrets = [("database", &*database), ("callbacks", &*callbacks)];
    check_config(&text("deploy/compose/config.yaml"), "/run/secrets", &secrets, &[]);
}

#[test]
fn compose_names_services_secrets_files_and_ports_that_exist() {
    let (compose, config) = (compose(), config());
    let services = compose["services"].as_hash().unwrap();
    let names: Vec<&str> = services.keys().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(names, ["mariadb", "redis", "server", "cron", "sandbox", "prometheus", "grafana"]);
    for (name, service) in services {
        for mount in service["volumes"].as_vec().into_iter().flatten() {
            let source = mount.as_str().unwrap().split(':').next().unwrap();
            let exists = match source.starts_with('.') {
                true => root().join("deploy").join(source).exists(),
                false => compose["volumes"].as_hash().unwrap().contains_key(&Yaml::String(source.into())),
            };
            assert!(exists, "{name:?}: {source}");
        }
        for secret in service["secrets"].as_vec().map(Vec::as_slice).unwrap_or_default() {
            let file = str_at(&compose["secrets"][secret.as_str().unwrap()], "file");
            assert!(root().join("deploy").join(file).exists(), "{file}");
        }
        // Nobody outside of this machine reaches a port: no caller needs a proof.
        for published in service["ports"].as_vec().map(Vec::as_slice).unwrap_or_default() {
            assert!(published.as_str().unwrap().starts_with("127.0.0.1:"), "{published:?}");
        }
    }
    let published = |service: &str| -> Vec<String> {
        texts(&compose["services"][service]["ports"]).iter().map(|published| port(published).to_owned()).collect()
    };
    let configured = |key: &str| port(str_at(&config, key)).to_owned();
    assert_eq!(published("server"), [configured("server.http.addr"), configured("server.grpc.addr")]);
    assert_eq!(published("sandbox"), [configured("payment_service.grpc_addr")]);
    for (key, service) in [
        ("data.redis.addr", "redis"),
        ("payment_service.grpc_addr", "sandbox"),
        ("payment_service.notify_url", "server"),
    ] {
        let addr = str_at(&config, key).trim_start_matches("http://");
        assert!(addr.starts_with(&format!("{service}:")) && names.contains(&service), "{key}: {addr}");
    }
    let url = str_at(&config, "payment_service.notify_url");
    assert_eq!(url, format!("http://server:{}/internal/v1/billing/callback", configured("server.grpc.addr")));
}

#[test]
fn prometheus_scrapes_the_ports_of_the_server_and_of_cron_and_keeps_the_labels_of_jobs() {
    let scrape = yaml("prometheus.yaml", &text("deploy/prometheus/prometheus.yaml")).remove(0);
    let config = config();
    let [server, cron] = &scrape["scrape_configs"].as_vec().unwrap()[..] else { panic!("{scrape:?}") };
    let target = |job: &Yaml| str_at(job, "static_configs.0.targets.0").to_owned();
    assert_eq!(target(server), format!("server:{}", port(str_at(&config, "server.grpc.addr"))));
    assert_eq!(target(cron), format!("cron:{}", port(str_at(&config, "cron.metrics.addr"))));
    // The metrics of cron have a label job of their own, by which the rules select.
    assert_eq!(cron["honor_labels"].as_bool(), Some(true));
    let mounts = texts(at(&compose(), "services.prometheus.volumes")).join(" ");
    let rules = str_at(&scrape, "rule_files.0");
    assert!(mounts.contains(&format!("../configs/alerts.yaml:{rules}:ro")), "{mounts}");
}

#[test]
fn promtool_accepts_the_configuration_of_prometheus() {
    needs_installed("promtool");
    let folder = tempfile::tempdir().unwrap();
    // The rules are mounted at another place.
    let rules = root().join("configs/alerts.yaml");
    let conf =
        text("deploy/prometheus/prometheus.yaml").replace("/etc/prometheus/alerts.yaml", rules.to_str().unwrap());
    std::fs::write(folder.path().join("prometheus.yaml"), conf).unwrap();
    let checked =
        Command::new("promtool").args(["check", "config"]).arg(folder.path().join("prometheus.yaml")).output();
    let checked = checked.expect("`make deps` installs promtool");
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn grafana_finds_prometheus_and_the_dashboards_where_compose_puts_them() {
    let datasource = yaml("datasource", &text("deploy/grafana/provisioning/datasources/prometheus.yaml")).remove(0);
    assert_eq!(str_at(&datasource, "datasources.0.url"), "http://prometheus:9090");
    let provider = yaml("provider", &text("deploy/grafana/provisioning/dashboards/billing.yaml")).remove(0);
    let path = str_at(&provider, "providers.0.options.path");
    let mounts = texts(at(&compose(), "services.grafana.volumes")).join(" ");
    assert!(mounts.contains(&format!("./grafana/dashboards:{path}:ro")), "{mounts}");
}
