//! The versions that operators write: the rule of a change, and the trait that stores it.

use async_trait::async_trait;
use chrono::{DateTime, SecondsFormat, Utc};
use serde_json::{Value, json};

use super::{book::PriceVersion, json, list::PriceList, live::StoredVersion};
use crate::biz::{
    audit_trail::{AuditEvent, AuditedCall},
    values::{
        error::{self, Error, StoreError},
        ids::{ModelName, PriceVersionId},
        invalid::Invalid,
    },
};

/// A version to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVersion {
    pub model: ModelName,
    pub effective_from: DateTime<Utc>,
    /// Whether the caller named no instant. A repeat has another one then.
    pub is_at_once: bool,
    pub id: PriceVersionId,
    pub prices: PriceList,
}

/// A version to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionKey {
    pub model: ModelName,
    pub id: PriceVersionId,
}

/// The decision about a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The rows are so already.
    Unchanged,
    /// The change, with its event.
    Write(Box<AuditEvent>),
    Refused(Error),
}

impl Change {
    /// The change with an event, or none, if the caller consents.
    fn of(call: &AuditedCall, event: Option<AuditEvent>) -> Self {
        Self::beside(call, event, None)
    }

    /// As [`Self::of`], for a change that its preview shows beside the versions of the model.
    fn beside(call: &AuditedCall, event: Option<AuditEvent>, versions: Option<String>) -> Self {
        match call.consented_beside(event, versions) {
            Ok(Some(event)) => Self::Write(Box::new(event)),
            Ok(None) => Self::Unchanged,
            Err(why) => Self::Refused(why),
        }
    }
}

