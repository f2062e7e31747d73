//! Takes one commit back: the files it touched get the content they had before it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Deed, Inapplicable, Setting, footprint, named};
use crate::manifest;
use crate::plan::{ExpectedField, FileChange};
use crate::policy::{Problems, quoted};

/// Settings of the action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RevertCommit {
    /// A commit that touched more files than this is not reverted. Without it [`MAX_FILES`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 100))]
    pub max_files: Option<u32>,
}

/// How many files a reverted commit may touch when the policy says nothing: a release of one service rarely needs more,
/// and a reviewer at night still reads this many.
pub const MAX_FILES: u32 = 10;

/// The settings, read and bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RevertRule {
    pub max_files: u32,
}

impl RevertCommit {
    pub(crate) fn compile(&self, path: &str, problems: &mut Problems) -> Option<RevertRule> {
        match self.max_files {
            Some(count @ (0 | 101..)) => {
                problems
                    .add(format!("{path}.maxFiles"), format!("{count} is out of bounds; write a number from 1 to 100"));
                None
            }
            Some(max_files) => Some(RevertRule { max_files }),
            None => Some(RevertRule { max_files: MAX_FILES }),
        }
    }
}

impl RevertRule {
    pub(super) fn deed(&self, setting: &Setting<'_>) -> Result<Deed, Inapplicable> {
        let Some(reverted) = setting.reverted else {
            return Err(Inapplicable::because("no commit is known to be guilty"));
        };
        let short: String = reverted.commit.chars().take(10).collect();
        if let Some(guilty) = setting.cause.measures.get("commit.guilty")
            && *guilty != reverted.commit
        {
            return Err(Inapplicable::because(format!("{short} is not the commit that the diagnosis blames")));
        }
        if reverted.forward_only {
            return Err(Inapplicable::because(format!(
                "commit {short} is marked forward-only and must not be taken back"
            )));
        }
        let count = reverted.files.len();
        if count > self.max_files as usize {
            let sentence =
                format!("commit {short} touched {count} files, the policy reverts {} at most", self.max_files);
            return Err(Inapplicable::because(sentence));
        }
        let target = setting.target.object();
        let (mut files, mut after, mut expected) = (Vec::new(), Vec::new(), Vec::new());
        for file in &reverted.files {
            if file.now == file.then {
                continue;
            }
            let edits = manifest::differences(file.now.as_ref(), file.then.as_ref())?;
            if let Some(now) = &file.now {
                manifest::may_go_back(now, file.then.as_ref(), &edits)?;
            }
            for edit in edits.iter().filter(|edit| is_target(&edit.object, &target)) {
                expected.push(ExpectedField { field: edit.field.clone(), value: edit.to.clone() });
            }
            files.push(FileChange {
                path: file.path.clone(),
                before: file.now.as_ref().map(|file| file.blob.clone()),
                after: file.then.as_ref().map(|file| file.blob.clone()),
                edits,
            });
            after.extend(file.then.clone());
        }
        if files.is_empty() {
            return Err(Inapplicable::because(format!("commit {short} is taken back already")));
        }
        if expected.is_empty() {
            let sentence = format!("taking back commit {short} does not change {target}");
            return Err(Inapplicable::because(sentence));
        }
        files.sort_by(|left, right| left.path.cmp(&right.path));
        let own: Vec<_> =
            files.iter().flat_map(|file| &file.edits).filter(|edit| is_target(&edit.object, &target)).collect();
        let footprint = footprint(setting.live, &own);
        let subject = quoted(&reverted.subject);
        let summary = format!("take back commit {short} {subject} in {}", named(&target));
        Ok(Deed { summary, files, after, footprint, expected })
    }
}

/// An object in a file may leave its namespace to Kustomize.
fn is_target(object: &crate::plan::ObjectRef, target: &crate::plan::ObjectRef) -> bool {
    object.kind == target.kind
        && object.name == target.name
        && object.api_version == target.api_version
        && (object.namespace.is_empty() || object.namespace == target.namespace)
}
