use std::sync::{Arc, Mutex};

use http::{Request, Response};
use kube::client::Body;
use serde_json::json;

use super::*;

fn now() -> Timestamp {
    "2026-01-01T00:00:00Z".parse().unwrap()
}

/// An API server with one database, a neighbour of it, and the cluster's name server; `closed` may not be read.
fn server() -> (Client, Arc<Mutex<Vec<String>>>) {
    let paths = Arc::new(Mutex::new(Vec::new()));
    let seen = paths.clone();
    let answer = move |request: Request<Body>| {
        let path = request.uri().to_string();
        seen.lock().unwrap().push(path.clone());
        async move {
            let place = path.split("/namespaces/").nth(1).unwrap_or_default().to_owned();
            let (namespace, rest) = place.split_once('/').unwrap_or((&place, ""));
            let one = |name: &str, labels: Value| {
                json!({"metadata": {"name": name, "namespace": namespace, "labels": labels,
                    "managedFields": [{"manager": "kubectl", "time": "2025-12-31T23:00:00Z", "fieldsV1": {"f:spec": {}}}]},
                    "spec": {"selector": {"matchLabels": {"app": name}}, "template": {"metadata": {"labels": {"app": name}}}}})
            };
            let kind = rest.split('?').next().unwrap_or_default();
            let items = match (namespace, kind) {
                ("data", "deployments") => vec![one("db", json!({})), one("batch", json!({}))],
                ("data", "networkpolicies") => vec![one("deny", json!({}))],
                ("kube-system", "deployments") => vec![one("coredns", json!({"k8s-app": "kube-dns"}))],
                _ => Vec::new(),
            };
            let (code, body) = match (namespace, kind) {
                ("closed", _) => (
                    403,
                    json!({"kind": "Status", "status": "Failure", "code": 403, "message": "no", "reason": "Forbidden"}),
                ),
                ("io", "") => (
                    404,
                    json!({"kind": "Status", "status": "Failure", "code": 404, "message": "no", "reason": "NotFound"}),
                ),
                (name, "") => (
                    200,
                    json!({"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name, "labels": {"team": "a"},
                        "annotations": if name == "hidden" { json!({}) } else { json!({"amend.dev/visible-to": "web, shop"}) }}}),
                ),
                _ => (
                    200,
                    json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items}),
                ),
            };
            let answer = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            Ok::<_, std::convert::Infallible>(answer.unwrap())
        }
    };
    (Client::new(tower::util::service_fn(answer), "shop"), paths)
}

fn reads(values: &[&str]) -> Vec<Value> {
    let env: Vec<Value> = values.iter().map(|value| json!({"name": "X", "value": value})).collect();
    vec![json!({"kind": "Deployment", "metadata": {"namespace": "shop", "name": "web"},
        "spec": {"template": {"spec": {"containers": [{"name": "app", "env": env}]}}}})]
}

async fn found(values: &[&str]) -> (Elsewhere, Vec<String>) {
    let (client, paths) = server();
    let picture = Picture::standing(Vec::new(), now());
    let found = look(&client, "shop", &reads(values), &picture, &[], now()).await;
    let paths = paths.lock().unwrap().clone();
    (found, paths)
}

fn names(found: &Elsewhere, kind: &str) -> Vec<String> {
    found.objects.iter().filter(|one| one["kind"] == kind).map(|one| text(one, "/metadata/name").to_owned()).collect()
}

#[tokio::test]
async fn a_dependency_in_another_namespace_is_read_and_its_neighbours_are_not() {
    let (found, paths) =
        found(&["postgres://app:secret@db.data.svc.cluster.local:5432/shop", "https://cdn.redis.io/x"]).await;
    assert_eq!(names(&found, "Deployment"), ["db", "coredns"]);
    assert_eq!(names(&found, "Namespace"), ["data", "shop"]);
    assert_eq!(
        found.targets.iter().map(|target| target.entity.to_string()).collect::<Vec<_>>(),
        ["data/Deployment/db"]
    );
    let policy = found.objects.iter().find(|one| one["kind"] == "NetworkPolicy").unwrap();
    assert_eq!(text(policy, "/metadata/managedFields/0/time"), "2025-12-31T23:00:00Z");
    assert!(policy.pointer("/metadata/managedFields/0/fieldsV1").is_none(), "{policy}");
    assert!(!paths.iter().any(|path| path.contains("redis")), "a name of the world outside");
}

#[tokio::test]
async fn what_only_looks_like_a_namespace_is_left_alone() {
    let (found, _) = found(&["redis.io:6379"]).await;
    assert!(!found.asked.iter().any(|asked| asked.id.ends_with("-of-io")), "{:?}", found.asked);
}

#[tokio::test]
async fn a_namespace_that_may_not_be_read_is_told_as_unknown() {
    let (found, _) = found(&["db.closed.svc:5432"]).await;
    let unknown = found.asked.iter().find(|asked| asked.id == "cluster-namespace-of-closed").unwrap();
    assert!(unknown.unknown.as_ref().unwrap().contains("not allowed to read"), "{unknown:?}");
    assert!(found.asked.iter().all(|asked| asked.id != "cluster-pods"), "of the incident's namespace it says nothing");
}

#[tokio::test]
async fn a_namespace_that_does_not_show_itself_is_not_read_and_the_annotation_is_named() {
    let (found, paths) = found(&["db.hidden.svc:5432"]).await;
    let unknown = found.asked.iter().find(|asked| asked.id == "cluster-objects-of-hidden").unwrap();
    assert!(unknown.query.contains("db in namespace hidden"), "{unknown:?}");
    let why = unknown.unknown.as_ref().unwrap();
    assert!(why.ends_with("kubectl annotate namespace hidden amend.dev/visible-to=shop"), "{why}");
    assert!(!paths.iter().any(|path| path.contains("/namespaces/hidden/")), "{paths:?}");
}

#[tokio::test]
async fn namespaces_beyond_the_bound_are_told() {
    let values: Vec<String> = (0..10).map(|number| format!("db.far-{number}.svc:5432")).collect();
    let (found, paths) = found(&values.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let beyond = found.asked.iter().find(|asked| asked.id == "cluster-namespaces-beyond").unwrap();
    assert!(beyond.query.ends_with("far-8, far-9") && beyond.unknown.is_some(), "{beyond:?}");
    assert!(!paths.iter().any(|path| path.contains("far-9")));
}

#[tokio::test]
async fn volumes_are_read_only_where_a_claim_waits() {
    let claim = |phase: &str| json!({"kind": "PersistentVolumeClaim", "status": {"phase": phase}});
    for (phase, wanted) in [("Bound", false), ("Pending", true)] {
        let (client, paths) = server();
        let picture = Picture::standing(Vec::new(), now());
        look(&client, "shop", &[claim(phase)], &picture, &[], now()).await;
        let asked = |what: &str| paths.lock().unwrap().iter().any(|path| path.contains(what));
        assert_eq!((asked("/persistentvolumes"), asked("/storageclasses")), (wanted, wanted), "{phase}");
    }
}
