//! Whether the policy's account may do this, and whether the platform team granted the change.

use amend_diagnosis::evidence::Answer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::field::FieldPath;
use crate::grant::{Grant, field_matches, path_matches};
use crate::plan::{ObjectRef, Plan};
use crate::policy::{Autonomy, quoted};
use crate::verdict::{GateName, Verdict};

/// What the gate looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct PermissionFacts {
    /// One answer per entry of [`accesses_needed`], asked right now for the policy's account with its groups.
    pub access: Answer<Vec<AccessReview>>,
    /// Grants of the plan's `GitTarget`.
    pub grants: Answer<Vec<Grant>>,
    /// Every difference between the manifests rendered before and after the change.
    pub rendered: Answer<Vec<RenderedChange>>,
}

/// One right that the policy's account needs, in the words of RBAC.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Access {
    pub verb: String,
    /// API group; empty for the core group.
    pub group: String,
    /// Plural resource, such as `deployments`.
    pub resource: String,
    pub namespace: String,
    pub name: String,
}

/// What the API server said to a SubjectAccessReview.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AccessReview {
    pub access: Access,
    pub allowed: bool,
}

/// One field that differs once the manifests are rendered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RenderedChange {
    /// File in the repository that brings it.
    pub file: String,
    /// With the namespace it will have in the cluster.
    pub object: ObjectRef,
    pub field: FieldPath,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// The rights that the policy's account needs for a plan, to be asked with a SubjectAccessReview each.
pub fn accesses_needed(plan: &Plan) -> Vec<Access> {
    let target = &plan.target;
    let group = target.api_version.split_once('/').map_or("", |(group, _)| group);
    let (namespace, name) = plan.repository.git_target.split_once('/').unwrap_or(("", &plan.repository.git_target));
    let on_git_target = |verb: &str| Access {
        verb: verb.into(),
        group: "amend.dev".into(),
        resource: "gittargets".into(),
        namespace: namespace.into(),
        name: name.into(),
    };
    let mut needed = vec![Access {
        verb: "patch".into(),
        group: group.into(),
        resource: plural(&target.kind),
        namespace: target.namespace.clone(),
        name: target.name.clone(),
    }];
    needed.extend(plan.configurations.iter().map(|configuration| Access {
        verb: "patch".into(),
        group: String::new(),
        resource: plural(&configuration.object.kind),
        namespace: configuration.object.namespace.clone(),
        name: configuration.object.name.clone(),
    }));
    needed.push(on_git_target("propose"));
    match plan.autonomy {
        Autonomy::Observe | Autonomy::Propose => {}
        Autonomy::Act => needed.push(on_git_target("merge")),
    }
    needed
}

/// The plural of a workload kind or of ConfigMap: all that plans judge form it regularly.
fn plural(kind: &str) -> String {
    format!("{}s", kind.to_lowercase())
}

const GATE: GateName = GateName::Permission;

/// Judges the two questions: access (one verdict per missing right) and grant.
pub fn evaluate(plan: &Plan, facts: &PermissionFacts) -> Vec<Verdict> {
    let mut verdicts = access(plan, &facts.access);
    verdicts.push(granted(plan, &facts.grants, &facts.rendered));
    verdicts
}

fn access(plan: &Plan, reviews: &Answer<Vec<AccessReview>>) -> Vec<Verdict> {
    let account = format!("{}/{}", plan.policy.namespace, plan.service_account_name);
    let reviews = match reviews {
        Answer::Known(reviews) => reviews,
        Answer::Unknown { why } => {
            let sentence = format!("cannot tell what service account {account} may do: {why}");
            return vec![Verdict::unknown(GATE, "access", sentence)];
        }
    };
    let needed = accesses_needed(plan);
    let mut verdicts = Vec::new();
    for access in &needed {
        let shown = format!("{} {} {}/{}", access.verb, access.resource, access.namespace, access.name);
        // Two different answers to one question: the stricter counts.
        let mut answers = reviews.iter().filter(|review| review.access == *access).map(|review| review.allowed);
        match answers.clone().next() {
            None => {
                verdicts.push(Verdict::unknown(GATE, "access", format!("nobody asked whether {account} may {shown}")))
            }
            Some(_) if answers.all(|allowed| allowed) => {}
            Some(_) => {
                let sentence = format!(
                    "service account {account} may not {shown}; add to a Role in namespace {}: {}",
                    access.namespace,
                    rule_to_add(access)
                );
                verdicts.push(Verdict::fail(GATE, "access", sentence));
            }
        }
    }
    if verdicts.is_empty() {
        let verbs: Vec<_> = needed.iter().map(|access| format!("{} {}", access.verb, access.resource)).collect();
        verdicts.push(Verdict::pass(GATE, "access", format!("service account {account} may {}", verbs.join(", "))));
    }
    verdicts
}

