//! Callers that go away: each drops its call at a random moment, and sometimes also cuts the
//! connection.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use billing_service::service::proto::{
    AdjustBalanceRequest, CheckQuotaRequest, DeductQuotaRequest, GetAccountRequest,
    billing_service_client::BillingServiceClient,
};
use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

use super::{
    caller::{Client, Dice},
    charge,
    load::credit,
    traced,
};

const CALLERS: usize = 10;
/// Most open calls of one caller.
const AT_ONCE: usize = 10;

/// Abandoned calls with an id, so that they can be sent again.
#[derive(Default)]
pub struct Abandoned {
    pub charges: Vec<DeductQuotaRequest>,
    pub credits: Vec<AdjustBalanceRequest>,
}

impl Abandoned {
    pub fn append(&mut self, more: Self) {
        self.charges.extend(more.charges);
        self.credits.extend(more.credits);
    }
}

/// Makes calls until `calls` of them were abandoned before their answer. Their ids begin with `prefix`.
pub async fn abandon_calls(prefix: &'static str, server: &str, calls: usize) -> Abandoned {
    let mut callers = JoinSet::new();
    for number in 0..CALLERS {
        let line = Line::to(server);
        let dice = Dice(number as u64);
        let (ended, abandoned) = Default::default();
        let caller = Abandoner { prefix, number, line, dice, sent: 0, ended, abandoned };
        callers.spawn(caller.call(server.to_owned(), calls / CALLERS));
    }
    let mut all = Abandoned::default();
    for abandoned in callers.join_all().await {
        all.append(abandoned);
    }
    all
}

/// A connection that can be cut, like by a failing network.
struct Line {
    channel: Channel,
    cut: CancellationToken,
}

impl Line {
    fn to(server: &str) -> Self {
        let (address, cut) = (server.trim_start_matches("http://").to_owned(), CancellationToken::new());
        let token = cut.clone();
        let connector = tower::service_fn(move |_: Uri| {
            let (address, cut) = (address.clone(), token.clone());
            async move {
                let mut wire = TcpStream::connect(address).await?;
                let (mut near, far) = tokio::io::duplex(64 * 1024);
                tokio::spawn(async move {
                    // The socket closes in both cases: at the end of the connection and at a cut.
                    let _ = cut.run_until_cancelled(tokio::io::copy_bidirectional(&mut near, &mut wire)).await;
                });
                Ok::<_, std::io::Error>(TokioIo::new(far))
            }
        });
        let endpoint = Channel::from_shared(server.to_owned()).unwrap();
        Self { channel: endpoint.connect_with_connector_lazy(connector), cut }
    }
}

struct Abandoner {
    prefix: &'static str,
    number: usize,
    line: Line,
    dice: Dice,
    sent: usize,
    /// Number of sent calls that got their answer.
    ended: Arc<AtomicUsize>,
    abandoned: Abandoned,
}

impl Abandoner {
    async fn call(mut self, server: String, calls: usize) -> Abandoned {
        while self.sent - self.ended.load(Relaxed) < calls {
            let at_once = 1 + self.dice.below(AT_ONCE);
            let mut calls = Vec::new();
            for _ in 0..at_once {
                let (call, ended) = (self.next_call(), self.ended.clone());
                let mut call = call.map(move |()| ended.fetch_add(1, Relaxed)).map(drop).boxed();
                let mut dice = Dice(self.dice.below(usize::MAX) as u64);
                calls.push(async move { wait_a_little(&mut call, &mut dice).await });
            }
            let mut calls = join_all(calls).map(drop).boxed();
            if self.dice.below(20) == 0 {
                wait_a_little(&mut calls, &mut self.dice).await;
                self.line.cut.cancel();
                tokio::task::yield_now().await;
                self.line = Line::to(&server);
            } else {
                calls.await;
            }
        }
        self.abandoned
    }

    fn next_call(&mut self) -> BoxFuture<'static, ()> {
        self.sent += 1;
        let id = format!("{}-{}-{}", self.prefix, self.number, self.sent);
        // Some users are new, so that calls that open accounts are abandoned too.
        let user = if self.dice.below(8) == 0 { format!("new-{id}") } else { format!("u{}", self.dice.below(20)) };
        let service = ["passport", "payment", "asset"][self.dice.below(3)];
        let count = 1 + self.dice.below(50) as i32;
        let mut internal = Client::new(self.line.channel.clone());
        let mut public = BillingServiceClient::new(self.line.channel.clone());
        match self.dice.below(10) {
            0..=5 => {
                let request = traced(&id, charge(&user, service, count));
                self.abandoned.charges.push(request.clone());
                async move { drop(internal.deduct_quota(request).await) }.boxed()
            }
            6 | 7 => {
                let request = AdjustBalanceRequest { adjustment_id: id, ..credit(&user, 3.5) };
                self.abandoned.credits.push(request.clone());
                async move { drop(internal.adjust_balance(request).await) }.boxed()
            }
            8 => {
                let (user_id, service_name) = (user, service.to_owned());
                let request = CheckQuotaRequest { user_id, service_name, count, ..Default::default() };
                async move { drop(internal.check_quota(request).await) }.boxed()
            }
            _ => async move { drop(public.get_account(GetAccountRequest { user_id: user }).await) }.boxed(),
        }
    }
}

/// Polls the call a few times, or many times, or for some milliseconds. The caller then drops it, mostly
/// before its end.
async fn wait_a_little(call: &mut BoxFuture<'static, ()>, dice: &mut Dice) {
    let polls = match dice.below(3) {
        0 => dice.below(4),
        1 => dice.below(100),
        _ => {
            let _ = tokio::time::timeout(Duration::from_millis(dice.below(15) as u64), call).await;
            return;
        }
    };
    for _ in 0..polls {
        if futures_util::poll!(call.as_mut()).is_ready() {
            return;
        }
        tokio::task::yield_now().await;
    }
}
