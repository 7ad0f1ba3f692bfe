//! The origin of a request: its caller, its account, the client address, the trace context, and
//! whether a callback is trusted.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use http::{Extensions, HeaderMap, HeaderName};
use ipnet::IpNet;

use super::request::RequestId;
use crate::{
    biz::{
        audit_trail::Actor,
        recharge::gateway::CallerContext,
        values::error::{Error, Result},
    },
    context::{TRACEPARENT, TRACESTATE},
};

/// The remote address of the connection. The transport adds it to each request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// The caller of a request, and the role by which it was admitted. The transport adds it to each
/// request whose caller has proven itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub name: Arc<str>,
    pub role: &'static str,
    /// Whether it has the role admin, beside the one by which it was admitted.
    pub is_admin: bool,
}

/// The DNS and URI names of the client certificate of the connection, if TLS has verified one. The
/// transport adds it to each request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    pub names: Arc<[String]>,
}

/// The account of a front end's request. The transport adds it to each request whose user has
/// proven itself.
#[derive(Debug, Clone)]
pub struct Account {
    pub user: String,
    /// Whether the user may read any account.
    pub reads_any: bool,
    /// Whether the proof allows reads alone.
    pub is_read_only: bool,
    /// Whether a gateway names the user. Then the peer is the gateway.
    pub is_named_by_gateway: bool,
}

impl Account {
    /// The user of a message that names `named`, or no user.
    ///
    /// # Errors
    /// [`Error::PermissionDenied`] if the message names another account.
    pub fn user<'a>(&'a self, named: Option<&'a str>) -> Result<&'a str> {
        match named.filter(|named| !named.is_empty()) {
            None => Ok(&self.user),
            Some(named) if self.reads_any || named == self.user => Ok(named),
            Some(_) => Err(Error::PermissionDenied("user_id: is not the account of the token".into())),
        }
    }
}

/// The proxies whose headers name the client.
#[derive(Debug, Clone, Default)]
pub struct Forwarding {
    trusted: Arc<[IpNet]>,
}

impl Forwarding {
    pub fn new(trusted: &[IpNet]) -> Self {
        Self { trusted: trusted.into() }
    }

    /// The address of the client. Each proxy appends the address of its own peer to
    /// `X-Forwarded-For`, so the client is the last entry that is no trusted proxy. Headers of a peer
    /// that is no trusted proxy are ignored, because anyone can send them.
    pub fn client_ip(&self, headers: &HeaderMap, extensions: &Extensions) -> Option<IpAddr> {
        let peer = extensions.get::<Peer>().map(|Peer(address)| address.ip().to_canonical())?;
        if !self.is_trusted(peer) {
            return Some(peer);
        }
        let lines = headers.get_all("x-forwarded-for").iter().rev();
        let entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
        let address_of = |entry: &[u8]| str::from_utf8(entry).ok()?.parse::<IpAddr>().ok();
        let mut client = peer;
        for entry in entries.filter(|entry| !entry.is_empty()) {
            // Entries before one that is no address can't be trusted either.
            let Some(address) = address_of(entry) else { return Some(client) };
            client = address.to_canonical();
            if !self.is_trusted(client) {
                return Some(client);
            }
        }
        let real = || address_of(headers.get("x-real-ip")?.as_bytes().trim_ascii());
        let real = real().filter(|_| !headers.contains_key("x-forwarded-for"));
        Some(real.map_or(client, |real| real.to_canonical()))
    }

    /// Whether an address is that of a trusted proxy.
    pub fn is_trusted(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.trusted.iter().any(|network| network.contains(&address))
    }
}

/// The address for bounds of one customer, who has a whole /64 network of IPv6.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => v4.into(),
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
    }
}

/// The actor of a request, for the audit trail. Without a proven caller it is anonymous.
pub fn actor(extensions: &Extensions) -> Actor {
    let request_id = RequestId::beside(extensions);
    let (name, role) = match extensions.get::<Caller>() {
        Some(caller) => (&*caller.name, caller.role),
        None => ("anonymous", "none"),
    };
    Actor::new(name, role, request_id.as_str())
}

/// Whether a callback is trusted: it is signed, or `payment_service.callback_auth` is none. Without
/// trust, payment-service is asked. The transport adds the mark to each callback.
#[derive(Debug, Clone, Copy)]
pub struct TrustedCallback(pub bool);

/// The names of the headers, or gRPC metadata, of a request that go on to payment-service. The
/// transport adds them to each request that asks payment-service.
#[derive(Debug, Clone, Default)]
pub struct ForwardedNames(pub Arc<[HeaderName]>);

