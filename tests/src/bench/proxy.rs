//! A proxy in front of a part, that holds, delays, refuses or cuts the requests that a story names.
//!
//! "Kill it while it opens the pull request" is then a point in the traffic and not a sleep:
//!
//! ```no_run
//! # use amend_tests::bench::proxy::{Moment, Proxy};
//! # async fn story(gitea: &str) -> anyhow::Result<()> {
//! let proxy = Proxy::start(gitea).await?;
//! let mut held = proxy.hold(Moment::AfterAnswer, |seen| seen.method == "POST" && seen.path.ends_with("/pulls"));
//! held.reached().await?; // Gitea has opened it, the client does not know yet
//! held.release();
//! # Ok(()) }
//! ```

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context;
use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;

use super::ports::free_port;
use super::web;

/// Nothing that goes over the bench is larger.
const LARGEST_BODY: usize = 64 << 20;

/// How long a story waits for a request that it holds.
const REACHED_WITHIN: Duration = Duration::from_secs(120);

/// A request that went to the proxy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub method: String,
    pub path: String,
    /// Without the question mark.
    pub query: String,
}

/// When a rule acts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moment {
    /// The part has not seen the request.
    BeforeRequest,
    /// The part has done it; the client has no answer yet.
    AfterAnswer,
}

/// What is done with a request that a rule fits.
#[derive(Debug)]
enum Deed {
    Delay(Duration),
    Refuse(StatusCode),
    /// No answer at all: the connection ends.
    Cut,
    Hold(mpsc::UnboundedSender<(Seen, oneshot::Sender<Verdict>)>),
}

/// What becomes of a request that was held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    GoOn,
    Cut,
}

type Fits = Box<dyn Fn(&Seen) -> bool + Send + Sync>;