impl NewVersion {
    /// Decides about this version. `stored` has the rows of its model with its instant or its id. `all` has all rows of
    /// its model if [`AuditedCall::is_previewed`], because a preview shows the version beside those.
    ///
    /// A version in force keeps its prices, because calls were priced by it. An unusable row priced
    /// none.
    pub fn decide(
        &self,
        stored: &[StoredVersion],
        all: &[StoredVersion],
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Change {
        let here = stored.iter().find(|row| row.effective_from == self.effective_from);
        let before = here.and_then(|row| row.version.as_ref().ok());
        let is_same = |version: &PriceVersion| version.id == self.id && *version.prices == self.prices;
        // A repeat without an instant comes later than the first one. A version that is to come is none of it.
        let earlier = |row: &&StoredVersion| self.is_at_once && row.effective_from <= self.effective_from;
        let mut others = stored.iter().filter(earlier).filter_map(|row| row.version.as_ref().ok());
        if before.is_some_and(is_same) || others.any(is_same) {
            return Change::of(call, None);
        }
        if before.is_some() && self.effective_from <= now {
            let why = "has a version of this model already, which is in force and can't change";
            return Change::Refused(Invalid::new("effective_from", why).into());
        }
        // Every row of another instant has this id, also an unusable one.
        if stored.iter().any(|row| row.effective_from != self.effective_from) {
            return Change::Refused(Invalid::new("version_id", "is the id of another version of this model").into());
        }
        let before = before.map(|version| state(&self.model, self.effective_from, &version.id, &version.prices));
        let after = state(&self.model, self.effective_from, &self.id, &self.prices);
        let beside = call.is_previewed().then(|| told(all, now));
        Change::beside(call, Some(call.event(now, None, before, Some(after))), beside)
    }
}

/// The versions of a model as a text that is another one if one of them has changed, or if another one is in force.
fn told(versions: &[StoredVersion], now: DateTime<Utc>) -> String {
    let mut lines: Vec<_> = versions.iter().map(line).collect();
    lines.sort();
    let in_force = versions.iter().map(|row| row.effective_from).filter(|from| *from <= now).max();
    lines.push(format!("in force: {}", in_force.map_or(0, |from| from.timestamp_micros())));
    lines.join("\n")
}

fn line(row: &StoredVersion) -> String {
    let version = match &row.version {
        Ok(version) => format!("{} {}", version.id, json::whole(&version.prices)),
        Err(why) => why.to_string(),
    };
    format!("{} {version}", row.effective_from.timestamp_micros())
}

impl VersionKey {
    /// Decides about the deletion. `stored` is the row with this key.
    pub fn decide(&self, stored: Option<&StoredVersion>, call: &AuditedCall, now: DateTime<Utc>) -> Change {
        let Some(row) = stored else { return Change::of(call, None) };
        if row.effective_from <= now && row.version.is_ok() {
            let why = "is in force or was; put a newer version in its place";
            return Change::Refused(Invalid::new("version_id", why).into());
        }
        let before = match &row.version {
            Ok(version) => state(&self.model, row.effective_from, &version.id, &version.prices),
            Err(why) => json!({"model": self.model.as_str(), "defect": why.to_string()}),
        };
        Change::of(call, Some(call.event(now, None, Some(before), None)))
    }
}

fn state(model: &ModelName, effective_from: DateTime<Utc>, id: &PriceVersionId, prices: &PriceList) -> Value {
    json!({
        "model": model.as_str(),
        "effective_from": effective_from.to_rfc3339_opts(SecondsFormat::AutoSi, true),
        "version_id": id.as_str(),
        "prices": json::whole(prices),
    })
}

/// Writes price versions. One change is made after the other, so that a change sees all versions before it.
#[async_trait]
pub trait VersionStore: Send + Sync + 'static {
    /// Writes a version and the event of its change, if [`NewVersion::decide`] says so. Returns whether
    /// anything changed, or the refusal.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome is unknown; a repeat is safe.
    /// [`StoreError::Conflict`]: nothing was written. [`StoreError::Failed`].
    async fn put_price_version(
        &self,
        version: &NewVersion,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<error::Result<bool>, StoreError>;

    /// As [`Self::put_price_version`], for the deletion of a version.
    ///
    /// # Errors
    /// As [`Self::put_price_version`].
    async fn delete_price_version(
        &self,
        key: &VersionKey,
        call: &AuditedCall,
        now: DateTime<Utc>,
    ) -> Result<error::Result<bool>, StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::biz::{
        audit_trail::{Actor, Consent, PUT_PRICE_VERSION},
        values::money::Money,
    };

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn new(from: i64, id: &str, input: i64) -> NewVersion {
        let prices = PriceList::flat(Money::from_micros(input), None, Money::ZERO);
        let (model, id) = (ModelName::from_stored("m"), PriceVersionId::from_stored(id));
        NewVersion { model, effective_from: at(from), is_at_once: false, id, prices }
    }

    fn stored(version: &NewVersion) -> StoredVersion {
        let NewVersion { model, effective_from, id, prices, .. } = version.clone();
        StoredVersion { model, effective_from, version: Ok(PriceVersion::new(id, prices)) }
    }

    fn call() -> AuditedCall {
        AuditedCall::new(PUT_PRICE_VERSION, Actor::new("ops", "admin", "r"), "")
    }

    fn decided(change: Change) -> String {
        match change {
            Change::Unchanged => "unchanged".into(),
            Change::Write(event) => format!("{} -> {}", event.before.is_some(), event.after.is_some()),
            Change::Refused(Error::Invalid(why)) => why.field,
            Change::Refused(other) => panic!("{other}"),
        }
    }

    #[test]
    fn a_version_in_force_keeps_its_prices() {
        let first = new(100, "a", 1);
        let put =
            |version: &NewVersion, rows: &[StoredVersion], now| decided(version.decide(rows, &[], &call(), at(now)));
        assert_eq!(put(&first, &[], 50), "false -> true");
        assert_eq!(put(&first, &[], 150), "false -> true");
        for now in [50, 150] {
            assert_eq!(put(&first, &[stored(&first)], now), "unchanged");
        }
        let other = new(100, "b", 2);
        assert_eq!(put(&other, &[stored(&first)], 99), "true -> true");
        assert_eq!(put(&other, &[stored(&first)], 100), "effective_from");
        assert_eq!(put(&new(200, "a", 2), &[stored(&first)], 50), "version_id");
        let unusable = StoredVersion { version: Err(Invalid::new("input_price", "bad")), ..stored(&first) };
        assert_eq!(put(&other, std::slice::from_ref(&unusable), 100), "false -> true");
        assert_eq!(put(&new(200, "a", 2), std::slice::from_ref(&unusable), 50), "version_id");

        // A repeat without an instant comes later than the first one.
        let again = NewVersion { is_at_once: true, ..new(150, "a", 1) };
        assert_eq!(put(&again, &[stored(&first)], 150), "unchanged");
        let before_it = NewVersion { is_at_once: true, ..new(50, "a", 1) };
        assert_eq!(put(&before_it, &[stored(&first)], 50), "version_id");
        let dearer = NewVersion { is_at_once: true, ..new(150, "a", 2) };
        assert_eq!(put(&dearer, &[stored(&first)], 150), "version_id");

        let key = VersionKey { model: ModelName::from_stored("m"), id: PriceVersionId::from_stored("a") };
        let delete = |row: Option<&StoredVersion>, now| decided(key.decide(row, &call(), at(now)));
        assert_eq!(delete(None, 50), "unchanged");
        assert_eq!(delete(Some(&stored(&first)), 99), "true -> false");
        assert_eq!(delete(Some(&stored(&first)), 100), "version_id");
        assert_eq!(delete(Some(&unusable), 100), "true -> false");
    }

    #[test]
    fn a_confirmation_is_of_the_versions_that_its_preview_showed() {
        let version = new(300, "c", 3);
        let [one, other] = [stored(&new(100, "a", 1)), stored(&new(200, "b", 2))];
        let decide = |all: &[StoredVersion], consent: Consent, now| {
            version.decide(&[], all, &AuditedCall { consent, ..call() }, at(now))
        };
        let seen = |all: &[StoredVersion], now| match decide(all, Consent::Withheld, now) {
            Change::Refused(Error::NotMade(Some(change))) => change.fingerprint(),
            other => panic!("{other:?}"),
        };
        let all = [one.clone(), other.clone()];
        let first = seen(&all, 150);
        let turned = [other.clone(), one.clone()];
        assert!(matches!(decide(&turned, Consent::To(first.clone()), 160), Change::Write(_)), "in any order");
        let dearer = stored(&new(200, "b", 9));
        for (all, now) in [
            (&[one.clone()][..], 160),
            (&[one.clone(), dearer], 160),
            (&[one, other, stored(&new(250, "d", 1))], 160),
            // The second one has come into force.
            (&all, 200),
        ] {
            let refused = decide(all, Consent::To(first.clone()), now);
            assert!(matches!(refused, Change::Refused(Error::NotMade(Some(_)))), "{all:?} {now}");
        }
        assert!(matches!(decide(&[], Consent::Given, 160), Change::Write(_)), "a call needs no preview");
    }
}
