//! Defaults and fixed fields of the built-in kinds that our product looks at.

use serde_json::{Value, json};

use super::resource::Resource;
use super::status::{FieldError, Refusal};

fn fill(object: &mut Value, field: &str, value: Value) {
    if object[field].is_null() {
        object[field] = value;
    }
}

/// Fills in what the real server fills in, as far as the product reads it.
pub fn default(resource: &Resource, object: &mut Value) {
    match resource.key().as_str() {
        "deployments.apps" => {
            let spec = &mut object["spec"];
            fill(spec, "replicas", json!(1));
            fill(spec, "revisionHistoryLimit", json!(10));
            fill(spec, "progressDeadlineSeconds", json!(600));
            fill(spec, "strategy", json!({ "type": "RollingUpdate" }));
            if spec["strategy"]["type"] == "RollingUpdate" {
                fill(&mut spec["strategy"], "rollingUpdate", json!({}));
                fill(&mut spec["strategy"]["rollingUpdate"], "maxSurge", json!("25%"));
                fill(&mut spec["strategy"]["rollingUpdate"], "maxUnavailable", json!("25%"));
            }
            default_pod(&mut spec["template"]["spec"]);
        }
        "replicasets.apps" | "statefulsets.apps" | "daemonsets.apps" => {
            default_pod(&mut object["spec"]["template"]["spec"]);
        }
        "pods" => {
            default_pod(&mut object["spec"]);
            for container in object["spec"]["containers"].as_array_mut().into_iter().flatten() {
                if container["resources"]["limits"].is_object() && container["resources"]["requests"].is_null() {
                    container["resources"]["requests"] = container["resources"]["limits"].clone();
                }
            }
            if object["status"]["phase"].is_null() {
                object["status"]["phase"] = json!("Pending");
                object["status"]["qosClass"] = json!("Burstable");
            }
        }
        "namespaces" => {
            fill(object, "status", json!({ "phase": "Active" }));
            fill(object, "spec", json!({ "finalizers": ["kubernetes"] }));
            let name = object["metadata"]["name"].clone();
            object["metadata"]["labels"]["kubernetes.io/metadata.name"] = name;
        }
        "secrets" => {
            fill(object, "type", json!("Opaque"));
            let Some(plain) = object.as_object_mut().and_then(|fields| fields.remove("stringData")) else {
                return;
            };
            for (key, value) in plain.as_object().into_iter().flatten() {
                use base64::Engine;
                let text = value.as_str().unwrap_or_default();
                object["data"][key] = json!(base64::engine::general_purpose::STANDARD.encode(text));
            }
        }
        _ => {}
    }
}

fn default_pod(spec: &mut Value) {
    if !spec.is_object() {
        return;
    }
    fill(spec, "restartPolicy", json!("Always"));
    fill(spec, "dnsPolicy", json!("ClusterFirst"));
    fill(spec, "schedulerName", json!("default-scheduler"));
    fill(spec, "terminationGracePeriodSeconds", json!(30));
    fill(spec, "securityContext", json!({}));
    for container in spec["containers"].as_array_mut().into_iter().flatten() {
        fill(container, "imagePullPolicy", json!("IfNotPresent"));
        fill(container, "terminationMessagePath", json!("/dev/termination-log"));
        fill(container, "terminationMessagePolicy", json!("File"));
        fill(container, "resources", json!({}));
        for port in container["ports"].as_array_mut().into_iter().flatten() {
            fill(port, "protocol", json!("TCP"));
        }
    }
}

/// Refuses a change of a field that may not change.
pub fn refuse_immutable(resource: &Resource, live: &Value, object: &Value) -> Result<(), Refusal> {
    let field = match resource.key().as_str() {
        "deployments.apps" | "replicasets.apps" => "/spec/selector",
        "rolebindings.rbac.authorization.k8s.io" | "clusterrolebindings.rbac.authorization.k8s.io" => "/roleRef",
        _ => return Ok(()),
    };
    if live.pointer(field) == object.pointer(field) {
        return Ok(());
    }
    let name = live["metadata"]["name"].as_str().unwrap_or_default();
    Err(Refusal::invalid(
        &resource.kind,
        &resource.group,
        name,
        vec![FieldError {
            field: field.trim_start_matches('/').replace('/', "."),
            reason: "FieldValueInvalid",
            message: "Invalid value: field is immutable".into(),
        }],
    ))
}

/// Marks a CRD as accepted and served.
pub fn establish(crd: &mut Value) {
    let at = crd["metadata"]["creationTimestamp"].clone();
    let condition = |kind: &str, reason: &str| json!({ "type": kind, "status": "True", "reason": reason, "message": "", "lastTransitionTime": at });
    crd["status"]["conditions"] =
        json!([condition("NamesAccepted", "NoConflicts"), condition("Established", "InitialNamesAccepted")]);
    crd["status"]["acceptedNames"] = crd["spec"]["names"].clone();
    let stored: Vec<Value> = crd["spec"]["versions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|version| version["storage"] == json!(true))
        .map(|version| version["name"].clone())
        .collect();
    crd["status"]["storedVersions"] = Value::Array(stored);
}
