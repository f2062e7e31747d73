//! A page as a signed JSON document, sent to one URL.
//!
//! `X-Amend-Signature: t=SECONDS,v1=HEX` where HEX is the HMAC-SHA256 of `SECONDS.BODY` under the shared secret, so that a receiver
//! can refuse what is old; `Idempotency-Key` is the page's key. The secret is read for each attempt. While it is configured and
//! cannot be read no page is sent: a receiver that gets used to pages without a signature would believe a forged one.

use std::sync::Arc;
use std::time::Duration;

use amend_telemetry::secret_file::SecretFile;
use futures::FutureExt;
use futures::future::BoxFuture;
use hmac::{Hmac, Mac};
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;
use url::Url;

use super::{Page, PageError, Pager};

/// A pager that has not answered by then is tried again.
const ATTEMPT: Duration = Duration::from_secs(5);

/// Waits before the second and third attempt; together with three attempts less than half a minute.
const PAUSES: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(4)];

/// Posts pages to a URL.
pub struct Webhook {
    url: Url,
    /// `None`: pages are not signed.
    secret: Option<Arc<SecretFile>>,
    client: reqwest::Client,
}

impl std::fmt::Debug for Webhook {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Webhook").field("host", &self.host()).finish_non_exhaustive()
    }
}

impl Webhook {
    /// `allow_private`: the URL may be plain http or lead to a loopback or private address, because an administrator listed it.
    pub fn new(url: Url, secret: Option<Arc<SecretFile>>, allow_private: bool) -> Result<Self, PageError> {
        let host = url.host_str().unwrap_or_default().to_owned();
        let client = amend_gitops::egress::client(&url, allow_private, None)
            .map_err(|source| PageError::Forbidden { host, source })?;
        Ok(Self { url, secret, client })
    }

    fn host(&self) -> String {
        self.url.host_str().unwrap_or_default().to_owned()
    }

    async fn attempt(&self, page: &Page, body: &[u8]) -> Result<(), PageError> {
        let mut request = self
            .client
            .post(self.url.clone())
            .timeout(ATTEMPT)
            .header("content-type", "application/json")
            .header("idempotency-key", header_safe(&page.key))
            .body(body.to_vec());
        if let Some(secret) = &self.secret {
            let secret = secret.read().map_err(|source| PageError::Unsigned { source })?;
            request = request.header("x-amend-signature", signature(&secret, jiff::Timestamp::now().as_second(), body));
        }
        // The URL may carry a token: it must not reach a log.
        let response = request
            .send()
            .await
            .map_err(|error| PageError::Unreachable { host: self.host(), source: error.without_url() })?;
        match response.status() {
            status if status.is_success() => Ok(()),
            status => Err(PageError::Refused { host: self.host(), status: status.as_u16() }),
        }
    }
}

impl Pager for Webhook {
    fn page<'a>(&'a self, page: &'a Page) -> BoxFuture<'a, Result<(), PageError>> {
        async move {
            // A page holds strings, times and a list: nothing that JSON cannot say.
            let body = serde_json::to_vec(page).unwrap_or_default();
            let mut pauses = PAUSES.iter();
            loop {
                let error = match self.attempt(page, &body).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                };
                let again = match &error {
                    PageError::Unreachable { .. } => true,
                    PageError::Refused { status, .. } => *status >= 500 || *status == 429 || *status == 408,
                    PageError::Forbidden { .. } | PageError::Unsigned { .. } => false,
                };
                match pauses.next() {
                    Some(pause) if again => tokio::time::sleep(*pause).await,
                    Some(_) | None => return Err(error),
                }
            }
        }
        .boxed()
    }
}

fn signature(secret: &SecretString, sent_at: i64, body: &[u8]) -> String {
    // HMAC takes keys of any length.
    let code = Hmac::<Sha256>::new_from_slice(secret.expose_secret().as_bytes()).map(|mac| {
        let signed = mac.chain_update(sent_at.to_string()).chain_update(b".").chain_update(body);
        hex::encode(signed.finalize().into_bytes())
    });
    format!("t={sent_at},v1={}", code.unwrap_or_default())
}