/// The RBAC rule that would give an access, in YAML's flow form on one line.
fn rule_to_add(access: &Access) -> String {
    format!(
        "{{apiGroups: [\"{}\"], resources: [\"{}\"], verbs: [\"{}\"], resourceNames: [\"{}\"]}}",
        access.group, access.resource, access.verb, access.name
    )
}

fn granted(plan: &Plan, grants: &Answer<Vec<Grant>>, rendered: &Answer<Vec<RenderedChange>>) -> Verdict {
    let git_target = &plan.repository.git_target;
    let (grants, rendered) = match (grants, rendered) {
        (Answer::Known(grants), Answer::Known(rendered)) => (grants, rendered),
        (Answer::Unknown { why }, _) => {
            return Verdict::unknown(GATE, "grant", format!("cannot tell what GitTarget {git_target} grants: {why}"));
        }
        (_, Answer::Unknown { why }) => {
            return Verdict::unknown(GATE, "grant", format!("cannot tell what the change renders to: {why}"));
        }
    };
    if rendered.is_empty() {
        return Verdict::fail(GATE, "grant", "the change renders to no difference at all");
    }
    let namespace = &plan.policy.namespace;
    let own: Vec<_> = grants.iter().filter(|grant| grant.namespace == *namespace).collect();
    if own.is_empty() {
        let sentence =
            format!("GitTarget {git_target} grants nothing to namespace {namespace}; its owner can add a grant");
        return Verdict::fail(GATE, "grant", sentence);
    }
    // A file that changes without any rendered difference (a comment, another document) must lie inside a path too.
    let files = plan.steps.iter().flat_map(|step| &step.files).map(|file| file.path.as_str());
    if let Some(file) = files.into_iter().find(|file| !own.iter().any(|grant| allows_path(grant, file))) {
        let sentence = format!("GitTarget {git_target} does not grant namespace {namespace} the file {}", quoted(file));
        return Verdict::fail(GATE, "grant", sentence);
    }
    for change in rendered {
        if let Err(what) = allowed(change, namespace, &own) {
            let sentence = format!(
                "GitTarget {git_target} does not grant namespace {namespace} {what} ({} {})",
                change.object, change.field
            );
            return Verdict::fail(GATE, "grant", sentence);
        }
    }
    let inside = match rendered.len() {
        1 => "the one rendered change is inside".to_owned(),
        count => format!("all {count} rendered changes are inside"),
    };
    Verdict::pass(GATE, "grant", format!("{inside} what GitTarget {git_target} grants {namespace}"))
}

fn allows_path(grant: &Grant, file: &str) -> bool {
    grant.paths.iter().any(|pattern| path_matches(pattern, file))
}

/// One grant must allow namespace, path, kind and field together; else what is missing.
fn allowed(change: &RenderedChange, namespace: &str, grants: &[&Grant]) -> Result<(), String> {
    if change.object.namespace != *namespace {
        return Err(format!("a change in namespace {}", quoted(&change.object.namespace)));
    }
    let by_path: Vec<_> = grants.iter().filter(|grant| allows_path(grant, &change.file)).collect();
    if by_path.is_empty() {
        return Err(format!("the file {}", quoted(&change.file)));
    }
    let by_kind: Vec<_> = by_path.iter().filter(|grant| grant.kinds.contains(&change.object.kind)).collect();
    if by_kind.is_empty() {
        return Err(format!("the kind {}", quoted(&change.object.kind)));
    }
    match by_kind.iter().any(|grant| grant.fields.iter().any(|pattern| field_matches(pattern, &change.field))) {
        true => Ok(()),
        false => Err(format!("the field {}", change.field)),
    }
}
