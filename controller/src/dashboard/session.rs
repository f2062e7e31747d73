//! Who looks: a pasted token becomes a session, and a session a reader with that token's rights.
//!
//! The token stays in this process; the browser holds a random name for it. A restart or another replica asks for the
//! token again, which is the price of not writing it to anybody's disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use askama::Template;
use axum::extract::{FromRequestParts, Query, State};
use axum::http::header::{COOKIE, HOST, ORIGIN, SET_COOKIE};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::{Form, extract::OriginalUri};
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::Api;
use kube::api::PostParams;
use rand_core::{OsRng, RngCore};
use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use super::views::Reader;
use super::{Dashboard, assets};
use crate::clients::Clients;
use crate::intake::untrusted::one_line;
use crate::server::Peer;
use crate::time::Time;

/// How readers are let in.
#[derive(Clone)]
pub enum Door {
    /// By a token that the cluster vouches for.
    Tokens(Arc<dyn Doorkeeper>),
    /// Everybody on this machine reads as the given reader. For the demo: only loopback peers that ask for a loopback name.
    Loopback(Reader),
}

impl std::fmt::Debug for Door {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Tokens(_) => "Tokens",
            Self::Loopback(_) => "Loopback",
        })
    }
}

/// Says whose token it is.
pub trait Doorkeeper: Send + Sync {
    fn admit(&self, token: SecretString) -> BoxFuture<'_, Result<Reader, Rejection>>;
}

/// Why a token is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("the cluster does not know this token")]
    Unknown,
    #[error("the cluster cannot be asked about the token right now")]
    Unavailable,
}

/// Asks the API server by TokenReview; the reader then acts with the token itself.
#[derive(Clone, Debug)]
pub struct TokenReviews {
    pub clients: Clients,
}

impl Doorkeeper for TokenReviews {
    fn admit(&self, token: SecretString) -> BoxFuture<'_, Result<Reader, Rejection>> {
        async move {
            let spec = TokenReviewSpec { token: token.expose_secret().to_owned(), ..TokenReviewSpec::default() };
            let review = TokenReview { spec, ..TokenReview::default() };
            let reviews: Api<TokenReview> = Api::all(self.clients.reader());
            let reviewed = reviews.create(&PostParams::default(), &review).await.map_err(|error| {
                // The error names the request, never its body.
                tracing::warn!(%error, "a token could not be reviewed");
                Rejection::Unavailable
            })?;
            let status =
                reviewed.status.filter(|status| status.authenticated == Some(true)).ok_or(Rejection::Unknown)?;
            let name = status.user.and_then(|user| user.username).ok_or(Rejection::Unknown)?;
            let client = self.clients.with_token(token).map_err(|_| Rejection::Unavailable)?;
            Ok(Reader { name, client })
        }
        .boxed()
    }
}

const COOKIE_NAME: &str = "amend-session";

/// A working day; Kubernetes' own tokens mostly end earlier.
const SESSION_HOURS: i64 = 8;

/// More sessions than a team has people; the oldest gives way.
const SESSIONS_MAX: usize = 500;

/// Open sessions by name.
pub struct Sessions {
    door: Door,
    time: Arc<dyn Time>,
    open: Mutex<BTreeMap<String, (Timestamp, Reader)>>,
}

impl std::fmt::Debug for Sessions {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Sessions").field("door", &self.door).finish_non_exhaustive()
    }
}

impl Sessions {
    pub(super) fn new(door: Door, time: Arc<dyn Time>) -> Self {
        Self { door, time, open: Mutex::default() }
    }

    fn open(&self, reader: Reader) -> String {
        let mut bytes = [0_u8; 32];
        OsRng.fill_bytes(&mut bytes);
        let name = hex::encode(bytes);
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if open.len() >= SESSIONS_MAX
            && let Some(oldest) = open.iter().min_by_key(|(_, (since, _))| *since).map(|(name, _)| name.clone())
        {
            open.remove(&oldest);
        }
        open.insert(name.clone(), (self.time.now(), reader));
        name
    }