fn header_safe(key: &str) -> String {
    key.chars().filter(char::is_ascii_graphic).take(128).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Mutex;

    use amend_diagnosis::signal::Severity;
    use axum::Router;
    use axum::body::Bytes;
    use axum::http::{HeaderMap, StatusCode};
    use axum::routing::post;

    use super::super::{Link, Named};
    use super::*;
    use crate::errors;
    use crate::intake::proof::Secrets;

    type Calls = Arc<Mutex<Vec<(HeaderMap, Bytes)>>>;

    /// A pager that answers with the given statuses, one after the other, then 200.
    async fn pager(statuses: &[u16]) -> (Webhook, Calls) {
        signing(statuses, None).await
    }

    async fn signing(statuses: &[u16], secret: Option<&Path>) -> (Webhook, Calls) {
        let calls = Calls::default();
        let (noted, mut left) = (calls.clone(), statuses.to_vec());
        left.reverse();
        let left = Arc::new(Mutex::new(left));
        let app = Router::new().route(
            "/hook",
            post(move |headers: HeaderMap, body: Bytes| async move {
                noted.lock().unwrap().push((headers, body));
                StatusCode::from_u16(left.lock().unwrap().pop().unwrap_or(200)).unwrap()
            }),
        );
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook?token=hidden", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, app).await });
        let secret = secret.map(|path| Arc::new(SecretFile::new(path)));
        (Webhook::new(url.parse().unwrap(), secret, true).unwrap(), calls)
    }

    fn page() -> Page {
        Page {
            key: "shop/inc-1/held".to_owned(),
            at: "2026-11-21T10:00:00Z".parse().unwrap(),
            severity: Severity::Critical,
            title: "checkout: verification has no data".to_owned(),
            because: "Prometheus has not answered since the merge.".to_owned(),
            to: vec!["oncall".to_owned()],
            incident: Some(Named { namespace: "shop".to_owned(), name: "inc-1".to_owned() }),
            remediation: None,
            links: vec![Link { name: "pull request".to_owned(), url: "https://git.example/1".to_owned() }],
        }
    }

    #[tokio::test]
    async fn a_page_is_signed_with_its_time_and_named_by_its_key() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, "shared\n").unwrap();
        let (webhook, calls) = signing(&[], Some(&secret)).await;
        webhook.page(&page()).await.unwrap();
        let calls = calls.lock().unwrap();
        let (headers, body) = &calls[0];
        assert!(is_signed("shared", &calls[0]));
        assert_eq!(headers["idempotency-key"], "shop/inc-1/held");
        let sent: serde_json::Value = serde_json::from_slice(body).unwrap();
        assert_eq!(sent["incident"]["name"], "inc-1");
        assert_eq!(sent["to"], serde_json::json!(["oncall"]), "a receiver can route by it");
    }

    fn is_signed(secret: &str, (headers, body): &(HeaderMap, Bytes)) -> bool {
        let signature = headers["x-amend-signature"].to_str().unwrap();
        let (time, code) = signature.strip_prefix("t=").unwrap().split_once(",v1=").unwrap();
        let signed = [time.as_bytes(), b".", body].concat();
        Secrets::new([SecretString::from(secret.to_owned())]).signed(&signed, code)
    }

    #[tokio::test]
    async fn a_secret_that_comes_later_is_exchanged_or_taken_away_counts_from_the_next_page() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        let (webhook, calls) = signing(&[], Some(&secret)).await;
        let refused = webhook.page(&page()).await.unwrap_err();
        assert!(errors::chain(&refused).starts_with("a page cannot be signed: the secret "), "{refused:?}");
        for content in ["first", "second"] {
            std::fs::write(&secret, content).unwrap();
            webhook.page(&page()).await.unwrap();
        }
        std::fs::remove_file(&secret).unwrap();
        assert!(webhook.page(&page()).await.is_err());
        let calls = calls.lock().unwrap();
        let [first, second] = calls.as_slice() else { unreachable!("what cannot be signed is not sent: {calls:?}") };
        assert!(is_signed("first", first) && is_signed("second", second) && !is_signed("first", second));
    }

    #[tokio::test]
    async fn without_a_secret_there_is_no_signature() {
        let (webhook, calls) = pager(&[]).await;
        webhook.page(&page()).await.unwrap();
        assert!(!calls.lock().unwrap()[0].0.contains_key("x-amend-signature"));
    }

    #[test]
    fn the_page_that_the_docs_show_is_the_page_that_is_sent() {
        let shown = serde_json::to_string_pretty(&page()).unwrap();
        assert!(include_str!("../../../docs/itself.md").contains(&shown), "{shown}");
    }

    #[tokio::test]
    async fn a_pager_that_is_briefly_away_is_called_again() {
        let (webhook, calls) = pager(&[503]).await;
        webhook.page(&page()).await.unwrap();
        assert_eq!(calls.lock().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_refusal_is_final_and_does_not_show_the_url() {
        let (webhook, calls) = pager(&[404]).await;
        let error = webhook.page(&page()).await.unwrap_err();
        assert_eq!(error.to_string(), "the pager at 127.0.0.1 answered 404");
        assert_eq!(calls.lock().unwrap().len(), 1);
        assert!(!format!("{webhook:?}").contains("hidden"));
    }

    #[test]
    fn a_private_address_is_called_only_when_it_was_listed() {
        let url: Url = "http://127.0.0.1:1/hook".parse().unwrap();
        let error = Webhook::new(url, None, false).unwrap_err();
        assert_eq!(error.to_string(), "the pager at 127.0.0.1 may not be called");
    }
}
