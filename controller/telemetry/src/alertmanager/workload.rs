//! A workload in the words of alerts: the labels that its alerts carry, and whether an alert is about it.

use std::collections::BTreeMap;

use amend_diagnosis::entity::{Entity, EntityKind};

use crate::mapping::Mapping;

/// Labels that name a workload whatever its kind, in rules of Prometheus and of service meshes.
const NAMES: [&str; 4] = ["workload", "service", "service_name", "app"];

/// What kube-state-metrics calls a workload of this kind; `None`: not a workload that runs pods.
fn label(kind: EntityKind) -> Option<&'static str> {
    match kind {
        EntityKind::Deployment => Some("deployment"),
        EntityKind::StatefulSet => Some("statefulset"),
        EntityKind::DaemonSet => Some("daemonset"),
        EntityKind::ReplicaSet => Some("replicaset"),
        EntityKind::Job => Some("job_name"),
        EntityKind::CronJob => Some("cronjob"),
        EntityKind::Pod
        | EntityKind::Service
        | EntityKind::ConfigMap
        | EntityKind::Secret
        | EntityKind::PersistentVolumeClaim
        | EntityKind::Node
        | EntityKind::Namespace
        | EntityKind::Build
        | EntityKind::Release
        | EntityKind::Unaligned => None,
    }
}

/// The labels of any alert about an entity, as far as they are known beforehand; `None` for what no label names.
///
/// The pod is one that is yet to come: matchers of the workload's pods take it, a matcher of one living pod does not.
pub(super) fn labels_of(
    entity: &Entity,
    mapping: &Mapping,
    own: &BTreeMap<String, String>,
) -> Option<BTreeMap<String, String>> {
    let mut labels = own.clone();
    let mut add = |name: &str, value: &str| {
        if !name.is_empty() && !value.is_empty() {
            labels.insert(name.to_owned(), value.to_owned());
        }
    };
    let name = entity.name.as_str();
    match entity.kind {
        EntityKind::Build => return None,
        EntityKind::Node => add("node", name),
        EntityKind::Namespace => in_namespace(&mut add, mapping, name),
        EntityKind::PersistentVolumeClaim => {
            in_namespace(&mut add, mapping, &entity.namespace);
            add("persistentvolumeclaim", name);
        }
        EntityKind::Pod => {
            in_namespace(&mut add, mapping, &entity.namespace);
            add(&mapping.pod, name);
        }
        EntityKind::ConfigMap | EntityKind::Secret | EntityKind::Release => {
            in_namespace(&mut add, mapping, &entity.namespace);
        }
        EntityKind::Deployment
        | EntityKind::StatefulSet
        | EntityKind::DaemonSet
        | EntityKind::ReplicaSet
        | EntityKind::Job
        | EntityKind::CronJob
        | EntityKind::Service
        | EntityKind::Unaligned => {
            in_namespace(&mut add, mapping, &entity.namespace);
            NAMES.iter().for_each(|label| add(label, name));
            if let Some(label) = label(entity.kind) {
                add(label, name);
                add("workload_type", &format!("{:?}", entity.kind).to_lowercase());
                add(&mapping.pod, &pod_to_come(entity.kind, name));
            }
        }
    }
    if let Some(container) = &entity.container {
        add(&mapping.container, container);
    }
    Some(labels)
}

fn in_namespace(add: &mut impl FnMut(&str, &str), mapping: &Mapping, namespace: &str) {
    for label in [mapping.namespace.as_str(), "namespace", "exported_namespace"] {
        add(label, namespace);
    }
}

/// The name of a pod that the workload might make, in letters that Kubernetes draws for it and that are hexadecimal digits besides.
fn pod_to_come(kind: EntityKind, name: &str) -> String {
    match kind {
        EntityKind::StatefulSet => format!("{name}-0"),
        EntityKind::Deployment => format!("{name}-5d8f7c9b64-b6d5c"),
        EntityKind::CronJob => format!("{name}-29411000-b6d5c"),
        _ => format!("{name}-b6d5c"),
    }
}

