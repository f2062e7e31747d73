//! Connections to the Kubernetes API, one for each right that we use.
//!
//! kube's default client re-sends *any* method on 429, 503 and 504 and waits for ever on a silent connection
//! (measured, research/reliability.md 1.3). So reads and effects never share a client, and every call has a deadline.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::header::USER_AGENT;
use http::{HeaderValue, Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use kube::client::{Body, ClientBuilder};
use kube::config::AuthInfo;
use kube::{Client, Config};
use moka::future::Cache;
use secrecy::SecretString;
use tokio::time::{Instant, Sleep, sleep_until};
use tower::{BoxError, Layer, Service};

/// How long one call may take, body included.
///
/// The API server ends an ordinary request after 60 s itself; a control loop that waits longer than ten has stopped
/// being one. Watches are exempt once their headers are here: [`SILENCE`] ends them.
pub const CALL: Duration = Duration::from_secs(10);

/// The same for a client whose retries and `Retry-After` waits count as one call.
pub const CALL_WITH_RETRIES: Duration = Duration::from_secs(30);

/// A connection that says nothing for so long is dead.
///
/// Longer than the 45 s that our watches ask for, so that an idle watch ends by itself first.
pub const SILENCE: Duration = Duration::from_secs(60);

/// Impersonating clients kept open; each holds a connection pool.
const REMEDIATORS_KEPT: u64 = 256;

/// What we call ourselves in the API server's audit log.
const AGENT: &str = concat!("amend/", env!("CARGO_PKG_VERSION"));

/// The controller's connections.
#[derive(Clone)]
pub struct Clients {
    config: Config,
    reader: Client,
    effects: Client,
    impersonating: Cache<Remediator, Client>,
}

impl std::fmt::Debug for Clients {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Clients").field("server", &self.config.cluster_url).finish_non_exhaustive()
    }
}

/// The service account under which a policy's effects are performed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Remediator {
    pub namespace: String,
    pub account: String,
}

impl Remediator {
    /// The user name that Kubernetes gives to the account.
    pub fn user(&self) -> String {
        format!("system:serviceaccount:{}:{}", self.namespace, self.account)
    }

    /// The groups that the account is in. Access reviews and impersonation must carry them, else RBAC denies
    /// falsely what the account itself may do.
    pub fn groups(&self) -> Vec<String> {
        vec![
            "system:serviceaccounts".to_owned(),
            format!("system:serviceaccounts:{}", self.namespace),
            "system:authenticated".to_owned(),
        ]
    }
}

/// Why a client cannot be made, or why a call did not end.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("cannot find out how to reach the Kubernetes API")]
    Unconfigured(#[source] kube::config::InferConfigError),
    #[error("cannot set up a Kubernetes client")]
    Unbuildable(#[source] kube::Error),
    #[error("the Kubernetes API did not answer within {} s", .0.as_secs())]
    Late(Duration),
}

impl Clients {
    /// Clients for the cluster that the kubeconfig or the pod's service account names.
    pub async fn infer() -> Result<Self, ClientError> {
        Self::new(Config::infer().await.map_err(ClientError::Unconfigured)?)
    }

    /// Clients with the rights and the server of `config`.
    pub fn new(mut config: Config) -> Result<Self, ClientError> {
        config.headers.retain(|(name, _)| name != USER_AGENT);
        config.headers.push((USER_AGENT, HeaderValue::from_static(AGENT)));
        config.read_timeout = Some(SILENCE);
        config.reset_reader_on_write = true;
        Ok(Self {
            reader: client(config.clone(), Sending::Repeatedly)?,
            effects: client(config.clone(), Sending::Once)?,
            impersonating: Cache::builder()
                .max_capacity(REMEDIATORS_KEPT)
                .time_to_idle(Duration::from_secs(600))
                .build(),
            config,
        })
    }

    /// For reads, watches and access reviews, under the controller's own rights. May retry inside.
    pub fn reader(&self) -> Client {
        self.reader.clone()
    }

    /// For our own status, records and leases. Sends every request at most once.
    pub fn effects(&self) -> Client {
        self.effects.clone()
    }

    /// For effects on behalf of a policy: sends every request at most once, as the policy's account.
    pub async fn impersonating(&self, remediator: &Remediator) -> Result<Client, ClientError> {
        if let Some(client) = self.impersonating.get(remediator).await {
            return Ok(client);
        }
        let mut config = self.config.clone();
        config.auth_info.impersonate = Some(remediator.user());
        config.auth_info.impersonate_groups = Some(remediator.groups());
        let client = client(config, Sending::Once)?;
        self.impersonating.insert(remediator.clone(), client.clone()).await;
        Ok(client)
    }

    /// For reads on behalf of a person: their token and nothing of ours.
    pub fn with_token(&self, token: SecretString) -> Result<Client, ClientError> {
        let mut config = self.config.clone();
        config.auth_info = AuthInfo { token: Some(token), ..AuthInfo::default() };
        client(config, Sending::Once)
    }
}

/// Awaits `call` for at most `limit`, for a step that consists of several calls.
pub async fn within<T>(limit: Duration, call: impl Future<Output = T>) -> Result<T, ClientError> {
    tokio::time::timeout(limit, call).await.map_err(|_| ClientError::Late(limit))
}

/// How often the client may send one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sending {
    Once,
    Repeatedly,
}

