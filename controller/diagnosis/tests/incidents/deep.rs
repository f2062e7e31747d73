//! A second round: what it asks, and what its answers change.

use amend_diagnosis::deep::{ENTITIES_MAX, Finer, QUESTIONS_MAX, finer, told};
use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{Answer, ChangeKind, Observations, Series};
use amend_diagnosis::metric::finer as named;

use crate::shop::*;

/// `checkout` fails a fifth of its requests, and nobody knows what was changed: a bad release would look the same.
fn doubtful() -> Observations {
    let mut world = world();
    set_errors(&mut world, &[("checkout", 0.2), ("frontend", 0.12)]);
    world.changes = Answer::unknown("no GitOps controller claims the workloads of this namespace");
    for name in ["checkout-old-y", "checkout-old-z"] {
        objects(&mut world).push(pod(name, "checkout", "old", 0, running()));
    }
    world.symptoms.push(alert("HighErrorRate", "checkout"));
    world
}

fn with(mut world: Observations, more: Vec<Series>) -> Observations {
    if let Answer::Known(list) = &mut world.series {
        list.extend(more);
    }
    world.asked.push(asked("finer", "prometheus", "finer"));
    world
}

fn step(labels: &[(&str, &str)], before: f64, after: f64) -> Series {
    series(labels, "finer", move |t| if t < 3_600 { before } else { after })
}

fn pod_errors(pod: &str, before: f64, after: f64) -> Series {
    step(&[("__name__", named::POD_ERROR_RATIO), ("service", "checkout"), ("pod", pod)], before, after)
}

fn operation_errors(operation: &str, before: f64, after: f64) -> Series {
    let labels = [("__name__", named::OPERATION_ERROR_RATIO), ("service", "checkout"), ("operation", operation)];
    step(&labels, before, after)
}

#[test]
fn an_answer_needs_no_second_round_and_a_doubt_asks_about_few() {
    let sure = oom();
    assert!(finer(&sure, &diagnose(&sure)).is_empty());
    let world = doubtful();
    let found = diagnose(&world);
    assert!(found.abstained.is_some(), "{found:#?}");
    let questions = finer(&world, &found);
    assert!(!questions.is_empty() && questions.len() <= QUESTIONS_MAX);
    let about = |finer: Finer| questions.iter().filter(move |one| one.about == finer).flat_map(|one| &one.entities);
    assert!(about(Finer::Pods).any(|entity| entity.name == "checkout"), "{questions:?}");
    assert!(about(Finer::Pods).all(|entity| entity.name == "checkout"), "one pod is the workload: {questions:?}");
    assert!(about(Finer::Operations).count() <= ENTITIES_MAX);
    assert!(about(Finer::NodePressure).any(|entity| *entity == Entity::new(EntityKind::Node, "", "node-a")));
    assert_eq!(about(Finer::Versions).count(), 0, "nothing is known to be released");
}

#[test]
fn one_sick_pod_is_named_by_the_second_round() {
    let world = doubtful();
    let first = diagnose(&world);
    let pods = [("checkout-old-x", 0.6), ("checkout-old-y", 0.001), ("checkout-old-z", 0.0)];
    let second = diagnose(&with(world, pods.map(|(pod, after)| pod_errors(pod, 0.001, after)).into()));
    assert_eq!(best(&second), (cause::ERRORS, "checkout"), "{:?}", second.abstained);
    assert!(second.actionable().is_some(), "{:?}", second.abstained);
    assert_eq!(second.causes[0].measures["pod"], "checkout-old-x");
    let told = told(first, second, &[asked("finer", "prometheus", "finer")]);
    let deep = told.deep.unwrap();
    assert!(
        deep.changed.contains("service.failing on checkout") && deep.changed.contains("may be acted on"),
        "{deep:?}"
    );
    assert_eq!((deep.asked.as_slice(), deep.unanswered), (["finer".to_owned()].as_slice(), 0));
}

#[test]
fn pods_that_are_all_sick_say_nothing_of_one() {
    let world = doubtful();
    let first = diagnose(&world);
    let all = ["checkout-old-x", "checkout-old-y", "checkout-old-z"].map(|pod| pod_errors(pod, 0.001, 0.2));
    assert_eq!(diagnose(&with(world, all.into())).causes, first.causes);
}

#[test]
fn one_sick_operation_is_named_by_the_second_round_unless_a_callee_is_in_trouble() {
    let operations = || vec![operation_errors("POST /refund", 0.0, 0.9), operation_errors("POST /pay", 0.001, 0.001)];
    let second = diagnose(&with(doubtful(), operations()));
    assert_eq!(best(&second), (cause::ERRORS, "checkout"), "{:?}", second.abstained);
    assert!(second.actionable().is_some(), "{:?}", second.abstained);
    assert_eq!(second.causes[0].measures["operation"], "POST /refund");
    let mut shared = doubtful();
    set_errors(&mut shared, &[("cart", 0.4)]);
    shared.topology = shared.topology.map(|mut topology| {
        let (from, to) = (deployment("checkout"), deployment("cart"));
        topology.edges.push(amend_diagnosis::evidence::TopologyEdge {
            from,
            to,
            kind: amend_diagnosis::evidence::LinkKind::Calls,
        });
        topology
    });
    let first = diagnose(&shared);
    assert_eq!(diagnose(&with(shared, operations())).causes, first.causes);
}