/// Whether an alert is about a workload: it names no other cluster, namespace or container, and the first label by which it names
/// anything names the workload or a pod of it.
pub(super) fn is_about(
    labels: &BTreeMap<String, String>,
    entity: &Entity,
    mapping: &Mapping,
    own: &BTreeMap<String, String>,
) -> bool {
    let Some(kind) = label(entity.kind) else { return false };
    // Prometheus renames a label so when the scraped target carries the same name itself.
    let said = |name: &str| {
        let value = labels.get(&format!("exported_{name}")).or_else(|| labels.get(name));
        value.map(String::as_str).filter(|value| !value.is_empty())
    };
    let is_other = |name: &str, ours: &str| said(name).is_some_and(|value| value != ours);
    if own.iter().any(|(name, ours)| is_other(name, ours))
        || said(&mapping.namespace) != Some(entity.namespace.as_str())
        || entity.container.as_deref().is_some_and(|ours| is_other(&mapping.container, ours))
    {
        return false;
    }
    if let Some(name) = said(kind) {
        return name == entity.name;
    }
    match said(&mapping.pod) {
        Some(pod) => is_pod_of(entity, pod),
        None => NAMES.iter().find_map(|name| said(name)).is_some_and(|name| name == entity.name),
    }
}

/// Whether a pod may be one of the workload's by its name: the name, then as many drawn parts as its kind adds.
fn is_pod_of(entity: &Entity, pod: &str) -> bool {
    let Some(drawn) = pod.strip_prefix(entity.name.as_str()).and_then(|rest| rest.strip_prefix('-')) else {
        return false;
    };
    let parts = drawn.split('-').count();
    match entity.kind {
        EntityKind::StatefulSet => drawn.parse::<u32>().is_ok(),
        EntityKind::Deployment | EntityKind::CronJob => parts == 2,
        _ => parts == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_alert_is_about_the_workload_that_it_names_or_whose_pod_it_names() {
        let of = |kind, name: &str| Entity::new(kind, "shop", name);
        let cart = of(EntityKind::Deployment, "cart").with_container("app");
        let own = BTreeMap::from([("cluster".to_owned(), "eu-1".to_owned())]);
        let about = |entity: &Entity, labels: &[(&str, &str)]| {
            let labels = labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            is_about(&labels, entity, &Mapping::default(), &own)
        };
        let shop = ("namespace", "shop");
        assert!(about(&cart, &[shop, ("deployment", "cart")]));
        assert!(about(&cart, &[shop, ("pod", "cart-7d9f-abcde"), ("container", "app"), ("cluster", "eu-1")]));
        assert!(about(&cart, &[shop, ("pod", "kube-state-metrics-0"), ("exported_pod", "cart-7d9f-abcde")]));
        assert!(about(&cart, &[shop, ("service", "cart")]));
        assert!(about(&of(EntityKind::StatefulSet, "db"), &[shop, ("pod", "db-2")]));
        assert!(about(&of(EntityKind::DaemonSet, "agent"), &[shop, ("pod", "agent-x2x4z")]));

        assert!(!about(&cart, &[shop]), "the namespace alone");
        assert!(!about(&cart, &[("namespace", "bank"), ("deployment", "cart")]));
        assert!(!about(&cart, &[("deployment", "cart")]), "in no namespace");
        assert!(!about(&cart, &[shop, ("deployment", "cart"), ("cluster", "us-1")]));
        assert!(!about(&cart, &[shop, ("deployment", "cart"), ("container", "istio-proxy")]));
        assert!(!about(&cart, &[shop, ("pod", "cart-worker-7d9f-abcde")]), "of another whose name begins the same");
        assert!(!about(&cart, &[shop, ("pod", "other-7d9f-abcde"), ("service", "cart")]));
        assert!(!about(&of(EntityKind::StatefulSet, "db"), &[shop, ("pod", "db-abcde")]));
    }
}
