use super::*;
use crate::topology::Picture;

const NOW: i64 = 1_770_000_000;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(NOW + second).unwrap()
}

fn picture() -> Picture {
    Picture::of_objects(vec![json!({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "checkout", "namespace": "shop", "uid": "1" },
        "spec": { "selector": { "matchLabels": { "app": "checkout" } } },
    })])
}

fn series(name: &str, pod: &str, more: &[(&str, &str)], samples: &[(i64, f64)]) -> Series {
    let labels = [("__name__", name), ("namespace", "shop"), ("pod", pod), ("container", "app")];
    Series {
        labels: labels.iter().chain(more).map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        samples: samples.iter().map(|(second, value)| ((NOW + second) as f64, *value)).collect(),
        asked: String::new(),
    }
}

fn found<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

#[test]
fn a_pod_of_then_is_told_by_kube_state_metrics_under_the_name_of_its_deployment() {
    let pod = "checkout-5d8f7c9b6d-x2x4q";
    let told = [
        series(name::RESTARTS, pod, &[], &[(-120, 1.0), (-60, 2.0), (0, 2.0)]),
        series(name::LAST_TERMINATED, pod, &[("reason", "OOMKilled")], &[(-60, 1.0), (0, 1.0)]),
        series(name::LIMITS, pod, &[("resource", "memory")], &[(0, 268_435_456.0)]),
    ];
    let objects = pods(&told, &picture(), at(0));
    let pod = found(&objects, "Pod")[0];
    let set = found(&objects, "ReplicaSet")[0];
    assert_eq!(pod["metadata"]["ownerReferences"][0]["name"], "checkout-5d8f7c9b6d");
    assert_eq!(set["metadata"]["ownerReferences"][0]["name"], "checkout");
    let status = &pod["status"]["containerStatuses"][0];
    assert_eq!(status["restartCount"], 2);
    assert_eq!(status["lastState"]["terminated"]["reason"], "OOMKilled");
    assert_eq!(status["lastState"]["terminated"]["finishedAt"], at(-60).to_string());
    assert_eq!(pod["spec"]["containers"][0]["resources"]["limits"]["memory"], "268435456");
}

#[test]
fn an_end_without_a_restart_in_sight_is_not_told_since_it_may_be_days_old() {
    let pod = "checkout-5d8f7c9b6d-x2x4q";
    let told = [
        series(name::RESTARTS, pod, &[], &[(-60, 2.0), (0, 2.0)]),
        series(name::LAST_TERMINATED, pod, &[("reason", "OOMKilled")], &[(0, 1.0)]),
    ];
    let objects = pods(&told, &picture(), at(0));
    let status = &found(&objects, "Pod")[0]["status"]["containerStatuses"][0];
    assert_eq!(status["lastState"], json!({}));
}

#[test]
fn what_ended_before_or_began_after_is_not_there() {
    let told = [
        series(name::RESTARTS, "checkout-5d8f7c9b6d-aaaaa", &[], &[(-600, 0.0)]),
        series(name::RESTARTS, "checkout-5d8f7c9b6d-bbbbb", &[], &[(60, 0.0)]),
        series(name::MEMORY, "checkout-5d8f7c9b6d-ccccc", &[], &[(0, 1.0)]),
    ];
    assert_eq!(pods(&told, &picture(), at(0)), Vec::<Value>::new());
}

#[test]
fn an_image_that_begins_after_another_is_a_change_and_the_first_one_is_none() {
    let ran = [
        series(name::IMAGES, "checkout-5d8f7c9b6d-aaaaa", &[("image", "shop/checkout:v1")], &[(-3600, 1.0), (0, 1.0)]),
        series(name::IMAGES, "checkout-7c9b6d5d8f-bbbbb", &[("image", "shop/checkout:v2")], &[(-300, 1.0), (0, 1.0)]),
    ];
    let begun = images_begun(&ran, &picture(), at(-3600));
    assert_eq!(begun.len(), 1, "{begun:?}");
    let change = &begun[0];
    assert_eq!((change.id.as_str(), change.at, change.target.name.as_str()), ("v2@checkout", at(-300), "checkout"));
    assert_eq!(change.images_brought().collect::<Vec<_>>(), ["shop/checkout:v2"]);
    assert_eq!(change.images_replaced().collect::<Vec<_>>(), ["shop/checkout:v1"]);
    assert!(images_begun(&ran[..1], &picture(), at(-3600)).is_empty());
}

#[test]
fn events_are_unknown_once_the_api_server_has_dropped_them() {
    let event = |second: i64| ObjectEvent {
        at: at(second),
        object: "Pod/checkout".to_owned(),
        namespace: "shop".to_owned(),
        reason: "BackOff".to_owned(),
        message: String::new(),
        count: 1,
    };
    let kept = [event(-60), event(60)];
    let fault = Window { from: at(-300), to: at(0) };
    assert_eq!(events(&kept, fault, at(600)).known().map(Vec::len), Some(1), "what came later is not of that time");
    assert!(events(&kept, fault, at(7200)).known().is_none());
}
