use amend_diagnosis::incident::{Assignment, Links, OpenIncident, Reach, assign};
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use http::{Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;

/// When the rollouts of these tests began.
const T: i64 = 1_800_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(T + second).unwrap()
}

fn now() -> Timestamp {
    at(300)
}

/// A Deployment that has been there for a day and its ReplicaSet of this second.
fn rolled(name: &str, kustomization: &str, second: i64) -> Vec<Value> {
    let mut both = vec![deployment(name, kustomization, at(second) - SignedDuration::from_hours(24))];
    both.push(json!({"kind": "ReplicaSet", "metadata": {"name": format!("{name}-6f"), "namespace": "shop",
        "creationTimestamp": at(second), "ownerReferences": [{"kind": "Deployment", "name": name, "uid": name}]}}));
    both
}

fn deployment(name: &str, kustomization: &str, born: Timestamp) -> Value {
    let mut labels = json!({"app": name});
    if !kustomization.is_empty() {
        labels["kustomize.toolkit.fluxcd.io/name"] = json!(kustomization);
        labels["kustomize.toolkit.fluxcd.io/namespace"] = json!("flux-system");
    }
    json!({"kind": "Deployment", "metadata": {"name": name, "namespace": "shop", "uid": name, "creationTimestamp": born, "labels": labels}})
}

/// A Kustomization that reported revisions at these seconds.
fn reporting(seconds: &[i64]) -> Value {
    let entry = |second: &i64| {
        let revision = format!("main@sha1:{:040x}", second + 1_000);
        json!({"firstReconciled": at(*second), "metadata": {"revision": revision}})
    };
    json!({"status": {"history": seconds.iter().rev().map(entry).collect::<Vec<_>>()}})
}

fn found(objects: &[Value], kustomization: &Value) -> Vec<Vec<String>> {
    let of_each = rolled_lately(objects, now()).into_values().flat_map(|rolled| of_one(&rolled, kustomization));
    of_each.map(|rollout| rollout.changed.into_iter().map(|entity| entity.name).collect()).collect()
}

#[test]
fn what_one_applied_revision_replaced_is_one_rollout() {
    let objects = [rolled("cart", "apps", 0), rolled("search", "apps", 1), rolled("ads", "apps", -4_000)].concat();
    assert_eq!(found(&objects, &reporting(&[-4_000, 2])), [["cart", "search"]]);
    assert_eq!(found(&objects, &reporting(&[0])), [["cart", "search"]], "reported before the controller had looked");
    assert_eq!(found(&objects, &reporting(&[120])), [["cart", "search"]], "reported after health checks");
    assert_eq!(found(&objects, &reporting(&[])), [["cart", "search"]], "not reported yet, or a Flux without history");
}

#[test]
fn two_revisions_shortly_after_each_other_are_two_rollouts() {
    let objects = [rolled("cart", "apps", 0), rolled("search", "apps", 20)].concat();
    assert_eq!(found(&objects, &reporting(&[1, 21])), Vec::<Vec<String>>::new());
    assert_eq!(found(&objects, &reporting(&[1])), Vec::<Vec<String>>::new(), "the second is not reported yet");
}

#[test]
fn a_restart_long_after_the_revision_is_no_part_of_its_rollout() {
    let objects = [rolled("cart", "apps", 0), rolled("search", "apps", 200)].concat();
    assert_eq!(found(&objects, &reporting(&[240])), Vec::<Vec<String>>::new());
}

#[test]
fn what_was_just_installed_is_no_rollout() {
    let mut objects = [rolled("cart", "apps", 0), rolled("search", "apps", 0)].concat();
    objects[0] = deployment("cart", "apps", at(0));
    objects[2] = deployment("search", "apps", at(-1));
    assert_eq!(found(&objects, &reporting(&[1])), Vec::<Vec<String>>::new());
}

/// An API server that knows these Kustomizations and counts how often it is asked.
fn serving(kustomizations: Vec<(&'static str, Value)>) -> (Client, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let asked = std::sync::Arc::<std::sync::atomic::AtomicUsize>::default();
    let count = asked.clone();
    let answer = move |request: Request<Body>| {
        count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let name = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
        let body = kustomizations.iter().find(|(known, _)| *known == name).map(|(_, value)| {
            let mut value = value.clone();
            value["metadata"] = json!({"name": name, "namespace": "flux-system"});
            value
        });
        let missing =
            json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404});
        let status = if body.is_some() { 200 } else { 404 };
        let body = Body::from(body.unwrap_or(missing).to_string().into_bytes());
        std::future::ready(Response::builder().status(status).body(body))
    };
    (Client::new(tower::util::service_fn(answer), "shop"), asked)
}

fn alert(name: &str, second: i64) -> Signal {
    Signal {
        key: name.into(),
        source: SignalSource::Alert,
        name: "HighErrors".into(),
        entity: Entity::new(EntityKind::Deployment, "shop", name),
        severity: Severity::Critical,
        started_at: at(second),
        ended_at: None,
        summary: String::new(),
        labels: BTreeMap::new(),
        count: 1,
    }
}

#[tokio::test]
async fn alerts_of_two_workloads_that_one_revision_changed_are_one_incident_and_of_two_rollouts_are_two() {
    let objects = [
        rolled("cart", "apps", 0),
        rolled("search", "apps", 1),
        rolled("payment", "bank", 0),
        rolled("ledger", "bank", 1),
    ];
    let (client, _) = serving(vec![("apps", reporting(&[2])), ("bank", reporting(&[2]))]);
    let links = Links { edges: Vec::new(), rollouts: lately(&client, &objects.concat(), now()).await };
    let reach = Reach::new(&links);
    let open =
        OpenIncident { id: "one".into(), opened_at: at(60), signals: std::borrow::Cow::Owned(vec![alert("cart", 60)]) };
    let assigned = |name: &str| {
        assign(&alert(name, 90), std::slice::from_ref(&open), &reach, SignedDuration::from_mins(10), at(91))
    };
    assert!(matches!(assigned("search"), Assignment::Join { because, .. } if because.contains("one rollout")));
    assert!(matches!(assigned("payment"), Assignment::Open { .. }));
}

#[tokio::test]
async fn nothing_is_linked_where_flux_is_not_and_nothing_asked_in_a_quiet_hour() {
    let (client, asked) = serving(Vec::new());
    let bare = [rolled("cart", "", 0), rolled("search", "", 0)].concat();
    let old = [rolled("payment", "apps", -7_200), rolled("ledger", "apps", -7_200)].concat();
    assert_eq!(lately(&client, &[bare, old].concat(), now()).await, []);
    assert_eq!(asked.load(std::sync::atomic::Ordering::Relaxed), 0);
    let left_over = [rolled("cart", "apps", 0), rolled("search", "apps", 0)].concat();
    assert_eq!(lately(&client, &left_over, now()).await, [], "labels of a Kustomization that is gone");
}
