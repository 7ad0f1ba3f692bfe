//! The base URL of pay pages for users' browsers.

use std::{fmt, net::SocketAddr, str::FromStr};

use http::Uri;

use crate::{biz::values::invalid::Invalid, server};

/// `http` or `https`, an authority, and an optional path, without a slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PublicUrl(String);

impl PublicUrl {
    /// The URL of a listener for a browser on this machine.
    pub fn local(listener: SocketAddr) -> Self {
        Self(format!("http://{}", server::reachable(listener)))
    }
}

impl FromStr for PublicUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let invalid = || Invalid::new("public_url", "must be http(s)://HOST[:PORT][/PATH]");
        let uri: Uri = text.parse().map_err(|_| invalid())?;
        let is_web = matches!(uri.scheme_str(), Some("http" | "https"));
        let has_host = uri.host().is_some_and(|host| !host.is_empty());
        // The path of a page is appended, so the base can't have a query or a fragment.
        if is_web && has_host && !text.contains(['?', '#']) {
            Ok(Self(text.trim_end_matches('/').to_owned()))
        } else {
            Err(invalid())
        }
    }
}

impl fmt::Display for PublicUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_url_is_http_or_https() {
        for (good, base) in [
            ("http://pay.example", "http://pay.example"),
            ("https://pay.example/", "https://pay.example"),
            ("HTTPS://pay.example:8443/sandbox//", "HTTPS://pay.example:8443/sandbox"),
            ("http://[::1]:9101", "http://[::1]:9101"),
        ] {
            assert_eq!(good.parse::<PublicUrl>().unwrap().to_string(), base);
        }
        for bad in [
            "",
            "http",
            "http:",
            "http://",
            "https:///",
            "http:///path",
            "http://:80",
            "pay.example",
            "pay.example:80",
            "//pay.example",
            "/sandbox",
            "ftp://pay.example",
            "javascript:alert(1)//",
            "http://pay.example/a b",
            "http://pay.example/?a=b",
            "http://pay.example/#a",
        ] {
            assert_eq!(bad.parse::<PublicUrl>().unwrap_err().field, "public_url", "{bad}");
        }
    }

    #[test]
    fn the_default_public_url_is_the_listener_on_this_machine() {
        for (listens, base) in [("10.1.2.3:80", "http://10.1.2.3:80"), ("[::]:9101", "http://[::1]:9101")] {
            assert_eq!(PublicUrl::local(listens.parse().unwrap()).to_string(), base);
        }
    }
}
