//! Whether people have put another value at a place that the plan changes, on the base branch as it is now.

use amend_diagnosis::evidence::Answer;
use amend_execution::snapshot::{Edited, EditedBy};
use amend_gitops::error::GitError;
use amend_gitops::path::RepoPath;
use amend_gitops::repo::{CommitId, Heads, Repo};
use amend_policies::manifest::{self, Refusal};
use amend_policies::plan::{FieldEdit, FileChange, SourceFile, Stands};

use crate::effects::remedy::Work;
use crate::errors;

/// Commits to the file that are looked at for the one that changed the value: a file has a few a day.
const COMMITS_MAX: usize = 20;

/// A place of the plan and what stands there.
struct Place<'a> {
    file: &'a FileChange,
    edit: &'a FieldEdit,
    now: Option<String>,
    stands: Stands,
}

/// The first planned place that has another value than the plan was made from; `Known(None)`: all stand as it found them.
pub async fn edited(work: &Work, heads: &Answer<Heads>) -> Answer<Option<Edited>> {
    let target = match &work.target {
        Ok(target) => target,
        Err(why) => return Answer::unknown(why.clone()),
    };
    let head = match heads {
        Answer::Known(heads) => &heads.base,
        Answer::Unknown { why } => return Answer::unknown(why.clone()),
    };
    match seen(target.repo(), work, head).await {
        Ok(seen) => Answer::Known(seen),
        Err(why) => Answer::Unknown { why },
    }
}

async fn seen(repo: &Repo, work: &Work, head: &CommitId) -> Result<Option<Edited>, String> {
    let said = |error: GitError| errors::chain(&error);
    let base = CommitId::parse(&work.plan.repository.base).map_err(said)?;
    if *head == base {
        return Ok(None);
    }
    let mut places = Vec::new();
    let mut unread = None;
    for file in work.plan.steps.iter().flat_map(|step| &step.files).filter(|file| !file.edits.is_empty()) {
        let source = text_at(repo, head, &file.path).await.map_err(said)?;
        if source.as_ref().map(|source| &source.blob) == file.before.as_ref() {
            places.extend(file.edits.iter().map(|edit| Place {
                file,
                edit,
                now: edit.from.clone(),
                stands: Stands::AsBefore,
            }));
            continue;
        }
        for edit in &file.edits {
            match value(source.as_ref(), edit) {
                Ok(now) => places.push(Place { file, edit, stands: edit.stands(now.as_deref()), now }),
                // What cannot be read says nothing, but it takes nothing away from what another place says.
                Err(refusal) => unread = Some(refusal.to_string()),
            }
        }
    }
    let moved = places.iter().find(|place| place.stands == Stands::Otherwise);
    let moved = moved.or_else(|| places.iter().find(|place| place.stands == Stands::AsPlanned));
    let as_planned = unread.is_none() && places.iter().all(|place| place.stands == Stands::AsPlanned);
    match (moved, unread) {
        (Some(place), _) => changed(repo, &base, head, place, as_planned).await,
        (None, Some(why)) => Err(why),
        (None, None) => Ok(None),
    }
}

/// The change of one place, with the commit behind it; `None` when the change is our own.
async fn changed(
    repo: &Repo,
    base: &CommitId,
    head: &CommitId,
    place: &Place<'_>,
    as_planned: bool,
) -> Result<Option<Edited>, String> {
    let by = commit_behind(repo, base, head, place).await.map_err(|error| errors::chain(&error))?;
    let own = match &by {
        Some((id, _)) => repo.is_own(id).await.map_err(|error| errors::chain(&error))?,
        None => false,
    };
    // The merge of this very plan: the forge says so, and that is what counts.
    if as_planned && own {
        return Ok(None);
    }
    Ok(Some(Edited {
        file: place.file.path.clone(),
        what: place.edit.field.in_words(),
        from: place.edit.from.clone(),
        now: place.now.clone(),
        as_planned,
        by: by.map(|(_, by)| by),
    }))
}

/// The oldest commit since the base after which the place has had the value that it has now.
async fn commit_behind(
    repo: &Repo,
    base: &CommitId,
    head: &CommitId,
    place: &Place<'_>,
) -> Result<Option<(CommitId, EditedBy)>, GitError> {
    let path = &place.file.path;
    let commits = repo.commits_between(base, head).await?;
    let mut found = None;
    for commit in commits.into_iter().filter(|commit| commit.paths.contains(path)).take(COMMITS_MAX) {
        let there = text_at(repo, &commit.id, path).await?;
        if value(there.as_ref(), place.edit).ok().as_ref() != Some(&place.now) {
            break;
        }
        let by = EditedBy { commit: commit.id.short().to_owned(), author: commit.author, at: commit.committed };
        found = Some((commit.id, by));
    }
    Ok(found)
}

/// The file at a revision; `None` when it is not there.
async fn text_at(repo: &Repo, revision: &CommitId, path: &str) -> Result<Option<SourceFile>, GitError> {
    match repo.file(revision, &RepoPath::parse(path)?).await {
        Ok(file) => Ok(Some(file.into())),
        Err(GitError::NoFile { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The value at the place of an edit; `None` when the file, the object or the field is not there.
fn value(file: Option<&SourceFile>, edit: &FieldEdit) -> Result<Option<String>, Refusal> {
    let Some(file) = file else { return Ok(None) };
    match manifest::value(file, &edit.object, &edit.field) {
        Err(Refusal::NoSuchObject { .. }) => Ok(None),
        read => read,
    }
}