fn client(mut config: Config, sending: Sending) -> Result<Client, ClientError> {
    config.default_retry = sending == Sending::Repeatedly;
    let limit = match sending {
        Sending::Once => CALL,
        Sending::Repeatedly => CALL_WITH_RETRIES,
    };
    limited_client(config, limit)
}

fn limited_client(config: Config, limit: Duration) -> Result<Client, ClientError> {
    Ok(ClientBuilder::try_from(config).map_err(ClientError::Unbuildable)?.with_layer(&DeadlineLayer { limit }).build())
}

/// Ends each call at its limit; a watch only until its headers have arrived.
#[derive(Clone, Copy, Debug)]
struct DeadlineLayer {
    limit: Duration,
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;

    fn layer(&self, inner: S) -> Deadline<S> {
        Deadline { inner, limit: self.limit }
    }
}

#[derive(Clone, Debug)]
struct Deadline<S> {
    inner: S,
    limit: Duration,
}

impl<S, B> Service<Request<Body>> for Deadline<S>
where
    S: Service<Request<Body>, Response = Response<B>, Error = BoxError>,
    S::Future: Send + 'static,
    B: Send + 'static,
{
    type Response = Response<TimedBody<B>>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (limit, endless) = (self.limit, is_endless(request.uri()));
        let end = Instant::now() + limit;
        let reply = self.inner.call(request);
        Box::pin(async move {
            let reply = tokio::time::timeout_at(end, reply).await.map_err(|_| ClientError::Late(limit))??;
            let sleep = (!endless).then(|| Box::pin(sleep_until(end)));
            Ok(reply.map(|inner| TimedBody { inner, sleep, limit }))
        })
    }
}

/// Watches and followed logs have no natural end.
fn is_endless(uri: &http::Uri) -> bool {
    uri.query().is_some_and(|query| {
        query.split('&').any(|pair| matches!(pair, "watch=true" | "watch=1" | "follow=true" | "follow=1"))
    })
}

/// A body that must be read before the deadline of its call.
#[derive(Debug)]
struct TimedBody<B> {
    inner: B,
    sleep: Option<Pin<Box<Sleep>>>,
    limit: Duration,
}

