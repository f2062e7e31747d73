//! Which signals are one problem: grouping, joining and clearing of incidents.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::entity::Entity;
use crate::evidence::{LinkKind, TopologyEdge};
use crate::signal::{Signal, SignalSource};

/// How many signals an incident keeps; later ones are only counted.
///
/// Enough for people and for the diagnosis (a flood repeats itself), small enough for an object of 1.4 MB: a signal is
/// bounded to about 4 KiB by the intake.
pub const SIGNALS_MAX: usize = 64;

/// How many links lie between two entities that may still be one problem.
///
/// Trouble rarely travels further than from a data store over two services to the entry; a longer reach would swallow
/// the whole cluster into one incident.
pub const HOPS_MAX: usize = 4;

/// An incident that may still take signals in, as far as grouping needs to know it.
#[derive(Clone, Debug, PartialEq)]
pub struct OpenIncident<'a> {
    /// What the caller calls it; given back in the [`Assignment`].
    pub id: String,
    pub opened_at: Timestamp,
    /// Borrowed as a rule: in a storm hundreds of incidents are looked at for each signal.
    pub signals: Cow<'a, [Signal]>,
}

impl OpenIncident<'_> {
    /// The same without a copy of its signals.
    #[must_use]
    pub fn borrowed(&self) -> OpenIncident<'_> {
        OpenIncident { id: self.id.clone(), opened_at: self.opened_at, signals: Cow::Borrowed(&self.signals) }
    }

    /// When something was last heard of it: now while a signal fires.
    fn last_heard(&self, now: Timestamp) -> Timestamp {
        self.signals.iter().map(|signal| last_heard(signal).unwrap_or(now)).max().unwrap_or(self.opened_at)
    }
}

/// What links entities: owner references, call edges known from earlier, and rollouts that replaced several at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Links {
    pub edges: Vec<TopologyEdge>,
    pub rollouts: Vec<Rollout>,
}

/// Entities that one rollout (one applied revision, one release) changed together. Only signals that began after it are linked by it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rollout {
    pub at: Timestamp,
    pub changed: BTreeSet<Entity>,
}

/// How far the clock behind a signal may run behind the cluster's: an alert that began so much before a rollout may still come of it.
const CLOCKS_APART: SignedDuration = SignedDuration::from_secs(30);

/// Where a signal belongs, each with the reason in one clause.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub enum Assignment {
    /// A new problem.
    Open { because: String },
    /// A new sign of a known problem.
    Join { incident: String, because: String },
    /// A signal that the incident already has: count it, and take over its end when it has one.
    Repeat { incident: String, because: String },
    /// Over before any work began: count it only.
    Drop { because: String },
}

/// Decides where `signal` belongs among the incidents that are still open.
///
/// The oldest fitting incident wins, so that two controllers and any order of arrival agree.
pub fn assign(
    signal: &Signal,
    open: &[OpenIncident<'_>],
    reach: &Reach<'_>,
    window: SignedDuration,
    now: Timestamp,
) -> Assignment {
    let mut incidents: Vec<&OpenIncident<'_>> = open.iter().collect();
    incidents.sort_by(|left, right| (left.opened_at, &left.id).cmp(&(right.opened_at, &right.id)));
    if let Some(known) = incidents.iter().find(|incident| incident.signals.iter().any(|kept| kept.key == signal.key)) {
        let because = match signal.ended_at {
            Some(_) if !momentary(signal.source) => format!("{} ended", signal.name),
            _ => format!("{} was seen before", signal.name),
        };
        return Assignment::Repeat { incident: known.id.clone(), because };
    }
    if !momentary(signal.source) && signal.ended_at.is_some_and(|end| end <= now) {
        return Assignment::Drop { because: format!("{} ended before work on it began", signal.name) };
    }
    let around = reach.around(signal);
    for incident in incidents {
        let quiet = signal.started_at.duration_since(incident.last_heard(now));
        if quiet > window {
            continue;
        }
        let link = incident.signals.iter().find_map(|kept| around.link(kept));
        if let Some(because) = link {
            return Assignment::Join { incident: incident.id.clone(), because };
        }
    }
    Assignment::Open { because: format!("no open incident is linked to {}", signal.entity) }
}

/// Two incidents that turned out to be one: the younger joins the older.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Joining {
    pub younger: String,
    pub older: String,
    pub because: String,
}

