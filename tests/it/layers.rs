//! Imports point inward only.

use std::{fs, path::Path};

fn sources(folder: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else {
            found.push((path.display().to_string(), fs::read_to_string(&path).unwrap()));
        }
    }
    found
}

#[test]
fn layers_know_only_what_lies_inward_of_them() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let rules: [(&str, &[&str]); 5] = [
        (
            "biz",
            &[
                "sqlx",
                "rusqlite",
                "redis",
                "tonic",
                "axum",
                "prost",
                "http::",
                "crate::data",
                "crate::service",
                "crate::server",
                "crate::app",
                "crate::config",
                "crate::sandbox",
            ],
        ),
        ("data", &["axum", "crate::sandbox", "crate::service", "crate::server", "crate::app", "crate::config"]),
        ("data/mysql", &["tonic"]),
        ("data/sqlite", &["tonic"]),
        ("service", &["sqlx", "rusqlite", "redis::", "crate::data", "crate::sandbox", "crate::server", "crate::app"]),
    ];
    for (layer, forbidden) in rules {
        let files = sources(&src.join(layer));
        assert!(files.len() > 3, "{layer} has moved");
        for (path, text) in files {
            let code: String = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
            let imports = crate_imports(&code);
            for name in forbidden {
                let known = code.contains(name) || imports.iter().any(|import| import.starts_with(name));
                assert!(!known, "{path} knows {name}");
            }
        }
    }
}

/// The modules named in `use crate::{a::X, b::{Y, Z}}`, as `crate::a::X`, `crate::b::{Y`.
fn crate_imports(code: &str) -> Vec<String> {
    let mut imports = Vec::new();
    for block in code.split("use crate::{").skip(1) {
        let (mut depth, mut name) = (0, String::new());
        for letter in block.chars() {
            match letter {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => imports.push(format!("crate::{}", std::mem::take(&mut name).trim())),
                _ => {}
            }
            if letter != ',' || depth > 0 {
                name.push(letter);
            }
        }
        imports.push(format!("crate::{}", name.trim()));
    }
    imports
}

#[test]
fn nested_imports_are_seen() {
    let code = "use crate::{    biz::{a, b},    data::Store, app};";
    assert_eq!(crate_imports(code), ["crate::biz::{a, b}", "crate::data::Store", "crate::app"]);
}
