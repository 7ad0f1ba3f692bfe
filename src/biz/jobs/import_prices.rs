//! Writes the versions that a published price list has in other words than the book. A repeat finds its own
//! versions, and writes none.

use chrono::{DateTime, SecondsFormat, SubsecRound, Utc};
use serde_json::Value;

use super::{progress::Progress, retry::repeat};
use crate::biz::{
    audit_trail::{Actor, AuditedCall, PUT_PRICE_VERSION},
    charge::prices::{NewVersion, PriceBook, PriceList, VersionStore, import::PriceFile, json},
    values::{
        error::StoreError,
        ids::{ModelName, PriceVersionId},
    },
};

/// The name of the job, and of the caller in its audit events.
pub const JOB: &str = "import-prices";

/// One version to write, and its difference from the version in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Import {
    pub model: ModelName,
    pub prices: PriceList,
    pub is_new: bool,
    /// `input 1 -> 1.5, image 0.1`.
    pub difference: String,
}

/// The result of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    pub written: u64,
    /// Versions that were refused, each with the reason.
    pub refused: Vec<String>,
}

/// The versions that a file would add to the book at `now`.
pub fn plan(file: &PriceFile, book: &PriceBook, now: DateTime<Utc>) -> Vec<Import> {
    let mut imports = Vec::new();
    for (model, prices) in &file.models {
        let last = book.last_before(model, now);
        let known = last.and_then(|_| book.at(model, now).ok()).filter(|found| found.model == model);
        let before = known.map(|found| &*found.version.prices);
        // An unusable version in force keeps the aliases of the one before it.
        let prices = completed(prices, book.last_usable(model, now).map(|version| &*version.prices));
        if before != Some(&prices) {
            let difference = difference(before, &prices);
            imports.push(Import { model: model.clone(), prices, is_new: before.is_none(), difference });
        }
    }
    imports
}

/// The prices of the file, with the aliases and the service tiers that a file does not have.
fn completed(prices: &PriceList, before: Option<&PriceList>) -> PriceList {
    let Some(before) = before else { return prices.clone() };
    let mut draft = prices.draft();
    draft.aliases = before.aliases().to_vec();
    for (name, factor) in before.service_tiers() {
        draft.service_tiers.entry(name.clone()).or_insert(*factor);
    }
    draft.max_tokens = draft.max_tokens.or(before.max_tokens());
    // Both lists were checked, so only the number of service tiers could be refused.
    draft.check().unwrap_or_else(|_| prices.clone())
}

/// The members of both lists that differ.
fn difference(before: Option<&PriceList>, after: &PriceList) -> String {
    let flat = |list: &PriceList| {
        let mut found = Vec::new();
        flatten("", &json::whole(list), &mut found);
        found
    };
    let (before, after) = (before.map(flat).unwrap_or_default(), flat(after));
    let changed = after.iter().filter_map(|(name, value)| {
        let old = before.iter().find(|(known, _)| known == name).map(|(_, value)| value);
        match old {
            Some(old) if old == value => None,
            Some(old) => Some(format!("{name} {old} -> {value}")),
            None => Some(format!("{name} {value}")),
        }
    });
    let gone = before.iter().filter(|(name, _)| after.iter().all(|(known, _)| known != name));
    let gone = gone.map(|(name, value)| format!("{name} {value} -> none"));
    changed.chain(gone).collect::<Vec<_>>().join(", ")
}

