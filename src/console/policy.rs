//! The headers of every page: a browser loads nothing from elsewhere, executes nothing that stands in a page, shows
//! it in no frame and keeps no copy.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS},
};

const CONTENT: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self'; \
                       frame-ancestors 'none'; base-uri 'none'";

/// Adds the headers that a response lacks.
pub(super) fn protect(headers: &mut HeaderMap) {
    let opener = HeaderName::from_static("cross-origin-opener-policy");
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, CONTENT),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        // With no-referrer, browsers would send forms without their origin.
        (REFERRER_POLICY, "same-origin"),
        (opener, "same-origin"),
        (CACHE_CONTROL, "no-store"),
        (VARY, "accept-language, cookie"),
    ] {
        headers.entry(name).or_insert(HeaderValue::from_static(value));
    }
}
