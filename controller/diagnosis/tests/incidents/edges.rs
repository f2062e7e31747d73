//! Losses that meshes, proxies and eBPF agents count between two services.

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::{Cause, cause};
use amend_diagnosis::evidence::{Answer, Observations, Series};

use crate::shop::*;

/// A counter that grows by so much a second.
fn counter(labels: &[(&str, &str)], before: f64, after: f64) -> Series {
    let value = move |t: i64| before * t.min(3_600) as f64 + after * (t - 3_600).max(0) as f64;
    let mut series = series(labels, "edges", value);
    series.labels.remove("namespace");
    series
}

fn latency(service: &str, before: f64, after: f64) -> Series {
    let value = move |t| if t < 3_600 { before } else { after };
    series(&[("__name__", "latencyP99"), ("service", service)], "latency", value)
}

fn istio(from: &str, to: &str, flags: &str, before: f64, after: f64) -> Series {
    let labels = [
        ("__name__", "istio_requests_total"),
        ("reporter", "source"),
        ("source_workload_namespace", "shop"),
        ("source_workload", from),
        ("destination_workload_namespace", "shop"),
        ("destination_workload", to),
        ("response_flags", flags),
    ];
    counter(&labels, before, after)
}

fn hubble(metric: &str, from: &str, to: &str, label: (&str, &str), before: f64, after: f64) -> Series {
    let labels = [
        ("__name__", metric),
        ("source_namespace", "shop"),
        ("source_workload", from),
        ("destination_namespace", "shop"),
        ("destination_workload", to),
        label,
    ];
    counter(&labels, before, after)
}

fn linkerd(metric: &str, outcome: (&str, &str), before: f64, after: f64) -> Series {
    let labels = [
        ("__name__", metric),
        ("direction", "outbound"),
        ("peer", "dst"),
        ("namespace", "shop"),
        ("deployment", "frontend"),
        ("dst_namespace", "shop"),
        ("dst_deployment", "cart"),
        outcome,
    ];
    let mut series = counter(&labels, before, after);
    series.labels.insert("namespace".into(), "shop".into());
    series
}

fn envoy(metric: &str, before: f64, after: f64) -> Series {
    let labels = [
        ("__name__", metric),
        ("pod", "frontend-old-x"),
        ("envoy_cluster_name", "outbound|8080||cart.shop.svc.cluster.local"),
    ];
    let mut series = counter(&labels, before, after);
    series.labels.insert("namespace".into(), "shop".into());
    series
}

fn coroot(metric: &str, before: f64, after: f64) -> Series {
    let labels = [
        ("__name__", metric),
        ("container_id", "/k8s/shop/frontend-old-x/app"),
        ("destination", "10.0.0.9:8080"),
        ("actual_destination", "10.0.0.9:8080"),
    ];
    counter(&labels, before, after)
}

/// The frontend fails and is slow; the cart answers what reaches it as before. Both are measured.
fn shop(more: Vec<Series>) -> Observations {
    let mut world = world();
    set_errors(&mut world, &[("frontend", 0.3), ("cart", 0.001)]);
    let mut cart = running();
    cart["podIP"] = "10.0.0.9".into();
    set_pod(&mut world, pod("cart-old-x", "cart", "old", 0, cart));
    if let Answer::Known(list) = &mut world.series {
        list.extend([latency("frontend", 0.1, 1.2), latency("cart", 0.04, 0.041), latency("checkout", 0.08, 0.08)]);
        list.extend(more);
    }
    world.asked.push(asked("edges", "prometheus", "istio_requests_total"));
    world
}

fn on_the_way(world: &Observations) -> Option<Cause> {
    diagnose(world).causes.into_iter().find(|one| one.kind == cause::NETWORK)
}

