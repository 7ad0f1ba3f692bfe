//! The scheduling of counts: short inputs are counted in place, long ones on blocking threads, a
//! bounded number at once.

use std::{num::NonZeroUsize, sync::Arc, thread, time::Duration};

use tokio::{
    sync::{AcquireError, OwnedSemaphorePermit, Semaphore},
    task, time,
};

use super::{Encoding, Input, StreamCounter, Vocabularies};
use crate::biz::values::error::{Error, Result};

/// Longest input, in bytes, that is counted in place. That takes microseconds, at worst a third
/// of a millisecond; a switch to another thread takes tens of microseconds.
pub const IN_PLACE_BYTES: usize = 1_024;
/// Most counts of longer inputs at once, including those that wait for a core.
pub const MAX_ADMITTED: usize = 64;
/// Longest wait for a core.
const DEADLINE: Duration = Duration::from_secs(10);

/// The patience of a count of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Waits for a core.
    Wait,
    /// Leaves a long text out if no core is free. For a stream whose sender has gone, which would
    /// otherwise keep the cores busy for nobody.
    IfFree,
}

/// Counts tokens without blocking the threads that serve requests.
pub struct TokenCounter {
    vocabularies: Arc<dyn Vocabularies>,
    admitted: Arc<Semaphore>,
    /// One permit for each core.
    cores: Arc<Semaphore>,
}

impl TokenCounter {
    pub fn new(vocabularies: Arc<dyn Vocabularies>) -> Self {
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self { vocabularies, admitted: Arc::new(Semaphore::new(MAX_ADMITTED)), cores: Arc::new(Semaphore::new(cores)) }
    }

    /// The number of tokens of an input.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if too many counts run at once; [`Error::Internal`].
    pub async fn count(&self, encoding: Encoding, input: Input) -> Result<usize> {
        if input.bytes() <= IN_PLACE_BYTES
            && let Some(vocabulary) = self.vocabularies.loaded(encoding)
        {
            return Ok(input.count(&*vocabulary));
        }
        let permit = self.admitted.clone().try_acquire_owned().map_err(|_| overloaded())?;
        let permits = (permit, self.core().await?);
        let vocabularies = self.vocabularies.clone();
        on_a_thread(permits, move || Ok(input.count(&*vocabularies.load(encoding)?))).await?
    }

    /// A running count of a stream. The number of streams is limited elsewhere, so all streams
    /// that begin before the vocabulary is built wait for it.
    ///
    /// # Errors
    /// [`Error::Overloaded`] if no core is free in time; [`Error::Internal`].
    pub async fn stream(&self, encoding: Encoding) -> Result<StreamCounter> {
        if let Some(vocabulary) = self.vocabularies.loaded(encoding) {
            return Ok(StreamCounter::new(vocabulary));
        }
        let core = self.core().await?;
        // Another stream may have built the vocabulary in the meantime.
        if let Some(vocabulary) = self.vocabularies.loaded(encoding) {
            return Ok(StreamCounter::new(vocabulary));
        }
        let vocabularies = self.vocabularies.clone();
        on_a_thread(core, move || Ok(StreamCounter::new(vocabularies.load(encoding)?))).await?
    }

    /// Adds the next chunk of a stream, and returns the tokens of the stream so far. A long chunk
    /// needs a core; without one it is left out.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn push(
        &self,
        counter: StreamCounter,
        chunk: Vec<u8>,
        patience: Patience,
    ) -> Result<(StreamCounter, usize)> {
        let push = |mut counter: StreamCounter, chunk: &[u8]| {
            counter.push(chunk);
            let short = counter.unsettled_bytes() <= IN_PLACE_BYTES;
            let tokens = if short { counter.count() } else { counter.running() };
            (counter, tokens)
        };
        if chunk.len() + counter.unsettled_bytes() <= IN_PLACE_BYTES {
            return Ok(push(counter, &chunk));
        }
        match self.core_for(patience).await? {
            Some(core) => on_a_thread(core, move || push(counter, &chunk)).await,
            None => {
                let tokens = counter.running();
                Ok((counter, tokens))
            }
        }
    }

    /// The tokens of a stream that has ended. A long rest needs a core; without one a part of it is left
    /// out: that since its last count.
    ///
    /// # Errors
    /// [`Error::Internal`].
    pub async fn finish(&self, counter: StreamCounter, patience: Patience) -> Result<usize> {
        if counter.unsettled_bytes() <= IN_PLACE_BYTES {
            return Ok(counter.finish());
        }
        match self.core_for(patience).await? {
            Some(core) => on_a_thread(core, move || counter.finish()).await,
            None => Ok(counter.running()),
        }
    }

    /// A core; `None` if none is free and the count does not wait.
    async fn core_for(&self, patience: Patience) -> Result<Option<OwnedSemaphorePermit>> {
        let cores = self.cores.clone();
        match patience {
            Patience::Wait => cores.acquire_owned().await.map(Some).map_err(closed),
            Patience::IfFree => Ok(cores.try_acquire_owned().ok()),
        }
    }

    /// Waits for a core, for [`DEADLINE`] at most.
    async fn core(&self) -> Result<OwnedSemaphorePermit> {
        let core = time::timeout(DEADLINE, self.cores.clone().acquire_owned()).await;
        core.map_err(|_| overloaded())?.map_err(closed)
    }
}

