//! Containers killed for memory: a limit that is too small, or a leak that any limit only postpones.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};

use crate::cluster::Container;
use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::Series;
use crate::finding::{Finding, Modality};
use crate::metric::{self, name_of};
use crate::scene::{Scene, increase, seconds, shifted};

/// A kill longer ago than this says nothing about today's trouble.
const RECENT: SignedDuration = SignedDuration::from_hours(2);

/// Seconds after the beginning of all data within which a gauge's first sample counts as having stood before.
const SCRAPES: f64 = 180.0;

/// A life of a process needs this many samples before its shape means anything.
const SAMPLES_MIN: usize = 8;

/// Weight of kills that befell half of the pods of one revision or more.
const KILLED: f64 = 5.0;
/// What is left of it when one pod among very many was killed. It is a kill all the same; but what the whole workload shows, such as
/// errors on every pod, has another reason.
const ONE_AMONG_MANY: f64 = 0.5;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let mut kills: BTreeMap<(Entity, String), Kills> = BTreeMap::new();
    for pod in &scene.cluster.pods {
        for container in &pod.containers {
            if let Some(kill) = Kills::of_container(scene, container) {
                kills.entry((pod.workload.clone(), container.name.clone())).or_default().add(kill);
            }
        }
    }
    for ((workload, container), kills) in &mut kills {
        kills.share = share_of_pods(scene, workload, container);
    }
    let firsts = scene.series.values().flatten().filter_map(|series| series.samples.first());
    let begin = firsts.map(|(at, _)| *at).fold(f64::INFINITY, f64::min);
    for (entity, list) in &scene.series {
        for series in list {
            if let Some((container, kill)) = Kills::of_series(series, begin) {
                let known = kills.entry((entity.clone(), container)).or_default();
                if known.pods == 0 || (known.standing && !kill.standing) {
                    *known = kill;
                }
            }
        }
    }
    let mut findings = Vec::new();
    for ((entity, container), kills) in kills {
        findings.extend(explain(scene, &entity, &container, &kills));
    }
    findings
}

#[derive(Debug, Default)]
struct Kills {
    count: i64,
    pods: usize,
    /// Seconds from a start to the kill, as the last states tell.
    lives: Vec<f64>,
    limit: Option<f64>,
    asked: String,
    /// The largest share of the pods of one revision that it befell; none where the pods are not known.
    share: Option<f64>,
    /// Only a gauge says it, and has said it for as long as anything is known: it names the last end, however old that is.
    standing: bool,
}

impl Kills {
    fn add(&mut self, other: Self) {
        self.count += other.count;
        self.pods += other.pods;
        self.lives.extend(other.lives);
        self.limit = self.limit.or(other.limit);
        if self.asked.is_empty() {
            self.asked = other.asked;
        }
    }

    fn of_container(scene: &Scene<'_>, container: &Container) -> Option<Self> {
        let ends = [container.last.as_ref(), container.terminated.as_ref()];
        let earliest = shifted(scene.observations.at, -RECENT);
        let killed: Vec<_> = ends
            .into_iter()
            .flatten()
            .filter(|end| end.reason == "OOMKilled" && end.finished.is_none_or(|at| at >= earliest))
            .collect();
        if killed.is_empty() {
            return None;
        }
        let life = |from: Option<Timestamp>, to: Option<Timestamp>| Some(seconds(to?) - seconds(from?));
        let mut lives: Vec<f64> = killed.iter().filter_map(|end| life(end.started, end.finished)).collect();
        lives.retain(|life| *life > 0.0);
        Some(Self {
            count: container.restarts.max(1),
            pods: 1,
            lives,
            limit: container.memory_limit,
            share: None,
            asked: scene.questions().about(&["pods", "Pod"]),
            standing: false,
        })
    }

    fn of_series(series: &Series, begin: f64) -> Option<(String, Self)> {
        let reason = series.labels.get("reason").map(String::as_str);
        if name_of(&series.labels) != metric::name::LAST_TERMINATED || reason != Some("OOMKilled") {
            return None;
        }
        let (_, value) = series.samples.last()?;
        let container = series.labels.get("container")?.clone();
        let (first, told) = *series.samples.first()?;
        let standing = told > 0.0 && first <= begin + SCRAPES;
        let asked = series.asked.clone();
        let kill = Self { count: 1, pods: 1, lives: Vec::new(), limit: None, share: None, asked, standing };
        (*value > 0.0).then_some((container, kill))
    }
}

