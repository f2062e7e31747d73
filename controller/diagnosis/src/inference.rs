//! Fusion: findings become hypotheses, weighed against each other along the topology.
//!
//! A log-linear model. Each hypothesis (entity, kind, change) adds up what was found for and against it; within one
//! modality the strongest finding counts in full and the rest a quarter, since they are not independent. A hypothesis
//! gains by the symptoms that it can explain through the topology and loses by those that it cannot.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnosis::cause;
use crate::entity::{Entity, EntityKind};
use crate::evidence::Change;
use crate::finding::{Finding, Modality};
use crate::order;
use crate::scene::{Scene, shifted};

/// Log-odds of any hypothesis before evidence.
const PRIOR: f64 = -1.0;
/// What explaining all symptoms is worth, and what explaining none costs.
const COVERED: f64 = 2.0;
const UNCOVERED: f64 = 3.0;
/// Evidence of the "no cause found" hypothesis that all others must beat.
pub const NOTHING: f64 = 2.0;
/// How much a release loses to the concrete failure that it brought on the same entity: the failure is the nearer cause
/// and keeps the release as its change.
const NEARER: f64 = 4.0;

/// What a cause without a change loses where releases are under way: most incidents are brought by a change.
const UNCHANGED: f64 = 2.5;

/// What it loses where the commits themselves are judged by their diffs: what is shown is then their effect.
const SHOWN_ONLY: f64 = 6.0;

/// How much of another kind's evidence on the same entity supports a kind.
const SUPPORT: f64 = 0.3;

/// A possible cause with everything that speaks for and against it.
#[derive(Clone, Debug)]
pub struct Hypothesis {
    pub entity: Entity,
    pub kind: &'static str,
    pub change: Option<Change>,
    pub findings: Vec<Finding>,
    /// Indices of the symptoms that it explains.
    pub explains: BTreeSet<usize>,
    /// Sum of evidence in nats.
    pub score: f64,
    /// Share of what explains the same symptoms, 0 to 1; not calibrated.
    pub share: f64,
    /// Share against the strongest other entity alone, or "no cause found" where that is stronger; not calibrated.
    pub duel: f64,
    /// The same against the strongest other story about its own entity: another reason, another change. That something is slow and
    /// that it fails is one story ([`shows_itself`]).
    pub own_duel: f64,
    /// Entities that compete for the same symptoms, its own among them.
    pub rivals: usize,
}

impl Hypothesis {
    /// Modalities with a finding that speaks for it.
    pub fn agreeing(&self) -> usize {
        let speak = self.findings.iter().filter(|finding| finding.weight > 0.0);
        speak.map(|finding| finding.modality).collect::<BTreeSet<_>>().len()
    }

    pub fn is_release(&self) -> bool {
        self.kind == cause::BAD_IMAGE || self.kind == cause::BAD_CONFIG
    }
}

