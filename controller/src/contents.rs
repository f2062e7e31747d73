//! The files of a plan before and after, made again from Git whenever they are needed and compared with the plan's blob ids.
//!
//! A plan holds no contents. That they can be made again bit by bit is what makes a push after a crash the same push.

use std::collections::BTreeSet;

use amend_gitops::path::RepoPath;
use amend_gitops::render::{self, Difference, Folder};
use amend_gitops::repo::{CommitId, ContentChange, Repo};
use amend_policies::action::ActionKind;
use amend_policies::gate::permission::RenderedChange;
use amend_policies::manifest;
use amend_policies::plan::{BlobId, LiveChange, ObjectRef, Plan, PlanStep, Rendering, SourceFile};
use serde_json::Value;

use crate::errors;

/// A plan's files, and what differs once they are rendered.
#[derive(Clone, Debug, PartialEq)]
pub struct Contents {
    pub base: CommitId,
    pub changes: Vec<ContentChange>,
    pub rendered: Vec<RenderedChange>,
    /// Why the rendered changes are not all that changes: a clause that names the file.
    pub unchecked: Option<String>,
    /// What Kustomize makes of the files that are part of an overlay; the other files say themselves what changes.
    built: Difference,
}

/// Makes the contents on the plan's base. An error is a sentence: what does not fit the plan any more.
pub async fn make(repo: &Repo, plan: &Plan) -> Result<Contents, String> {
    let base = CommitId::parse(&plan.repository.base).map_err(|error| errors::chain(&error))?;
    repo.hold(&base).await.map_err(|error| errors::chain(&error))?;
    let mut changes = Vec::new();
    for step in &plan.steps {
        changes.extend(match step.action {
            ActionKind::SetResources | ActionKind::SetImage => edited(repo, &base, step).await?,
            ActionKind::RevertCommit => reverted(repo, &base, step).await?,
        });
    }
    let folder = plan.steps.iter().find_map(|step| step.rendering.as_ref()).map(folder).transpose()?;
    let effect = effect(repo, &base, folder.as_ref(), &changes, &plan.target.namespace).await?;
    if let Some(folder) = &folder {
        let planned = plan.live_changes().into_iter();
        let planned =
            planned.map(|change| LiveChange { object: placed(change.object, &plan.target.namespace), ..change });
        if planned.collect::<BTreeSet<_>>() != live_changes(&effect.rendered).into_iter().collect() {
            return Err(format!("{} does not render to what the plan was made for", folder.path));
        }
    }
    let Effect { rendered, unchecked, built } = effect;
    Ok(Contents { base, changes, rendered, unchecked, built })
}

/// The folder that a plan renders.
///
/// # Errors
/// Its path is none.
pub fn folder(rendering: &Rendering) -> Result<Folder, String> {
    Ok(Folder {
        path: RepoPath::parse(&rendering.folder).map_err(|error| errors::chain(&error))?,
        target_namespace: rendering.target_namespace.clone(),
        // Looked at when the plan was made; what stands at its base has not changed since.
        substitutes: false,
    })
}

/// What changed files do to the objects of the cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Effect {
    pub rendered: Vec<RenderedChange>,
    /// Why the rendered changes are not all that changes: a clause that names the file.
    pub unchecked: Option<String>,
    built: Difference,
}

/// Renders the folder, if there is one, and reads the changed files that are no part of it.
///
/// # Errors
/// A sentence: what cannot be rendered or read.
pub async fn effect(
    repo: &Repo,
    base: &CommitId,
    folder: Option<&Folder>,
    changes: &[ContentChange],
    namespace: &str,
) -> Result<Effect, String> {
    let built = match folder {
        Some(folder) => render::difference(repo, base, folder, changes).await.map_err(|error| errors::chain(&error))?,
        None => Difference::default(),
    };
    // Which of several files brings a field is not told apart: each must be granted for all of them.
    let mut rendered: Vec<RenderedChange> = Vec::new();
    for file in &built.files {
        rendered.extend(built.changes.iter().map(|change| RenderedChange {
            file: file.to_string(),
            object: placed(change.object.clone(), namespace),
            field: change.field.clone(),
            from: change.from.clone(),
            to: change.to.clone(),
        }));
    }
    let mut unchecked = None;
    // Of what is rendered, all is known. Pages for people beside it do nothing; of any other file (a chart's template) nobody knows.
    let beside = |change: &&ContentChange| folder.is_none() || !is_documentation(change.path.name());
    for change in changes.iter().filter(|change| !built.files.contains(&change.path)).filter(beside) {
        rendered.extend(differing(change, namespace)?);
        unchecked = unchecked.or(unreadable(change)?);
    }
    Ok(Effect { rendered, unchecked, built })
}

