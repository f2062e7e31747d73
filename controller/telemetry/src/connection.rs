//! One HTTP connection to one store: guarded, bounded in time and bytes, never redirected, never retried.

use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Certificate, Client, Method, RequestBuilder, Response, StatusCode, redirect};
use secrecy::{ExposeSecret, SecretString};
use serde::de::DeserializeOwned;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};
use url::Url;

use crate::egress::Egress;
use crate::load::Load;
use crate::promql::is_hidden;
use crate::source::{Credentials, Limits, SourceConfig, SourceError};

/// Queries longer than this are sent as a form: proxies commonly refuse request lines above 8 KiB.
const QUERY_IN_URL_MAX: usize = 4_000;

/// How much of a store's error text we repeat.
const SAID_MAX: usize = 300;

/// Bytes of an error body that are looked at.
const ERROR_BODY_MAX: usize = 16 << 10;

/// A connection to one store.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    base: Url,
    egress: Egress,
    credentials: Credentials,
    bytes: usize,
    timeout: Duration,
    slots: Semaphore,
    load: Option<Arc<Load>>,
}

/// Where a connection leads, and what it may cost.
#[derive(Debug)]
pub(crate) struct Endpoint<'a> {
    pub url: &'a Url,
    pub credentials: Credentials,
    pub authorities: Option<&'a [u8]>,
    pub tenant: Option<&'a str>,
    pub limits: Limits,
    pub load: Option<Arc<Load>>,
}

