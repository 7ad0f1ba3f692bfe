//! The spans of a posting: its wait in the lane, and the settlement of its batch.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError, Weak},
};

use tracing::{Span, field::Empty};

use crate::biz::values::spans::{MAX_LINKS, TARGET};

/// The place of a posting in the trace of its request. The postings of one request share its waits by clones, so that a
/// batch of many items has as many spans as one item.
#[derive(Debug, Clone)]
pub struct Place {
    request: Arc<TracedRequest>,
    /// The wait until the next attempt begins. It ends with its last clone.
    wait: Option<Arc<Span>>,
}

#[derive(Debug)]
struct TracedRequest {
    span: Span,
    /// The wait for a lock that goes on.
    lock_wait: Mutex<Weak<Span>>,
}

impl Place {
    /// Begins the wait. `None` unless the current request is traced, so that other postings carry nothing.
    pub fn begin() -> Option<Box<Self>> {
        let wait = tracing::info_span!(target: TARGET, "lane wait");
        let request = || Arc::new(TracedRequest { span: Span::current(), lock_wait: Mutex::default() });
        (!wait.is_disabled()).then(|| Box::new(Self { request: request(), wait: Some(Arc::new(wait)) }))
    }

    /// The span of a settlement whose batch is not known yet.
    pub(super) fn settlement(&self) -> Span {
        self.request.span.in_scope(|| {
            tracing::info_span!(
                target: TARGET,
                "settlement",
                "billing.batch.size" = Empty,
                "billing.batch.traced" = Empty,
                "otel.status_code" = Empty,
                "error.type" = Empty,
            )
        })
    }

    /// Begins a wait for a lock of another transaction, or joins that of another posting of the request.
    pub(super) fn wait_for_lock(&mut self) {
        let mut lock_wait = self.request.lock_wait.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = lock_wait.upgrade().unwrap_or_else(|| {
            let begin = || tracing::info_span!(target: TARGET, "lock wait");
            let wait = Arc::new(self.request.span.in_scope(begin));
            *lock_wait = Arc::downgrade(&wait);
            wait
        });
        self.wait = Some(wait);
    }
}

/// The span of the settlement of a batch of `size` postings; disabled if no request in it is traced. It belongs to the
/// trace of the first traced request.
pub(super) fn settlement(places: &mut [&mut Place], size: usize) -> Span {
    let Some(first) = places.first() else { return Span::none() };
    let span = first.settlement();
    join(&span, places, size);
    span
}

/// Links the settlement to each traced request of its batch, once. Their waits end, each with a link to the settlement.
pub(super) fn join(span: &Span, places: &mut [&mut Place], size: usize) {
    if span.is_disabled() {
        return;
    }
    let (mut requests, mut waits) = (HashSet::new(), HashSet::new());
    for place in places.iter_mut() {
        let wait = place.wait.take();
        if requests.insert(place.request.span.id()) && requests.len() <= MAX_LINKS {
            span.follows_from(&place.request.span);
        }
        if let Some(wait) = wait
            && waits.insert(wait.id())
        {
            wait.follows_from(span);
        }
    }
    span.record("billing.batch.size", size);
    span.record("billing.batch.traced", requests.len());
}