/// Share of the pods of a revision in which a container was killed, of the revision where it is largest: old pods that a rollout has
/// not replaced yet say nothing of the new ones.
fn share_of_pods(scene: &Scene<'_>, workload: &Entity, container: &str) -> Option<f64> {
    let mut revisions: BTreeMap<&str, (f64, f64)> = BTreeMap::new();
    for pod in scene.cluster.pods.iter().filter(|pod| pod.workload == *workload) {
        let own = pod.containers.iter().filter(|one| one.name == container);
        for killed in own.map(|one| Kills::of_container(scene, one).is_some()) {
            let (some, all) = revisions.entry(pod.revision.as_str()).or_default();
            *some += f64::from(u8::from(killed));
            *all += 1.0;
        }
    }
    revisions.values().map(|(some, all)| some / all).reduce(f64::max)
}

fn explain(scene: &Scene<'_>, entity: &Entity, container: &str, kills: &Kills) -> Vec<Finding> {
    let of_container = |series: &&&Series| {
        let named = series.labels.get("container").or_else(|| series.labels.get("k8s.container.name"));
        named.is_none_or(|named| named == container)
    };
    let named = |name: &'static str| {
        scene.series_of(entity).iter().filter(of_container).filter(move |series| name_of(&series.labels) == name)
    };
    let working_set: Vec<&Series> = named(metric::name::MEMORY).copied().collect();
    let limit_series = named(metric::name::LIMITS)
        .filter(|series| series.labels.get("resource").is_none_or(|resource| resource == "memory"))
        .filter_map(|series| series.samples.last())
        .map(|(_, value)| *value)
        .next();
    let limit = kills.limit.or(limit_series);
    let peak = working_set
        .iter()
        .flat_map(|series| series.samples.iter())
        .map(|(_, value)| *value)
        .filter(|value| value.is_finite())
        .reduce(f64::max);
    let counted = named(metric::name::RESTARTS)
        .filter_map(|series| increase(series, 0.0, f64::MAX))
        .fold(0.0, |sum: f64, grown| sum + grown);
    if kills.standing && counted <= 0.0 {
        return Vec::new();
    }
    let count = kills.count.max(counted as i64);
    let interval = kill_interval(named(metric::name::RESTARTS).copied(), &kills.lives);
    let leak = working_set
        .iter()
        .filter_map(|series| leak(series, limit))
        .reduce(|a, b| if a.share > b.share { a } else { b });

    let whole = entity.clone().with_container(container);
    let mut measures = BTreeMap::new();
    if let Some(limit) = limit {
        measures.insert("memory.limitBytes".to_owned(), format!("{limit:.0}"));
    }
    if let Some(peak) = peak {
        measures.insert("memory.peakBytes".to_owned(), format!("{peak:.0}"));
    }
    if let Some(interval) = interval {
        measures.insert("oom.intervalSeconds".to_owned(), format!("{interval:.0}"));
    }
    let limit_text = limit.map_or("its limit".to_owned(), |limit| format!("its limit of {}", bytes(limit)));
    let kind = if leak.is_some() { cause::MEMORY_LEAK } else { cause::OOM_KILLED };
    let times = if count == 1 { "once".to_owned() } else { format!("{count} times") };
    let mut state = Finding::new(
        whole.clone(),
        kind,
        Modality::State,
        KILLED * kills.share.map_or(1.0, |share| (2.0 * share).clamp(ONE_AMONG_MANY, 1.0)),
        format!("container {container} of {} was OOMKilled {times} at {limit_text}", entity.name),
    )
    .labelled(format!("OOMKilled {times}"))
    .fault("oom_killed")
    .asked(kills.asked.clone());
    state.measures = measures;
    let mut findings = vec![state];
    let asked = working_set.first().map_or(String::new(), |series| series.asked.clone());
    if let Some(leak) = leak {
        findings.push(
            Finding::new(
                whole.clone(),
                cause::MEMORY_LEAK,
                Modality::Metrics,
                3.0,
                format!(
                    "the working set grows by {} a minute for {:.0} minutes on end, so a higher limit only postpones the kill",
                    bytes(leak.per_minute),
                    leak.minutes
                ),
            )
            .labelled(format!("memory grows {} a minute", bytes(leak.per_minute)))
            .asked(asked.clone()),
        );
        findings.push(
            Finding::new(
                whole,
                cause::OOM_KILLED,
                Modality::Metrics,
                -4.0,
                "the working set grows steadily instead of levelling off",
            )
            .asked(asked),
        );
    } else if let (Some(peak), Some(limit)) = (peak, limit)
        && peak > 0.85 * limit
    {
        findings.push(
            Finding::new(
                whole,
                cause::OOM_KILLED,
                Modality::Metrics,
                1.5,
                format!(
                    "the working set reached {} of a limit of {}, without a steady growth before",
                    bytes(peak),
                    bytes(limit)
                ),
            )
            .labelled("memory at its limit")
            .asked(asked),
        );
    }
    findings
}

