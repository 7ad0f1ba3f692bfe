//! The reservations in the books: the hold and the end of each.

use std::sync::atomic::Ordering::Relaxed;

use billing_service::service::proto::{
    CommitReservationReply, CommitReservationRequest, ReleaseReservationReply, ReleaseReservationRequest,
    ReserveQuotaReply, ReserveQuotaRequest,
};

use super::{Books, full_cost, key, micros, share};
use crate::harness::caller::Dice;

/// An acknowledged reservation.
#[derive(Clone)]
pub struct Hold {
    pub request: ReserveQuotaRequest,
    pub reply: ReserveQuotaReply,
    pub end: End,
}

#[derive(Clone)]
pub enum End {
    Open,
    Committed(Box<CommitReservationRequest>, CommitReservationReply),
    Released,
    Expired,
}

impl Hold {
    pub fn status(&self) -> &'static str {
        match self.end {
            End::Open => "PENDING",
            End::Committed(..) => "COMMITTED",
            End::Released => "RELEASED",
            End::Expired => "EXPIRED",
        }
    }

    /// Committed units.
    pub fn delivered(&self) -> Option<i32> {
        match &self.end {
            End::Committed(request, _) => Some(request.count.unwrap_or(self.request.count)),
            End::Open | End::Released | End::Expired => None,
        }
    }
}

impl Books {
    /// Enters the first answer to a reserve, or compares a later answer with the first one.
    /// `retried` has the meaning of [`Self::acknowledge`], here and below.
    pub fn hold(&self, request: &ReserveQuotaRequest, reply: ReserveQuotaReply, retried: bool) {
        let mut known = self.known();
        let key = key(&request.user_id, &request.trace_id);
        if let Some(first) = known.holds.get_mut(&key) {
            if matches!(first.end, End::Open) && has_expired(&reply) {
                first.end = End::Expired;
            }
            let again = ReserveQuotaReply { status: first.status().into(), replayed: true, ..first.reply.clone() };
            assert_eq!(reply, again, "{request:?} was answered before");
            self.repeated.fetch_add(1, Relaxed);
            return;
        }
        assert!(retried || !reply.replayed, "{request:?} was sent for the first time and got {reply:?}");
        let end = if has_expired(&reply) { End::Expired } else { End::Open };
        assert!(reply.status == "PENDING" || retried, "{request:?} got {reply:?}");
        assert_eq!(reply.free_count + reply.paid_count, request.count, "{request:?} got {reply:?}");
        let full = full_cost(&request.service_name, request.count, request.cost);
        assert_eq!(micros(reply.amount), share(full, reply.paid_count, request.count), "{request:?} got {reply:?}");
        self.found.fetch_add(usize::from(reply.replayed), Relaxed);
        known.holds.insert(key, Hold { request: request.clone(), reply, end });
        drop(known);
        self.acknowledged.send_modify(|count| *count += 1);
    }

    /// Enters the answer to a commit. A commit may charge more or less than the hold. The tables must
    /// contain the charge of the answer.
    pub fn commit(&self, request: &CommitReservationRequest, reply: CommitReservationReply, retried: bool) {
        let mut known = self.known();
        let key = key(&request.user_id, &request.trace_id);
        let hold = known.holds.get_mut(&key).expect("each commit has a reservation");
        match &hold.end {
            End::Released => panic!("{request:?} was released and then committed: {reply:?}"),
            End::Committed(_, first) => {
                let again = CommitReservationReply { replayed: true, ..first.clone() };
                assert_eq!(reply, again, "{request:?} was answered before");
                self.repeated.fetch_add(1, Relaxed);
                return;
            }
            End::Open | End::Expired => {}
        }
        assert!(retried || !reply.replayed, "{request:?} was sent for the first time and got {reply:?}");
        let reserved = &hold.request;
        let count = request.count.unwrap_or(reserved.count);
        assert_eq!(reply.free_count + reply.paid_count, count, "{request:?} got {reply:?}");
        let full = match request.cost {
            0.0 => share(full_cost(&reserved.service_name, reserved.count, reserved.cost), count, reserved.count),
            cost => micros(cost),
        };
        assert_eq!(micros(reply.amount), share(full, reply.paid_count, count), "{request:?} got {reply:?}");
        self.found.fetch_add(usize::from(reply.replayed), Relaxed);
        hold.end = End::Committed(Box::new(request.clone()), reply);
        known.ended.push(key);
        drop(known);
        self.acknowledged.send_modify(|count| *count += 1);
    }

    pub fn release(&self, request: &ReleaseReservationRequest, reply: &ReleaseReservationReply, retried: bool) {
        let mut known = self.known();
        let key = key(&request.user_id, &request.trace_id);
        let hold = known.holds.get_mut(&key).expect("each release has a reservation");
        match hold.end {
            End::Committed(..) => panic!("{request:?} was committed and then released: {reply:?}"),
            End::Released => {
                assert!(reply.replayed, "{request:?} was answered before");
                self.repeated.fetch_add(1, Relaxed);
                return;
            }
            End::Open | End::Expired => {}
        }
        assert!(retried || !reply.replayed, "{request:?} was sent for the first time and got {reply:?}");
        self.found.fetch_add(usize::from(reply.replayed), Relaxed);
        hold.end = End::Released;
        known.ended.push(key);
        drop(known);
        self.acknowledged.send_modify(|count| *count += 1);
    }

    /// Enters that a sweep has ended every open reservation. All of them must be past their expiry.
    pub fn expire_open(&self) {
        let mut known = self.known();
        for hold in known.holds.values_mut().filter(|hold| matches!(hold.end, End::Open)) {
            assert!(is_past_expiry(&hold.reply), "{:?}", hold.reply);
            hold.end = End::Expired;
        }
    }

    /// A random reservation with an acknowledged end.
    pub fn any_ended_hold(&self, dice: &mut Dice) -> Option<Hold> {
        let known = self.known();
        let key = known.ended.get(dice.below(known.ended.len().max(1)))?;
        Some(known.holds[key].clone())
    }

    /// All acknowledged reservations.
    pub fn all_holds(&self) -> Vec<Hold> {
        self.known().holds.values().cloned().collect()
    }
}

/// Whether a sweep has ended the reservation. It must be past its expiry then.
fn has_expired(reply: &ReserveQuotaReply) -> bool {
    let expired = reply.status == "EXPIRED";
    assert!(!expired || is_past_expiry(reply), "it expired too early: {reply:?}");
    expired
}

fn is_past_expiry(reply: &ReserveQuotaReply) -> bool {
    let expires_at = reply.expires_at.as_ref().expect("a reservation has an expiry");
    let expires_at = chrono::DateTime::from_timestamp(expires_at.seconds, expires_at.nanos as u32).unwrap();
    expires_at <= chrono::Utc::now()
}
