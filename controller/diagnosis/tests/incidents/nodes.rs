//! What several sick workloads share is the node that their pods run on.

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::{Diagnosis, cause};
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{Answer, LinkKind, Observations, Series, TopologyEdge};
use serde_json::{Value, json};

use crate::shop::*;

fn on(node: &str, mut pod: Value) -> Value {
    pod["spec"]["nodeName"] = node.into();
    pod
}

fn latency(service: &str, before: f64, after: f64) -> Series {
    let value = move |t| if t < 3_600 { before } else { after };
    series(&[("__name__", "latencyP99"), ("service", service)], "latency", value)
}

/// A workload with one pod on each of these nodes.
fn placed(world: &mut Observations, app: &str, nodes: &[&str]) {
    let known = objects(world);
    known.retain(|object| {
        let of =
            if object["kind"] == "Pod" { &object["metadata"]["labels"]["app"] } else { &object["metadata"]["name"] };
        of != app
    });
    known.push(json!({"kind": "Deployment", "metadata": {"namespace": "shop", "name": app},
        "spec": {"replicas": nodes.len(), "template": {"metadata": {"labels": {"app": app}}}}}));
    let pods = nodes.iter().map(|node| on(node, pod(&format!("{app}-old-{node}"), app, "old", 0, running())));
    known.extend(pods);
}

/// `frontend`, `checkout` and `ads` call the cart on node b; `mail` calls `news` beside it on node a.
fn world_of(nodes: [(&str, &[&str]); 6], slow: &[&str]) -> Observations {
    let mut world = world();
    for (app, nodes) in nodes {
        placed(&mut world, app, nodes);
    }
    let calls =
        [("frontend", "checkout"), ("frontend", "cart"), ("checkout", "cart"), ("ads", "cart"), ("mail", "news")];
    if let Answer::Known(topology) = &mut world.topology {
        topology.edges = calls
            .map(|(from, to)| TopologyEdge { from: deployment(from), to: deployment(to), kind: LinkKind::Calls })
            .into();
    }
    if let Answer::Known(list) = &mut world.series {
        list.extend(nodes.map(|(app, _)| match slow.contains(&app) {
            true => latency(app, 0.08, if app == "frontend" { 2.1 } else { 0.9 }),
            false => latency(app, 0.04, 0.04),
        }));
    }
    world.symptoms = ["frontend", "checkout", "ads"].map(|app| alert("SlowAnswers", app)).into();
    world
}

const SPLIT: [(&str, &[&str]); 6] =
    [("frontend", &["a"]), ("checkout", &["a"]), ("ads", &["c"]), ("mail", &["a"]), ("news", &["a"]), ("cart", &["b"])];

fn node(name: &str) -> Entity {
    Entity::new(EntityKind::Node, "", name)
}

fn names_a_node(got: &Diagnosis) -> bool {
    got.causes.iter().any(|one| one.entity.kind == EntityKind::Node)
}

#[test]
fn callers_that_are_slow_wherever_they_cross_the_border_of_a_node_point_at_it() {
    let got = diagnose(&world_of(SPLIT, &["frontend", "checkout", "ads"]));
    assert_eq!((got.causes[0].kind.as_str(), &got.causes[0].entity), (cause::NETWORK, &node("b")), "{got:#?}");
    assert!(got.causes[0].sentence.contains("over the border of node b"), "{got:#?}");
}

#[test]
fn of_two_sides_of_one_border_none_is_sure() {
    let two = SPLIT.map(|(app, nodes)| if app == "ads" { (app, ["a"].as_slice()) } else { (app, nodes) });
    let got = diagnose(&world_of(two, &["frontend", "checkout", "ads"]));
    assert!(names_a_node(&got) && got.actionable().is_none(), "{got:#?}");
}

#[test]
fn one_slow_workload_slow_calls_inside_and_replicas_everywhere_point_at_no_node() {
    let one = world_of(SPLIT, &["checkout"]);
    let inside = world_of(SPLIT, &["frontend", "checkout", "ads", "mail"]);
    let spread = world_of(SPLIT.map(|(app, _)| (app, ["a", "b", "c"].as_slice())), &["frontend", "checkout", "ads"]);
    let mut unlisted = world_of(SPLIT, &["frontend", "checkout", "ads"]);
    unlisted.objects = Answer::unknown("forbidden");
    for (name, world) in [("one", one), ("inside", inside), ("spread", spread), ("unlisted", unlisted)] {
        let got = diagnose(&world);
        assert!(!names_a_node(&got), "{name}: {got:#?}");
    }
}

/// Error ratio of each pod, as the second round asks for it.
fn pod_errors(app: &str, on: &str, after: f64) -> Series {
    let pod = format!("{app}-old-{on}");
    let value = move |t| if t < 3_600 { 0.001 } else { after };
    series(&[("__name__", "podErrorRatio"), ("service", app), ("pod", &pod)], "pods", value)
}

#[test]
fn sick_pods_of_several_workloads_on_one_node_have_it_from_the_node() {
    let both: &[&str] = &["a", "b", "c"];
    let everywhere =
        SPLIT.map(|(app, nodes)| if ["checkout", "cart"].contains(&app) { (app, both) } else { (app, nodes) });
    let sick = |of: [(&str, &str); 2]| {
        let mut world = world_of(everywhere, &[]);
        set_errors(&mut world, &[("frontend", 0.2), ("checkout", 0.25), ("cart", 0.2)]);
        if let Answer::Known(list) = &mut world.series {
            for (app, bad) in of {
                list.extend(both.iter().map(|node| pod_errors(app, node, if *node == bad { 0.7 } else { 0.001 })));
            }
        }
        diagnose(&world)
    };
    let shared = sick([("checkout", "b"), ("cart", "b")]);
    assert_eq!(shared.causes[0].entity, node("b"), "{shared:#?}");
    let apart = sick([("checkout", "b"), ("cart", "c")]);
    assert!(!names_a_node(&apart), "{apart:#?}");
}

#[test]
fn a_node_on_which_most_pods_ended_is_named_and_a_bad_limit_on_it_is_not_the_node() {
    let ended = |reason: &str| {
        let mut world = world_of(SPLIT, &[]);
        placed(&mut world, "stock", &["c", "c"]);
        for app in ["frontend", "checkout", "mail"] {
            let mut status = killed(3);
            status["containerStatuses"][0]["lastState"]["terminated"]["reason"] = reason.into();
            set_pod(&mut world, on("a", pod(&format!("{app}-old-a"), app, "old", 0, status)));
        }
        diagnose(&world)
    };
    let of_the_node = ended("Error");
    let named = of_the_node.causes.iter().find(|one| one.kind == cause::NODE_NOT_READY);
    assert_eq!(named.map(|one| &one.entity), Some(&node("a")), "{of_the_node:#?}");
    assert!(!names_a_node(&ended("OOMKilled")));
}
