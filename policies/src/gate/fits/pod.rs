//! What one pod asks for, as the scheduler, ResourceQuota and LimitRange count it.

use serde_json::Value;

use super::limit_range::{LimitKind, LimitRange};
use crate::quantity::Quantity;

/// A resource that the gate looks at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Cpu,
    Memory,
}

impl Resource {
    pub const ALL: [Self; 2] = [Self::Cpu, Self::Memory];

    /// As manifests write it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
            Self::Memory => "memory",
        }
    }
}

/// What is asked for of one resource; `None`: nothing is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Amounts {
    pub request: Option<Quantity>,
    pub limit: Option<Quantity>,
}

/// When a container runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Alone, beside the sidecars that were started before it, and then no more.
    Init,
    /// An init container with `restartPolicy: Always`: from its turn on, beside everything else.
    Sidecar,
    App,
}

/// One container of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Container {
    pub name: String,
    pub role: Role,
    cpu: Amounts,
    memory: Amounts,
}

impl Container {
    pub fn asks(&self, resource: Resource) -> Amounts {
        match resource {
            Resource::Cpu => self.cpu,
            Resource::Memory => self.memory,
        }
    }
}

/// What one pod asks for.
///
/// Sources: Kubernetes documentation, *Sidecar Containers* ("Resource sharing within containers": the effective request or limit is
/// the pod's overhead and the higher of what app containers and sidecars take together and what any init container takes beside the
/// sidecars before it), *Pod Overhead*, and *Assign Pod-level CPU and memory resources* (KEP-2837: what the pod says as a whole takes
/// precedence); defaults as the API server and LimitRanger fill them in. What webhooks add to pods is not counted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodResources {
    /// Init containers and sidecars first, in the order in which they start.
    pub containers: Vec<Container>,
    whole: [Amounts; 2],
    overhead: [Quantity; 2],
}

impl PodResources {
    /// Reads a pod's spec, with the defaults of the namespace's LimitRanges filled in.
    pub fn of(spec: &Value, ranges: &[LimitRange]) -> Self {
        let listed = |list: &str| spec[list].as_array().into_iter().flatten();
        let init = listed("initContainers").map(|container| {
            let role = if container["restartPolicy"] == "Always" { Role::Sidecar } else { Role::Init };
            (container, role)
        });
        let containers = init.chain(listed("containers").map(|container| (container, Role::App)));
        let containers = containers.map(|(container, role)| Container {
            name: container["name"].as_str().unwrap_or_default().to_owned(),
            role,
            cpu: with_defaults(amounts(&container["resources"], Resource::Cpu), Resource::Cpu, ranges),
            memory: with_defaults(amounts(&container["resources"], Resource::Memory), Resource::Memory, ranges),
        });
        let overhead = |resource: Resource| Quantity::read(&spec["overhead"][resource.name()]);
        Self {
            containers: containers.collect(),
            whole: Resource::ALL.map(|resource| amounts(&spec["resources"], resource)),
            overhead: Resource::ALL.map(|resource| overhead(resource).unwrap_or(Quantity::whole(0))),
        }
    }

    /// What the scheduler keeps free for it.
    pub fn request(&self, resource: Resource) -> Quantity {
        self.without_overhead(resource).request.unwrap_or(Quantity::whole(0)).plus(self.overhead[resource as usize])
    }

    /// What it may take at most; `None`: at least one container has no limit.
    pub fn limit(&self, resource: Resource) -> Option<Quantity> {
        let limit = match self.whole[resource as usize].limit {
            Some(limit) => Some(limit),
            None if self.unlimited(resource) => None,
            None => self.without_overhead(resource).limit,
        };
        limit.map(|limit| limit.plus(self.overhead[resource as usize]))
    }

    /// What a LimitRange of type `Pod` is held against: what is said, without overhead, and without the containers that say nothing.
    pub fn without_overhead(&self, resource: Resource) -> Amounts {
        let whole = self.whole[resource as usize];
        let request = self.together(|container| container.asks(resource).request);
        Amounts {
            // The API server fills in a request of the whole: that of the containers, and where none has one, the limit.
            request: whole.request.or(request).or(whole.limit),
            limit: whole.limit.or(self.together(|container| container.asks(resource).limit)),
        }
    }

    /// The containers that do not say how much they want of a resource, when the pod as a whole does not either.
    pub fn silent(&self, resource: Resource, part: fn(Amounts) -> Option<Quantity>) -> Vec<&str> {
        if part(self.whole[resource as usize]).is_some() {
            return Vec::new();
        }
        let silent = self.containers.iter().filter(|container| part(container.asks(resource)).is_none());
        silent.map(|container| container.name.as_str()).collect()
    }

    fn unlimited(&self, resource: Resource) -> bool {
        self.containers.iter().any(|container| container.asks(resource).limit.is_none())
    }

    /// The most that is taken at any moment; `None` when no container says anything.
    fn together(&self, of: impl Fn(&Container) -> Option<Quantity>) -> Option<Quantity> {
        let (mut running, mut starting) = (None, None);
        for container in &self.containers {
            let Some(amount) = of(container) else { continue };
            let beside = amount.plus(running.unwrap_or(Quantity::whole(0)));
            match container.role {
                Role::Init => starting = starting.max(Some(beside)),
                Role::Sidecar | Role::App => running = Some(beside),
            }
        }
        running.max(starting)
    }
}

