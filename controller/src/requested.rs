//! What the pods of the cluster request on each node, added up once for all who ask within a few seconds.
//!
//! A cluster has thousands of pods and every look at a remediation needs this sum, so the pods are read in pages, and of each pod
//! only what counts is decoded.

use std::collections::BTreeMap;
use std::sync::Arc;

use amend_diagnosis::evidence::Answer;
use amend_policies::quantity::Quantity;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use kube::core::{ListMeta, Request};
use kube::{Client, Resource};
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Mutex;

/// How long one sum serves. Between two sums the scheduler may place pods anyway: what does not fit then waits, and is seen to.
const SERVES: SignedDuration = SignedDuration::from_secs(15);

/// Pods that are added up; more need a scheduler's own view.
const PODS_MAX: usize = 10_000;
const PAGE: u32 = 500;

/// CPU and memory requested on each node, by its name.
pub type Sums = BTreeMap<String, Room>;

/// CPU in cores and memory in bytes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Room {
    pub cpu: Quantity,
    pub memory: Quantity,
}

impl Room {
    pub fn none() -> Self {
        Self { cpu: Quantity::whole(0), memory: Quantity::whole(0) }
    }

    fn plus(self, other: Self) -> Self {
        Self { cpu: self.cpu.plus(other.cpu), memory: self.memory.plus(other.memory) }
    }

    fn max(self, other: Self) -> Self {
        Self { cpu: self.cpu.max(other.cpu), memory: self.memory.max(other.memory) }
    }
}

/// The newest sum.
#[derive(Debug, Default)]
pub struct Requested {
    newest: Mutex<Option<(Timestamp, Arc<Sums>)>>,
}

impl Requested {
    /// What is requested on each node; whoever asks while the pods are being listed gets the same sum.
    pub async fn by_node(&self, client: &Client, now: Timestamp) -> Answer<Arc<Sums>> {
        let mut newest = self.newest.lock().await;
        if let Some((at, sums)) = newest.as_ref()
            && (SignedDuration::ZERO..SERVES).contains(&now.duration_since(*at))
        {
            return Answer::Known(sums.clone());
        }
        // What could not be read is not kept: the next one asks again.
        *newest = None;
        match added_up(client).await {
            Ok(sums) => {
                let sums = Arc::new(sums);
                *newest = Some((now, sums.clone()));
                Answer::Known(sums)
            }
            Err(why) => Answer::Unknown { why },
        }
    }
}

async fn added_up(client: &Client) -> Result<Sums, String> {
    let cannot = |error: String| format!("cannot list pods to add up their requests: {error}");
    let request = Request::new(Pod::url_path(&(), None));
    let mut sums = Sums::new();
    let (mut seen, mut token) = (0, None::<String>);
    loop {
        let mut params = ListParams::default().limit(PAGE);
        params.continue_token.clone_from(&token);
        let asked = request.list(&params).map_err(|error| cannot(error.to_string()))?;
        let page: Page = client.request(asked).await.map_err(|error| cannot(error.to_string()))?;
        seen += page.items.len();
        for pod in &page.items {
            if let Some((node, room)) = pod.takes() {
                let sum = sums.entry(node.to_owned()).or_insert(Room::none());
                *sum = sum.plus(room);
            }
        }
        token = page.metadata.continue_.filter(|token| !token.is_empty());
        if token.is_none() {
            return Ok(sums);
        }
        if seen > PODS_MAX {
            return Err(format!("more than {PODS_MAX} pods; room on nodes is not added up"));
        }
    }
}

/// A page of pods with nothing but what counts here.
#[derive(Deserialize)]
struct Page {
    metadata: ListMeta,
    items: Vec<PodRoom>,
}

