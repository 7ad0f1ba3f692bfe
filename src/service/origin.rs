//! The origin of a request: client address, trace context, and whether a callback is trusted.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use http::{Extensions, HeaderMap};

use crate::biz::recharge::gateway::TraceContext;

/// The remote address of the connection. The transport adds it to each request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The caller of a request, and the role by which it was admitted. The transport adds it to each
/// request whose caller has proven itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub name: Arc<str>,
    pub role: &'static str,
}

/// The DNS and URI names of the client certificate of the connection, if TLS has verified one. The
/// transport adds it to each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    pub names: Arc<[String]>,
}

/// Whether a callback is trusted: it is signed, or `payment_service.callback_auth` is none. Without
/// trust, payment-service is asked. The transport adds the mark to each callback.
#[derive(Debug, Clone, Copy)]
pub struct TrustedCallback(pub bool);

/// The origin of a request.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The address in `X-Forwarded-For` or `X-Real-IP`, or else of the peer. A caller can forge the
    /// headers.
    pub client_ip: Option<IpAddr>,
    pub trace: TraceContext,
    pub is_trusted: bool,
}

impl Origin {
    pub fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
        // The first entry is the client, because each proxy appends the address of its own peer.
        let forwarded = text("x-forwarded-for").and_then(|list| list.split(',').next());
        let named = forwarded.or_else(|| text("x-real-ip")).and_then(|ip| ip.trim().parse().ok());
        let peer = extensions.get::<Peer>().map(|Peer(address)| address.ip().to_canonical());
        Self {
            client_ip: named.or(peer),
            trace: TraceContext {
                parent: text("traceparent").map(str::to_owned),
                state: text("tracestate").map(str::to_owned),
            },
            is_trusted: extensions.get::<TrustedCallback>().is_some_and(|TrustedCallback(is_trusted)| *is_trusted),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client_ip(headers: &[(&'static str, &'static str)]) -> String {
        let headers = headers.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect();
        let mut extensions = Extensions::new();
        extensions.insert(Peer("[::ffff:10.0.0.9]:4711".parse().unwrap()));
        Origin::of(&headers, &extensions).client_ip.unwrap().to_string()
    }

    #[test]
    fn the_client_is_the_first_forwarded_address_or_else_the_peer() {
        assert_eq!(client_ip(&[]), "10.0.0.9");
        assert_eq!(client_ip(&[("x-real-ip", "203.0.113.7")]), "203.0.113.7");
        assert_eq!(client_ip(&[("x-forwarded-for", "2001:db8::1, 10.0.0.1")]), "2001:db8::1");
        assert_eq!(client_ip(&[("x-forwarded-for", "unknown")]), "10.0.0.9");
    }

    #[test]
    fn a_callback_is_unproven_unless_the_transport_says_otherwise() {
        assert!(!Origin::of(&HeaderMap::new(), &Extensions::new()).is_trusted);
    }
}
