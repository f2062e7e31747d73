//! A commit that changed only a ConfigMap: what a plan for the workload that reads it takes back, and how it is judged.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod story;

use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Answer::Known;
use amend_policies::action::{RevertedCommit, RevertedFile};
use amend_policies::gate::environment::configuration_writers;
use amend_policies::gate::permission::accesses_needed;
use amend_policies::gate::{GateFacts, evaluate_all};
use amend_policies::plan::{Configuration, Plan, SourceFile, first_missing};
use amend_policies::planning::{Planning, make_plan};
use amend_policies::policy::CompiledPolicy;
use amend_policies::verdict::{Outcome, Verdict};
use serde_json::{Value, json};
use story::{facts, live, now, oom, planning};

const PATH: &str = "apps/shop/settings.yaml";

fn config_map(name: &str, level: &str) -> String {
    format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: {name}}}\ndata:\n  LEVEL: {level}\n  OTHER: same\n")
}

fn policy() -> CompiledPolicy {
    let mut raw = story::yaml_value(story::POLICY);
    raw["steps"][0]["git"] = json!({ "revertCommit": {} });
    serde_json::from_value::<amend_policies::policy::Policy>(raw).unwrap().compile().unwrap()
}

/// The workload, whose container `app` has the ConfigMap `settings` in its environment.
fn reading() -> Value {
    let mut live = live();
    live["spec"]["template"]["spec"]["containers"][0]["envFrom"] = json!([{ "configMapRef": { "name": "settings" } }]);
    live
}

fn mounting() -> Value {
    let mut live = live();
    live["spec"]["template"]["spec"]["volumes"] = json!([{ "name": "v", "configMap": { "name": "settings" } }]);
    live
}

fn planned(live: &Value, now: &str, then: &str) -> Result<Plan, String> {
    let (policy, cause) = (policy(), amend_diagnosis::diagnosis::Cause { kind: cause::BAD_CONFIG.into(), ..oom() });
    let reverted = RevertedCommit {
        commit: "0123456789".repeat(4),
        subject: "settings: be quieter".into(),
        files: vec![RevertedFile {
            path: PATH.into(),
            now: Some(SourceFile::new(PATH, now)),
            then: Some(SourceFile::new(PATH, then)),
        }],
        rendering: None,
        forward_only: false,
    };
    let inputs = Planning { reverted: Some(reverted), ..planning(&policy, &cause, live) };
    let source = |error: amend_policies::planning::NoPlan| std::error::Error::source(&error).unwrap().to_string();
    make_plan(&inputs).map(|planned| planned.plan).map_err(source)
}

fn plan() -> Plan {
    planned(&reading(), &config_map("settings", "loud"), &config_map("settings", "quiet")).unwrap()
}

#[test]
fn a_commit_that_changed_what_the_target_reads_is_taken_back() {
    let plan = plan();
    assert_eq!(
        plan.summary,
        "take back commit 0123456789 \"settings: be quieter\" in ConfigMap shop/settings, which shop/checkout reads"
    );
    let [configuration] = plan.configurations.as_slice() else { panic!("{:?}", plan.configurations) };
    assert_eq!(
        (configuration.object.to_string().as_str(), configuration.at_start.as_slice()),
        ("ConfigMap shop/settings", &["app".to_owned()][..])
    );
    assert_eq!((plan.expected.len(), plan.steps[0].footprint.restarts_pods), (0, 0));
    let expected = plan.expected_of(configuration);
    assert_eq!(first_missing(&expected, Some(&json!({ "data": { "LEVEL": "quiet" } }))), None);
    let missing = first_missing(&expected, Some(&json!({ "data": { "LEVEL": "loud" } })));
    assert_eq!(missing.as_deref(), Some("data.LEVEL is \"loud\", not yet \"quiet\""));
    assert!(first_missing(&expected, None).is_some(), "one that is not there is not applied");
    assert_eq!(first_missing(&plan.before_of(configuration), Some(&json!({ "data": { "LEVEL": "loud" } }))), None);
}

