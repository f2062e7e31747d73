//! Which resource is short, and whether any is.

use std::collections::BTreeMap;

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::{Answer, Observations, Series, Span, SpanKind};

use crate::shop::{MIB, alert, at, best, series, world};

/// Cores that `checkout` uses before and since, with a limit in cores; its callers alert.
fn busy(before: f64, since: f64, limit: f64) -> Observations {
    let labels = |name| [("__name__", name), ("pod", "checkout-old-x"), ("container", "app")];
    // A counter that grows by the cores, with a little noise.
    let used = move |t: i64| {
        let grown = before * t.min(3_600) as f64 + since * (t - 3_600).max(0) as f64;
        grown + 0.02 * before * ((t / 30) % 3) as f64
    };
    let mut world = world();
    let mut limits = series(&labels("kube_pod_container_resource_limits"), "limits", move |_| limit);
    limits.labels.extend([("resource".into(), "cpu".into()), ("unit".into(), "core".into())]);
    push(&mut world, series(&labels("container_cpu_usage_seconds_total"), "cpu", used));
    push(&mut world, limits);
    world.symptoms = vec![alert("HighLatency", "frontend")];
    world
}

fn push(world: &mut Observations, one: Series) {
    if let Answer::Known(list) = &mut world.series {
        list.push(one);
    }
}

fn sure_of(world: &Observations, kind: &str) -> f64 {
    let got = diagnose(world);
    let found = got.causes.iter().find(|cause| cause.kind == kind && cause.entity.name == "checkout");
    found.map_or(0.0, |cause| cause.confidence)
}

#[test]
fn cpu_that_doubles_far_below_its_limit_is_not_sure_while_nothing_is_throttled() {
    let throttled = |share: f64| {
        let labels = [("__name__", "container_cpu_throttled_ratio"), ("pod", "checkout-old-x"), ("container", "app")];
        series(&labels, "throttling", move |t| if t < 3_600 { 0.01 } else { share })
    };
    let far = busy(0.058, 0.118, 0.5);
    assert!(sure_of(&far, cause::CPU) < 0.9, "{}", sure_of(&far, cause::CPU));
    assert!(sure_of(&busy(0.058, 0.118, 0.12), cause::CPU) > 0.9, "at its limit");
    let mut quiet = far.clone();
    push(&mut quiet, throttled(0.01));
    assert!(sure_of(&quiet, cause::CPU) < 0.9);
    // An average far below the limit hides the bursts that are throttled.
    let mut bursts = far;
    push(&mut bursts, throttled(0.4));
    assert!(sure_of(&bursts, cause::CPU) > 0.9);
}

#[test]
fn memory_that_swells_is_named_and_not_the_cpu_that_it_takes() {
    let mut world = busy(0.05, 0.48, 0.5);
    assert_eq!(best(&diagnose(&world)), (cause::CPU, "checkout"));
    let labels = [("__name__", "container_memory_working_set_bytes"), ("pod", "checkout-old-x"), ("container", "app")];
    push(
        &mut world,
        series(&labels, "memory", |t| MIB * (60.0 + (t % 90) as f64 / 90.0 + if t < 3_600 { 0.0 } else { 120.0 })),
    );
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::MEMORY, "checkout"), "{got:#?}");
}

/// Calls from `frontend` to `checkout`: twenty before the trouble, twenty since, the server slow to take them.
fn calls(late_ms: u64) -> Vec<Span> {
    let span = |index: u64, id: &str, parent: Option<&str>, service: &str, kind, from_ms: u64, ms: u64| {
        let second = if index < 20 { 3_000 + index * 20 } else { 3_620 + (index - 20) * 20 };
        let start = u64::try_from(at(i64::try_from(second).unwrap()).as_nanosecond()).unwrap();
        Span {
            trace_id: format!("t{index}"),
            span_id: format!("t{index}-{id}"),
            parent_id: parent.map(|parent| format!("t{index}-{parent}")),
            service: service.to_owned(),
            pod: None,
            operation: format!("{service} pay"),
            kind,
            start_ns: start + from_ms * 1_000_000,
            duration_ns: ms * 1_000_000,
            error: false,
            attributes: BTreeMap::new(),
        }
    };
    let trace = |index: u64| {
        let late = if index < 20 { 1 } else { late_ms };
        [
            span(index, "a", None, "frontend", SpanKind::Server, 0, late + 12),
            span(index, "b", Some("a"), "frontend", SpanKind::Client, 1, late + 10),
            span(index, "c", Some("b"), "checkout", SpanKind::Server, 1 + late, 9),
        ]
    };
    (0..40).flat_map(trace).collect()
}

#[test]
fn a_server_without_cpu_that_takes_calls_late_is_no_trouble_of_the_network() {
    let mut world = busy(0.05, 0.49, 0.5);
    world.spans = Answer::Known(calls(300));
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::CPU, "checkout"), "{got:#?}");
    assert!(
        got.causes[0].facts_for.iter().any(|fact| fact.sentence.contains("uses all the CPU that it may")),
        "{got:#?}"
    );
    let mut world = busy(0.05, 0.051, 0.5);
    world.spans = Answer::Known(calls(300));
    let got = diagnose(&world);
    assert_eq!(best(&got).0, cause::NETWORK, "{got:#?}");
}

#[test]
fn a_volume_that_fills_up_is_told_by_its_claim_and_one_that_is_as_full_as_ever_is_not() {
    let filling = |before: f64, since: f64| {
        let mut world = world();
        for object in crate::shop::objects(&mut world) {
            if object["kind"] == "Pod" && object["metadata"]["name"] == "checkout-old-x" {
                object["spec"]["volumes"] =
                    serde_json::json!([{"name": "d", "persistentVolumeClaim": {"claimName": "orders"}}]);
            }
        }
        let labels = [("__name__", "volume_fullness"), ("namespace", "shop"), ("persistentvolumeclaim", "orders")];
        push(&mut world, series(&labels, "volumes", move |t| if t < 3_600 { before } else { since }));
        diagnose(&world)
    };
    let told = |got: &amend_diagnosis::diagnosis::Diagnosis| {
        let facts = got.causes.iter().filter(|one| one.kind == cause::DISK && one.entity.name == "checkout");
        facts.flat_map(|one| &one.facts_for).any(|fact| fact.sentence == "a volume of checkout is 99 % full after 62 %")
    };
    let got = filling(0.62, 0.99);
    assert!(told(&got), "{got:#?}");
    for (before, since) in [(0.985, 0.99), (0.2, 0.8)] {
        let got = filling(before, since);
        let full = |fact: &amend_diagnosis::diagnosis::Fact| fact.sentence.contains("% full");
        assert!(!got.causes.iter().flat_map(|one| &one.facts_for).any(full), "{got:#?}");
    }
}