/// Whether a file is a page for people, by its name.
fn is_documentation(name: &str) -> bool {
    [".md", ".adoc", ".rst"].iter().any(|end| name.ends_with(end))
}

/// Why a file changes in ways that its objects do not show; `None` when they do.
///
/// # Errors
/// The file cannot be read as YAML.
pub fn unreadable(change: &ContentChange) -> Result<Option<String>, String> {
    let path = change.path.as_str();
    if !manifest::is_manifest(path) {
        return Ok(Some(format!("{path} changes and holds no Kubernetes objects, so what that does is not known")));
    }
    let same = others(change, change.before.as_deref())? == others(change, change.after.as_deref())?;
    Ok((!same)
        .then(|| format!("{path} changes in documents that are no Kubernetes objects, so what they do is not known")))
}

impl Effect {
    /// What a plan must know of the rendering; `None` when the changed files hold the objects themselves, whole, and say it all.
    ///
    /// # Errors
    /// A file cannot be read as YAML.
    pub fn rendering(
        &self,
        folder: &Folder,
        changes: &[ContentChange],
        namespace: &str,
    ) -> Result<Option<Rendering>, String> {
        let rendered = live_changes(&self.rendered);
        let (mut told, mut held, mut all) = (Vec::new(), Vec::new(), true);
        for change in changes {
            told.extend(differing(change, namespace)?);
            held.extend(documents(change, change.after.as_deref())?);
            all &= unreadable(change)?.is_none();
        }
        for document in held.iter_mut().filter(|document| is_object(document)) {
            document["metadata"]["namespace"] = object_ref(document, namespace).namespace.into();
        }
        let is_whole = |object: &Value| held.contains(object);
        let says_it_all = all && live_changes(&told) == rendered && self.built.after.iter().all(is_whole);
        Ok((!says_it_all).then(|| Rendering {
            folder: folder.path.to_string(),
            target_namespace: folder.target_namespace.clone(),
            changes: rendered,
        }))
    }
}

/// The changes without the files that bring them, each once.
pub fn live_changes(rendered: &[RenderedChange]) -> Vec<LiveChange> {
    let each = rendered.iter().map(|change| LiveChange {
        object: change.object.clone(),
        field: change.field.clone(),
        from: change.from.clone(),
        to: change.to.clone(),
    });
    each.collect::<BTreeSet<_>>().into_iter().collect()
}

async fn edited(repo: &Repo, base: &CommitId, step: &PlanStep) -> Result<Vec<ContentChange>, String> {
    let mut changes = Vec::new();
    for file in &step.files {
        let path = RepoPath::parse(&file.path).map_err(|error| errors::chain(&error))?;
        let at = repo.file(base, &path).await.map_err(|error| errors::chain(&error))?;
        let mut text = SourceFile::new(file.path.clone(), at.text.clone());
        for edit in &file.edits {
            let to = edit.to.as_deref().ok_or("an edit of the plan has no value")?;
            text = manifest::set(&text, &edit.object, &edit.field, to).map_err(|refusal| refusal.to_string())?.file;
        }
        same(file.before.as_ref(), Some(&at.text), &file.path)?;
        same(file.after.as_ref(), Some(&text.text), &file.path)?;
        changes.push(ContentChange { path, before: Some(at.text), after: Some(text.text) });
    }
    Ok(changes)
}

