//! What a policy would change, worked out on the workload itself: for times that are over and repositories that nobody can
//! read yet. The actions are those of a real plan; the file is the live object written as YAML.

use amend_crds::RemediationPolicy;
use amend_diagnosis::diagnosis::Cause;
use amend_diagnosis::evidence::{Answer, Change};
use amend_policies::action::Action;
use amend_policies::library::LIBRARY;
use amend_policies::plan::{IncidentRef, PlanTarget, Repository, SourceFile};
use amend_policies::planning::{Planning, make_plan};
use amend_policies::quantity::Quantity;
use kube::api::DynamicObject;
use serde::Serialize;
use serde_json::{Value, json};

use crate::errors;
use crate::planner::{Known, known, matched};

/// A change that a policy would propose.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Sketch {
    pub policy: String,
    pub summary: String,
    pub files: usize,
    /// Lines that a reviewer would see changed, the longer side of the diff.
    pub lines: usize,
}

impl Sketch {
    pub fn is_one_line(&self) -> bool {
        self.files == 1 && self.lines == 1
    }
}

/// The ready policies, as somebody would apply them for this one workload: in its namespace, selecting it by name.
pub fn ready_policies(cause: &Cause) -> Vec<Known> {
    let for_it = |mut object: DynamicObject| {
        object.metadata.namespace = Some(cause.entity.namespace.clone());
        let targets = json!([{ "kind": format!("{:?}", cause.entity.kind), "name": cause.entity.name }]);
        object.data["spec"]["match"]["targets"] = targets;
        known(&object)
    };
    LIBRARY.iter().filter_map(|entry| serde_saphyr::from_str(entry.yaml).ok()).map(for_it).collect()
}

/// The smallest change among the policies that answer a cause, or why there is none.
///
/// `live` is the workload as it is now; the limit that was measured at the time takes the place of today's. `changes` are what
/// the diagnosis knew.
///
/// # Errors
/// A sentence: no policy answers, or the one that does has nothing to change.
pub fn sketch(policies: &[Known], cause: &Cause, live: Option<&Value>, changes: &[Change]) -> Result<Sketch, String> {
    let there = match live {
        Some(object) => Answer::Known(Some(object.clone())),
        None => Answer::unknown(format!("{} is not there any more", cause.entity.workload())),
    };
    let matching = matched(policies, cause, &there);
    let answering: Vec<&Known> = policies
        .iter()
        .filter(|one| matching.iter().any(|matching| matching.matches && matching.policy == one.reference))
        .collect();
    if answering.is_empty() {
        return Err(match matching.as_slice() {
            [] => format!("no {} exists that could answer {}", kind(), cause.kind),
            [only] => only.sentence.clone(),
            _ => format!("no policy answers {} on {}", cause.kind, cause.entity.workload()),
        });
    }
    let mut sketches = Vec::new();
    let mut reasons = Vec::new();
    for policy in answering {
        match drawn(policy, cause, live, changes) {
            Ok(sketch) => sketches.push(sketch),
            Err(why) => reasons.push(format!("policy {} has no plan: {why}", policy.reference.name)),
        }
    }
    sketches.into_iter().min_by_key(|one| (one.files, one.lines, one.policy.clone())).ok_or_else(|| reasons.join("; "))
}

fn kind() -> String {
    <RemediationPolicy as kube::Resource>::kind(&()).into_owned()
}