impl ForwardedNames {
    /// The first value of each name that `headers` have as text.
    fn values(&self, headers: &HeaderMap) -> Vec<(String, String)> {
        let value = |name: &HeaderName| Some((name.to_string(), headers.get(name)?.to_str().ok()?.to_owned()));
        self.0.iter().filter_map(value).collect()
    }
}

/// The origin of a request.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The address of the client, by [`Forwarding`].
    pub client_ip: Option<IpAddr>,
    /// The same, unless it is the address of a caller or a gateway that acts for many users.
    pub counted_ip: Option<IpAddr>,
    pub trace: CallerContext,
    pub is_trusted: bool,
    /// The address to which a payer returns, without the id of the order behind it; `None` for the configured one.
    pub return_to: Option<String>,
}

impl Origin {
    pub fn of(headers: &HeaderMap, extensions: &Extensions) -> Self {
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let client_ip = extensions.get::<Forwarding>().cloned().unwrap_or_default().client_ip(headers, extensions);
        let acts_for_many = extensions.get::<Caller>().is_some()
            || extensions.get::<Account>().is_some_and(|account| account.is_named_by_gateway);
        let peer = extensions.get::<Peer>().map(|Peer(address)| address.ip().to_canonical());
        Self {
            client_ip,
            counted_ip: client_ip.filter(|address| !acts_for_many || Some(*address) != peer),
            trace: CallerContext {
                parent: text(&TRACEPARENT).map(str::to_owned),
                state: text(&TRACESTATE).map(str::to_owned),
                forwarded: extensions.get::<ForwardedNames>().map(|names| names.values(headers)).unwrap_or_default(),
            },
            is_trusted: extensions.get::<TrustedCallback>().is_some_and(|TrustedCallback(is_trusted)| *is_trusted),
            return_to: None,
        }
    }

