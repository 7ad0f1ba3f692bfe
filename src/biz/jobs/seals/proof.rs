//! Computes the seals of accounts again, and compares them.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    content::{Content, Figures, HistoryRow, Kind, differing},
    history,
    store::{SealStore, Sealed, Since, StoredSeal, hash},
};
use crate::biz::{
    jobs::{
        audit::differences::{Difference, Owner},
        retry::repeat,
    },
    values::{
        calendar::{Calendar, Month},
        error::StoreError,
        ids::UserId,
    },
};

/// The seals of one account, and the content that its history has.
struct Chain {
    stored: Vec<(StoredSeal, Since)>,
    contents: Vec<Content>,
    /// The seal that the next rows belong to, while the rows of a kind are read.
    at: usize,
}

/// The differences between the seals of some users, in key order, and their history.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn verify(
    store: &dyn SealStore,
    calendar: &Calendar,
    users: &[UserId],
) -> Result<Vec<Difference>, StoreError> {
    let (seals, last) = repeat(|| store.seals(users)).await?;
    let mut chains: BTreeMap<UserId, Chain> = BTreeMap::new();
    for seal in seals {
        let end = Since::end_of(seal.month, calendar);
        let chain = chains.entry(seal.user.clone());
        let chain = chain.or_insert_with(|| Chain { stored: Vec::new(), contents: Vec::new(), at: 0 });
        chain.stored.push((seal, end));
        chain.contents.push(Content::default());
    }
    let sealed: Vec<UserId> = chains.keys().cloned().collect();
    if let Some(until) = chains.values().filter_map(|chain| Some(chain.stored.last()?.1.at)).max() {
        for kind in Kind::ALL {
            chains.values_mut().for_each(|chain| chain.at = 0);
            let mut add = |row: HistoryRow| {
                let Some(chain) = chains.get_mut(&row.user) else { return };
                while chain.stored.get(chain.at).is_some_and(|(_, end)| end.at <= row.at) {
                    chain.at += 1;
                }
                if let Some(content) = chain.contents.get_mut(chain.at) {
                    content.add(kind, &row);
                }
            };
            history::read(store, kind, &sealed, (Since::BEGINNING.at, until), &mut add).await?;
        }
    }
    let mut last: BTreeMap<UserId, Sealed> = last.into_iter().collect();
    let mut differences = Vec::new();
    for (user, chain) in chains {
        let last = last.remove(&user);
        differences.extend(compare(&user, chain, last.as_ref()));
    }
    for (user, sealed) in last {
        let book = format!("last seal, of {}", sealed.month);
        differences.push(difference(&user, book, "an account without seals", "one with seals"));
    }
    Ok(differences)
}

/// The users, in key order, with history that should be sealed and is not.
///
/// # Errors
/// [`StoreError::Unavailable`], [`StoreError::Failed`].
pub async fn lacking_seals(
    store: &dyn SealStore,
    calendar: &Calendar,
    users: &[UserId],
) -> Result<Vec<Difference>, StoreError> {
    if users.is_empty() {
        return Ok(Vec::new());
    }
    let Some(month) = repeat(|| store.all_sealed_up_to()).await? else { return Ok(Vec::new()) };
    let until = Since::end_of(month, calendar).at;
    let (seals, _) = repeat(|| store.seals(users)).await?;
    // In the order of months, so that the last one stays.
    let last: BTreeMap<UserId, Month> = seals.into_iter().map(|seal| (seal.user, seal.month)).collect();
    let mut by_end: BTreeMap<Option<Month>, Vec<UserId>> = BTreeMap::new();
    for user in users {
        by_end.entry(last.get(user).copied()).or_default().push(user.clone());
    }
    let mut lacking = Vec::new();
    for (end, users) in by_end {
        let from = end.map_or(Since::BEGINNING, |end| Since::end_of(end, calendar)).at;
        if from >= until {
            continue;
        }
        let mut found = BTreeSet::new();
        for kind in Kind::ALL {
            let mut note = |row: HistoryRow| {
                found.insert(row.user);
            };
            history::read(store, kind, &users, (from, until), &mut note).await?;
        }
        let says = end.map_or_else(|| "none".to_owned(), |end| end.to_string());
        lacking.extend(found.iter().map(|user| difference(user, "last seal".into(), &says, month)));
    }
    Ok(lacking)
}

fn difference(user: &UserId, book: String, says: impl ToString, should_be: impl ToString) -> Difference {
    Difference { owner: Owner::User(user.clone()), book, says: says.to_string(), should_be: should_be.to_string() }
}

fn compare(user: &UserId, chain: Chain, last: Option<&Sealed>) -> Vec<Difference> {
    let mut differences = Vec::new();
    let mut figures = Figures::default();
    let mut before = String::new();
    let mut end = None;
    for ((stored, since), content) in chain.stored.into_iter().zip(chain.contents) {
        let (month, content) = (stored.month, content.moved_behind(figures));
        for (kind, says, should_be) in differing(&stored.content, &content.stored()) {
            let book = format!("seal of {month}: {kind}");
            differences.push(difference(user, book, says, should_be));
        }
        figures = content.figures;
        if stored.balance != figures.balance {
            let book = format!("seal of {month}: closing balance");
            differences.push(difference(user, book, stored.balance, figures.balance));
        }
        let computed = hash(&before, user, month, &content);
        // A chain that begins with another hash says it once, at its first seal.
        if stored.seal != computed && differences.is_empty() {
            differences.push(difference(user, format!("seal of {month}: hash"), &stored.seal, computed));
        }
        before = stored.seal;
        end = Some((month, since));
    }
    let Some((month, since)) = end else { return differences };
    let book = |name: &str| format!("last seal, of {month}: {name}");
    match last {
        None => differences.push(difference(user, book("account"), "none", "one")),
        Some(last) if differences.is_empty() => {
            let of = |sealed: &Sealed| {
                let Figures { balance, charged, given_back, given_back_count } = sealed.figures;
                [
                    ("month", sealed.month.to_string()),
                    ("end", sealed.since.at.to_string()),
                    ("closing balance", balance.to_string()),
                    ("charged amount", charged.to_string()),
                    ("amount given back", given_back.to_string()),
                    ("units given back", given_back_count.to_string()),
                    ("hash", sealed.seal.clone()),
                ]
            };
            let should_be = Sealed { month, since, version: last.version, figures, seal: before };
            for ((name, says), (_, should_be)) in of(last).into_iter().zip(of(&should_be)) {
                if says != should_be {
                    differences.push(difference(user, book(name), says, should_be));
                }
            }
        }
        Some(_) => {}
    }
    differences
}
