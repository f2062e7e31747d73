//! The style sheet, the script and the icon, named by their content so that browsers may keep them for ever.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

struct Asset {
    name: &'static str,
    kind: &'static str,
    content: &'static str,
}

const ASSETS: [Asset; 3] = [
    Asset {
        name: "amend.css",
        kind: "text/css; charset=utf-8",
        content: include_str!("../../dashboard/assets/amend.css"),
    },
    Asset {
        name: "amend.js",
        kind: "text/javascript; charset=utf-8",
        content: include_str!("../../dashboard/assets/amend.js"),
    },
    Asset { name: "icon.svg", kind: "image/svg+xml", content: include_str!("../../dashboard/assets/icon.svg") },
];

/// Hash of all assets: they change together, with the binary.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let hash = ASSETS.iter().fold(Sha256::new(), |hash, asset| hash.chain_update(asset.content));
    hex::encode(&hash.finalize()[..8])
});

/// Folder of this version's assets, for the templates.
pub fn version() -> &'static str {
    &VERSION
}

/// Serves an asset of this version; another version's name is not found, so that nothing wrong is kept for ever.
pub async fn asset(Path((hash, name)): Path<(String, String)>, headers: HeaderMap) -> Response {
    let Some(asset) = ASSETS.iter().find(|asset| asset.name == name && hash == *VERSION) else {
        return StatusCode::NOT_FOUND.into_response();
    };
    let tag = format!("\"{hash}\"");
    let kept = [(CACHE_CONTROL, "public, max-age=31536000, immutable".to_owned()), (ETAG, tag.clone())];
    if headers.get(IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return (StatusCode::NOT_MODIFIED, kept).into_response();
    }
    (kept, [(CONTENT_TYPE, asset.kind)], asset.content).into_response()
}
