//! `billing.models` and `billing.model_services`: the prices of tokens, and the services that are
//! priced by model.

use std::{collections::BTreeMap, fmt};

use chrono::{DateTime, Utc};
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{self, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use sha2::{Digest, Sha256};

use super::{
    choices,
    shown::{number, shown},
    values,
};
use crate::biz::{
    account::{catalog::QuotaUnit, quota_weights::QuotaWeights},
    charge::prices::{Alias, Draft, Factor, Given, PriceBook, PriceList, PriceVersion, json},
    values::{
        ids::{ModelName, PriceVersionId, ServiceName, ServiceTier},
        invalid::Invalid,
        money::Money,
    },
};

/// Prices of one model, in force from an instant on: per million tokens, and for each call and image.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModelPrices {
    #[serde(deserialize_with = "values::amount", serialize_with = "shown")]
    input: Money,
    /// `None` here and below means the fallback of the class.
    #[serde(default, deserialize_with = "values::optional_amount", serialize_with = "shown")]
    cached_input: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    cache_write: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    cache_write_1h: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    audio_input: Option<Money>,
    #[serde(deserialize_with = "values::amount", serialize_with = "shown")]
    output: Money,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    reasoning: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    audio_output: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    request: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    image: Option<Money>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tiers: Vec<TierPrices>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    service_tiers: BTreeMap<String, ServiceFactor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    aliases: Vec<String>,
    #[serde(default, deserialize_with = "values::optional_input_tokens", skip_serializing_if = "Option::is_none")]
    max_tokens: Option<u32>,
    /// `None` means always.
    #[serde(default, deserialize_with = "values::optional_instant", serialize_with = "shown")]
    effective_from: Option<DateTime<Utc>>,
}

/// Prices of calls with a large input.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct TierPrices {
    #[serde(deserialize_with = "values::input_tokens")]
    above_input_tokens: u32,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    input: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    cached_input: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    cache_write: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    cache_write_1h: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    audio_input: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    output: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    reasoning: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    audio_output: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    request: Option<Money>,
    #[serde(
        default,
        deserialize_with = "values::optional_amount",
        serialize_with = "shown",
        skip_serializing_if = "Option::is_none"
    )]
    image: Option<Money>,
}

impl TierPrices {
    /// In the order of [`Class::ALL`](crate::biz::charge::prices::Class::ALL).
    fn given(&self) -> Given {
        [
            self.input,
            self.cached_input,
            self.cache_write,
            self.cache_write_1h,
            self.audio_input,
            self.output,
            self.reasoning,
            self.audio_output,
            self.request,
            self.image,
        ]
    }
}

/// A factor on the prices of a model.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct ServiceFactor(#[serde(serialize_with = "shown")] pub Factor);

impl<'de> Deserialize<'de> for ServiceFactor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map(Self).map_err(de::Error::custom)
    }
}

impl ModelPrices {
    fn effective_from(&self) -> DateTime<Utc> {
        self.effective_from.unwrap_or(DateTime::UNIX_EPOCH)
    }

    fn list(&self) -> Result<PriceList, Invalid> {
        let given = [
            Some(self.input),
            self.cached_input,
            self.cache_write,
            self.cache_write_1h,
            self.audio_input,
            Some(self.output),
            self.reasoning,
            self.audio_output,
            self.request,
            self.image,
        ];
        let service_tiers = self
            .service_tiers
            .iter()
            .map(|(name, factor)| ServiceTier::parse("service_tiers", name).map(|name| (name, factor.0)));
        Draft {
            given,
            tiers: self.tiers.iter().map(|tier| (tier.above_input_tokens, tier.given())).collect(),
            service_tiers: service_tiers.collect::<Result<_, _>>()?,
            aliases: self.aliases.iter().map(|alias| Alias::parse(alias)).collect::<Result<_, _>>()?,
            max_tokens: self.max_tokens,
        }
        .check()
    }

    /// The id contains the prices, or a digest of them, so that edited prices are another version.
    fn version(&self) -> Result<PriceVersion, Invalid> {
        let prices = self.list()?;
        let from = self
            .effective_from
            .map_or_else(String::new, |from| format!("@{}", from.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true)));
        let digest = if prices.is_flat() { String::new() } else { digest(&json::whole(&prices).to_string()) };
        let id = PriceVersionId::from_stored(format!("config:{prices}{digest}{from}"));
        Ok(PriceVersion::new(id, prices))
    }
}

/// The first eight bytes of the SHA-256 of a text, in hexadecimal digits.
fn digest(text: &str) -> String {
    Sha256::digest(text).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
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
        let one = ModelPrices::deserialize(MapAccessDeserializer::new(map))?;
        one.version().map_err(de::Error::custom)?;
        Ok(Versions(vec![one]))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Versions, A::Error> {
        let mut versions: Vec<ModelPrices> = Vec::new();
        while let Some(version) = list.next_element::<ModelPrices>()? {
            if versions.iter().any(|other| other.effective_from() == version.effective_from()) {
                return Err(de::Error::custom("two versions have the same effective_from"));
            }
            version.version().map_err(de::Error::custom)?;
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

/// The weights of a free quota that counts tokens.
#[derive(Debug, Clone, Copy)]
pub struct Weights(pub QuotaWeights);

impl<'de> Deserialize<'de> for Weights {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let names = BTreeMap::<String, String>::deserialize(deserializer)?;
        QuotaWeights::of_names(&names).map(Self).map_err(de::Error::custom)
    }
}

impl Serialize for Weights {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let numbers = self.0.names().into_iter().map(|(name, weight)| (name, number(weight)));
        serializer.collect_map(numbers)
    }
}

/// The configured versions of all models.
pub(super) fn book(models: &BTreeMap<String, Versions>) -> PriceBook {
    let mut book = PriceBook::default();
    for (model, Versions(versions)) in models {
        for version in versions {
            // A list is checked when it is read.
            book.set(ModelName::from_stored(model.as_str()), version.effective_from(), version.version());
        }
    }
    book
}
