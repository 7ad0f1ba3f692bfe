//! The first round trip of a settlement: begin, lock, and read the rows that the rule needs.
//!
//! A transaction that waits for no lock skips the rows that other transactions hold. A plain read
//! finds the skipped rows. A row that exists and was not locked leaves its account out.
//!
//! Every transaction takes its locks in one order: accounts, then API keys, each in key order. The
//! order matters for skipped rows too, because the deadlock detection of MariaDB counts a skipped
//! row as a wait.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::mysql::MySqlRow;

use super::{
    refunds,
    transactions::{self, Source},
};
use crate::{
    biz::{
        settlement::{
            keys::Keys,
            lock::{LeftOut, Lock, Obstacle},
            lookup::Lookup,
            posting::Batch,
            rule::{State, TransactionKey},
        },
        values::{
            error::StoreError,
            ids::{ApiKeyId, TraceId, UserId},
        },
    },
    data::{
        mysql::{
            account::accounts,
            audit_trail,
            connections::Lease,
            events,
            limits::{caps, key_quotas},
            recharge,
            statement::{LockMode, OnNode, Statement},
            transaction::BEGINNING,
            unapplied,
        },
        row::Columns,
        rows::{
            account::user_of,
            key_quota,
            refund::refunded_of,
            transaction::{adjusted_of, adjustment_columns, transaction_of},
        },
        transaction_archive::is_narrow,
    },
};

/// How a transaction takes its locks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Locking {
    /// It waits for none.
    Skip,
    /// It waits for those of its only account.
    Wait,
    /// As [`Self::Wait`], in a transaction that has begun and holds the row of the account.
    Begun,
}

/// The state that a batch is decided on, and the accounts that it leaves out.
#[derive(Default)]
pub struct Loaded {
    pub state: State,
    pub left_out: LeftOut,
}

/// The rows of the first round trip.
struct Found {
    loaded: Loaded,
    /// The transactions whose content is in the archive.
    archived: BTreeSet<TransactionKey>,
    api_keys: ApiKeyRows,
}

/// Rows of API keys. They are decided on after all transactions are known, because a transaction names its key.
#[derive(Default)]
struct ApiKeyRows {
    locked: Vec<MySqlRow>,
    /// The rows that exist, locked or not; none if the statement waits for locks.
    present: Vec<MySqlRow>,
}

/// Begins, locks the accounts, and finds the known ids of the batch.
pub async fn load(
    connection: &mut Lease,
    batch: &Batch,
    keys: &Keys<'_>,
    lookup: Lookup,
    locking: Locking,
) -> Result<Loaded, StoreError> {
    let mode = match locking {
        Locking::Skip => connection.server().skip_locked(),
        Locking::Wait | Locking::Begun => LockMode::Wait,
    };
    let packet = Packet { batch, keys, lookup, mode, begins: locking != Locking::Begun };
    let sets = packet.statement().fetch(connection).await?;
    let Found { mut loaded, archived, api_keys } = packet.decode(sets)?;
    loaded.add_archived(connection, &archived).await?;
    loaded.add_key_quotas(batch, &api_keys)?;
    loaded.add_further_quotas(connection, batch, keys).await?;
    if packet.skips() {
        loaded.leave_out_locked(connection, batch, keys).await?;
    }
    Ok(loaded)
}

/// The packet of the first round trip. A batch that needs no rows of a table has no statement for it.
struct Packet<'b> {
    batch: &'b Batch,
    keys: &'b Keys<'b>,
    lookup: Lookup,
    mode: LockMode,
    /// Whether the transaction begins here.
    begins: bool,
}

impl<'b> Packet<'b> {
    fn skips(&self) -> bool {
        self.mode == LockMode::Skip
    }

    fn names_api_keys(&self) -> bool {
        !self.keys.api_keys.is_empty() || !self.keys.ending.is_empty()
    }

