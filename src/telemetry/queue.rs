//! The queue of spans in front of the exporter, which counts the spans that find it full. The processor of the SDK
//! drops these without a word.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Span, SpanData, SpanProcessor},
};

use crate::biz::values::spans;

/// The spans that wait for the exporter or are on their way.
#[derive(Debug, Clone, Default)]
pub(super) struct Waiting(Arc<AtomicUsize>);

impl Waiting {
    /// Takes a place. False if all of them are taken.
    fn take(&self, places: usize) -> bool {
        let taken = self.0.fetch_update(Relaxed, Relaxed, |waiting| (waiting < places).then_some(waiting + 1));
        taken.is_ok()
    }

    /// Gives places back.
    pub(super) fn give_back(&self, spans: usize) {
        self.0.fetch_sub(spans, Relaxed);
    }
}

/// Lets at most `places` spans wait in `processor`.
#[derive(Debug)]
pub(super) struct Bounded<P> {
    pub processor: P,
    pub waiting: Waiting,
    pub places: usize,
}

impl<P: SpanProcessor> SpanProcessor for Bounded<P> {
    fn on_start(&self, span: &mut Span, context: &Context) {
        self.processor.on_start(span, context);
    }

    fn on_end(&self, span: SpanData) {
        if self.waiting.take(self.places) {
            self.processor.on_end(span);
        } else {
            spans::lose(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.processor.force_flush()
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.processor.shutdown_with_timeout(timeout)
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.processor.set_resource(resource);
    }
}