/// Seconds between two kills of one pod: the median step of the restart counter, else the longest life seen.
fn kill_interval<'s>(restarts: impl Iterator<Item = &'s Series>, lives: &[f64]) -> Option<f64> {
    let mut steps = Vec::new();
    for series in restarts {
        let mut last: Option<f64> = None;
        for pair in series.samples.windows(2) {
            let [(_, before), (at, after)] = pair else { continue };
            if after > before {
                if let Some(last) = last {
                    steps.push(at - last);
                }
                last = Some(*at);
            }
        }
    }
    steps.sort_by(f64::total_cmp);
    let counted = steps.get(steps.len() / 2).copied();
    let lived = lives.iter().copied().reduce(f64::max);
    match (counted, lived) {
        (Some(counted), Some(lived)) => Some(counted.max(lived)),
        (one, other) => one.or(other),
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Leak {
    per_minute: f64,
    minutes: f64,
    /// Share of the whole growth that fell into the second half of the life: .5 for a straight line.
    share: f64,
}

/// Whether a working set climbs through whole lives of the process.
///
/// A process that needs more than its limit rises quickly and then levels off or dies; a leak still climbs in the second
/// half of its life. Asked for: a third of all growth in the second half, growth of a fifth of the limit, a line that fits
/// (r ≥ .9), and a life of five minutes, below which warming up looks the same.
fn leak(series: &Series, limit: Option<f64>) -> Option<Leak> {
    let clean: Vec<(f64, f64)> = series.samples.iter().copied().filter(|(_, value)| value.is_finite()).collect();
    let mut lives: Vec<&[(f64, f64)]> = Vec::new();
    let mut start = 0;
    for (index, pair) in clean.windows(2).enumerate() {
        if pair[1].1 < 0.7 * pair[0].1 {
            lives.push(&clean[start..=index]);
            start = index + 1;
        }
    }
    lives.push(clean.get(start..).unwrap_or(&[]));
    let top = limit.or_else(|| clean.iter().map(|(_, value)| *value).reduce(f64::max))?;
    lives
        .into_iter()
        .filter(|life| life.len() >= SAMPLES_MIN)
        .filter_map(|life| {
            let (first, last) = (life.first()?, life.last()?);
            let (span, growth) = (last.0 - first.0, last.1 - first.1);
            let half = life.iter().min_by(|a, b| {
                let middle = first.0 + span / 2.0;
                (a.0 - middle).abs().total_cmp(&(b.0 - middle).abs())
            })?;
            let share = (last.1 - half.1) / growth.max(1.0);
            let steady = growth > 0.2 * top && share > 0.33 && correlation(life) > 0.9;
            (steady && span >= 300.0).then(|| Leak { per_minute: growth / span * 60.0, minutes: span / 60.0, share })
        })
        .reduce(|a, b| if a.minutes >= b.minutes { a } else { b })
}

fn correlation(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (mx, my) = points.iter().fold((0.0, 0.0), |(x, y), point| (x + point.0 / n, y + point.1 / n));
    let (mut xy, mut xx, mut yy) = (0.0, 0.0, 0.0);
    for (x, y) in points {
        xy += (x - mx) * (y - my);
        xx += (x - mx).powi(2);
        yy += (y - my).powi(2);
    }
    if xx > 0.0 && yy > 0.0 { xy / (xx * yy).sqrt() } else { 0.0 }
}

/// Bytes for people.
pub fn bytes(value: f64) -> String {
    const MIB: f64 = 1024.0 * 1024.0;
    match value {
        value if value >= 1024.0 * MIB => format!("{:.1} GiB", value / (1024.0 * MIB)),
        value if value >= 10.0 * MIB => format!("{:.0} MiB", value / MIB),
        value if value >= 0.1 * MIB => format!("{:.1} MiB", value / MIB),
        value => format!("{value:.0} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn killed(samples: &[(f64, f64)]) -> Series {
        let labels = [("__name__", metric::name::LAST_TERMINATED), ("reason", "OOMKilled"), ("container", "app")];
        let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Series { labels, samples: samples.to_vec(), asked: String::new() }
    }

    #[test]
    fn a_gauge_that_names_the_last_end_since_ever_is_no_fresh_kill() {
        let standing =
            |samples: &[(f64, f64)]| Kills::of_series(&killed(samples), 1000.0).map(|(_, kill)| kill.standing);
        assert_eq!(standing(&[(1030.0, 1.0), (4600.0, 1.0)]), Some(true));
        assert_eq!(standing(&[(3000.0, 1.0), (4600.0, 1.0)]), Some(false), "it began to say so on the way");
        assert_eq!(standing(&[(1030.0, 0.0), (4600.0, 1.0)]), Some(false), "it said something else before");
        assert_eq!(standing(&[(1030.0, 1.0), (4600.0, 0.0)]), None);
    }
}
