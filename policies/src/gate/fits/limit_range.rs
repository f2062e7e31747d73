//! The bounds that LimitRanges set to a container or to a pod.

use serde_json::Value;

use super::pod::{Amounts, PodResources, Resource};
use crate::quantity::Quantity;

/// What a bound is held against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitKind {
    /// Every container, init containers too.
    Container,
    /// All containers of a pod together.
    Pod,
}

/// What a LimitRange says about one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitRange {
    pub name: String,
    pub kind: LimitKind,
    pub resource: Resource,
    pub max: Option<Quantity>,
    pub min: Option<Quantity>,
    /// The limit divided by the request may be this at most.
    pub max_limit_request_ratio: Option<Quantity>,
    /// The limit of a container that names none.
    pub default: Option<Quantity>,
    /// The request of a container that names neither it nor a limit.
    pub default_request: Option<Quantity>,
}

impl LimitRange {
    /// One that says nothing yet.
    pub fn new(name: impl Into<String>, kind: LimitKind, resource: Resource) -> Self {
        Self {
            name: name.into(),
            kind,
            resource,
            max: None,
            min: None,
            max_limit_request_ratio: None,
            default: None,
            default_request: None,
        }
    }

    /// What a LimitRange object says about CPU and memory of containers and pods.
    pub fn of(object: &Value) -> Vec<Self> {
        let name = object["metadata"]["name"].as_str().unwrap_or_default();
        let mut found = Vec::new();
        for limit in object["spec"]["limits"].as_array().into_iter().flatten() {
            let kind = match limit["type"].as_str() {
                Some("Container") => LimitKind::Container,
                Some("Pod") => LimitKind::Pod,
                // Of volume claims, which no action changes.
                Some(_) | None => continue,
            };
            for resource in Resource::ALL {
                let read = |bound: &str| Quantity::read(&limit[bound][resource.name()]);
                found.push(Self {
                    max: read("max"),
                    min: read("min"),
                    max_limit_request_ratio: read("maxLimitRequestRatio"),
                    default: read("default"),
                    default_request: read("defaultRequest"),
                    ..Self::new(name, kind, resource)
                });
            }
        }
        found
    }

    /// Why the API server would refuse a pod because of this; `None` when it takes it.
    ///
    /// The rules of the admission plugin LimitRanger: a maximum needs a limit, a minimum a request, and a ratio both. Source:
    /// Kubernetes documentation, *Limit Ranges*.
    pub fn refuses(&self, pod: &PodResources) -> Option<String> {
        match self.kind {
            LimitKind::Container => pod.containers.iter().find_map(|container| {
                let of = format!("container {}", crate::policy::quoted(&container.name));
                self.broken_by(container.asks(self.resource), "container", &of)
            }),
            LimitKind::Pod => self.broken_by(pod.without_overhead(self.resource), "pod", "the pod"),
        }
    }

    fn broken_by(&self, asks: Amounts, each: &str, whose: &str) -> Option<String> {
        let Self { name, resource, .. } = self;
        let resource = resource.name();
        let shown = |amount: Option<Quantity>| amount.map_or("none".to_owned(), |amount| amount.to_string());
        let (request, limit) = (shown(asks.request), shown(asks.limit));
        if let Some(max) = self.max
            && asks.limit.is_none_or(|limit| limit > max)
        {
            return Some(format!(
                "LimitRange {name} allows at most {max} {resource} per {each}; the limit of {whose} is {limit}"
            ));
        }
        if let Some(max) = self.max
            && asks.request.is_some_and(|request| request > max)
        {
            return Some(format!(
                "LimitRange {name} allows at most {max} {resource} per {each}; {whose} requests {request}"
            ));
        }
        if let Some(min) = self.min
            && asks.request.is_none_or(|request| request < min)
        {
            return Some(format!(
                "LimitRange {name} wants at least {min} {resource} per {each}; the request of {whose} is {request}"
            ));
        }
        if let Some(min) = self.min
            && asks.limit.is_some_and(|limit| limit < min)
        {
            return Some(format!(
                "LimitRange {name} wants at least {min} {resource} per {each}; the limit of {whose} is {limit}"
            ));
        }
        if let Some(ratio) = self.max_limit_request_ratio
            && asks.limit.zip(asks.request).is_none_or(|(limit, request)| is_above(limit, request, ratio))
        {
            return Some(format!(
                "LimitRange {name} allows a {resource} limit of at most {ratio} times the request per {each}; {whose} requests \
                 {request} with a limit of {limit}: raise the request too"
            ));
        }
        None
    }
}

