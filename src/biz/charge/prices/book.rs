//! The price versions of every model, and the names by which callers find them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ops::Bound,
    sync::Arc,
};

use chrono::{DateTime, Utc};

use super::{
    alias::Alias,
    list::{PriceLine, PriceList, Work},
};
use crate::biz::values::{
    factor::Factor,
    ids::{ModelName, PlanName, PriceVersionId},
    invalid::Invalid,
    money::Money,
};

/// Prices with the id that a transaction stores.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceVersion {
    pub id: PriceVersionId,
    pub prices: Arc<PriceList>,
    /// The factor of the user's plan.
    pub multiplier: Factor,
}

impl PriceVersion {
    /// A version without a plan.
    pub fn new(id: PriceVersionId, prices: PriceList) -> Self {
        Self { id, prices: Arc::new(prices), multiplier: Factor::ONE }
    }

    /// Whether three prices are all that it has.
    pub fn is_flat(&self) -> bool {
        self.multiplier == Factor::ONE && self.prices.is_flat()
    }

    /// As [`PriceList::cost`].
    ///
    /// # Errors
    /// As [`PriceList::cost`].
    pub fn cost(&self, work: Work<'_>) -> Result<Money, Invalid> {
        self.prices.cost(work, self.multiplier)
    }

    /// As [`PriceList::lines`].
    ///
    /// # Errors
    /// As [`PriceList::cost`].
    pub fn lines(&self, work: Work<'_>) -> Result<Vec<PriceLine>, Invalid> {
        self.prices.lines(work, self.multiplier)
    }
}

/// A version of a book with its model and instant.
pub type Listed<'b> = (&'b ModelName, DateTime<Utc>, &'b Result<PriceVersion, Invalid>);

type Versions = BTreeMap<DateTime<Utc>, Result<PriceVersion, Invalid>>;

/// The versions of every model, by the instant at which each comes into force, and the aliases of the
/// models. A call of any other model is an error, never free.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PriceBook {
    models: BTreeMap<ModelName, Versions>,
    /// The models that have a name among the aliases of one of their versions.
    names: HashMap<Alias, BTreeSet<ModelName>>,
    /// As `names`, for globs, by the characters before their first star.
    globs: HashMap<String, BTreeSet<(Alias, ModelName)>>,
    /// The prices of the plans of users; that of the default plan under its name.
    plans: BTreeMap<PlanName, PlanPrices>,
}

/// The prices of a plan of users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanPrices {
    /// On the prices of all models, except those of `models`.
    pub multiplier: Factor,
    /// The models that differ.
    pub models: PriceBook,
}

/// A version in force, and its model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Found<'b> {
    pub model: &'b ModelName,
    pub version: &'b PriceVersion,
}

impl PriceBook {
    /// Adds a version, or the defect of an invalid one. It replaces a version of the same model and
    /// instant.
    pub fn set(&mut self, model: ModelName, effective_from: DateTime<Utc>, version: Result<PriceVersion, Invalid>) {
        for alias in version.iter().flat_map(|version| version.prices.aliases()) {
            if alias.is_glob() {
                let known = match self.globs.get_mut(alias.prefix()) {
                    Some(known) => known,
                    None => self.globs.entry(alias.prefix().to_owned()).or_default(),
                };
                known.insert((alias.clone(), model.clone()));
            } else {
                self.names.entry(alias.clone()).or_default().insert(model.clone());
            }
        }
        self.models.entry(model).or_default().insert(effective_from, version);
    }

    /// Adds a plan of users.
    pub fn add_plan(&mut self, name: PlanName, prices: PlanPrices) {
        self.plans.insert(name, prices);
    }

    /// The version for a user of `plan`, with its multiplier. The model of this name counts before every
    /// alias, and of two aliases the better one. On equal terms the prices of the plan count first.
    ///
    /// # Errors
    /// As [`Self::at`].
    pub fn at_in(
        &self,
        plan: Option<PlanName>,
        name: &ModelName,
        at: DateTime<Utc>,
    ) -> Result<(ModelName, PriceVersion), Invalid> {
        let (known, multiplier) = match self.plan(plan) {
            Some(plan) => plan.known(self, name, at),
            None => (self.known(name, at), Factor::ONE),
        };
        let Found { model, version } = self.usable(known, name)?;
        Ok((model.clone(), PriceVersion { multiplier, ..version.clone() }))
    }

