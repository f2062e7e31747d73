//! The webhooks over HTTP: prove, bound, read, store, and only then say yes.
//!
//! | answer | means to the sender |
//! |---|---|
//! | 200 | stored, or nothing for us, or refused for good and counted |
//! | 400, 401, 413, 422 | wrong; sending it again changes nothing |
//! | 408 | the body did not arrive in time |
//! | 503 with `Retry-After` | full, or the store is away or slow: send it again (Alertmanager retries on 5xx only, never on 429) |

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::extract::{FromRequestParts, Request, State};
use axum::http::header::{CONTENT_LENGTH, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use http_body_util::{BodyExt, Limited};
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::alertmanager::{self, Naming};
use super::build_report::{PayloadError, Reading, is_delivery};
use super::deliveries::Deliveries;
use super::depth::{DEPTH_MAX, is_deeper_than};
use super::proof::{ClientCertificate, Secrets, bearer};
use super::queue::{Queue, QueueError};
use super::{BuildStore, StoreError, Stored};
use super::{gitea, github, gitlab};
use crate::metrics::{ByForge, Metrics};

/// No payload that we know is larger: Alertmanager's are a few KiB an alert, forges cap theirs below.
pub const BODY_MAX: usize = 1024 * 1024;

/// Alertmanager and GitHub give up after 10 s.
pub const REQUEST_LIMIT: Duration = Duration::from_secs(10);

/// Requests that are being read at once: at 1 MiB each this bounds memory. What they bring is bounded by the queue.
pub const REQUESTS_MAX: usize = 64;

/// Seconds after which a refused sender may come again.
const RETRY: &str = "5";

/// Who may send what. A sender without a secret here is refused.
#[derive(Clone, Debug, Default)]
pub struct Senders {
    pub alertmanager: Secrets,
    /// Accept a client certificate signed by the server's client authority in place of Alertmanager's token.
    pub alertmanager_by_certificate: bool,
    pub gitea: Secrets,
    pub github: Secrets,
    pub gitlab: Secrets,
    pub naming: Naming,
}

/// The intake's routes: `POST /intake/{alertmanager,gitea,github,gitlab}`.
pub fn routes(senders: Senders, queue: Queue, builds: Arc<dyn BuildStore>, metrics: Metrics) -> Router {
    routes_within(REQUEST_LIMIT, senders, queue, builds, metrics)
}

/// The same with another limit for one request.
pub fn routes_within(
    limit: Duration,
    senders: Senders,
    queue: Queue,
    builds: Arc<dyn BuildStore>,
    metrics: Metrics,
) -> Router {
    let slots = Arc::new(Semaphore::new(REQUESTS_MAX));
    let intake = Arc::new(Intake { limit, senders, queue, builds, metrics, slots, deliveries: Deliveries::default() });
    Router::new()
        .route("/intake/alertmanager", post(receive_alerts))
        .route("/intake/gitea", post(receive_gitea))
        .route("/intake/github", post(receive_github))
        .route("/intake/gitlab", post(receive_gitlab))
        .with_state(intake)
}

struct Intake {
    limit: Duration,
    senders: Senders,
    queue: Queue,
    builds: Arc<dyn BuildStore>,
    metrics: Metrics,
    slots: Arc<Semaphore>,
    deliveries: Deliveries,
}

/// Why a request is refused; the sentence goes to the sender, the reason word to the metric.
#[derive(Debug, PartialEq, Eq)]
struct Refusal {
    status: StatusCode,
    reason: &'static str,
    sentence: String,
}

fn refusal(status: StatusCode, reason: &'static str, sentence: impl Into<String>) -> Refusal {
    Refusal { status, reason, sentence: sentence.into() }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(json!({"error": self.sentence}))).into_response();
        let (name, value) = match self.status {
            StatusCode::SERVICE_UNAVAILABLE => (RETRY_AFTER, RETRY),
            StatusCode::UNAUTHORIZED => (WWW_AUTHENTICATE, "Bearer"),
            _ => return response,
        };
        response.headers_mut().insert(name, http::HeaderValue::from_static(value));
        response
    }
}

async fn receive_alerts(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    intake.answer("alertmanager", |slot| intake.alerts(request, slot)).await
}

async fn receive_gitea(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    intake.answer("gitea", |slot| intake.build(&GITEA, request, slot)).await
}

async fn receive_github(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    intake.answer("github", |slot| intake.build(&GITHUB, request, slot)).await
}

