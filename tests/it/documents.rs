//! The documents agree with the code: named files exist, and the lists are complete. Each test fails
//! when a step of a list in CONTRIBUTING.md is forgotten.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use billing_service::{biz::values::error::Error, service::errors};

use crate::harness::contract::rpcs;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn files_below(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let (folders, files): (Vec<_>, Vec<_>) = entries.partition(|path| path.is_dir());
    let below = folders.iter().flat_map(|folder| files_below(folder, ending));
    below.chain(files.into_iter().filter(|file| file.to_string_lossy().ends_with(ending))).collect()
}

fn documents() -> Vec<PathBuf> {
    let names = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"];
    let top = names.into_iter().map(|name| root().join(name));
    top.chain(files_below(&root().join("docs"), ".md")).collect()
}

/// The texts between two marks, such as the targets of links.
fn between<'t>(text: &'t str, begin: &str, end: &str) -> Vec<&'t str> {
    text.split(begin).skip(1).filter_map(|rest| rest.split_once(end).map(|(inner, _)| inner)).collect()
}

/// The texts between quotation marks of one kind.
fn quoted(text: &str, mark: char) -> impl Iterator<Item = &str> {
    text.split(mark).skip(1).step_by(2)
}

#[test]
fn the_readme_is_read_in_ten_minutes() {
    assert!(text("README.md").lines().count() <= 200);
}

#[test]
fn every_link_and_every_path_in_a_document_exists() {
    for document in documents() {
        let words = fs::read_to_string(&document).unwrap();
        let folder = document.parent().unwrap();
        for target in between(&words, "](", ")") {
            let file = target.split('#').next().unwrap();
            let is_outside = target.contains("://") || file.is_empty();
            assert!(is_outside || folder.join(file).exists(), "{}: link to {target}", document.display());
        }
        for path in words.lines().flat_map(|line| quoted(line, '`')) {
            let folders = ["src/", "tests/", "benches/", "configs/", "migrations/", "proto/", "examples/", "docs/"];
            let is_path = folders.iter().any(|start| path.starts_with(start))
                && path.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter))
                && !path.contains("NNNN");
            assert!(!is_path || root().join(path).exists(), "{}: path {path}", document.display());
        }
    }
}

#[test]
fn every_rpc_is_in_the_api_document() {
    let document = text("docs/api.md");
    for rpc in rpcs() {
        let row = document.lines().find(|line| line.starts_with(&format!("| `{}` |", rpc.name)));
        let row = row.unwrap_or_else(|| panic!("{} is not in the tables of docs/api.md", rpc.name));
        assert!(!rpc.routes.is_empty() || row.contains("gRPC only"), "{row}");
        for (method, path) in rpc.routes {
            assert!(row.contains(&format!("`{method} {path}`")), "{method} {path} is not in: {row}");
        }
    }
}

#[test]
fn every_error_code_is_in_the_api_document() {
    let table = text("src/service/errors.rs");
    let codes: BTreeSet<&str> = between(&table, "(\"1", "\"").into_iter().filter(|code| code.len() == 4).collect();
    assert!(codes.len() >= 15, "the table of errors has moved: {codes:?}");
    let kind = errors::kind(&Error::Overloaded("".into()));
    assert!(codes.contains(&kind.error_code[1..]), "{codes:?}");
    let document = text("docs/api.md");
    for code in codes {
        let is_listed = document.lines().any(|line| line.starts_with(&format!("| 1{code} |")));
        assert!(is_listed, "1{code} is not in the table of errors in docs/api.md");
    }
}

#[test]
fn every_metric_is_in_the_operations_document() {
    let document = text("docs/operations.md");
    let mut names = BTreeSet::new();
    for file in files_below(&root().join("src/metrics"), ".rs") {
        let source = fs::read_to_string(file).unwrap();
        // A metric with labels is absent before its first value, so the names come from the source.
        names.extend(source.lines().flat_map(|line| quoted(line, '"')).map(str::to_owned).filter(|name| {
            let is_metric = ["billing_", "quota_", "redis_"].iter().any(|start| name.starts_with(start));
            is_metric && name.chars().all(|letter| letter.is_ascii_lowercase() || "_0123456789".contains(letter))
        }));
    }
    assert!(names.len() > 30, "the metrics have moved: {names:?}");
    for name in names {
        // Some label values have the prefix of metrics.
        assert!(name == "quota_check" || document.contains(&format!("`{name}")), "{name} is not in docs/operations.md");
    }
}
