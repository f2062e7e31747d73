//! What changes in the cluster's objects once a plan's files are rendered.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{ExpectedField, FieldEdit, ObjectRef, Plan};
use crate::field::FieldPath;

/// One field of one object as the cluster will have it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LiveChange {
    pub object: ObjectRef,
    pub field: FieldPath,
    /// None: the field was not there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<String>,
    /// None: the field goes away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
}

/// What files render to that only together say what an object looks like: overlays of Kustomize.
///
/// Made again from Git and compared before anything is pushed, as the files are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rendering {
    /// Folder of the repository that is rendered; empty for its root.
    pub folder: String,
    /// Namespace that the GitOps controller gives everything in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_namespace: Option<String>,
    /// Never empty, by object and field. All objects have the namespace that they will have.
    pub changes: Vec<LiveChange>,
}

impl From<FieldEdit> for LiveChange {
    fn from(edit: FieldEdit) -> Self {
        Self { object: edit.object, field: edit.field, from: edit.from, to: edit.to }
    }
}

impl LiveChange {
    /// Whether this is about an object. One in a file may leave its namespace to Kustomize.
    pub fn is_of(&self, wanted: &ObjectRef) -> bool {
        let object = &self.object;
        (&object.api_version, &object.kind, &object.name) == (&wanted.api_version, &wanted.kind, &wanted.name)
            && (object.namespace.is_empty() || object.namespace == wanted.namespace)
    }

    /// What the object must show once the change is applied.
    pub fn expected(&self) -> ExpectedField {
        ExpectedField { field: self.field.clone(), value: self.to.clone() }
    }

    /// What it shows before, and again once the change is taken back.
    pub fn before(&self) -> ExpectedField {
        ExpectedField { field: self.field.clone(), value: self.from.clone() }
    }
}

impl Plan {
    /// Every field of the cluster's objects that changes, step by step.
    pub fn live_changes(&self) -> Vec<LiveChange> {
        let of_step = |step: &super::PlanStep| match &step.rendering {
            Some(rendering) => rendering.changes.clone(),
            None => step.files.iter().flat_map(|file| file.edits.iter().cloned().map(LiveChange::from)).collect(),
        };
        self.steps.iter().flat_map(of_step).collect()
    }
}
