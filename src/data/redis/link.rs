//! One connection to one run of one server. It ends with the first sign that the server does
//! not answer: a circuit breaker that costs nobody a second wait. While it answers, but late,
//! callers of the service are not kept waiting either, and what they need not wait for goes on.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection};
use tokio_util::sync::CancellationToken;

use super::scripts;
use crate::biz::values::error::StoreError;

pub(super) struct Link {
    connection: MultiplexedConnection,
    /// Of the server.
    pub address: String,
    /// The server's id of its own run: another after every restart.
    pub run: String,
    ended: CancellationToken,
    born: Instant,
    /// Milliseconds after `born` at which the last answer came.
    answered: AtomicU64,
    lateness: Arc<Lateness>,
}

/// How late the answers are that callers of the service wait for: of a server, whatever
/// becomes of its links.
#[derive(Default)]
pub(super) struct Lateness {
    /// In a row.
    late: AtomicU32,
    /// When another caller may wait.
    wait_again_at: Mutex<Option<Instant>>,
}

/// Answers in a row that make a server a slow one.
const MANY_LATE: u32 = 3;
/// How often a caller waits to learn whether a slow server still is one.
const SLOW_PAUSE: Duration = Duration::from_secs(1);

impl Lateness {
    /// While answers are late, true for one caller each time.
    fn may_wait(&self) -> bool {
        if self.late.load(Relaxed) < MANY_LATE {
            return true;
        }
        let (now, mut again_at) = (Instant::now(), self.wait_again_at());
        let may = again_at.is_none_or(|at| at <= now);
        if may {
            *again_at = Some(now + SLOW_PAUSE);
        }
        may
    }

    fn was_late(&self) {
        *self.wait_again_at() = Some(Instant::now() + SLOW_PAUSE);
        self.late.fetch_add(1, Relaxed);
    }

    fn was_in_time(&self) {
        self.late.store(0, Relaxed);
    }

    fn wait_again_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.wait_again_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the server said of a command that it did not carry out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The scripts are not known (any more).
    NoScript,
    /// The key is another node's.
    Moved,
    /// Anything else.
    Other,
}

impl Link {
    pub fn new(connection: MultiplexedConnection, address: String, run: String, lateness: Arc<Lateness>) -> Self {
        let (ended, answered) = (CancellationToken::new(), AtomicU64::new(0));
        Self { connection, address, run, ended, born: Instant::now(), answered, lateness }
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until it has ended.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Ends it for all who use it.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// As [`Self::call`], where a caller of the service waits.
    ///
    /// # Errors
    /// As [`Self::call`]; at once while the server is slow.
    pub async fn call_awaited(&self, command: &Cmd, budget: Duration) -> Result<Value, (Refusal, StoreError)> {
        if !self.lateness.may_wait() {
            return Err((Refusal::Other, StoreError::Unavailable("answers are late".into())));
        }
        let asked = Instant::now();
        let answer = self.call(command, budget).await;
        match &answer {
            Ok(_) => self.lateness.was_in_time(),
            Err(_) if asked.elapsed() >= budget => self.lateness.was_late(),
            Err(_) => {}
        }
        answer
    }

    /// The answer to one command; scripts that the server forgot are loaded again.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Failed`] where the server refuses for good.
    pub async fn call(&self, command: &Cmd, budget: Duration) -> Result<Value, (Refusal, StoreError)> {
        match self.within(budget, self.send(command)).await {
            Err((Refusal::NoScript, _)) => {
                self.load_scripts(budget).await?;
                self.within(budget, self.send(command)).await
            }
            answer => answer,
        }
    }

    /// What the server refuses is a value of its own.
    async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        self.connection.clone().send_packed_command(command).await.and_then(Value::extract_error)
    }

    /// The answers to some commands in one round trip, in order; refusals are among them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: nobody knows which were carried out.
    pub async fn call_all(&self, commands: &Pipeline, budget: Duration) -> Result<Vec<Value>, StoreError> {
        let mut connection = self.connection.clone();
        let count = commands.cmd_iter().count();
        let answers = connection.send_packed_commands(commands, 0, count);
        self.within(budget, answers).await.map_err(|(_, error)| error)
    }

    pub async fn load_scripts(&self, budget: Duration) -> Result<(), (Refusal, StoreError)> {
        let answers = self.call_all(&scripts::load(), budget).await.map_err(|error| (Refusal::Other, error))?;
        match answers.iter().find(|answer| matches!(answer, Value::ServerError(_))) {
            None => Ok(()),
            Some(refused) => Err((Refusal::Other, StoreError::Unavailable(format!("no scripts: {refused:?}")))),
        }
    }

    async fn within<T>(
        &self,
        budget: Duration,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, (Refusal, StoreError)> {
        if self.has_ended() {
            return Err((Refusal::Other, StoreError::Unavailable("the connection has ended".into())));
        }
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout(budget, answer) => answer,
            // Another was not answered: neither will be this.
            () = self.ended() => {
                return Err((Refusal::Other, StoreError::Unavailable("the connection has ended".into())));
            }
        };
        match answer {
            Ok(Ok(value)) => {
                self.answered.store(self.age(), Relaxed);
                Ok(value)
            }
            Ok(Err(error)) => {
                let (refusal, why) = (self.refused(&error), error.to_string());
                // Another try meets the same: such as a key of another kind, or no memory.
                let is_final = refusal == Refusal::Other && !self.has_ended();
                Err((refusal, if is_final { StoreError::Failed(why) } else { StoreError::Unavailable(why) }))
            }
            Err(_) => {
                // On a busy machine an answer may be late while others come.
                if self.age().saturating_sub(self.answered.load(Relaxed)) >= budget.as_millis() as u64 {
                    self.end();
                }
                Err((Refusal::Other, StoreError::Unavailable("no answer in time".into())))
            }
        }
    }

    /// Sorts an error, and ends the link unless it may still serve.
    pub fn refused(&self, error: &RedisError) -> Refusal {
        match error.kind() {
            ErrorKind::Server(ServerErrorKind::NoScript) => Refusal::NoScript,
            ErrorKind::Server(ServerErrorKind::Moved | ServerErrorKind::Ask | ServerErrorKind::TryAgain) => {
                Refusal::Moved
            }
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::ReadOnly
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown,
            )
            | ErrorKind::Io => {
                self.end();
                Refusal::Other
            }
            _ if error.is_unrecoverable_error() => {
                self.end();
                Refusal::Other
            }
            _ => Refusal::Other,
        }
    }

    fn age(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.end();
    }
}
