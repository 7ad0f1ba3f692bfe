//! Sends events to receivers over HTTP/1.1, by the Standard Webhooks specification.

use std::{error::Error, io, time::Duration};

use async_trait::async_trait;
use reqwest::{Certificate, Client, Response, header::CONTENT_TYPE, redirect, retry};
use tokio::time::timeout;
use url::Url;

use super::resolver::{AddressRefused, Resolver};
use crate::{
    biz::webhooks::delivery::{Failure, MAX_ANSWER, Outcome, Post, SEND_TIMEOUT, Sender, TraceContext},
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
    needs_tls: bool,
}

impl HttpSender {
    /// A sender that trusts the authorities of the system, or only those of `tls`. With `needs_tls` it sends to no URL
    /// without TLS.
    ///
    /// # Errors
    /// The client can't be built, for example of an unusable certificate.
    pub fn new(resolver: Resolver, tls: Option<&ClientTls>, needs_tls: bool) -> reqwest::Result<Self> {
        let mut client = Client::builder()
            .user_agent(USER_AGENT)
            .http1_only()
            .https_only(needs_tls)
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
        Ok(Self { client: client.build()?, resolver, needs_tls })
    }

    /// Sends, and waits for the status of the answer.
    async fn post(&self, post: Post) -> Result<Response, Failure> {
        let url = Url::parse(post.url.as_str()).map_err(|_| Failure::Connect)?;
        if self.needs_tls && url.scheme() != "https" {
            return Err(Failure::Plain);
        }
        let host = url.host_str().ok_or(Failure::Connect)?;
        // A new connection goes to an address of this check. One that is still open has an address that was allowed
        // when it was opened; the name is checked all the same.
        self.resolver.check(host).await.map_err(|error| match failure_of(&error) {
            Failure::Address => Failure::Address,
            _ => Failure::Connect,
        })?;
        let mut request = self
            .client
            .post(post.url.as_str())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", post.id.to_string())
            .header("webhook-timestamp", post.at.timestamp())
            .header("webhook-signature", &post.signature)
            .body(post.body);
        if let Some(TraceContext { parent, state }) = &post.trace {
            request = request.header("traceparent", parent);
            if let Some(state) = state {
                request = request.header("tracestate", state);
            }
        }
        request.send().await.map_err(|error| failure_of(&error))
    }
}

#[async_trait]
impl Sender for HttpSender {
    async fn send(&self, post: Post) -> Outcome {
        match timeout(SEND_TIMEOUT, self.post(post)).await {
            Ok(Ok(answer)) => {
                let outcome = Outcome::of_status(answer.status().as_u16());
                // The status has decided. The body is read only so that the connection can be used again.
                let _ = timeout(BODY_TIMEOUT, drop_body(answer)).await;
                outcome
            }
            Ok(Err(failure)) => Outcome::failed(failure),
            Err(_) => Outcome::failed(Failure::Timeout),
        }
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

#[cfg(test)]
mod tests {
    use std::{
        net::{IpAddr, TcpListener},
        sync::{Arc, Mutex},
    };

    use chrono::Utc;
    use tokio::time::{Instant, sleep};
    use uuid::Uuid;

    use super::*;
    use crate::{biz::webhooks::url::WebhookUrl, data::webhooks::resolver::Lookup};

    /// Resolves slowly, and counts.
    struct Slow(Duration, Mutex<u32>);

    #[async_trait]
    impl Lookup for Slow {
        async fn addresses(&self, _: &str) -> io::Result<Vec<IpAddr>> {
            *self.1.lock().unwrap() += 1;
            sleep(self.0).await;
            Ok(vec![[127, 0, 0, 1].into()])
        }
    }

    fn sender(lookup: Arc<Slow>, needs_tls: bool) -> HttpSender {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        HttpSender::new(Resolver::of(lookup, |_| true), None, needs_tls).unwrap()
    }

    fn post(url: String) -> Post {
        Post {
            url: WebhookUrl::from_stored(url),
            id: Uuid::nil(),
            at: Utc::now(),
            signature: "v1,a".into(),
            body: "{}".into(),
            trace: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn lookup_and_answer_share_one_time_limit() {
        // It takes connections, and never answers.
        let silent = TcpListener::bind("127.0.0.1:0").unwrap();
        let lookup = Arc::new(Slow(SEND_TIMEOUT * 6 / 10, Mutex::default()));
        let began = Instant::now();
        let url = format!("http://a.example:{}/", silent.local_addr().unwrap().port());
        assert_eq!(sender(lookup, false).send(post(url)).await, Outcome::failed(Failure::Timeout));
        let took = began.elapsed();
        assert!(took < SEND_TIMEOUT + Duration::from_secs(1), "{took:?} of the paused clock");
    }

    #[tokio::test]
    async fn a_stored_url_without_tls_is_not_sent_to() {
        let lookup = Arc::new(Slow(Duration::ZERO, Mutex::default()));
        let outcome = sender(lookup.clone(), true).send(post("http://a.example/".into())).await;
        assert_eq!(outcome, Outcome::failed(Failure::Plain));
        assert_eq!(*lookup.1.lock().unwrap(), 0);
    }

    #[tokio::test]
    async fn a_delivery_looks_its_host_up_once() {
        // Nobody listens at a port that was free a moment ago.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let lookup = Arc::new(Slow(Duration::ZERO, Mutex::default()));
        let outcome = sender(lookup.clone(), false).send(post(format!("http://a.example:{port}/"))).await;
        assert_eq!(outcome, Outcome::failed(Failure::Connect));
        assert_eq!(*lookup.1.lock().unwrap(), 1);
    }
}
