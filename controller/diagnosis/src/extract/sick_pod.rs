//! One pod out of many is sick: the trouble is in that pod or under it, not in what all of them share.
//!
//! Read from the finer answers of a second round (see [`deep`](crate::deep)). Replicas share image, configuration and callees;
//! when some fail and the others serve as before, none of these is to blame by itself.

use std::collections::BTreeMap;

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::evidence::Series;
use crate::finding::{Finding, Modality};
use crate::metric::{finer, name_of};
use crate::robust::median;
use crate::scene::Scene;
use crate::windows::{Windows, within};

/// Nats for one pod that clearly fails while the others clearly do not.
const NATS: f64 = 5.0;
/// Against a release, and against a callee that all pods share.
const SHARED: f64 = -4.0;
/// Points of error ratio that a sick pod has over the well ones, and that a well pod may have over its own usual.
const SICK: f64 = 0.05;
const WELL: f64 = 0.02;
/// How much slower a sick pod is than the well ones, and a well one than its own usual.
const SLOWER: f64 = 2.5;
const AS_BEFORE: f64 = 1.4;
/// Seconds: a pod below this is quick, however much slower than others.
const QUICK: f64 = 0.02;
/// Fewer samples say nothing of a pod.
const SAMPLES_MIN: usize = 3;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let Some(windows) = scene.windows else { return Vec::new() };
    let mut findings = Vec::new();
    for (entity, series) in &scene.finer {
        let failing = contrast(&pods(series, finer::POD_ERROR_RATIO, &windows), |pod, well| {
            let usual = pod.before.unwrap_or(well);
            match pod.now {
                now if now >= well + SICK && now >= 5.0 * well && now >= usual + SICK => Some(true),
                now if now <= usual + WELL => Some(false),
                _ => None,
            }
        });
        let slow = contrast(&pods(series, finer::POD_LATENCY_P99, &windows), |pod, well| {
            let usual = pod.before.unwrap_or(well);
            match pod.now {
                now if now >= QUICK && now >= SLOWER * well && now >= SLOWER * usual => Some(true),
                now if now <= AS_BEFORE * usual => Some(false),
                _ => None,
            }
        });
        let (contrast, kind, figures) = match (failing, slow) {
            (Some(failing), _) => (failing, cause::ERRORS, Figures::Share),
            (None, Some(slow)) => (slow, cause::LATENCY, Figures::Seconds),
            (None, None) => continue,
        };
        findings.extend(told(scene, entity, &contrast, kind, figures));
    }
    findings
}

/// What one pod shows.
#[derive(Clone, Debug)]
struct OfPod {
    name: String,
    /// Its own usual; `None` for a pod that is new.
    before: Option<f64>,
    now: f64,
    asked: String,
}

/// Sick pods and well ones; every pod is one or the other.
#[derive(Debug)]
struct Contrast {
    sick: Vec<OfPod>,
    well: Vec<OfPod>,
}

fn pods(series: &[&Series], name: &str, windows: &Windows) -> Vec<OfPod> {
    let mut pods: BTreeMap<&str, OfPod> = BTreeMap::new();
    for one in series.iter().filter(|one| name_of(&one.labels) == name) {
        let (Some(pod), now) = (one.labels.get("pod"), within(one, windows.sick)) else { continue };
        let Some(middle) = median(&now).filter(|_| now.len() >= SAMPLES_MIN) else { continue };
        let usual = within(one, windows.normal);
        let before = median(&usual).filter(|_| usual.len() >= SAMPLES_MIN);
        let told = OfPod { name: pod.clone(), before, now: middle, asked: one.asked.clone() };
        // Several services on one pod: the worst of them.
        let known = pods.entry(pod).or_insert_with(|| told.clone());
        if told.now > known.now {
            *known = told;
        }
    }
    pods.into_values().collect()
}

/// Parts the pods, when every one is clearly sick or clearly well and the sick are no majority.
///
/// `judge` is told a pod and what the better half of all shows.
fn contrast(pods: &[OfPod], judge: impl Fn(&OfPod, f64) -> Option<bool>) -> Option<Contrast> {
    let mut now: Vec<f64> = pods.iter().map(|pod| pod.now).collect();
    now.sort_by(f64::total_cmp);
    let well_now = median(&now[..now.len().div_ceil(2)])?;
    let (mut sick, mut well) = (Vec::new(), Vec::new());
    for pod in pods {
        match judge(pod, well_now)? {
            true => sick.push(pod.clone()),
            false => well.push(pod.clone()),
        }
    }
    (!sick.is_empty() && sick.len() <= well.len()).then_some(Contrast { sick, well })
}