    /// The prices of a plan, or of the default plan.
    fn plan(&self, name: Option<PlanName>) -> Option<&PlanPrices> {
        if self.plans.is_empty() {
            return None;
        }
        let default = || self.plans.get(&PlanName::from_stored(PlanName::DEFAULT));
        name.and_then(|name| self.plans.get(&name)).or_else(default)
    }

    /// The version in force at `at`: the latest one that is not in the future. `name` is the name of a
    /// model or, if no such model has a version yet, one of the aliases of a version in force. Of several
    /// aliases the most specific one counts.
    ///
    /// # Errors
    /// [`Invalid`] names `model` if no valid version is in force.
    pub fn at(&self, name: &ModelName, at: DateTime<Utc>) -> Result<Found<'_>, Invalid> {
        self.usable(self.known(name, at), name)
    }

    fn known(&self, name: &ModelName, at: DateTime<Utc>) -> Option<Known<'_>> {
        self.exact(name, at).or_else(|| self.aliased(name, at).map(|(_, known)| known))
    }

    fn usable<'b>(&self, known: Option<Known<'b>>, name: &ModelName) -> Result<Found<'b>, Invalid> {
        let why = match known {
            Some(Known { model, version: Ok(version) }) => return Ok(Found { model, version }),
            // The caller can't correct the row. The log has the reason for the operator.
            Some(_) => "has no usable price",
            None if self.models.contains_key(name) => "has no price yet",
            None => "has no price",
        };
        Err(Invalid::new("model", format!("{name:?} {why}")))
    }

    /// The version in force of the model of this name.
    fn exact(&self, name: &ModelName, at: DateTime<Utc>) -> Option<Known<'_>> {
        let (model, versions) = self.models.get_key_value(name)?;
        Some(Known { model, version: in_force(versions, at)? })
    }

    /// The version in force of the model that `name` is an alias of.
    fn aliased(&self, name: &ModelName, at: DateTime<Utc>) -> Option<(Rank, Known<'_>)> {
        let has = |model: &ModelName, alias: &Alias| {
            let version = self.models.get(model).and_then(|versions| last_usable(versions, at));
            version.is_some_and(|version| version.prices.aliases().contains(alias))
        };
        let text = name.as_str();
        if !self.names.is_empty()
            && let Ok(alias) = Alias::parse(text)
            && let Some(models) = self.names.get(&alias)
            && let Some(model) = models.iter().find(|model| has(model, &alias))
        {
            return Some((Rank::Name, self.exact(model, at)?));
        }
        if self.globs.is_empty() {
            return None;
        }
        // A name is ASCII, so each index is a boundary.
        let globs = (0..=text.len()).filter_map(|end| self.globs.get(&text[..end])).flatten();
        let matching = globs.filter(|(alias, model)| alias.matches(text) && has(model, alias));
        // Of equally specific globs the first one in the order of the alphabet counts, on every server.
        let best = matching.max_by(|(one, of_one), (other, of_other)| {
            one.specificity().cmp(&other.specificity()).then_with(|| (other, of_other).cmp(&(one, of_one)))
        });
        let (alias, model) = best?;
        Some((Rank::Glob(alias.specificity()), self.exact(model, at)?))
    }

    /// The begin of the version of a model, usable or not, that was in force at `at`.
    pub fn last_before(&self, model: &ModelName, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.models.get(model)?.range(..=at).next_back().map(|(from, _)| *from)
    }

    /// The last version of a model at `at` that is usable, even if an unusable one has replaced it.
    pub fn last_usable(&self, model: &ModelName, at: DateTime<Utc>) -> Option<&PriceVersion> {
        last_usable(self.models.get(model)?, at)
    }

    /// Every version of every model, by model and instant.
    pub fn versions(&self) -> impl Iterator<Item = Listed<'_>> {
        self.versions_after(None, None)
    }

    /// The versions after one of them, by model and instant: those of all models, or of `model`.
    pub fn versions_after<'b>(
        &'b self,
        model: Option<&ModelName>,
        after: Option<&'b (ModelName, DateTime<Utc>)>,
    ) -> impl Iterator<Item = Listed<'b>> + use<'b> {
        let first = model.or(after.map(|(name, _)| name)).map_or(Bound::Unbounded, Bound::Included);
        let last = model.map_or(Bound::Unbounded, Bound::Included);
        self.models.range::<ModelName, _>((first, last)).flat_map(move |(name, versions)| {
            let instants = match after {
                Some((of_last, _)) if name < of_last => None,
                Some((of_last, since)) if name == of_last => Some(Bound::Excluded(*since)),
                _ => Some(Bound::Unbounded),
            };
            let later = instants.map(|since| versions.range((since, Bound::Unbounded)));
            later.into_iter().flatten().map(move |(from, version)| (name, *from, version))
        })
    }

    /// The versions of one model, by instant.
    pub fn versions_of(
        &self,
        model: &ModelName,
    ) -> impl Iterator<Item = (DateTime<Utc>, &Result<PriceVersion, Invalid>)> + use<'_> {
        self.models.get(model).into_iter().flatten().map(|(from, version)| (*from, version))
    }
}