fn drawn(policy: &Known, cause: &Cause, live: Option<&Value>, changes: &[Change]) -> Result<Sketch, String> {
    let compiled = policy.compiled.as_ref().ok_or("the policy is not accepted")?;
    if let [step] = compiled.steps.as_slice()
        && let Action::RevertCommit(rule) = &step.action
    {
        return reverted(policy, rule.max_files, cause, changes);
    }
    let live = then(live.ok_or("the workload is not there any more")?, cause);
    let file = format!("{}.yaml", cause.entity.name);
    let text = serde_saphyr::to_string(&live).map_err(|error| errors::chain(&error))?;
    let part = |pointer: &str| live.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let source = SourceFile::new(file, text);
    let none = String::new;
    let planning = Planning {
        policy: compiled,
        policy_ref: policy.reference.clone(),
        cause,
        incident: IncidentRef { namespace: cause.entity.namespace.clone(), name: none(), uid: none() },
        target: PlanTarget {
            entity: cause.entity.clone(),
            api_version: part("/apiVersion"),
            kind: part("/kind"),
            namespace: part("/metadata/namespace"),
            name: part("/metadata/name"),
            uid: part("/metadata/uid"),
        },
        live: &live,
        repository: Repository { git_target: none(), url: none(), branch: none(), base: none() },
        revision: 1,
        source: Some(source.clone()),
        reverted: None,
    };
    let planned = make_plan(&planning).map_err(|error| errors::chain(&error))?;
    let lines = planned.after.iter().map(|after| changed_lines(&source.text, &after.text)).sum();
    let files = planned.plan.steps.iter().map(|step| step.files.len()).sum();
    Ok(Sketch { policy: policy.reference.name.clone(), summary: planned.plan.summary, files, lines })
}

/// The workload with what was measured at the time, without what a file in Git would not hold.
fn then(live: &Value, cause: &Cause) -> Value {
    let mut then = live.clone();
    if let Some(object) = then.as_object_mut() {
        object.remove("status");
        if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
            metadata.retain(|key, _| matches!(key.as_str(), "name" | "namespace" | "labels" | "uid"));
        }
    }
    let limit = cause.measures.get("memory.limitBytes").and_then(|bytes| bytes.parse().ok());
    let containers = then.pointer_mut("/spec/template/spec/containers").and_then(Value::as_array_mut);
    for container in containers.into_iter().flatten() {
        let blamed = cause.entity.container.as_deref().is_some_and(|name| container["name"] == name);
        if let (Some(limit), true) = (limit, blamed) {
            let limits = &mut container["resources"]["limits"];
            limits["memory"] = Value::from(Quantity::whole(limit).show_memory());
        }
    }
    then
}

/// The commit that is to blame, taken back, as its own diff shows it.
fn reverted(policy: &Known, max_files: u32, cause: &Cause, changes: &[Change]) -> Result<Sketch, String> {
    let blamed = cause.measures.get("commit.guilty").or(cause.change.as_ref().map(|change| &change.id));
    let blamed = blamed.ok_or("no commit is known to be guilty")?;
    let of_it: Vec<&Change> =
        changes.iter().filter(|change| change.id == *blamed && !change.files.is_empty()).collect();
    let mut files: Vec<&String> = of_it.iter().flat_map(|change| &change.files).collect();
    files.sort();
    files.dedup();
    match u32::try_from(files.len()) {
        Ok(0) => return Err(format!("no repository told what {blamed} changed")),
        Ok(count) if count <= max_files => {}
        _ => return Err(format!("the commit touches {} files, the policy takes back {max_files}", files.len())),
    }
    // Objects of one file share its diff.
    let mut diffs: Vec<&str> = of_it.iter().map(|change| change.diff.as_str()).collect();
    diffs.sort_unstable();
    diffs.dedup();
    let lines = diffs.into_iter().map(lines_of_diff).sum();
    let short: String = blamed.chars().take(10).collect();
    Ok(Sketch {
        policy: policy.reference.name.clone(),
        summary: format!("take commit {short} back"),
        files: files.len(),
        lines,
    })
}

fn lines_of_diff(diff: &str) -> usize {
    let count =
        |sign: char, head: &str| diff.lines().filter(|line| line.starts_with(sign) && !line.starts_with(head)).count();
    count('+', "+++").max(count('-', "---"))
}