async fn receive_gitlab(State(intake): State<Arc<Intake>>, request: Request) -> Response {
    intake.answer("gitlab", |slot| intake.build(&GITLAB, request, slot)).await
}

/// The right to hold one body, and whether it has arrived.
struct Slot<'a> {
    read: Arc<AtomicBool>,
    _permit: SemaphorePermit<'a>,
}

impl Intake {
    /// Runs `work` with a slot, which it gives back once nothing large is held, and with a deadline; counts what came of it.
    ///
    /// Only a body that does not arrive is the sender's fault: once it is read, being late is ours, and says so with a status
    /// that makes the sender come again.
    async fn answer<'a, W>(&'a self, route: &'static str, work: impl FnOnce(Slot<'a>) -> W) -> Response
    where
        W: Future<Output = Result<serde_json::Value, Refusal>>,
    {
        let started = Instant::now();
        let result = match self.slots.try_acquire() {
            Err(_) => Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many requests at once")),
            Ok(permit) => {
                let read = Arc::new(AtomicBool::new(false));
                let slot = Slot { read: Arc::clone(&read), _permit: permit };
                tokio::time::timeout(self.limit, work(slot)).await.unwrap_or_else(|_| {
                    Err(match read.load(Ordering::Relaxed) {
                        true => refusal(StatusCode::SERVICE_UNAVAILABLE, "store", "it could not be stored in time"),
                        false => refusal(StatusCode::REQUEST_TIMEOUT, "late", "the body did not arrive in time"),
                    })
                })
            }
        };
        self.metrics.observe_intake(route, started.elapsed());
        match result {
            Ok(answer) => Json(answer).into_response(),
            Err(refusal) => {
                self.metrics.refuse(route, refusal.reason);
                tracing::debug!(route, reason = refusal.reason, why = refusal.sentence, "request refused");
                refusal.into_response()
            }
        }
    }

    async fn alerts(&self, request: Request, slot: Slot<'_>) -> Result<serde_json::Value, Refusal> {
        let (mut parts, body) = request.into_parts();
        let by_certificate = self.senders.alertmanager_by_certificate
            && axum::Extension::<ClientCertificate>::from_request_parts(&mut parts, &()).await.is_ok();
        let by_token = bearer(&parts.headers).is_some_and(|token| self.senders.alertmanager.admit(token));
        if !by_certificate && !by_token {
            let sentence = match self.senders.alertmanager.is_empty() && !self.senders.alertmanager_by_certificate {
                true => "no token is configured for Alertmanager",
                false => "this is not Alertmanager's token",
            };
            return Err(refusal(StatusCode::UNAUTHORIZED, "unauthorized", sentence));
        }
        let body = bounded(&parts.headers, body, &slot).await?;
        let alerts = alertmanager::read(&body, &self.senders.naming)
            .map_err(|error| refusal(StatusCode::UNPROCESSABLE_ENTITY, "unreadable", error.to_string()))?;
        self.metrics.alerts_truncated.inc_by(alerts.truncated);
        for reason in &alerts.dropped {
            self.metrics.drop_signal("alert", reason);
        }
        drop((body, slot));
        let (accepted, dropped) = (alerts.signals.len(), alerts.dropped.len());
        match self.queue.submit(alerts.signals).await {
            Ok(()) => Ok(json!({"accepted": accepted, "dropped": dropped})),
            Err(QueueError::Store(StoreError::Refused { why })) => {
                Ok(json!({"accepted": 0, "dropped": dropped + accepted, "why": why}))
            }
            Err(QueueError::Full) => {
                (0..accepted).for_each(|_| self.metrics.drop_signal("alert", "queue_full"));
                Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "full", QueueError::Full.to_string()))
            }
            Err(QueueError::Store(StoreError::Unavailable { .. })) => {
                Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "store", "the alerts could not be stored"))
            }
        }
    }

    async fn build(&self, forge: &ForgeHook, request: Request, slot: Slot<'_>) -> Result<serde_json::Value, Refusal> {
        let (parts, body) = request.into_parts();
        let secrets = (forge.secrets)(&self.senders);
        if secrets.is_empty() {
            let sentence = format!("no secret is configured for {}", forge.name);
            return Err(refusal(StatusCode::UNAUTHORIZED, "unauthorized", sentence));
        }
        let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let wrong =
            || refusal(StatusCode::UNAUTHORIZED, "unauthorized", format!("{} does not match", forge.proof_header));
        let proof = header(forge.proof_header);
        // A token can be judged before the body is read, a signature only after.
        if forge.proof == Proof::Token && !secrets.admit(proof) {
            return Err(wrong());
        }
        let body = bounded(&parts.headers, body, &slot).await?;
        if forge.proof == Proof::Signature {
            let signature = proof.strip_prefix(forge.signature_prefix).ok_or_else(wrong)?;
            if !secrets.signed(&body, signature) {
                return Err(wrong());
            }
        }
        let delivery = header(forge.delivery_header);
        if !is_delivery(delivery) {
            let sentence = format!("{} is missing or odd", forge.delivery_header);
            return Err(refusal(StatusCode::BAD_REQUEST, "no_delivery", sentence));
        }
        let known = format!("{}/{delivery}", forge.name);
        if self.deliveries.knows(&known) {
            return Ok(self.counted(forge, "replayed"));
        }
        let reading = (forge.read)(header(forge.event_header), delivery, &body)
            .map_err(|error| refusal(StatusCode::UNPROCESSABLE_ENTITY, "unreadable", error.to_string()))?;
        let result = match reading {
            Reading::Nothing { why } => why,
            Reading::Failed(report) => match self.builds.store(*report).await {
                Ok(Stored::New) => "stored",
                Ok(Stored::Repeat) => "repeated",
                Err(error @ StoreError::Refused { .. }) => {
                    tracing::warn!(forge = forge.name, %error, "build not stored");
                    "store_refused"
                }
                Err(StoreError::Unavailable { .. }) => {
                    return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "store", "the build could not be stored"));
                }
            },
        };
        self.deliveries.remember(&known);
        Ok(self.counted(forge, result))
    }

    fn counted(&self, forge: &ForgeHook, result: &'static str) -> serde_json::Value {
        self.metrics.builds_received.get_or_create(&ByForge { forge: forge.name, result }).inc();
        json!({"result": result})
    }
}

