//! Imports point inward only, and never in a circle.

mod imports;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use self::imports::{Sources, starts_with};

/// What each top module may know of the others; `data::dsn` and `data::tls` are parts of one.
const LAYERS: [(&str, &[&str]); 10] = [
    ("biz", &[]),
    ("data", &["biz"]),
    ("metrics", &["biz"]),
    ("config", &["biz", "data::dsn", "data::tls"]),
    ("logs", &["config"]),
    ("command", &["config", "logs"]),
    ("service", &["biz", "config", "metrics"]),
    ("server", &["biz", "config", "data", "metrics", "service"]),
    ("sandbox", &["biz", "config", "data::payment", "server", "service"]),
    ("app", &["biz", "config", "data", "metrics", "sandbox", "server", "service"]),
];

/// The crates that a part of the sources must not know.
const CRATES: [(&str, &[&str]); 10] = [
    ("biz", &["sqlx", "rusqlite", "redis", "tonic", "axum", "prost", "http", "hyper", "prometheus", "config"]),
    ("data", &["axum", "prometheus", "config"]),
    ("data::mysql", &["tonic", "rusqlite", "redis"]),
    ("data::sqlite", &["tonic", "redis"]),
    ("data::redis", &["tonic", "sqlx", "rusqlite"]),
    ("metrics", &["sqlx", "rusqlite", "redis", "tonic", "axum", "config"]),
    ("config", &["sqlx", "rusqlite", "redis", "tonic", "axum", "prometheus"]),
    ("service", &["sqlx", "rusqlite", "redis", "prometheus"]),
    ("server", &["sqlx", "rusqlite", "redis"]),
    ("app", &["sqlx", "rusqlite", "redis", "prost", "axum"]),
];

/// The folders of `biz`, inner ones first: a folder knows itself and those before it.
const BIZ: [&str; 12] = [
    "values",
    "database",
    "audit_trail",
    "limits",
    "account",
    "charge",
    "reports",
    "settlement",
    "check",
    "metering",
    "recharge",
    "jobs",
];

fn sources() -> Sources {
    let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.files().count() > 150, "the sources have moved");
    sources
}

#[test]
fn layers_know_only_what_lies_inward_of_them() {
    let sources = sources();
    let layers: BTreeMap<&str, &[&str]> = LAYERS.into_iter().collect();
    let mut wrong = Vec::new();
    for (file, known) in sources.files() {
        // The root declares the layers.
        let Some(layer) = file.first() else { continue };
        let allowed = layers.get(layer.as_str());
        let allowed = allowed.unwrap_or_else(|| panic!("{layer} has no rule: which layers may it know?"));
        for other in known.files.iter().filter(|other| other.first() != Some(layer)) {
            if !allowed.iter().any(|allowed| starts_with(other, allowed)) {
                wrong.push(format!("{} knows {}", file.join("::"), other.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn drivers_and_protocols_stay_in_their_layers() {
    let sources = sources();
    let mut wrong = Vec::new();
    for (part, forbidden) in CRATES {
        let files: Vec<_> = sources.files().filter(|(file, _)| starts_with(file, part)).collect();
        assert!(!files.is_empty(), "{part} has moved");
        for (file, known) in files {
            let found = known.crates.iter().filter(|known| forbidden.contains(&known.as_str()));
            wrong.extend(found.map(|found| format!("{} knows the crate {found}", file.join("::"))));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn folders_of_the_rules_know_only_those_before_them() {
    let sources = sources();
    let place = |file: &[String]| BIZ.iter().position(|folder| file.get(1).is_some_and(|name| name == folder));
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for (file, known) in sources.files().filter(|(file, _)| file.len() > 1 && starts_with(file, "biz")) {
        let own = place(file).unwrap_or_else(|| panic!("{} has no place in the order of folders", file.join("::")));
        seen.insert(own);
        for other in known.files.iter().filter(|other| starts_with(other, "biz")) {
            if place(other).is_none_or(|other| other > own) {
                wrong.push(format!("{} knows {}", file.join("::"), other.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(seen.len(), BIZ.len(), "a folder of the order is gone");
}

/// A file knows the files that define the names it uses. A `mod` line is no import, and a name
/// that `mod.rs` only hands on with `pub use` counts for the file that defines the name. So a
/// `mod.rs` may either hand on the names of its children or hold items that the children use,
/// but not use its children and be used by them. Tests may import what they like.
#[test]
fn no_files_import_each_other_in_a_circle() {
    let circles = sources().circles();
    assert!(circles.is_empty(), "each of these knows the next one, and the last the first:\n{}", circles.join("\n"));
}
