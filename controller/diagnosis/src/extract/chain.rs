//! Chains inside one process: more work, longer garbage collections, connections that are not given back, a full database.
//!
//! Each link alone looks like a cause of its own; the last one, a database that refuses connections, is the loudest and the
//! most innocent. They are one story when they show on one entity, or on what it calls, in that order.

use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::evidence::Series;
use crate::finding::{Finding, Link, Modality};
use crate::metric::{Family, name, name_of};
use crate::robust::{quantile, shift};
use crate::scene::Scene;
use crate::windows::{Windows, within};

use super::metrics::{figure, gauge};

/// Units of noise from which a link has moved.
const MOVED: f64 = 4.0;
/// A chain of three links or more is told by its order; coincidences of that length are rare.
const WEIGHT: f64 = 3.0;
/// Against the last link as a cause of its own.
const VICTIM: f64 = 4.0;

/// What a full store says to its clients, and what a starved pool says to its users.
const REFUSALS: [&str; 7] = [
    "too many connections",
    "too many clients",
    "connection slots are reserved",
    "connection is not available",
    "pool exhausted",
    "connection pool is full",
    "timed out waiting for connection",
];

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let Some(windows) = scene.windows else { return Vec::new() };
    let entities = scene.series.keys().filter(|entity| entity.kind != EntityKind::Node);
    entities.flat_map(|entity| of_entity(scene, &windows, entity)).collect()
}

fn of_entity(scene: &Scene<'_>, windows: &Windows, entity: &Entity) -> Vec<Finding> {
    let rise = |is: fn(&Series) -> bool| rise(scene, windows, entity, is);
    let (Some(collections), Some(held)) = (rise(is_collection), rise(is_connections)) else { return Vec::new() };
    let busy = rise(|series| Family::of(name_of(&series.labels)) == Family::Cpu && !is_collection(series));
    let full = rise(|series| Family::of(name_of(&series.labels)) == Family::Memory);
    let (kind, first) = match (busy, full) {
        (Some(busy), _) => (cause::CPU, busy),
        (None, Some(full)) => (cause::MEMORY, full),
        (None, None) => (cause::LATENCY, collections.clone()),
    };
    let mut chain = vec![
        collections.link(entity, "garbage collections take longer"),
        held.link(entity, "connections are not given back"),
    ];
    let mut findings = Vec::new();
    if let Some((store, told, asked)) = refusing(scene, entity).or_else(|| exhausted(scene, windows, entity)) {
        chain.push(Link {
            entity: store.clone(),
            label: "connections refused".to_owned(),
            sentence: format!("{} has no connection left: {told}", store.name),
            asked: asked.clone(),
        });
        if store != *entity {
            let sentence = format!("the connections of {} are held by {}, which is the cause", store.name, entity.name);
            findings.push(Finding::new(store, cause::DEPENDENCY, Modality::Metrics, -VICTIM, sentence).asked(asked));
        }
    }
    let told: Vec<&str> =
        std::iter::once(&first.sentence).chain(chain.iter().map(|link| &link.sentence)).map(String::as_str).collect();
    let mut finding = Finding::new(entity.clone(), kind, Modality::Metrics, WEIGHT, told.join("; then "))
        .labelled("one thing led to the next")
        .asked(&first.asked);
    finding.chain = chain;
    findings.push(finding);
    findings
}

/// Time spent collecting garbage, whatever the runtime calls it.
fn is_collection(series: &Series) -> bool {
    let name = name_of(&series.labels).to_ascii_lowercase();
    let collects =
        name.split(|c: char| !c.is_ascii_alphanumeric()).any(|word| word == "gc") || name.contains("garbage");
    collects && ["pause", "duration", "time", "seconds"].iter().any(|word| name.contains(word))
}

/// Connections of a pool that are taken or waited for: by the name, or by a label as in OpenTelemetry's
/// `db_client_connection_count{state="used"}`
/// (<https://opentelemetry.io/docs/specs/semconv/database/database-metrics/>).
fn is_connections(series: &Series) -> bool {
    let name = name_of(&series.labels).to_ascii_lowercase();
    // A database's own count is that of all its clients.
    let of_pool = (name.contains("connection") || name.contains("pool")) && !name.starts_with("database_");
    let state = STATES.iter().find_map(|label| series.labels.get(*label)).map(|state| state.to_ascii_lowercase());
    of_pool
        && match state {
            Some(state) => ["used", "active", "busy", "in_use", "pending"].contains(&state.as_str()),
            None => ["active", "pending", "in_use", "used", "usage", "wait", "acquire"]
                .iter()
                .any(|word| name.contains(word)),
        }
}

