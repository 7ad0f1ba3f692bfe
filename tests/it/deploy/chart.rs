//! The Helm chart. `Template` substitutes the few constructs that its templates use. Where `helm` is
//! installed, its own output must be the same.

use std::{collections::BTreeMap, fs, process::Command};

use sha2::{Digest, Sha256};
use yaml_rust2::{Yaml, YamlEmitter};

use super::{at, check_config, port, root, str_at, text, texts, yaml};

const CHART: &str = "deploy/helm/billing-service";
const RELEASE: &str = "billing-service";

/// A subset of Helm's templates: values, `include`, `toYaml`, `nindent`, `default`, `sha256sum`, `if`.
struct Templates {
    values: Yaml,
    chart: Yaml,
    /// The texts between `define` and `end`.
    named: BTreeMap<String, String>,
}

/// A piece of a template.
enum Piece<'t> {
    Text(String),
    Action(&'t str),
}

/// Splits a template, and trims the text beside `{{-` and `-}}`.
fn pieces(template: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    let mut trims_start = false;
    loop {
        let begin = rest.find("{{").unwrap_or(rest.len());
        let (mut text, action) = rest.split_at(begin);
        if trims_start {
            text = text.trim_start();
        }
        let Some(action) = action.strip_prefix("{{") else {
            pieces.push(Piece::Text(text.to_owned()));
            return pieces;
        };
        let (mut inner, after) = action.split_once("}}").expect("an action ends");
        if let Some(trimmed) = inner.strip_prefix('-') {
            (inner, text) = (trimmed, text.trim_end());
        }
        trims_start = inner.ends_with('-');
        pieces.push(Piece::Text(text.to_owned()));
        pieces.push(Piece::Action(inner.trim_end_matches('-').trim()));
        rest = after;
    }
}

fn emit(yaml: &Yaml) -> String {
    let mut text = String::new();
    YamlEmitter::new(&mut text).dump(yaml).unwrap();
    text.trim_start_matches("---\n").to_owned()
}

impl Templates {
    fn new(changes: &[(&str, Yaml)]) -> Self {
        let read = |file: &str| yaml(file, &text(&format!("{CHART}/{file}"))).remove(0);
        let mut values = read("values.yaml");
        for (path, value) in changes {
            set(&mut values, path, value.clone());
        }
        let helpers = text(&format!("{CHART}/templates/_helpers.tpl"));
        let mut named = BTreeMap::new();
        let mut name = None;
        for piece in pieces(&helpers) {
            match piece {
                Piece::Action("end") => name = None,
                Piece::Action(action) => match action.strip_prefix("define ") {
                    Some(defined) => name = Some(defined.trim_matches('"').to_owned()),
                    None => *named.entry(name.clone().unwrap()).or_default() += &*format!("{{{{ {action} }}}}"),
                },
                Piece::Text(text) => {
                    if let Some(name) = &name {
                        *named.entry(name.clone()).or_default() += &*text;
                    }
                }
            }
        }
        Self { values, chart: read("Chart.yaml"), named }
    }

    fn render(&self, template: &str) -> String {
        let mut output = String::new();
        // Whether each open `if` holds.
        let mut holds = Vec::new();
        for piece in pieces(template) {
            let is_shown = holds.iter().all(|holds| *holds);
            match piece {
                Piece::Text(text) if is_shown => output += &text,
                Piece::Text(_) => {}
                Piece::Action("end") => assert!(holds.pop().is_some(), "an end without an if"),
                Piece::Action(action) => match action.strip_prefix("if ") {
                    Some(path) => holds.push(is_true(self.value(path))),
                    None if is_shown => output += &self.evaluate(action),
                    None => {}
                },
            }
        }
        output
    }

    fn value(&self, path: &str) -> &Yaml {
        let value = match path.strip_prefix(".Values.") {
            Some(path) => at(&self.values, path),
            None => panic!("{path} is not a value"),
        };
        assert!(!value.is_badvalue(), "{path} is not in values.yaml");
        value
    }

    fn evaluate(&self, action: &str) -> String {
        let mut steps = action.split('|').map(str::trim);
        let first: Vec<&str> = steps.next().unwrap().split(' ').collect();
        let mut result = match first[..] {
            ["include", name, "."] => self.render(&self.named[name.trim_matches('"')]),
            ["toYaml", path] => emit(self.value(path)),
            [".Release.Name"] => RELEASE.to_owned(),
            [path] => match path.strip_prefix(".Chart.") {
                Some(key) => {
                    let key = format!("{}{}", key[..1].to_lowercase(), &key[1..]);
                    str_at(&self.chart, &key).to_owned()
                }
                None => match self.value(path) {
                    Yaml::Integer(number) => number.to_string(),
                    value => value.as_str().unwrap_or_else(|| panic!("{path} is no text")).to_owned(),
                },
            },
            _ => panic!("unknown: {action}"),
        };
        for step in steps {
            result = match step.split(' ').collect::<Vec<_>>()[..] {
                ["nindent", columns] => {
                    let indent = " ".repeat(columns.parse().unwrap());
                    result.lines().map(|line| format!("\n{indent}{line}")).collect()
                }
                ["default", path] if result.is_empty() => self.evaluate(path),
                ["default", _] => result,
                ["sha256sum"] => {
                    let digest = Sha256::digest(result.as_bytes());
                    digest.iter().map(|byte| format!("{byte:02x}")).collect()
                }
                _ => panic!("unknown: {step}"),
            };
        }
        result
    }

