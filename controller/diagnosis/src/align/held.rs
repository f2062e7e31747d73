//! Names that things hold for a time: addresses and container ids. Pods are reborn, and what one held goes to another.

use core::net::IpAddr;
use std::collections::BTreeMap;

use jiff::Timestamp;

use super::AliasSource;
use crate::cluster::{Cluster, Pod, list, text, time};
use crate::entity::{Entity, EntityKind};

/// From when until when a name means a thing; an end that nobody knows is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tenure {
    pub since: Option<Timestamp>,
    pub until: Option<Timestamp>,
}

impl Tenure {
    /// A name for all time.
    pub const ALWAYS: Self = Self { since: None, until: None };

    pub fn holds(&self, at: Timestamp) -> bool {
        self.since.is_none_or(|since| since <= at) && self.until.is_none_or(|until| at <= until)
    }
}

/// Who held which address or container id when.
#[derive(Debug, Default)]
pub(super) struct Held(BTreeMap<String, Vec<(Tenure, Entity, AliasSource)>>);

impl Held {
    /// Addresses of pods, Services and nodes, and ids of containers, as the objects of the cluster tell them.
    pub fn of(cluster: &Cluster) -> Self {
        let mut held = Self::default();
        for pod in &cluster.pods {
            held.pod(pod);
        }
        for service in &cluster.services {
            let Some(workload) = cluster.selected_by(service) else { continue };
            let since = time(&service.object, "/metadata/creationTimestamp");
            for address in addresses(&service.object, "/spec/clusterIP", "/spec/clusterIPs", "") {
                held.add(address, Tenure { since, until: None }, &workload, AliasSource::Selector);
            }
        }
        for node in &cluster.nodes {
            let entity = Entity::new(EntityKind::Node, "", &node.name);
            for address in list(&node.object, "/status/addresses").iter().map(|one| text(one, "/address")) {
                held.add(address, Tenure::ALWAYS, &entity, AliasSource::Object);
            }
        }
        held
    }

    fn pod(&mut self, pod: &Pod) {
        let since = time(&pod.object, "/status/startTime").or(pod.created);
        // A pod that is over still shows the address that it had; it was given back when its last container ended.
        let over = matches!(pod.phase.as_str(), "Succeeded" | "Failed");
        let ended = pod.containers.iter().filter_map(|container| container.terminated.as_ref()?.finished).max();
        let until = if over { ended.or(since) } else { None };
        // On the host's network the address is the node's.
        if pod.object.pointer("/spec/hostNetwork").and_then(serde_json::Value::as_bool) != Some(true) {
            for address in addresses(&pod.object, "/status/podIP", "/status/podIPs", "/ip") {
                self.add(address, Tenure { since, until }, &pod.workload, AliasSource::Object);
            }
        }
        for status in ["/status/containerStatuses", "/status/initContainerStatuses"] {
            for status in list(&pod.object, status) {
                let runs = [
                    ("/containerID", "/state/running/startedAt", ""),
                    ("/state/terminated/containerID", "/state/terminated/startedAt", "/state/terminated/finishedAt"),
                    (
                        "/lastState/terminated/containerID",
                        "/lastState/terminated/startedAt",
                        "/lastState/terminated/finishedAt",
                    ),
                ];
                for (id, since, until) in runs {
                    // A container that does not run shows the id of its last life, which the other two tell with its end.
                    let Some(since) = time(status, since) else { continue };
                    let until = if until.is_empty() { None } else { time(status, until) };
                    let tenure = Tenure { since: Some(since), until };
                    self.add(bare_id(text(status, id)), tenure, &pod.workload, AliasSource::Object);
                }
            }
        }
    }

    fn add(&mut self, name: &str, tenure: Tenure, entity: &Entity, source: AliasSource) {
        // `None` is what a headless Service says of its address.
        if is_held(name) {
            let all = self.0.entry(name.to_owned()).or_default();
            all.push((tenure, entity.clone(), source));
            all.sort();
            all.dedup();
        }
    }

    /// Whether anybody is known to have held a name at any time.
    pub fn knows(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }

    /// Who held a name at a moment: the latest to get it, and nobody where two got it at once.
    pub fn at(&self, name: &str, at: Timestamp) -> Option<&Entity> {
        let holding: Vec<_> = self.0.get(name)?.iter().filter(|(tenure, ..)| tenure.holds(at)).collect();
        let latest = holding.iter().map(|(tenure, ..)| tenure.since).max()?;
        let mut of_latest =
            holding.into_iter().filter(|(tenure, ..)| tenure.since == latest).map(|(_, entity, _)| entity);
        let first = of_latest.next()?;
        of_latest.all(|other| other == first).then_some(first)
    }

    pub fn all(&self) -> impl Iterator<Item = (&String, &(Tenure, Entity, AliasSource))> {
        self.0.iter().flat_map(|(name, all)| all.iter().map(move |one| (name, one)))
    }
}

fn addresses<'o>(object: &'o serde_json::Value, one: &str, more: &str, of_each: &str) -> Vec<&'o str> {
    let more = list(object, more).iter().map(|address| text(address, of_each));
    std::iter::once(text(object, one)).chain(more).collect()
}

/// An address without its port, or a container id without its runtime; other names as they are.
pub(super) fn bare(name: &str) -> &str {
    let host = match name.rsplit_once(':') {
        Some((host, port)) if !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => name,
    };
    let host = host.trim_matches(['[', ']']);
    // Of an IPv6 address the last group looks like a port.
    if host.parse::<IpAddr>().is_ok() && name.parse::<IpAddr>().is_err() { host } else { bare_id(name) }
}

fn bare_id(id: &str) -> &str {
    id.split_once("://").map_or(id, |(_, id)| id)
}

/// Whether a name is of the sort that goes from one to the next: an address, or the 64 hex digits of a container.
fn is_held(name: &str) -> bool {
    let id = || name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    name.as_bytes().first().is_some_and(|first| first.is_ascii_hexdigit() || *first == b':')
        && (id() || name.parse::<IpAddr>().is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_brackets_and_runtimes_are_no_part_of_a_name() {
        for (name, expected) in [
            ("10.0.0.1:9100", "10.0.0.1"),
            ("[fd00::7]:80", "fd00::7"),
            ("fd00::7", "fd00::7"),
            ("containerd://abc", "abc"),
            ("cart:8080", "cart:8080"),
        ] {
            assert_eq!(bare(name), expected);
        }
        assert!(is_held("10.0.0.1") && is_held("fd00::7") && is_held(&"0f".repeat(32)));
        assert!(!is_held("cart") && !is_held("None") && !is_held("") && !is_held("cafe"));
    }
}
