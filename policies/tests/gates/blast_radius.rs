//! What a rollout takes out of service, who depends on the target, and who else renders the changed files.

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Answer::Known;
use amend_policies::gate::blast_radius::{DisruptionBudget, Rollout};
use amend_policies::gate::evaluate_all;
use amend_policies::policy::Autonomy;
use amend_policies::verdict::{Outcome, Readiness, readiness};
use serde_json::json;

use crate::story::{self, facts, live, now, plan, policy, policy_of};
use crate::{fails, passes};

#[test]
fn the_rollout_takes_only_serving_pods_and_prints_the_numbers() {
    passes(
        "unavailable",
        "takes at most 0 of 2 serving pods out of service at once (0% of 4 replicas, 1 extra)",
        |_| {},
    );
    fails("unavailable", "takes at most 4 of 4 serving pods", |facts| {
        let mut object = live();
        object["spec"]["strategy"] = json!({ "type": "Recreate" });
        object["status"]["readyReplicas"] = json!(4);
        facts.blast_radius.rollout = Known(Rollout::of(&object).unwrap());
    });
    passes("unavailable", "takes at most 2 of 4 serving pods", |facts| {
        facts.blast_radius.rollout =
            Known(Rollout { replicas: 4, ready: 4, max_unavailable: 2, max_surge: 0, waits_for_ready: false });
    });
    fails("budget", "PodDisruptionBudget checkout allows 0 disruptions now, the rollout needs 1", |facts| {
        facts.blast_radius.rollout =
            Known(Rollout { replicas: 4, ready: 4, max_unavailable: 1, max_surge: 0, waits_for_ready: false });
        facts.blast_radius.budgets = Known(vec![DisruptionBudget { name: "checkout".into(), disruptions_allowed: 0 }]);
    });
    passes("budget", "allows 0 disruptions, the rollout needs 0", |facts| {
        facts.blast_radius.budgets = Known(vec![DisruptionBudget { name: "checkout".into(), disruptions_allowed: 0 }]);
    });
}

#[test]
fn a_file_that_others_render_too_is_for_a_reviewer_and_never_acted_on() {
    let plan = plan();
    let mut facts = facts(&plan);
    facts.blast_radius.elsewhere = Known(vec!["apps/staging".into(), "Kustomization flux-system/dev".into()]);
    let verdicts = evaluate_all(&policy(), &plan, &facts, now());
    let verdict = verdicts.iter().find(|one| one.question == "elsewhere").unwrap();
    assert!(
        verdict.sentence.contains("\"apps/staging\", \"Kustomization flux-system/dev\" also render the changed files"),
        "{}",
        verdict.sentence
    );
    assert!(matches!(readiness(Autonomy::Act, &verdicts), Readiness::Blocked { .. }));
    assert!(matches!(readiness(Autonomy::Propose, &verdicts), Readiness::Draft { .. }));
}

#[test]
fn a_policy_can_tighten_the_bounds_and_never_loosen_them() {
    let dependents = |count: usize| -> Vec<Entity> {
        (0..count).map(|number| Entity::new(EntityKind::Deployment, "shop", format!("s{number}"))).collect()
    };
    fails("dependents", "6 workloads depend on the target (s0, s1, s2, s3, s4, ...), but only 5", |facts| {
        facts.blast_radius.dependents = Known(dependents(6));
    });
    let loose = policy_of(
        &story::POLICY.replace("maxUnavailable: 50%, maxDependents: 5", "maxUnavailable: 100%, maxDependents: 9000"),
    );
    let plan = plan();
    let mut facts = facts(&plan);
    facts.blast_radius.dependents = Known(dependents(26));
    facts.blast_radius.rollout =
        Known(Rollout { replicas: 4, ready: 4, max_unavailable: 3, max_surge: 0, waits_for_ready: false });
    let verdicts = evaluate_all(&loose.compile().unwrap(), &plan, &facts, now());
    assert_eq!(verdicts.iter().filter(|verdict| verdict.outcome == Outcome::Fail).count(), 2);
}

#[test]
fn rollouts_are_read_with_the_defaults_of_the_api_server() {
    let read = |kind: &str, replicas: u32, spec: serde_json::Value| {
        let mut object = json!({ "kind": kind, "spec": spec, "status": { "readyReplicas": replicas, "numberAvailable": replicas, "desiredNumberScheduled": replicas } });
        object["spec"]["replicas"] = json!(replicas);
        Rollout::of(&object).map(|rollout| (rollout.max_unavailable, rollout.max_surge))
    };
    assert_eq!(read("Deployment", 4, json!({})), Ok((1, 1)));
    assert_eq!(read("Deployment", 1, json!({})), Ok((0, 1)));
    assert_eq!(read("Deployment", 3, json!({ "strategy": { "type": "Recreate" } })), Ok((3, 0)));
    let rolling = json!({ "strategy": { "rollingUpdate": { "maxUnavailable": 0, "maxSurge": 0 } } });
    assert_eq!(read("Deployment", 3, rolling), Ok((1, 0)));
    assert_eq!(read("StatefulSet", 3, json!({})), Ok((1, 0)));
    assert_eq!(
        read("DaemonSet", 9, json!({ "updateStrategy": { "rollingUpdate": { "maxUnavailable": "25%" } } })),
        Ok((3, 0))
    );
    assert!(
        read("StatefulSet", 3, json!({ "updateStrategy": { "type": "OnDelete" } })).unwrap_err().contains("OnDelete")
    );
    let partitioned = json!({ "updateStrategy": { "rollingUpdate": { "partition": 2 } } });
    assert!(read("StatefulSet", 3, partitioned).unwrap_err().contains("partition 2"));
    assert_eq!(
        read("StatefulSet", 3, json!({ "updateStrategy": { "rollingUpdate": { "partition": 0 } } })),
        Ok((1, 0))
    );
    assert!(read("Deployment", 3, json!({ "paused": true })).unwrap_err().contains("paused"));
    assert!(read("CronJob", 3, json!({})).unwrap_err().contains("not known"));
    assert!(Rollout::of(&json!({ "kind": "Deployment", "spec": {} })).unwrap_err().contains("no status"));
}

#[test]
fn a_stateful_set_with_pods_that_are_not_ready_is_a_draft_that_says_what_to_do() {
    let at = |kind: &str, ready: u32| {
        let plan = plan();
        let mut facts = facts(&plan);
        let object = json!({ "kind": kind, "spec": { "replicas": 3 }, "status": { "readyReplicas": ready } });
        facts.blast_radius.rollout = Known(Rollout::of(&object).unwrap());
        readiness(Autonomy::Propose, &evaluate_all(&policy(), &plan, &facts, now()))
    };
    let Readiness::Draft { gaps } = at("StatefulSet", 1) else { panic!("{:?}", at("StatefulSet", 1)) };
    assert!(gaps.len() == 1 && gaps[0].contains("2 of 3 pods are not ready") && gaps[0].contains("delete"), "{gaps:?}");
    assert_eq!(at("StatefulSet", 3), Readiness::Ready);
    assert_eq!(at("Deployment", 1), Readiness::Ready, "a Deployment starts new pods beside the broken ones");
}
