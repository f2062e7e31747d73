//! Records what a real store answers while the source contract is held against it, and plays it back.
//!
//! ```text
//! contract::holds -> recorder (127.0.0.1) -> store          contract::holds -> player (127.0.0.1) -> recorded replies
//! ```

use std::sync::{Arc, Mutex, PoisonError};

use amend_telemetry::contract::recorded::{Exchange, Recorded};
use amend_telemetry::contract::{asked, holds};
use amend_telemetry::source::open;
use anyhow::{Context, anyhow, ensure};
use axum::Router;
use axum::extract::Request;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};

use crate::bench::web;

/// Bytes of one question.
const QUESTION_MAX: usize = 1 << 20;

/// Holds the contract against the store at `upstream` and keeps every exchange; `headers` go with each question and are not kept.
///
/// # Errors
/// When the store holds nothing about what is asked, or breaks a promise.
pub async fn record(upstream: &str, headers: &HeaderMap, about: Recorded) -> anyhow::Result<Recorded> {
    let kept = Arc::new(Mutex::new(Recorded { exchanges: Vec::new(), ..about.clone() }));
    let (client, upstream) = (web::client()?, upstream.trim_end_matches('/').to_owned());
    let forwarding = {
        let (kept, headers) = (Arc::clone(&kept), headers.clone());
        move |request: Request| {
            let (kept, headers, client, upstream) =
                (Arc::clone(&kept), headers.clone(), client.clone(), upstream.clone());
            async move { forwarded(&client, &upstream, headers, request, &kept).await }
        }
    };
    let url = serve(Router::new().fallback(forwarding)).await?;
    let subject = about.subject(&url).map_err(|why| anyhow!(why))?;
    let source = open(subject.config.clone(), &subject.egress)?;
    let found = asked(source.as_ref(), &subject, None).await;
    let many = found.answer.known().copied().with_context(|| format!("the store cannot say: {:?}", found.answer))?;
    ensure!(many > 0, "the store holds nothing about {} in {}: {}", about.workload, about.namespace, found.asked.query);
    let broken = holds(&subject).await;
    ensure!(broken.is_empty(), "promises that the store breaks: {broken:#?}");
    let kept = kept.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(kept)
}

/// Holds the contract against the replies alone.
///
/// # Errors
/// When a promise is broken.
pub async fn play(recorded: &Recorded) -> anyhow::Result<()> {
    let known = Arc::new(recorded.clone());
    let answering = move |request: Request| {
        let known = Arc::clone(&known);
        async move {
            match read(request).await {
                Ok((asked, body)) => match known.reply_to(&asked, &body) {
                    Some(exchange) => answer(exchange),
                    None => StatusCode::NOT_FOUND.into_response(),
                },
                Err(refused) => refused,
            }
        }
    };
    let url = serve(Router::new().fallback(answering)).await?;
    let broken = holds(&recorded.subject(&url).map_err(|why| anyhow!(why))?).await;
    ensure!(broken.is_empty(), "promises that {} breaks: {broken:#?}", recorded.store);
    Ok(())
}

async fn serve(router: Router) -> anyhow::Result<String> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    tokio::spawn(async move { axum::serve(listener, router).await });
    Ok(url)
}

/// The question as it is kept: method, path and query, and the body.
async fn read(request: Request) -> Result<(String, String), Response> {
    let (parts, body) = request.into_parts();
    let asked = format!("{} {}", parts.method, parts.uri.path_and_query().map_or("/", |path| path.as_str()));
    match axum::body::to_bytes(body, QUESTION_MAX).await {
        Ok(bytes) => Ok((asked, String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) => Err((StatusCode::PAYLOAD_TOO_LARGE, error.to_string()).into_response()),
    }
}

async fn forwarded(
    client: &reqwest::Client,
    upstream: &str,
    mut headers: HeaderMap,
    request: Request,
    kept: &Mutex<Recorded>,
) -> Response {
    let method = request.method().clone();
    if let Some(kind) = request.headers().get(header::CONTENT_TYPE) {
        headers.insert(header::CONTENT_TYPE, kind.clone());
    }
    let (asked, body) = match read(request).await {
        Ok(question) => question,
        Err(refused) => return refused,
    };
    let path = asked.split_once(' ').map_or("/", |(_, path)| path);
    let sent = client.request(method, format!("{upstream}{path}")).headers(headers).body(body.clone()).send().await;
    let told = match sent {
        Ok(response) => {
            let status = response.status().as_u16();
            response.text().await.map(|reply| (status, reply))
        }
        Err(error) => Err(error),
    };
    match told {
        Ok((status, reply)) => {
            let exchange = Exchange { asked, body, status, reply };
            kept.lock().unwrap_or_else(PoisonError::into_inner).note(exchange.clone());
            answer(&exchange)
        }
        Err(error) => (StatusCode::BAD_GATEWAY, error.to_string()).into_response(),
    }
}

fn answer(exchange: &Exchange) -> Response {
    let status = StatusCode::from_u16(exchange.status).unwrap_or(StatusCode::BAD_GATEWAY);
    (status, [(header::CONTENT_TYPE, "application/json")], exchange.reply.clone()).into_response()
}