/// Runs `work` on a blocking thread. If the caller is cancelled, the work still runs to its end
/// and keeps its permits until then.
async fn on_a_thread<T: Send + 'static>(
    permits: impl Send + 'static,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    let done = task::spawn_blocking(move || {
        let _permits = permits;
        work()
    });
    done.await.map_err(|failed| Error::Internal(format!("token count failed: {failed}")))
}

fn overloaded() -> Error {
    Error::Overloaded("too many token counts at once; retry later".into())
}

fn closed(closed: AcquireError) -> Error {
    Error::Internal(closed.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, Sender, channel};
    use std::sync::{Mutex, OnceLock, PoisonError};

    use futures_util::future::join_all;

    use super::*;
    use crate::biz::{metering::tokens::Vocabulary, values::error::StoreError};

    /// Counts bytes. A text that starts with "wait" blocks until the test releases it; one that
    /// starts with "fail" panics.
    struct Gate {
        arrivals: Mutex<Sender<thread::ThreadId>>,
        leave: Mutex<Receiver<()>>,
    }

    impl Vocabulary for Gate {
        fn count(&self, text: &str) -> usize {
            if text.starts_with("wait") {
                self.arrivals.lock().unwrap().send(thread::current().id()).unwrap();
                self.leave.lock().unwrap_or_else(PoisonError::into_inner).recv().unwrap();
            }
            assert!(!text.starts_with("fail"), "asked to");
            text.len()
        }
    }

    struct One(Arc<Gate>);

    impl Vocabularies for One {
        fn loaded(&self, encoding: Encoding) -> Option<Arc<dyn Vocabulary>> {
            self.load(encoding).ok()
        }

        fn load(&self, encoding: Encoding) -> std::result::Result<Arc<dyn Vocabulary>, StoreError> {
            match encoding {
                Encoding::Cl100kBase => Err(StoreError::Failed("not here".into())),
                _ => Ok(self.0.clone()),
            }
        }
    }

    fn gated() -> (Arc<TokenCounter>, Receiver<thread::ThreadId>, Sender<()>) {
        let ((arrivals, arrived), (go, leave)) = (channel(), channel());
        let gate = Gate { arrivals: Mutex::new(arrivals), leave: Mutex::new(leave) };
        (Arc::new(TokenCounter::new(Arc::new(One(Arc::new(gate))))), arrived, go)
    }

    fn text(start: &str, bytes: usize) -> Input {
        Input::text("text", format!("{start:.<bytes$}")).unwrap()
    }

    async fn until(condition: impl Fn() -> bool) {
        let waited = time::timeout(Duration::from_secs(20), async {
            while !condition() {
                task::yield_now().await;
            }
        });
        waited.await.expect("the condition holds in time");
    }

    #[tokio::test]
    async fn long_inputs_run_on_other_threads_in_a_bounded_number() {
        let (counter, arrived, go) = gated();
        let waiting: Vec<_> = (0..MAX_ADMITTED)
            .map(|_| {
                let counter = counter.clone();
                tokio::spawn(async move { counter.count(Encoding::O200kBase, text("wait", 2_000)).await })
            })
            .collect();
        // On a runtime of one thread, this ends only if no count blocks that thread.
        until(|| counter.admitted.available_permits() == 0).await;
        let refused = counter.count(Encoding::O200kBase, text("", 2_000)).await.unwrap_err();
        assert!(matches!(refused, Error::Overloaded(_)), "{refused}");
        assert_eq!(counter.count(Encoding::O200kBase, text("", IN_PLACE_BYTES)).await.unwrap(), IN_PLACE_BYTES);
        (0..MAX_ADMITTED).for_each(|_| go.send(()).unwrap());
        for one in waiting {
            assert_eq!(one.await.unwrap().unwrap(), 2_000);
        }
        assert!(arrived.try_iter().all(|id| id != thread::current().id()));
        assert_eq!(counter.admitted.available_permits(), MAX_ADMITTED);
    }

    /// A vocabulary that blocks while it is built.
    struct Slow {
        gate: Arc<Gate>,
        built: OnceLock<Arc<Gate>>,
    }

    impl Vocabularies for Slow {
        fn loaded(&self, _encoding: Encoding) -> Option<Arc<dyn Vocabulary>> {
            self.built.get().map(|gate| gate.clone() as Arc<dyn Vocabulary>)
        }

        fn load(&self, _encoding: Encoding) -> std::result::Result<Arc<dyn Vocabulary>, StoreError> {
            let build = || {
                self.gate.count("wait");
                self.gate.clone()
            };
            Ok(self.built.get_or_init(build).clone())
        }
    }

    #[tokio::test]
    async fn streams_that_begin_together_wait_for_the_vocabulary() {
        let ((arrivals, arrived), (go, leave)) = (channel(), channel());
        let gate = Arc::new(Gate { arrivals: Mutex::new(arrivals), leave: Mutex::new(leave) });
        let counter = TokenCounter::new(Arc::new(Slow { gate, built: OnceLock::new() }));
        let streams = join_all((0..10 * MAX_ADMITTED).map(|_| counter.stream(Encoding::O200kBase)));
        let building = task::spawn_blocking(move || {
            arrived.recv().unwrap();
            go.send(()).unwrap();
            arrived
        });
        let (streams, arrived) = tokio::join!(streams, building);
        assert!(streams.into_iter().all(|stream| stream.is_ok()));
        assert_eq!(arrived.unwrap().try_iter().count(), 0, "it is built once");
    }

    /// The text of a stream whose sender has gone does not wait for a core, and keeps its count so far.
    #[tokio::test]
    async fn the_count_of_a_stream_without_a_sender_takes_a_core_only_if_one_is_free() {
        let (counter, arrived, go) = gated();
        let long = vec![b'x'; 2 * IN_PLACE_BYTES];
        let stream = counter.stream(Encoding::O200kBase).await.unwrap();
        let (stream, tokens) = counter.push(stream, long.clone(), Patience::IfFree).await.unwrap();
        assert_eq!(tokens, long.len(), "a core is free");
        let cores = counter.cores.available_permits();
        let waiting: Vec<_> = (0..cores)
            .map(|_| {
                let counter = counter.clone();
                tokio::spawn(async move { counter.count(Encoding::O200kBase, text("wait", 2_000)).await })
            })
            .collect();
        until(|| counter.cores.available_permits() == 0).await;
        let (stream, tokens) = counter.push(stream, long.clone(), Patience::IfFree).await.unwrap();
        assert_eq!(tokens, long.len());
        assert_eq!(counter.finish(stream, Patience::IfFree).await.unwrap(), long.len());
        let mut short = counter.stream(Encoding::O200kBase).await.unwrap();
        (short, _) = counter.push(short, b"short".to_vec(), Patience::IfFree).await.unwrap();
        assert_eq!(counter.finish(short, Patience::IfFree).await.unwrap(), 5, "a short text needs no core");
        (0..cores).for_each(|_| go.send(()).unwrap());
        for one in waiting {
            one.await.unwrap().unwrap();
        }
        drop(arrived);
    }

    #[tokio::test]
    async fn a_cancelled_count_keeps_its_permit_until_it_ends() {
        let (counter, arrived, go) = gated();
        let count = tokio::spawn({
            let counter = counter.clone();
            async move { counter.count(Encoding::O200kBase, text("wait", 2_000)).await }
        });
        let arrived = task::spawn_blocking(move || arrived.recv());
        arrived.await.unwrap().unwrap();
        count.abort();
        assert!(count.await.unwrap_err().is_cancelled());
        assert_eq!(counter.admitted.available_permits(), MAX_ADMITTED - 1);
        go.send(()).unwrap();
        until(|| counter.admitted.available_permits() == MAX_ADMITTED).await;
    }

    #[tokio::test]
    async fn a_failed_count_is_an_error_and_frees_its_permit() {
        let (counter, _arrived, _go) = gated();
        for (encoding, start) in [(Encoding::O200kBase, "fail"), (Encoding::Cl100kBase, "")] {
            let error = counter.count(encoding, text(start, 2_000)).await.unwrap_err();
            assert!(matches!(error, Error::Internal(_)), "{error}");
        }
        assert_eq!(counter.admitted.available_permits(), MAX_ADMITTED);
    }
}
