//! Calls to a forge's REST API: one deadline, one size limit, one way to read a refusal.

use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderValue, RETRY_AFTER};
use reqwest::{Method, StatusCode};
use serde::de::DeserializeOwned;
use serde_json::Value;
use url::Url;

use super::ForgeError;
use crate::egress;
use crate::untrusted;

/// A forge that needs longer than this is down, as far as an incident is concerned.
const DEADLINE: Duration = Duration::from_secs(15);

/// A page of 50 pull requests with bodies of 65,536 characters.
const LARGEST_ANSWER: u64 = 8 * 1024 * 1024;

/// A REST API with one account.
#[derive(Debug)]
pub(super) struct Api {
    pub forge: String,
    base: Url,
    client: reqwest::Client,
    authorization: HeaderValue,
}

impl Api {
    /// `base` ends where the API's own paths begin, without a slash.
    pub fn new(
        forge: String,
        base: Url,
        authorization: HeaderValue,
        allow_private: bool,
        authority: Option<&str>,
    ) -> Result<Self, ForgeError> {
        let client = egress::client(&base, allow_private, authority)
            .map_err(|source| ForgeError::Egress { forge: forge.clone(), source })?;
        Ok(Self { forge, base, client, authorization })
    }

    /// Reads what is at `path`, whose parts are escaped one by one.
    pub async fn get<T: DeserializeOwned>(
        &self,
        doing: &str,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, ForgeError> {
        let answer = self.call(doing, Method::GET, path, query, None).await?;
        self.read(doing, &answer)
    }

    /// Reads plain text, at most as large as any answer; what is not UTF-8 in it is replaced.
    pub async fn text(&self, doing: &str, path: &[&str]) -> Result<String, ForgeError> {
        let answer = self.call(doing, Method::GET, path, &[], None).await?;
        Ok(String::from_utf8_lossy(&answer).into_owned())
    }

    /// Writes once and reads what the forge made of it.
    pub async fn write<T: DeserializeOwned>(
        &self,
        doing: &str,
        method: Method,
        path: &[&str],
        body: &Value,
    ) -> Result<T, ForgeError> {
        let answer = self.call(doing, method, path, &[], Some(body)).await?;
        self.read(doing, &answer)
    }

    fn read<T: DeserializeOwned>(&self, doing: &str, answer: &[u8]) -> Result<T, ForgeError> {
        let text: &[u8] = if answer.is_empty() { b"null" } else { answer };
        serde_json::from_slice(text).map_err(|source| ForgeError::Malformed {
            forge: self.forge.clone(),
            doing: doing.to_owned(),
            source,
        })
    }

    async fn call(
        &self,
        doing: &str,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: Option<&Value>,
    ) -> Result<Vec<u8>, ForgeError> {
        let mut url = self.base.clone();
        if let Ok(mut parts) = url.path_segments_mut() {
            parts.pop_if_empty().extend(path);
        }
        let mut request =
            self.client.request(method, url).header(AUTHORIZATION, self.authorization.clone()).query(query);
        if let Some(body) = body {
            request = request.json(body);
        }
        match tokio::time::timeout(DEADLINE, self.exchange(doing, request)).await {
            Ok(result) => result,
            Err(_) => Err(ForgeError::TimedOut { forge: self.forge.clone(), after: DEADLINE }),
        }
    }

    async fn exchange(&self, doing: &str, request: reqwest::RequestBuilder) -> Result<Vec<u8>, ForgeError> {
        let forge = || self.forge.clone();
        let unreachable =
            |source: reqwest::Error| ForgeError::Unreachable { forge: forge(), source: source.without_url() };
        let mut response = request.send().await.map_err(unreachable)?;
        let status = response.status();
        let after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(unreachable)? {
            if (answer.len() + chunk.len()) as u64 > LARGEST_ANSWER {
                return Err(ForgeError::TooLarge { forge: forge(), limit: LARGEST_ANSWER });
            }
            answer.extend_from_slice(&chunk);
        }
        if status.is_success() {
            return Ok(answer);
        }
        let doing = doing.to_owned();
        let why = refusal(&answer);
        Err(match status {
            StatusCode::UNAUTHORIZED => ForgeError::Unauthorized { forge: forge() },
            StatusCode::FORBIDDEN => ForgeError::Forbidden { forge: forge(), doing },
            StatusCode::NOT_FOUND => ForgeError::NotFound { forge: forge(), doing },
            StatusCode::CONFLICT => ForgeError::Conflict { forge: forge(), doing, why },
            StatusCode::METHOD_NOT_ALLOWED => ForgeError::NotMergeable { forge: forge(), why },
            StatusCode::TOO_MANY_REQUESTS => {
                ForgeError::RateLimited { forge: forge(), after: after.map(Duration::from_secs) }
            }
            other if other.is_client_error() => ForgeError::Refused { forge: forge(), doing, why },
            other => ForgeError::Unavailable { forge: forge(), status: other.as_u16() },
        })
    }
}

/// The forge's own words, which may quote anybody's: one short plain line.
fn refusal(answer: &[u8]) -> String {
    let message = serde_json::from_slice::<Value>(answer)
        .ok()
        .and_then(|value| value.get("message").and_then(Value::as_str).map(|text| untrusted::line(text, 200)));
    message.filter(|text| !text.is_empty()).unwrap_or_else(|| "it gives no reason".into())
}
