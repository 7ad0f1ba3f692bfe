//! The notices of data that the programs contain. A crate with data that is new, and a vocabulary that is turned on,
//! need a row of NOTICE.

use std::{collections::BTreeSet, fs, path::Path};

/// Beginnings of the names of crates that contain data of others.
const DATA: [&str; 12] = [
    "chrono-tz",
    "encoding_",
    "icu_",
    "idna_",
    "iso_",
    "prost-types",
    "regex-syntax",
    "stringprep",
    "tiktoken",
    "tonic-",
    "unic",
    "webpki-root",
];
/// Crates with such names that have no data of others in the programs.
const WITHOUT: [(&str, &str); 17] = [
    ("icu_collections", "no tables"),
    ("icu_locale_core", "no tables"),
    ("icu_normalizer", "its tables are in icu_normalizer_data"),
    ("icu_properties", "its tables are in icu_properties_data"),
    ("icu_provider", "no tables"),
    ("idna_adapter", "no tables"),
    ("stringprep", "for PostgreSQL, which is turned off"),
    ("tonic-build", "builds only"),
    ("tonic-prost", "no data"),
    ("tonic-prost-build", "builds only"),
    ("unicase", "builds only"),
    ("unicode-bidi", "for PostgreSQL, which is turned off"),
    ("unicode-ident", "builds only"),
    ("unicode-normalization", "for PostgreSQL, which is turned off"),
    ("unicode-properties", "for PostgreSQL, which is turned off"),
    ("unicode-width", "builds only"),
    ("webpki-root-certs", "for other systems"),
];

struct Row {
    data: String,
    source: String,
    licence: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn rows() -> Vec<Row> {
    let notice = text("NOTICE");
    let lines = notice.lines().filter(|line| line.starts_with("| ")).skip(2);
    lines
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [data, source, _, licence] = cells[..] else { panic!("{line}") };
            Row { data: data.into(), source: source.into(), licence: licence.into() }
        })
        .collect()
}

fn crates() -> BTreeSet<String> {
    let lock = text("Cargo.lock");
    let names = lock.lines().filter_map(|line| line.strip_prefix("name = \""));
    names.map(|name| name.trim_end_matches('"').to_owned()).collect()
}

#[test]
fn every_crate_with_data_has_a_notice() {
    let (rows, crates) = (rows(), crates());
    let listed: BTreeSet<&str> = rows.iter().map(|row| row.source.as_str()).collect();
    for name in crates.iter().filter(|name| DATA.iter().any(|start| name.starts_with(start))) {
        let is_without = WITHOUT.iter().any(|(other, _)| other == name);
        assert!(
            listed.contains(name.as_str()) != is_without,
            "{name} needs a row of NOTICE, or one of tests/it/notices.rs, and not both"
        );
    }
    for source in listed {
        assert!(crates.contains(source) || root().join(source).exists(), "{source} of NOTICE has gone");
    }
}

#[test]
fn the_text_of_every_licence_is_there() {
    for Row { data, licence, .. } in rows() {
        let file = root().join("LICENSES").join(format!("{licence}.txt"));
        assert!(licence == "public domain" || file.is_file(), "{data}: {licence} is not in LICENSES");
    }
}

/// The other vocabularies of the crate have licences of their own.
#[test]
fn every_vocabulary_in_the_build_has_a_notice() {
    let rows = rows();
    let row = rows.iter().find(|row| row.data.starts_with("token vocabularies ")).unwrap();
    let named: BTreeSet<&str> = row.data.trim_start_matches("token vocabularies ").split(", ").collect();
    assert_eq!(tiktoken::list_encodings().iter().copied().collect::<BTreeSet<_>>(), named);
}
