//! What network policies let through, as the API defines it.
//!
//! Source: `NetworkPolicy` of `networking.k8s.io/v1` (<https://kubernetes.io/docs/concepts/services-networking/network-policies/>).
//! A pod that no policy selects for a direction is open in it. One that is selected lets through what any of the rules of any
//! of those policies lets through. Both sides must let a connection through; its answers pass by themselves.

use core::net::{IpAddr, Ipv6Addr};
use std::collections::BTreeMap;

use serde_json::Value;

use crate::cluster::{Cluster, Pod, list, text};
use crate::selector;

/// The label that the API server puts on every namespace, with its name.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Which way a connection goes, seen from the pod that a policy selects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    Ingress,
    Egress,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Ingress => "Ingress",
            Self::Egress => "Egress",
        }
    }

    fn fields(self) -> (&'static str, &'static str) {
        match self {
            Self::Ingress => ("/spec/ingress", "/from"),
            Self::Egress => ("/spec/egress", "/to"),
        }
    }
}

/// A pod at one end of a connection, as far as it is known.
#[derive(Clone, Debug)]
pub struct End<'a> {
    pub namespace: &'a str,
    /// `None`: nobody read the pod.
    pub labels: Option<&'a BTreeMap<String, String>>,
    pub addresses: Vec<IpAddr>,
    /// Policies say nothing of pods in the network of their node.
    pub on_host: bool,
    pub object: Option<&'a Value>,
}

impl<'a> End<'a> {
    pub fn of(pod: &'a Pod) -> Self {
        let told = list(&pod.object, "/status/podIPs").iter().map(|one| text(one, "/ip"));
        let addresses = told.chain([text(&pod.object, "/status/podIP")]).filter_map(|one| one.parse().ok()).collect();
        Self {
            namespace: &pod.namespace,
            labels: Some(&pod.labels),
            addresses,
            on_host: pod.object.pointer("/spec/hostNetwork").and_then(Value::as_bool).unwrap_or(false),
            object: Some(&pod.object),
        }
    }
}

/// Where a connection arrives: the number of the port at the pod, and its protocol.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    pub number: i64,
    pub protocol: String,
}

/// Whether a connection passes.
#[derive(Clone, Debug, PartialEq)]
pub enum Passage<'p> {
    Passes,
    /// None of the policies that select the pod lets it through.
    Refused {
        by: Vec<&'p Value>,
    },
    /// What decides was not read, or is left to the network plugin.
    Unknown,
}

/// Whether the policies that select `own` let a connection between it and `other` through.
pub fn passage<'p>(cluster: &'p Cluster, way: Direction, own: &End<'_>, other: &End<'_>, port: &Port) -> Passage<'p> {
    if own.on_host {
        return Passage::Unknown;
    }
    let (mut selecting, mut unsure) = (Vec::new(), false);
    for policy in cluster.others("NetworkPolicy") {
        match selects(policy, way, own) {
            Some(true) => selecting.push(policy),
            Some(false) => {}
            None => unsure = true,
        }
    }
    let (rules, peers) = way.fields();
    let (receiver, mut doubtful) = (if way == Direction::Ingress { own } else { other }, false);
    for rule in selecting.iter().flat_map(|policy| list(policy, rules).iter().map(move |rule| (policy, rule))) {
        let (policy, rule) = rule;
        match and(to_port(rule, receiver, port), || with_peer(cluster, policy, list(rule, peers), other)) {
            Some(true) => return Passage::Passes,
            Some(false) => {}
            None => doubtful = true,
        }
    }
    match (selecting.is_empty(), doubtful || unsure) {
        // What a policy that may select it might refuse, nobody knows; what it lets through would only add.
        (_, true) => Passage::Unknown,
        (true, false) => Passage::Passes,
        (false, false) => Passage::Refused { by: selecting },
    }
}

/// Both, where either being false is enough to know.
fn and(one: Option<bool>, other: impl FnOnce() -> Option<bool>) -> Option<bool> {
    match one {
        Some(false) => Some(false),
        Some(true) => other(),
        None => other().filter(|other| !other),
    }
}

/// Whether a policy is about a pod in this direction.
fn selects(policy: &Value, way: Direction, own: &End<'_>) -> Option<bool> {
    if text(policy, "/metadata/namespace") != own.namespace {
        return Some(false);
    }
    // One that was captured as text.
    let spec = policy.get("spec")?;
    let types = list(spec, "/policyTypes");
    let of_this_way = match (types.is_empty(), way) {
        (false, _) => types.iter().any(|one| one.as_str() == Some(way.name())),
        // Where no types are told: always ingress, and egress where there are rules for it.
        (true, Direction::Ingress) => true,
        (true, Direction::Egress) => !list(spec, "/egress").is_empty(),
    };
    and(Some(of_this_way), || matches(&spec["podSelector"], own.labels))
}

fn matches(wanted: &Value, labels: Option<&BTreeMap<String, String>>) -> Option<bool> {
    match labels {
        _ if selector::is_empty(wanted) => Some(true),
        Some(labels) => selector::selects(wanted, labels),
        None => None,
    }
}