impl<B> HttpBody for TimedBody<B>
where
    B: HttpBody + Unpin,
    B::Error: Into<BoxError>,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let limit = self.limit;
        if let Some(sleep) = self.sleep.as_mut()
            && sleep.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(ClientError::Late(limit).into())));
        }
        Pin::new(&mut self.inner).poll_frame(cx).map(|frame| frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::Mutex;

    use axum::Router;
    use axum::body::Body as Reply;
    use axum::extract::State;
    use axum::http::{HeaderMap, Method, StatusCode, Uri};
    use axum::response::IntoResponse;
    use k8s_openapi::api::core::v1::ConfigMap;
    use kube::Api;
    use kube::api::PostParams;

    use super::*;

    type Seen = Arc<Mutex<Vec<(Method, HeaderMap)>>>;

    /// An API server that notes what it gets, refuses writes with 504, answers reads half and then falls silent.
    async fn tired_api_server() -> (Config, Seen) {
        let seen = Seen::default();
        let app = Router::new()
            .fallback(|State(seen): State<Seen>, method: Method, _: Uri, headers: HeaderMap| async move {
                seen.lock().unwrap().push((method.clone(), headers));
                if method == Method::POST {
                    return StatusCode::GATEWAY_TIMEOUT.into_response();
                }
                let half = futures::stream::once(async { Ok::<_, std::io::Error>("{\"kind\":") });
                Reply::from_stream(futures::StreamExt::chain(half, futures::stream::pending())).into_response()
            })
            .with_state(seen.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, app).await });
        (Config::new(format!("http://{address}").parse().unwrap()), seen)
    }

    fn config_map() -> ConfigMap {
        let mut map = ConfigMap::default();
        map.metadata.name = Some("intent".to_owned());
        map
    }

    #[tokio::test]
    async fn an_effect_is_sent_once_although_the_server_answers_504() {
        let (config, seen) = tired_api_server().await;
        let clients = Clients::new(config).unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(clients.effects(), "shop");
        assert!(maps.create(&PostParams::default(), &config_map()).await.is_err());
        assert_eq!(seen.lock().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn an_impersonated_effect_carries_the_account_and_all_its_groups() {
        let (config, seen) = tired_api_server().await;
        let clients = Clients::new(config).unwrap();
        let remediator = Remediator { namespace: "shop".to_owned(), account: "fixer".to_owned() };
        let client = clients.impersonating(&remediator).await.unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client, "shop");
        assert!(maps.create(&PostParams::default(), &config_map()).await.is_err());
        let seen = seen.lock().unwrap();
        let (_, headers) = &seen[0];
        assert_eq!(seen.len(), 1);
        assert_eq!(headers["impersonate-user"], "system:serviceaccount:shop:fixer");
        let groups: Vec<_> = headers.get_all("impersonate-group").iter().collect();
        assert_eq!(groups, ["system:serviceaccounts", "system:serviceaccounts:shop", "system:authenticated"]);
        assert!(headers[USER_AGENT].to_str().unwrap().starts_with("amend/"));
    }

    #[tokio::test]
    async fn a_call_whose_answer_stops_halfway_ends_at_the_deadline() {
        let (config, _) = tired_api_server().await;
        let client = limited_client(config, Duration::from_millis(50)).unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(client, "shop");
        let answer = within(Duration::from_secs(5), maps.get("intent")).await;
        let error = answer.expect("our own deadline comes first").expect_err("half an answer is none");
        assert!(format!("{error:?}").contains("Late"), "{error:?}");
    }

    #[tokio::test]
    async fn a_person_is_never_given_our_own_credentials() {
        let (mut config, seen) = tired_api_server().await;
        config.auth_info.token = Some(SecretString::from("controller".to_owned()));
        let clients = Clients::new(config).unwrap();
        let theirs = clients.with_token(SecretString::from("theirs".to_owned())).unwrap();
        let maps: Api<ConfigMap> = Api::namespaced(theirs, "shop");
        assert!(maps.create(&PostParams::default(), &config_map()).await.is_err());
        assert_eq!(seen.lock().unwrap()[0].1["authorization"], "Bearer theirs");
    }

    #[test]
    fn only_watches_and_followed_logs_are_endless() {
        assert!(is_endless(&"/api/v1/pods?limit=5&watch=true".parse().unwrap()));
        assert!(!is_endless(&"/api/v1/pods?labelSelector=watch%3Dtrue".parse().unwrap()));
        assert!(!is_endless(&"/api/v1/pods".parse().unwrap()));
    }
}