#[derive(Clone, Copy)]
enum Figures {
    Share,
    Seconds,
}

impl Figures {
    fn shown(self, value: f64) -> String {
        match self {
            Self::Share => format!("{:.1} % of its requests fail", value * 100.0),
            Self::Seconds => format!("p99 of {:.0} ms", value * 1000.0),
        }
    }
}

fn told(scene: &Scene<'_>, entity: &Entity, contrast: &Contrast, kind: &'static str, figures: Figures) -> Vec<Finding> {
    let Some(worst) = contrast.sick.iter().max_by(|left, right| left.now.total_cmp(&right.now)) else {
        return Vec::new();
    };
    let others = median(&contrast.well.iter().map(|pod| pod.now).collect::<Vec<_>>()).unwrap_or(0.0);
    let (sick, all) = (contrast.sick.len(), contrast.sick.len() + contrast.well.len());
    let node = |name: &str| scene.cluster.pods.iter().find(|pod| pod.name == name).map(|pod| pod.node.clone());
    let place = node(&worst.name).filter(|node| !node.is_empty());
    let on = place.as_ref().map_or(String::new(), |node| format!(" on {node}"));
    let sentence = format!(
        "{sick} of {all} pods of {} is sick: {}{on} ({}), the others as before ({})",
        entity.name,
        worst.name,
        figures.shown(worst.now),
        figures.shown(others)
    );
    let finding = |kind, weight, sentence: &str| {
        Finding::new(entity.clone(), kind, Modality::Metrics, weight, sentence).asked(&worst.asked)
    };
    let mut own = finding(kind, NATS, &sentence).labelled(format!("{sick} of {all} pods")).measure("pod", &worst.name);
    if let Some(node) = place {
        own = own.measure("node", node);
    }
    let mut findings = vec![own];
    let against = format!("{} of {all} pods of {} are well, and they call the same", all - sick, entity.name);
    findings.push(finding(cause::DEPENDENCY, SHARED, &against));
    if same_image(scene, contrast) {
        for change in scene.changes.iter().filter(|change| change.target == *entity) {
            let sentence = format!("{} pods that run the same as {} are well", all - sick, worst.name);
            findings.extend(
                [cause::BAD_IMAGE, cause::BAD_CONFIG]
                    .map(|kind| finding(kind, SHARED, &sentence).of_change(&change.id)),
            );
        }
    }
    findings
}

/// Whether every sick pod has a well one of the same revision: what they were made from is not the difference.
fn same_image(scene: &Scene<'_>, contrast: &Contrast) -> bool {
    let revision = |name: &str| scene.cluster.pods.iter().find(|pod| pod.name == name).map(|pod| pod.revision.clone());
    contrast.sick.iter().all(|sick| {
        let own = revision(&sick.name);
        own.is_some() && contrast.well.iter().any(|well| revision(&well.name) == own)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pod(name: &str, before: f64, now: f64) -> OfPod {
        OfPod { name: name.into(), before: Some(before), now, asked: String::new() }
    }

    fn parted(pods: &[OfPod]) -> Option<(usize, usize)> {
        let judge = |pod: &OfPod, well: f64| match pod.now {
            now if now >= well + SICK => Some(true),
            now if now <= pod.before.unwrap_or(well) + WELL => Some(false),
            _ => None,
        };
        contrast(pods, judge).map(|parts| (parts.sick.len(), parts.well.len()))
    }

    #[test]
    fn one_sick_pod_among_well_ones_stands_out() {
        assert_eq!(parted(&[pod("a", 0.0, 0.6), pod("b", 0.0, 0.01), pod("c", 0.0, 0.0)]), Some((1, 2)));
        assert_eq!(parted(&[pod("a", 0.0, 0.6), pod("b", 0.0, 0.0)]), Some((1, 1)));
    }

    #[test]
    fn when_all_are_sick_or_one_is_in_between_there_is_no_contrast() {
        assert_eq!(parted(&[pod("a", 0.0, 0.6), pod("b", 0.0, 0.5)]), None);
        assert_eq!(parted(&[pod("a", 0.0, 0.6), pod("b", 0.0, 0.03), pod("c", 0.0, 0.0)]), None);
        assert_eq!(parted(&[pod("a", 0.0, 0.6), pod("b", 0.0, 0.5), pod("c", 0.0, 0.0)]), None);
        assert_eq!(parted(&[pod("a", 0.0, 0.6)]), None);
        assert_eq!(parted(&[]), None);
    }
}
