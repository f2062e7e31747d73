//! Which ConfigMaps and Secrets a workload's pods read, and when its containers see a change of one.

use std::collections::{BTreeMap, BTreeSet};

use amend_diagnosis::entity::EntityKind;
use serde_json::Value;

/// How the pods of a workload read one ConfigMap or Secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Containers that see a change only when they start: it is in their environment, or mounted as a single file.
    ///
    /// <https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically>
    pub at_start: BTreeSet<String>,
}

/// What the pods of a workload read, by kind (ConfigMap or Secret) and name.
pub fn read_by(workload: &Value) -> BTreeMap<(EntityKind, String), Reading> {
    let template = workload.pointer("/spec/jobTemplate/spec/template").or_else(|| workload.pointer("/spec/template"));
    let pod = template.map_or(&Value::Null, |template| &template["spec"]);
    let mut found: BTreeMap<(EntityKind, String), Reading> = BTreeMap::new();
    let containers = || ["containers", "initContainers"].into_iter().flat_map(|list| items(&pod[list]));
    for container in containers() {
        let name = text(&container["name"]);
        let from = items(&container["envFrom"]).filter_map(|one| named(one, "configMapRef", "secretRef"));
        let single =
            items(&container["env"]).filter_map(|one| named(&one["valueFrom"], "configMapKeyRef", "secretKeyRef"));
        for place in from.chain(single) {
            found.entry(place).or_default().at_start.insert(name.to_owned());
        }
    }
    for volume in items(&pod["volumes"]) {
        let whole = named(volume, "configMap", "secret");
        let parts = items(&volume["projected"]["sources"]).filter_map(|source| named(source, "configMap", "secret"));
        for place in whole.into_iter().chain(parts) {
            let reading = found.entry(place).or_default();
            for container in containers() {
                let single_file = |mount: &Value| {
                    mount["name"] == volume["name"]
                        && (mount["subPath"].is_string() || mount["subPathExpr"].is_string())
                };
                if items(&container["volumeMounts"]).any(single_file) {
                    reading.at_start.insert(text(&container["name"]).to_owned());
                }
            }
        }
    }
    found
}

fn named(part: &Value, config_map: &str, secret: &str) -> Option<(EntityKind, String)> {
    let name = |value: &Value| value["name"].as_str().or(value["secretName"].as_str()).map(str::to_owned);
    let of = |kind: EntityKind, key: &str| part.get(key).and_then(name).map(|name| (kind, name));
    of(EntityKind::ConfigMap, config_map).or_else(|| of(EntityKind::Secret, secret))
}

fn items(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_pods_read_is_found_wherever_it_is_named_and_when_they_see_a_change() {
        let workload = json!({ "spec": { "template": { "spec": {
            "initContainers": [{ "name": "migrate", "envFrom": [{ "secretRef": { "name": "keys" } }] }],
            "containers": [{
                "name": "app",
                "envFrom": [{ "configMapRef": { "name": "flags" } }],
                "env": [{ "name": "KEY", "valueFrom": { "secretKeyRef": { "name": "keys", "key": "a" } } }],
                "volumeMounts": [{ "name": "a", "mountPath": "/a" }, { "name": "c", "mountPath": "/c/one", "subPath": "one" }],
            }],
            "volumes": [
                { "name": "a", "configMap": { "name": "settings" } },
                { "name": "b", "secret": { "secretName": "tls" } },
                { "name": "c", "projected": { "sources": [{ "configMap": { "name": "rules" } }] } },
                { "name": "d", "emptyDir": {} },
            ],
        } } } });
        let found: Vec<(EntityKind, String, Vec<String>)> = read_by(&workload)
            .into_iter()
            .map(|((kind, name), how)| (kind, name, how.at_start.into_iter().collect()))
            .collect();
        let one = |kind, name: &str, at_start: &[&str]| {
            (kind, name.to_owned(), at_start.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>())
        };
        let mut expected = vec![
            one(EntityKind::ConfigMap, "flags", &["app"]),
            one(EntityKind::ConfigMap, "rules", &["app"]),
            one(EntityKind::ConfigMap, "settings", &[]),
            one(EntityKind::Secret, "keys", &["app", "migrate"]),
            one(EntityKind::Secret, "tls", &[]),
        ];
        expected.sort();
        assert_eq!(found, expected);
    }

    #[test]
    fn a_cron_job_reads_through_the_template_of_its_jobs() {
        let pod = json!({ "containers": [{ "name": "app", "envFrom": [{ "configMapRef": { "name": "flags" } }] }] });
        let workload = json!({ "spec": { "jobTemplate": { "spec": { "template": { "spec": pod } } } } });
        assert!(read_by(&workload).contains_key(&(EntityKind::ConfigMap, "flags".to_owned())));
    }
}
