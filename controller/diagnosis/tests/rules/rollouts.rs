//! Autoscalers, rollouts that stand still, evicted pods and failed Jobs, each beside a healthy twin.

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::Observations;
use serde_json::{Value, json};

use crate::live::*;

fn scaler(conditions: Value, is: i64) -> Value {
    json!({"kind": "HorizontalPodAutoscaler", "metadata": {"namespace": "shop", "name": "checkout"},
        "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "checkout"}, "minReplicas": 2, "maxReplicas": 4,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}}]},
        "status": {"currentReplicas": 4, "desiredReplicas": 4, "conditions": conditions,
            "currentMetrics": [{"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": is}}}]}})
}

fn condition(kind: &str, status: &str, reason: &str, second: i64) -> Value {
    json!({"type": kind, "status": status, "reason": reason, "message": "told by the controller",
        "lastTransitionTime": at(second).to_string()})
}

fn about(name: &str, on: &str) -> Observations {
    let mut world = world();
    world.symptoms = vec![alert(name, on)];
    world
}

#[test]
fn an_autoscaler_that_cannot_read_its_metrics_is_told() {
    let blind = || scaler(json!([condition("ScalingActive", "False", "FailedGetResourceMetric", 3_500)]), 0);
    let mut world = about("HighErrorRate", "frontend");
    put(&mut world, [blind()]);
    let found = with_fault(&world, "autoscaler_blind").unwrap();
    assert_eq!((found.kind.as_str(), found.entity.name.as_str()), (cause::OVERLOAD, "checkout"));
    assert!(diagnose(&world).actionable().is_none(), "a fact, and no more");
    let mut asked_for = about("KubeHpaMetricsUnavailable", "checkout");
    put(&mut asked_for, [blind()]);
    assert!(diagnose(&asked_for).actionable().is_some());
    let mut parked = about("HighErrorRate", "frontend");
    put(&mut parked, [scaler(json!([condition("ScalingActive", "False", "ScalingDisabled", 3_500)]), 0)]);
    assert!(with_fault(&parked, "autoscaler_blind").is_none());
    let mut long_ago = about("HighErrorRate", "frontend");
    put(&mut long_ago, [scaler(json!([condition("ScalingActive", "False", "FailedGetResourceMetric", -90_000)]), 0)]);
    assert!(with_fault(&long_ago, "autoscaler_blind").is_none());
}

#[test]
fn an_autoscaler_at_its_maximum_counts_only_while_its_pods_are_busier_than_wanted() {
    let limited = || json!([condition("ScalingLimited", "True", "TooManyReplicas", 3_500)]);
    let told = |object: Value| {
        let mut world = about("HighErrorRate", "frontend");
        put(&mut world, [object]);
        with_fault(&world, "autoscaler_at_maximum")
    };
    let found = told(scaler(limited(), 140)).unwrap();
    assert!(found.facts_for[0].sentence.contains("140 % where 70 %"), "{found:#?}");
    assert!(told(scaler(limited(), 72)).is_none(), "within what the controller tolerates");
    assert!(told(scaler(json!([condition("ScalingLimited", "True", "TooFewReplicas", 3_500)]), 140)).is_none());
}

#[test]
fn pods_that_an_autoscaler_took_just_before_are_told() {
    let told = |second: i64, message: &str| {
        let mut world = about("HighErrorRate", "frontend");
        put(&mut world, [scaler(json!([]), 60)]);
        tell(&mut world, second, "HorizontalPodAutoscaler/checkout", "SuccessfulRescale", message);
        with_fault(&world, "autoscaler_scaled_down")
    };
    let down = "New size: 2; reason: All metrics below target";
    assert!(told(3_400, down).is_some());
    assert!(told(1_000, down).is_none(), "long before");
    assert!(told(3_400, "New size: 4; reason: cpu resource utilization above target").is_none());
}

#[test]
fn an_autoscaler_that_left_no_pod_is_the_cause_while_somebody_calls() {
    let mut world = about("HighErrorRate", "frontend");
    objects(&mut world).retain(|one| one["metadata"]["labels"]["app"] != "checkout");
    let mut workload = deployed("checkout", json!({"containers": [{"name": "app"}]}));
    workload["spec"]["replicas"] = json!(0);
    let mut zero = scaler(json!([condition("ScalingActive", "False", "ScalingDisabled", 3_500)]), 0);
    zero["spec"]["minReplicas"] = json!(0);
    put(&mut world, [workload, zero, service("checkout", json!({"app": "checkout"}), json!([{"port": 80}]))]);
    assert!(with_fault(&world, "autoscaler_scaled_to_zero").is_none(), "nobody calls it");
    log(&mut world, 3_700, "frontend-old-x", "dial tcp 10.96.7.7:80: connect: connection refused");
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::SCALED_TO_ZERO, "checkout"), "{got:#?}");
}