/// Whether a rule is about the other end; one without peers is about all.
fn with_peer(cluster: &Cluster, policy: &Value, peers: &[Value], other: &End<'_>) -> Option<bool> {
    let mut sum = Some(peers.is_empty());
    for peer in peers {
        match is_peer(cluster, policy, peer, other) {
            Some(true) => return Some(true),
            Some(false) => {}
            None => sum = None,
        }
    }
    sum
}

fn is_peer(cluster: &Cluster, policy: &Value, peer: &Value, other: &End<'_>) -> Option<bool> {
    if peer["ipBlock"].is_object() {
        let inside: Option<Vec<bool>> =
            other.addresses.iter().map(|address| in_block(&peer["ipBlock"], *address)).collect();
        return inside.filter(|inside| !inside.is_empty()).map(|inside| inside.contains(&true));
    }
    // Plugins differ in whether such a pod is itself or its node.
    if other.on_host {
        return None;
    }
    let pods = || matches(&peer["podSelector"], other.labels);
    match peer["namespaceSelector"].is_object() {
        true => and(in_namespace(cluster, &peer["namespaceSelector"], other.namespace), pods),
        false => and(Some(text(policy, "/metadata/namespace") == other.namespace), pods),
    }
}

/// Whether a namespace bears the labels; its name is known of each, the rest only of those that were read.
fn in_namespace(cluster: &Cluster, wanted: &Value, namespace: &str) -> Option<bool> {
    let known = cluster.others("Namespace").iter().find(|one| text(one, "/metadata/name") == namespace);
    let mut labels: BTreeMap<String, String> = BTreeMap::from([(NAME_LABEL.to_owned(), namespace.to_owned())]);
    match known {
        Some(object) => {
            let told = object.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
            labels.extend(told.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))));
        }
        None if selector::keys(wanted).any(|key| key != NAME_LABEL) => return None,
        None => {}
    }
    selector::selects(wanted, &labels)
}

/// Whether a rule is about the port; one without ports is about all.
fn to_port(rule: &Value, receiver: &End<'_>, port: &Port) -> Option<bool> {
    let ports = list(rule, "/ports");
    let mut sum = Some(ports.is_empty());
    for one in ports {
        match is_port(one, receiver, port) {
            Some(true) => return Some(true),
            Some(false) => {}
            None => sum = None,
        }
    }
    sum
}

fn is_port(allowed: &Value, receiver: &End<'_>, port: &Port) -> Option<bool> {
    let protocol = if text(allowed, "/protocol").is_empty() { "TCP" } else { text(allowed, "/protocol") };
    if protocol != port.protocol {
        return Some(false);
    }
    match (allowed["port"].as_i64(), allowed["port"].as_str(), allowed["endPort"].as_i64()) {
        (None, None, _) => Some(true),
        (Some(from), _, Some(to)) => Some((from..=to).contains(&port.number)),
        (Some(only), _, None) => Some(only == port.number),
        (None, Some(name), _) => named(receiver.object?, name, protocol).map(|number| number == port.number),
    }
}

/// The number of a port that a pod has under a name; one that it has not is no port at all.
fn named(pod: &Value, name: &str, protocol: &str) -> Option<i64> {
    const NONE: i64 = -1;
    let containers = ["/spec/containers", "/spec/initContainers"].into_iter().flat_map(|place| list(pod, place));
    let mut ports = containers.flat_map(|container| list(container, "/ports"));
    let speaks =
        |one: &Value| protocol == if text(one, "/protocol").is_empty() { "TCP" } else { text(one, "/protocol") };
    let found = ports.find(|one| text(one, "/name") == name && speaks(one));
    Some(found.and_then(|one| one["containerPort"].as_i64()).unwrap_or(NONE))
}

/// Whether a block holds an address, and none of its exceptions does.
fn in_block(block: &Value, address: IpAddr) -> Option<bool> {
    let mut except = false;
    for one in list(block, "/except") {
        except |= in_cidr(one.as_str()?, address)?;
    }
    in_cidr(text(block, "/cidr"), address).map(|inside| inside && !except)
}

fn in_cidr(cidr: &str, address: IpAddr) -> Option<bool> {
    let (network, length) = cidr.split_once('/')?;
    let (network, length): (IpAddr, u32) = (network.parse().ok()?, length.parse().ok()?);
    let (network, address, length) = match (network, address) {
        (IpAddr::V4(network), IpAddr::V4(address)) => (network.to_ipv6_mapped(), address.to_ipv6_mapped(), length + 96),
        (IpAddr::V6(network), IpAddr::V6(address)) => (network, address, length),
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => return Some(false),
    };
    let head = |of: Ipv6Addr| of.to_bits().checked_shr(128 - length.min(128)).unwrap_or(0);
    (length <= 128).then(|| head(network) == head(address))
}

#[cfg(test)]
mod tests;
