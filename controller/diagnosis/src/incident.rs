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
    /// Entities that one rollout (one applied revision, one release) changed together.
    pub rollouts: Vec<BTreeSet<Entity>>,
}

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
    let around = reach.around(&signal.entity);
    for incident in incidents {
        let quiet = signal.started_at.duration_since(incident.last_heard(now));
        if quiet > window {
            continue;
        }
        let link = incident.signals.iter().find_map(|kept| around.link(&kept.entity));
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
        let entities: BTreeSet<&Entity> = incident.signals.iter().map(|signal| &signal.entity).collect();
        let arounds: Vec<Around<'_>> = entities.into_iter().map(|entity| reach.around(entity)).collect();
        let found = staying.iter_mut().find_map(|group| {
            let because = group.iter().find_map(|member| {
                let apart = incident.opened_at.duration_since(member.last_heard(now));
                let link = || arounds.iter().find_map(|one| member.signals.iter().find_map(|b| one.link(&b.entity)));
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
    rollouts: &'a [BTreeSet<Entity>],
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

    /// Everything that may be one problem with this entity.
    fn around(&self, entity: &Entity) -> Around<'_> {
        let root = self.root(entity);
        let has = |rollout: &&BTreeSet<Entity>| rollout.iter().any(|entity| self.root(entity) == root);
        Around {
            reach: self,
            entity: entity.clone(),
            below: hops(&self.next, &root),
            above: hops(&self.before, &root),
            together: self.rollouts.iter().filter(has).flatten().map(|entity| self.root(entity)).collect(),
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
    /// What a rollout changed together with it.
    together: BTreeSet<Entity>,
}

impl Around<'_> {
    /// Why another entity may be one problem with this one, or nothing.
    fn link(&self, other: &Entity) -> Option<String> {
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
        self.together.contains(&b).then(|| format!("one rollout changed {a} and {b}"))
    }
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
mod tests {
    use super::*;
    use crate::entity::EntityKind::{Deployment, Pod};
    use crate::signal::Severity;

    const WINDOW: SignedDuration = SignedDuration::from_mins(10);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn signal(key: &str, name: &str, second: i64) -> Signal {
        Signal {
            key: key.into(),
            source: SignalSource::Alert,
            name: key.into(),
            entity: Entity::new(Deployment, "shop", name),
            severity: Severity::Warning,
            started_at: at(second),
            ended_at: None,
            summary: String::new(),
            labels: BTreeMap::new(),
            count: 1,
        }
    }

    fn incident(id: &str, second: i64, signals: Vec<Signal>) -> OpenIncident<'static> {
        OpenIncident { id: id.into(), opened_at: at(second), signals: signals.into() }
    }

    fn calls(pairs: &[(&str, &str)]) -> Links {
        let service = |name: &str| Entity::new(Deployment, "shop", name);
        let edges = pairs
            .iter()
            .map(|(from, to)| TopologyEdge { from: service(from), to: service(to), kind: LinkKind::Calls })
            .collect();
        Links { edges, rollouts: Vec::new() }
    }

    #[test]
    fn the_first_signal_opens_an_incident() {
        let got = assign(&signal("a", "checkout", 0), &[], &Reach::new(&Links::default()), WINDOW, at(1));
        assert!(matches!(got, Assignment::Open { because } if because.contains("shop/Deployment/checkout")));
    }

    #[test]
    fn a_caller_of_the_failing_service_joins_its_incident() {
        let open = [incident("one", 0, vec![signal("a", "checkout", 0)])];
        let got = assign(
            &signal("b", "frontend", 60),
            &open,
            &Reach::new(&calls(&[("frontend", "checkout")])),
            WINDOW,
            at(61),
        );
        assert_eq!(
            got,
            Assignment::Join {
                incident: "one".into(),
                because: "shop/Deployment/frontend depends on shop/Deployment/checkout (1 hops)".into()
            }
        );
    }

    #[test]
    fn two_callers_of_one_service_are_not_one_problem_by_that_alone() {
        let open = [incident("one", 0, vec![signal("a", "cart", 0)])];
        let links = calls(&[("cart", "cache"), ("search", "cache")]);
        assert!(matches!(
            assign(&signal("b", "search", 5), &open, &Reach::new(&links), WINDOW, at(6)),
            Assignment::Open { .. }
        ));
    }

    #[test]
    fn a_pod_belongs_to_its_deployment() {
        let mut links = Links::default();
        let pod = Entity::new(Pod, "shop", "checkout-1");
        links.edges.push(TopologyEdge {
            from: Entity::new(Deployment, "shop", "checkout"),
            to: pod.clone(),
            kind: LinkKind::Owns,
        });
        let open = [incident("one", 0, vec![signal("a", "checkout", 0)])];
        let mut arrived = signal("b", "x", 5);
        arrived.entity = pod;
        assert!(
            matches!(assign(&arrived, &open, &Reach::new(&links), WINDOW, at(6)), Assignment::Join { because, .. } if because.contains("belong to"))
        );
    }

    #[test]
    fn one_rollout_links_what_it_changed() {
        let entities = ["cart", "search"].map(|name| Entity::new(Deployment, "shop", name));
        let links = Links { edges: Vec::new(), rollouts: vec![BTreeSet::from(entities)] };
        let open = [incident("one", 0, vec![signal("a", "cart", 0)])];
        assert!(matches!(
            assign(&signal("b", "search", 5), &open, &Reach::new(&links), WINDOW, at(6)),
            Assignment::Join { .. }
        ));
    }

    #[test]
    fn a_known_signal_is_counted_not_added() {
        let open = [incident("one", 0, vec![signal("a", "checkout", 0)])];
        let got = assign(&signal("a", "checkout", 0), &open, &Reach::new(&Links::default()), WINDOW, at(9));
        assert!(matches!(got, Assignment::Repeat { incident, .. } if incident == "one"));
        let mut signals = vec![signal("a", "checkout", 0)];
        assert_eq!(keep(&mut signals, signal("a", "checkout", 0)), Kept::Repeat);
        assert_eq!((signals.len(), signals[0].count), (1, 2));
    }

    #[test]
    fn what_ended_before_work_began_is_dropped() {
        let mut over = signal("a", "checkout", 0);
        over.ended_at = Some(at(5));
        assert!(matches!(assign(&over, &[], &Reach::new(&Links::default()), WINDOW, at(9)), Assignment::Drop { .. }));
    }

    #[test]
    fn an_old_quiet_incident_takes_nothing_in() {
        let mut quiet = signal("a", "checkout", 0);
        quiet.ended_at = Some(at(10));
        let open = [incident("one", 0, vec![quiet])];
        let late = signal("b", "checkout", 10 + 601);
        assert!(matches!(
            assign(&late, &open, &Reach::new(&Links::default()), WINDOW, at(700)),
            Assignment::Open { .. }
        ));
    }

    #[test]
    fn links_found_later_join_the_younger_to_the_older() {
        let open = [
            incident("young", 60, vec![signal("b", "frontend", 60)]),
            incident("old", 0, vec![signal("a", "payment", 0)]),
            incident("other", 30, vec![signal("c", "search", 30)]),
        ];
        let links = calls(&[("frontend", "checkout"), ("checkout", "payment")]);
        let joined = joins(&open, &links, WINDOW, at(100));
        assert_eq!(joined.len(), 1);
        assert_eq!((joined[0].younger.as_str(), joined[0].older.as_str()), ("young", "old"));
    }

    #[test]
    fn a_flapping_alert_is_not_cleared_until_quiet_long_enough() {
        let clear_for = SignedDuration::from_mins(5);
        let mut flapping = signal("a", "checkout", 0);
        assert_eq!(cleared(std::slice::from_ref(&flapping), clear_for, at(50)), Clearing::Firing);
        flapping.ended_at = Some(at(60));
        assert_eq!(cleared(std::slice::from_ref(&flapping), clear_for, at(100)), Clearing::Quiet { until: at(360) });
        assert_eq!(cleared(&[flapping], clear_for, at(360)), Clearing::Cleared { since: at(60) });
        assert_eq!(cleared(&[], clear_for, at(360)), Clearing::Firing);
    }

    #[test]
    fn the_list_of_signals_is_bounded() {
        let mut signals = Vec::new();
        for number in 0..SIGNALS_MAX {
            assert_eq!(keep(&mut signals, signal(&number.to_string(), "checkout", 0)), Kept::New);
        }
        assert_eq!(keep(&mut signals, signal("one more", "checkout", 0)), Kept::Beyond);
        assert_eq!(signals.len(), SIGNALS_MAX);
    }

    #[test]
    fn the_order_of_open_incidents_does_not_matter() {
        let mut open = vec![
            incident("a", 5, vec![signal("x", "checkout", 5)]),
            incident("b", 0, vec![signal("y", "checkout", 0)]),
        ];
        let arrived = signal("z", "checkout", 9);
        let first = assign(&arrived, &open, &Reach::new(&Links::default()), WINDOW, at(10));
        open.reverse();
        assert_eq!(assign(&arrived, &open, &Reach::new(&Links::default()), WINDOW, at(10)), first);
        assert!(matches!(first, Assignment::Join { incident, .. } if incident == "b"));
    }
}
