//! Who else writes fields of the target: autoscalers, and other field managers that own them.

use amend_diagnosis::evidence::Answer;
use amend_policies::field::FieldPath;
use amend_policies::gate::environment::FieldWriter;
use serde_json::Value;

use crate::cluster::Look;

/// Managers whose writes are the change that we propose in Git, or a person's one-off that Git overwrites.
const BY_GIT_OR_HAND: [&str; 8] = [
    "kustomize-controller",
    "helm-controller",
    "argocd-controller",
    "argocd-application-controller",
    "flux",
    "kubectl",
    "helm",
    "amend",
];

/// Every writer that can be seen.
pub fn of(target: &Answer<Value>, look: &Look) -> Answer<Vec<FieldWriter>> {
    let target = match target {
        Answer::Known(target) => target,
        Answer::Unknown { why } => return Answer::unknown(why.clone()),
    };
    let unread = look.asked.iter().find(|asked| asked.query.ends_with("horizontalpodautoscalers")).and_then(|asked| asked.unknown.clone());
    if let Some(why) = unread {
        return Answer::Unknown { why };
    }
    let mut writers: Vec<FieldWriter> = look.of_kind("HorizontalPodAutoscaler").filter(|scaler| scales(scaler, target)).map(replicas).collect();
    for entry in target["metadata"]["managedFields"].as_array().into_iter().flatten() {
        let manager = entry["manager"].as_str().unwrap_or_default();
        let by_git_or_hand = BY_GIT_OR_HAND.iter().any(|known| manager.starts_with(known));
        if by_git_or_hand || entry["subresource"].as_str().is_some_and(|part| part == "status") {
            continue;
        }
        for field in owned(&entry["fieldsV1"]) {
            writers.push(FieldWriter { who: format!("field manager {manager}"), field });
        }
    }
    Answer::Known(writers)
}

fn scales(scaler: &Value, target: &Value) -> bool {
    let reference = &scaler["spec"]["scaleTargetRef"];
    reference["kind"] == target["kind"] && reference["name"] == target["metadata"]["name"]
}

fn replicas(scaler: &Value) -> FieldWriter {
    let (namespace, name) = (&scaler["metadata"]["namespace"], &scaler["metadata"]["name"]);
    FieldWriter {
        who: format!("HorizontalPodAutoscaler {}/{}", namespace.as_str().unwrap_or_default(), name.as_str().unwrap_or_default()),
        field: FieldPath::new(Vec::new()).key("spec").key("replicas"),
    }
}

/// The leaves below `spec` that a manager owns, read from `fieldsV1`
/// (<https://kubernetes.io/docs/reference/using-api/server-side-apply/#field-management>).
fn owned(fields: &Value) -> Vec<FieldPath> {
    let mut found = Vec::new();
    walk(&fields["f:spec"], FieldPath::new(Vec::new()).key("spec"), &mut found);
    found
}

fn walk(node: &Value, path: FieldPath, found: &mut Vec<FieldPath>) {
    let below: Vec<(&String, &Value)> = node.as_object().into_iter().flatten().filter(|(key, _)| key.as_str() != ".").collect();
    if below.is_empty() {
        if !node.is_null() {
            found.push(path);
        }
        return;
    }
    for (key, inner) in below {
        let next = if let Some(name) = key.strip_prefix("f:") {
            path.clone().key(name)
        } else if let Some(keyed) = key.strip_prefix("k:") {
            let keys: Value = serde_json::from_str(keyed).unwrap_or_default();
            match keys["name"].as_str() {
                Some(name) => path.clone().named(name),
                // Lists keyed by something else (ports): everything below the list counts as owned.
                None => path.clone(),
            }
        } else {
            path.clone()
        };
        walk(inner, next, found);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_manager_that_is_not_git_is_a_writer_of_what_it_owns() {
        let target = json!({
            "kind": "Deployment", "metadata": { "name": "cart", "managedFields": [
                { "manager": "kustomize-controller", "fieldsV1": { "f:spec": { "f:replicas": {} } } },
                { "manager": "vpa-updater", "fieldsV1": { "f:spec": { "f:template": { "f:spec": { "f:containers": {
                    "k:{\"name\":\"app\"}": { ".": {}, "f:resources": { "f:limits": { "f:memory": {} } } } } } } } } },
            ] }
        });
        let writers = of(&Answer::Known(target), &Look::default());
        let Answer::Known(writers) = writers else { panic!("everything is known here") };
        assert_eq!(writers.len(), 1);
        assert_eq!(writers[0].field.to_string(), "spec.template.spec.containers[app].resources.limits.memory");
    }
}
