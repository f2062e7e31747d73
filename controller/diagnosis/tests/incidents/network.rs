//! A network that loses calls between two services is told from a callee that is slow, fails or is gone.

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::{Cause, Diagnosis, cause};
use amend_diagnosis::evidence::{Answer, LogLine, Observations, Series};

use crate::shop::*;

const LOST: &str =
    "level=error msg=\"GET / failed\" status=503 error=\"call to cart failed: i/o timeout\" upstream=cart";

fn lines(count: usize, body: &str) -> Vec<LogLine> {
    let line = |number: usize| LogLine {
        at_ns: Some(u64::try_from(at(3_610 + 10 * number as i64).as_nanosecond()).unwrap()),
        source: "shop/frontend-old-x".into(),
        severity: Some("error".into()),
        body: body.into(),
        trace_id: None,
        span_id: None,
        count: 1,
        taught: None,
    };
    (0..count).map(line).collect()
}

fn latency(service: &str, before: f64, after: f64) -> Series {
    let value = move |t| if t < 3_600 { before } else { after };
    series(&[("__name__", "latencyP99"), ("service", service)], "latency", value)
}

/// The frontend waits in vain for the cart, which answers what reaches it as before.
fn lossy() -> Observations {
    let mut world = world();
    set_errors(&mut world, &[("frontend", 0.3), ("cart", 0.001)]);
    if let Answer::Known(list) = &mut world.series {
        list.extend([latency("frontend", 0.1, 1.2), latency("cart", 0.04, 0.041), latency("checkout", 0.08, 0.08)]);
    }
    world.logs = Answer::Known(lines(30, LOST));
    world
}

fn on_the_way(got: &Diagnosis) -> Option<&Cause> {
    got.causes.iter().find(|one| one.kind == cause::NETWORK)
}

#[test]
fn calls_that_are_lost_to_a_sound_callee_are_the_network_between_the_two() {
    let got = diagnose(&lossy());
    assert_eq!(best(&got), (cause::NETWORK, "cart"), "{got:#?}");
    let best = got.actionable().expect("both ends were measured");
    assert_eq!((best.measures["network.from"].as_str(), best.measures["network.to"].as_str()), ("frontend", "cart"));
    assert!(best.facts_for.iter().any(|fact| fact.sentence.contains("which answers what reaches it as before")));
}

#[test]
fn a_callee_that_is_slow_fails_or_is_not_ready_is_no_lossy_network() {
    let mut slow = lossy();
    if let Answer::Known(list) = &mut slow.series {
        list.retain(|one| one.asked != "latency");
        list.extend([latency("frontend", 0.1, 1.2), latency("cart", 0.04, 1.1)]);
    }
    let mut failing = lossy();
    set_errors(&mut failing, &[("cart", 0.4)]);
    let mut gone = lossy();
    let mut waits = running();
    waits["containerStatuses"][0]["ready"] = false.into();
    set_pod(&mut gone, pod("cart-old-x", "cart", "old", 0, waits));
    for (name, world) in [("slow", slow), ("failing", failing), ("gone", gone)] {
        let got = diagnose(&world);
        assert!(on_the_way(&got).is_none(), "{name}: {got:#?}");
    }
}

#[test]
fn without_measurements_of_the_callee_the_edge_is_a_candidate_and_no_answer() {
    let mut world = lossy();
    if let Answer::Known(list) = &mut world.series {
        list.retain(|one| one.labels.get("service").map(String::as_str) != Some("cart"));
    }
    let got = diagnose(&world);
    assert!(on_the_way(&got).is_some(), "{got:#?}");
    assert!(got.actionable().is_none_or(|best| best.kind != cause::NETWORK), "{got:#?}");
}

#[test]
fn pods_that_nobody_listed_are_not_taken_for_ready() {
    let mut unlisted = lossy();
    unlisted.objects = Answer::unknown("forbidden");
    let mut others = lossy();
    objects(&mut others).retain(|object| object["kind"] != "Pod" || object["metadata"]["name"] != "cart-old-x");
    for (name, world) in [("unlisted", unlisted), ("others", others)] {
        let got = diagnose(&world);
        let says = |one: &Cause| one.facts_for.iter().any(|fact| fact.sentence.contains("as before"));
        assert!(!got.causes.iter().any(says), "{name}: {got:#?}");
        assert!(got.actionable().is_none_or(|best| best.kind != cause::NETWORK), "{name}: {got:#?}");
    }
}

#[test]
fn a_callee_whose_pods_could_not_be_read_is_not_called_sound() {
    let mut world = lossy();
    let mut unread = asked("cluster-pods", "cluster", "v1/namespaces/shop/pods");
    unread.unknown = Some("more than 5000 pods; only a smaller scope can be judged".into());
    world.asked.push(unread);
    objects(&mut world).retain(|object| object["kind"] != "Pod");
    let got = diagnose(&world);
    assert!(got.actionable().is_none_or(|best| best.kind != cause::NETWORK), "{got:#?}");
    let says = |one: &Cause| one.facts_for.iter().any(|fact| fact.sentence.contains("answers what reaches it"));
    assert!(!got.causes.iter().any(says), "{got:#?}");
}

#[test]
fn not_numbers_make_no_callee_sound() {
    let mut world = lossy();
    if let Answer::Known(list) = &mut world.series {
        let cart = list.iter_mut().filter(|one| one.labels.get("service").map(String::as_str) == Some("cart"));
        cart.flat_map(|one| &mut one.samples).for_each(|sample| sample.1 = f64::NAN);
    }
    let got = diagnose(&world);
    assert!(got.actionable().is_none_or(|best| best.kind != cause::NETWORK), "{got:#?}");
}

#[test]
fn a_few_lines_or_another_failure_beside_them_blame_no_network() {
    let mut few = lossy();
    few.logs = Answer::Known(lines(3, LOST));
    let mut other = lossy();
    let body = "level=error msg=\"GET / failed\" status=500 error=\"no codec for field basket.v2\"";
    other.logs = Answer::Known([lines(10, LOST), lines(60, body)].concat());
    let mut refused = lossy();
    refused.logs = Answer::Known(lines(30, "call to cart failed: connection refused"));
    for (name, world) in [("few", few), ("other", other), ("refused", refused)] {
        let got = diagnose(&world);
        let says = |one: &Cause| one.facts_for.iter().any(|fact| fact.sentence.contains("did not answer in time"));
        assert!(!got.causes.iter().any(says), "{name}: {got:#?}");
    }
}

#[test]
fn one_caller_of_several_that_loses_calls_is_blamed_itself() {
    let mut world = lossy();
    if let Answer::Known(topology) = &mut world.topology {
        let mut other = topology.edges[1].clone();
        other.from = deployment("checkout");
        topology.edges.push(other);
    }
    let got = diagnose(&world);
    let network = on_the_way(&got).expect("a cause of the network");
    assert_eq!(network.entity.name, "frontend", "{got:#?}");
}
