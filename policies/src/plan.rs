//! What is going to be done, written down before anything happens.

use std::collections::BTreeSet;
use std::fmt;

use amend_diagnosis::entity::Entity;
use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::action::ActionKind;
use crate::canonical;
use crate::duration;
use crate::field::FieldPath;
use crate::percentage::Percentage;
use crate::policy::{Autonomy, GoldenMetric, PolicyRef, RollbackOn, RollbackVia, Sla, Verification};

mod applied;
mod configured;
mod identity;
mod live;

pub use applied::Stands;
pub use configured::{MOUNTED_WITHIN, first_missing};
pub use identity::{ActionKey, BlobId, Fingerprint, PlanDigest};
pub use live::{LiveChange, Rendering};

/// Ordered steps with their undo, limits and checks. Immutable; named by its [`digest`](Plan::digest).
///
/// Holds no file contents, only blob ids: contents live in Git, and the object stays small.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// One line for people: `raise the memory limit of app in shop/checkout from 256Mi to 384Mi`.
    pub summary: String,
    /// Kind of the cause that this answers, such as `container.oom-killed`.
    pub cause: String,
    pub incident: IncidentRef,
    pub policy: PolicyRef,
    pub autonomy: Autonomy,
    pub service_account_name: String,
    pub target: PlanTarget,
    pub repository: Repository,
    /// Counts plans for one incident and policy from 1; part of the action key.
    pub revision: u32,
    /// Never empty.
    pub steps: Vec<PlanStep>,
    pub limits: Sla,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abort_when: Vec<AbortSignal>,
    pub verify: Verification,
    pub rollback: RollbackRule,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub escalate: Vec<Escalate>,
    /// What the live target must show before the change counts as applied.
    pub expected: Vec<ExpectedField>,
    /// ConfigMaps that the target's pods read and that change: what is planned for them must be live, and taken up by the pods.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub configurations: Vec<Configuration>,
}

/// A ConfigMap that a plan changes because the target's pods read it. What it must show is in the plan's edits.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Configuration {
    /// With its namespace.
    pub object: ObjectRef,
    /// Containers of the target that see the change only when they start. Empty: they all see it in a mounted folder by and by.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub at_start: Vec<String>,
}

/// The incident that a plan answers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct IncidentRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// The live object that is to get well.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanTarget {
    pub entity: Entity,
    pub api_version: String,
    pub kind: String,
    pub namespace: String,
    pub name: String,
    /// Guards against an object that was deleted and made again.
    pub uid: String,
}

/// An object as a manifest names it; the namespace may be empty in the file.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    pub api_version: String,
    pub kind: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub name: String,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.namespace.as_str() {
            "" => write!(out, "{} {}", self.kind, self.name),
            namespace => write!(out, "{} {namespace}/{}", self.kind, self.name),
        }
    }
}

impl PlanTarget {
    pub fn object(&self) -> ObjectRef {
        ObjectRef {
            api_version: self.api_version.clone(),
            kind: self.kind.clone(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
        }
    }
}

/// Where the change goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Repository {
    /// `namespace/name` of the `GitTarget`.
    pub git_target: String,
    pub url: String,
    pub branch: String,
    /// Full commit id of the branch's head when the plan was made.
    pub base: String,
}

/// One step with its way back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PlanStep {
    pub name: String,
    pub action: ActionKind,
    /// Full id of the commit that is taken back; for a revert only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reverts: Option<String>,
    /// Never empty, sorted by path, each path once.
    pub files: Vec<FileChange>,
    /// What the files render to, where they do not hold the objects' fields themselves. None: the edits are the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rendering: Option<Rendering>,
    pub undo: Undo,
    pub footprint: Footprint,
}

/// The inverse of a step: harmless when the deed never happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Undo {
    pub files: Vec<FileChange>,
}

/// One file before and after.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FileChange {
    pub path: String,
    /// None: the file is new.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<BlobId>,
    /// None: the file goes away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<BlobId>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<FieldEdit>,
}

impl FileChange {
    /// The change that takes this one back.
    pub fn inverse(&self) -> Self {
        let edits =
            self.edits.iter().map(|edit| FieldEdit { from: edit.to.clone(), to: edit.from.clone(), ..edit.clone() });
        Self {
            path: self.path.clone(),
            before: self.after.clone(),
            after: self.before.clone(),
            edits: edits.rev().collect(),
        }
    }
}

/// One value in one object in one file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FieldEdit {
    pub object: ObjectRef,
    pub field: FieldPath,
    /// None: the field was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// None: the field goes away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// Line in the file after the edit, from 1.
    pub line: u32,
}

/// What a step touches besides the files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Footprint {
    /// Pods that are made anew because of it.
    pub restarts_pods: u32,
    /// Fields of the live target that change.
    pub fields: Vec<FieldPath>,
}

/// Harm that stops a rollout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AbortSignal {
    pub metric: GoldenMetric,
    /// Points for ratios, else relative to the value before.
    #[schemars(with = "String")]
    pub increase: Percentage,
}

/// When the change is taken back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RollbackRule {
    // A list in the schema: Kubernetes refuses uniqueItems. Written as policies write it.
    #[serde(rename = "when")]
    #[schemars(with = "Vec<RollbackOn>")]
    pub on: BTreeSet<RollbackOn>,
    pub via: RollbackVia,
}

/// Whom to tell after how long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Escalate {
    #[serde(with = "duration::text")]
    #[schemars(with = "String")]
    pub after: SignedDuration,
    pub notify: Vec<String>,
}

/// What a field of the live target must be for the change to count as applied.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExpectedField {
    pub field: FieldPath,
    /// None: the field must be absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// A file as it stands in the repository at the plan's base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Path in the repository, with `/`, without a leading one.
    pub path: String,
    pub blob: BlobId,
    pub text: String,
}

impl SourceFile {
    /// A file with the blob id that Git gives this text.
    pub fn new(path: impl Into<String>, text: impl Into<String>) -> Self {
        let text = text.into();
        Self { path: path.into(), blob: BlobId::of(text.as_bytes()), text }
    }
}

impl Plan {
    /// Names this plan: two plans with one digest are the same plan.
    pub fn digest(&self) -> PlanDigest {
        PlanDigest::over(canonical::digest(self))
    }

    /// What "the same proposal" means: target, cause, files and fields, not the values. A rejected one is muted.
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self)
    }

    /// Names one execution of one step.
    ///
    /// `install` tells two installations of Amend on one repository apart (the UID of the release namespace).
    pub fn action_key(&self, install: &str, step: &str) -> ActionKey {
        ActionKey::of(self, install, step)
    }
}
