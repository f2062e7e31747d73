//! Whether calls to a service, a host or a port are seen to get no connection.

use core::net::{IpAddr, Ipv4Addr};
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use jiff::SignedDuration;

use crate::cluster::{Service, list, text};
use crate::entity::Entity;
use crate::evidence::LogLine;
use crate::scene::{Scene, seconds, shifted};

/// What is said of a connection that does not come about, in lower case: by languages and proxies.
const NO_WAY: [&str; 20] = [
    "connection refused",
    "connectionrefused",
    "econnrefused",
    "no such host",
    "name resolution",
    "name or service not known",
    "dns resolution failed",
    "enotfound",
    "eai_again",
    "unknownhost",
    "could not resolve",
    "failed to connect",
    "could not connect",
    "no route to host",
    "connection timed out",
    "connect timed out",
    "connect timeout",
    "i/o timeout",
    "upstream connect error",
    "no healthy upstream",
];

/// None only if the texts were too many for an automaton.
static SIGNS: LazyLock<Option<AhoCorasick>> =
    LazyLock::new(|| AhoCorasick::builder().ascii_case_insensitive(true).build(NO_WAY).ok());

/// How long before the first symptom its reason may have been logged: an alert fires some minutes late.
const BEFORE_ONSET: SignedDuration = SignedDuration::from_mins(15);

/// A callee that gets less than this share of the requests that it had, while its callers fail, is not reached.
const LEFT: f64 = 0.2;
const CALLERS_FAIL: f64 = 0.05;

/// Whether calls to a service fail before they reach its pods.
pub fn service(scene: &Scene<'_>, service: &Service, entity: &Entity) -> bool {
    let ports: Vec<i64> = list(&service.object, "/spec/ports").iter().filter_map(|one| one["port"].as_i64()).collect();
    // What its own pods complain of is about others.
    let others = scene.logs.iter().filter(|(writer, _)| *writer != entity).flat_map(|(_, lines)| lines);
    said(scene, others, |line| ports.iter().any(|port| mentions(line, service, *port))) || starved(scene, entity)
}

/// Whether calls to one port of a service fail.
pub fn port(scene: &Scene<'_>, service: &Service, port: i64) -> bool {
    said(scene, scene.logs.values().flatten(), |line| ends_at(line, port) && mentions(line, service, port))
}

/// Whether calls to a host fail.
pub fn host(scene: &Scene<'_>, host: &str) -> bool {
    let host = host.to_ascii_lowercase();
    said(scene, scene.logs.values().flatten(), |line| names(line, &host, ""))
}

/// Whether a log line since trouble began, or a failed span, says that there is no way to what it mentions.
fn said<'l>(scene: &Scene<'_>, lines: impl Iterator<Item = &'l &'l LogLine>, mentions: impl Fn(&str) -> bool) -> bool {
    let since = scene.onset.map(|onset| seconds(shifted(onset, -BEFORE_ONSET)));
    let news = |at: Option<u64>| at.zip(since).is_none_or(|(at, since)| at as f64 / 1e9 >= since);
    let tells =
        |text: &str| SIGNS.as_ref().is_some_and(|signs| signs.is_match(text)) && mentions(&text.to_ascii_lowercase());
    let mut lines = lines.filter(|line| news(line.at_ns));
    let spans = scene.observations.spans.known().into_iter().flatten();
    let mut failed = spans.filter(|span| span.error && news(Some(span.start_ns)));
    lines.any(|line| tells(&line.body)) || failed.any(|span| span.attributes.values().any(|value| tells(value)))
}

/// Whether a line speaks of a service: by its address, where that was not told by its port, and by its name, unless the
/// address in the line is another one: then it is the deeper call that failed.
fn mentions(line: &str, service: &Service, port: i64) -> bool {
    let named = || names(line, &service.name, &service.namespace);
    let address = text(&service.object, "/spec/clusterIP");
    match address.parse::<IpAddr>() {
        Ok(_) => names(line, address, "") || (!dials(line) && named()),
        Err(_) => ends_at(line, port) || named(),
    }
}

/// Whether a line has an address with a port.
fn dials(line: &str) -> bool {
    let mut words = line.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':');
    words.any(|word| {
        word.split_once(':').is_some_and(|(host, port)| host.parse::<Ipv4Addr>().is_ok() && !port.is_empty())
    })
}

/// Whether a line has a name as a whole, and where it goes on with a domain, with that of its namespace.
fn names(line: &str, name: &str, namespace: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !name.is_empty()
        && line.match_indices(name).any(|(at, _)| {
            let before = line[..at].chars().next_back();
            let path = line[..at].ends_with('/') && !line[..at].ends_with("//");
            let rest = &line[at + name.len()..];
            let domain = rest.strip_prefix('.').filter(|domain| domain.starts_with(inside));
            let elsewhere = domain.is_some_and(|domain| !namespace.is_empty() && !domain.starts_with(namespace));
            !path && before.is_none_or(|c| !inside(c) && c != '.') && !rest.starts_with(inside) && !elsewhere
        })
}

/// Whether a line has `:port`.
fn ends_at(line: &str, port: i64) -> bool {
    let wanted = format!(":{port}");
    line.match_indices(&wanted).any(|(at, _)| !line[at + wanted.len()..].starts_with(|c: char| c.is_ascii_digit()))
}

/// Whether a callee gets hardly any of the requests that it had, while a caller of it fails.
fn starved(scene: &Scene<'_>, entity: &Entity) -> bool {
    let Some(onset) = scene.onset else { return false };
    let before = shifted(onset, SignedDuration::from_mins(-30));
    let rate = |from, to| scene.answering(entity, from, to).rate;
    let (Some(usual), Some(now)) = (rate(before, onset), rate(onset, scene.observations.at)) else { return false };
    let fails = |caller: &Entity| {
        let ratio = scene.answering(caller, onset, scene.observations.at).error_ratio;
        ratio.is_some_and(|ratio| ratio >= CALLERS_FAIL)
    };
    let callers = scene.graph.calls.iter().filter(|(_, callees)| callees.contains(entity)).map(|(caller, _)| caller);
    usual > 0.0 && now < LEFT * usual && callers.into_iter().any(fails)
}