impl PlanPrices {
    /// The version that `name` means, and its factor. `list` has the prices of all plans.
    fn known<'b>(&'b self, list: &'b PriceBook, name: &ModelName, at: DateTime<Utc>) -> (Option<Known<'b>>, Factor) {
        // An exact name counts before every alias, in the list too.
        if let Some(known) = self.models.exact(name, at) {
            return (Some(known), Factor::ONE);
        }
        if let Some(known) = list.exact(name, at) {
            return (Some(known), self.multiplier);
        }
        let (of_plan, of_list) = (self.models.aliased(name, at), list.aliased(name, at));
        match (of_plan, of_list) {
            (Some((rank, known)), of_list) if of_list.is_none_or(|(of_list, _)| rank >= of_list) => {
                (Some(known), Factor::ONE)
            }
            (_, Some((_, known))) => match self.models.exact(known.model, at) {
                Some(own) => (Some(own), Factor::ONE),
                None => (Some(known), self.multiplier),
            },
            (_, None) => (None, self.multiplier),
        }
    }
}

/// How well an alias names a call: a name more than each glob, and of two globs the more specific one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Glob(usize),
    Name,
}

/// The version in force of a model, usable or not.
#[derive(Debug, Clone, Copy)]
struct Known<'b> {
    model: &'b ModelName,
    version: &'b Result<PriceVersion, Invalid>,
}

/// The version with the aliases at `at`. An unusable version keeps those of the last usable one, so that
/// they name no other model meanwhile.
fn last_usable(versions: &Versions, at: DateTime<Utc>) -> Option<&PriceVersion> {
    versions.range(..=at).rev().find_map(|(_, version)| version.as_ref().ok())
}

