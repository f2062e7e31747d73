//! What can be done: one remedy per file, with its settings, its pure edit, its undo and its footprint.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use serde_json::Value;

use crate::field::{FieldPath, Step};
use crate::manifest::{self, Refusal};
use crate::plan::{
    BlobId, Configuration, ExpectedField, FieldEdit, FileChange, Footprint, ObjectRef, PlanTarget, Rendering,
    SourceFile,
};
use crate::policy::Problems;
use amend_diagnosis::diagnosis::Cause;

pub mod class;
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

/// What an action works on.
#[derive(Clone, Copy, Debug)]
pub struct Setting<'a> {
    pub cause: &'a Cause,
    pub target: &'a PlanTarget,
    /// The live target, whole.
    pub live: &'a Value,
    /// The file that owns the target, as it stands at the plan's base (after earlier steps).
    pub source: Option<&'a SourceFile>,
    /// The guilty commit's inverse, when the repository could make one.
    pub reverted: Option<&'a RevertedCommit>,
}

/// The inverse of one commit on top of the plan's base.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevertedCommit {
    /// Full id of the commit that is taken back.
    pub commit: String,
    /// Its first line; untrusted text.
    pub subject: String,
    pub files: Vec<RevertedFile>,
    /// What the files render to, where they do not hold the objects' fields themselves.
    pub rendering: Option<Rendering>,
    /// Set when the commit says that it must not be taken back (a migration).
    pub forward_only: bool,
}

/// One file that the reverted commit touched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevertedFile {
    pub path: String,
    /// The file at the plan's base; none when it is not there.
    pub now: Option<SourceFile>,
    /// The file once the commit is taken back; none when it goes away.
    pub then: Option<SourceFile>,
}

/// What an action would do: nothing has happened yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Deed {
    /// One line for people.
    pub summary: String,
    pub files: Vec<FileChange>,
    /// The files after the deed; those that go away are not among them.
    pub after: Vec<SourceFile>,
    /// What the files render to, where they do not hold the objects' fields themselves.
    pub rendering: Option<Rendering>,
    pub footprint: Footprint,
    pub expected: Vec<ExpectedField>,
    /// ConfigMaps that change and that the target's pods read.
    pub configurations: Vec<Configuration>,
}

/// Why an action does not answer this cause on this target; a sentence for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Inapplicable {
    #[error("{0}")]
    NoAnswer(String),
    #[error("{0}")]
    NotEditable(#[from] Refusal),
}

impl Inapplicable {
    fn because(sentence: impl Into<String>) -> Self {
        Self::NoAnswer(sentence.into())
    }
}

impl Action {
    /// What this action would do here.
    ///
    /// # Errors
    /// The sentence why it does not fit: then another action may, or people must.
    pub fn deed(&self, setting: &Setting<'_>) -> Result<Deed, Inapplicable> {
        match self {
            Self::SetResources(rule) => rule.deed(setting),
            Self::SetImage(rule) => rule.deed(setting),
            Self::RevertCommit(rule) => rule.deed(setting),
        }
    }
}

/// What must happen to a file for a change to be in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// Write the change's `after`.
    Write,
    /// It is in place already: doing it twice is doing it once.
    Done,
    /// Somebody changed the file since: nothing may be written.
    Conflict,
}

impl FileChange {
    /// What must happen, given the blob that stands at the path now.
    pub fn applied_to(&self, now: Option<&BlobId>) -> Application {
        match now {
            now if now == self.after.as_ref() => Application::Done,
            now if now == self.before.as_ref() => Application::Write,
            _ => Application::Conflict,
        }
    }
}

/// Field of a container in a workload's pod template.
fn container_field(container: &str, below: &[&str]) -> FieldPath {
    let path = ["spec", "template", "spec", "containers"].into_iter().fold(FieldPath::new(Vec::new()), FieldPath::key);
    below.iter().fold(path.named(container), |path, key| path.key(*key))
}

/// The container that is meant: the one set, else the cause's, else the only one in the file.
fn container_of(wanted: Option<&str>, setting: &Setting<'_>, source: &SourceFile) -> Result<String, Inapplicable> {
    let list = container_field("", &[]);
    let list = FieldPath::new(list.steps()[..list.steps().len() - 1].to_vec());
    let names = manifest::names(source, &setting.target.object(), &list)?;
    match (wanted.or(setting.cause.entity.container.as_deref()), names.as_slice()) {
        (Some(name), _) if names.iter().any(|one| one == name) => Ok(name.to_owned()),
        (Some(name), _) => {
            let found = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            Err(Inapplicable::because(format!(
                "{} has no container {} for {} (found: {found})",
                source.path,
                crate::policy::quoted(name),
                setting.target.object()
            )))
        }
        (None, [only]) => Ok(only.clone()),
        (None, _) => Err(Inapplicable::because(format!(
            "neither policy nor cause says which of {} containers is meant; set container",
            names.len()
        ))),
    }
}

fn source_of<'a>(setting: &Setting<'a>) -> Result<&'a SourceFile, Inapplicable> {
    setting
        .source
        .ok_or_else(|| Inapplicable::because(format!("no file in Git is known to own {}", setting.target.object())))
}

/// Pods that a change of these fields makes anew: all replicas when the pod template changes.
fn footprint(live: &Value, fields: Vec<FieldPath>) -> Footprint {
    let template = [Step::Key("spec".into()), Step::Key("template".into())];
    let restarts = fields.iter().any(|field| field.steps().starts_with(&template));
    let replicas = live.pointer("/spec/replicas").or_else(|| live.pointer("/status/desiredNumberScheduled"));
    let replicas = replicas.map_or(1, |count| count.as_u64().unwrap_or(1));
    let restarts_pods = if restarts { u32::try_from(replicas).unwrap_or(u32::MAX) } else { 0 };
    Footprint { restarts_pods, fields }
}

/// A deed of edits in one file.
fn deed_in_one_file(
    summary: String,
    setting: &Setting<'_>,
    before: &SourceFile,
    after: SourceFile,
    edits: Vec<FieldEdit>,
) -> Deed {
    let expected =
        edits.iter().map(|edit| ExpectedField { field: edit.field.clone(), value: edit.to.clone() }).collect();
    let footprint = footprint(setting.live, edits.iter().map(|edit| edit.field.clone()).collect());
    let change = FileChange {
        path: before.path.clone(),
        before: Some(before.blob.clone()),
        after: Some(after.blob.clone()),
        edits,
    };
    let configurations = Vec::new();
    Deed { summary, files: vec![change], after: vec![after], rendering: None, footprint, expected, configurations }
}

/// `Deployment shop/checkout` as people say it.
fn named(object: &ObjectRef) -> String {
    format!("{}/{}", object.namespace, object.name)
}
