//! The URL of a webhook.

use std::{fmt, net::IpAddr, sync::Arc};

use url::{Host, Url};

use super::address::is_public;
use crate::biz::values::invalid::Invalid;

/// A URL to which events are sent. Its path may have a secret of the receiver, so logs do not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl(Arc<str>);

impl WebhookUrl {
    /// Longest URL in bytes, in its normal form.
    pub const MAX_LEN: usize = 2_048;

    /// Checks a URL. With `is_private_allowed` it may lead to a private address, and may do without TLS. A name
    /// is resolved and checked at each delivery.
    ///
    /// # Errors
    /// [`Invalid`] names the field `url`, and never shows the URL.
    pub fn parse(text: &str, is_private_allowed: bool) -> Result<Self, Invalid> {
        let bad = |why: &str| Err(Invalid::new("url", why));
        if text.is_empty() {
            return bad("is required");
        }
        if text.len() > Self::MAX_LEN {
            return bad("must be at most 2048 characters");
        }
        let Ok(url) = Url::parse(text) else { return bad("must be a URL such as https://example.com/events") };
        match url.scheme() {
            "https" => {}
            "http" if is_private_allowed => {}
            "http" => return bad("must begin with https, unless billing.webhooks.allow_private is true"),
            _ => return bad("must begin with https"),
        }
        if !url.username().is_empty() || url.password().is_some() {
            return bad("must have no user and no password");
        }
        if url.fragment().is_some() {
            return bad("must have no fragment");
        }
        let literal = match url.host() {
            Some(Host::Domain(_)) => None,
            Some(Host::Ipv4(address)) => Some(IpAddr::V4(address)),
            Some(Host::Ipv6(address)) => Some(IpAddr::V6(address)),
            None => return bad("must have a host"),
        };
        if literal.is_some_and(|address| !is_private_allowed && !is_public(address)) {
            return bad("leads to an address that is not public, which needs billing.webhooks.allow_private: true");
        }
        if url.port() == Some(0) || url.as_str().len() > Self::MAX_LEN {
            return bad("must have a port above 0 and at most 2048 characters");
        }
        Ok(Self(url.as_str().into()))
    }

    /// A stored URL, which was checked before it was stored.
    pub fn from_stored(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Scheme, host and port: the part without a secret.
    pub fn origin(&self) -> String {
        Url::parse(&self.0).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_shown_without_its_path() {
        let url = |text: &str| WebhookUrl::from_stored(text);
        assert_eq!(url("https://a.example:8443/secret?token=secret").origin(), "https://a.example:8443");
        assert_eq!(url("https://a.example/").origin(), "https://a.example");
    }

    #[test]
    fn a_url_leads_to_the_public_internet_over_tls_unless_private_ones_are_allowed() {
        let parse = |text: &str, allowed| WebhookUrl::parse(text, allowed).map(|url| url.as_str().to_owned());
        assert_eq!(parse("https://Example.com", false).unwrap(), "https://example.com/");
        assert_eq!(parse("https://8.8.8.8:8443/a?b=c", false).unwrap(), "https://8.8.8.8:8443/a?b=c");
        for private in
            ["http://example.com/", "https://127.0.0.1/", "https://[::1]/", "https://2130706433/", "https://0x7f.1/"]
        {
            assert_eq!(parse(private, false).unwrap_err().field, "url", "{private}");
            assert!(parse(private, true).is_ok(), "{private}");
        }
        let long = format!("https://example.com/{}", "a".repeat(2_048));
        for bad in
            ["", "x", "ftp://a/", "https://u@a/", "https://u:p@a/", "https://a/#b", "https:///", "https://a:0/", &long]
        {
            assert_eq!(parse(bad, true).unwrap_err().field, "url", "{bad}");
        }
        assert_eq!(format!("{:?}", WebhookUrl::from_stored("https://a/secret")), "***");
    }
}
