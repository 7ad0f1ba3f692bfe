//! The style, the script and the icon, embedded. The address of a file has a hash of its content, so browsers keep
//! the file for ever.

use std::sync::LazyLock;

use axum::{
    extract::Path,
    response::{IntoResponse, Response},
};
use http::{
    StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use sha2::{Digest, Sha256};

/// A file.
pub(super) struct Asset {
    /// Its name with the hash.
    name: String,
    content: &'static str,
    media_type: &'static str,
}

impl Asset {
    fn new(stem: &str, ending: &str, content: &'static str, media_type: &'static str) -> Self {
        let hash: String = Sha256::digest(content).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        Self { name: format!("{stem}-{hash}.{ending}"), content, media_type }
    }

    /// Its address.
    pub fn path(&self) -> String {
        format!("/console/assets/{}", self.name)
    }
}

pub(super) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("console", "css", include_str!("console.css"), "text/css; charset=utf-8"));
pub(super) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("console", "js", include_str!("console.js"), "text/javascript; charset=utf-8"));
pub(super) static ICON: LazyLock<Asset> =
    LazyLock::new(|| Asset::new("icon", "svg", include_str!("icon.svg"), "image/svg+xml"));

/// The file of that name.
pub(super) async fn serve(Path(name): Path<String>) -> Response {
    match [&*STYLE, &*SCRIPT, &*ICON].into_iter().find(|asset| asset.name == name) {
        Some(asset) => {
            let headers = [(CONTENT_TYPE, asset.media_type), (CACHE_CONTROL, "public, max-age=31536000, immutable")];
            (headers, asset.content).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