    /// All objects of the chart.
    fn objects(&self) -> Vec<Yaml> {
        let mut paths: Vec<_> =
            fs::read_dir(root().join(CHART).join("templates")).unwrap().map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ending == "yaml"));
        paths.sort();
        let rendered = paths.iter().flat_map(|path| {
            let text = self.render(&fs::read_to_string(path).unwrap());
            yaml(path.to_str().unwrap(), &text)
        });
        rendered.filter(|object| !object.is_null()).collect()
    }
}

fn set(yaml: &mut Yaml, path: &str, value: Yaml) {
    let (part, rest) = path.split_once('.').map_or((path, None), |(part, rest)| (part, Some(rest)));
    let Yaml::Hash(entries) = yaml else { panic!("{path}") };
    let entry = entries.get_mut(&Yaml::String(part.into())).expect("a key of values.yaml");
    match rest {
        Some(rest) => set(entry, rest, value),
        None => *entry = value,
    }
}

fn is_true(value: &Yaml) -> bool {
    match value {
        Yaml::Boolean(value) => *value,
        Yaml::Array(items) => !items.is_empty(),
        Yaml::Hash(entries) => !entries.is_empty(),
        Yaml::String(text) => !text.is_empty(),
        Yaml::Integer(number) => *number != 0,
        _ => false,
    }
}