/// Which open incidents are one problem by the links known now.
///
/// Each incident joins at most once, always an older one that itself stays, so that chains end at one incident.
pub fn joins(open: &[OpenIncident<'_>], links: &Links, window: SignedDuration, now: Timestamp) -> Vec<Joining> {
    let mut incidents: Vec<&OpenIncident<'_>> = open.iter().collect();
    incidents.sort_by(|left, right| (left.opened_at, &left.id).cmp(&(right.opened_at, &right.id)));
    let reach = Reach::new(links);
    // The incidents that stay, each with everything that joined it.
    let mut staying: Vec<Vec<&OpenIncident<'_>>> = Vec::new();
    let mut joined = Vec::new();
    for incident in incidents {
        let arounds: Vec<Around<'_>> = latest_of_each(&incident.signals).map(|signal| reach.around(signal)).collect();
        let found = staying.iter_mut().find_map(|group| {
            let because = group.iter().find_map(|member| {
                let apart = incident.opened_at.duration_since(member.last_heard(now));
                let link = || arounds.iter().find_map(|one| member.signals.iter().find_map(|b| one.link(b)));
                (apart <= window).then(link).flatten()
            })?;
            Some((group, because))
        });
        match found {
            Some((group, because)) => {
                joined.push(Joining { younger: incident.id.clone(), older: group[0].id.clone(), because });
                group.push(incident);
            }
            None => staying.push(vec![incident]),
        }
    }
    joined
}

/// The signal of each entity that began last: what a rollout may have to do with.
fn latest_of_each(signals: &[Signal]) -> impl Iterator<Item = &Signal> {
    let mut latest: BTreeMap<&Entity, &Signal> = BTreeMap::new();
    for signal in signals {
        let known = latest.entry(&signal.entity).or_insert(signal);
        if signal.started_at > known.started_at {
            *known = signal;
        }
    }
    latest.into_values()
}

/// What became of a signal that was put into an incident's bounded list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    New,
    Repeat,
    /// The list is full: the caller counts it.
    Beyond,
}

/// Puts a signal into an incident's list of at most [`SIGNALS_MAX`]; a repeat is counted on the one kept.
pub fn keep(signals: &mut Vec<Signal>, mut arrived: Signal) -> Kept {
    if momentary(arrived.source) && arrived.ended_at.is_none() {
        arrived.ended_at = Some(arrived.started_at);
    }
    if let Some(kept) = signals.iter_mut().find(|kept| kept.key == arrived.key) {
        kept.count = kept.count.saturating_add(arrived.count.max(1));
        kept.severity = kept.severity.max(arrived.severity);
        kept.ended_at = match (momentary(arrived.source), kept.ended_at, arrived.ended_at) {
            (true, Some(before), Some(after)) => Some(before.max(after)),
            _ => arrived.ended_at,
        };
        kept.started_at = kept.started_at.min(arrived.started_at);
        return Kept::Repeat;
    }
    if signals.len() >= SIGNALS_MAX {
        return Kept::Beyond;
    }
    signals.push(arrived);
    Kept::New
}

/// Whether an incident's signals are quiet for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clearing {
    /// At least one fires, or there is nothing to judge by.
    Firing,
    /// All are quiet, but not for long enough: crash loops flap.
    Quiet {
        until: Timestamp,
    },
    Cleared {
        since: Timestamp,
    },
}

/// Whether nothing has fired for `clear_for`.
///
/// A crash loop is quiet between two crashes, so the end of an alert alone says nothing.
pub fn cleared(signals: &[Signal], clear_for: SignedDuration, now: Timestamp) -> Clearing {
    let ends: Option<Vec<Timestamp>> = signals.iter().map(last_heard).collect();
    let Some(since) = ends.and_then(|ends| ends.into_iter().max()) else { return Clearing::Firing };
    if since > now {
        return Clearing::Firing;
    }
    match since.checked_add(clear_for) {
        Ok(until) if until <= now => Clearing::Cleared { since },
        Ok(until) => Clearing::Quiet { until },
        Err(_) => Clearing::Firing,
    }
}

/// Signals that happen at a moment instead of lasting: they "end" when they were last seen.
fn momentary(source: SignalSource) -> bool {
    match source {
        SignalSource::Event | SignalSource::Build => true,
        SignalSource::Alert | SignalSource::Condition | SignalSource::Slo => false,
    }
}

/// When a signal was last heard; `None` while it fires.
fn last_heard(signal: &Signal) -> Option<Timestamp> {
    match momentary(signal.source) {
        true => Some(signal.ended_at.unwrap_or(signal.started_at)),
        false => signal.ended_at,
    }
}