    /// The origin of a callback. Anyone can send one without a proof, and must not choose the metadata of
    /// the question that confirms it.
    pub fn of_callback(mut self) -> Self {
        if !self.is_trusted {
            self.trace.forwarded.clear();
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn client_ip(trusted: &[&str], headers: &[(&'static str, &'static str)]) -> String {
        let trusted: Vec<IpNet> = trusted.iter().map(|network| network.parse().unwrap()).collect();
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let mut extensions = Extensions::new();
        extensions.insert(Peer("[::ffff:10.0.0.9]:4711".parse().unwrap()));
        Forwarding::new(&trusted).client_ip(&map, &extensions).unwrap().to_string()
    }

    #[test]
    fn headers_of_an_unknown_peer_name_nobody() {
        for headers in [&[][..], &[("x-forwarded-for", "203.0.113.7")], &[("x-real-ip", "203.0.113.7")]] {
            assert_eq!(client_ip(&[], headers), "10.0.0.9");
            assert_eq!(client_ip(&["10.0.1.0/24"], headers), "10.0.0.9");
        }
    }

    #[test]
    fn the_client_is_the_last_address_that_is_no_trusted_proxy() {
        let client_ip = |headers| client_ip(&["10.0.0.0/8", "2001:db8:1::/48"], headers);
        assert_eq!(client_ip(&[]), "10.0.0.9");
        assert_eq!(client_ip(&[("x-real-ip", "203.0.113.7")]), "203.0.113.7");
        assert_eq!(client_ip(&[("x-forwarded-for", "203.0.113.7")]), "203.0.113.7");
        assert_eq!(client_ip(&[("x-forwarded-for", "192.0.2.66, 203.0.113.7, 10.0.0.1")]), "203.0.113.7");
        assert_eq!(client_ip(&[("x-forwarded-for", "192.0.2.66"), ("x-forwarded-for", "203.0.113.7")]), "203.0.113.7");
        assert_eq!(client_ip(&[("x-forwarded-for", "2001:db8:2::7, 2001:db8:1::1")]), "2001:db8:2::7");
        assert_eq!(client_ip(&[("x-forwarded-for", "203.0.113.7, unknown, 10.0.0.1")]), "10.0.0.1");
        assert_eq!(client_ip(&[("x-forwarded-for", "10.0.0.2, 10.0.0.1")]), "10.0.0.2");
        assert_eq!(client_ip(&[("x-forwarded-for", "ÿ"), ("x-real-ip", "192.0.2.66")]), "10.0.0.9");
        assert_eq!(client_ip(&[("x-forwarded-for", "10.0.0.2"), ("x-real-ip", "203.0.113.7")]), "10.0.0.2");
    }

    #[test]
    fn a_user_names_its_own_account_or_none() {
        let own = |named: Option<&'static str>, reads_any| {
            let account =
                Account { user: "alice".into(), reads_any, is_read_only: reads_any, is_named_by_gateway: false };
            account.user(named).map(str::to_owned).ok()
        };
        assert_eq!(own(None, false).as_deref(), Some("alice"));
        assert_eq!(own(Some(""), false).as_deref(), Some("alice"));
        assert_eq!(own(Some("alice"), false).as_deref(), Some("alice"));
        assert_eq!(own(Some("bob"), false), None);
        assert_eq!(own(Some("bob"), true).as_deref(), Some("bob"));
        assert_eq!(own(None, true).as_deref(), Some("alice"));
    }

    #[test]
    fn a_caller_that_has_not_proven_itself_is_anonymous() {
        let mut extensions = Extensions::new();
        let name_and_role = |extensions: &Extensions| {
            let actor = actor(extensions);
            (actor.caller.to_string(), actor.role.to_string())
        };
        assert_eq!(name_and_role(&extensions), ("anonymous".into(), "none".into()));
        extensions.insert(Caller { name: "edge".into(), role: "gateway", is_admin: false });
        assert_eq!(name_and_role(&extensions), ("edge".into(), "gateway".into()));
    }

    #[test]
    fn only_configured_headers_are_passed_on() {
        let headers: HeaderMap = [("x-app-id", "app-1"), ("authorization", "Bearer t"), ("x-tenant", "t\u{e9}")]
            .into_iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap()))
            .collect();
        let mut extensions = Extensions::new();
        assert_eq!(Origin::of(&headers, &extensions).trace.forwarded, []);
        let names = ["x-app-id", "x-tenant", "x-absent"].map(HeaderName::from_static);
        extensions.insert(ForwardedNames(names.into()));
        // A value that is no text is left out.
        assert_eq!(Origin::of(&headers, &extensions).trace.forwarded, [("x-app-id".into(), "app-1".into())]);
    }

    #[test]
    fn a_callback_without_a_proof_chooses_no_metadata() {
        let mut headers = HeaderMap::new();
        headers.insert("x-app-id", HeaderValue::from_static("app-1"));
        headers.insert("traceparent", HeaderValue::from_static("00-1-2-01"));
        let mut extensions = Extensions::new();
        extensions.insert(ForwardedNames([HeaderName::from_static("x-app-id")].into()));
        let trace = Origin::of(&headers, &extensions).of_callback().trace;
        assert_eq!((trace.forwarded, trace.parent.as_deref()), (vec![], Some("00-1-2-01")));
        extensions.insert(TrustedCallback(true));
        assert_eq!(Origin::of(&headers, &extensions).of_callback().trace.forwarded.len(), 1);
    }

    #[test]
    fn the_address_of_a_caller_or_a_gateway_is_not_that_of_a_user() {
        let (mut headers, mut extensions) = (HeaderMap::new(), Extensions::new());
        extensions.insert(Peer("10.0.0.9:4711".parse().unwrap()));
        let account = |is_named_by_gateway| Account {
            user: "u".into(),
            reads_any: false,
            is_read_only: false,
            is_named_by_gateway,
        };
        let counted = |headers: &HeaderMap, extensions: &Extensions| {
            Origin::of(headers, extensions).counted_ip.map(|address| address.to_string())
        };
        extensions.insert(account(false));
        assert_eq!(counted(&headers, &extensions).as_deref(), Some("10.0.0.9"));
        extensions.insert(account(true));
        assert_eq!(counted(&headers, &extensions), None);
        // A gateway that is a trusted proxy names the address of the user.
        headers.insert("x-forwarded-for", "203.0.113.7".parse().unwrap());
        extensions.insert(Forwarding::new(&["10.0.0.0/8".parse().unwrap()]));
        assert_eq!(counted(&headers, &extensions).as_deref(), Some("203.0.113.7"));
        extensions.insert(Forwarding::default());
        extensions.remove::<Account>();
        extensions.insert(Caller { name: "edge".into(), role: "gateway", is_admin: false });
        assert_eq!(counted(&headers, &extensions), None);
    }

    #[test]
    fn a_callback_is_unproven_unless_the_transport_says_otherwise() {
        assert!(!Origin::of(&HeaderMap::new(), &Extensions::new()).is_trusted);
    }
}
