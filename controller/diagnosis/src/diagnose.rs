//! The whole answer: evidence is extracted, weighed along the topology, calibrated and told as a graph.

use std::collections::{BTreeMap, BTreeSet};

use crate::calibration::{SPEAK, confidence};
use crate::clusters;
use crate::diagnosis::{Cause, Diagnosis, Fact, cause};
use crate::drilldown::slowest;
use crate::evidence::{Answer, Observations};
use crate::extract;
use crate::inference::{Hypothesis, hypotheses};
use crate::logs::anchor::stories;
use crate::scene::{Scene, seconds};
use crate::story;

/// Causes that an answer lists.
const CAUSES_MAX: usize = 10;
/// Facts that a cause lists on either side.
const FACTS_MAX: usize = 8;

/// Says what broke and why, or why that cannot be said.
///
/// Never fails: what is missing in `observations` lowers confidence or ends in an abstention that names the question
/// whose answer would decide. The same observations in any order give the same answer.
///
/// Lines whose class people taught explain and rank, and can make an answer less sure. They never make one possible: it may
/// be acted on only when the same cause on the same entity is sure enough without them.
///
/// What another cluster sent is left out before anything else, and counted.
pub fn diagnose(observations: &Observations) -> Diagnosis {
    let (observations, foreign) = clusters::own(observations);
    let mut found = diagnosed(&observations);
    found.alignment.foreign = foreign;
    found
}

fn diagnosed(observations: &Observations) -> Diagnosis {
    let mut scene = Scene::new(observations);
    let found = concluded(&scene, None);
    let taught = observations.logs.known().is_some_and(|lines| lines.iter().any(|line| line.taught.is_some()));
    let Some(cause) = found.actionable().filter(|_| taught) else { return found };
    scene.heeds_taught = false;
    let without = concluded(&scene, None);
    let same = |other: &&Cause| other.kind == cause.kind && other.entity.workload() == cause.entity.workload();
    match without.actionable().filter(same) {
        Some(other) if other.confidence >= cause.confidence => found,
        Some(other) => {
            let most = other.confidence;
            Diagnosis { causes: at_most(found.causes, most), ..found }
        }
        None => {
            let alone = without.causes.iter().find(same).map_or(0.0, |other| other.confidence);
            let why = format!(
                "{} on {} is sure only by log lines whose class people taught; {}",
                cause.kind,
                cause.entity.name,
                without.abstained.as_deref().unwrap_or("without them another cause is surer"),
            );
            scene.heeds_taught = true;
            let doubted = concluded(&scene, Some(why));
            Diagnosis { causes: at_most(doubted.causes, alone.min(DOUBTED)), ..doubted }
        }
    }
}

/// An answer that nobody may act on shows less than what acting takes.
const DOUBTED: f64 = SPEAK - 0.01;

/// The causes with the best one no surer than this.
fn at_most(mut causes: Vec<Cause>, confidence: f64) -> Vec<Cause> {
    if let Some(best) = causes.first_mut() {
        best.confidence = best.confidence.min(confidence);
    }
    causes
}

/// What follows from a scene; `doubt` is a reason to abstain whatever is found.
fn concluded(scene: &Scene<'_>, doubt: Option<String>) -> Diagnosis {
    let observations = scene.observations;
    let ranked = hypotheses(scene, extract::findings(scene));
    let causes: Vec<Cause> =
        ranked.iter().take(CAUSES_MAX).enumerate().map(|(rank, one)| told(scene, one, rank == 0)).collect();
    let abstained = doubt.or_else(|| abstention(scene, &ranked, &causes));
    let explained: BTreeSet<usize> = match (&abstained, ranked.first()) {
        (None, Some(best)) => best.explains.clone(),
        _ => BTreeSet::new(),
    };
    let leading = leading(&ranked, &causes);
    let rejected: Vec<&Hypothesis> = ranked
        .iter()
        .filter(|one| !leading.iter().any(|led| led.entity.workload() == one.entity.workload() && led.kind == one.kind))
        .collect();
    let (followed, slowest) = slowest(scene).unzip();
    let slowest = slowest.unwrap_or_default();
    Diagnosis {
        abstained,
        unexplained: observations
            .symptoms
            .iter()
            .enumerate()
            .filter(|(index, _)| !explained.contains(index))
            .map(|(_, signal)| signal.key.clone())
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect(),
        graph: story::graph(scene, &leading, &rejected),
        stories: stories(scene, causes.first().map(|cause| &cause.entity), !slowest.is_empty()),
        causes,
        slowest,
        followed,
        deep: None,
        alignment: scene.alignment.clone(),
        asked: observations.asked.clone(),
    }
}

