//! What can be done: one remedy per file, with its settings, its pure edit, its undo and its footprint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::policy::Problems;

pub mod revert_commit;
pub mod set_image;
pub mod set_resources;

pub use revert_commit::RevertCommit;
pub use set_image::SetImage;
pub use set_resources::SetResources;

/// A change in Git: exactly one of its fields is set.
///
/// A struct of options rather than an enum: an object that names two (or one we do not know) can still be read, gets its
/// sentence in the status and does not break the watch.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(extend("x-kubernetes-validations" = [{
    "rule": "[has(self.setResources), has(self.setImage), has(self.revertCommit)].filter(set, set).size() == 1",
    "message": "a git step does exactly one of setResources, setImage and revertCommit"
}]))]
pub struct GitAction {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_resources: Option<SetResources>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub set_image: Option<SetImage>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert_commit: Option<RevertCommit>,
}

/// A remedy with its settings read and bounded.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    SetResources(set_resources::ResourceRule),
    SetImage(SetImage),
    RevertCommit(revert_commit::RevertRule),
}

/// Which remedy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ActionKind {
    SetResources,
    SetImage,
    RevertCommit,
}

impl Action {
    pub fn kind(&self) -> ActionKind {
        match self {
            Self::SetResources(_) => ActionKind::SetResources,
            Self::SetImage(_) => ActionKind::SetImage,
            Self::RevertCommit(_) => ActionKind::RevertCommit,
        }
    }
}

impl GitAction {
    /// Reads the one action that is set; none and a problem when there are more, fewer, or a wrong text inside.
    pub(crate) fn compile(&self, path: &str, problems: &mut Problems) -> Option<Action> {
        match (&self.set_resources, &self.set_image, &self.revert_commit) {
            (Some(settings), None, None) => {
                settings.compile(&format!("{path}.setResources"), problems).map(Action::SetResources)
            }
            (None, Some(settings), None) => {
                settings.compile(&format!("{path}.setImage"), problems).map(Action::SetImage)
            }
            (None, None, Some(settings)) => {
                settings.compile(&format!("{path}.revertCommit"), problems).map(Action::RevertCommit)
            }
            (None, None, None) => {
                problems.add(path, "name one action: setResources, setImage or revertCommit");
                None
            }
            _ => {
                problems.add(path, "this step names several actions; write each as a step of its own");
                None
            }
        }
    }
}
