//! What the model sees of a cluster: pods, what their containers may use, and configuration. Nothing else.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde_json::Value;

use super::container::{Container, Ended, State};

/// A look at the live objects.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Pods of modelled services.
    pub pods: Vec<SeenPod>,
    /// ConfigMaps by namespace and name.
    pub config_maps: BTreeMap<(String, String), BTreeMap<String, String>>,
}

/// One pod as the model needs it.
#[derive(Clone, Debug)]
pub struct SeenPod {
    /// Unique id.
    pub uid: String,
    /// Namespace.
    pub namespace: String,
    /// Name.
    pub name: String,
    /// Service: label `app` or `app.kubernetes.io/name`.
    pub service: String,
    /// Name of the first container.
    pub container: String,
    /// Image of the first container.
    pub image: String,
    /// Memory limit in bytes.
    pub memory_limit: Option<f64>,
    /// Memory request in bytes.
    pub memory_request: Option<f64>,
    /// CPU limit in cores.
    pub cpu_limit: Option<f64>,
    /// CPU request in cores.
    pub cpu_request: Option<f64>,
    /// Node, once scheduled.
    pub node: Option<String>,
    /// When it was made.
    pub created: Timestamp,
    /// ConfigMap keys that its environment names, as (map, key, optional).
    pub config_keys: Vec<(String, String, bool)>,
    /// ConfigMaps that it reads, by whatever way.
    pub reads: BTreeSet<String>,
    /// What the cluster says of its first container, where somebody else than the model decides that (KWOK's stages).
    pub told: Option<Container>,
}

impl SeenPod {
    /// Tag of the image; `latest` when there is none.
    pub fn tag(&self) -> &str {
        let name = self.image.rsplit('/').next().unwrap_or_default();
        name.split('@').next().and_then(|name| name.split_once(':')).map_or("latest", |(_, tag)| tag)
    }
}

impl Seen {
    /// What the ConfigMap called `name` holds for a pod: the one of this name, or the one that it reads under this name and the
    /// hash that Kustomize puts behind a generated one.
    pub fn config_map(&self, pod: &SeenPod, name: &str) -> Option<&BTreeMap<String, String>> {
        let hashed =
            |read: &&String| read.rsplit_once('-').is_some_and(|(plain, hash)| plain == name && hash.len() == 10);
        let named = pod.reads.iter().find(hashed).map_or(name, String::as_str);
        self.config_maps.get(&(pod.namespace.clone(), named.to_owned()))
    }

    /// Reads Pods and ConfigMaps as the API server gives them; pods being deleted are left out.
    pub fn read<'a>(pods: impl Iterator<Item = &'a Value>, config_maps: impl Iterator<Item = &'a Value>) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let config_maps = config_maps
            .map(|map| {
                let key = (text(&map["metadata"]["namespace"]), text(&map["metadata"]["name"]));
                let data = map["data"].as_object().into_iter().flatten();
                (key, data.map(|(key, value)| (key.clone(), text(value))).collect())
            })
            .collect();
        let pods = pods.filter(|pod| pod["metadata"]["deletionTimestamp"].is_null()).filter_map(pod).collect();
        Self { pods, config_maps }
    }
}

