//! What the logs of failing containers say about their surroundings: ports in use, permissions, the database.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use aho_corasick::AhoCorasick;
use jiff::SignedDuration;

use crate::cluster::Container;
use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::LogLine;
use crate::finding::{Finding, Modality};
use crate::logs::catalogue;
use crate::scene::{Scene, seconds, shifted};

/// One sign in the logs and what it means.
struct Sign {
    any: &'static [&'static str],
    fault: &'static str,
    kind: &'static str,
    label: &'static str,
    /// Weight when a container of the entity fails, and when all its containers run.
    failing: f64,
    running: f64,
}

const SIGNS: &[Sign] = &[
    Sign {
        any: &["address already in use", "EADDRINUSE"],
        fault: "service_sidecar_port_conflict",
        kind: cause::CONFIG_WRONG,
        label: "address already in use",
        failing: 6.2,
        running: 4.0,
    },
    Sign {
        any: &["permission denied"],
        fault: "volume_mount_permission_denied",
        kind: cause::CONFIG_WRONG,
        label: "permission denied",
        failing: 6.0,
        running: 0.0,
    },
    Sign {
        any: &["Access denied for user", "password authentication failed", "ER_ACCESS_DENIED"],
        fault: "mysql_invalid_credentials",
        kind: cause::CONFIG_WRONG,
        label: "database refuses the credentials",
        failing: 5.2,
        running: 2.0,
    },
];

/// Signs that blame the thing that is talked to, by how many say so.
const SERVER_SIGNS: [(&[&str], &str, &str); 2] = [
    (
        &["read-only option", "read-only transaction", "super-read-only", "--read-only", "READONLY You can't write"],
        "db_read_only",
        "database is read-only",
    ),
    (
        &["Too many connections", "too many clients", "remaining connection slots"],
        "db_connection_exhaustion",
        "too many connections",
    ),
];

/// All words of all signs in one automaton: every log line of a case runs through it once.
static WORDS: LazyLock<Option<AhoCorasick>> = LazyLock::new(|| {
    let words = SIGNS.iter().map(|sign| sign.any).chain(SERVER_SIGNS.iter().map(|(any, ..)| *any)).flatten();
    AhoCorasick::builder().ascii_case_insensitive(true).build(words).ok()
});

/// The signs in a line: indices of [`SIGNS`], then those of [`SERVER_SIGNS`] behind them.
fn signs_in(body: &str) -> BTreeSet<usize> {
    let groups = SIGNS.iter().map(|sign| sign.any.len()).chain(SERVER_SIGNS.iter().map(|(any, ..)| any.len()));
    let ends: Vec<usize> = groups
        .scan(0, |end, len| {
            *end += len;
            Some(*end)
        })
        .collect();
    let found = WORDS.iter().flat_map(|words| words.find_overlapping_iter(catalogue::front(body)));
    found.map(|found| ends.partition_point(|end| *end <= found.pattern().as_usize())).collect()
}

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut findings = Vec::new();
    let asked = scene.questions().about(&["logs", "log", "|="]);
    let mut complaints: BTreeMap<(Entity, usize), usize> = BTreeMap::new();
    for (entity, lines) in &scene.logs {
        let failing = scene.cluster.pods_of(entity).any(|pod| pod.containers.iter().any(fails));
        let mut first: BTreeMap<usize, &LogLine> = BTreeMap::new();
        for line in lines.iter().filter(|line| is_news(scene, line)) {
            for sign in signs_in(&line.body) {
                first.entry(sign).or_insert(line);
            }
        }
        for (index, sign) in SIGNS.iter().enumerate() {
            let weight = if failing { sign.failing } else { sign.running };
            if let Some(line) = first.get(&index).filter(|_| weight > 0.0) {
                let told: String = line.body.chars().take(140).collect();
                findings.push(
                    Finding::new(
                        entity.clone(),
                        sign.kind,
                        Modality::Logs,
                        weight,
                        format!("{} says: \"{told}\"", entity.name),
                    )
                    .labelled(sign.label)
                    .fault(sign.fault)
                    .asked(&asked),
                );
            }
        }
        for index in 0..SERVER_SIGNS.len() {
            if first.contains_key(&(SIGNS.len() + index))
                && let Some(server) = database_of(scene, entity)
            {
                *complaints.entry((server, index)).or_default() += 1;
            }
        }
    }
    findings.extend(silent_database(scene));
    for ((server, index), count) in complaints {
        let (_, fault, label) = SERVER_SIGNS[index];
        let sentence = format!("{count} clients of {} say that the {label}", server.name);
        findings.push(
            Finding::new(server, cause::DEPENDENCY, Modality::Logs, 4.5 + 0.3 * (count.min(4) as f64), sentence)
                .labelled(label)
                .fault(fault)
                .asked(&asked),
        );
    }
    findings
}

/// Whether a container should run and does not: one that has done its work is as little ready as one that fails.
fn fails(container: &Container) -> bool {
    let done = container.terminated.as_ref().is_some_and(|end| end.exit_code == Some(0));
    !container.init && !container.ready && !done
}

/// How long before the first symptom its reason may have been logged: an alert fires some minutes late.
const BEFORE_ONSET: SignedDuration = SignedDuration::from_mins(15);

/// Whether a line was written since trouble began; one without a time may have been.
fn is_news(scene: &Scene<'_>, line: &LogLine) -> bool {
    let since = scene.onset.map(|onset| seconds(shifted(onset, -BEFORE_ONSET)));
    line.at_ns.zip(since).is_none_or(|(at, since)| at as f64 / 1e9 >= since)
}

/// Everything is ready and nothing complains: what is left is the database that most depend on.
///
/// A database that answers but refuses to write leaves no trace in the state of the cluster. Told by exclusion only, far
/// below what may be acted on; its variables would decide.
fn silent_database(scene: &Scene<'_>) -> Option<Finding> {
    let healthy = |pod: &crate::cluster::Pod| {
        pod.phase != "Pending" && pod.containers.iter().all(|one| one.init || one.ready || one.terminated.is_some())
    };
    let told = scene.observations.symptoms.iter().any(|signal| signal.labels.contains_key("evidence"));
    if told || scene.cluster.pods.is_empty() || !scene.cluster.pods.iter().all(healthy) {
        return None;
    }
    let mut dependents: BTreeMap<Entity, usize> = BTreeMap::new();
    for workload in &scene.cluster.workloads {
        let database = database_of(scene, &workload.entity).filter(|database| *database != workload.entity);
        if let Some(database) = database {
            *dependents.entry(database).or_default() += 1;
        }
    }
    let (database, count) = dependents.into_iter().max_by_key(|(_, count)| *count).filter(|(_, count)| *count >= 3)?;
    let sentence = format!(
        "everything is ready and nothing complains; {count} workloads share {}, whose read_only variable would decide",
        database.name
    );
    Some(
        Finding::new(database, cause::DEPENDENCY, Modality::State, 0.3, sentence)
            .fault("db_read_only")
            .asked(scene.questions().about(&["objects", "pods"])),
    )
}

/// The database that a client's settings name, or the client itself when it is a database.
fn database_of(scene: &Scene<'_>, client: &Entity) -> Option<Entity> {
    let database =
        |name: &str| ["mysql", "postgres", "mongo", "maria", "redis", "db"].iter().any(|word| name.contains(word));
    if database(&client.name) {
        return Some(client.clone());
    }
    let host = scene.settings_of(client).into_iter().find_map(|(key, value)| {
        let key = key.to_ascii_uppercase();
        (key.ends_with("HOST") && database(&value)).then_some(value)
    })?;
    scene.aligner.named(&client.namespace, &host)
}
