//! The sweep: frees the holds of reservations that are past their expiry.

use futures_util::future::join_all;

use super::{
    engine::Engine,
    posting::Expire,
    transaction::{Due, TransactionStore},
};
use crate::biz::{calendar::Calendar, error::Result};

/// Reservations that are looked up and posted together.
const CHUNK: u32 = 500;

/// What a sweep did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Holds that were freed.
    pub freed: u64,
    /// Reservations that could not be settled now; the next sweep finds them again.
    pub failed: u64,
}

/// Frees every hold that is past its expiry now, through the lanes. A commit or a
/// release that comes first wins; several sweeps at once free each hold once.
///
/// # Errors
/// [`crate::biz::error::Error::Overloaded`] or Internal when the expired ones can't be read.
pub async fn sweep(store: &dyn TransactionStore, engine: &Engine, calendar: &Calendar) -> Result<Swept> {
    let until = calendar.now().utc;
    let mut swept = Swept::default();
    let mut last: Option<Due> = None;
    // Ends: each chunk begins behind the last, and new holds expire later than `until`.
    loop {
        let due = store.due(until, last.as_ref(), CHUNK).await?;
        let Some(end) = due.last().cloned() else { return Ok(swept) };
        // Only what was read as ended is forgotten; what this sweep frees the next one forgets.
        let (pending, ended): (Vec<_>, Vec<_>) = due.into_iter().partition(|due| due.is_pending);
        let freed = join_all(pending.into_iter().map(|Due { user, trace, .. }| {
            let posted = engine.expire(Expire { user, trace: trace.clone() });
            async { (trace, posted.await) }
        }));
        for (trace, freed) in freed.await {
            match freed {
                Ok(freed) => swept.freed += u64::from(freed),
                Err(error) => {
                    tracing::warn!(%error, trace_id = %trace, "a hold could not be freed");
                    swept.failed += 1;
                }
            }
        }
        if !ended.is_empty()
            && let Err(error) = store.forget(&ended).await
        {
            tracing::warn!(%error, "ended reservations stay listed until the next sweep");
        }
        last = Some(end);
    }
}

/// What a sweep would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Preview {
    /// Holds that would be freed.
    pub holds: u64,
    /// The first of them, which expired first.
    pub first: Vec<Due>,
}

/// What [`sweep`] would free now, with `listed` of it at the most. Only reads.
///
/// # Errors
/// As [`sweep`].
pub async fn preview(store: &dyn TransactionStore, calendar: &Calendar, listed: usize) -> Result<Preview> {
    let until = calendar.now().utc;
    let mut preview = Preview::default();
    let mut last: Option<Due> = None;
    // Ends: each chunk begins behind the last, and new holds expire later than `until`.
    loop {
        let due = store.due(until, last.as_ref(), CHUNK).await?;
        let Some(end) = due.last().cloned() else { return Ok(preview) };
        for due in due.into_iter().filter(|due| due.is_pending) {
            preview.holds += 1;
            if preview.first.len() < listed {
                preview.first.push(due);
            }
        }
        last = Some(end);
    }
}