#[test]
fn an_empty_value_is_not_a_key_that_is_missing() {
    let without = config_map("settings", "x").replace("  LEVEL: x\n", "");
    let plan = planned(&reading(), &without, &config_map("settings", "\"\"")).unwrap();
    let expected = plan.expected_of(&plan.configurations[0]);
    assert!(first_missing(&expected, Some(&json!({ "data": { "OTHER": "same" } }))).is_some());
    assert_eq!(first_missing(&expected, Some(&json!({ "data": { "LEVEL": "", "OTHER": "same" } }))), None);
}

#[test]
fn what_the_target_does_not_read_or_nobody_may_see_is_refused() {
    let [loud, quiet] = ["loud", "quiet"].map(|level| config_map("other", level));
    assert!(planned(&reading(), &loud, &quiet).unwrap_err().contains("nor a ConfigMap that its pods read"));
    let [loud, quiet] = ["a", "b"].map(|one| {
        config_map("settings", "x").replace("{name: settings}", &format!("{{name: settings, labels: {{one: {one}}}}}"))
    });
    assert!(planned(&reading(), &loud, &quiet).is_err(), "only a label of it changed");
    let [loud, quiet] = ["loud", "quiet"]
        .map(|level| config_map("settings", level).replace("{name: settings}", "{name: settings, namespace: bank}"));
    assert!(planned(&reading(), &loud, &quiet).is_err(), "one of the same name elsewhere");
    let mut secret = live();
    secret["spec"]["template"]["spec"]["volumes"] = json!([{ "name": "v", "secret": { "secretName": "settings" } }]);
    let [loud, quiet] = ["loud", "quiet"].map(|level| config_map("settings", level).replace("ConfigMap", "Secret"));
    assert!(planned(&secret, &loud, &quiet).unwrap_err().contains("Amend reads no Secrets"));
    let long = config_map("settings", &"x".repeat(amend_policies::action::revert_commit::CONTENT_MAX));
    assert!(
        planned(&reading(), &long, &config_map("settings", "quiet")).unwrap_err().contains("more than a plan holds")
    );
}

fn judged(question: &str, change: impl FnOnce(&mut GateFacts)) -> Verdict {
    let plan = plan();
    let mut facts = facts(&plan);
    let object = plan.configurations[0].object.clone();
    if let (Known(grants), Known(rendered)) = (&mut facts.permission.grants, &mut facts.permission.rendered) {
        grants[0].kinds.push("ConfigMap".into());
        grants[0].fields.push("data".into());
        rendered.iter_mut().for_each(|one| one.object = object.clone());
    }
    change(&mut facts);
    let verdicts = evaluate_all(&policy(), &plan, &facts, now());
    let asked = |verdict: &&Verdict| verdict.question == question && verdict.outcome != Outcome::Pass;
    verdicts.iter().find(asked).or_else(|| verdicts.iter().find(|one| one.question == question)).unwrap().clone()
}

#[test]
fn the_account_must_be_allowed_to_change_the_config_map_too() {
    let needed: Vec<String> = accesses_needed(&plan())
        .into_iter()
        .map(|access| format!("{} {}/{} {}", access.verb, access.group, access.resource, access.name))
        .collect();
    assert_eq!(
        needed,
        ["patch apps/deployments checkout", "patch /configmaps settings", "propose amend.dev/gittargets shop-repo"]
    );
    let verdict = judged("access", |facts| {
        if let Known(reviews) = &mut facts.permission.access {
            reviews[1].allowed = false;
        }
    });
    assert_eq!(verdict.outcome, Outcome::Fail);
    assert!(verdict.sentence.contains("resources: [\"configmaps\"], verbs: [\"patch\"]"), "{}", verdict.sentence);
}

#[test]
fn the_grant_must_cover_the_kind_and_the_field() {
    assert_eq!(judged("grant", |_| {}).outcome, Outcome::Pass);
    let verdict = judged("grant", |facts| {
        if let Known(grants) = &mut facts.permission.grants {
            grants[0].kinds.pop();
        }
    });
    assert!(verdict.outcome == Outcome::Fail && verdict.sentence.contains("the kind \"ConfigMap\""), "{verdict:?}");
}