async fn reverted(repo: &Repo, base: &CommitId, step: &PlanStep) -> Result<Vec<ContentChange>, String> {
    let guilty = step.reverts.as_deref().ok_or("the plan does not say which commit it takes back")?;
    let guilty = CommitId::parse(guilty).map_err(|error| errors::chain(&error))?;
    repo.hold(&guilty).await.map_err(|error| errors::chain(&error))?;
    let revert = repo.revert(&guilty, base).await.map_err(|error| errors::chain(&error))?;
    if revert.changes.len() != step.files.len() {
        return Err(format!("taking {} back changes other files than planned", guilty.short()));
    }
    for change in &revert.changes {
        let planned = step.files.iter().find(|file| file.path == change.path.as_str());
        let planned = planned.ok_or_else(|| format!("{} is not in the plan", change.path.as_str()))?;
        same(planned.before.as_ref(), change.before.as_ref(), &planned.path)?;
        same(planned.after.as_ref(), change.after.as_ref(), &planned.path)?;
    }
    Ok(revert.changes)
}

fn same(planned: Option<&BlobId>, made: Option<&String>, path: &str) -> Result<(), String> {
    let made = made.map(|text| BlobId::of(text.as_bytes()));
    match planned == made.as_ref() {
        true => Ok(()),
        false => Err(format!("{path} is not what the plan was made for")),
    }
}

impl Contents {
    /// The changed objects as they will be.
    ///
    /// # Errors
    /// The file that cannot be read as objects.
    pub fn objects_after(&self, namespace: &str) -> Result<Vec<Value>, String> {
        self.touched(namespace, &self.built.after, |change| change.after.as_deref())
    }

    /// The changed objects as they are in Git now.
    ///
    /// # Errors
    /// The file that cannot be read as objects.
    pub fn objects_before(&self, namespace: &str) -> Result<Vec<Value>, String> {
        self.touched(namespace, &self.built.before, |change| change.before.as_deref())
    }

    /// The first file that undoing would not give back; `None` when all come back byte for byte.
    ///
    /// The undo puts the blobs from before in place, so this holds as long as every file has one.
    pub fn undone_differs(&self) -> Option<&str> {
        self.changes
            .iter()
            .find(|change| change.before.is_none() && change.after.is_none())
            .map(|change| change.path.as_str())
    }

    /// The changes that take these back.
    pub fn inverse(&self) -> Vec<ContentChange> {
        let back = |change: &ContentChange| ContentChange {
            path: change.path.clone(),
            before: change.after.clone(),
            after: change.before.clone(),
        };
        self.changes.iter().map(back).collect()
    }

    fn touched(
        &self,
        namespace: &str,
        built: &[Value],
        side: impl Fn(&ContentChange) -> Option<&str>,
    ) -> Result<Vec<Value>, String> {
        let mut found = built.to_vec();
        for change in self.changes.iter().filter(|change| !self.built.files.contains(&change.path)) {
            for mut document in documents(change, side(change))?.into_iter().filter(is_object) {
                let object = object_ref(&document, namespace);
                if self.rendered.iter().any(|rendered| rendered.object == object) {
                    document["metadata"]["namespace"] = Value::from(object.namespace);
                    found.push(document);
                }
            }
        }
        Ok(found)
    }
}

/// Every field that differs between the objects of a file before and after, with the namespace they will have.
pub fn differing(change: &ContentChange, namespace: &str) -> Result<Vec<RenderedChange>, String> {
    let path = change.path.as_str();
    let side = |text: &Option<String>| text.as_ref().map(|text| SourceFile::new(path, text.clone()));
    let (before, after) = (side(&change.before), side(&change.after));
    let edits = manifest::differences(before.as_ref(), after.as_ref()).map_err(|refusal| refusal.to_string())?;
    Ok(edits
        .into_iter()
        .map(|edit| RenderedChange {
            file: path.to_owned(),
            object: placed(edit.object, namespace),
            field: edit.field,
            from: edit.from,
            to: edit.to,
        })
        .collect())
}

/// An object with the namespace that it will have.
fn placed(mut object: ObjectRef, namespace: &str) -> ObjectRef {
    if object.namespace.is_empty() {
        namespace.clone_into(&mut object.namespace);
    }
    object
}