fn pod(pod: &Value) -> Option<SeenPod> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let labels = &pod["metadata"]["labels"];
    let container = pod["spec"]["containers"].get(0)?;
    let amount = |kind: &str, resource: &str| container["resources"][kind][resource].as_str().and_then(quantity);
    let keys = container["env"].as_array().into_iter().flatten().filter_map(|env| {
        let from = env["valueFrom"].get("configMapKeyRef")?;
        Some((text(&from["name"])?, text(&from["key"])?, from["optional"].as_bool().unwrap_or(false)))
    });
    let volumes =
        pod["spec"]["volumes"].as_array().into_iter().flatten().filter_map(|one| text(&one["configMap"]["name"]));
    let from = container["envFrom"].as_array().into_iter().flatten();
    let from = from.filter_map(|one| text(&one["configMapRef"]["name"]));
    let keys: Vec<(String, String, bool)> = keys.collect();
    let reads = volumes.chain(from).chain(keys.iter().map(|(map, _, _)| map.clone())).collect();
    Some(SeenPod {
        uid: text(&pod["metadata"]["uid"])?,
        namespace: text(&pod["metadata"]["namespace"])?,
        name: text(&pod["metadata"]["name"])?,
        service: text(&labels["app"]).or_else(|| text(&labels["app.kubernetes.io/name"]))?,
        container: text(&container["name"])?,
        image: text(&container["image"]).unwrap_or_default(),
        memory_limit: amount("limits", "memory"),
        memory_request: amount("requests", "memory"),
        cpu_limit: amount("limits", "cpu"),
        cpu_request: amount("requests", "cpu"),
        node: text(&pod["spec"]["nodeName"]).filter(|node| !node.is_empty()),
        created: pod["metadata"]["creationTimestamp"].as_str()?.parse().ok()?,
        config_keys: keys,
        reads,
        told: None,
    })
}

/// What a pod's status says of its first container, for [`SeenPod::told`]; nothing before the kubelet has written any.
pub fn told(pod: &Value) -> Option<Container> {
    let status = pod["status"]["containerStatuses"].get(0)?;
    let time = |value: &Value| value.as_str().and_then(|text| text.parse().ok());
    let state = match time(&status["state"]["running"]["startedAt"]) {
        Some(since) => State::Running { since },
        None => State::Waiting {
            reason: known_reason(status["state"]["waiting"]["reason"].as_str().unwrap_or_default()),
            message: status["state"]["waiting"]["message"].as_str().unwrap_or_default().to_owned(),
        },
    };
    let ended = &status["lastState"]["terminated"];
    let last = time(&ended["finishedAt"]).map(|finished| Ended {
        reason: if ended["reason"] == "OOMKilled" { "OOMKilled" } else { "Error" },
        exit_code: ended["exitCode"].as_i64().unwrap_or(1),
        started: time(&ended["startedAt"]).unwrap_or(finished),
        finished,
    });
    let restarts = status["restartCount"].as_u64().and_then(|count| u32::try_from(count).ok()).unwrap_or(0);
    Some(Container { state, ready: status["ready"] == true, restarts, last })
}

fn known_reason(reason: &str) -> &'static str {
    let known = ["CrashLoopBackOff", "ImagePullBackOff", "ErrImagePull", "CreateContainerConfigError"];
    known.into_iter().find(|known| *known == reason).unwrap_or("ContainerCreating")
}

/// A Kubernetes quantity as a plain number: bytes or cores.
///
/// Source: the quantity format of the Kubernetes API (binary and decimal suffixes, `m`, exponents).
pub fn quantity(text: &str) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '-' || c == '+')).unwrap_or(text.len());
    let number: f64 = text[..end].parse().ok()?;
    let factor = match &text[end..] {
        "" => 1.0,
        "n" => 1e-9,
        "u" => 1e-6,
        "m" => 1e-3,
        "k" => 1e3,
        "M" => 1e6,
        "G" => 1e9,
        "T" => 1e12,
        "Ki" => 1024.0,
        "Mi" => 1024.0 * 1024.0,
        "Gi" => 1024.0 * 1024.0 * 1024.0,
        "Ti" => 1024.0 * 1024.0 * 1024.0 * 1024.0,
        exponent => 10_f64.powi(exponent.strip_prefix(['e', 'E'])?.parse().ok()?),
    };
    Some(number * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_of_every_suffix_are_read() {
        for (text, value) in [
            ("256Mi", 268_435_456.0),
            ("1.5Gi", 1_610_612_736.0),
            ("250m", 0.25),
            ("2", 2.0),
            ("1e3", 1000.0),
            ("1M", 1e6),
        ] {
            assert_eq!(quantity(text), Some(value), "{text}");
        }
        assert_eq!(quantity("lots"), None);
    }
}