fn in_force(versions: &Versions, at: DateTime<Utc>) -> Option<&Result<PriceVersion, Invalid>> {
    versions.range(..=at).next_back().map(|(_, version)| version)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::{charge::prices::list::Draft, values::class::Class};

    fn model(name: &str) -> ModelName {
        ModelName::from_stored(name)
    }

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn version(id: &str, aliases: &[&str]) -> Result<PriceVersion, Invalid> {
        let mut draft = Draft::default();
        draft.given[Class::Input as usize] = Some(Money::ZERO);
        draft.given[Class::Output as usize] = Some(Money::ZERO);
        draft.aliases = aliases.iter().map(|alias| Alias::parse(alias).unwrap()).collect();
        Ok(PriceVersion::new(PriceVersionId::from_stored(id), draft.check().unwrap()))
    }

    #[test]
    fn the_last_version_that_has_begun_is_in_force() {
        let mut book = PriceBook::default();
        book.set(model("m"), time("2026-11-01T00:00:00Z"), version("second", &[]));
        book.set(model("m"), time("2026-10-01T00:00:00Z"), version("replaced", &[]));
        book.set(model("m"), time("2026-10-01T00:00:00Z"), version("first", &[]));
        let at = |name: &str, text: &str| book.at(&model(name), time(text)).map(|found| found.version.id.to_string());
        assert_eq!(at("m", "2026-10-01T00:00:00Z").unwrap(), "first");
        assert_eq!(at("m", "2026-10-31T23:59:59.999999Z").unwrap(), "first");
        assert_eq!(at("m", "2026-11-01T00:00:00Z").unwrap(), "second");
        assert_eq!(at("m", "2030-01-01T00:00:00Z").unwrap(), "second");
        for (name, when) in [("m", "2026-09-30T23:59:59.999999Z"), ("M", "2026-11-01T00:00:00Z")] {
            assert_eq!(at(name, when).unwrap_err().field, "model");
        }
    }

    #[test]
    fn the_most_specific_alias_counts_and_a_name_more_than_each() {
        let mut book = PriceBook::default();
        let from = DateTime::UNIX_EPOCH;
        book.set(model("gpt-4.1"), from, version("large", &["gpt-4.1-2025*", "gpt-4.1*"]));
        book.set(model("gpt-4.1-mini"), from, version("mini", &["gpt-4.1-mini*", "*-mini", "small"]));
        book.set(model("gpt-4.1-2025-exact"), from, version("exact", &[]));
        book.set(model("a"), from, version("a", &["same*", "both"]));
        book.set(model("b"), from, version("b", &["same*", "both"]));
        for (name, id) in [
            ("gpt-4.1", "large"),
            ("gpt-4.1-2025-04-14", "large"),
            ("gpt-4.1-2025-exact", "exact"),
            ("gpt-4.1-mini", "mini"),
            ("gpt-4.1-mini-2025-04-14", "mini"),
            ("gpt-4.1-nano", "large"),
            ("o3-mini", "mini"),
            ("small", "mini"),
            ("same-as-both", "a"),
            ("both", "a"),
        ] {
            assert_eq!(book.at(&model(name), from).unwrap().version.id.as_str(), id, "{name}");
        }
        for name in ["gpt-4", "Small", "smaller", "sam"] {
            assert_eq!(book.at(&model(name), from).unwrap_err().why, format!("{name:?} has no price"));
        }
    }

    #[test]
    fn a_plan_multiplies_the_prices_of_all_models_that_it_does_not_name() {
        let (mut book, from) = (PriceBook::default(), DateTime::UNIX_EPOCH);
        book.set(model("m"), from, version("m-list", &["m-*"]));
        book.set(model("n"), from, version("n-list", &[]));
        let multiplier = |text: &str| text.parse::<Factor>().unwrap();
        let mut models = PriceBook::default();
        models.set(model("m"), from, version("m-plan", &[]));
        models.set(model("own"), from, version("own-plan", &[]));
        let (reseller, default) = (PlanName::from_stored("reseller"), PlanName::from_stored("default"));
        let at = |book: &PriceBook, plan: Option<PlanName>, name: &str| {
            let found = book.at_in(plan, &model(name), from);
            found.map_or_else(|why| why.why, |(of, version)| format!("{of} {} x {}", version.id, version.multiplier))
        };
        assert_eq!(at(&book, Some(reseller), "n"), "n n-list x 1");
        book.add_plan(reseller, PlanPrices { multiplier: multiplier("1.2"), models });
        for (name, of_plan, of_others) in [
            ("m", "m m-plan x 1", "m m-list x 1"),
            ("m-2025", "m m-plan x 1", "m m-list x 1"),
            ("n", "n n-list x 1.2", "n n-list x 1"),
            ("own", "own own-plan x 1", "\"own\" has no price"),
            ("none", "\"none\" has no price", "\"none\" has no price"),
        ] {
            assert_eq!(at(&book, Some(reseller), name), of_plan);
            for other in [None, Some(PlanName::from_stored("gone"))] {
                assert_eq!(at(&book, other, name), of_others);
            }
        }
        book.add_plan(default, PlanPrices { multiplier: multiplier("2"), models: PriceBook::default() });
        for other in [None, Some(PlanName::from_stored("gone"))] {
            assert_eq!(at(&book, other, "n"), "n n-list x 2");
        }
    }

    #[test]
    fn an_exact_name_of_the_list_counts_before_the_aliases_of_a_plan() {
        let (mut book, from) = (PriceBook::default(), DateTime::UNIX_EPOCH);
        book.set(model("gpt-4.1"), from, version("large", &["gpt-4.1*"]));
        book.set(model("gpt-4.1-mini"), from, version("mini", &["gpt-4.1-mini-*", "small", "gpt-4.1-b"]));
        let mut models = PriceBook::default();
        models.set(model("gpt-4.1"), from, version("plan", &["gpt-4.1*", "small", "gpt-4.1-a"]));
        models.set(model("own"), from, version("own", &["own*"]));
        let plan = PlanName::from_stored("reseller");
        book.add_plan(plan, PlanPrices { multiplier: "2".parse().unwrap(), models });
        for (name, expected) in [
            ("gpt-4.1", "plan x 1"),
            ("gpt-4.1-mini", "mini x 2"),
            // A more specific glob, and a name, count in either book.
            ("gpt-4.1-mini-2025", "mini x 2"),
            ("gpt-4.1-b", "mini x 2"),
            ("gpt-4.1-a", "plan x 1"),
            // On equal terms the plan counts.
            ("gpt-4.1-nano", "plan x 1"),
            ("small", "plan x 1"),
            ("own-1", "own x 1"),
        ] {
            let (_, version) = book.at_in(Some(plan), &model(name), from).unwrap();
            assert_eq!(format!("{} x {}", version.id, version.multiplier), expected, "{name}");
        }
    }

    #[test]
    fn an_alias_prices_a_name_until_the_first_version_of_its_own() {
        let mut book = PriceBook::default();
        let (first, second) = (time("2026-10-01T00:00:00Z"), time("2026-11-01T00:00:00Z"));
        book.set(model("m"), first, version("m", &["m-2*"]));
        book.set(model("m-2025"), second, version("own", &[]));
        book.set(model("alone"), second, version("alone", &[]));
        let at = |name: &str, when| book.at(&model(name), when).map(|found| found.version.id.to_string());
        assert_eq!(at("m-2025", first).unwrap(), "m");
        assert_eq!(at("m-2025", second).unwrap(), "own");
        assert_eq!(at("alone", first).unwrap_err().why, "\"alone\" has no price yet");
        book.set(model("m-2025"), first, Err(Invalid::new("input_price", "bad")));
        let why = book.at(&model("m-2025"), first).unwrap_err().why;
        assert_eq!(why, "\"m-2025\" has no usable price");
    }

    #[test]
    fn an_alias_stands_while_its_version_is_in_force() {
        let mut book = PriceBook::default();
        let (first, second) = (time("2026-10-01T00:00:00Z"), time("2026-11-01T00:00:00Z"));
        book.set(model("m"), first, version("v1", &["m-old", "m-1*"]));
        book.set(model("m"), second, version("v2", &["m-new"]));
        let at = |name: &str, when| book.at(&model(name), when).map(|found| found.version.id.to_string()).ok();
        assert_eq!(
            [at("m-old", first), at("m-1x", first), at("m-new", first)],
            [Some("v1".into()), Some("v1".into()), None]
        );
        assert_eq!([at("m-old", second), at("m-1x", second), at("m-new", second)], [None, None, Some("v2".into())]);
    }

    #[test]
    fn versions_are_listed_after_any_of_them() {
        let mut book = PriceBook::default();
        let instants = ["2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"].map(time);
        for name in ["a", "m", "z"] {
            instants.iter().for_each(|from| book.set(model(name), *from, version("v", &[])));
        }
        let all: Vec<_> = book.versions().map(|(name, from, _)| (name.clone(), from)).collect();
        assert_eq!(all.len(), 6);
        let listed = |of: Option<&ModelName>, after: Option<&(ModelName, DateTime<Utc>)>| -> Vec<_> {
            book.versions_after(of, after).map(|(name, from, _)| (name.clone(), from)).collect()
        };
        for (index, after) in all.iter().enumerate() {
            assert_eq!(listed(None, Some(after)), all[index + 1..]);
            let of_m: Vec<_> = all[index + 1..].iter().filter(|(name, _)| name.as_str() == "m").cloned().collect();
            assert_eq!(listed(Some(&model("m")), Some(after)), of_m);
        }
        assert_eq!(listed(Some(&model("m")), None), all[2..4]);
        let gone = (model("n"), instants[0]);
        assert_eq!((listed(None, Some(&gone)), listed(Some(&model("x")), None)), (all[4..].to_vec(), vec![]));
    }

    #[test]
    fn an_unusable_version_keeps_the_aliases_from_other_models() {
        let mut book = PriceBook::default();
        let (first, second) = (time("2026-10-01T00:00:00Z"), time("2026-11-01T00:00:00Z"));
        book.set(model("m-mini"), first, version("v1", &["m-mini-*", "small"]));
        book.set(model("m"), first, version("m", &["m-*"]));
        book.set(model("n"), first, version("n", &["s*"]));
        book.set(model("m-mini"), second, Err(Invalid::new("input_price", "bad")));
        let at = |name: &str, when| book.at(&model(name), when).map(|found| found.version.id.to_string());
        for name in ["m-mini-2025", "small", "m-mini"] {
            assert_eq!(at(name, first).unwrap(), "v1");
            assert_eq!(at(name, second).unwrap_err().why, format!("{name:?} has no usable price"));
        }
        assert_eq!(at("m-large", second).unwrap(), "m");
    }
}