    /// The transactions that are looked up.
    fn transactions(&self) -> &'b BTreeSet<(&'b UserId, &'b TraceId)> {
        self.lookup.transactions(self.keys)
    }

    fn statement(&self) -> Statement {
        let Self { keys, mode, .. } = *self;
        let mut statement = Statement::new("").named("settlement load");
        if self.begins {
            statement.begin();
        }
        accounts::lock(&mut statement, keys, self.batch.at.month, mode);
        if self.skips() {
            caps::read_present(&mut statement, keys);
        }
        if !keys.ending.is_empty() {
            accounts::read_held_quotas(&mut statement, keys);
        }
        if !self.transactions().is_empty() {
            transactions::read(&mut statement, Source::Table, self.transactions().iter());
        }
        if !keys.adjustments.is_empty() {
            statement
                .push(concat!(
                    "SELECT ",
                    adjustment_columns!(),
                    " FROM balance_adjustment WHERE (user_id, adjustment_id) IN ("
                ))
                .pairs(&keys.adjustments)
                .push("); ");
        }
        if !keys.refunds.is_empty() {
            refunds::read(&mut statement, keys);
        }
        if !keys.audit_events.is_empty() {
            audit_trail::read_ids(&mut statement, &keys.audit_events);
        }
        if !keys.events.is_empty() {
            events::read_ids(&mut statement, &keys.events);
        }
        recharge::lock(&mut statement, keys, mode);
        if self.names_api_keys() {
            key_quotas::lock(&mut statement, keys, mode);
            if self.skips() {
                key_quotas::read_present(&mut statement, keys);
            }
        }
        statement
    }

    /// The results, which come in the order of the statements.
    fn decode(&self, sets: Vec<Vec<MySqlRow>>) -> Result<Found, StoreError> {
        let Self { batch, keys, .. } = *self;
        let without_rows = if self.begins { BEGINNING } else { 0 };
        let mut sets = sets.into_iter().skip(without_rows);
        let mut next = || sets.next().ok_or_else(|| StoreError::Failed("a statement had no result".into()));
        let mut loaded = Loaded::default();
        let mut archived = BTreeSet::new();
        let mut api_keys = ApiKeyRows::default();
        accounts::add_locked(&mut loaded.state, &mut loaded.left_out, batch.at.month, &next()?)?;
        if self.skips() {
            loaded.leave_out_capped(&next()?)?;
        }
        if !keys.ending.is_empty() {
            accounts::add_held_quotas(&mut loaded.state, &mut loaded.left_out, &next()?)?;
        }
        if !self.transactions().is_empty() {
            archived = loaded.add_transactions(next()?)?;
        }
        if !keys.adjustments.is_empty() {
            loaded.add_adjustments(&next()?)?;
        }
        if !keys.refunds.is_empty() {
            loaded.add_refunds(&next()?)?;
        }
        if !keys.audit_events.is_empty() {
            for row in &next()? {
                loaded.state.audit_events.insert(row.uuid(0)?);
            }
        }
        if !keys.events.is_empty() {
            for row in &next()? {
                loaded.state.events.insert(row.uuid(0)?);
            }
        }
        recharge::add_locked((&mut loaded.state, &mut loaded.left_out), batch, keys, &mut next)?;
        if self.names_api_keys() {
            api_keys.locked = next()?;
            if self.skips() {
                api_keys.present = next()?;
            }
        }
        Ok(Found { loaded, archived, api_keys })
    }
}

impl Loaded {
    /// Leaves out the locked accounts whose caps exist, in `rows`, and were not locked.
    fn leave_out_capped(&mut self, rows: &[MySqlRow]) -> Result<(), StoreError> {
        for row in rows {
            let user = user_of(row)?;
            // A user may have caps and no account yet.
            if self.state.balances.contains_key(&user) && !self.state.requests.contains_key(&user) {
                self.left_out.insert(&user, Obstacle::Locked(Lock::Account(user.clone())));
            }
        }
        Ok(())
    }

    /// Adds the transactions with their content. Returns those whose content is in the archive.
    fn add_transactions(&mut self, rows: Vec<MySqlRow>) -> Result<BTreeSet<TransactionKey>, StoreError> {
        let mut archived = BTreeSet::new();
        let mut wide = Vec::with_capacity(rows.len());
        for row in rows {
            if is_narrow(&row, transactions::STATUS) {
                archived.insert((user_of(&row)?, TraceId::from_stored(row.text(1)?)));
            } else {
                wide.push(row);
            }
        }
        self.add_settled(&wide)?;
        Ok(archived)
    }

    /// Adds transactions with their content. A narrow row whose content is lost can't be decoded.
    fn add_settled(&mut self, rows: &[MySqlRow]) -> Result<(), StoreError> {
        for row in rows {
            let user = user_of(row)?;
            let known = self.left_out.decoded(&user, "billing_transaction", transaction_of(row))?;
            // Another process may have just opened the account, which then is not locked.
            if let Some(known) = known
                && self.state.balances.contains_key(&user)
            {
                self.state.transactions.insert((user, known.trace.clone()), known);
            }
        }
        Ok(())
    }

    /// Adds the transactions whose content is in the archive. Nearly every batch has none, and sends no statement. A
    /// plain read finds them whole: of an archived transaction only the refunds change, under the lock of its account.
    async fn add_archived(
        &mut self,
        connection: &mut impl OnNode,
        archived: &BTreeSet<TransactionKey>,
    ) -> Result<(), StoreError> {
        if archived.is_empty() {
            return Ok(());
        }
        let mut statement = Statement::new("").named("settlement archived transactions");
        let keys: Vec<(&UserId, &TraceId)> = archived.iter().map(|(user, trace)| (user, trace)).collect();
        transactions::read(&mut statement, Source::Settled, &keys);
        for rows in statement.fetch(connection).await? {
            self.add_settled(&rows)?;
        }
        Ok(())
    }

    fn add_adjustments(&mut self, rows: &[MySqlRow]) -> Result<(), StoreError> {
        for row in rows {
            let user = user_of(row)?;
            if let Some(settled) = self.left_out.decoded(&user, "balance_adjustment", adjusted_of(row))? {
                self.state.adjustments.insert((user, settled.id.clone()), settled);
            }
        }
        Ok(())
    }

