//! Takes one commit back: the files it touched get the content they had before it.

use std::collections::BTreeMap;

use amend_diagnosis::entity::EntityKind;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Deed, Inapplicable, Setting, footprint, named};
use crate::configuration::read_by;
use crate::field::{FieldPath, Step};
use crate::manifest;
use crate::plan::{Configuration, ExpectedField, FileChange, LiveChange, ObjectRef};
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
        let (mut files, mut after) = (Vec::new(), Vec::new());
        for file in &reverted.files {
            if file.now == file.then {
                continue;
            }
            let edits = manifest::differences(file.now.as_ref(), file.then.as_ref())?;
            if let Some(now) = &file.now {
                manifest::may_go_back(now, file.then.as_ref(), &edits)?;
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
        let changes = match &reverted.rendering {
            Some(rendering) => rendering.changes.clone(),
            None => {
                files.iter().flat_map(|file: &FileChange| file.edits.iter().cloned().map(LiveChange::from)).collect()
            }
        };
        let own: Vec<&LiveChange> = changes.iter().filter(|change| change.is_of(&target)).collect();
        if reverted.rendering.is_some() {
            is_rendered_so(&own, setting.live, &short)?;
        }
        let expected: Vec<ExpectedField> = own.iter().map(|change| change.expected()).collect();
        let configurations = configurations(setting, &changes)?;
        if expected.is_empty() && configurations.is_empty() {
            let sentence =
                format!("taking back commit {short} changes neither {target} nor a ConfigMap that its pods read");
            return Err(Inapplicable::because(sentence));
        }
        files.sort_by(|left, right| left.path.cmp(&right.path));
        let footprint = footprint(setting.live, own.iter().map(|change| change.field.clone()).collect());
        let subject = quoted(&reverted.subject);
        let read: Vec<String> = configurations.iter().map(|one| one.object.to_string()).collect();
        let place = match (expected.is_empty(), read.as_slice()) {
            (_, []) => named(&target),
            (true, read) => format!("{}, which {} reads", read.join(" and "), named(&target)),
            (false, read) => format!("{} and {}, which it reads", named(&target), read.join(" and ")),
        };
        let summary = format!("take back commit {short} {subject} in {place}");
        let rendering = reverted.rendering.clone();
        Ok(Deed { summary, files, after, rendering, footprint, expected, configurations })
    }
}

/// Refuses where the cluster shows something else than the files render to now: then something is rendered otherwise than Amend
/// believes, or written by somebody else, or not applied yet.
fn is_rendered_so(own: &[&LiveChange], live: &serde_json::Value, short: &str) -> Result<(), Inapplicable> {
    match own.iter().find_map(|change| change.before().missing_from(live)) {
        None => Ok(()),
        Some(missing) => Err(Inapplicable::because(format!(
            "what commit {short} changed renders otherwise than the cluster shows it ({missing}): something else sets it, or the last \
             change is not applied yet"
        ))),
    }
}

/// The ConfigMaps among the changed objects that the target's pods read, with what they hold and not only their labels.
///
/// A Secret that they read stops it: nobody could tell whether the old one is live again, since Amend reads no Secrets.
fn configurations(setting: &Setting<'_>, changes: &[LiveChange]) -> Result<Vec<Configuration>, Inapplicable> {
    let read = read_by(setting.live);
    let mut found: BTreeMap<ObjectRef, (Vec<String>, usize)> = BTreeMap::new();
    for edit in changes {
        let mut object = edit.object.clone();
        if object.namespace.is_empty() {
            object.namespace.clone_from(&setting.target.namespace);
        }
        let kind = match (object.api_version.as_str(), object.kind.as_str()) {
            ("v1", "ConfigMap") => EntityKind::ConfigMap,
            ("v1", "Secret") => EntityKind::Secret,
            _ => continue,
        };
        let Some(reading) =
            read.get(&(kind, object.name.clone())).filter(|_| object.namespace == setting.target.namespace)
        else {
            continue;
        };
        if kind == EntityKind::Secret {
            let sentence =
                format!("{object} changes too, and whether it is live again cannot be told: Amend reads no Secrets");
            return Err(Inapplicable::because(sentence));
        }
        let length = [&edit.from, &edit.to].into_iter().flatten().map(String::len).sum::<usize>();
        let known = found.entry(object).or_insert_with(|| (reading.at_start.iter().cloned().collect(), 0));
        if is_content(&edit.field) {
            known.1 += length.max(1);
        }
    }
    if let Some((object, _)) = found.iter().find(|(_, (_, length))| *length > CONTENT_MAX) {
        let sentence = format!("what changes in {object} is longer than {CONTENT_MAX} bytes, more than a plan holds");
        return Err(Inapplicable::because(sentence));
    }
    let with_content = found.into_iter().filter(|(_, (_, length))| *length > 0);
    Ok(with_content.map(|(object, (at_start, _))| Configuration { object, at_start }).collect())
}

fn is_content(field: &FieldPath) -> bool {
    matches!(field.steps().first(), Some(Step::Key(key)) if key == "data" || key == "binaryData")
}

/// What may change in one ConfigMap, before and after together. A plan holds it twice (deed and undo) and lives in an object of at
/// most 1.4 MB beside its journal; a reviewer does not read more either.
pub const CONTENT_MAX: usize = 128 * 1024;
