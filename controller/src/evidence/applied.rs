//! What GitOps applied to a namespace lately, asked of every repository behind its objects.

use amend_diagnosis::evidence::{Answer, Asked, Change, Window};
use serde_json::Value;

use crate::changes::{self, Managed};
use crate::errors;
use crate::owner;
use crate::shell::Shell;

/// Kustomizations whose history is read.
const OWNERS: usize = 4;

/// Kinds whose owner may have changed something that breaks.
const OWNED: [&str; 4] = ["Deployment", "StatefulSet", "DaemonSet", "ConfigMap"];

/// The changes that GitOps applied inside `window`, with the question behind each Kustomization; one without an answer says that
/// the changes are not all.
pub async fn lately(
    shell: &Shell,
    namespace: &str,
    objects: &[Value],
    window: Window,
) -> (Answer<Vec<Change>>, Vec<Asked>) {
    let owned: Vec<Owned<'_>> = owned(objects);
    let mut read = Vec::new();
    for one in owned.iter().take(OWNERS) {
        let answered = match changed_by(shell, namespace, one, objects, window).await {
            Ok(answered) => answered,
            Err(why) => unread(one.name.clone(), one.shown(), window, why),
        };
        read.push(answered);
    }
    if let Some(beyond) = owned.get(OWNERS..).filter(|beyond| !beyond.is_empty()) {
        let names: Vec<String> = beyond.iter().map(Owned::shown).collect();
        let why = format!("the history of {OWNERS} Kustomizations is read at most");
        read.push(unread("beyond".to_owned(), names.join(", "), window, why));
    }
    together(read)
}

/// A Kustomization that objects of the namespace name as theirs, with one of them.
struct Owned<'a> {
    namespace: String,
    name: String,
    object: &'a Value,
}

impl Owned<'_> {
    fn shown(&self) -> String {
        format!("Kustomization {}/{}", self.namespace, self.name)
    }
}

/// Each Kustomization once, in the order of the objects.
fn owned(objects: &[Value]) -> Vec<Owned<'_>> {
    let mut found: Vec<Owned<'_>> = Vec::new();
    for object in objects.iter().filter(|one| one["kind"].as_str().is_some_and(|kind| OWNED.contains(&kind))) {
        let Some((namespace, name)) = owner::named_on(object) else { continue };
        if !found.iter().any(|known| known.namespace == namespace && known.name == name) {
            found.push(Owned { namespace, name, object });
        }
    }
    found
}

async fn changed_by(
    shell: &Shell,
    namespace: &str,
    owned: &Owned<'_>,
    objects: &[Value],
    window: Window,
) -> Result<(Answer<Vec<Change>>, Asked), String> {
    let owner = match owner::of(shell, owned.object).await {
        Answer::Known(Some(owner)) => owner,
        Answer::Known(None) => return Err("no GitOps controller claims its objects".to_owned()),
        Answer::Unknown { why } => return Err(why),
    };
    let url = owner.url().ok_or("its source is not a GitRepository that is there")?;
    let target = shell.targets.for_repository(url, namespace).await.map_err(|error| errors::chain(&error))?;
    let kustomizations = target.kustomizations().await.map_err(|error| errors::chain(&error))?;
    let managed =
        Managed { kustomization: &owner.kustomization, repo: target.repo(), kustomizations: &kustomizations, objects };
    Ok(changes::applied(&managed, namespace, window).await)
}

fn unread(name: String, of: String, window: Window, why: String) -> (Answer<Vec<Change>>, Asked) {
    let asked = Asked {
        id: format!("git-{name}"),
        source: "git".to_owned(),
        query: format!("changes applied by {of}"),
        window,
        digest: String::new(),
        unknown: Some(format!("{of}: {why}")),
    };
    (Answer::Unknown { why }, asked)
}

/// All that is known. Where nothing is, the reasons; where something is, what is not known stays a question without an answer.
fn together(read: Vec<(Answer<Vec<Change>>, Asked)>) -> (Answer<Vec<Change>>, Vec<Asked>) {
    let (answers, asked): (Vec<_>, Vec<Asked>) = read.into_iter().unzip();
    if answers.is_empty() {
        return (Answer::unknown("no GitOps controller claims the workloads of this namespace"), asked);
    }
    let known: Vec<Vec<Change>> = answers.iter().filter_map(Answer::known).cloned().collect();
    if known.is_empty() {
        let reasons: Vec<&str> = asked.iter().filter_map(|one| one.unknown.as_deref()).collect();
        return (Answer::unknown(reasons.join("; ")), asked);
    }
    (Answer::Known(known.concat()), asked)
}

#[cfg(test)]
mod tests {
    use amend_diagnosis::entity::{Entity, EntityKind};
    use amend_diagnosis::evidence::ChangeKind;
    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    fn window() -> Window {
        Window { from: Timestamp::UNIX_EPOCH, to: Timestamp::UNIX_EPOCH }
    }

    fn answered(name: &str) -> (Answer<Vec<Change>>, Asked) {
        let change = Change {
            id: name.into(),
            kind: ChangeKind::Image,
            at: Timestamp::UNIX_EPOCH,
            target: Entity::new(EntityKind::Deployment, "shop", name),
            summary: String::new(),
            files: Vec::new(),
            diff: String::new(),
            author: String::new(),
            new_pods: Vec::new(),
            deleted_pods: Vec::new(),
        };
        let asked = unread(name.into(), name.into(), window(), String::new()).1;
        (Answer::Known(vec![change]), Asked { unknown: None, ..asked })
    }

    fn silent(name: &str) -> (Answer<Vec<Change>>, Asked) {
        unread(name.into(), format!("Kustomization flux-system/{name}"), window(), "no GitTarget serves it".into())
    }

    #[test]
    fn a_repository_that_cannot_be_read_leaves_the_changes_of_the_other_and_a_question_without_an_answer() {
        let (changes, asked) = together(vec![answered("cart"), silent("bank")]);
        let known: Vec<&str> = changes.known().unwrap().iter().map(|change| change.id.as_str()).collect();
        assert_eq!(known, ["cart"]);
        let unknown: Vec<&str> = asked.iter().filter_map(|one| one.unknown.as_deref()).collect();
        assert_eq!(unknown, ["Kustomization flux-system/bank: no GitTarget serves it"]);
    }

    #[test]
    fn where_no_repository_can_be_read_every_reason_is_told() {
        let (changes, _) = together(vec![silent("cart"), silent("bank")]);
        let Answer::Unknown { why } = changes else { panic!("nothing is known") };
        assert!(
            why.contains("flux-system/cart: no") && why.contains("; ") && why.contains("flux-system/bank"),
            "{why}"
        );
        let Answer::Unknown { why } = together(Vec::new()).0 else { panic!("nobody was asked") };
        assert!(why.contains("no GitOps controller"), "{why}");
    }

    #[test]
    fn each_kustomization_is_asked_once() {
        let object = |kind: &str, by: &str| {
            let labels = json!({ owner::NAMESPACE_LABEL: "flux-system", owner::NAME_LABEL: by });
            json!({ "kind": kind, "metadata": { "name": "x", "labels": labels } })
        };
        let objects = [
            object("Deployment", "shop"),
            object("ConfigMap", "shop"),
            object("Pod", "pods"),
            object("ConfigMap", "base"),
        ];
        let shown: Vec<String> = owned(&objects).iter().map(Owned::shown).collect();
        assert_eq!(shown, ["Kustomization flux-system/shop", "Kustomization flux-system/base"]);
    }
}
