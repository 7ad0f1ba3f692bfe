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
    let rules: [(&str, &[&str]); 3] = [
        (
            "biz",
            &[
                "sqlx",
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
            ],
        ),
        ("data", &["tonic", "axum", "crate::service", "crate::server", "crate::app", "crate::config"]),
        ("service", &["sqlx", "redis", "crate::data", "crate::server", "crate::app"]),
    ];
    for (layer, forbidden) in rules {
        let files = sources(&src.join(layer));
        assert!(files.len() > 3, "{layer} has moved");
        for (path, text) in files {
            for line in text.lines().filter(|line| !line.trim_start().starts_with("//")) {
                for name in forbidden {
                    assert!(!line.contains(name), "{path} knows {name}: {line}");
                }
            }
        }
    }
}