fn find<'o>(objects: &'o [Yaml], kind: &str, name: &str) -> &'o Yaml {
    let found = objects.iter().find(|object| str_at(object, "kind") == kind && str_at(object, "metadata.name") == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

fn config_of(objects: &[Yaml]) -> String {
    let data = &find(objects, "ConfigMap", "billing-config")["data"];
    data["config.yaml"].as_str().unwrap().to_owned()
}

#[test]
fn the_rendered_configuration_is_valid_and_closed() {
    let conf = config_of(&Templates::new(&[]).objects());
    assert!(conf.contains("environment: production"), "{conf}");
    let secrets = [
        ("database", "billing:PW@tcp(mariadb:3306)/billing_service?tls=true"),
        ("callbacks", "a-callback-secret-of-the-test"),
    ];
    check_config(&conf, "/run/secrets/billing", &secrets, &[]);
}

#[test]
fn ports_probes_services_and_policies_fit_each_other_and_the_configuration() {
    let templates = Templates::new(&[("serviceMonitor.enabled", Yaml::Boolean(true))]);
    let objects = templates.objects();
    let conf = yaml("config.yaml", &config_of(&objects)).remove(0);
    let configured = |key: &str| port(str_at(&conf, key)).parse::<i64>().unwrap();
    let ports = [
        ("http", "server", configured("server.http.addr")),
        ("grpc", "server", configured("server.grpc.addr")),
        ("metrics", "cron", configured("cron.metrics.addr")),
    ];
    for (name, component, port) in ports {
        let deployment = find(&objects, "Deployment", &format!("billing-{component}"));
        let container = at(deployment, "spec.template.spec.containers.0");
        let of_container = container["ports"].as_vec().unwrap();
        let is = |found: &&Yaml| found["name"].as_str() == Some(name);
        assert_eq!(of_container.iter().find(is).unwrap()["containerPort"].as_i64(), Some(port));
        let service = if component == "server" { RELEASE.to_owned() } else { format!("{RELEASE}-{component}") };
        let service = find(&objects, "Service", &service);
        let of_service = at(service, "spec.ports").as_vec().unwrap().iter().find(is).unwrap();
        assert_eq!((of_service["port"].as_i64(), of_service["targetPort"].as_str()), (Some(port), Some(name)));
        // Every selector finds the pods.
        let labels = at(deployment, "spec.template.metadata.labels").as_hash().unwrap();
        let policy = find(&objects, "NetworkPolicy", &format!("billing-{component}"));
        for selector in [
            at(service, "spec.selector"),
            at(deployment, "spec.selector.matchLabels"),
            at(policy, "spec.podSelector.matchLabels"),
        ] {
            for (key, value) in selector.as_hash().unwrap() {
                assert_eq!(labels.get(key), Some(value), "{component}");
            }
        }
        let open: Vec<&str> =
            at(policy, "spec.ingress").as_vec().unwrap().iter().map(|rule| str_at(rule, "ports.0.port")).collect();
        assert!(open.contains(&name), "{open:?}");
        // The program, and the files that its configuration names.
        assert_eq!(texts(&container["command"]), [format!("/bin/{component}")]);
        assert_eq!(texts(&container["args"]), ["-conf", "/etc/billing/config.yaml"]);
        let mounts: Vec<&str> =
            container["volumeMounts"].as_vec().unwrap().iter().map(|mount| str_at(mount, "mountPath")).collect();
        assert_eq!(mounts, ["/etc/billing", "/run/secrets/billing"]);
        assert_eq!(at(container, "securityContext.readOnlyRootFilesystem").as_bool(), Some(true));
        assert_eq!(at(deployment, "spec.template.spec.securityContext.runAsUser").as_i64(), Some(65532));
    }
    let server = find(&objects, "Deployment", "billing-server");
    let container = at(server, "spec.template.spec.containers.0");
    for (probe, path) in [("startupProbe", "/health"), ("livenessProbe", "/health"), ("readinessProbe", "/ready")] {
        let get = at(&container[probe], "httpGet");
        assert_eq!((str_at(get, "path"), str_at(get, "port")), (path, "http"));
    }
    let budget = find(&objects, "PodDisruptionBudget", "billing-server");
    assert_eq!(at(budget, "spec.selector"), at(server, "spec.selector"));
    let monitor = find(&objects, "ServiceMonitor", RELEASE);
    let scraped: Vec<_> = at(monitor, "spec.endpoints")
        .as_vec()
        .unwrap()
        .iter()
        .map(|endpoint| (str_at(endpoint, "port"), endpoint["honorLabels"].as_bool()))
        .collect();
    assert_eq!(scraped, [("grpc", None), ("metrics", Some(true))]);
}

#[test]
fn the_parts_that_a_value_turns_off_are_absent() {
    let off = [("networkPolicy.enabled", Yaml::Boolean(false))];
    for (changes, kind, count) in
        [(&[][..], "ServiceMonitor", 0), (&off[..], "NetworkPolicy", 0), (&[][..], "NetworkPolicy", 2)]
    {
        let objects = Templates::new(changes).objects();
        let found = objects.iter().filter(|object| str_at(object, "kind") == kind).count();
        assert_eq!(found, count, "{kind}");
    }
    // An empty list must not become a rule without `from`, which would let everyone in.
    let closed = Templates::new(&[("networkPolicy.publicFrom", Yaml::Array(Vec::new()))]).objects();
    let rules = at(find(&closed, "NetworkPolicy", "billing-server"), "spec.ingress").as_vec().unwrap();
    let open: Vec<&str> = rules.iter().map(|rule| str_at(rule, "ports.0.port")).collect();
    assert_eq!(open, ["grpc", "grpc"]);
}

/// The substitution of this file against Helm itself, where it is installed.
#[test]
fn helm_renders_the_same_objects() {
    let chart = root().join(CHART);
    let helm = |arguments: &[&str]| Command::new("helm").args(arguments).arg(&chart).output();
    let Ok(linted) = helm(&["lint", "--strict"]) else {
        eprintln!("helm is not installed; skipped");
        return;
    };
    assert!(linted.status.success(), "{}", String::from_utf8_lossy(&linted.stdout));
    let rendered = helm(&["template", "--set", "serviceMonitor.enabled=true", RELEASE]).unwrap();
    assert!(rendered.status.success(), "{}", String::from_utf8_lossy(&rendered.stderr));
    // The emitters differ in their quotes, and so do the sums.
    let shape = |object: &Yaml| {
        let text = emit(object);
        let lines = text.lines().filter(|line| !line.contains("checksum/config"));
        let mut shape: Vec<String> = lines.map(str::to_owned).collect();
        if str_at(object, "kind") == "ConfigMap" {
            let conf = yaml("config.yaml", object["data"]["config.yaml"].as_str().unwrap()).remove(0);
            shape = vec![emit(&conf)];
        }
        shape.join("\n")
    };
    let theirs = yaml("helm", &String::from_utf8(rendered.stdout).unwrap());
    let theirs: Vec<&Yaml> = theirs.iter().filter(|object| !object.is_null()).collect();
    let ours = Templates::new(&[("serviceMonitor.enabled", Yaml::Boolean(true))]).objects();
    assert_eq!(ours.len(), theirs.len());
    for object in &ours {
        let (kind, name) = (str_at(object, "kind"), str_at(object, "metadata.name"));
        let same =
            theirs.iter().find(|theirs| str_at(theirs, "kind") == kind && str_at(theirs, "metadata.name") == name);
        let same = same.unwrap_or_else(|| panic!("helm makes no {kind} {name}"));
        assert_eq!(sorted(&shape(object)), sorted(&shape(same)), "{kind} {name}");
    }
}

/// Helm sorts the keys of `toYaml`.
fn sorted(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().map(str::trim).collect();
    lines.sort_unstable();
    lines.join("\n")
}
