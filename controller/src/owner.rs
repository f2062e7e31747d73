//! Who manages a live object: the Flux Kustomization on its labels, and the source behind it.

use amend_diagnosis::evidence::Answer;
use amend_gitops::locate::{Homes, Kustomization};
use amend_policies::plan::Plan;
use serde_json::Value;

use crate::cluster::{self, GIT_REPOSITORY, KUSTOMIZATION, Read};
use crate::errors;
use crate::shell::Shell;
use crate::targets::Target;

/// Labels that Flux puts on what it applies (<https://fluxcd.io/flux/components/kustomize/kustomizations/>).
pub const NAME_LABEL: &str = "kustomize.toolkit.fluxcd.io/name";
pub const NAMESPACE_LABEL: &str = "kustomize.toolkit.fluxcd.io/namespace";

/// The Flux objects above a workload.
#[derive(Clone, Debug)]
pub struct Owner {
    pub kustomization: Value,
    /// The GitRepository; `None` when the source is of another kind.
    pub source: Option<Value>,
}

impl Owner {
    /// Clone URL of the source.
    pub fn url(&self) -> Option<&str> {
        self.source.as_ref()?["spec"]["url"].as_str()
    }

    /// The revision that was applied last, as Flux writes it.
    pub fn applied(&self) -> Option<&str> {
        self.kustomization["status"]["lastAppliedRevision"].as_str()
    }

    /// What Flux says when it is not well.
    pub fn trouble(&self) -> Option<String> {
        let conditions = self.kustomization["status"]["conditions"].as_array()?;
        let ready = conditions.iter().find(|condition| condition["type"] == "Ready")?;
        (ready["status"] == "False").then(|| ready["message"].as_str().unwrap_or_default().to_owned())
    }
}

/// Namespace and name of the Kustomization that Flux has written on an object.
pub fn named_on(object: &Value) -> Option<(String, String)> {
    let label = |name: &str| object["metadata"]["labels"][name].as_str().map(str::to_owned);
    label(NAMESPACE_LABEL).zip(label(NAME_LABEL))
}

/// The owner of an object that was read; `Known(None)`: no GitOps controller claims it.
pub async fn of(shell: &Shell, object: &Value) -> Answer<Option<Owner>> {
    let Some((namespace, name)) = named_on(object) else { return Answer::Known(None) };
    let client = shell.clients.reader();
    let kustomization = match cluster::get(&client, KUSTOMIZATION, &namespace, &name).await {
        Answer::Known(Some(found)) => found,
        Answer::Known(None) => {
            return Answer::unknown(format!(
                "the object's labels name Kustomization {namespace}/{name}, which does not exist"
            ));
        }
        Answer::Unknown { why } => return Answer::Unknown { why },
    };
    let reference = &kustomization["spec"]["sourceRef"];
    let source = match (reference["kind"].as_str(), reference["name"].as_str()) {
        (Some("GitRepository"), Some(source)) => {
            let home = reference["namespace"].as_str().unwrap_or(&namespace);
            match cluster::get(&client, GIT_REPOSITORY, home, source).await {
                Answer::Known(found) => found,
                Answer::Unknown { why } => return Answer::Unknown { why },
            }
        }
        _ => None,
    };
    Answer::Known(Some(Owner { kustomization, source }))
}

/// The owner of a plan's target, read live.
pub async fn of_target(shell: &Shell, plan: &Plan) -> Answer<Option<Owner>> {
    let target = &plan.target;
    let Some(read) = Read::of(&target.api_version, &target.kind) else {
        return Answer::unknown(format!("{} is not a kind that Amend reads", target.kind));
    };
    match cluster::get(&shell.clients.reader(), read, &target.namespace, &target.name).await {
        Answer::Known(Some(object)) => of(shell, &object).await,
        Answer::Known(None) => Answer::unknown("the target does not exist any more"),
        Answer::Unknown { why } => Answer::Unknown { why },
    }
}

/// What overrides the namespaces of a target's files: as its owner applies them, or nothing where nobody does.
pub async fn homes(owner: &Answer<Option<Owner>>, target: &Target) -> Result<Homes, String> {
    let owner = match owner {
        Answer::Known(Some(owner)) => owner,
        Answer::Known(None) => return Ok(Homes::as_written()),
        Answer::Unknown { why } => return Err(why.clone()),
    };
    let applied = match Kustomization::read(&owner.kustomization) {
        Ok(applied) => applied,
        // Not applied from Git: a GitTarget maps the file, and how it comes into the cluster is not followed.
        Err(_) if owner.kustomization["spec"]["targetNamespace"].is_null() => return Ok(Homes::as_written()),
        Err(unlocated) => return Err(unlocated.sentence),
    };
    let kustomizations = target.kustomizations().await.map_err(|error| errors::chain(&error))?;
    Ok(Homes::applied_by(&applied, kustomizations))
}

/// An object as people name it: `Kustomization flux-system/shop`.
pub fn shown(object: &Value) -> String {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    format!(
        "{} {}/{}",
        text(&object["kind"]),
        text(&object["metadata"]["namespace"]),
        text(&object["metadata"]["name"])
    )
}

/// Whether a label selector (`matchLabels` and `matchExpressions`) selects labels. An empty selector selects everything in
/// `policy/v1`, so an absent one selects nothing.
pub fn selects(selector: &Value, labels: &Value) -> bool {
    let Some(object) = selector.as_object() else { return false };
    let expressions = object.get("matchExpressions").and_then(Value::as_array).into_iter().flatten();
    has_labels(labels, &selector["matchLabels"])
        && expressions.into_iter().all(|expression| {
            let found = expression["key"].as_str().and_then(|key| labels[key].as_str());
            let listed =
                |value: &str| expression["values"].as_array().is_some_and(|list| list.iter().any(|one| one == value));
            match expression["operator"].as_str() {
                Some("In") => found.is_some_and(listed),
                Some("NotIn") => !found.is_some_and(listed),
                Some("Exists") => found.is_some(),
                Some("DoesNotExist") => found.is_none(),
                _ => false,
            }
        })
}

/// Whether all wanted labels are there.
pub fn has_labels(labels: &Value, wanted: &Value) -> bool {
    wanted.as_object().into_iter().flatten().all(|(key, value)| labels[key.as_str()] == *value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_selector_selects_by_labels_and_expressions() {
        let labels = json!({ "app": "cart", "tier": "backend" });
        assert!(selects(&json!({ "matchLabels": { "app": "cart" } }), &labels));
        assert!(!selects(&json!({ "matchLabels": { "app": "other" } }), &labels));
        assert!(selects(
            &json!({ "matchExpressions": [{ "key": "tier", "operator": "In", "values": ["backend"] }] }),
            &labels
        ));
        assert!(selects(&json!({}), &labels));
        assert!(!selects(&Value::Null, &labels));
    }
}
