//! The files of deploy/ and the Dockerfile agree with the programs: configurations are valid, ports are
//! those that the programs listen on, and dashboards show metrics that exist.

mod chart;
mod compose;
mod dashboards;
mod image;
mod units;

use std::{fs, path::Path};

use yaml_rust2::{Yaml, YamlLoader};

use crate::harness::process::{CRON, SERVER, run};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All documents of a YAML text. Merge keys (`<<`) are applied.
fn yaml(name: &str, text: &str) -> Vec<Yaml> {
    let documents = YamlLoader::load_from_str(text).unwrap_or_else(|error| panic!("{name}: {error}\n{text}"));
    documents.into_iter().map(merged).collect()
}

fn merged(yaml: Yaml) -> Yaml {
    match yaml {
        Yaml::Array(items) => Yaml::Array(items.into_iter().map(merged).collect()),
        Yaml::Hash(mut entries) => {
            let common = entries.remove(&Yaml::String("<<".into()));
            if let Some(Yaml::Hash(common)) = common {
                for (key, value) in common {
                    if !entries.contains_key(&key) {
                        entries.insert(key, value);
                    }
                }
            }
            Yaml::Hash(entries.into_iter().map(|(key, value)| (key, merged(value))).collect())
        }
        other => other,
    }
}

/// A value by its path, such as `server.ports.0`.
fn at<'y>(yaml: &'y Yaml, path: &str) -> &'y Yaml {
    path.split('.').fold(yaml, |yaml, part| match part.parse::<usize>() {
        Ok(index) if yaml.is_array() => &yaml[index],
        _ => &yaml[part],
    })
}

fn str_at<'y>(yaml: &'y Yaml, path: &str) -> &'y str {
    at(yaml, path).as_str().unwrap_or_else(|| panic!("{path} is no text in {yaml:?}"))
}

/// The texts of a list.
fn texts(yaml: &Yaml) -> Vec<&str> {
    let items = yaml.as_vec().unwrap_or_else(|| panic!("no list: {yaml:?}"));
    items.iter().map(|item| item.as_str().unwrap_or_else(|| panic!("no text: {item:?}"))).collect()
}

/// The port behind the last colon of an address.
fn port(addr: &str) -> &str {
    addr.rsplit(':').next().unwrap()
}

/// Checks a configuration as an operator would, with `secrets` in place of the files in `folder`, where
/// the configuration expects them.
fn check_config(conf: &str, folder: &str, secrets: &[(&str, &str)], environment: &[(&str, &str)]) {
    let temporary = tempfile::tempdir().unwrap();
    let here = temporary.path();
    for (name, secret) in secrets {
        fs::write(here.join(name), secret).unwrap();
    }
    let path = here.join("config.yaml");
    let conf = conf.replace(folder, here.to_str().unwrap());
    fs::write(&path, &conf).unwrap();
    for program in [SERVER, CRON] {
        let checked = run(program, &["-conf", path.to_str().unwrap(), "--check-config"], environment);
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        assert_eq!(checked.status.code(), Some(0), "{said}\n{conf}");
    }
}
