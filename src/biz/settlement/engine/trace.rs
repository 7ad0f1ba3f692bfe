//! The spans of a posting: its wait in the lane, and the settlement of its batch.

use tracing::{Span, field::Empty};

use crate::biz::values::spans::{MAX_LINKS, TARGET};

/// The place of a posting in the trace of its request.
pub(super) struct Place {
    request: Span,
    /// The wait until the next attempt begins.
    wait: Span,
}

impl Place {
    /// Begins the wait. `None` unless the current request is traced, so that other postings carry nothing.
    pub fn begin() -> Option<Box<Self>> {
        let wait = tracing::info_span!(target: TARGET, "lane wait");
        (!wait.is_disabled()).then(|| Box::new(Self { request: Span::current(), wait }))
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

/// Links the settlement to each traced request of its batch. Their waits end, each with a link to the settlement.
pub(super) fn join(span: &Span, places: &mut [&mut Place], size: usize) {
    if span.is_disabled() {
        return;
    }
    span.record("billing.batch.size", size);
    span.record("billing.batch.traced", places.len());
    for place in places.iter().take(MAX_LINKS) {
        span.follows_from(&place.request);
        place.wait.follows_from(span);
    }
    for place in places {
        place.wait = Span::none();
    }
}

impl Place {
    /// The span of a settlement whose batch is not known yet.
    pub fn settlement(&self) -> Span {
        self.request.in_scope(|| {
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

    /// Begins a wait for a lock of another transaction.
    pub fn wait_for_lock(&mut self) {
        self.wait = self.request.in_scope(|| tracing::info_span!(target: TARGET, "lock wait"));
    }
}