/// Whether a limit is more than so many times the request; of nothing, everything is.
fn is_above(limit: Quantity, request: Quantity, ratio: Quantity) -> bool {
    let [limit, request, ratio] = [limit, request, ratio].map(|amount| u128::from(amount.thousandths()));
    request == 0 || limit == 0 || limit.saturating_mul(1000) > request.saturating_mul(ratio)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn refused(limits: &Value, spec: &Value) -> Option<String> {
        let ranges = LimitRange::of(&json!({"metadata": {"name": "shop"}, "spec": {"limits": limits}}));
        let pod = PodResources::of(spec, &ranges);
        ranges.iter().find_map(|range| range.refuses(&pod))
    }

    #[test]
    fn each_bound_is_held_against_what_it_is_about() {
        let container = |name: &str, request: &str, limit: &str| json!({"name": name, "resources": {"requests": {"memory": request}, "limits": {"memory": limit}}});
        let two = || json!({"containers": [container("app", "100Mi", "200Mi"), container("log", "50Mi", "100Mi")]});
        let with_init = || {
            let mut spec = two();
            spec["initContainers"] = json!([container("migrate", "10Mi", "900Mi")]);
            spec
        };
        let unlimited = || json!({"containers": [{"name": "app", "resources": {"requests": {"memory": "100Mi"}}}]});
        let one = |kind: &str, bound: &str, amount: &str| json!([{"type": kind, bound: {"memory": amount}}]);
        for (case, limits, spec, says) in [
            ("a container's maximum", one("Container", "max", "200Mi"), two(), None),
            (
                "below it",
                one("Container", "max", "150Mi"),
                two(),
                Some("at most 150Mi memory per container; the limit of container \"app\" is 200Mi"),
            ),
            (
                "an init container's",
                one("Container", "max", "512Mi"),
                with_init(),
                Some("container \"migrate\" is 900Mi"),
            ),
            ("none at all", one("Container", "max", "512Mi"), unlimited(), Some("container \"app\" is none")),
            (
                "a container's minimum",
                one("Container", "min", "64Mi"),
                two(),
                Some("at least 64Mi memory per container; the request of container \"log\" is 50Mi"),
            ),
            ("a pod's maximum", one("Pod", "max", "300Mi"), two(), None),
            (
                "all together",
                one("Pod", "max", "256Mi"),
                two(),
                Some("at most 256Mi memory per pod; the limit of the pod is 300Mi"),
            ),
            (
                "an init container among all",
                one("Pod", "max", "512Mi"),
                with_init(),
                Some("the limit of the pod is 900Mi"),
            ),
            ("a ratio that holds", one("Container", "maxLimitRequestRatio", "2"), two(), None),
            (
                "a ratio that does not",
                one("Container", "maxLimitRequestRatio", "1500m"),
                two(),
                Some("requests 100Mi with a limit of 200Mi: raise the request too"),
            ),
            (
                "a pod's ratio",
                one("Pod", "maxLimitRequestRatio", "1"),
                two(),
                Some("the pod requests 150Mi with a limit of 300Mi"),
            ),
            (
                "a ratio of nothing",
                one("Container", "maxLimitRequestRatio", "2"),
                unlimited(),
                Some("with a limit of none"),
            ),
            ("of volume claims", one("PersistentVolumeClaim", "max", "1Mi"), two(), None),
        ] {
            let told = refused(&limits, &spec);
            match says {
                Some(says) => assert!(told.as_ref().is_some_and(|told| told.contains(says)), "{case}: {told:?}"),
                None => assert_eq!(told, None, "{case}"),
            }
        }
    }
}
