//! What ResourceQuotas count of a pod.

use serde_json::Value;

use super::pod::{Amounts, PodResources, Resource};
use crate::quantity::Quantity;

/// One resource of a ResourceQuota that covers the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QuotaRoom {
    pub name: String,
    /// As the quota calls it: `requests.memory`, `limits.cpu`, `pods` ...
    pub resource: String,
    pub hard: Quantity,
    pub used: Quantity,
}

/// What of a pod is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Counted {
    Pods,
    Requests(Resource),
    Limits(Resource),
}

impl Counted {
    /// The amount of one pod.
    pub fn of(self, pod: &PodResources) -> Quantity {
        match self {
            Self::Pods => Quantity::whole(1),
            Self::Requests(resource) => pod.request(resource),
            Self::Limits(resource) => pod.limit(resource).unwrap_or(Quantity::whole(0)),
        }
    }

    /// A container that does not name what is counted: the quota then refuses the pod, as it cannot tell what it takes.
    pub fn silent(self, pod: &PodResources) -> Option<&str> {
        let silent = match self {
            Self::Pods => Vec::new(),
            Self::Requests(resource) => pod.silent(resource, |asks: Amounts| asks.request),
            Self::Limits(resource) => pod.silent(resource, |asks: Amounts| asks.limit),
        };
        silent.first().copied()
    }
}

impl QuotaRoom {
    /// The rooms of a ResourceQuota object for a pod with this spec; none when it does not cover such pods.
    pub fn of(object: &Value, pod: &Value) -> Vec<Self> {
        if !covers(&object["spec"], pod) {
            return Vec::new();
        }
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let hard = object["status"]["hard"].as_object().into_iter().flatten();
        let rooms = hard.filter_map(|(resource, hard)| {
            let used = Quantity::read(&object["status"]["used"][resource.as_str()]).unwrap_or(Quantity::whole(0));
            Some(Self { name: name.to_owned(), resource: resource.clone(), hard: Quantity::read(hard)?, used })
        });
        rooms.collect()
    }

    /// What it counts; `None` for what no action changes and no pod of a rollout takes more of.
    pub fn counts(&self) -> Option<Counted> {
        Some(match self.resource.as_str() {
            "pods" | "count/pods" => Counted::Pods,
            "cpu" | "requests.cpu" => Counted::Requests(Resource::Cpu),
            "memory" | "requests.memory" => Counted::Requests(Resource::Memory),
            "limits.cpu" => Counted::Limits(Resource::Cpu),
            "limits.memory" => Counted::Limits(Resource::Memory),
            _ => return None,
        })
    }
}

/// Whether a quota counts such pods: by `scopes` and `scopeSelector`, all of which must hold. A scope that is not known here is taken to
/// hold: the quota then counts.
///
/// Source: Kubernetes documentation, *Resource Quotas*, "Quota scopes".
fn covers(quota: &Value, pod: &Value) -> bool {
    let scopes = quota["scopes"].as_array().into_iter().flatten();
    let plain = scopes.filter_map(Value::as_str).all(|scope| is_in(scope, pod));
    let expressions = quota["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    plain
        && expressions
            .filter(|one| one["scopeName"] != "PriorityClass")
            .all(|one| one["scopeName"].as_str().is_none_or(|scope| is_in(scope, pod)))
        && by_priority(quota, pod)
}

fn is_in(scope: &str, pod: &Value) -> bool {
    let ends = pod["activeDeadlineSeconds"].is_number();
    match scope {
        "Terminating" => ends,
        "NotTerminating" => !ends,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => pod["priorityClassName"].is_string(),
        _ => true,
    }
}

/// Whether nothing in the pod asks for anything.
fn is_best_effort(pod: &Value) -> bool {
    let pod = PodResources::of(pod, &[]);
    Resource::ALL.iter().all(|resource| {
        let asks = pod.without_overhead(*resource);
        asks.request.is_none_or(Quantity::is_zero) && asks.limit.is_none_or(Quantity::is_zero)
    })
}

/// A pod that names no class may get the cluster's default one: only a list of names that it must be in leaves it out.
fn by_priority(quota: &Value, pod: &Value) -> bool {
    let expressions = quota["scopeSelector"]["matchExpressions"].as_array().into_iter().flatten();
    expressions.filter(|one| one["scopeName"] == "PriorityClass").all(|one| {
        let class = pod["priorityClassName"].as_str();
        let listed =
            one["values"].as_array().into_iter().flatten().any(|value| value.as_str() == class && class.is_some());
        match one["operator"].as_str() {
            Some("In") => listed,
            Some("NotIn") => !listed,
            Some("DoesNotExist") => class.is_none(),
            Some(_) | None => true,
        }
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_quota_counts_the_pods_that_are_in_all_of_its_scopes() {
        let server = json!({"priorityClassName": "high", "containers": [{"name": "app", "resources": {"requests": {"memory": "1Mi"}}}]});
        let job = json!({"activeDeadlineSeconds": 60, "containers": [{"name": "app"}]});
        let by_class = |operator: &str| json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": operator, "values": ["high"]}]}});
        for (quota, counts_server, counts_job) in [
            (json!({}), true, true),
            (json!({"scopes": ["NotTerminating"]}), true, false),
            (json!({"scopes": ["Terminating"]}), false, true),
            (json!({"scopes": ["BestEffort"]}), false, true),
            (json!({"scopes": ["NotBestEffort"]}), true, false),
            (json!({"scopes": ["NotTerminating", "BestEffort"]}), false, false),
            (json!({"scopes": ["CrossNamespacePodAffinity"]}), true, true),
            (by_class("In"), true, false),
            (by_class("NotIn"), false, true),
            (by_class("DoesNotExist"), false, true),
            (by_class("Exists"), true, true),
        ] {
            assert_eq!((covers(&quota, &server), covers(&quota, &job)), (counts_server, counts_job), "{quota}");
        }
    }

    #[test]
    fn what_a_quota_counts_is_read_with_its_room() {
        let quota = json!({"metadata": {"name": "shop"}, "spec": {},
            "status": {"hard": {"pods": "4", "limits.memory": "1Gi", "secrets": "9"}, "used": {"pods": "3"}}});
        let rooms = QuotaRoom::of(&quota, &json!({}));
        let told: Vec<_> = rooms.iter().map(|room| (room.resource.as_str(), room.counts(), room.used)).collect();
        assert_eq!(
            told,
            [
                ("limits.memory", Some(Counted::Limits(Resource::Memory)), Quantity::whole(0)),
                ("pods", Some(Counted::Pods), Quantity::whole(3)),
                ("secrets", None, Quantity::whole(0)),
            ]
        );
    }
}