/// All hypotheses, best first.
pub fn hypotheses(scene: &Scene<'_>, findings: Vec<Finding>) -> Vec<Hypothesis> {
    let mut groups: BTreeMap<(Entity, &'static str, Option<String>), Vec<Finding>> = BTreeMap::new();
    let listed: Option<BTreeSet<Entity>> =
        scene.observations.candidates.as_ref().map(|list| list.iter().map(Entity::workload).collect());
    for finding in findings {
        // A closed list of candidates is closed: what is not on it can be a fact, but not the answer.
        if listed.as_ref().is_some_and(|listed| !listed.contains(&finding.entity.workload())) {
            continue;
        }
        let key = (finding.entity.workload(), finding.kind, finding.change.clone());
        groups.entry(key).or_default().push(finding);
    }
    // What speaks only against something is no hypothesis.
    groups.retain(|(_, _, change), findings| change.is_some() || findings.iter().any(|finding| finding.weight > 0.0));
    let origins = Origins::of(scene);
    let by_source = scene.changes.iter().any(super::extract::is_source);
    let lately_changed = scene.changes.iter().any(|change| super::extract::watched(scene, change));
    let mut all: Vec<Hypothesis> = groups
        .into_iter()
        .map(|((entity, kind, change), mut findings)| {
            findings.sort_by(|a, b| b.weight.total_cmp(&a.weight).then_with(|| a.sentence.cmp(&b.sentence)));
            let change = change.and_then(|id| {
                let of_id = || scene.changes.iter().filter(|change| change.id == id);
                // A commit that reached the entity with a later deploy has no target of its own.
                of_id().find(|change| change.target == entity).or_else(|| of_id().next()).cloned()
            });
            let entity = findings
                .iter()
                .find_map(|finding| finding.entity.container.clone())
                .map_or(entity.clone(), |c| entity.clone().with_container(c));
            let explains = origins.explained(&entity.workload());
            let unchanged = match (change.is_none() && kind != cause::NO_CHANGE, by_source, lately_changed) {
                (true, true, _) => SHOWN_ONLY,
                (true, false, true) => UNCHANGED,
                _ => 0.0,
            };
            // Whether a commit can reach the alert is judged with the commit itself.
            let covered = if by_source { 0.0 } else { coverage(scene, explains.len()) };
            let score = PRIOR + evidence(&findings) + covered - unchanged;
            Hypothesis {
                entity,
                kind,
                change,
                findings,
                explains,
                score,
                share: 0.0,
                duel: 0.0,
                own_duel: 0.0,
                rivals: 1,
            }
        })
        .collect();
    kinds_support_each_other(&mut all);
    nearer_causes_keep_the_change(scene, &mut all);
    order::settle(scene, &mut all);
    share_out(&mut all, &origins.places);
    all.sort_by(|a, b| {
        b.score
            .total_cmp(&a.score)
            .then_with(|| (&a.entity, a.kind, change_id(a)).cmp(&(&b.entity, b.kind, change_id(b))))
    });
    all
}

fn change_id(hypothesis: &Hypothesis) -> Option<&str> {
    hypothesis.change.as_ref().map(|change| change.id.as_str())
}

fn evidence(findings: &[Finding]) -> f64 {
    let mut by_modality: BTreeMap<Modality, (f64, f64, f64)> = BTreeMap::new();
    for finding in findings {
        let (best, rest, against) = by_modality.entry(finding.modality).or_default();
        match finding.weight {
            weight if weight < 0.0 => *against = against.min(weight),
            weight if weight > *best => {
                *rest += *best;
                *best = weight;
            }
            weight => *rest += weight,
        }
    }
    by_modality.values().map(|(best, rest, against)| best + 0.25 * rest + against).sum()
}

fn coverage(scene: &Scene<'_>, explained: usize) -> f64 {
    let all = scene.observations.symptoms.len();
    if all == 0 {
        return 0.0;
    }
    let share = explained as f64 / all as f64;
    // Who depends on whom is half the meaning of "explains": without it, little is gained or lost.
    let (covered, uncovered) = match scene.graph.known {
        true => (COVERED, UNCOVERED),
        false => (COVERED / 2.0, UNCOVERED / 4.0),
    };
    match explained {
        0 => -uncovered,
        _ => covered * share,
    }
}

/// For each symptom, everything that trouble may have come from: its entity and all that this depends on.
///
/// Symptoms of one entity share one answer; a flood of alerts costs no more than one.
struct Origins {
    places: Vec<Entity>,
    reached: BTreeMap<Entity, BTreeSet<Entity>>,
}

impl Origins {
    fn of(scene: &Scene<'_>) -> Self {
        let places: Vec<Entity> =
            scene.observations.symptoms.iter().map(|signal| scene.symptom_entity(&signal.entity)).collect();
        let distinct: BTreeSet<&Entity> = places.iter().collect();
        let reached = distinct.into_iter().map(|place| (place.clone(), scene.graph.reached(place))).collect();
        Self { places, reached }
    }

    /// Which symptoms a cause on this entity can bring about.
    fn explained(&self, entity: &Entity) -> BTreeSet<usize> {
        let places = self.places.iter().enumerate();
        let explains = |place: &Entity| match place.kind {
            EntityKind::Namespace => place.name == entity.namespace || place == entity,
            _ => self.reached.get(place).is_some_and(|reached| reached.contains(entity)),
        };
        places.filter(|(_, place)| explains(place)).map(|(index, _)| index).collect()
    }
}

/// What shows on one entity in several ways (slow, busy, other behaviour) is one trouble: the best name of it gains by the
/// others, by less than what they would count alone.
fn kinds_support_each_other(all: &mut [Hypothesis]) {
    let mut shown: BTreeMap<Entity, Vec<(&'static str, f64)>> = BTreeMap::new();
    for one in all.iter().filter(|one| shows_only(one.kind)) {
        shown.entry(one.entity.workload()).or_default().push((one.kind, evidence(&one.findings).max(0.0)));
    }
    for one in all.iter_mut().filter(|one| shows_only(one.kind)) {
        let others = shown.get(&one.entity.workload()).into_iter().flatten().filter(|(kind, _)| *kind != one.kind);
        one.score += SUPPORT * others.map(|(_, weight)| *weight).fold(0.0, f64::max);
    }
}

/// A release and the concrete failure on the same entity are one story: the failure leads, and keeps the change.
fn nearer_causes_keep_the_change(scene: &Scene<'_>, all: &mut [Hypothesis]) {
    let onset = scene.onset.unwrap_or(scene.observations.at);
    let concrete: BTreeSet<Entity> = all
        .iter()
        .filter(|one| names_the_failure(one.kind) && one.score > NOTHING)
        .map(|one| one.entity.workload())
        .collect();
    let named: BTreeSet<Entity> = all
        .iter()
        .filter(|one| (names_the_failure(one.kind) || one.is_release()) && one.score > NOTHING)
        .map(|one| one.entity.workload())
        .collect();
    for one in all.iter_mut() {
        if shows_only(one.kind) && named.contains(&one.entity.workload()) {
            one.score -= NEARER;
        }
        if one.is_release() && concrete.contains(&one.entity) {
            one.score -= NEARER;
            one.findings.push(
                Finding::new(
                    one.entity.clone(),
                    one.kind,
                    Modality::Changes,
                    -NEARER,
                    "what the release brought has a name of its own, which is the nearer cause",
                )
                .of_change(change_id(one).unwrap_or("")),
            );
        } else if !one.is_release()
            && one.change.is_none()
            && one.kind != cause::NO_CHANGE
            && one.entity.kind != EntityKind::Node
        {
            let target = one.entity.workload();
            let slack = shifted(onset, jiff::SignedDuration::from_secs(60));
            let recent = shifted(onset, jiff::SignedDuration::from_hours(-24));
            let fits = |change: &&Change| change.target == target && change.at <= slack && change.at >= recent;
            one.change = scene.changes.iter().rev().find(fits).cloned();
        }
    }
}

/// Kinds that say themselves what failed, so that a release is at most the reason behind them.
fn names_the_failure(kind: &str) -> bool {
    [cause::OOM_KILLED, cause::MEMORY_LEAK, cause::IMAGE_PULL, cause::CONFIG_MISSING, cause::UNSCHEDULABLE]
        .contains(&kind)
}

/// Kinds that say what an entity shows, not why: they give way to a named failure or a blamed release on it.
fn shows_only(kind: &str) -> bool {
    [
        cause::CPU,
        cause::MEMORY,
        cause::DISK,
        cause::LATENCY,
        cause::NETWORK,
        cause::ERRORS,
        cause::BEHAVIOUR,
        cause::CRASHING,
    ]
    .contains(&kind)
}

/// Softmax among the hypotheses that compete for the same symptoms, with "no cause found" among them.
///
/// Two independent incidents do not compete: each is weighed against what explains its own symptoms. Nor does what explains
/// nothing take from a named failure on the very entity that every symptom is about: its neighbours may be broken as well.
fn share_out(all: &mut [Hypothesis], places: &[Entity]) {
    let stands_alone = |one: &Hypothesis| {
        let own = one.entity.workload();
        names_the_failure(one.kind) && !places.is_empty() && places.iter().all(|place| place.workload() == own)
    };
    let mut numbers: BTreeMap<Entity, usize> = BTreeMap::new();
    let numbered: Vec<usize> = all
        .iter()
        .map(|one| {
            let next = numbers.len();
            *numbers.entry(one.entity.workload()).or_insert(next)
        })
        .collect();
    let shares: Vec<(f64, [f64; 2], usize)> = all
        .iter()
        .zip(&numbered)
        .map(|(one, own)| {
            let alone = stands_alone(one);
            let rivals: Vec<(&Hypothesis, usize)> = all
                .iter()
                .zip(numbered.iter().copied())
                .filter(|(other, _)| match (one.explains.is_empty(), other.explains.is_empty()) {
                    (false, true) if alone => false,
                    (true, _) | (_, true) => true,
                    (false, false) => !one.explains.is_disjoint(&other.explains),
                })
                .collect();
            let mass: f64 = rivals.iter().map(|(other, _)| (other.score - one.score).exp()).sum();
            let strongest = |is_own: bool| {
                let same_story = |other: &Hypothesis| is_own && shows_itself(one.kind) && shows_itself(other.kind);
                let others = rivals.iter().filter(|(other, number)| {
                    (number == own) == is_own && !std::ptr::eq(*other, one) && !same_story(other)
                });
                others.map(|(other, _)| other.score).fold(NOTHING, f64::max)
            };
            let duels = [false, true].map(|is_own| 1.0 / (1.0 + (strongest(is_own) - one.score).exp()));
            let mut seen = vec![false; numbers.len()];
            rivals.iter().for_each(|(_, number)| seen[*number] = true);
            let entities = seen.iter().filter(|seen| **seen).count().max(1);
            (1.0 / (mass + (NOTHING - one.score).exp()), duels, entities)
        })
        .collect();
    for (one, (share, [duel, own_duel], rivals)) in all.iter_mut().zip(shares) {
        (one.share, one.duel, one.own_duel, one.rivals) = (share, duel, own_duel, rivals);
    }
}

/// Whether a kind says how something misbehaves, and not why: such kinds do not contradict each other, and what follows from them is
/// the same.
fn shows_itself(kind: &str) -> bool {
    [cause::LATENCY, cause::ERRORS, cause::BEHAVIOUR, cause::DEPENDENCY].contains(&kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hypothesis(kind: &'static str, name: &str, explains: &[usize]) -> Hypothesis {
        Hypothesis {
            entity: Entity::new(EntityKind::Deployment, "shop", name),
            kind,
            change: None,
            findings: Vec::new(),
            explains: explains.iter().copied().collect(),
            score: NOTHING + 4.0,
            share: 0.0,
            duel: 0.0,
            own_duel: 0.0,
            rivals: 1,
        }
    }

    #[test]
    fn a_crowd_of_weak_rivals_lowers_the_share_and_not_the_duel() {
        let crowded = |rivals: usize| {
            let mut all = vec![hypothesis(cause::MEMORY, "cart", &[0])];
            all.extend((0..rivals).map(|number| {
                let rival = hypothesis(cause::MEMORY, &format!("other-{number}"), &[0]);
                Hypothesis { score: rival.score - 3.0, ..rival }
            }));
            share_out(&mut all, &[]);
            (all[0].share, all[0].duel)
        };
        let (few, many) = (crowded(1), crowded(30));
        assert!(few.0 > 0.9 && many.0 < 0.5, "{few:?} {many:?}");
        assert!(few.1 > 0.9 && (few.1 - many.1).abs() < 1e-9, "{few:?} {many:?}");
    }

    #[test]
    fn an_entity_fights_no_duel_with_itself() {
        let mut all = [hypothesis(cause::MEMORY, "cart", &[0]), hypothesis(cause::CPU, "cart", &[0])];
        share_out(&mut all, &[]);
        assert!(all[0].share < 0.6 && all[0].duel > 0.9, "{} {}", all[0].share, all[0].duel);
    }

    #[test]
    fn that_something_is_slow_and_that_it_fails_is_one_story_and_two_reasons_are_two() {
        let own_duel = |one: &'static str, other: &'static str| {
            let mut all = [hypothesis(one, "cart", &[0]), hypothesis(other, "cart", &[0])];
            share_out(&mut all, &[]);
            all[0].own_duel
        };
        assert!(own_duel(cause::LATENCY, cause::DEPENDENCY) > 0.9);
        assert!(own_duel(cause::LATENCY, cause::CPU) < 0.6 && own_duel(cause::BAD_IMAGE, cause::ERRORS) < 0.6);
    }

    #[test]
    fn a_broken_neighbour_takes_nothing_from_a_named_failure_where_the_alert_is() {
        let places = [Entity::new(EntityKind::Deployment, "shop", "cart")];
        let shares = |kind: &'static str, places: &[Entity]| {
            let mut all = [hypothesis(kind, "cart", &[0]), hypothesis(cause::IMAGE_PULL, "search", &[])];
            share_out(&mut all, places);
            all.map(|one| one.share)
        };
        let [here, there] = shares(cause::IMAGE_PULL, &places);
        assert!(here > 0.9 && there < 0.5, "{here} {there}");
        let [here, _] = shares(cause::LATENCY, &places);
        assert!(here < 0.6, "what only shows itself may come from the neighbour: {here}");
        let elsewhere = [places[0].clone(), Entity::new(EntityKind::Deployment, "shop", "frontend")];
        let [here, _] = shares(cause::IMAGE_PULL, &elsewhere);
        assert!(here < 0.6, "an alert of another entity is not explained by itself: {here}");
    }
}
