//! Live updates: the server says *that* something changed, the page asks again under the reader's own rights.

use std::convert::Infallible;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::RETRY_AFTER;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures::StreamExt;
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::Dashboard;
use super::views::{Change, Reader};

/// Open streams; each holds a connection.
const STREAMS_MAX: usize = 64;

/// A page is told at most once in this time, so that a storm is not a storm of reads.
const PACE: Duration = Duration::from_millis(500);

/// Proxies cut connections that are silent for a minute, some after 30 s.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

static STREAMS: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(STREAMS_MAX)));

/// Which changes a page wants to hear of: all, or those of one incident.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Wanted {
    namespace: Option<String>,
    name: Option<String>,
}

impl Wanted {
    fn matches(&self, change: &Change) -> bool {
        self.namespace.as_ref().is_none_or(|namespace| *namespace == change.namespace)
            && self.name.as_ref().is_none_or(|name| *name == change.name)
    }
}

/// A stream of events `change` without content: names of incidents are told by pages only.
pub(super) async fn events(
    _reader: Reader,
    State(dashboard): State<Dashboard>,
    Query(wanted): Query<Wanted>,
) -> Response {
    let Ok(slot) = STREAMS.clone().try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "30")]).into_response();
    };
    let changes = dashboard.views.changes().filter(move |change| {
        let matches = wanted.matches(change);
        async move { matches }
    });
    // Changes that arrive while a page is being paced become one.
    let bursts = changes.ready_chunks(1024).then(|_| async {
        tokio::time::sleep(PACE).await;
        Ok::<_, Infallible>(Event::default().event("change").data("-"))
    });
    let hello = futures::stream::once(async { Ok(Event::default().event("hello").data("-")) });
    let stream = hello.chain(bursts).inspect(move |_| {
        let _held_as_long_as_the_stream = &slot;
    });
    Sse::new(stream).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_hears_of_its_own_incident_only() {
        let change = Change { namespace: "shop".to_owned(), name: "inc-1".to_owned() };
        let wanted =
            |namespace: &str, name: &str| Wanted { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()) };
        assert!(wanted("shop", "inc-1").matches(&change));
        assert!(!wanted("shop", "inc-2").matches(&change));
        assert!(!wanted("bank", "inc-1").matches(&change));
        assert!(Wanted::default().matches(&change));
    }
}