struct Rule {
    id: u64,
    moment: Moment,
    fits: Fits,
    deed: Deed,
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule").field("moment", &self.moment).field("deed", &self.deed).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
struct Traffic {
    rules: Vec<Rule>,
    next: u64,
    seen: Vec<(Seen, Option<u16>)>,
}

#[derive(Debug, Clone)]
struct Shared {
    upstream: String,
    traffic: Arc<Mutex<Traffic>>,
}

/// A proxy that listens on 127.0.0.1 until it is dropped.
#[derive(Debug)]
pub struct Proxy {
    url: String,
    shared: Shared,
    server: JoinHandle<()>,
}

/// A rule that can be taken away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleId(u64);

impl Proxy {
    /// Starts one in front of `upstream` (`http://127.0.0.1:PORT`).
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(upstream: &str) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", free_port()?)).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let shared = Shared { upstream: upstream.trim_end_matches('/').to_owned(), traffic: Arc::default() };
        let router = Router::new().fallback(pass).with_state(shared.clone());
        let server = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::warn!(%error, "the proxy ended");
            }
        });
        Ok(Self { url, shared, server })
    }

    /// Its own address: give this to the client.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Every request so far with the part's status; none when it was not passed on or not answered.
    #[must_use]
    pub fn seen(&self) -> Vec<(Seen, Option<u16>)> {
        self.shared.lock().seen.clone()
    }

    /// Holds every request that fits until the story lets it go.
    pub fn hold(&self, moment: Moment, fits: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> Held {
        let (sender, receiver) = mpsc::unbounded_channel();
        let rule = self.add(moment, fits, Deed::Hold(sender));
        Held { rule, traffic: Arc::clone(&self.shared.traffic), arrivals: receiver, waiting: Vec::new() }
    }

    /// Delays every request that fits.
    pub fn delay(&self, how_long: Duration, fits: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> RuleId {
        self.add(Moment::BeforeRequest, fits, Deed::Delay(how_long))
    }

    /// Answers every request that fits with a status; at `AfterAnswer` the part has done it nevertheless.
    pub fn refuse(
        &self,
        moment: Moment,
        status: StatusCode,
        fits: impl Fn(&Seen) -> bool + Send + Sync + 'static,
    ) -> RuleId {
        self.add(moment, fits, Deed::Refuse(status))
    }

    /// Ends the connection of every request that fits without an answer.
    pub fn cut(&self, moment: Moment, fits: impl Fn(&Seen) -> bool + Send + Sync + 'static) -> RuleId {
        self.add(moment, fits, Deed::Cut)
    }

    /// Takes a rule away.
    pub fn remove(&self, rule: RuleId) {
        self.shared.lock().rules.retain(|other| other.id != rule.0);
    }

    fn add(&self, moment: Moment, fits: impl Fn(&Seen) -> bool + Send + Sync + 'static, deed: Deed) -> RuleId {
        let mut traffic = self.shared.lock();
        traffic.next += 1;
        let id = traffic.next;
        traffic.rules.push(Rule { id, moment, fits: Box::new(fits), deed });
        RuleId(id)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Requests that wait for the story. Dropping it lets all go and takes the rule away.
#[derive(Debug)]
pub struct Held {
    rule: RuleId,
    traffic: Arc<Mutex<Traffic>>,
    arrivals: mpsc::UnboundedReceiver<(Seen, oneshot::Sender<Verdict>)>,
    waiting: Vec<oneshot::Sender<Verdict>>,
}

impl Held {
    /// Waits until the next request is held.
    ///
    /// # Errors
    /// When none has come within two minutes.
    pub async fn reached(&mut self) -> anyhow::Result<Seen> {
        let arrived = tokio::time::timeout(REACHED_WITHIN, self.arrivals.recv()).await;
        let (seen, go) = arrived.context("no such request came within two minutes")?.context("the proxy is gone")?;
        self.waiting.push(go);
        Ok(seen)
    }

    /// Lets the held requests go on; later ones pass without being held.
    pub fn release(self) {
        drop(self);
    }

    /// Ends the held requests where they are: those held before the part never reach it. Later ones pass without being held.
    ///
    /// Killing the client is not enough: the proxy may not have noticed yet that nobody waits for the answer.
    pub fn cut(mut self) {
        for waiting in self.waiting.drain(..) {
            // Gone already: it ended by itself.
            let _ = waiting.send(Verdict::Cut);
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut traffic = self.traffic.lock().unwrap_or_else(PoisonError::into_inner);
        traffic.rules.retain(|other| other.id != self.rule.0);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does what the rules say at this moment; an answer when the request ends here.
    async fn act(&self, moment: Moment, seen: &Seen) -> Option<Response> {
        enum Now {
            Wait(Duration),
            Answer(StatusCode),
            Cut,
            Until(oneshot::Receiver<Verdict>),
        }
        let deeds: Vec<Now> = {
            let traffic = self.lock();
            let rules = traffic.rules.iter().filter(|rule| rule.moment == moment && (rule.fits)(seen));
            rules
                .map(|rule| match &rule.deed {
                    Deed::Delay(how_long) => Now::Wait(*how_long),
                    Deed::Refuse(status) => Now::Answer(*status),
                    Deed::Cut => Now::Cut,
                    Deed::Hold(held) => {
                        let (go, verdict) = oneshot::channel();
                        // Nobody waits any more: the sender is dropped and the request goes on.
                        let _ = held.send((seen.clone(), go));
                        Now::Until(verdict)
                    }
                })
                .collect()
        };
        for deed in deeds {
            match deed {
                Now::Wait(how_long) => tokio::time::sleep(how_long).await,
                Now::Answer(status) => return Some((status, "refused by the story").into_response()),
                Now::Cut => return Some(cut()),
                Now::Until(verdict) => match verdict.await.unwrap_or(Verdict::GoOn) {
                    Verdict::GoOn => {}
                    Verdict::Cut => return Some(cut()),
                },
            }
        }
        None
    }
}

/// An answer whose body breaks at once, which ends the connection.
fn cut() -> Response {
    let broken = futures::stream::once(async { Err::<Vec<u8>, _>(std::io::Error::other("cut by the story")) });
    let mut answer = Response::new(Body::from_stream(broken));
    // A promise that is not kept, so that no client takes the empty body for the answer.
    answer.headers_mut().insert("content-length", axum::http::HeaderValue::from_static("1"));
    answer
}

async fn pass(State(shared): State<Shared>, request: Request) -> Response {
    let seen = Seen {
        method: request.method().to_string(),
        path: request.uri().path().to_owned(),
        query: request.uri().query().unwrap_or_default().to_owned(),
    };
    if let Some(answer) = shared.act(Moment::BeforeRequest, &seen).await {
        shared.lock().seen.push((seen, None));
        return answer;
    }
    // In a task of its own: the part does what it was sent, and we know it, even when the client is killed.
    let forwarding = tokio::spawn({
        let (shared, seen) = (shared.clone(), seen.clone());
        async move {
            let answer = forward(&shared.upstream, request).await;
            let status = answer.as_ref().ok().map(|answer| answer.status().as_u16());
            shared.lock().seen.push((seen, status));
            answer
        }
    });
    let answer = match forwarding.await {
        Ok(Ok(answer)) => answer,
        Ok(Err(error)) => (StatusCode::BAD_GATEWAY, format!("{error:#}")).into_response(),
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    };
    match shared.act(Moment::AfterAnswer, &seen).await {
        Some(instead) => instead,
        None => answer,
    }
}

async fn forward(upstream: &str, request: Request) -> anyhow::Result<Response> {
    let (parts, body) = request.into_parts();
    let url = format!("{upstream}{}", parts.uri.path_and_query().map_or("/", |path| path.as_str()));
    let body = to_bytes(body, LARGEST_BODY).await?;
    let mut headers = parts.headers;
    for name in ["host", "connection", "transfer-encoding", "content-length", "expect"] {
        headers.remove(name);
    }
    let answer = web::raw_client()?.request(parts.method, url).headers(headers).body(body).send().await?;
    let mut response = Response::builder().status(answer.status());
    if let Some(headers) = response.headers_mut() {
        *headers = answer.headers().clone();
        for name in ["connection", "transfer-encoding", "content-length"] {
            headers.remove(name);
        }
    }
    let body = Body::from(answer.bytes().await?);
    Ok(response.body(body)?)
}