/// Lines between the first and the last one that differ, on the longer side. Edits are byte-minimal, so that this is the diff
/// of one edit; of several far apart it is more than a reviewer would see, never less.
fn changed_lines(before: &str, after: &str) -> usize {
    let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
    let same = before.iter().zip(&after).take_while(|(one, other)| one == other).count();
    let (left, right) = (&before[same..], &after[same..]);
    let tail = left.iter().rev().zip(right.iter().rev()).take_while(|(one, other)| one == other).count();
    (left.len() - tail).max(right.len() - tail)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use amend_diagnosis::diagnosis::cause;
    use amend_diagnosis::entity::{Entity, EntityKind};
    use amend_diagnosis::evidence::ChangeKind;
    use jiff::Timestamp;

    use super::*;

    fn live(memory: &str) -> Value {
        json!({
            "apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": { "name": "checkout", "namespace": "shop", "uid": "u", "resourceVersion": "7" },
            "spec": { "replicas": 3, "template": { "spec": { "containers": [
                { "name": "app", "image": "shop/checkout:v2", "resources": { "limits": { "memory": memory, "cpu": "500m" } } },
            ] } } },
            "status": { "replicas": 3 },
        })
    }

    fn blamed(kind: &str, measures: &[(&str, &str)]) -> Cause {
        let measures = measures.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned()));
        Cause {
            kind: kind.to_owned(),
            entity: Entity::new(EntityKind::Deployment, "shop", "checkout").with_container("app"),
            change: None,
            confidence: 0.95,
            sentence: String::new(),
            facts_for: Vec::new(),
            facts_against: Vec::new(),
            measures: measures.collect::<BTreeMap<_, _>>(),
        }
    }

    fn commit(diff: &str) -> Change {
        Change {
            id: "c0ffee00".to_owned(),
            kind: ChangeKind::Image,
            at: Timestamp::UNIX_EPOCH,
            target: Entity::new(EntityKind::Deployment, "shop", "checkout"),
            summary: String::new(),
            files: vec!["apps/shop/checkout.yaml".to_owned()],
            diff: diff.to_owned(),
            author: String::new(),
            new_pods: Vec::new(),
            deleted_pods: Vec::new(),
        }
    }

    #[test]
    fn a_limit_that_was_too_small_is_one_line_also_when_it_is_higher_today() {
        let cause = blamed(cause::OOM_KILLED, &[("memory.limitBytes", "268435456"), ("memory.peakBytes", "268000000")]);
        let sketch = sketch(&ready_policies(&cause), &cause, Some(&live("1Gi")), &[]).expect("a sketch");
        assert!(sketch.is_one_line(), "{sketch:?}");
        assert!(sketch.summary.contains("from 256Mi to 384Mi"), "{sketch:?}");
    }

    #[test]
    fn a_leak_is_answered_by_nobody() {
        let cause = blamed(cause::MEMORY_LEAK, &[("memory.limitBytes", "268435456")]);
        assert!(sketch(&ready_policies(&cause), &cause, Some(&live("256Mi")), &[]).is_err());
    }

    #[test]
    fn a_guilty_commit_is_as_long_as_its_own_diff() {
        let cause = blamed(cause::BAD_IMAGE, &[("commit.guilty", "c0ffee00")]);
        let policies = ready_policies(&cause);
        let small = commit("--- a\n+++ b\n-  image: shop/checkout:v1\n+  image: shop/checkout:v2\n");
        let sketched = sketch(&policies, &cause, Some(&live("256Mi")), &[small.clone(), small]).expect("a sketch");
        assert_eq!((sketched.files, sketched.lines), (1, 1), "two objects of one file are one diff: {sketched:?}");
        let large = commit("--- a\n+++ b\n-  image: shop/checkout:v1\n+  image: shop/checkout:v2\n+  tty: true\n");
        let sketched = sketch(&policies, &cause, Some(&live("256Mi")), &[large]).expect("a sketch");
        assert!(!sketched.is_one_line(), "{sketched:?}");
        let unread = sketch(&policies, &cause, Some(&live("256Mi")), &[]).unwrap_err();
        assert!(unread.contains("no repository told"), "{unread}");
    }

    #[test]
    fn without_a_policy_nothing_is_promised() {
        let cause = blamed(cause::OOM_KILLED, &[("memory.limitBytes", "268435456")]);
        assert!(sketch(&[], &cause, Some(&live("256Mi")), &[]).unwrap_err().contains("no RemediationPolicy"));
    }
}
