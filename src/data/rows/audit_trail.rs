//! Events of the audit trail: `audit_event`.

use crate::{
    biz::{
        audit_trail::{Actor, AuditEvent},
        values::{error::StoreError, ids::UserId},
    },
    data::row::Columns,
};

/// The columns of [`event_of`].
pub const COLUMNS: &str =
    "event_id, created_at, caller, role, request_id, rpc, user_id, state_before, state_after, reason";

/// An event.
pub fn event_of(row: &impl Columns) -> Result<AuditEvent, StoreError> {
    Ok(AuditEvent {
        id: row.uuid(0)?,
        at: row.time(1)?,
        actor: Actor { caller: row.text(2)?.into(), role: row.text(3)?.into(), request_id: row.text(4)?.into() },
        rpc: row.text(5)?.into(),
        user: row.optional_text(6)?.map(UserId::from_stored),
        before: row.optional_text(7)?,
        after: row.optional_text(8)?,
        reason: row.text(9)?,
    })
}