    fn reader(&self, name: &str) -> Option<Reader> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (since, reader) = open.get(name)?;
        if self.time.now().duration_since(*since) > SignedDuration::from_hours(SESSION_HOURS) {
            open.remove(name);
            return None;
        }
        Some(reader.clone())
    }

    /// Ends a session, for example because its token is no longer good.
    pub(super) fn end(&self, headers: &HeaderMap) {
        if let Some(name) = session_name(headers) {
            self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        }
    }
}

fn session_name(headers: &HeaderMap) -> Option<&str> {
    let cookies = headers.get_all(COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|value| value.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(name, _)| *name == COOKIE_NAME).map(|(_, value)| value)
}

/// Every page that shows objects takes a [`Reader`] as an argument: without one there is a login instead.
impl FromRequestParts<Dashboard> for Reader {
    type Rejection = Response;

    async fn from_request_parts(parts: &mut Parts, dashboard: &Dashboard) -> Result<Self, Response> {
        match &dashboard.sessions.door {
            Door::Tokens(_) => session_name(&parts.headers)
                .and_then(|name| dashboard.sessions.reader(name))
                .ok_or_else(|| to_login(parts)),
            Door::Loopback(reader) => {
                let near = parts.extensions.get::<Peer>().is_some_and(|peer| peer.0.ip().is_loopback());
                // A page elsewhere could give its own name our address (DNS rebinding) and read us through the browser.
                match near && asks_for_loopback(parts) {
                    true => Ok(reader.clone()),
                    false => {
                        Err((StatusCode::FORBIDDEN, "this dashboard answers its own machine only\n").into_response())
                    }
                }
            }
        }
    }
}

fn asks_for_loopback(parts: &Parts) -> bool {
    let header = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
    let host = header.or_else(|| parts.uri.authority().map(|authority| authority.as_str())).unwrap_or_default();
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    matches!(name, "localhost" | "127.0.0.1" | "[::1]")
}

fn to_login(parts: &Parts) -> Response {
    let path = parts.extensions.get::<OriginalUri>().map_or(parts.uri.path(), |uri| uri.path());
    let then: String = url::form_urlencoded::byte_serialize(path.as_bytes()).collect();
    Redirect::to(&format!("/login?then={then}")).into_response()
}

#[derive(Debug, Deserialize)]
pub(super) struct Then {
    #[serde(default)]
    then: String,
}

#[derive(Template)]
#[template(path = "login.html")]
struct LoginPage<'a> {
    version: &'a str,
    then: &'a str,
    error: Option<String>,
}

pub(super) async fn login_page(Query(Then { then }): Query<Then>) -> Response {
    login_form(&then, None)
}

