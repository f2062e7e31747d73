//! The dashboard: read-only pages that work without JavaScript and follow changes with it.
//!
//! A person pastes a Kubernetes token; every object is then read with that token, so nobody sees here what they could
//! not see with `kubectl`. All text is escaped by the templates, and the browser is told to run nothing but our own script.

pub mod assets;
mod build;
mod builds;
pub mod diff;
mod incident;
mod lines;
mod list;
pub mod live;
mod pages;
pub mod session;
pub mod timeline;
pub mod views;

use std::sync::Arc;

use axum::Router;
use axum::extract::Request;
use axum::http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS};
use axum::http::{HeaderName, HeaderValue};
use axum::middleware::{self, Next};
use axum::response::{Redirect, Response};
use axum::routing::{get, post};

use crate::time::Time;
use session::{Door, Sessions};
use views::IncidentViews;

/// The browser loads what we serve and nothing else, runs no inline script or style, and shows us in no frame.
const POLICY: &str = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; \
                      form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

/// What every page needs.
#[derive(Clone)]
pub struct Dashboard {
    pub views: Arc<dyn IncidentViews>,
    pub time: Arc<dyn Time>,
    sessions: Arc<Sessions>,
}

impl std::fmt::Debug for Dashboard {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Dashboard").finish_non_exhaustive()
    }
}

/// The dashboard's routes: `/`, `/incidents`, `/incidents/{namespace}/{name}`, the same of `/builds`, `/logs/unknown`, `/events`,
/// `/login`, `/logout`, `/assets`.
pub fn routes(views: Arc<dyn IncidentViews>, door: Door, time: Arc<dyn Time>) -> Router {
    let sessions = Arc::new(Sessions::new(door, time.clone()));
    Router::new()
        .route("/", get(|| async { Redirect::to("/incidents") }))
        .route("/incidents", get(list::incidents))
        .route("/incidents/{namespace}/{name}", get(incident::incident))
        .route("/builds", get(builds::builds))
        .route("/builds/{namespace}/{name}", get(build::build))
        .route("/logs/unknown", get(lines::unknown_lines))
        .route("/events", get(live::events))
        .route("/login", get(session::login_page).post(session::login))
        .route("/logout", post(session::logout))
        .route("/assets/{hash}/{name}", get(assets::asset))
        .layer(middleware::from_fn(guarded))
        .with_state(Dashboard { views, time, sessions })
}

async fn guarded(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if !headers.contains_key(CACHE_CONTROL) {
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}
