//! One connection to one run of one server, with two circuit breakers.
//!
//! The link ends at the first sign that the server does not answer, so that only one command waits
//! for its time limit. While the server answers late, commands that a caller waits for fail at
//! once, and background commands continue.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use redis::{
    Arg, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value, aio::MultiplexedConnection,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, Span};

use super::scripts;
use crate::{
    biz::values::{error::StoreError, spans},
    data::spans::{Address, RoundTrip},
};

pub(super) struct Link {
    connection: MultiplexedConnection,
    /// `host:port` of the server.
    pub address: String,
    /// The same, for traces.
    server: Address,
    /// The run id of the server, which changes at every restart.
    pub run: String,
    ended: CancellationToken,
    born: Instant,
    /// Milliseconds from `born` to the last answer.
    answered: AtomicU64,
    lateness: Arc<Lateness>,
}

/// The slow-server breaker: counts late answers to commands that callers wait for. It belongs to
/// the server and outlives the links.
#[derive(Default)]
pub(super) struct Lateness {
    /// Late answers in a row.
    late: AtomicU32,
    /// The time from which one more caller may wait.
    wait_again_at: Mutex<Option<Instant>>,
}

/// Late answers in a row after which a server counts as slow.
const MANY_LATE: u32 = 3;
/// While the server is slow, one caller in each interval sends its command. Its result shows whether the
/// server has recovered.
const SLOW_PAUSE: Duration = Duration::from_secs(1);

impl Lateness {
    /// Whether a caller may wait. While the server is slow, true once per [`SLOW_PAUSE`].
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

/// The reason why the server did not execute a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// The server does not know the scripts, or has lost them.
    NoScript,
    /// Another node owns the key.
    Moved,
    /// Anything else.
    Other,
}

impl Link {
    pub fn new(connection: MultiplexedConnection, address: String, run: String, lateness: Arc<Lateness>) -> Self {
        let (ended, answered) = (CancellationToken::new(), AtomicU64::new(0));
        let (host, port) = address.rsplit_once(':').unwrap_or((&address, ""));
        let server = Address { host: host.to_owned(), port: port.parse().unwrap_or_default() };
        Self { connection, address, server, run, ended, born: Instant::now(), answered, lateness }
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Waits until the link has ended.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Ends the link for all its users.
    pub fn end(&self) {
        self.ended.cancel();
    }

    /// Sends a command that a request waits for. Fails at once while the server is slow.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_awaited(&self, command: &Cmd, budget: Duration) -> Result<Value, (Refusal, StoreError)> {
        if !self.lateness.may_wait() {
            return Err((Refusal::Other, StoreError::Unavailable("redis answers too slowly".into())));
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

    /// The answer to one command. Loads the scripts again if the server has lost them.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]; [`StoreError::Failed`] if a retry would be refused too.
    pub async fn call(&self, command: &Cmd, budget: Duration) -> Result<Value, (Refusal, StoreError)> {
        let span = self.span(command, 1);
        if span.is_disabled() {
            return self.call_or_load(command, budget).await;
        }
        let answer = self.call_or_load(command, budget).instrument(span.clone()).await;
        if let Err((_, error)) = &answer {
            spans::fail(&span, spans::kind(error));
        }
        answer
    }

    async fn call_or_load(&self, command: &Cmd, budget: Duration) -> Result<Value, (Refusal, StoreError)> {
        match self.within(budget, self.send(command)).await {
            Err((Refusal::NoScript, _)) => {
                self.load_scripts(budget).await?;
                self.within(budget, self.send(command)).await
            }
            answer => answer,
        }
    }

    /// Sends one command. A refusal of the server comes back as an error.
    async fn send(&self, command: &Cmd) -> RedisResult<Value> {
        self.connection.clone().send_packed_command(command).await.and_then(Value::extract_error)
    }

    /// The answers to several commands in one round trip, in order. Refusals are among the
    /// answers.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`]: the outcome of all commands is unknown.
    pub async fn call_all(&self, commands: &Pipeline, budget: Duration) -> Result<Vec<Value>, StoreError> {
        let mut connection = self.connection.clone();
        let count = commands.cmd_iter().count();
        let answers = connection.send_packed_commands(commands, 0, count);
        let first = commands.cmd_iter().next();
        let span = first.map_or_else(Span::none, |first| self.span(first, count));
        spans::traced(span, async { self.within(budget, answers).await.map_err(|(_, error)| error) }).await
    }

    /// The span of `count` commands, of which `command` is the first.
    fn span(&self, command: &Cmd, count: usize) -> Span {
        if !spans::is_traced() {
            return Span::none();
        }
        let mut arguments = command.args_iter().filter_map(|argument| match argument {
            Arg::Simple(bytes) => str::from_utf8(bytes).ok(),
            _ => None,
        });
        let operation = arguments.next().unwrap_or_default();
        let script = if operation == "EVALSHA" { arguments.next().and_then(scripts::name_of) } else { None };
        // By the conventions, one command is no batch.
        let batch = (count > 1).then_some(count);
        let name = if batch.is_some() { "PIPELINE" } else { operation };
        let round_trip = RoundTrip { system: "redis", name, operation, batch, script, server: Some(&self.server) };
        round_trip.span()
    }

    pub async fn load_scripts(&self, budget: Duration) -> Result<(), (Refusal, StoreError)> {
        let answers = self.call_all(&scripts::load(), budget).await.map_err(|error| (Refusal::Other, error))?;
        match answers.iter().find(|answer| matches!(answer, Value::ServerError(_))) {
            None => Ok(()),
            Some(refused) => {
                Err((Refusal::Other, StoreError::Unavailable(format!("scripts not loaded: {refused:?}").into())))
            }
        }
    }

    async fn within<T>(
        &self,
        budget: Duration,
        answer: impl Future<Output = RedisResult<T>>,
    ) -> Result<T, (Refusal, StoreError)> {
        if self.has_ended() {
            return Err((Refusal::Other, StoreError::Unavailable("the connection to redis has ended".into())));
        }
        let answer = tokio::select! {
            biased;
            answer = tokio::time::timeout(budget, answer) => answer,
            // Another command got no answer, so this one will get none either.
            () = self.ended() => {
                return Err((Refusal::Other, StoreError::Unavailable("the connection to redis has ended".into())));
            }
        };
        match answer {
            Ok(Ok(value)) => {
                self.answered.store(self.age(), Relaxed);
                Ok(value)
            }
            Ok(Err(error)) => {
                let (refusal, why) = (self.refused(&error), error.to_string());
                // A retry would fail too, for example on a key of another type or without memory.
                let is_final = refusal == Refusal::Other && !self.has_ended();
                Err((refusal, if is_final { StoreError::Failed(why) } else { StoreError::Unavailable(why.into()) }))
            }
            Err(_) => {
                // End the link only if no other answer came during the budget: on a busy machine a
                // single answer may be late.
                if self.age().saturating_sub(self.answered.load(Relaxed)) >= budget.as_millis() as u64 {
                    self.end();
                }
                Err((Refusal::Other, StoreError::Unavailable("redis did not answer in time".into())))
            }
        }
    }

    /// Classifies an error, and ends the link if it can't be used any more.
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