/// Parameters of a question, in the order they are sent.
pub(crate) type Parameters<'a> = &'a [(&'a str, String)];

impl Connection {
    pub(crate) fn open(config: &SourceConfig, egress: &Egress) -> Result<Self, SourceError> {
        let endpoint = Endpoint {
            url: &config.url,
            credentials: config.credentials.clone(),
            authorities: config.authorities.as_deref(),
            tenant: config.tenant.as_deref(),
            limits: config.limits.clone(),
            load: config.load.clone(),
        };
        Self::to(endpoint, egress)
    }

    pub(crate) fn to(config: Endpoint<'_>, egress: &Egress) -> Result<Self, SourceError> {
        egress.check_url(config.url).map_err(|source| SourceError::Refused { source })?;
        let unusable = |why: String| SourceError::Client { why };
        if rustls::crypto::CryptoProvider::get_default().is_none() {
            // Another thread may install it between the two lines; then that one serves just as well.
            let _ = rustls::crypto::ring::default_provider().install_default();
        }
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(tenant) = config.tenant {
            let value =
                HeaderValue::from_str(tenant).map_err(|_| unusable("the tenant is not a header value".into()))?;
            headers.insert("x-scope-orgid", value);
        }
        let mut builder = Client::builder()
            .user_agent(concat!("amend/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .no_proxy()
            .connect_timeout(config.limits.timeout.min(Duration::from_secs(5)))
            .pool_max_idle_per_host(config.limits.concurrency)
            .dns_resolver(egress.resolver(config.url.scheme() == "http"));
        if let Some(bundle) = config.authorities {
            let authorities = Certificate::from_pem_bundle(bundle).map_err(|error| unusable(chain(&error)))?;
            builder = builder.tls_certs_only(authorities);
        }
        Ok(Self {
            client: builder.build().map_err(|error| unusable(chain(&error)))?,
            base: config.url.clone(),
            egress: egress.clone(),
            credentials: config.credentials,
            bytes: config.limits.bytes,
            timeout: config.limits.timeout,
            slots: Semaphore::new(config.limits.concurrency.max(1)),
            load: config.load,
        })
    }

    /// Asks and reads one JSON document, all within the deadline.
    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str, of: Parameters<'_>) -> Result<T, SourceError> {
        self.send(Method::GET, path, of, Payload::Query).await
    }

    /// Like [`get`](Self::get); long questions travel as a form, which Prometheus-like query paths accept as well.
    pub(crate) async fn query<T: DeserializeOwned>(&self, path: &str, of: Parameters<'_>) -> Result<T, SourceError> {
        let length: usize = of.iter().map(|(key, value)| key.len() + value.len() + 2).sum();
        match length > QUERY_IN_URL_MAX {
            true => self.send(Method::POST, path, of, Payload::Form).await,
            false => self.send(Method::GET, path, of, Payload::Query).await,
        }
    }

    /// Asks with a JSON body, for stores whose questions are documents. Nothing is changed by it.
    pub(crate) async fn post<T: DeserializeOwned>(
        &self,
        path: &str,
        body: &serde_json::Value,
    ) -> Result<T, SourceError> {
        self.send(Method::POST, path, &[], Payload::Json(body)).await
    }

    /// How long a cheap question takes, its body read and thrown away.
    pub(crate) async fn time(&self, path: &str, of: Parameters<'_>) -> Result<Duration, SourceError> {
        let started = Instant::now();
        let _: serde::de::IgnoredAny = self.get(path, of).await?;
        Ok(started.elapsed())
    }

    async fn send<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        parameters: Parameters<'_>,
        payload: Payload<'_>,
    ) -> Result<T, SourceError> {
        let exchange = async {
            // Closed never happens: the semaphore lives as long as we do.
            let _slot = self.slots.acquire().await.ok();
            let url = self.url(path)?;
            let request = self.client.request(method, url);
            let request = match payload {
                Payload::Query => request.query(parameters),
                Payload::Form => request.form(parameters),
                Payload::Json(body) => request.json(body),
            };
            let response = self.authorised(request)?.send().await.map_err(|error| self.unreachable(&error))?;
            self.body(path, response).await
        };
        // Outside the deadline: whoever asks one question after another does not time out while waiting for its turn.
        let _turn = match &self.load {
            Some(load) => Some(load.turn().await.ok_or(SourceError::Spent { budget: load.budget() })?),
            None => None,
        };
        let began = Instant::now();
        let answered = timeout(self.timeout, exchange).await;
        if let Some(load) = &self.load {
            load.took(began.elapsed());
        }
        let body = match answered {
            Ok(body) => body?,
            Err(_) => return Err(SourceError::TimedOut { after: self.timeout }),
        };
        serde_json::from_slice(&body).map_err(|error| SourceError::Malformed { why: clean(&error.to_string()) })
    }

    fn url(&self, path: &str) -> Result<Url, SourceError> {
        let mut url = self.base.clone();
        let joined = format!("{}{path}", url.path().trim_end_matches('/'));
        url.set_path(&joined);
        // The base was checked when the source was opened; the guard is asked again because it is cheap and the last.
        self.egress.check_url(&url).map_err(|source| SourceError::Refused { source })?;
        Ok(url)
    }

    fn authorised(&self, request: RequestBuilder) -> Result<RequestBuilder, SourceError> {
        match &self.credentials {
            Credentials::None => Ok(request),
            Credentials::Bearer(token) => Ok(request.header(AUTHORIZATION, bearer(token)?)),
            Credentials::BearerIn(file) => {
                let token = file.read().map_err(|source| SourceError::Secret { source })?;
                Ok(request.header(AUTHORIZATION, bearer(&token)?))
            }
            Credentials::Basic { user, password } => Ok(request.basic_auth(user, Some(password.expose_secret()))),
        }
    }

    async fn body(&self, path: &str, mut response: Response) -> Result<Vec<u8>, SourceError> {
        let status = response.status();
        if status.is_success() {
            return self.read(&mut response, self.bytes).await?.ok_or(SourceError::TooLarge { limit: self.bytes });
        }
        let code = status.as_u16();
        if status.is_redirection() {
            return Err(SourceError::Redirected { status: code });
        }
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(SourceError::Unauthorised { status: code });
        }
        let said = match self.read(&mut response, ERROR_BODY_MAX).await {
            Ok(Some(body)) => said(&body),
            Ok(None) => "a very long error page".to_owned(),
            Err(_) => String::new(),
        };
        Err(match status {
            StatusCode::NOT_FOUND => SourceError::NotFound { path: path.to_owned() },
            // Overload is the store's trouble, not a mistake in the question.
            StatusCode::TOO_MANY_REQUESTS => SourceError::Failing { status: code, said },
            StatusCode::UNPROCESSABLE_ENTITY if tells_a_limit(&said) => SourceError::Limited { said },
            _ if status.is_client_error() => SourceError::Rejected { status: code, said },
            _ => SourceError::Failing { status: code, said },
        })
    }

    /// The body after decompression; `None` when it is longer than `limit`.
    async fn read(&self, response: &mut Response, limit: usize) -> Result<Option<Vec<u8>>, SourceError> {
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            if body.len() + chunk.len() > limit {
                return Ok(None);
            }
            body.extend_from_slice(&chunk);
            if let Some(load) = &self.load {
                load.read(chunk.len());
            }
        }
        Ok(Some(body))
    }

    fn unreachable(&self, error: &reqwest::Error) -> SourceError {
        if error.is_decode() || error.is_body() {
            return SourceError::Malformed { why: chain(error) };
        }
        SourceError::Unreachable { host: self.base.host_str().unwrap_or_default().to_owned(), why: chain(error) }
    }
}