/// The best hypothesis, and further ones that are sure and explain what the best does not.
fn leading<'h>(ranked: &'h [Hypothesis], causes: &[Cause]) -> Vec<&'h Hypothesis> {
    let mut leading: Vec<&Hypothesis> = Vec::new();
    for (hypothesis, cause) in ranked.iter().zip(causes) {
        let new = leading.iter().all(|led| led.explains.is_disjoint(&hypothesis.explains));
        if leading.is_empty() || (new && cause.confidence >= SPEAK && !hypothesis.explains.is_empty()) {
            leading.push(hypothesis);
        }
    }
    leading
}

fn told(scene: &Scene<'_>, hypothesis: &Hypothesis, best: bool) -> Cause {
    let fact =
        |finding: &crate::finding::Finding| Fact { sentence: finding.sentence.clone(), asked: finding.asked.clone() };
    let side = |speaks_for: bool| -> Vec<Fact> {
        let mut seen = BTreeSet::new();
        let found = hypothesis.findings.iter().filter(|finding| (finding.weight > 0.0) == speaks_for);
        found.filter(|finding| seen.insert(&finding.sentence)).map(fact).take(FACTS_MAX).collect()
    };
    let mut measures = BTreeMap::new();
    for finding in &hypothesis.findings {
        for (name, value) in &finding.measures {
            measures.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    if let Some(fault) = hypothesis.findings.iter().find_map(|finding| finding.fault) {
        measures.insert("fault".to_owned(), fault.to_owned());
    }
    Cause {
        kind: hypothesis.kind.to_owned(),
        entity: hypothesis.entity.clone(),
        change: hypothesis.change.clone(),
        confidence: confidence(scene, hypothesis, best),
        sentence: sentence(hypothesis),
        facts_for: side(true),
        facts_against: side(false),
        measures,
    }
}

/// The cause in one sentence for people.
fn sentence(hypothesis: &Hypothesis) -> String {
    let name = &hypothesis.entity.name;
    let measure = |wanted: &str| hypothesis.findings.iter().find_map(|finding| finding.measures.get(wanted));
    let change = hypothesis.change.as_ref().map(|change| change.id.chars().take(12).collect::<String>());
    let since = change.as_ref().map_or(String::new(), |id| format!(", since change {id}"));
    let id = change.unwrap_or_default();
    match hypothesis.kind {
        cause::OOM_KILLED => format!("{name} needs more memory than its limit allows{since}"),
        cause::MEMORY_LEAK => format!("{name} leaks memory until it is killed at its limit{since}"),
        cause::BAD_IMAGE => format!("the release {id} of {name} misbehaves"),
        cause::BAD_CONFIG => format!("the configuration change {id} of {name} misbehaves"),
        cause::IMAGE_PULL => {
            let image = measure("image.bad").map_or("its image", String::as_str);
            format!("{name} cannot start: {image} cannot be pulled{since}")
        }
        cause::CONFIG_MISSING => {
            let object = measure("config.object").map_or("configuration", String::as_str);
            format!("{name} cannot start: {object} is missing{since}")
        }
        cause::CONFIG_WRONG => format!("{name} refuses its configuration{since}"),
        cause::UNSCHEDULABLE => format!("no node takes the pods of {name}{since}"),
        cause::DEPENDENCY => {
            let dependency = measure("dependency").map_or(name.as_str(), String::as_str);
            match dependency == name {
                true => format!("{name} fails, and nothing that it calls explains it"),
                false => format!("{dependency}, which {name} depends on, does not answer"),
            }
        }
        _ => match hypothesis.findings.first() {
            Some(finding) => finding.sentence.clone(),
            None => format!("{} on {name}", hypothesis.kind),
        },
    }
}

/// Why no action may follow, and the question whose answer would decide.
fn abstention(scene: &Scene<'_>, ranked: &[Hypothesis], causes: &[Cause]) -> Option<String> {
    let (Some(best), Some(cause)) = (ranked.first(), causes.first()) else {
        return Some(match missing(scene.observations) {
            missing if missing.is_empty() => {
                "no entity shows anything unusual; error rate and latency by service would decide".to_owned()
            }
            missing => format!("nothing points at a cause, and {missing}"),
        });
    };
    if cause.confidence >= SPEAK {
        return None;
    }
    let rival = ranked.iter().skip(1).find(|other| {
        other.score > best.score - 1.5 && (other.entity.workload() != best.entity.workload() || other.kind != best.kind)
    });
    let reason = match rival {
        Some(rival) => between(best, rival),
        None => {
            format!("the best guess ({} on {}) has too little evidence; {}", best.kind, best.entity.name, decides(best))
        }
    };
    Some(match missing(scene.observations) {
        missing if missing.is_empty() => reason,
        missing => format!("{reason}; {missing}"),
    })
}

/// Evidence in nats by which the better of two is not called better: two to one.
const CLOSE: f64 = 0.7;

fn between(best: &Hypothesis, rival: &Hypothesis) -> String {
    if let (Some(one), Some(other)) = (&best.change, &rival.change)
        && one.target != other.target
        && best.is_release()
        && rival.is_release()
    {
        let apart = (seconds(one.at) - seconds(other.at)).abs();
        return format!(
            "`{}` and `{}` were released {apart:.0} s apart; error rate by version would decide",
            one.target.name, other.target.name
        );
    }
    let both = format!("{} on {} and {} on {}", best.kind, best.entity.name, rival.kind, rival.entity.name);
    match best.score - rival.score < CLOSE {
        true => format!("{both} explain the signals equally well; {}", decides(best)),
        false => format!("{both} both explain the signals, the first better but not by enough; {}", decides(best)),
    }
}

/// The question that would confirm or refute a hypothesis.
fn decides(hypothesis: &Hypothesis) -> String {
    let name = &hypothesis.entity.name;
    match hypothesis.kind {
        cause::BAD_IMAGE | cause::BAD_CONFIG => format!("error rate of {name} by version would decide"),
        cause::OOM_KILLED | cause::MEMORY_LEAK => format!("the working set of {name} over its last lives would decide"),
        cause::DEPENDENCY => format!("traces through {name} with their client spans would decide"),
        cause::CRASHING => format!("the last log lines of {name} before it dies would decide"),
        cause::NETWORK => format!("packets lost around {name}, counted at both ends of its calls, would decide"),
        cause::LATENCY => format!("the own time of {name} in traces, without what it waits for, would decide"),
        cause::CPU => format!("how long {name} is throttled, per pod, would decide"),
        cause::MEMORY => format!("the working set of {name} against its limit, per pod, would decide"),
        cause::DISK => format!("waiting for input and output on the nodes of {name} would decide"),
        cause::ERRORS => format!("the deepest failed span of traces through {name} would decide"),
        cause::BEHAVIOUR => format!("the same requests against the release of {name} before would decide"),
        _ => format!("error rate, latency and logs of {name} would decide"),
    }
}

/// Which questions stayed without an answer, as one clause.
fn missing(observations: &Observations) -> String {
    fn why<T>(name: &str, answer: &Answer<T>) -> Option<String> {
        match answer {
            Answer::Known(_) => None,
            Answer::Unknown { why } => Some(format!("{name} unknown ({why})")),
        }
    }
    let parts = [
        why("metrics", &observations.series),
        why("objects", &observations.objects),
        why("traces", &observations.spans),
        why("logs", &observations.logs),
        why("changes", &observations.changes)
            .or_else(|| observations.unread_changes().map(|why| format!("some changes unknown ({why})"))),
        why("topology", &observations.topology),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}
