//! `billing.models` and `billing.model_services`: the prices of tokens, and the services that are
//! priced by model.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::{choices, shown::shown, values};
use crate::biz::{
    account::catalog::QuotaUnit,
    charge::prices::{PriceBook, PriceVersion, TokenPrices},
    values::{
        ids::{ModelName, PriceVersionId, ServiceName},
        money::Money,
    },
};

/// Prices of one model per million tokens, in force from an instant on.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrices {
    #[serde(deserialize_with = "values::amount", serialize_with = "shown")]
    input: Money,
    /// `None` means the price of `input`.
    #[serde(default, deserialize_with = "values::optional_amount", serialize_with = "shown")]
    cached_input: Option<Money>,
    #[serde(deserialize_with = "values::amount", serialize_with = "shown")]
    output: Money,
    /// `None` means always.
    #[serde(default, deserialize_with = "values::optional_instant", serialize_with = "shown")]
    effective_from: Option<DateTime<Utc>>,
}

impl ModelPrices {
    fn effective_from(&self) -> DateTime<Utc> {
        self.effective_from.unwrap_or(DateTime::UNIX_EPOCH)
    }

    /// The id contains the prices, so that edited prices are another version.
    fn version(&self) -> PriceVersion {
        let cached_input = self.cached_input.unwrap_or(self.input);
        let prices = TokenPrices { input: self.input, cached_input, output: self.output };
        let from = self
            .effective_from
            .map_or_else(String::new, |from| format!("@{}", from.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)));
        PriceVersion { id: PriceVersionId::from_stored(format!("config:{prices}{from}")), prices }
    }
}

/// The versions of one model: one, or a list of several.
#[derive(Debug, Clone, Serialize)]
pub struct Versions(Vec<ModelPrices>);

impl<'de> Deserialize<'de> for Versions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrMore)
    }
}

struct OneOrMore;

impl<'de> Visitor<'de> for OneOrMore {
    type Value = Versions;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("prices such as {input: 2, output: 8}, or a list of them")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Versions, A::Error> {
        ModelPrices::deserialize(MapAccessDeserializer::new(map)).map(|one| Versions(vec![one]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Versions, A::Error> {
        let mut versions: Vec<ModelPrices> = Vec::new();
        while let Some(version) = list.next_element::<ModelPrices>()? {
            if versions.iter().any(|other| other.effective_from() == version.effective_from()) {
                return Err(de::Error::custom("two versions have the same effective_from"));
            }
            versions.push(version);
        }
        if versions.is_empty() { Err(de::Error::custom("has no version")) } else { Ok(Versions(versions)) }
    }
}

pub(super) fn models<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Versions>, D::Error> {
    let models = BTreeMap::<String, Versions>::deserialize(deserializer)?;
    for name in models.keys() {
        ModelName::parse(name, name).map_err(|why| de::Error::custom(format!("model {why}")))?;
    }
    Ok(models)
}

/// The unit of the free quota of a service that is priced by model.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Counts(#[serde(serialize_with = "shown")] pub QuotaUnit);

impl<'de> Deserialize<'de> for Counts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        choices::word(deserializer).map(Self)
    }
}

pub(super) fn model_services<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, Counts>, D::Error> {
    let services = BTreeMap::<String, Counts>::deserialize(deserializer)?;
    for name in services.keys() {
        ServiceName::parse(name, name).map_err(|why| de::Error::custom(format!("service {why}")))?;
    }
    Ok(services)
}

/// The configured versions of all models.
pub(super) fn book(models: &BTreeMap<String, Versions>) -> PriceBook {
    let mut book = PriceBook::default();
    for (model, Versions(versions)) in models {
        for version in versions {
            book.set(ModelName::from_stored(model.as_str()), version.effective_from(), Ok(version.version()));
        }
    }
    book
}
