//! Sends events to receivers over HTTP/1.1, by the Standard Webhooks specification.

use std::{error::Error, io, time::Duration};

use async_trait::async_trait;
use reqwest::{Certificate, Client, Response, header::CONTENT_TYPE, redirect, retry};
use tokio::time::timeout;
use url::Url;

use super::resolver::{AddressRefused, Resolver};
use crate::{
    biz::webhooks::delivery::{Failure, MAX_ANSWER, Outcome, Post, SEND_TIMEOUT, Sender},
    data::tls::ClientTls,
};

/// Most connections to a host that stay open between deliveries. Many webhooks may have the same host.
const IDLE_CONNECTIONS: usize = 256;
/// The time for which they stay open.
const IDLE_FOR: Duration = Duration::from_secs(30);
/// Longest read of the body of an answer.
const BODY_TIMEOUT: Duration = Duration::from_secs(1);
/// The name of this service for receivers.
const USER_AGENT: &str = concat!("billing-service/", env!("CARGO_PKG_VERSION"));

/// Sends over HTTP.
pub struct HttpSender {
    client: Client,
    resolver: Resolver,
}

impl HttpSender {
    /// A sender that trusts the authorities of the system, or only those of `tls`.
    ///
    /// # Errors
    /// The client can't be built, for example of an unusable certificate.
    pub fn new(resolver: Resolver, tls: Option<&ClientTls>) -> reqwest::Result<Self> {
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            .http1_only()
            .redirect(redirect::Policy::none())
            // A proxy would resolve the host again.
            .no_proxy()
            .retry(retry::never())
            .tcp_nodelay(true)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .pool_idle_timeout(IDLE_FOR)
            .dns_resolver(resolver.clone());
        if let Some(tls) = tls {
            client = client.tls_certs_only(Certificate::from_pem_bundle(&tls.authorities)?);
        }
        Ok(Self { client: client.build()?, resolver })
    }

    async fn post(&self, post: Post) -> Outcome {
        let host = Url::parse(post.url.as_str()).ok().and_then(|url| url.host_str().map(str::to_owned));
        let Some(host) = host else { return Outcome::failed(Failure::Connect) };
        // The connector checks the address of a new connection. One that is still open has an address that was allowed
        // when it was opened; the name is checked all the same.
        match timeout(SEND_TIMEOUT, self.resolver.addresses(&host)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) if failure_of(&error) == Failure::Address => return Outcome::failed(Failure::Address),
            Ok(Err(_)) => return Outcome::failed(Failure::Connect),
            Err(_) => return Outcome::failed(Failure::Timeout),
        }
        let mut request = self
            .client
            .post(post.url.as_str())
            .timeout(SEND_TIMEOUT)
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", post.id.to_string())
            .header("webhook-timestamp", post.at.timestamp())
            .header("webhook-signature", &post.signature)
            .body(post.body);
        if let Some(traceparent) = &post.traceparent {
            request = request.header("traceparent", traceparent);
        }
        match request.send().await {
            Ok(answer) => {
                let outcome = Outcome::of_status(answer.status().as_u16());
                // The status decides. The body is read only so that the connection can be used again.
                let _ = timeout(BODY_TIMEOUT, drop_body(answer)).await;
                outcome
            }
            Err(error) => Outcome::failed(failure_of(&error)),
        }
    }
}

#[async_trait]
impl Sender for HttpSender {
    async fn send(&self, post: Post) -> Outcome {
        // A body that comes slowly takes nothing away from the time of the answer.
        let limit = SEND_TIMEOUT + BODY_TIMEOUT;
        timeout(limit, self.post(post)).await.unwrap_or(Outcome::failed(Failure::Timeout))
    }
}

/// Reads the body to its end, up to [`MAX_ANSWER`], and drops it. A connection with a longer one is closed.
async fn drop_body(mut answer: Response) {
    let mut read = 0;
    while let Ok(Some(chunk)) = answer.chunk().await {
        read += chunk.len();
        if read > MAX_ANSWER {
            return;
        }
    }
}

/// The reason behind an error of the client.
fn failure_of(error: &(dyn Error + 'static)) -> Failure {
    let mut next = Some(error);
    let mut failure = Failure::Closed;
    // Ends: each error has fewer errors behind it.
    while let Some(error) = next {
        if error.is::<AddressRefused>() {
            return Failure::Address;
        }
        if error.is::<rustls::Error>() {
            return Failure::Tls;
        }
        if let Some(error) = error.downcast_ref::<reqwest::Error>() {
            failure = match () {
                () if error.is_timeout() => Failure::Timeout,
                () if error.is_connect() => Failure::Connect,
                () => failure,
            };
        }
        // An error of the system hides its cause behind its own text.
        let hidden = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = hidden.map(|hidden| hidden as &(dyn Error + 'static)).or_else(|| error.source());
    }
    failure
}