fn bearer(token: &SecretString) -> Result<HeaderValue, SourceError> {
    let value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()));
    let mut value = value.map_err(|_| SourceError::Token)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Whether a store could not execute a question because it costs too much there: the ids of Mimir's errors
/// (<https://grafana.com/docs/mimir/latest/manage/mimir-runbooks/#errors-catalog>), the words of Thanos' store gateways and of
/// Prometheus' `query.max-samples`. The same status also stands for expressions that cannot be executed at all.
fn tells_a_limit(said: &str) -> bool {
    ["err-mimir-max-", "exceeded series limit", "exceeded chunks limit", "exceeded samples limit", "too many samples"]
        .iter()
        .any(|words| said.contains(words))
}

enum Payload<'a> {
    Query,
    Form,
    Json(&'a serde_json::Value),
}

/// What went wrong at the bottom: the innermost cause of an error, cleaned.
fn chain(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    clean(&innermost.to_string())
}

/// The telling part of an error body: `error` (OpenSearch: its `reason`) or `message` of a JSON object, else the text itself.
fn said(body: &[u8]) -> String {
    let telling = serde_json::from_slice::<serde_json::Value>(body).ok().and_then(|value| {
        let places = ["/error", "/error/reason", "/message"];
        let field = places.iter().find_map(|place| value.pointer(place)?.as_str().map(str::to_owned));
        field.or_else(|| value.as_str().map(str::to_owned))
    });
    match telling {
        Some(text) => clean(&text),
        None => clean(&String::from_utf8_lossy(body)),
    }
}

/// Untrusted text for one line of prose: no control or direction characters, cut to [`SAID_MAX`].
pub(crate) fn clean(text: &str) -> String {
    let hidden = |c: char| c.is_control() || is_hidden(c);
    let shown: String = text.chars().map(|c| if c.is_whitespace() { ' ' } else { c }).filter(|c| !hidden(*c)).collect();
    match shown.char_indices().nth(SAID_MAX) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_store_is_cut_and_cleaned() {
        assert_eq!(clean("a\u{202e}b\u{1b}[31m\nc"), "ab[31m c");
        assert_eq!(clean(&"x".repeat(1_000)).chars().count(), SAID_MAX + 1);
    }

    #[test]
    fn the_telling_part_of_an_error_body_is_found() {
        assert_eq!(said(br#"{"status":"error","errorType":"bad_data","error":"parse error"}"#), "parse error");
        assert_eq!(
            said(br#"{"error":{"root_cause":[],"reason":"all shards failed"},"status":400}"#),
            "all shards failed"
        );
        assert_eq!(said(b"<html>gateway</html>"), "<html>gateway</html>");
    }
}
