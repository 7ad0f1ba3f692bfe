//! The cost of a body: the memory that it may take, and the threads on which a large one is read.

use std::{fmt, sync::Arc};

use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::Semaphore,
    task,
};

use crate::biz::values::error::{Error, Result};

/// Largest body, in bytes, that is inflated or decoded on the thread of its request: some 100 us.
pub const MAX_INLINE: usize = 16 * 1024;
/// The same for JSON, which takes longer.
pub const MAX_INLINE_JSON: usize = 4 * 1024;

tokio::task_local! {
    static CURRENT: Option<BodyBudget>;
}

/// Memory that bodies share.
pub trait TakeBytes: Send + Sync {
    /// `false` if too few are left.
    fn take(&self, bytes: usize) -> bool;
}

impl<F: Fn(usize) -> bool + Send + Sync> TakeBytes for F {
    fn take(&self, bytes: usize) -> bool {
        self(bytes)
    }
}

/// Takes memory for what is made of a body, until its request ends. The transport runs each request with a
/// body in the scope of its budget.
#[derive(Clone)]
pub struct BodyBudget(Arc<dyn TakeBytes>);

impl BodyBudget {
    pub fn new(take: impl TakeBytes + 'static) -> Self {
        Self(Arc::new(take))
    }

    /// Shares memory that others hold, too.
    pub fn of(shared: Arc<impl TakeBytes + 'static>) -> Self {
        Self(shared)
    }

    /// Runs `work` with `budget` as the one of its request.
    pub fn scope<F: Future>(budget: Option<Self>, work: F) -> impl Future<Output = F::Output> {
        CURRENT.scope(budget, work)
    }

    /// The budget of the request that the task runs, if it is known.
    pub fn current() -> Option<Self> {
        CURRENT.try_with(Clone::clone).ok().flatten()
    }

    /// `false` if the bodies of all requests leave too little.
    pub fn take(&self, bytes: usize) -> bool {
        self.0.take(bytes)
    }
}

impl fmt::Debug for BodyBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BodyBudget")
    }
}

/// Runs `work`: on this thread if it is short, or else on a thread of its own, so that it delays no
/// other request.
///
/// # Errors
/// [`Error::Internal`]: it panicked.
pub async fn off_worker_if<T: Send + 'static>(is_long: bool, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    /// Most such threads. Further requests wait, until their deadline.
    static THREADS: Semaphore = Semaphore::const_new(2);
    if !is_long {
        return Ok(work());
    }
    let failed = |error: &dyn fmt::Display| Error::Internal(format!("reading a body: {error}"));
    let thread = THREADS.acquire().await.map_err(|error| failed(&error))?;
    let work = move || {
        // Held until the work is done, also if nobody waits for it any more.
        let _thread = thread;
        work()
    };
    task::spawn_blocking(work).await.map_err(|error| failed(&error))
}

/// As [`off_worker_if`], for work that can't wait: the other requests of this thread move to another one.
pub fn beside_worker_if<T>(is_long: bool, work: impl FnOnce() -> T) -> T {
    let moves = || Handle::try_current().is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if is_long && moves() { task::block_in_place(work) } else { work() }
}
