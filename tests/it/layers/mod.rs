//! Imports only point inward, and form no circle.

mod imports;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use self::imports::{Sources, starts_with};

/// The modules that each top module may import. `data::dsn` and `data::tls` are parts of a module.
const LAYERS: [(&str, &[&str]); 14] = [
    ("context", &[]),
    ("texts", &[]),
    ("biz", &[]),
    ("data", &["biz", "context"]),
    ("metrics", &["biz"]),
    ("config", &["biz", "data::dsn", "data::tls"]),
    ("telemetry", &["biz::values::spans", "config"]),
    ("logs", &["config", "context", "telemetry"]),
    ("command", &["config", "logs", "telemetry"]),
    ("service", &["biz", "config", "context", "metrics", "texts"]),
    ("console", &["biz", "service", "texts"]),
    ("server", &["biz", "config", "console", "context", "data", "metrics", "service", "texts"]),
    ("sandbox", &["biz", "config", "data::payment", "server", "service"]),
    ("app", &["biz", "config", "console", "data", "metrics", "sandbox", "server", "service"]),
];

/// The crates that a part of the sources must not import.
const CRATES: [(&str, &[&str]); 11] = [
    ("biz", &["sqlx", "rusqlite", "redis", "tonic", "axum", "prost", "http", "hyper", "prometheus", "config"]),
    ("data", &["axum", "prometheus", "config"]),
    ("data::mysql", &["tonic", "rusqlite", "redis"]),
    ("data::sqlite", &["tonic", "redis"]),
    ("data::redis", &["tonic", "sqlx", "rusqlite"]),
    ("metrics", &["sqlx", "rusqlite", "redis", "tonic", "axum", "config"]),
    ("config", &["sqlx", "rusqlite", "redis", "tonic", "axum", "prometheus"]),
    ("service", &["sqlx", "rusqlite", "redis", "prometheus"]),
    ("console", &["sqlx", "rusqlite", "redis", "prometheus", "tonic", "config"]),
    ("server", &["sqlx", "rusqlite", "redis"]),
    ("app", &["sqlx", "rusqlite", "redis", "prost", "axum"]),
];

/// The folders of `biz`, from the inside out. A folder may import itself and the folders before it.
const BIZ: [&str; 15] = [
    "values",
    "database",
    "audit_trail",
    "events",
    "webhooks",
    "limits",
    "account",
    "charge",
    "reports",
    "settlement",
    "check",
    "metering",
    "recharge",
    "statements",
    "jobs",
];

fn sources() -> Sources {
    let sources = Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(sources.files().count() > 150, "the sources have moved");
    sources
}

#[test]
fn layers_import_only_inner_layers() {
    let sources = sources();
    let layers: BTreeMap<&str, &[&str]> = LAYERS.into_iter().collect();
    let mut wrong = Vec::new();
    for (file, imports) in sources.files() {
        // The crate root declares the layers, so it imports all of them.
        let Some(layer) = file.first() else { continue };
        let allowed = layers.get(layer.as_str());
        let allowed = allowed.unwrap_or_else(|| panic!("{layer} has no rule in LAYERS"));
        for other in imports.files.iter().filter(|other| other.first() != Some(layer)) {
            if !allowed.iter().any(|allowed| starts_with(other, allowed)) {
                wrong.push(format!("{} imports {}", file.join("::"), other.join("::")));
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
        for (file, imports) in files {
            let found = imports.crates.iter().filter(|name| forbidden.contains(&name.as_str()));
            wrong.extend(found.map(|found| format!("{} imports the crate {found}", file.join("::"))));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn folders_of_biz_import_only_folders_before_them() {
    let sources = sources();
    let place = |file: &[String]| BIZ.iter().position(|folder| file.get(1).is_some_and(|name| name == folder));
    let (mut wrong, mut seen) = (Vec::new(), BTreeSet::new());
    for (file, imports) in sources.files().filter(|(file, _)| file.len() > 1 && starts_with(file, "biz")) {
        let own = place(file).unwrap_or_else(|| panic!("{} is in no folder of BIZ", file.join("::")));
        seen.insert(own);
        for other in imports.files.iter().filter(|other| starts_with(other, "biz")) {
            if place(other).is_none_or(|other| other > own) {
                wrong.push(format!("{} imports {}", file.join("::"), other.join("::")));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert_eq!(seen.len(), BIZ.len(), "a folder of BIZ does not exist");
}

/// A file imports the files that define its names. A `mod` line is no import. A name that `mod.rs`
/// re-exports counts for the file that defines it. So a `mod.rs` may re-export the names of its
/// children, or define items for its children. It must not use its children and be used by them.
/// Tests may import anything.
#[test]
fn no_files_import_each_other_in_a_circle() {
    let circles = sources().circles();
    assert!(
        circles.is_empty(),
        "each file imports the next one, and the last one imports the first:\n{}",
        circles.join("\n")
    );
}
