//! Several servers on one database, and callers that choose one for each charge.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

use anyhow::{Context, ensure};
use billing_service::service::proto::billing_internal_service_client::BillingInternalServiceClient;
use sqlx::Connection;
use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{sleep_until, timeout},
};
use tonic::{Status, transport::Channel};
use tonic_types::StatusExt;

use crate::{
    closed::measure,
    durability::connect,
    measure::{Counting, Recorder, Slice, Window},
    operation::{CALL_TIMEOUT, Outcome, Users, charge, describe, timed},
    scenario::Scenario,
    supervised::Supervised,
    usage::Processes,
    world::{Target, start_process},
};

/// Most attempts of a caller to make one charge. Each attempt goes to the next server.
const ATTEMPTS: usize = 8;

/// The number of servers of a scenario, and the choice of a server for each charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fleet {
    pub servers: usize,
    pub routing: Routing,
    /// Whether one of the servers is killed in the middle of the measured time.
    pub kills_one: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Routing {
    /// Any server, for each charge.
    Random,
    /// The same server for all charges of a user.
    Affine,
}

/// Servers beside the one of [`Target`], on its database and with its configuration.
pub struct Servers {
    conf: PathBuf,
    /// The processes of the target; those of the database and Redis are shared.
    shared: Processes,
    source: String,
    members: tokio::sync::Mutex<Vec<Arc<Member>>>,
}

struct Member {
    process: Mutex<Option<Supervised>>,
    pid: u32,
    channels: Vec<Channel>,
    /// False after a call to this server got no answer.
    is_up: AtomicBool,
}

impl Servers {
    /// Starts no server yet. The first scenario that needs servers starts them.
    ///
    /// # Errors
    /// The target has no configuration.
    pub fn of(target: &Target) -> anyhow::Result<Self> {
        let conf = target.conf.clone().context("the target has no configuration")?;
        let (shared, source) = (target.processes.clone(), target.source.clone());
        Ok(Self { conf, shared, source, members: tokio::sync::Mutex::default() })
    }

    /// Runs a closed loop through `window`. A charge without an answer is sent again, with the same
    /// trace id, to the next server.
    ///
    /// # Errors
    /// A process does not start or ends early, a caller does not end, or the database has more or
    /// fewer charges than were acknowledged.
    pub async fn run(&self, scenario: &Scenario, fleet: Fleet, window: Window, seed: u64) -> anyhow::Result<Slice> {
        let members: Arc<[Arc<Member>]> = self.start(fleet.servers).await?.into();
        let window = window.moved_to(Instant::now());
        let before = self.charges().await?;
        let recorder = Arc::new(Recorder::new(window, Counting::Ended)?);
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut callers = JoinSet::new();
        for caller in 0..scenario.callers {
            let (members, recorder, acknowledged) = (members.clone(), recorder.clone(), acknowledged.clone());
            let mut users = Users::new(scenario.users, seed, caller as u64);
            callers.spawn(async move {
                loop {
                    let begun = Instant::now();
                    if begun >= window.until {
                        break;
                    }
                    let outcome = charge_one(&members, fleet.routing, caller, &mut users).await;
                    acknowledged.fetch_add(outcome.items, Relaxed);
                    recorder.record(caller, begun, outcome);
                }
            });
        }
        // The CPU time of a killed process can't be read.
        let measured = if fleet.kills_one { &members[1..] } else { &members[..] };
        let servers = measured.iter().map(|member| member.pid).collect();
        let processes = Processes { servers, ..self.shared.clone() };
        let victim = fleet.kills_one.then(|| members[0].clone());
        let killing = async {
            if let Some(victim) = victim {
                sleep_until((window.from + (window.until - window.from) / 2).into()).await;
                victim.kill().await?;
            }
            anyhow::Ok(())
        };
        let (usage, killed) = tokio::join!(measure(&processes, window), killing);
        killed?;
        timeout(CALL_TIMEOUT * 2, callers.join_all()).await.context("callers did not end in time")?;
        let (made, acknowledged) = (self.charges().await? - before, acknowledged.load(Relaxed));
        ensure!(made == acknowledged, "{acknowledged} charges were acknowledged, and the database has {made}");
        let seconds = window.until.duration_since(window.from).as_secs_f64();
        Ok(Slice { seconds, tally: recorder.total()?, usage: usage?, due: 0, missed: 0 })
    }

    /// Starts the servers that do not run.
    async fn start(&self, count: usize) -> anyhow::Result<Vec<Arc<Member>>> {
        let mut members = self.members.lock().await;
        members.retain(|member| member.runs());
        while members.len() < count {
            let command = [env!("CARGO_BIN_EXE_server").as_ref(), "-conf".as_ref(), self.conf.as_os_str()];
            let (process, channels) = start_process(&command, true, None).await?;
            let (pid, is_up) = (process.pid(), AtomicBool::new(true));
            members.push(Arc::new(Member { process: Mutex::new(Some(process)), pid, channels, is_up }));
        }
        Ok(members[..count].to_vec())
    }

    async fn charges(&self) -> anyhow::Result<u64> {
        let mut connection = connect(&self.source).await?;
        let count = "SELECT COUNT(*) FROM billing_transaction";
        let charges: i64 = sqlx::query_scalar(count).fetch_one(&mut connection).await?;
        connection.close().await?;
        Ok(u64::try_from(charges)?)
    }
}

impl Member {
    fn runs(&self) -> bool {
        self.process.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    async fn kill(&self) -> anyhow::Result<()> {
        let process = self.process.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok(spawn_blocking(move || drop(process)).await?)
    }
}

/// Makes one charge for one of `users`.
async fn charge_one(members: &[Arc<Member>], routing: Routing, caller: usize, users: &mut Users) -> Outcome {
    let user = users.next();
    let first = match routing {
        Routing::Random => users.random(),
        Routing::Affine => u64::from(user),
    };
    let (mut at, request) = ((first % members.len() as u64) as usize, charge(user));
    let mut last = Status::unavailable("no server is up");
    for _ in 0..ATTEMPTS {
        let member = &members[at % members.len()];
        at += 1;
        if !member.is_up.load(Relaxed) {
            continue;
        }
        let channel = member.channels[caller % member.channels.len()].clone();
        match BillingInternalServiceClient::new(channel).deduct_quota(timed(request.clone())).await {
            Ok(reply) if reply.get_ref().success => return Outcome { items: 1, errors: Vec::new() },
            Ok(_) => return Outcome { items: 0, errors: vec!["no success".into()] },
            // An error without details does not come from the service: the connection failed.
            Err(status) if status.get_error_details().error_info().is_none() => {
                member.is_up.store(false, Relaxed);
                last = status;
            }
            Err(status) => {
                last = status;
                break;
            }
        }
    }
    Outcome { items: 0, errors: vec![describe(&last)] }
}
