//! The documents agree with the code: named files exist, and the lists are complete. Each test fails
//! when a step of a list in CONTRIBUTING.md is forgotten.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use billing_service::{
    biz::{audit_trail::AUDITED_RPCS, events::EventType, values::error::Error},
    service::errors,
};

use serde_json::Value;

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
fn make_finds_programs_where_cargo_builds_them() {
    let makefile = text("Makefile");
    assert!(
        makefile.contains("BUILT := $${CARGO_TARGET_DIR:-target}\n"),
        "the folder of builds follows the environment"
    );
    for folder in ["target/release", "target/quick", "target/debug"] {
        assert!(!makefile.contains(folder), "{folder}");
    }
}

/// A row behind an empty line is shown as text.
#[test]
fn every_row_of_a_table_is_below_its_head() {
    let is_row = |line: &str| line.starts_with('|');
    let is_rule = |line: &str| is_row(line) && line.chars().all(|part| "|-: ".contains(part));
    for document in documents() {
        let words = fs::read_to_string(&document).unwrap();
        let lines: Vec<&str> = std::iter::once("").chain(words.lines()).chain([""]).collect();
        for part in lines.windows(3) {
            let begins = is_row(part[1]) && !is_row(part[0]);
            assert!(!begins || is_rule(part[2]), "{}: {}", document.display(), part[1]);
        }
    }
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
            let folders = [
                "src/",
                "tests/",
                "benches/",
                "configs/",
                "migrations/",
                "proto/",
                "examples/",
                "docs/",
                "scripts/",
                "fuzz/",
                "deploy/",
            ];
            let is_path = folders.iter().any(|start| path.starts_with(start))
                && path.chars().all(|letter| letter.is_ascii_alphanumeric() || "/._-".contains(letter))
                && !path.contains("NNNN");
            assert!(!is_path || root().join(path).exists(), "{}: path {path}", document.display());
        }
    }
}

/// The path and the text of every source file.
fn sources() -> Vec<(String, String)> {
    let folders = ["src", "tests", "benches", "examples", "fuzz", "scripts"];
    let files = folders.iter().flat_map(|folder| [".rs", ".lua", ".py"].map(|ending| (folder, ending)));
    let files = files.flat_map(|(folder, ending)| files_below(&root().join(folder), ending));
    let path = |file: &Path| file.strip_prefix(root()).unwrap().to_str().unwrap().to_owned();
    files.map(|file| (path(&file), fs::read_to_string(&file).unwrap())).collect()
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.chars().all(|letter| letter.is_ascii_alphanumeric() || "_:".contains(letter))
}

/// Whether a source file defines an item. `name` may have the name of its type or module before it.
fn defines(source: &str, name: &str) -> bool {
    let item = name.rsplit("::").next().unwrap();
    let kinds = ["fn ", "struct ", "enum ", "trait ", "const ", "static ", "type ", "macro_rules! "];
    kinds.iter().any(|kind| {
        let begin = format!("{kind}{item}");
        let mut rests = source.split(&begin).skip(1);
        rests.any(|rest| !rest.starts_with(|letter: char| letter.is_ascii_alphanumeric() || letter == '_'))
    })
}

/// Each text between backticks, with the words before it.
fn code_words(text: &str) -> Vec<(&str, &str)> {
    let parts: Vec<&str> = text.split('`').collect();
    parts.chunks_exact(2).map(|pair| (pair[0], pair[1])).collect()
}

/// The items that a document places in a file, as in "`write` in `ledger.rs`", "`a` and `b` in `c.rs`", and
/// "`a` in `b.rs` and in `c.rs`".
fn placed_items(words: &str) -> Vec<(String, String)> {
    let prose: Vec<&str> = words.split("```").step_by(2).collect();
    let flat = prose.join(" ").split_whitespace().collect::<Vec<_>>().join(" ");
    let code = code_words(&flat);
    let mut placed = Vec::new();
    for (index, (before, path)) in code.iter().enumerate().skip(1) {
        if !path.ends_with(".rs") || path.contains(|letter| "*{ ".contains(letter)) {
            continue;
        }
        let mut last = index - 1;
        if *before == " and in " && index > 1 {
            last -= 1;
        } else if *before != " in " {
            continue;
        }
        placed.push((code[last].1.to_owned(), (*path).to_owned()));
        if code[last].0 == " and " && last > 0 && !code[last - 1].1.contains('.') {
            placed.push((code[last - 1].1.to_owned(), (*path).to_owned()));
        }
    }
    placed.retain(|(name, _)| is_word(name));
    placed
}

#[test]
fn every_item_that_a_document_places_in_a_file_is_defined_there() {
    let sources = sources();
    let mut checked = 0;
    for document in documents() {
        for (name, path) in placed_items(&fs::read_to_string(&document).unwrap()) {
            let is_at = |file: &str| file == path || file.ends_with(&format!("/{path}"));
            let is_there = sources.iter().any(|(file, source)| is_at(file) && defines(source, &name));
            assert!(is_there, "{}: {path} has no {name}", document.display());
            checked += 1;
        }
    }
    assert!(checked > 60, "the documents have another form: {checked}");
}

