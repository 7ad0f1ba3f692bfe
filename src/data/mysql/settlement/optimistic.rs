//! A settlement in one round trip: decide on the state that the last settlement left, and write it
//! unless it has changed.
//!
//! The write of the balances is the lock and the guard. It changes only rows with the version that the
//! decision started from, and every change of an account moves its version. Quotas of API keys have no part in that
//! version, so the packet checks that there are none. If a guard fails, nothing is written.

use super::ledger::write;
use crate::{
    biz::{
        settlement::{
            keys::Keys,
            ledger::SettledBatch,
            lock::LeftOut,
            posting::{Batch, Outcome, Posting},
            rule,
        },
        values::error::StoreError,
    },
    data::mysql::{
        MySqlStore,
        account::accounts,
        connections::Lease,
        limits::key_quotas,
        statement::{Guarded, LIMITED, Statement},
    },
};

impl MySqlStore {
    /// Settles a batch of calls on accounts whose state is known, without a read. `None` if that is not possible. Nothing
    /// is written then, and `connection` is in no transaction.
    ///
    /// No refusal is decided here, because the known state may be old.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome is unknown.
    /// [`StoreError::Failed`]: nothing was written.
    pub(super) async fn settle_optimistically(
        &self,
        connection: &mut Lease,
        batch: &Batch,
        keys: &Keys<'_>,
    ) -> Result<Option<SettledBatch>, StoreError> {
        let is_call = |posting: &Posting| matches!(posting, Posting::Charge(_) | Posting::Reserve(_));
        let are_calls = !batch.postings.is_empty() && batch.postings.iter().all(is_call);
        if !are_calls || self.full_lookups.is_due() || !connection.takes_guards() {
            return Ok(None);
        }
        let at = (batch.at.month, connection.epoch());
        let Some(state) = self.recent.recall(keys, at) else { return Ok(None) };
        let (outcomes, writes) = rule::settle(batch, state);
        if outcomes.iter().any(|outcome| matches!(outcome, Outcome::Refused(_))) {
            return Ok(None);
        }
        let packet = Statement::guarded(|packet| {
            accounts::set_unchanged_balances(packet, &writes.balances);
            if !keys.api_keys.is_empty() {
                // In the condition of an IF, this read would lock rows of other keys.
                packet.push("SELECT ");
                key_quotas::push_exists(packet, keys);
                packet.push(" INTO @limited; IF @limited").push(LIMITED);
            }
            write(packet, &writes, batch.at);
        })
        .named("settlement behind a guard");
        match packet.execute_guarded(connection).await.inspect_err(|_| self.recent.forget(keys))? {
            Guarded::Done => {
                let settled = writes.into_settlement(outcomes, LeftOut::default());
                self.recent.keep_on(&settled, at);
                return Ok(Some(settled));
            }
            Guarded::Taken => self.full_lookups.begin(),
            Guarded::Stale => self.recent.forget_stale(keys),
            Guarded::Limited | Guarded::Locked => self.recent.forget(keys),
        }
        Statement::rolling_back().execute(connection).await?;
        Ok(None)
    }
}
