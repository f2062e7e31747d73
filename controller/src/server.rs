//! The one HTTP server: probes, metrics, intake and dashboard, over plain TCP or TLS.
//!
//! axum's own `serve` knows neither TLS nor a bound on connections, so the accept loop is ours; the rest is hyper's.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{Request, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;
use tower::util::service_fn;
use tower_http::catch_panic::CatchPanicLayer;

use crate::intake::proof::ClientCertificate;
use crate::metrics::{self, Metrics};

pub mod tls;

use tls::{Tls, TlsError};

/// Connections open at once; each costs a file descriptor and some 20 KiB.
pub const CONNECTIONS_MAX: usize = 512;

/// A client that has not sent its request's head by then is slow on purpose.
const HEAD_LIMIT: Duration = Duration::from_secs(10);

/// Time for the TLS handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(5);

/// How long requests under way may take to end once we are stopping: longer than the intake's own limit.
const DRAIN: Duration = Duration::from_secs(12);

/// Where a request came from; put into every request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// What keeps the process from being ready, by part.
#[derive(Clone, Debug, Default)]
pub struct Health {
    unready: Arc<Mutex<BTreeMap<&'static str, String>>>,
}

impl Health {
    /// Ready once [`Health::ready`] was said for each of `parts`.
    pub fn waiting_for(parts: impl IntoIterator<Item = &'static str>) -> Self {
        let parts = parts.into_iter().map(|part| (part, "has not started".to_owned()));
        Self { unready: Arc::new(Mutex::new(parts.collect())) }
    }

    pub fn ready(&self, part: &'static str) {
        self.unready.lock().unwrap_or_else(PoisonError::into_inner).remove(part);
    }

    /// `why` is a clause that follows the part's name: `watch of incidents: no answer for 60 s`.
    pub fn unready(&self, part: &'static str, why: impl Into<String>) {
        self.unready.lock().unwrap_or_else(PoisonError::into_inner).insert(part, why.into());
    }

    /// Every part that is not ready, with the reason.
    pub fn complaints(&self) -> Vec<String> {
        let unready = self.unready.lock().unwrap_or_else(PoisonError::into_inner);
        unready.iter().map(|(part, why)| format!("{part}: {why}")).collect()
    }
}

/// `/livez`, `/readyz` and `/metrics`.
pub fn operations(health: Health, metrics: Metrics) -> Router {
    Router::new()
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready).with_state(health))
        .route("/metrics", get(exposed).with_state(metrics))
}

async fn ready(State(health): State<Health>) -> Response {
    let complaints = health.complaints();
    match complaints.is_empty() {
        true => "ok\n".into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, complaints.join("\n") + "\n").into_response(),
    }
}

async fn exposed(State(metrics): State<Metrics>) -> Response {
    ([(CONTENT_TYPE, metrics::CONTENT_TYPE)], metrics.text()).into_response()
}

/// Serves `app` on `listener` until `stop`, then lets requests under way end.
///
/// # Errors
/// Only while starting, when the certificate files cannot be used. Later trouble with them keeps the old certificate.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Tls>,
    app: Router,
    stop: CancellationToken,
) -> Result<(), TlsError> {
    let mut acceptor = tls.map(tls::Acceptor::new).transpose()?;
    let app = app.layer(CatchPanicLayer::new());
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let slot = tokio::select! {
            () = stop.cancelled() => break,
            slot = slots.clone().acquire_owned() => slot,
        };
        let (stream, peer) = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of file descriptors, most likely: a connection must end first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
        };
        while connections.try_join_next().is_some() {}
        let connection = Connection { app: app.clone(), peer, stop: stop.clone() };
        let acceptor = acceptor.as_mut().map(tls::Acceptor::current);
        connections.spawn(async move {
            connection.run(stream, acceptor).await;
            drop(slot);
        });
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, drained).await.is_err() {
        tracing::info!("connections were still open at the end");
    }
    Ok(())
}

struct Connection {
    app: Router,
    peer: SocketAddr,
    stop: CancellationToken,
}

impl Connection {
    async fn run(self, stream: TcpStream, acceptor: Option<tokio_rustls::TlsAcceptor>) {
        let _ = stream.set_nodelay(true);
        let Some(acceptor) = acceptor else { return self.speak(stream, None).await };
        match tokio::time::timeout(HANDSHAKE_LIMIT, acceptor.accept(stream)).await {
            Ok(Ok(stream)) => {
                // Present only when it was verified against the client authority.
                let certificate = stream.get_ref().1.peer_certificates().map(|_| ClientCertificate);
                self.speak(stream, certificate).await;
            }
            Ok(Err(error)) => tracing::debug!(peer = %self.peer, %error, "TLS handshake failed"),
            Err(_) => tracing::debug!(peer = %self.peer, "TLS handshake took too long"),
        }
    }

    async fn speak(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin + 'static,
        certificate: Option<ClientCertificate>,
    ) {
        let Self { app, peer, stop } = self;
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(Peer(peer));
            if let Some(certificate) = certificate {
                request.extensions_mut().insert(certificate);
            }
            app.clone().oneshot(request)
        });
        let mut builder = auto::Builder::new(TokioExecutor::new());
        builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_LIMIT);
        builder.http2().timer(TokioTimer::new()).max_concurrent_streams(64).keep_alive_interval(HEAD_LIMIT);
        let connection = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
        let mut connection = std::pin::pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%peer, %error, "connection ended early");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_every_part_is_and_says_what_is_missing() {
        let health = Health::waiting_for(["watch of incidents", "record"]);
        health.ready("record");
        assert_eq!(health.complaints(), ["watch of incidents: has not started"]);
        health.ready("watch of incidents");
        assert!(health.complaints().is_empty());
        health.unready("record", "the copy lags 11 min");
        assert_eq!(health.complaints(), ["record: the copy lags 11 min"]);
    }
}