fn login_form(then: &str, error: Option<Rejection>) -> Response {
    let status = match error {
        None => StatusCode::OK,
        Some(Rejection::Unknown) => StatusCode::UNAUTHORIZED,
        Some(Rejection::Unavailable) => StatusCode::SERVICE_UNAVAILABLE,
    };
    let page =
        LoginPage { version: assets::version(), then: own_path(then), error: error.map(|error| error.to_string()) };
    match page.render() {
        Ok(page) => (status, Html(page)).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[derive(Deserialize)]
pub(super) struct Credentials {
    token: String,
    #[serde(default)]
    then: String,
}

pub(super) async fn login(
    State(dashboard): State<Dashboard>,
    headers: HeaderMap,
    Form(form): Form<Credentials>,
) -> Response {
    if !is_same_origin(&headers) {
        return (StatusCode::FORBIDDEN, "this form belongs to another site\n").into_response();
    }
    let Door::Tokens(keeper) = &dashboard.sessions.door else { return Redirect::to("/incidents").into_response() };
    let token = form.token.trim();
    // No token that Kubernetes issues is longer; nothing else is worth a question to the API server.
    if token.is_empty() || token.len() > 16_384 || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return login_form(&form.then, Some(Rejection::Unknown));
    }
    match keeper.admit(SecretString::from(token.to_owned())).await {
        Ok(reader) => {
            tracing::info!(user = one_line(&reader.name, 128), "signed in to the dashboard");
            let name = dashboard.sessions.open(reader);
            let age = SESSION_HOURS * 3600;
            let secure = if is_https(&headers) { "; Secure" } else { "" };
            let cookie = format!("{COOKIE_NAME}={name}; Path=/; HttpOnly; SameSite=Strict; Max-Age={age}{secure}");
            ([(SET_COOKIE, cookie)], Redirect::to(own_path(&form.then))).into_response()
        }
        Err(rejection) => login_form(&form.then, Some(rejection)),
    }
}

pub(super) async fn logout(State(dashboard): State<Dashboard>, headers: HeaderMap) -> Response {
    if !is_same_origin(&headers) {
        return (StatusCode::FORBIDDEN, "this form belongs to another site\n").into_response();
    }
    dashboard.sessions.end(&headers);
    let gone = format!("{COOKIE_NAME}=; Path=/; HttpOnly; SameSite=Strict; Max-Age=0");
    ([(SET_COOKIE, gone)], Redirect::to("/login")).into_response()
}

/// A path on this site, so that a link to the login cannot lead away from it.
fn own_path(then: &str) -> &str {
    let own = then.starts_with('/')
        && !then.starts_with("//")
        && !then.contains('\\')
        && then.bytes().all(|byte| byte.is_ascii_graphic());
    if own { then } else { "/incidents" }
}

/// Browsers say where a form was sent from; a request that does not say is not from a browser.
fn is_same_origin(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    if let Some(site) = text(axum::http::HeaderName::from_static("sec-fetch-site")) {
        return matches!(site, "same-origin" | "none");
    }
    match (text(ORIGIN), text(HOST)) {
        (None, _) => true,
        (Some(origin), Some(host)) => origin.split_once("://").is_some_and(|(_, from)| from == host),
        (Some(_), None) => false,
    }
}

/// Whether the browser came over TLS, to us or to a proxy in front of us.
fn is_https(headers: &HeaderMap) -> bool {
    let text = |name| headers.get(name).and_then(|value: &axum::http::HeaderValue| value.to_str().ok());
    text(axum::http::HeaderName::from_static("x-forwarded-proto")) == Some("https")
        || text(ORIGIN).is_some_and(|origin| origin.starts_with("https://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_login_leads_to_a_page_of_ours_only() {
        for away in ["https://evil.example/", "//evil.example/", "/\\evil.example", "javascript:alert(1)", "", "/a\nb"]
        {
            assert_eq!(own_path(away), "/incidents", "{away}");
        }
        assert_eq!(own_path("/incidents/shop/inc-1"), "/incidents/shop/inc-1");
    }

    #[test]
    fn the_session_is_found_among_other_cookies() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, "a=b; amend-session=abc; c=d".parse().unwrap());
        assert_eq!(session_name(&headers), Some("abc"));
        assert_eq!(session_name(&HeaderMap::new()), None);
    }

    #[test]
    fn a_form_from_another_site_is_recognised() {
        let from = |pairs: &[(&'static str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| (axum::http::HeaderName::from_static(name), value.parse().unwrap()))
                .collect()
        };
        assert!(is_same_origin(&from(&[("sec-fetch-site", "same-origin")])));
        assert!(!is_same_origin(&from(&[("sec-fetch-site", "cross-site")])));
        assert!(is_same_origin(&from(&[("origin", "http://amend:8080"), ("host", "amend:8080")])));
        assert!(!is_same_origin(&from(&[("origin", "http://evil"), ("host", "amend:8080")])));
    }
}
