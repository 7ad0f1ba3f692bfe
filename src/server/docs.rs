//! `/openapi.json` and `/docs`: the API of a port, for programs and for readers. Both are made at the first request,
//! once, also in their compressed form.

use std::{io::Write as _, sync::Arc};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use flate2::{Compression, write::GzEncoder};
use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, VARY,
        X_CONTENT_TYPE_OPTIONS,
    },
};
use tokio::{sync::OnceCell, task::spawn_blocking};

use super::{
    openapi::{self, Port},
    refusal::Refusal,
};
use crate::biz::values::error::{Error, Result};

/// The document and the page of one port.
struct Docs {
    port: Port,
    files: OnceCell<Files>,
}

struct Files {
    document: File,
    page: File,
}

/// A file that never changes while the server runs.
struct File {
    headers: HeaderMap,
    plain: Bytes,
    gzip: Bytes,
}

/// The routes of a port.
pub fn routes(port: Port) -> Router {
    let docs = Arc::new(Docs { port, files: OnceCell::new() });
    Router::new()
        .route("/openapi.json", get(async |State(docs): State<Arc<Docs>>, request| docs.answer(request, false).await))
        .route("/docs", get(async |State(docs): State<Arc<Docs>>, request| docs.answer(request, true).await))
        .with_state(docs)
}

impl Docs {
    async fn answer(self: &Arc<Self>, request: Request, is_page: bool) -> Response {
        match self.files().await {
            Ok(Files { page, .. }) if is_page => page.answer(request.headers()),
            Ok(Files { document, .. }) => document.answer(request.headers()),
            Err(error) => Refusal::of(&request, self.port.style()).answer(&error),
        }
    }

    /// # Errors
    /// [`Error::Internal`] for a defect.
    async fn files(self: &Arc<Self>) -> Result<&Files> {
        if let Some(files) = self.files.get() {
            return Ok(files);
        }
        let failed = |error| Error::Internal(format!("the OpenAPI document was not made: {error:#}"));
        let docs = self.clone();
        let make = async move {
            let port = docs.port.clone();
            docs.files.get_or_try_init(async || spawn_blocking(move || Files::of(&port)).await?).await.map(|_| ())
        };
        // In a task of its own, so that the deadline of a request does not end the work for all others.
        tokio::spawn(make).await.map_err(|error| failed(error.into()))?.map_err(failed)?;
        self.files.get().ok_or_else(|| Error::Internal("the OpenAPI document is missing".into()))
    }
}

impl Files {
    fn of(port: &Port) -> anyhow::Result<Self> {
        let document = openapi::document(port)?;
        let page = openapi::page(&document).into_bytes();
        let policy = HeaderValue::from_str(&openapi::CONTENT_SECURITY_POLICY)?;
        Ok(Self {
            document: File::new(serde_json::to_vec(&document)?, "application/json", None)?,
            page: File::new(page, "text/html; charset=utf-8", Some(policy))?,
        })
    }
}

impl File {
    fn new(content: Vec<u8>, media_type: &'static str, policy: Option<HeaderValue>) -> anyhow::Result<Self> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(&content)?;
        let fixed: [(HeaderName, &str); 5] = [
            (CONTENT_TYPE, media_type),
            (CACHE_CONTROL, "no-cache"),
            (VARY, "accept-encoding"),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
        ];
        let fixed = fixed.into_iter().map(|(name, value)| (name, HeaderValue::from_static(value)));
        let headers = fixed.chain(policy.map(|policy| (CONTENT_SECURITY_POLICY, policy))).collect();
        Ok(Self { headers, plain: content.into(), gzip: encoder.finish()?.into() })
    }

    fn answer(&self, request: &HeaderMap) -> Response {
        let mut headers = self.headers.clone();
        if !takes_gzip(request) {
            return (headers, self.plain.clone()).into_response();
        }
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
        (headers, self.gzip.clone()).into_response()
    }
}

/// Whether a reader names gzip. One that gives it the weight 0 gets the plain form.
fn takes_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|coding| {
        let mut parts = coding.split(';').map(str::trim);
        let is_gzip = parts.next().is_some_and(|name| name.eq_ignore_ascii_case("gzip"));
        let is_refused = parts.any(|part| part.strip_prefix("q=").is_some_and(|weight| weight.parse() == Ok(0.0_f32)));
        is_gzip && !is_refused
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gzip_goes_to_readers_that_name_it() {
        let takes = |value| takes_gzip(&[(ACCEPT_ENCODING, HeaderValue::from_static(value))].into_iter().collect());
        for yes in ["gzip", "deflate, gzip;q=0.5", "GZIP", "br, gzip"] {
            assert!(takes(yes), "{yes}");
        }
        for no in ["", "br", "gzip;q=0", "gzip;q=0.000, br", "identity"] {
            assert!(!takes(no), "{no}");
        }
    }
}