fn amounts(resources: &Value, resource: Resource) -> Amounts {
    let read = |part: &str| Quantity::read(&resources[part][resource.name()]);
    Amounts { request: read("requests"), limit: read("limits") }
}

/// A request that is missing is the limit that is said; what is still missing, the namespace's LimitRanges fill in.
fn with_defaults(said: Amounts, resource: Resource, ranges: &[LimitRange]) -> Amounts {
    let mut of = ranges.iter().filter(|range| range.kind == LimitKind::Container && range.resource == resource);
    let request = said.request.or(said.limit).or_else(|| of.clone().find_map(|range| range.default_request));
    let limit = said.limit.or_else(|| of.find_map(|range| range.default));
    Amounts { request: request.or(limit), limit }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn quantity(text: &str) -> Quantity {
        Quantity::parse(text).unwrap()
    }

    fn asks(request: &str, limit: &str) -> Value {
        let mut resources = json!({});
        for (part, amount) in [("requests", request), ("limits", limit)] {
            if !amount.is_empty() {
                resources[part] = json!({ "memory": amount });
            }
        }
        resources
    }

    fn container(request: &str, limit: &str) -> Value {
        json!({"name": "app", "resources": asks(request, limit)})
    }

    fn sidecar(request: &str, limit: &str) -> Value {
        json!({"name": "proxy", "restartPolicy": "Always", "resources": asks(request, limit)})
    }

    #[test]
    fn a_pod_asks_for_the_most_that_it_takes_at_any_moment() {
        let app = || container("100Mi", "200Mi");
        for (case, spec, request, limit) in [
            ("one container", json!({"containers": [app()]}), "100Mi", Some("200Mi")),
            ("two run together", json!({"containers": [app(), app()]}), "200Mi", Some("400Mi")),
            ("a missing request is the limit", json!({"containers": [container("", "200Mi")]}), "200Mi", Some("200Mi")),
            ("nothing is said", json!({"containers": [container("", "")]}), "0", None),
            ("one without a limit has no end", json!({"containers": [app(), container("1Mi", "")]}), "101Mi", None),
            (
                "a small init container is over before",
                json!({"containers": [app()], "initContainers": [container("50Mi", "60Mi")]}),
                "100Mi",
                Some("200Mi"),
            ),
            (
                "a large one keeps its room",
                json!({"containers": [app()], "initContainers": [container("500Mi", "600Mi")]}),
                "500Mi",
                Some("600Mi"),
            ),
            (
                "init containers run one after another",
                json!({"containers": [app()], "initContainers": [container("80Mi", "80Mi"), container("90Mi", "90Mi")]}),
                "100Mi",
                Some("200Mi"),
            ),
            (
                "an init container without a limit has no end either",
                json!({"containers": [app()], "initContainers": [container("1Mi", "")]}),
                "100Mi",
                None,
            ),
            (
                "a sidecar runs beside",
                json!({"containers": [app()], "initContainers": [sidecar("50Mi", "60Mi")]}),
                "150Mi",
                Some("260Mi"),
            ),
            (
                "an init container runs beside the sidecars before it",
                json!({"containers": [app()], "initContainers": [sidecar("50Mi", "60Mi"), container("120Mi", "300Mi")]}),
                "170Mi",
                Some("360Mi"),
            ),
            (
                "and not beside those after it",
                json!({"containers": [app()], "initContainers": [container("120Mi", "230Mi"), sidecar("50Mi", "60Mi")]}),
                "150Mi",
                Some("260Mi"),
            ),
            (
                "the sandbox takes its part",
                json!({"containers": [app()], "overhead": {"memory": "20Mi", "cpu": "250m"}}),
                "120Mi",
                Some("220Mi"),
            ),
            (
                "what the pod says as a whole holds",
                json!({"containers": [app(), app()], "resources": asks("150Mi", "300Mi"), "overhead": {"memory": "20Mi"}}),
                "170Mi",
                Some("320Mi"),
            ),
            (
                "a whole with a limit alone asks for what its containers do",
                json!({"containers": [app(), container("", "")], "resources": asks("", "300Mi")}),
                "100Mi",
                Some("300Mi"),
            ),
            (
                "or for its limit when they say nothing",
                json!({"containers": [container("", "")], "resources": asks("", "300Mi")}),
                "300Mi",
                Some("300Mi"),
            ),
        ] {
            let pod = PodResources::of(&spec, &[]);
            assert_eq!(pod.request(Resource::Memory), quantity(request), "{case}");
            assert_eq!(pod.limit(Resource::Memory), limit.map(quantity), "{case}");
        }
    }

    #[test]
    fn a_limit_range_fills_in_what_a_container_does_not_say() {
        let range = LimitRange {
            default: Some(quantity("256Mi")),
            default_request: Some(quantity("64Mi")),
            ..LimitRange::new("shop", LimitKind::Container, Resource::Memory)
        };
        for (said, request, limit) in [
            (container("", ""), "64Mi", "256Mi"),
            (container("", "100Mi"), "100Mi", "100Mi"),
            (container("32Mi", ""), "32Mi", "256Mi"),
        ] {
            let pod = PodResources::of(&json!({ "containers": [said] }), std::slice::from_ref(&range));
            let memory = (pod.request(Resource::Memory), pod.limit(Resource::Memory));
            assert_eq!(memory, (quantity(request), Some(quantity(limit))));
            assert_eq!(pod.limit(Resource::Cpu), None, "it says nothing of CPU");
        }
    }
}