/// Labels that tell what a connection is in.
const STATES: [&str; 4] =
    ["state", "db_client_connection_state", "db_client_connections_state", "db.client.connection.state"];

#[derive(Clone)]
struct Rise {
    z: f64,
    sentence: String,
    asked: String,
}

impl Rise {
    fn link(&self, entity: &Entity, label: &str) -> Link {
        Link {
            entity: entity.clone(),
            label: label.to_owned(),
            sentence: self.sentence.clone(),
            asked: self.asked.clone(),
        }
    }
}

/// The clearest rise among the entity's series of one sort, when one is clear.
fn rise(scene: &Scene<'_>, windows: &Windows, entity: &Entity, is: fn(&Series) -> bool) -> Option<Rise> {
    let moved = |series: &Series| {
        let metric = name_of(&series.labels);
        let moved = shift(&within(series, windows.normal), &within(series, windows.sick), 0.05, 0.8)?;
        let (before, now) = (figure(moved.normal), figure(moved.normal + moved.by));
        let sentence = format!("{metric} of {} rose from {before} to {now}", entity.name);
        (moved.z >= MOVED).then(|| Rise { z: moved.z, sentence, asked: series.asked.clone() })
    };
    let list = scene.series_of(entity).iter().filter(|series| is(series));
    list.filter_map(|series| moved(&gauge(series))).max_by(|a, b| a.z.total_cmp(&b.z).then(b.sentence.cmp(&a.sentence)))
}

/// The store that refuses the entity's connections, the line that says so, and the question behind it.
fn refusing(scene: &Scene<'_>, entity: &Entity) -> Option<(Entity, String, String)> {
    let onset = scene.onset.and_then(|onset| u64::try_from(onset.as_nanosecond()).ok()).unwrap_or(0);
    let callees = || scene.graph.callees(entity).filter(|callee| *callee != entity);
    let places = std::iter::once(entity).chain(callees());
    let said = places.filter_map(|place| Some((place, scene.logs.get(place)?))).find_map(|(place, lines)| {
        let line = lines.iter().find(|line| {
            let body = line.body.to_ascii_lowercase();
            line.at_ns.is_none_or(|at| at >= onset) && REFUSALS.iter().any(|words| body.contains(words))
        })?;
        Some((place, format!("\"{}\"", line.body.chars().take(120).collect::<String>())))
    });
    let (place, line) = said?;
    let store = match place == entity {
        // The client says it: the store is what it names, else its only store-like callee, else nobody knows better.
        true => {
            callees().find(|callee| line.contains(&callee.name)).or_else(|| callees().find(|callee| is_store(callee)))
        }
        false => Some(place),
    };
    let asked = scene.questions().about(&["logs", "log", "|="]);
    Some((store.unwrap_or(entity).clone(), line, asked))
}

/// From this share of what it may serve on a database has no connection left for its clients: the last few are kept for its
/// keepers (`superuser_reserved_connections` of PostgreSQL is 3 of 100).
const EXHAUSTED: f64 = 0.95;

/// The store among those that the entity calls that came to serve as many connections as it may.
fn exhausted(scene: &Scene<'_>, windows: &Windows, entity: &Entity) -> Option<(Entity, String, String)> {
    scene.graph.callees(entity).filter(|callee| *callee != entity).find_map(|store| {
        // One series for each state of a connection: all of them take a place.
        let of = |wanted: &str, window: (f64, f64)| -> Vec<(f64, &String)> {
            let list = scene.series_of(store).iter().filter(|series| name_of(&series.labels) == wanted);
            list.filter_map(|series| Some((quantile(&within(series, window), 0.8)?, &series.asked))).collect()
        };
        let all = |told: &[(f64, &String)]| told.iter().map(|(used, _)| used).sum::<f64>();
        let most = of(name::STORE_CONNECTIONS_MAX, windows.sick).into_iter().map(|(most, _)| most).fold(0.0, f64::max);
        let (now, before) = (of(name::STORE_CONNECTIONS, windows.sick), of(name::STORE_CONNECTIONS, windows.normal));
        let asked = (*now.first()?.1).clone();
        let (used, before) = (all(&now), all(&before));
        let came = most > 0.0 && used >= EXHAUSTED * most && before < EXHAUSTED * most;
        came.then(|| (store.clone(), format!("it serves {} of {}", figure(used), figure(most)), asked))
    })
}

fn is_store(entity: &Entity) -> bool {
    let words = ["db", "sql", "postgres", "mongo", "maria", "oracle", "redis"];
    words.iter().any(|word| entity.name.to_ascii_lowercase().contains(word))
}
