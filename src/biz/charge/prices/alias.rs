//! Aliases: other names of a model, and globs of such names.

use std::fmt;

use crate::biz::values::{ids::ModelName, invalid::Invalid};

/// Matches any number of characters in an alias.
const ANY: char = '*';
/// Most stars of one alias. The time of a match grows with their number.
const MAX_STARS: usize = 4;

/// A name, or a glob: a name in which each `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Alias(ModelName);

impl Alias {
    /// # Errors
    /// [`Invalid`] names `aliases`.
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        let name = ModelName::parse("aliases", text)?;
        let alias = Self(name);
        if alias.specificity() == 0 {
            return Err(Invalid::new("aliases", format!("{text:?} would stand for every model")));
        }
        if text.matches(ANY).count() > MAX_STARS {
            return Err(Invalid::new("aliases", format!("{text:?} has more than {MAX_STARS} stars")));
        }
        Ok(alias)
    }

    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    pub fn is_glob(&self) -> bool {
        self.as_str().contains(ANY)
    }

    /// The characters before the first star.
    pub fn prefix(&self) -> &str {
        self.as_str().split(ANY).next().unwrap_or_default()
    }

    /// The number of characters that a name must have in common with the alias. Of two globs that match
    /// a name, the one with the larger number wins.
    pub fn specificity(&self) -> usize {
        self.as_str().chars().filter(|char| *char != ANY).count()
    }

    pub fn matches(&self, name: &str) -> bool {
        let mut parts = self.as_str().split(ANY);
        let first = parts.next().unwrap_or_default();
        let Some(mut rest) = name.strip_prefix(first) else { return false };
        let Some(last) = parts.next_back() else { return rest.is_empty() };
        let Some(middle) = rest.strip_suffix(last) else { return false };
        rest = middle;
        for part in parts {
            match rest.find(part) {
                Some(at) => rest = &rest[at + part.len()..],
                None => return false,
            }
        }
        true
    }
}

impl fmt::Display for Alias {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (alias, matching, other) in [
            ("gpt-4.1", &["gpt-4.1"][..], &["gpt-4.1-mini", "gpt-4", "", "xgpt-4.1"][..]),
            ("gpt-4.1-2025*", &["gpt-4.1-2025", "gpt-4.1-2025-04-14"], &["gpt-4.1-2024-04-14", "gpt-4.1"]),
            ("*/gpt-4.1", &["openai/gpt-4.1", "/gpt-4.1"], &["gpt-4.1", "openai/gpt-4.1-mini"]),
            ("a*b*c", &["abc", "axxbyyc", "abcbc"], &["ab", "acb", "abcx"]),
            ("a*a", &["aa", "aba"], &["a"]),
            ("a**b", &["ab", "axb"], &["a"]),
        ] {
            let alias = Alias::parse(alias).unwrap();
            for name in matching {
                assert!(alias.matches(name), "{alias} {name}");
            }
            for name in other {
                assert!(!alias.matches(name), "{alias} {name}");
            }
        }
    }

    #[test]
    fn an_alias_says_something() {
        for bad in ["", "*", "**", "a*b*c*d*e*f", "a\n"] {
            assert_eq!(Alias::parse(bad).unwrap_err().field, "aliases", "{bad:?}");
        }
        let alias = Alias::parse("gpt*mini").unwrap();
        assert_eq!((alias.prefix(), alias.specificity(), alias.is_glob()), ("gpt", 7, true));
        assert!(!Alias::parse("gpt").unwrap().is_glob());
    }
}