/// What a forge proves itself with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Proof {
    /// HMAC-SHA256 over the body.
    Signature,
    /// The secret itself.
    Token,
}

/// How one forge's webhook differs from another's.
struct ForgeHook {
    name: &'static str,
    proof: Proof,
    proof_header: &'static str,
    signature_prefix: &'static str,
    event_header: &'static str,
    delivery_header: &'static str,
    secrets: fn(&Senders) -> &Secrets,
    read: fn(&str, &str, &[u8]) -> Result<Reading, PayloadError>,
}

const GITEA: ForgeHook = ForgeHook {
    name: "gitea",
    proof: Proof::Signature,
    proof_header: "x-gitea-signature",
    signature_prefix: "",
    event_header: "x-gitea-event",
    delivery_header: "x-gitea-delivery",
    secrets: |senders| &senders.gitea,
    read: gitea::read,
};

const GITHUB: ForgeHook = ForgeHook {
    name: "github",
    proof: Proof::Signature,
    proof_header: "x-hub-signature-256",
    signature_prefix: "sha256=",
    event_header: "x-github-event",
    delivery_header: "x-github-delivery",
    secrets: |senders| &senders.github,
    read: github::read,
};

const GITLAB: ForgeHook = ForgeHook {
    name: "gitlab",
    proof: Proof::Token,
    proof_header: "x-gitlab-token",
    signature_prefix: "",
    event_header: "x-gitlab-event",
    delivery_header: "x-gitlab-event-uuid",
    secrets: |senders| &senders.gitlab,
    read: gitlab::read,
};

/// The whole body, within its bounds of size and depth.
async fn bounded(headers: &HeaderMap, body: axum::body::Body, slot: &Slot<'_>) -> Result<Bytes, Refusal> {
    let too_large =
        || refusal(StatusCode::PAYLOAD_TOO_LARGE, "too_large", format!("the body is larger than {BODY_MAX} bytes"));
    let announced = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > BODY_MAX) {
        return Err(too_large());
    }
    let body = match Limited::new(body, BODY_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => return Err(too_large()),
        Err(_) => return Err(refusal(StatusCode::BAD_REQUEST, "broken_off", "the body broke off")),
    };
    slot.read.store(true, Ordering::Relaxed);
    if is_deeper_than(&body, DEPTH_MAX) {
        let sentence = format!("the body is nested deeper than {DEPTH_MAX}");
        return Err(refusal(StatusCode::UNPROCESSABLE_ENTITY, "too_deep", sentence));
    }
    Ok(body)
}