    fn add_refunds(&mut self, rows: &[MySqlRow]) -> Result<(), StoreError> {
        for row in rows {
            let user = user_of(row)?;
            if let Some(settled) = self.left_out.decoded(&user, "charge_refund", refunded_of(row))? {
                self.state.refunds.insert((user, settled.id.clone()), settled);
            }
        }
        Ok(())
    }

    /// Adds the quotas of API keys. Leaves out the accounts whose calls need an API key that
    /// another transaction holds, or a quota that can't be decoded.
    fn add_key_quotas(&mut self, batch: &Batch, rows: &ApiKeyRows) -> Result<(), StoreError> {
        let mut obstacles: BTreeMap<ApiKeyId, Obstacle> = BTreeMap::new();
        let mut found = BTreeSet::new();
        for row in &rows.locked {
            let key = ApiKeyId::from_stored(row.text(0)?);
            found.insert((key.clone(), row.text(1)?));
            match key_quota::add(&mut self.state.key_quotas, row) {
                Ok(()) => {}
                Err(StoreError::Failed(why)) => {
                    obstacles.insert(key, Obstacle::Unreadable(format!("api_key_quota: {why}")));
                }
                Err(error) => return Err(error),
            }
        }
        for row in &rows.present {
            let key = ApiKeyId::from_stored(row.text(0)?);
            if !found.contains(&(key.clone(), row.text(1)?)) {
                obstacles.entry(key.clone()).or_insert(Obstacle::Locked(Lock::ApiKey(key)));
            }
        }
        if obstacles.is_empty() {
            return Ok(());
        }
        for posting in &batch.postings {
            if let Some(obstacle) = self.state.api_key_of(posting).and_then(|key| obstacles.get(key)) {
                self.left_out.insert(posting.user(), obstacle.clone());
            }
        }
        Ok(())
    }

    /// Adds the quotas that only the loaded transactions name. Nearly every batch needs none, and sends
    /// no statement. The accounts are locked, so a plain read finds the current rows.
    async fn add_further_quotas(
        &mut self,
        connection: &mut impl OnNode,
        batch: &Batch,
        keys: &Keys<'_>,
    ) -> Result<(), StoreError> {
        let further = self.state.further_quotas(batch, keys);
        if further.is_empty() {
            return Ok(());
        }
        let mut statement = Statement::new("").named("settlement further quotas");
        accounts::read_quotas(&mut statement, &further);
        for rows in statement.fetch(connection).await? {
            accounts::add_held_quotas(&mut self.state, &mut self.left_out, &rows)?;
        }
        Ok(())
    }

    /// Leaves out the accounts and orders that exist and were not locked. If no row is missing, as
    /// in nearly every batch, it sends no statement.
    async fn leave_out_locked(
        &mut self,
        connection: &mut impl OnNode,
        batch: &Batch,
        keys: &Keys<'_>,
    ) -> Result<(), StoreError> {
        let Self { state, left_out } = self;
        let unopened = state.unopened(keys, batch.at.month);
        let missing = keys.users.iter().copied().filter(|user| !state.balances.contains_key(*user));
        let users: BTreeSet<&UserId> = missing.chain(&unopened).filter(|user| !left_out.contains(user)).collect();
        let orders: Vec<_> = keys.orders.iter().copied().filter(|order| !state.orders.contains_key(*order)).collect();
        let payments: Vec<_> =
            keys.unapplied.iter().copied().filter(|payment| !state.unapplied.contains_key(*payment)).collect();
        if users.is_empty() && orders.is_empty() && payments.is_empty() {
            return Ok(());
        }
        let mut statement = Statement::new("").named("settlement locked rows");
        if !users.is_empty() {
            accounts::read_present(&mut statement, &users, keys, batch.at.month);
        }
        if !orders.is_empty() {
            recharge::read_present(&mut statement, &orders);
        }
        if !payments.is_empty() {
            unapplied::read_present(&mut statement, &payments);
        }
        let mut sets = statement.fetch(connection).await?.into_iter();
        if !users.is_empty() {
            let rows = sets.next().unwrap_or_default();
            for user in accounts::locked_by_others(state, batch.at.month, &rows)? {
                left_out.insert(&user, Obstacle::Locked(Lock::Account(user.clone())));
            }
        }
        if !orders.is_empty() {
            for row in &sets.next().unwrap_or_default() {
                let id = row.text(0)?;
                recharge::leave_out_locked(left_out, batch, |posting| {
                    posting.order().is_some_and(|order| order.as_str() == id)
                });
            }
        }
        if !payments.is_empty() {
            for row in &sets.next().unwrap_or_default() {
                let id = row.text(0)?;
                recharge::leave_out_locked(left_out, batch, |posting| {
                    posting.credited_payment().is_some_and(|payment| payment.as_str() == id)
                });
            }
        }
        Ok(())
    }
}