/// A pod of a revision that is ready or not since a second of the story.
fn of_set(name: &str, app: &str, revision: &str, since: i64, ready: bool) -> Value {
    let spec = json!({"containers": [{"name": "app"}]});
    let mut made = lives(app, "old", since - 10, &spec, json!([if ready { up("app") } else { down("app") }]), since);
    made["metadata"]["name"] = json!(name);
    made["metadata"]["labels"] = json!({"app": app, "controller-revision-hash": revision});
    made
}

fn owned(mut pod: Value, kind: &str, name: &str) -> Value {
    pod["metadata"]["ownerReferences"] = json!([{"kind": kind, "name": name, "controller": true}]);
    pod
}

fn stateful(partition: i64, ready: bool) -> Observations {
    let mut world = about("KubeStatefulSetUpdateNotRolledOut", "db");
    world.symptoms[0].entity.kind = amend_diagnosis::entity::EntityKind::StatefulSet;
    let mut set = deployed("db", json!({"containers": [{"name": "app"}]}));
    set["kind"] = json!("StatefulSet");
    set["spec"]["replicas"] = json!(2);
    set["spec"]["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": partition}});
    set["status"] = json!({"replicas": 2, "readyReplicas": 1, "updatedReplicas": 1, "currentRevision": "db-1", "updateRevision": "db-2"});
    put(&mut world, [set]);
    objects(&mut world).push(owned(of_set("db-0", "db", "db-1", -90_000, true), "StatefulSet", "db"));
    objects(&mut world).push(owned(of_set("db-1", "db", "db-2", 3_400, ready), "StatefulSet", "db"));
    world
}

#[test]
fn a_stateful_set_that_waits_for_a_pod_in_vain_is_stuck() {
    let found = of_kind(&stateful(0, false), cause::UNAVAILABLE).unwrap();
    assert!(found.facts_for.iter().any(|fact| fact.sentence.contains("stands still at db-1")), "{found:#?}");
    for (name, world) in [("partition", stateful(1, false)), ("goes on", stateful(0, true))] {
        let told = of_kind(&world, cause::UNAVAILABLE);
        assert!(told.is_none_or(|cause| !cause.sentence.contains("stands still")), "{name}");
    }
}

#[test]
fn a_deployment_whose_controller_gave_up_is_stuck_and_a_paused_one_only_told() {
    let told = |paused: bool, reason: &str, second: i64| {
        let mut world = about("KubeDeploymentRolloutStuck", "checkout");
        let mut workload = deployed("checkout", json!({"containers": [{"name": "app"}]}));
        workload["spec"]["paused"] = json!(paused);
        workload["status"] = json!({"replicas": 3, "readyReplicas": 2, "updatedReplicas": 1,
            "conditions": [condition("Progressing", if paused { "Unknown" } else { "False" }, reason, second)]});
        put(&mut world, [workload]);
        let got = diagnose(&world);
        let said =
            got.causes.iter().flat_map(|cause| &cause.facts_for).any(|fact| fact.sentence.contains("the rollout of"));
        (said, got.actionable().is_some())
    };
    assert_eq!(told(false, "ProgressDeadlineExceeded", 3_700), (true, true));
    assert!(!told(false, "ProgressDeadlineExceeded", -90_000).0);
    assert_eq!(told(true, "DeploymentPaused", 3_500), (true, false));
    assert!(!told(true, "DeploymentPaused", -90_000).0);
}

#[test]
fn pods_of_a_daemon_set_are_away_only_where_their_node_is_there() {
    let told = |node_ready: &str| {
        let mut world = about("KubeDaemonSetRolloutStuck", "agent");
        world.symptoms[0].entity.kind = amend_diagnosis::entity::EntityKind::DaemonSet;
        let mut set = deployed("agent", json!({"containers": [{"name": "app"}]}));
        set["kind"] = json!("DaemonSet");
        set["status"] = json!({"desiredNumberScheduled": 2, "numberUnavailable": 1, "updatedNumberScheduled": 1});
        let node = json!({"kind": "Node", "metadata": {"name": "node-a"},
            "status": {"conditions": [condition("Ready", node_ready, "KubeletReady", 0)]}});
        put(&mut world, [set, node]);
        objects(&mut world).push(owned(of_set("agent-x", "agent", "2", 3_400, false), "DaemonSet", "agent"));
        of_kind(&world, cause::UNAVAILABLE).is_some_and(|cause| cause.entity.name == "agent")
    };
    assert!(told("True"));
    assert!(!told("False"));
}

