use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use super::*;

#[test]
fn the_language_is_the_preferred_one_of_the_known() {
    for (accept, language) in [
        ("", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh"),
        ("en-GB, zh;q=0.9", "en"),
        ("fr, zh-Hant;q=0.2, en;q=0.1", "zh"),
        ("de-DE", "en"),
        ("zh;q=0, en;q=0.5", "en"),
        ("zh;q=x", "en"),
        ("ZH", "zh"),
    ] {
        assert_eq!(Language::preferred(accept).tag(), language, "{accept}");
    }
}

/// The sources that use texts.
fn sources() -> String {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src")];
    let mut text = String::new();
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "rs") && !path.ends_with("texts/tests.rs") {
                text.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    text
}

/// The literals behind `begin`.
fn literals<'s>(source: &'s str, begin: &str) -> BTreeSet<&'s str> {
    let rests = source.split(begin).skip(1);
    rests.filter_map(|rest| rest.trim_start().strip_prefix('"')?.split('"').next()).collect()
}

fn keys(catalogue: &Catalogue) -> BTreeSet<&'static str> {
    catalogue.keys().copied().collect()
}

#[test]
fn no_text_is_missing_in_a_language_and_none_is_unused() {
    let [english, chinese] = &*CATALOGUES;
    assert_eq!(keys(english), keys(chinese));
    let source = sources();
    let mut used = literals(&source, "texts.get(");
    used.extend(literals(&source, "texts.with("));
    let mut groups = literals(&source, "texts.word(");
    groups.extend(literals(&source, "texts.find_word("));
    assert!(used.len() > 50 && groups.len() > 2, "the texts have another form: {used:?} {groups:?}");
    let is_of_group = |key: &str| key.split_once('.').is_some_and(|(group, _)| groups.contains(group));
    let missing: Vec<_> = used.iter().filter(|key| !english.contains_key(*key)).collect();
    let unused: Vec<_> = english.keys().filter(|key| !used.contains(*key) && !is_of_group(key)).collect();
    assert!(missing.is_empty() && unused.is_empty(), "missing: {missing:?}, unused: {unused:?}");
}

#[test]
fn each_line_is_an_entry_of_its_own_and_each_language_names_the_same_values() {
    let names = |text: &str| -> BTreeSet<String> {
        text.split('{').skip(1).filter_map(|rest| rest.split_once('}')).map(|(name, _)| name.to_owned()).collect()
    };
    for (text, catalogue) in [ENGLISH, CHINESE].into_iter().zip(&*CATALOGUES) {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        assert_eq!(lines.count(), catalogue.len(), "a key is there twice, or a line has no ` = `");
        assert!(catalogue.values().all(|text| !text.trim().is_empty()));
    }
    let [english, chinese] = &*CATALOGUES;
    let of = |catalogue: &Catalogue| -> BTreeMap<&str, BTreeSet<String>> {
        catalogue.iter().map(|(key, text)| (*key, names(text))).collect()
    };
    assert_eq!(of(english), of(chinese));
}