fn of_version(metric: &str, service: &str, version: &str, from: i64, value: f64) -> Series {
    let labels = [("__name__", metric), ("service", service), ("version", version)];
    let mut all = series(&labels, "finer", move |_| value);
    all.samples.retain(|(time, _)| *time >= at(from).as_second() as f64);
    all
}

/// `cart` and `checkout` were released 40 s apart, and nobody measured who fails.
fn two_releases() -> Observations {
    let mut world = world();
    world.series = Answer::Known(Vec::new());
    world.changes = Answer::Known(vec![
        change(INNOCENT, ChangeKind::Image, "cart", 3_500, ""),
        change(GUILTY, ChangeKind::Image, "checkout", 3_540, ""),
    ]);
    world
}

#[test]
fn errors_by_version_decide_between_two_releases() {
    let first = diagnose(&two_releases());
    assert!(first.abstained.is_some_and(|why| why.contains("error rate by version would decide")));
    let ratio = |service, version, from, value| of_version(named::VERSION_ERROR_RATIO, service, version, from, value);
    let p99 = |service, version, from, value| of_version(named::VERSION_LATENCY_P99, service, version, from, value);
    let versions = vec![
        ratio("checkout", "1.0", 0, 0.001),
        ratio("checkout", "1.1", 3_540, 0.4),
        ratio("cart", "7", 0, 0.002),
        ratio("cart", "8", 3_510, 0.003),
        p99("cart", "7", 0, 0.1),
        p99("cart", "8", 3_510, 0.11),
    ];
    let second = diagnose(&with(two_releases(), versions));
    assert_eq!(best(&second), (cause::BAD_IMAGE, "checkout"), "{second:#?}");
    assert!(second.actionable().is_some(), "{:?}", second.abstained);
    let measures = &second.causes[0].measures;
    assert_eq!((measures["version.bad"].as_str(), measures["version.good"].as_str()), ("1.1", "1.0"));
    let cart = second.causes.iter().find(|one| one.entity.name == "cart").unwrap();
    assert!(cart.facts_against.iter().any(|fact| fact.sentence.contains("versions 8 and 7 of cart answer alike")));
}

#[test]
fn a_version_that_never_answered_beside_the_old_one_says_nothing() {
    let mut old = of_version(named::VERSION_ERROR_RATIO, "checkout", "1.0", 0, 0.001);
    old.samples.retain(|(time, _)| *time < at(3_540).as_second() as f64);
    let versions = vec![old, of_version(named::VERSION_ERROR_RATIO, "checkout", "1.1", 3_540, 0.4)];
    let said = diagnose(&with(two_releases(), versions));
    let facts = said.causes.iter().flat_map(|one| one.facts_for.iter().chain(&one.facts_against));
    assert!(facts.clone().all(|fact| !fact.sentence.contains("at the same time")), "{:#?}", facts.collect::<Vec<_>>());
}

#[test]
fn tasks_that_wait_for_cpu_speak_for_cpu() {
    let stall = |before: f64, after: f64| {
        let labels =
            [("__name__", named::PRESSURE), ("pod", "checkout-old-x"), ("container", "app"), ("resource", "cpu")];
        step(&labels, before, after)
    };
    let names = |world: Observations| {
        let got = diagnose(&world);
        let facts = got.causes.iter().filter(|one| one.kind == cause::CPU).flat_map(|one| &one.facts_for);
        facts.map(|fact| fact.sentence.clone()).collect::<Vec<_>>()
    };
    let told = names(with(doubtful(), vec![stall(0.03, 0.6)]));
    assert!(told.iter().any(|sentence| sentence.contains("wait for CPU 60 % of the time, 3 % before")), "{told:?}");
    assert!(names(with(doubtful(), vec![stall(0.5, 0.6)])).is_empty(), "as always");
}

#[test]
fn what_nobody_answers_changes_nothing() {
    let world = doubtful();
    let first = diagnose(&world);
    let unanswered = amend_diagnosis::evidence::Asked {
        digest: String::new(),
        unknown: Some("too late".into()),
        ..asked("finer", "prometheus", "finer")
    };
    let after = told(first.clone(), diagnose(&oom()), &[unanswered]);
    assert_eq!((&after.causes, &after.abstained), (&first.causes, &first.abstained));
    let deep = after.deep.unwrap();
    assert_eq!((deep.unanswered, deep.because), (1, first.abstained.unwrap()));
    assert!(deep.changed.contains("none of the finer questions was answered"));
    assert!(after.asked.iter().any(|one| one.id == "finer" && one.unknown.is_some()), "it is recorded");
}
