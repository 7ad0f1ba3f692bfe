//! The request that the current task answers: the facts that its log lines name, and its place in a trace.

mod traceparent;

use std::{
    borrow::Cow,
    future::Future,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use http::HeaderValue;
use tokio::task::futures::TaskLocalFuture;
use tracing::{Instrument, Span, instrument::Instrumented};

pub use self::traceparent::{Outgoing, TRACEPARENT, TRACESTATE, TraceParent};

/// The facts of a request. Its handler adds some of them while it runs.
#[derive(Debug)]
pub struct RequestFacts {
    /// The rpc of the contract, or the name in the path of an unknown one.
    pub rpc: Option<Cow<'static, str>>,
    pub request_id: HeaderValue,
    /// The id of its W3C trace. Without a caller's or a traced one it is an id that nothing else has.
    pub trace_id: u128,
    /// The parent that later services get if the request has none and is not traced, so that they do not trace it either.
    pub untraced_parent: Option<TraceParent>,
    /// The header with the trace id of a charge.
    pub charge_header: Option<HeaderValue>,
    charge_id: OnceLock<Box<str>>,
    caller: OnceLock<(Arc<str>, &'static str)>,
    reason: OnceLock<&'static str>,
    replayed: AtomicBool,
}

tokio::task_local! {
    static CURRENT: Arc<RequestFacts>;
}

impl RequestFacts {
    pub fn new(rpc: Option<Cow<'static, str>>, request_id: HeaderValue, trace_id: u128) -> Self {
        Self {
            rpc,
            request_id,
            trace_id,
            untraced_parent: None,
            charge_header: None,
            charge_id: OnceLock::new(),
            caller: OnceLock::new(),
            reason: OnceLock::new(),
            replayed: AtomicBool::new(false),
        }
    }

    /// The trace id of the charge or the reservation, by the message or the header.
    pub fn charge_id(&self) -> Option<&str> {
        let header = || self.charge_header.as_ref()?.to_str().ok();
        self.charge_id.get().map(|id| &**id).or_else(header)
    }

    /// Sets the trace id of the charge. A request has one.
    pub fn note_charge_id(&self, id: &str) {
        if self.charge_id() != Some(id) {
            let _ = self.charge_id.set(id.into());
        }
    }

    /// The name and the role of the caller, once it has proven itself.
    pub fn caller(&self) -> Option<(&str, &'static str)> {
        self.caller.get().map(|(name, role)| (&**name, *role))
    }

    pub fn note_caller(&self, name: &Arc<str>, role: &'static str) {
        let _ = self.caller.set((name.clone(), role));
    }

    /// The reason of its error, a word of the table of errors.
    pub fn reason(&self) -> Option<&'static str> {
        self.reason.get().copied()
    }

    pub fn note_reason(&self, reason: &'static str) {
        let _ = self.reason.set(reason);
    }

    /// Whether the answer repeats a first outcome.
    pub fn is_replayed(&self) -> bool {
        self.replayed.load(Relaxed)
    }
}

/// Runs `work` with a request as the current one.
pub fn within<T>(request: &Arc<RequestFacts>, work: impl FnOnce() -> T) -> T {
    CURRENT.sync_scope(request.clone(), work)
}

/// A future with a request as the current one.
pub fn scope<F: Future>(request: Arc<RequestFacts>, future: F) -> TaskLocalFuture<Arc<RequestFacts>, F> {
    CURRENT.scope(request, future)
}

/// The current request. `None` in work that belongs to none.
pub fn current() -> Option<Arc<RequestFacts>> {
    CURRENT.try_with(Arc::clone).ok()
}

/// Reads the current request, if there is one.
pub fn read<T>(read: impl FnOnce(&RequestFacts) -> T) -> Option<T> {
    CURRENT.try_with(|request| read(request)).ok()
}

/// Notes that the answer to the current request repeats a first outcome. Returns `replayed`.
pub fn note_replayed(replayed: bool) -> bool {
    if replayed {
        read(|request| request.replayed.store(true, Relaxed));
    }
    replayed
}

/// The trace headers of a call to another service, by the current span. For a request without a parent that is not
/// traced, they say so. `None` if the caller's own headers go on, as they came.
pub fn outgoing() -> Option<Outgoing> {
    let untraced = || read(|request| request.untraced_parent).flatten().map(|parent| Outgoing { parent, state: None });
    Outgoing::below(&Span::current()).or_else(untraced)
}

/// A future for a task of its own that still belongs to the current request: its log lines name the request, and
/// its spans lie below that of the request.
pub fn carry<F: Future>(future: F) -> impl Future<Output = F::Output> + use<F> {
    let request = current();
    let future: Instrumented<F> = future.in_current_span();
    async move {
        match request {
            Some(request) => scope(request, future).await,
            None => future.await,
        }
    }
}
