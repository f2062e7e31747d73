//! Addresses in the environment that name no service, or a port that the service does not have.

use crate::cluster::{Service, Workload, list, text};
use crate::finding::Finding;
use crate::scene::Scene;

use super::routing::misrouted;
use super::unreached;

/// What is wrong with the addresses of a workload, where calls to them are seen to fail or they were just changed.
pub fn findings(scene: &Scene<'_>, workload: &Workload) -> Vec<Finding> {
    let namespace = &workload.entity.namespace;
    let services: Vec<&Service> =
        scene.cluster.services.iter().filter(|service| service.namespace == *namespace).collect();
    let variables = list(&workload.template, "/spec/containers").iter().flat_map(|container| list(container, "/env"));
    let mut findings = Vec::new();
    for variable in variables {
        let (name, value) = (text(variable, "/name"), text(variable, "/value"));
        let Some((host, port)) = address(value) else { continue };
        let Some(short) = local(host, namespace) else { continue };
        let fault = match services.iter().find(|service| service.name == short) {
            Some(service) => {
                let known: Vec<i64> =
                    list(&service.object, "/spec/ports").iter().filter_map(|port| port["port"].as_i64()).collect();
                let lost = || unreached::port(scene, service, port);
                (!known.is_empty() && !known.contains(&port) && (lost() || just_set(scene, workload, value)))
                    .then(|| format!("{name} points to {host}:{port}, but that service has port {known:?}"))
            }
            None => nearest(short, services.iter().map(|service| service.name.as_str()))
                .filter(|_| unreached::host(scene, host) || just_set(scene, workload, value))
                .map(|near| format!("{name} points to {host}, which no service is called; {near} is near")),
        };
        if let Some(sentence) = fault {
            let sentence = format!("{}: {sentence}", workload.entity.name);
            findings.push(misrouted(scene, workload.entity.clone(), 5.9, "service_env_var_address_mismatch", sentence));
        }
    }
    findings
}

/// Host and port of `[scheme://][user:password@]host:port[/path]`.
fn address(value: &str) -> Option<(&str, i64)> {
    let bare = value.split_once("://").map_or(value, |(_, rest)| rest);
    let bare = bare.split(['/', '?', '#']).next()?;
    let (host, port) = bare.rsplit_once('@').map_or(bare, |(_, rest)| rest).rsplit_once(':')?;
    Some((host, port.parse().ok()?))
}

/// The name that a host has among the services of a namespace; nothing for addresses, this machine, and names of elsewhere.
///
/// Source: "DNS for Services and Pods" in the Kubernetes documentation. Two labels are `service.namespace`, and more of them
/// go on with `svc`.
fn local<'h>(host: &'h str, namespace: &str) -> Option<&'h str> {
    let host = host.trim_end_matches('.');
    let named = host.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.');
    let number = host.rsplit('.').next().is_none_or(|last| last.chars().all(|c| c.is_ascii_digit()));
    if host.is_empty() || !named || number || host == "localhost" {
        return None;
    }
    let mut labels = host.split('.');
    let short = labels.next()?;
    let here = labels.next().is_none_or(|of| of == namespace) && labels.next().is_none_or(|kind| kind == "svc");
    here.then_some(short)
}

/// Whether a change of the workload brought this value.
fn just_set(scene: &Scene<'_>, workload: &Workload, value: &str) -> bool {
    let onset = scene.onset.unwrap_or(scene.observations.at);
    let from = crate::scene::shifted(onset, -jiff::SignedDuration::from_hours(24));
    let brings = |diff: &str| diff.lines().any(|line| line.starts_with('+') && line.contains(value));
    let mut changes = scene.changes.iter().filter(|change| change.target == workload.entity && change.at >= from);
    changes.any(|change| brings(&change.diff))
}

/// A service whose name is a slip away.
fn nearest<'n>(name: &str, known: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    known
        .map(|other| (edits(name, other), other))
        .filter(|(edits, other)| *edits > 0 && *edits <= (other.len().min(name.len()) / 4).clamp(1, 4))
        .min()
        .map(|(_, other)| other)
}

/// Levenshtein distance.
fn edits(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().take(80).collect(), b.chars().take(80).collect());
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let next = (corner + usize::from(x != y)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = row[j + 1];
            row[j + 1] = next;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_and_port_of_an_address_are_what_is_left_of_scheme_user_and_path() {
        assert_eq!(address("redis://:secret@redis:6379/0"), Some(("redis", 6379)));
        assert_eq!(address("amqp://user:pass@mq.shop.svc:5672"), Some(("mq.shop.svc", 5672)));
        assert_eq!(address("cart:7070"), Some(("cart", 7070)));
        assert_eq!(address("[::1]:80").map(|(host, _)| local(host, "shop")), Some(None));
    }

    #[test]
    fn only_names_of_the_own_namespace_are_looked_for_in_it() {
        for host in ["orders", "orders.shop", "orders.shop.svc", "orders.shop.svc.cluster.local"] {
            assert_eq!(local(host, "shop"), Some("orders"), "{host}");
        }
        for host in ["", "0.0.0.0", "10.0.0.7", "localhost", "orders.data.svc", "db.prod.internal", "orders-0.orders"] {
            assert_eq!(local(host, "shop"), None, "{host}");
        }
    }
}