#[test]
fn every_function_that_the_architecture_names_with_its_type_exists() {
    let sources = sources();
    let document = text("docs/architecture.md");
    let words = document.split(|letter: char| !letter.is_ascii_alphanumeric() && !"_:".contains(letter));
    let names: BTreeSet<(&str, &str)> = words.filter_map(|word| word.split_once("::")).collect();
    assert!(names.len() > 40, "{names:?}");
    for (kind, function) in names {
        let is_there = sources.iter().any(|(_, source)| source.contains(kind) && defines(source, function));
        assert!(is_there, "no {kind}::{function}");
    }
}

#[test]
fn every_file_of_the_map_is_in_its_folder() {
    let document = text("docs/architecture.md");
    let map = document.split_once("## The map").unwrap().1.split("```").nth(1).unwrap();
    let sources = sources();
    // The folders around a line, each with its column and its alternatives.
    let mut around: Vec<(usize, Vec<&str>)> = Vec::new();
    let mut checked = 0;
    for line in map.lines().skip(1) {
        let entry = line.trim_start();
        let column = line.len() - entry.len();
        // A line of more columns goes on with the text of the one before.
        if column <= 8 {
            around.retain(|(of_folder, _)| *of_folder < column);
            let folders: Vec<&str> = entry.split("  ").next().unwrap().split(", ").collect();
            around.extend(folders.iter().all(|name| name.ends_with('/')).then_some((column, folders)));
        }
        for name in entry.split(|letter: char| " ,:;".contains(letter)) {
            if ![".rs", ".lua", ".py"].iter().any(|ending| name.ends_with(ending)) {
                continue;
            }
            let is_below = |path: &str| {
                let mut rest = path;
                around.iter().all(|(_, folders)| {
                    let found = folders.iter().find_map(|folder| rest.split_once(*folder));
                    rest = found.map_or(rest, |(_, rest)| rest);
                    found.is_some()
                }) && (rest == name || rest.ends_with(&format!("/{name}")))
            };
            assert!(sources.iter().any(|(path, _)| is_below(path)), "the map has {name} in {around:?}");
            checked += 1;
        }
    }
    assert!(checked > 100, "the map has another form: {checked}");
}

#[test]
fn every_log_text_that_an_operator_looks_for_is_in_the_code() {
    let flat = |text: &str| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let code: String =
        sources().iter().filter(|(path, _)| path.starts_with("src/")).map(|(_, text)| flat(text)).collect();
    let operations = text("docs/operations.md").split("```").step_by(2).collect::<String>();
    for (document, least) in [(flat(&operations), 8), (flat(&text("configs/alerts.yaml")), 5)] {
        // Other quoted texts are values of a label, without a blank.
        let texts: BTreeSet<&str> = quoted(&document, '"').filter(|text| text.contains(' ')).collect();
        assert!(texts.len() >= least, "the texts have another form: {texts:?}");
        for text in texts {
            assert!(code.contains(&format!("\"{text}")), "no log line has {text:?}");
        }
    }
}

#[test]
fn every_migration_is_in_the_changelog() {
    let changelog = text("CHANGELOG.md");
    let names = files_below(&root().join("migrations/mysql"), ".sql").into_iter();
    let names: Vec<String> = names.map(|file| file.file_stem().unwrap().to_str().unwrap().to_owned()).collect();
    assert!(names.len() >= 22, "{names:?}");
    // The release before had the first thirteen.
    for name in names.iter().filter(|name| name.as_str() >= "0014") {
        assert!(changelog.contains(&format!("`{name}`")), "{name} is not in CHANGELOG.md");
    }
}

#[test]
fn every_audited_rpc_has_a_row_in_the_table_of_events() {
    let document = text("docs/api.md");
    let section = document.split_once("## The audit trail").unwrap().1.split("\n## ").next().unwrap();
    for rpc in AUDITED_RPCS {
        let is_listed = section.lines().any(|line| {
            let row = line.strip_prefix("| ").and_then(|row| row.split_once(" |"));
            row.is_some_and(|(names, _)| names.contains(&format!("`{rpc}`")))
        });
        assert!(is_listed, "{rpc} is not in the table of events in docs/api.md");
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
fn every_type_of_event_has_a_row_and_an_example_in_the_document_of_events() {
    let document = text("docs/events.md");
    let types = between(&document, "## Types", "## Thresholds").concat();
    let examples: Vec<Value> = between(&types, "```json", "```")
        .iter()
        .flat_map(|block| block.lines())
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}")))
        .collect();
    // The fields of the three kinds of quotas have rows of their own.
    let quotas: String = types.lines().filter(|line| line.starts_with("| `") && line.contains("`: ")).collect();
    for name in EventType::ALL.map(EventType::name) {
        let row = types.lines().find(|line| line.starts_with('|') && line.contains(&format!("`{name}`")));
        let row = row.unwrap_or_else(|| panic!("{name} has no row in docs/events.md"));
        let of_type: Vec<_> = examples.iter().filter(|example| example["type"] == name).collect();
        assert!(!of_type.is_empty(), "{name} has no example in docs/events.md");
        for field in of_type.iter().flat_map(|example| example["data"].as_object().unwrap().keys()) {
            let field_in_words = format!("`{field}`");
            let is_quota = name == EventType::QuotaThreshold.name() && quotas.contains(&field_in_words);
            assert!(
                field == "user_id" || row.contains(&field_in_words) || is_quota,
                "{name} has no {field} in its row"
            );
        }
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
