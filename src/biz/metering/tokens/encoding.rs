//! The encoding of each model.

use crate::biz::values::ids::ModelName;

/// The token encoding of a family of models, with tiktoken's names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Encoding {
    /// GPT-4o and later models; the default for unknown models.
    #[default]
    O200kBase,
    /// gpt-oss. It differs from o200k_base only in special tokens, which count as text here.
    O200kHarmony,
    /// GPT-4, GPT-3.5 and the embedding models.
    Cl100kBase,
}

use Encoding::{Cl100kBase, O200kBase, O200kHarmony};

/// Families of models. Source: tiktoken's table (`tiktoken/model.py`, 0.14), without the models
/// that OpenAI has switched off. A model belongs to a family if its name is the family's, or
/// continues it with `-`, `.` or `@`: gpt-4-turbo belongs to gpt-4, and gpt-4o does not.
const FAMILIES: [(&str, Encoding); 17] = [
    ("gpt-5", O200kBase),
    ("gpt-4.5", O200kBase),
    ("gpt-4.1", O200kBase),
    ("gpt-4o", O200kBase),
    ("chatgpt-4o", O200kBase),
    ("o1", O200kBase),
    ("o3", O200kBase),
    ("o4-mini", O200kBase),
    ("codex-mini", O200kBase),
    ("gpt-oss", O200kHarmony),
    ("gpt-4", Cl100kBase),
    ("gpt-3.5", Cl100kBase),
    ("gpt-35", Cl100kBase),
    ("text-embedding-3", Cl100kBase),
    ("text-embedding-ada-002", Cl100kBase),
    ("davinci-002", Cl100kBase),
    ("babbage-002", Cl100kBase),
];

impl Encoding {
    pub const ALL: [Self; 3] = [O200kBase, O200kHarmony, Cl100kBase];

    /// The encoding of `model`, or the default for an unknown model. Most models of other vendors
    /// have vocabularies of about the size of o200k_base, and none is published for tiktoken. The
    /// vendor prefix of a gateway (`openai/gpt-4o`), the `ft:` of a tuned model, and case are
    /// ignored.
    pub fn of_model(model: &str) -> Self {
        Self::known(model).unwrap_or_default()
    }

    /// As [`Self::of_model`]; the default for `None`.
    pub fn of(model: Option<&ModelName>) -> Self {
        model.map_or_else(Self::default, |model| Self::of_model(model.as_str()))
    }

    /// As [`Self::of_model`]; `None` for a model of no known family.
    pub fn known(model: &str) -> Option<Self> {
        let name = model.rsplit('/').next().unwrap_or(model).to_ascii_lowercase();
        let name = name.strip_prefix("ft:").and_then(|tuned| tuned.split(':').next()).unwrap_or(&name);
        FAMILIES.iter().find(|(family, _)| is_of(name, family)).map(|(_, encoding)| *encoding)
    }

    pub fn name(self) -> &'static str {
        match self {
            O200kBase => "o200k_base",
            O200kHarmony => "o200k_harmony",
            Cl100kBase => "cl100k_base",
        }
    }
}

fn is_of(name: &str, family: &str) -> bool {
    // gpt-4.1 and gpt-4.5 do not belong to gpt-4, so they stand before it in the table.
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '.', '@']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_has_the_encoding_of_its_family() {
        for (model, encoding) in [
            ("gpt-4o", O200kBase),
            ("gpt-4o-mini-2024-07-18", O200kBase),
            ("chatgpt-4o-latest", O200kBase),
            ("gpt-4.1", O200kBase),
            ("gpt-4.1-nano", O200kBase),
            ("gpt-4.5-preview", O200kBase),
            ("gpt-5", O200kBase),
            ("gpt-5.1-codex", O200kBase),
            ("gpt-5-mini", O200kBase),
            ("o1-preview", O200kBase),
            ("o3", O200kBase),
            ("o4-mini-2025-04-16", O200kBase),
            ("gpt-oss-120b", O200kHarmony),
            ("gpt-4", Cl100kBase),
            ("gpt-4-0613", Cl100kBase),
            ("gpt-4-turbo-2024-04-09", Cl100kBase),
            ("gpt-3.5-turbo", Cl100kBase),
            ("gpt-35-turbo-16k", Cl100kBase),
            ("text-embedding-3-small", Cl100kBase),
            ("text-embedding-3-large", Cl100kBase),
            ("text-embedding-ada-002", Cl100kBase),
        ] {
            assert_eq!(Encoding::of_model(model), encoding, "{model}");
        }
    }

    #[test]
    fn a_vendor_a_tuning_and_capitals_do_not_hide_the_family() {
        for model in
            ["openai/gpt-4", "azure/eu/gpt-35-turbo", "ft:gpt-4-0613:acme::id", "GPT-4-Turbo", "ft:davinci-002"]
        {
            assert_eq!(Encoding::of_model(model), Cl100kBase, "{model}");
        }
        assert_eq!(Encoding::of_model("ft:gpt-4o-mini:acme::id"), O200kBase);
    }

    #[test]
    fn an_unknown_model_has_the_default() {
        for model in ["", "/", "ft:", "claude-sonnet-4", "deepseek-chat", "gpt-40", "gpt-", "gpt-6", "qwen3-max"] {
            assert_eq!(Encoding::of_model(model), O200kBase, "{model}");
        }
    }
}
