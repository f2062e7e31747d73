//! Watches: changes as they happen, one JSON line each, with bookmarks between.

use std::time::Duration;

use axum::body::{Body, Bytes};
use futures::stream;
use serde_json::{Value, json};

use super::selector::Selector;
use super::status::Refusal;
use super::store::{Change, ChangeKind, Store};

/// How often an idle watch gets a bookmark (real time); the real server's is about a minute, ours is for short demos.
const BOOKMARK: Duration = Duration::from_secs(5);

/// What a watch is to deliver.
pub struct Wanted {
    /// `plural.group`.
    pub resource: String,
    /// Namespace, or everywhere.
    pub namespace: Option<String>,
    /// Which objects.
    pub selector: Selector,
    /// Start after this version; `None` or 0: begin with what is there.
    pub since: Option<u64>,
    /// Whether bookmarks are welcome.
    pub bookmarks: bool,
    /// Whether the initial objects are asked for, ended by a marked bookmark.
    pub initial_events: bool,
    /// When to end (real time).
    pub timeout: Duration,
    /// Form of the objects on the wire.
    pub shape: Box<dyn Fn(&Value) -> Value + Send + Sync>,
}

struct Watch {
    store: Store,
    wanted: Wanted,
    at: u64,
    pending: Vec<Bytes>,
    changes: tokio::sync::watch::Receiver<u64>,
    deadline: tokio::time::Instant,
    over: bool,
}

fn line(kind: &str, object: &Value) -> Bytes {
    let mut text = json!({ "type": kind, "object": object }).to_string();
    text.push('\n');
    Bytes::from(text)
}

/// The body of a watch.
pub fn body(store: Store, wanted: Wanted) -> Result<Body, Refusal> {
    let changes = store.changes();
    let mut pending = Vec::new();
    let at = match wanted.since {
        Some(since) if since > 0 && !wanted.initial_events => {
            // A version that is already forgotten is an error event, as in the real server.
            if let Err(refusal) = store.changes_since(&wanted.resource, since) {
                return Ok(Body::from(line("ERROR", &refusal.status())));
            }
            since
        }
        _ => {
            let (version, objects) =
                store.list_selected(&wanted.resource, wanted.namespace.as_deref(), &wanted.selector);
            pending.extend(objects.iter().map(|object| line("ADDED", &(wanted.shape)(object))));
            if wanted.initial_events {
                let mut mark = bookmark(&store, &wanted, version);
                mark["metadata"]["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
                pending.push(line("BOOKMARK", &mark));
            }
            version
        }
    };
    pending.reverse();
    let deadline = tokio::time::Instant::now() + wanted.timeout;
    let watch = Watch { store, wanted, at, pending, changes, deadline, over: false };
    Ok(Body::from_stream(stream::unfold(watch, next)))
}

fn bookmark(store: &Store, wanted: &Wanted, version: u64) -> Value {
    let (api_version, kind) = store
        .resource(&wanted.resource)
        .map(|resource| (resource.api_version(), resource.kind.clone()))
        .unwrap_or_default();
    (wanted.shape)(&json!({ "apiVersion": api_version, "kind": kind, "metadata": {
        "resourceVersion": version.to_string(), "creationTimestamp": null } }))
}

async fn next(mut watch: Watch) -> Option<(Result<Bytes, std::io::Error>, Watch)> {
    loop {
        if let Some(line) = watch.pending.pop() {
            return Some((Ok(line), watch));
        }
        if watch.over {
            return None;
        }
        match watch.store.changes_since(&watch.wanted.resource, watch.at) {
            Err(refusal) => {
                watch.over = true;
                watch.pending.push(line("ERROR", &refusal.status()));
                continue;
            }
            Ok((version, changes)) => {
                watch.at = version;
                watch.pending = changes.iter().filter_map(|change| event(&watch.wanted, change)).collect();
                watch.pending.reverse();
                if !watch.pending.is_empty() {
                    continue;
                }
            }
        }
        tokio::select! {
            changed = watch.changes.changed() => {
                if changed.is_err() {
                    return None;
                }
            }
            () = tokio::time::sleep(BOOKMARK), if watch.wanted.bookmarks => {
                let mark = bookmark(&watch.store, &watch.wanted, watch.at);
                watch.pending.push(line("BOOKMARK", &mark));
            }
            () = tokio::time::sleep_until(watch.deadline) => return None,
        }
    }
}

fn event(wanted: &Wanted, change: &Change) -> Option<Bytes> {
    let in_namespace =
        wanted.namespace.as_ref().is_none_or(|namespace| change.object["metadata"]["namespace"] == **namespace);
    if !in_namespace {
        return None;
    }
    let now = wanted.selector.matches(&change.object);
    let was = change.before.as_ref().is_some_and(|before| wanted.selector.matches(before));
    let kind = match change.kind {
        ChangeKind::Deleted if now || was => "DELETED",
        ChangeKind::Deleted => return None,
        ChangeKind::Added | ChangeKind::Modified => match (was, now) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return None,
        },
    };
    Some(line(kind, &(wanted.shape)(&change.object)))
}