#[test]
fn a_rival_that_writes_the_config_map_stops_it() {
    let config_map = json!({ "metadata": { "name": "settings", "managedFields": [
        { "manager": "kustomize-controller", "fieldsV1": { "f:data": { "f:LEVEL": {} } } },
        { "manager": "flag-service", "fieldsV1": { "f:data": { "f:LEVEL": {} } } },
    ] } });
    let writers = configuration_writers(&config_map);
    assert_eq!(writers.len(), 1);
    let verdict = judged("writers", |facts| facts.environment.writers = Known(writers));
    assert!(verdict.outcome == Outcome::Fail, "{verdict:?}");
    assert!(verdict.sentence.contains("\"flag-service\" of ConfigMap settings also writes data.LEVEL"), "{verdict:?}");
}

#[test]
fn other_workloads_that_read_it_count_as_hurt_and_unknown_readers_block() {
    let entity = |name: &str| Entity::new(EntityKind::Deployment, "shop", name);
    let verdict =
        judged("dependents", |facts| facts.blast_radius.readers = Known(vec![entity("cart"), entity("frontend")]));
    assert!(verdict.sentence.contains("2 workloads depend on the target or change with it"), "each once: {verdict:?}");
    let many = (0..6).map(|number| entity(&number.to_string())).collect();
    let verdict = judged("dependents", |facts| facts.blast_radius.readers = Known(many));
    assert_eq!(verdict.outcome, Outcome::Fail);
    let verdict = judged("dependents", |facts| facts.blast_radius.readers = story::unknown());
    assert_eq!(verdict.outcome, Outcome::Unknown);
}

fn pod(state: &Value) -> Value {
    json!({ "status": { "containerStatuses": [{ "name": "app", "state": state }, { "name": "proxy", "state": { "running": { "startedAt": "2026-11-21T08:00:00Z" } } }] } })
}

fn not_taken_up(configuration: &Configuration, pods: &[Value], at: &str) -> Option<String> {
    let live = json!({ "metadata": { "managedFields": [{ "manager": "x", "time": "2026-11-21T09:00:00Z" }, { "manager": "y", "time": "2026-11-21T10:00:00Z" }] } });
    configuration.not_taken_up(&live, pods, at.parse().unwrap()).unwrap()
}

#[test]
fn containers_that_read_it_at_their_start_must_have_started_since() {
    let configuration = &plan().configurations[0];
    let running = |since: &str| pod(&json!({ "running": { "startedAt": since } }));
    let waits = pod(&json!({ "waiting": { "reason": "CrashLoopBackOff" } }));
    let after = "2026-11-21T10:30:00Z";
    assert_eq!(not_taken_up(configuration, &[running("2026-11-21T10:00:01Z")], after), None);
    let why = not_taken_up(configuration, &[running("2026-11-21T10:00:01Z"), running("2026-11-21T09:59:59Z")], after)
        .unwrap();
    assert!(why.contains("1 of 2 pods have not started app since") && why.contains("restart"), "{why}");
    assert!(not_taken_up(configuration, &[waits], after).is_some(), "it has not started yet");
    assert!(configuration.not_taken_up(&json!({}), &[], now()).is_err(), "without a time it cannot be told");
}

#[test]
fn a_mounted_one_is_given_the_time_that_kubelets_need() {
    let plan = planned(&mounting(), &config_map("settings", "loud"), &config_map("settings", "quiet")).unwrap();
    let configuration = &plan.configurations[0];
    assert_eq!(configuration.at_start, [""; 0]);
    let old = pod(&json!({ "running": { "startedAt": "2026-11-21T08:00:00Z" } }));
    assert!(not_taken_up(configuration, std::slice::from_ref(&old), "2026-11-21T10:01:59Z").is_some());
    assert_eq!(not_taken_up(configuration, &[old], "2026-11-21T10:02:00Z"), None);
}