/// The documents of one side of a change. A file that cannot be read is not one without objects.
fn documents(change: &ContentChange, text: Option<&str>) -> Result<Vec<Value>, String> {
    let Some(text) = text.filter(|_| manifest::is_manifest(change.path.as_str())) else { return Ok(Vec::new()) };
    let read = serde_saphyr::from_multiple::<Value>(text);
    read.map_err(|_| format!("{} cannot be read as Kubernetes objects: it is not valid YAML", change.path.as_str()))
}

fn is_object(document: &Value) -> bool {
    document["kind"].is_string() && document["metadata"]["name"].is_string()
}

/// The documents that are no objects: settings of Kustomize, values of a chart.
fn others(change: &ContentChange, text: Option<&str>) -> Result<Vec<Value>, String> {
    Ok(documents(change, text)?.into_iter().filter(|document| !document.is_null() && !is_object(document)).collect())
}

fn object_ref(document: &Value, namespace: &str) -> ObjectRef {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let home = document["metadata"]["namespace"].as_str().unwrap_or(namespace);
    ObjectRef {
        api_version: text(&document["apiVersion"]),
        kind: text(&document["kind"]),
        namespace: home.to_owned(),
        name: text(&document["metadata"]["name"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_limit_is_one_rendered_change_under_the_containers_name() {
        let file = |memory: &str| {
            format!(
                "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: cart}}\nspec:\n  template:\n    spec:\n      containers:\n      - name: app\n        resources: {{limits: {{memory: {memory}}}}}\n"
            )
        };
        let path = RepoPath::parse("apps/cart.yaml").unwrap();
        let change = ContentChange { path, before: Some(file("128Mi")), after: Some(file("192Mi")) };
        let found = differing(&change, "shop").unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].field.to_string(), "spec.template.spec.containers[app].resources.limits.memory");
        assert_eq!((found[0].from.as_deref(), found[0].to.as_deref()), (Some("128Mi"), Some("192Mi")));
        assert_eq!(found[0].object.namespace, "shop");
    }

    fn contents(before: &str, after: &str) -> Contents {
        let path = RepoPath::parse("apps/cart.yaml").unwrap();
        let change = ContentChange { path, before: Some(before.into()), after: Some(after.into()) };
        let rendered = differing(&change, "shop").unwrap();
        Contents {
            base: CommitId::parse(&"a".repeat(40)).unwrap(),
            changes: vec![change],
            rendered,
            unchecked: None,
            built: Difference::default(),
        }
    }

    #[test]
    fn a_file_that_cannot_be_read_as_objects_is_not_one_without_objects() {
        let file = |memory: &str, other: &str| {
            format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: cart}}\nspec: {{memory: {memory}}}\n---\n{other}")
        };
        let readable = contents(&file("1", "kind: List\n"), &file("2", "kind: List\n"));
        assert_eq!(readable.objects_after("shop").unwrap().len(), 1);
        let twice = "metadata: {name: a}\nmetadata: {name: b}\n";
        let unreadable = contents(&file("1", twice), &file("2", twice));
        assert!(unreadable.objects_after("shop").unwrap_err().contains("apps/cart.yaml cannot be read"));
    }

    #[test]
    fn only_pages_for_people_are_known_to_do_nothing() {
        assert!(is_documentation("README.md"));
        for name in ["_helpers.tpl", "app.conf", "deploy.sh", "NOTES.txt", "values.yaml"] {
            assert!(!is_documentation(name), "{name}");
        }
    }

    #[test]
    fn documents_that_are_no_objects_are_told_from_comments_on_them() {
        let change = |after: &str| contents("images:\n- {name: cart, newTag: '1'}\n", after).changes.remove(0);
        let differs = |after: &str| {
            let change = change(after);
            others(&change, change.before.as_deref()).unwrap() != others(&change, change.after.as_deref()).unwrap()
        };
        assert!(differs("images:\n- {name: cart, newTag: '2'}\n"));
        assert!(!differs("# a comment\nimages:\n- {name: cart, newTag: '1'}\n"));
    }
}