/// The leaves of a JSON value, by their paths: `tiers above 200000 input`.
fn flatten(path: &str, value: &Value, found: &mut Vec<(String, String)>) {
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path} {name}") };
    match value {
        Value::Object(members) => {
            let above = members.get("above_input_tokens").map(|above| format!("above {above}"));
            for (name, member) in members.iter().filter(|(name, _)| *name != "above_input_tokens") {
                match (&above, name.as_str()) {
                    (Some(above), "prices") => flatten(above, member, found),
                    (None, "prices") => flatten("", member, found),
                    _ => flatten(&join(name), member, found),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| flatten(path, item, found)),
        Value::String(text) => found.push((path.to_owned(), text.clone())),
        other => found.push((path.to_owned(), other.to_string())),
    }
}

/// Writes the versions. Each is in force at once, and has an audit event.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`]. Written versions stay, and a repeat writes the
/// rest.
pub async fn write(
    store: &dyn VersionStore,
    imports: Vec<Import>,
    reason: &str,
    now: DateTime<Utc>,
    progress: &dyn Progress,
) -> Result<Imported, StoreError> {
    let now = now.trunc_subsecs(6);
    let id = format!("import:{}", now.to_rfc3339_opts(SecondsFormat::Micros, true));
    let mut imported = Imported::default();
    progress.expect(imports.len() as u64);
    for import in imports {
        let Import { model, prices, .. } = import;
        let id = PriceVersionId::from_stored(id.as_str());
        let version = NewVersion { model, effective_from: now, is_at_once: false, id, prices };
        let call = AuditedCall::new(PUT_PRICE_VERSION, Actor::new(JOB, "cron", ""), reason);
        match repeat(|| store.put_price_version(&version, &call, now)).await? {
            Ok(_) => imported.written += 1,
            Err(why) => imported.refused.push(format!("{}: {why}", version.model)),
        }
        progress.reached(version.model.as_str(), 1).await?;
    }
    Ok(imported)
}

#[cfg(test)]
mod tests {
    use rust_decimal::Decimal;

    use super::*;
    use crate::biz::charge::prices::{
        Alias, PriceVersion,
        import::{Conversion, read},
    };
    use crate::biz::values::invalid::Invalid;

    fn file(factor: i64) -> PriceFile {
        let text = r#"{"m": {"input_cost_per_token": 1e-6, "output_cost_per_token": 4e-6,
            "input_cost_per_token_above_200k_tokens": 2e-6, "input_cost_per_token_batches": 5e-7},
            "n": {"input_cost_per_token": 1e-6, "output_cost_per_token": 0}}"#;
        read(text, Conversion { rate: Decimal::ONE, factor: Decimal::from(factor) }).unwrap()
    }

    fn planned(file: &PriceFile, book: &PriceBook) -> Vec<String> {
        let imports = plan(file, book, DateTime::UNIX_EPOCH);
        imports.iter().map(|import| format!("{} {}: {}", import.model, import.is_new, import.difference)).collect()
    }

    #[test]
    fn only_what_differs_is_written_and_what_a_file_lacks_stays() {
        let (file, mut book) = (file(1), PriceBook::default());
        assert_eq!(
            planned(&file, &book),
            [
                "m true: input 1, output 4, service_tiers batch 0.5, above 200000 input 2, above 200000 output 4",
                "n true: input 1, output 0"
            ]
        );
        for import in plan(&file, &book, DateTime::UNIX_EPOCH) {
            let version = PriceVersion::new(PriceVersionId::from_stored("v"), import.prices);
            book.set(import.model, DateTime::UNIX_EPOCH, Ok(version));
        }
        assert!(planned(&file, &book).is_empty());

        let model = ModelName::from_stored("m");
        let mut draft = book.at(&model, DateTime::UNIX_EPOCH).unwrap().version.prices.draft();
        draft.aliases = vec![Alias::parse("m-*").unwrap()];
        draft.service_tiers.insert(crate::biz::values::ids::ServiceTier::from_stored("own"), "3".parse().unwrap());
        let version = PriceVersion::new(PriceVersionId::from_stored("w"), draft.check().unwrap());
        book.set(model, DateTime::UNIX_EPOCH, Ok(version));
        assert!(planned(&file, &book).is_empty());
        let dearer = planned(&self::file(2), &book);
        assert_eq!(
            dearer[0],
            "m false: input 1 -> 2, output 4 -> 8, above 200000 input 2 -> 4, above 200000 output 4 -> 8"
        );
        assert_eq!(dearer[1], "n false: input 1 -> 2");

        // Over an unusable version, the aliases and the service tier of the one before it stay.
        let (model, later) = (ModelName::from_stored("m"), DateTime::UNIX_EPOCH + chrono::TimeDelta::hours(1));
        book.set(model.clone(), later, Err(Invalid::new("input_price", "bad")));
        let imports = plan(&file, &book, later);
        let (aliases, tiers) = (imports[0].prices.aliases(), imports[0].prices.service_tiers());
        assert_eq!((imports.len(), &imports[0].model, aliases.len(), tiers.len()), (1, &model, 1, 2));
    }
}