/// Counts of each agent when a fifth of what the frontend sends to the cart is lost.
fn lossy() -> Vec<(&'static str, Vec<Series>)> {
    vec![
        ("Istio", vec![istio("frontend", "cart", "-", 20.0, 16.0), istio("frontend", "cart", "UF,URX", 0.0, 4.0)]),
        (
            "Istio TCP",
            [("-", 10.0, 8.0), ("UF", 0.0, 2.0)]
                .map(|(flags, before, after)| {
                    let mut series = istio("frontend", "cart", flags, before, after);
                    series.labels.insert("__name__".into(), "istio_tcp_connections_closed_total".into());
                    series
                })
                .into(),
        ),
        (
            "Linkerd",
            vec![
                linkerd("response_total", ("classification", "success"), 20.0, 16.0),
                linkerd("response_total", ("classification", "failure"), 0.01, 4.0),
            ],
        ),
        (
            "Linkerd TCP",
            vec![
                linkerd("tcp_close_total", ("errno", ""), 2.0, 1.6),
                linkerd("tcp_close_total", ("errno", "ETIMEDOUT"), 0.0, 0.4),
            ],
        ),
        (
            "Envoy",
            vec![
                envoy("envoy_cluster_upstream_cx_connect_fail", 0.0, 1.0),
                envoy("envoy_cluster_upstream_cx_total", 4.0, 5.0),
            ],
        ),
        (
            "Hubble drops",
            vec![
                hubble("hubble_drop_total", "frontend", "cart", ("reason", "CT_MAP_INSERTION_FAILED"), 0.0, 9.0),
                hubble("hubble_flows_processed_total", "frontend", "cart", ("verdict", "FORWARDED"), 40.0, 40.0),
            ],
        ),
        (
            "Hubble handshakes",
            vec![
                hubble("hubble_tcp_flags_total", "frontend", "cart", ("flag", "SYN"), 2.0, 3.0),
                hubble("hubble_tcp_flags_total", "cart", "frontend", ("flag", "SYN-ACK"), 2.0, 2.0),
            ],
        ),
        ("Coroot", vec![coroot("container_net_tcp_retransmits_total", 0.01, 6.0)]),
        (
            "Coroot connects",
            vec![
                coroot("container_net_tcp_failed_connects_total", 0.0, 0.5),
                coroot("container_net_tcp_successful_connects_total", 2.0, 1.5),
            ],
        ),
    ]
}

#[test]
fn losses_that_any_agent_counts_on_the_way_to_a_sound_callee_are_the_network_between() {
    for (agent, series) in lossy() {
        let got = diagnose(&shop(series));
        assert_eq!(best(&got), (cause::NETWORK, "cart"), "{agent}: {got:#?}");
        let measures = &got.causes[0].measures;
        assert_eq!((measures["network.from"].as_str(), measures["network.to"].as_str()), ("frontend", "cart"));
        assert!(got.alignment.is_whole(), "{agent}: {:?}", got.alignment);
    }
}

#[test]
fn as_sure_as_with_lines_of_timeouts() {
    let (_, series) = lossy().remove(0);
    let got = diagnose(&shop(series));
    assert!(got.actionable().is_some_and(|best| best.kind == cause::NETWORK), "{got:#?}");
    assert_eq!(got.causes[0].facts_for[0].asked, "edges", "the question can be asked again");
}

#[test]
fn a_surge_of_traffic_alone_loses_nothing() {
    let surge = [
        vec![istio("frontend", "cart", "-", 20.0, 160.0), istio("frontend", "cart", "UF", 0.1, 0.8)],
        vec![
            hubble("hubble_drop_total", "frontend", "cart", ("reason", "TTL_EXCEEDED"), 0.2, 1.6),
            hubble("hubble_flows_processed_total", "frontend", "cart", ("verdict", "FORWARDED"), 40.0, 320.0),
        ],
        vec![
            coroot("container_net_tcp_retransmits_total", 0.4, 3.2),
            series(&[("__name__", "requestRate"), ("service", "cart")], "rate", |t| if t < 3_600 { 5.0 } else { 40.0 }),
        ],
    ];
    for series in surge {
        let name = series[0].labels["__name__"].clone();
        let found = on_the_way(&shop(series));
        assert!(found.is_none(), "{name}: {found:#?}");
    }
}