/// Answers "are these two linked?" over owners, calls and rollouts. Made once for many questions.
#[derive(Debug)]
pub struct Reach<'a> {
    owner: BTreeMap<Entity, Entity>,
    /// What an entity calls, uses or runs on, and the other way round.
    next: BTreeMap<Entity, BTreeSet<Entity>>,
    before: BTreeMap<Entity, BTreeSet<Entity>>,
    rollouts: &'a [Rollout],
}

impl<'a> Reach<'a> {
    pub fn new(links: &'a Links) -> Self {
        let owner: BTreeMap<Entity, Entity> = links
            .edges
            .iter()
            .filter(|edge| edge.kind == LinkKind::Owns)
            .map(|edge| (edge.to.workload(), edge.from.workload()))
            .collect();
        let mut reach = Self { owner, next: BTreeMap::new(), before: BTreeMap::new(), rollouts: &links.rollouts };
        for edge in &links.edges {
            let follows = match edge.kind {
                LinkKind::Calls | LinkKind::RunsOn | LinkKind::Uses => true,
                LinkKind::Owns => false,
            };
            if follows {
                let (from, to) = (reach.root(&edge.from), reach.root(&edge.to));
                reach.before.entry(to.clone()).or_default().insert(from.clone());
                reach.next.entry(from).or_default().insert(to);
            }
        }
        reach
    }

    /// The topmost owner: what a person would call the thing.
    fn root(&self, entity: &Entity) -> Entity {
        let mut at = entity.workload();
        for _ in 0..HOPS_MAX {
            match self.owner.get(&at) {
                Some(above) if *above != at => at = above.clone(),
                _ => break,
            }
        }
        at
    }

    /// Everything that may be one problem with what this signal is about.
    fn around(&self, signal: &Signal) -> Around<'_> {
        let root = self.root(&signal.entity);
        let has = |rollout: &&Rollout| {
            began_after(signal, rollout) && rollout.changed.iter().any(|entity| self.root(entity) == root)
        };
        Around {
            reach: self,
            entity: signal.entity.clone(),
            below: hops(&self.next, &root),
            above: hops(&self.before, &root),
            together: self.rollouts.iter().filter(has).collect(),
            root,
        }
    }
}

/// One entity and what lies within reach of it.
struct Around<'r> {
    reach: &'r Reach<'r>,
    entity: Entity,
    root: Entity,
    /// How far away what it depends on is, and what depends on it.
    below: BTreeMap<Entity, usize>,
    above: BTreeMap<Entity, usize>,
    /// The rollouts that changed it and before which its signal had not begun.
    together: Vec<&'r Rollout>,
}

impl Around<'_> {
    /// Why another signal may be one problem with this one, or nothing.
    fn link(&self, signal: &Signal) -> Option<String> {
        let other = &signal.entity;
        let (a, b) = (&self.root, self.reach.root(other));
        if *a == b {
            return Some(match self.entity.workload() == other.workload() {
                true => format!("same entity {a}"),
                false => format!("{} and {other} both belong to {a}", self.entity),
            });
        }
        if let Some(hops) = self.below.get(&b) {
            return Some(format!("{a} depends on {b} ({hops} hops)"));
        }
        if let Some(hops) = self.above.get(&b) {
            return Some(format!("{b} depends on {a} ({hops} hops)"));
        }
        let changed_both = |rollout: &&&Rollout| {
            began_after(signal, rollout) && rollout.changed.iter().any(|entity| self.reach.root(entity) == b)
        };
        self.together
            .iter()
            .find(changed_both)
            .map(|rollout| format!("one rollout at {} changed {a} and {b}", rollout.at))
    }
}

fn began_after(signal: &Signal, rollout: &Rollout) -> bool {
    signal.started_at >= rollout.at.saturating_sub(CLOCKS_APART).unwrap_or(rollout.at)
}

/// Entities that are reached over at most [`HOPS_MAX`] edges, each with its distance.
fn hops(edges: &BTreeMap<Entity, BTreeSet<Entity>>, from: &Entity) -> BTreeMap<Entity, usize> {
    let mut reached = BTreeMap::from([(from.clone(), 0)]);
    let mut queue = VecDeque::from([(from, 0)]);
    while let Some((at, hops)) = queue.pop_front() {
        for next in edges.get(at).into_iter().flatten().filter(|_| hops < HOPS_MAX) {
            if !reached.contains_key(next) {
                reached.insert(next.clone(), hops + 1);
                queue.push_back((next, hops + 1));
            }
        }
    }
    reached
}

#[cfg(test)]
mod tests;