#[derive(Deserialize)]
struct PodRoom {
    #[serde(default)]
    spec: Spec,
    #[serde(default)]
    status: Status,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Spec {
    node_name: Option<String>,
    containers: Vec<Container>,
    init_containers: Vec<Container>,
    resources: Resources,
    overhead: Amounts,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Status {
    phase: String,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Container {
    resources: Resources,
    restart_policy: Option<String>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Resources {
    requests: Amounts,
    limits: Amounts,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Amounts {
    cpu: Value,
    memory: Value,
}

impl PodRoom {
    /// The node and what the pod takes there; `None` when it takes nothing: not placed yet, or over.
    ///
    /// What the pod requests as a whole (KEP-2837; the API server fills it in where only its limit is said) takes precedence. Sidecars (init containers that restart) count with the containers; before them, each other init container runs alone beside
    /// the sidecars started so far. Source: Kubernetes documentation, "Sidecar Containers", *Resource sharing within containers*.
    fn takes(&self) -> Option<(&str, Room)> {
        let node = self.spec.node_name.as_deref()?;
        if matches!(self.status.phase.as_str(), "Succeeded" | "Failed") {
            return None;
        }
        let (mut sidecars, mut starting) = (Room::none(), Room::none());
        for container in &self.spec.init_containers {
            let wants = container.wants();
            if container.restart_policy.as_deref() == Some("Always") {
                sidecars = sidecars.plus(wants);
                starting = starting.max(sidecars);
            } else {
                starting = starting.max(sidecars.plus(wants));
            }
        }
        let running = self.spec.containers.iter().fold(sidecars, |sum, container| sum.plus(container.wants()));
        let whole = self.spec.resources.requests.over(running.max(starting));
        Some((node, whole.plus(self.spec.overhead.or(&Amounts::default()))))
    }
}

impl Container {
    fn wants(&self) -> Room {
        self.resources.requests.or(&self.resources.limits)
    }
}

impl Amounts {
    /// These amounts; one that is missing is that of `others`.
    fn over(&self, others: Room) -> Room {
        let read = |own: &Value, other: Quantity| Quantity::read(own).unwrap_or(other);
        Room { cpu: read(&self.cpu, others.cpu), memory: read(&self.memory, others.memory) }
    }

    /// These amounts; one that is missing is that of `limits`, as Kubernetes does it.
    fn or(&self, limits: &Self) -> Room {
        let read =
            |own: &Value, limit: &Value| Quantity::read(own).or(Quantity::read(limit)).unwrap_or(Quantity::whole(0));
        Room { cpu: read(&self.cpu, &limits.cpu), memory: read(&self.memory, &limits.memory) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: &Value, phase: &str) -> PodRoom {
        let mut spec = spec.clone();
        spec["nodeName"] = json!("n1");
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": spec, "status": {"phase": phase}})).unwrap()
    }

    fn container(cpu: &str, memory: &str) -> Value {
        json!({"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}})
    }

    fn room(cpu: &str, memory: &str) -> Room {
        Room { cpu: Quantity::parse(cpu).unwrap(), memory: Quantity::parse(memory).unwrap() }
    }

    #[test]
    fn a_pod_takes_what_its_containers_and_sidecars_request_together() {
        let mut sidecar = container("100m", "64Mi");
        sidecar["restartPolicy"] = json!("Always");
        let spec = json!({"containers": [container("200m", "128Mi")], "initContainers": [sidecar],
            "overhead": {"memory": "8Mi"}});
        assert_eq!(pod(&spec, "Running").takes(), Some(("n1", room("300m", "200Mi"))));
    }

    #[test]
    fn a_large_init_container_takes_its_room_until_the_pod_ends() {
        let spec = json!({"containers": [container("200m", "128Mi")], "initContainers": [container("50m", "1Gi")]});
        assert_eq!(pod(&spec, "Running").takes(), Some(("n1", room("200m", "1Gi"))));
    }

    #[test]
    fn what_the_pod_requests_as_a_whole_takes_precedence() {
        let spec = json!({"containers": [container("200m", "128Mi")], "resources": {"requests": {"memory": "1Gi"}},
            "overhead": {"memory": "1Gi"}});
        assert_eq!(pod(&spec, "Running").takes(), Some(("n1", room("200m", "2Gi"))));
    }

    #[test]
    fn a_missing_request_is_the_limit_and_what_is_over_takes_nothing() {
        let spec = json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]});
        assert_eq!(pod(&spec, "Pending").takes(), Some(("n1", room("1", "1Gi"))));
        assert_eq!(pod(&spec, "Succeeded").takes(), None);
        let nowhere: PodRoom = serde_json::from_value(json!({"spec": {"containers": []}})).unwrap();
        assert_eq!(nowhere.takes(), None);
    }
}