#[test]
fn a_quiet_neighbour_changes_nothing_and_a_burst_is_no_loss() {
    let (_, series) = lossy().remove(0);
    let alone = diagnose(&shop(series.clone()));
    let quiet = [istio("frontend", "checkout", "-", 9.0, 9.0), istio("frontend", "checkout", "UF", 0.0, 0.0)];
    let beside = diagnose(&shop([series, quiet.into()].concat()));
    assert_eq!(best(&beside), best(&alone));
    assert_eq!(beside.causes[0].confidence, alone.causes[0].confidence);
    let mut burst = istio("frontend", "cart", "UF", 0.0, 0.0);
    for sample in burst.samples.iter_mut().filter(|(at, _)| *at >= 1_700_003_900.0) {
        sample.1 = 400.0;
    }
    let found = on_the_way(&shop(vec![istio("frontend", "cart", "-", 20.0, 20.0), burst]));
    assert!(found.is_none(), "{found:#?}");
}

#[test]
fn what_a_policy_refuses_is_a_shut_door_and_no_loss() {
    let refused = hubble("hubble_drop_total", "frontend", "cart", ("reason", "POLICY_DENIED"), 0.0, 3.0);
    let got = diagnose(&shop(vec![refused]));
    assert_eq!(best(&got), (cause::ROUTING, "cart"), "{got:#?}");
    assert!(got.causes[0].sentence.contains("a network policy refuses"), "{got:#?}");
    assert!(!got.causes.iter().any(|one| one.kind == cause::NETWORK), "{got:#?}");
}

#[test]
fn proxies_without_an_answer_blame_no_network_where_the_callee_ails_or_was_away() {
    let mut failing = shop(lossy().remove(0).1);
    set_errors(&mut failing, &[("cart", 0.4)]);
    let mut restarted = shop(lossy().remove(0).1);
    set_pod(&mut restarted, pod("cart-old-x", "cart", "old", 0, killed(2)));
    for (name, world) in [("failing", failing), ("restarted", restarted)] {
        let found = on_the_way(&world);
        assert!(found.is_none(), "{name}: {found:#?}");
    }
}

#[test]
fn what_nobody_knows_of_the_callee_leaves_a_candidate_and_no_answer() {
    let mut unmeasured = shop(lossy().remove(0).1);
    if let Answer::Known(list) = &mut unmeasured.series {
        list.retain(|one| one.labels.get("service").map(String::as_str) != Some("cart"));
    }
    let mut unlisted = shop(lossy().remove(0).1);
    unlisted.objects = Answer::unknown("forbidden");
    for (name, world) in [("unmeasured", unmeasured), ("unlisted", unlisted)] {
        let got = diagnose(&world);
        assert!(got.actionable().is_none_or(|best| best.kind != cause::NETWORK), "{name}: {got:#?}");
    }
}

#[test]
fn the_side_that_loses_is_the_one_whose_other_calls_get_lost_as_well() {
    let edge =
        |from: &str, to: &str, lost: f64| [istio(from, to, "-", 10.0, 10.0 - lost), istio(from, to, "UF", 0.0, lost)];
    let both = [edge("frontend", "cart", 3.0), edge("frontend", "checkout", 3.0)].concat();
    let found = on_the_way(&shop(both)).unwrap();
    assert_eq!(found.entity.name, "frontend");
    let one_of_two = [edge("frontend", "cart", 3.0), edge("checkout", "cart", 0.0)].concat();
    let found = on_the_way(&shop(one_of_two)).unwrap();
    assert_eq!(found.entity.name, "frontend", "others reach the cart as before");
}

#[test]
fn a_pod_or_node_that_loses_packets_alone_is_named_and_what_all_show_is_not() {
    let of_pod = |app: &str, after: f64| {
        let pod = format!("{app}-old-x");
        series(&[("__name__", "podPacketsLost"), ("per", "second"), ("pod", &pod)], "edges", move |t| {
            if t < 3_600 { 0.0 } else { after }
        })
    };
    let all = |after: [f64; 3]| {
        ["frontend", "checkout", "cart"].iter().zip(after).map(|(app, lost)| of_pod(app, lost)).collect()
    };
    let found = on_the_way(&shop(all([0.0, 0.0, 30.0]))).unwrap();
    assert_eq!(found.entity.name, "cart");
    let found = on_the_way(&shop(all([20.0, 30.0, 30.0])));
    assert!(found.is_none(), "{found:#?}");
}
