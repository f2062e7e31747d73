//! The cluster's own name server: who it is, and what is said of it.
//!
//! Installers call it CoreDNS or kube-dns; all of them keep the Service `kube-system/kube-dns` and the label of its pods, since
//! clients and policies rely on both (<https://kubernetes.io/docs/tasks/administer-cluster/dns-custom-nameservers/>).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;

use crate::cluster::{Cluster, Pod};
use crate::entity::{Entity, EntityKind};
use crate::evidence::LogLine;

pub const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";
const LABEL: (&str, &str) = ("k8s-app", "kube-dns");
pub const PORT: i64 = 53;

/// What resolvers say when no server answers or a server fails, by languages; a name that does not exist is an answer.
///
/// `EAI_AGAIN` of `getaddrinfo` (glibc and musl), Go's words for `SERVFAIL` and for a question that got no answer, c-ares.
const NO_ANSWER: [&str; 12] = [
    "temporary failure in name resolution",
    "temporary name server failure",
    "eai_again",
    "[errno -3] try again",
    "lookup address information: try again",
    "server misbehaving",
    "servfail",
    "querya etimeout",
    "queryaaaa etimeout",
    "timeout while contacting dns servers",
    "could not contact dns servers",
    "no servers could be reached",
];

/// What is said of a connection that does not come about, when it goes to a name server.
const NO_WAY: [&str; 4] = ["i/o timeout", "connection refused", "no route to host", "network is unreachable"];

/// What is said of a name that does not exist.
const NO_NAME: [&str; 7] = [
    "no such host",
    "name or service not known",
    "name does not resolve",
    "nxdomain",
    "enotfound",
    "unknownhost",
    "could not resolve",
];

static SIGNS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| automaton(&NO_ANSWER));
static DENIALS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| automaton(&NO_NAME));

/// None only if the texts were too many for an automaton.
fn automaton(texts: &[&str]) -> Option<AhoCorasick> {
    AhoCorasick::builder().ascii_case_insensitive(true).build(texts).ok()
}

/// Its pods, ready or not; none where nobody read them.
pub fn pods(cluster: &Cluster) -> impl Iterator<Item = &Pod> {
    cluster
        .pods
        .iter()
        .filter(|pod| pod.namespace == NAMESPACE && pod.labels.get(LABEL.0).map(String::as_str) == Some(LABEL.1))
}

/// The workload behind it, by its pods, else by its template; its Service's name where neither was read.
pub fn entity(cluster: &Cluster) -> Entity {
    let templated = || {
        cluster.workloads.iter().find(|one| {
            let label = one.template.pointer("/metadata/labels").and_then(|labels| labels[LABEL.0].as_str());
            one.entity.namespace == NAMESPACE && label == Some(LABEL.1)
        })
    };
    let known = pods(cluster).next().map(|pod| pod.workload.clone()).or_else(|| Some(templated()?.entity.clone()));
    known.unwrap_or_else(|| Entity::new(EntityKind::Service, NAMESPACE, SERVICE))
}

/// Whether a line says that a name server gave no answer, or could not find one.
pub fn gave_no_answer(line: &str) -> bool {
    if SIGNS.as_ref().is_some_and(|signs| signs.is_match(line)) {
        return true;
    }
    // Go: `lookup payment on 10.96.0.10:53: read udp 10.0.0.7:40000->10.96.0.10:53: i/o timeout`.
    line.contains(":53") && line.contains("lookup ") && NO_WAY.iter().any(|sign| line.contains(sign))
}

/// Whether a line says that a name does not exist.
pub fn denied(line: &str) -> bool {
    DENIALS.as_ref().is_some_and(|signs| signs.is_match(line))
}

/// Who depends on it as far as anybody can tell: who writes of names that were not resolved, and everybody where no pod of it
/// is ready. All others need it too, but what they show it did not bring.
pub fn needed_by(cluster: &Cluster, logs: &BTreeMap<Entity, Vec<&LogLine>>) -> BTreeSet<Entity> {
    let complains = |lines: &[&LogLine]| lines.iter().any(|line| gave_no_answer(&line.body) || denied(&line.body));
    let mut found: BTreeSet<Entity> =
        logs.iter().filter(|(_, lines)| complains(lines)).map(|(entity, _)| entity.clone()).collect();
    let mut pods = pods(cluster).peekable();
    if pods.peek().is_some() && !pods.any(Pod::is_ready) {
        found.extend(cluster.workloads.iter().map(|workload| workload.entity.clone()));
    }
    found.remove(&entity(cluster));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_does_not_exist_is_an_answer() {
        for line in [
            "dial tcp: lookup payment on 10.96.0.10:53: read udp 10.0.0.7:4->10.96.0.10:53: i/o timeout",
            "dial tcp: lookup payment on 10.96.0.10:53: server misbehaving",
            "Error: getaddrinfo EAI_AGAIN payment",
            "requests.exceptions: [Errno -3] Temporary failure in name resolution",
        ] {
            assert!(gave_no_answer(line), "{line}");
        }
        for line in [
            "dial tcp: lookup paymnt on 10.96.0.10:53: no such host",
            "java.net.UnknownHostException: payment: Name or service not known",
            "dial tcp 10.96.7.7:5380: i/o timeout",
            "resolved payment in 3 ms",
        ] {
            assert!(!gave_no_answer(line), "{line}");
        }
    }
}
