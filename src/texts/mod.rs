//! The texts that people read, in each language: one catalogue per language, embedded in the program. A line of a
//! catalogue is `key = text`; `{name}` stands for a value.

use std::{collections::HashMap, fmt::Display, sync::LazyLock};

/// A language of the catalogues.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Language {
    English,
    Chinese,
}

impl Language {
    pub const ALL: [Self; 2] = [Self::English, Self::Chinese];

    /// Its tag in pages and cookies.
    pub fn tag(self) -> &'static str {
        match self {
            Self::English => "en",
            Self::Chinese => "zh",
        }
    }

    /// Its name in itself.
    pub fn name(self) -> &'static str {
        match self {
            Self::English => "English",
            Self::Chinese => "中文",
        }
    }

    /// The language of a tag such as `zh-CN`.
    pub fn of_tag(tag: &str) -> Option<Self> {
        let primary = tag.split('-').next().unwrap_or_default();
        Self::ALL.into_iter().find(|language| primary.eq_ignore_ascii_case(language.tag()))
    }

    /// The language that the header `Accept-Language` prefers among these. The first of equal weights wins, and
    /// English without a match.
    pub fn preferred(accept: &str) -> Self {
        let mut best = (Self::English, 0);
        for part in accept.split(',').take(MAX_RANGES) {
            let mut parameters = part.split(';').map(str::trim);
            let Some(language) = parameters.next().and_then(Self::of_tag) else { continue };
            let weight = parameters.find_map(|parameter| parameter.strip_prefix("q=")).map_or(1_000, thousandths);
            if weight > best.1 {
                best = (language, weight);
            }
        }
        best.0
    }
}

/// Most ranges of `Accept-Language` that are read.
const MAX_RANGES: usize = 20;

/// A weight such as `0.8`, in thousandths; 0 for a malformed one.
fn thousandths(weight: &str) -> u32 {
    let (whole, fraction) = weight.split_once('.').unwrap_or((weight, ""));
    let is_weight = matches!(whole, "0" | "1") && fraction.len() <= 3 && fraction.bytes().all(|b| b.is_ascii_digit());
    let digits = || format!("{whole}{fraction:0<3}").parse().ok();
    is_weight.then(digits).flatten().unwrap_or(0)
}

const ENGLISH: &str = include_str!("en.txt");
const CHINESE: &str = include_str!("zh.txt");

type Catalogue = HashMap<&'static str, &'static str>;

static CATALOGUES: LazyLock<[Catalogue; 2]> = LazyLock::new(|| [parse(ENGLISH), parse(CHINESE)]);

fn parse(text: &'static str) -> Catalogue {
    let entries = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once(" = "));
    entries.collect()
}

/// The texts in one language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Texts(pub Language);

impl Texts {
    /// The text of a key. A test finds a key without one.
    pub fn get(self, key: &'static str) -> &'static str {
        self.find(key).unwrap_or(key)
    }

    /// The text of a key, with the values of its names.
    pub fn with(self, key: &'static str, values: &[(&str, &dyn Display)]) -> String {
        let mut rest = self.get(key);
        let mut text = String::with_capacity(rest.len());
        // Once, because a value may look like the name of another one.
        while let Some((before, named)) = rest.split_once('{') {
            text.push_str(before);
            let found = named.split_once('}').and_then(|(name, behind)| {
                let (_, value) = values.iter().find(|(known, _)| *known == name)?;
                Some((value, behind))
            });
            match found {
                Some((value, behind)) => {
                    text.push_str(&value.to_string());
                    rest = behind;
                }
                None => {
                    text.push('{');
                    rest = named;
                }
            }
        }
        text.push_str(rest);
        text
    }

    /// The text of a word of the contract, such as a status; the word itself, if the catalogue lacks it.
    pub fn word<'w>(self, group: &'static str, word: &'w str) -> &'w str {
        self.find(&format!("{group}.{word}")).unwrap_or(word)
    }

    /// As [`Self::word`]; `None` if the catalogue lacks it.
    pub fn find_word(self, group: &'static str, word: &str) -> Option<&'static str> {
        self.find(&format!("{group}.{word}"))
    }

    fn find(self, key: &str) -> Option<&'static str> {
        let [english, chinese] = &*CATALOGUES;
        let catalogue = match self.0 {
            Language::English => english,
            Language::Chinese => chinese,
        };
        catalogue.get(key).copied()
    }
}

#[cfg(test)]
mod tests;