#[test]
fn a_budget_that_lets_nobody_go_is_told_where_a_node_is_to_be_emptied() {
    let told = |unschedulable: bool, healthy: i64| {
        let mut world = about("NodeDrainStuck", "checkout");
        let budget = json!({"kind": "PodDisruptionBudget", "metadata": {"namespace": "shop", "name": "checkout"},
            "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "checkout"}}},
            "status": {"disruptionsAllowed": 0, "currentHealthy": healthy, "desiredHealthy": 1, "expectedPods": 1}});
        let node = json!({"kind": "Node", "metadata": {"name": "node-a"}, "spec": {"unschedulable": unschedulable}});
        put(&mut world, [budget, node]);
        with_fault(&world, "disruption_budget_blocks")
    };
    assert_eq!(told(true, 1).unwrap().entity.name, "checkout");
    assert!(told(false, 1).is_none(), "nobody wants its pods to go");
    assert!(told(true, 0).is_none(), "its pods are ill: it protects what is left");
}

fn evicted(second: i64, apps: &[(&str, &str)]) -> Observations {
    let mut world = about("KubePodNotReady", apps[0].0);
    for (app, message) in apps {
        let mut made = pod(
            &format!("{app}-old-gone"),
            app,
            "old",
            0,
            json!({"phase": "Failed", "reason": "Evicted", "message": message}),
        );
        made["status"]["conditions"] = json!([condition("DisruptionTarget", "True", "TerminationByKubelet", second)]);
        objects(&mut world).push(made);
    }
    world
}

#[test]
fn a_pod_that_exceeds_its_own_limit_is_to_blame_itself() {
    let message = "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. ";
    let got = diagnose(&evicted(3_700, &[("checkout", message)]));
    assert_eq!(best(&got), (cause::DISK, "checkout"), "{got:#?}");
    assert!(with_fault(&evicted(-90_000, &[("checkout", message)]), "ephemeral_storage_limit_exceeded").is_none());
}

#[test]
fn a_node_that_ran_low_names_who_used_it_up() {
    let low = |used: &str| {
        format!(
            "The node was low on resource: ephemeral-storage. Threshold quantity: 1Gi, available: 512Mi. Container app was using {used}, request is 0, has larger consumption of ephemeral-storage. "
        )
    };
    let (much, little) = (low("40Gi"), low("100Mi"));
    let world = evicted(3_700, &[("cart", &little), ("checkout", &much)]);
    let greedy = with_fault(&world, "node_resource_used_up").unwrap();
    assert_eq!((greedy.kind.as_str(), greedy.entity.name.as_str()), (cause::DISK, "checkout"));
    assert!(of_kind(&world, cause::NODE_PRESSURE).is_some());
    let alike = evicted(3_700, &[("cart", &much), ("checkout", &much)]);
    assert!(with_fault(&alike, "node_resource_used_up").is_none(), "nobody stands out");
}

fn job(name: &str, failed: Option<(&str, i64)>, done: Option<i64>) -> Value {
    let mut conditions: Vec<Value> =
        failed.iter().map(|(reason, second)| condition("Failed", "True", reason, *second)).collect();
    conditions.extend(done.map(|second| condition("Complete", "True", "CompletionsReached", second)));
    json!({"kind": "Job", "status": {"conditions": conditions, "completionTime": done.map(|second| at(second).to_string())},
        "metadata": {"namespace": "shop", "name": name, "ownerReferences": [{"kind": "CronJob", "name": "report", "controller": true}]}})
}

fn jobs(list: Vec<Value>) -> Observations {
    let mut world = about("KubeJobFailed", "report");
    world.symptoms[0].entity.kind = amend_diagnosis::entity::EntityKind::CronJob;
    put(&mut world, [json!({"kind": "CronJob", "metadata": {"namespace": "shop", "name": "report"}, "spec": {}})]);
    put(&mut world, list);
    world
}

#[test]
fn a_job_that_gave_up_is_told_with_its_cron_job() {
    let got = diagnose(&jobs(vec![job("report-1", Some(("BackoffLimitExceeded", 3_650)), None)]));
    assert_eq!(best(&got), (cause::CRASHING, "report"), "{got:#?}");
    let late =
        with_fault(&jobs(vec![job("report-1", Some(("DeadlineExceeded", 3_650)), None)]), "job_deadline_exceeded");
    assert_eq!(late.unwrap().kind, cause::LATENCY);
    let healed = vec![job("report-1", Some(("BackoffLimitExceeded", 3_650)), None), job("report-2", None, Some(4_000))];
    assert!(of_kind(&jobs(healed), cause::CRASHING).is_none(), "the next run was well");
    let old = vec![job("report-1", Some(("BackoffLimitExceeded", -90_000)), None)];
    assert!(of_kind(&jobs(old), cause::CRASHING).is_none());
}
