//! The spans of traces: the root of a traced request, and what lies below one.

use tracing::{Metadata, Subscriber, level_filters::LevelFilter, subscriber::Interest};
use tracing_subscriber::{
    layer::{Context, Filter},
    registry::LookupSpan,
};

use crate::biz::values::spans::{ROOT, TARGET};

/// Lets a root pass, and a span whose current span has passed. The transport makes a root for a traced request alone,
/// so the work of the others makes no spans.
pub struct Traced;

impl<S> Filter<S> for Traced
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    fn enabled(&self, metadata: &Metadata<'_>, context: &Context<'_, S>) -> bool {
        is_of_traces(metadata) && (metadata.name() == ROOT || context.lookup_current().is_some())
    }

    fn callsite_enabled(&self, metadata: &'static Metadata<'static>) -> Interest {
        if is_of_traces(metadata) { Interest::sometimes() } else { Interest::never() }
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(LevelFilter::INFO)
    }
}

fn is_of_traces(metadata: &Metadata<'_>) -> bool {
    metadata.is_span() && metadata.target() == TARGET
}
