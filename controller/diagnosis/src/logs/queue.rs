//! The queue of lines that nobody can class, in bounded memory, for people to see and teach from.
//!
//! **When it is full**, the namespace that takes the most (templates, or bytes where these run out) gives one up, in it the
//! workload that takes the most, and of those the template that was seen longest ago (then the rarest). So a flood pushes out itself and nobody else. What was pushed
//! out is counted.

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::unknown::{Sighting, Sightings, Why};
use crate::entity::Entity;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    pub templates: usize,
    /// Bytes of all texts together.
    pub bytes: usize,
}

impl Default for Bounds {
    /// What people read in an afternoon, and less memory than one answer of a store.
    fn default() -> Self {
        Self { templates: 400, bytes: 512 << 10 }
    }
}

/// Bytes of a name that comes from a store or an incident: twice what Kubernetes allows.
const NAME_MAX: usize = 512;

/// One template in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub workload: Entity,
    pub template: String,
    /// One line of it, cleaned.
    pub sample: String,
    pub why: Why,
    /// Lines seen since trouble began, each counted once however often an incident is looked at.
    pub count: u64,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// The incident that it was last seen in, `namespace/name`.
    pub incident: String,
    /// Lines up to here (Unix nanoseconds) are counted.
    counted_to: u64,
    /// Lines without a time, which cannot be told apart: the most that one look found.
    untimed: u64,
}

impl Entry {
    fn bytes(&self) -> usize {
        let workload = &self.workload;
        let names = workload.cluster.len() + workload.namespace.len() + workload.name.len() + self.incident.len();
        names + self.template.len() + self.sample.len()
    }
}

/// What the queue did not keep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped {
    /// Times that a template was pushed out or found no place; one that comes back is counted again.
    pub templates: u64,
    /// Lines of them that were counted by then.
    pub lines: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    entries: BTreeMap<(Entity, String), Entry>,
    bytes: usize,
    dropped: Dropped,
    bounds: Bounds,
}

impl Queue {
    pub fn new(bounds: Bounds) -> Self {
        Self { bounds, ..Self::default() }
    }

    /// Takes in what one look at an incident found.
    pub fn take_in(&mut self, seen: &Sightings, incident: &str, now: Timestamp) {
        self.dropped.templates = self.dropped.templates.saturating_add(seen.beyond);
        for sighting in &seen.list {
            self.note(sighting, incident, now);
            self.shrink();
        }
    }

    fn note(&mut self, sighting: &Sighting, incident: &str, now: Timestamp) {
        let workload = Entity {
            cluster: cut(&sighting.workload.cluster),
            namespace: cut(&sighting.workload.namespace),
            name: cut(&sighting.workload.name),
            container: None,
            ..sighting.workload.clone()
        };
        let time = |ns: u64| Timestamp::from_nanosecond(i128::from(ns)).unwrap_or(now).min(now);
        let first = sighting.at.first().map_or(now, |(at, _)| time(*at));
        let last = sighting.at.last().map_or(now, |(at, _)| time(*at));
        let key = (workload.clone(), sighting.template.clone());
        let known = self.entries.remove(&key);
        self.bytes -= known.as_ref().map_or(0, Entry::bytes);
        let mut entry = known.unwrap_or_else(|| Entry {
            workload,
            template: sighting.template.clone(),
            sample: sighting.sample.clone(),
            why: sighting.why,
            count: 0,
            first_seen: first,
            last_seen: last,
            incident: String::new(),
            counted_to: 0,
            untimed: 0,
        });
        let fresh = sighting.at.iter().filter(|(at, _)| *at > entry.counted_to).map(|(_, count)| *count);
        let fresh = fresh.fold(sighting.untimed.saturating_sub(entry.untimed), u64::saturating_add);
        entry.count = entry.count.saturating_add(fresh);
        entry.counted_to = sighting.at.last().map_or(0, |(at, _)| *at).max(entry.counted_to);
        entry.untimed = entry.untimed.max(sighting.untimed);
        entry.first_seen = entry.first_seen.min(first);
        entry.last_seen = entry.last_seen.max(last);
        entry.why = entry.why.min(sighting.why);
        entry.incident = cut(incident);
        self.bytes += entry.bytes();
        self.entries.insert(key, entry);
    }

    /// Gives up templates until the bounds hold.
    fn shrink(&mut self) {
        while self.entries.len() > self.bounds.templates || self.bytes > self.bounds.bytes {
            let Some(key) = self.least() else { return };
            let Some(gone) = self.entries.remove(&key) else { return };
            self.bytes -= gone.bytes();
            self.dropped.templates = self.dropped.templates.saturating_add(1);
            self.dropped.lines = self.dropped.lines.saturating_add(gone.count);
        }
    }

    /// The template that goes first.
    fn least(&self) -> Option<(Entity, String)> {
        let crowded = self.entries.len() > self.bounds.templates;
        let mut namespaces: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
        let mut workloads: BTreeMap<&Entity, (usize, usize)> = BTreeMap::new();
        for ((workload, _), entry) in &self.entries {
            let room = if crowded { (1, entry.bytes()) } else { (entry.bytes(), 1) };
            for taken in [namespaces.entry(&workload.namespace).or_default(), workloads.entry(workload).or_default()] {
                *taken = (taken.0 + room.0, taken.1 + room.1);
            }
        }
        let (namespace, _) = namespaces.into_iter().max_by_key(|(_, taken)| *taken)?;
        let own = workloads.into_iter().filter(|(workload, _)| workload.namespace == namespace);
        let (workload, _) = own.max_by_key(|(_, taken)| *taken)?;
        let own = self.entries.iter().filter(|((of, _), _)| of == workload);
        own.min_by_key(|(_, entry)| (entry.last_seen, entry.count)).map(|(key, _)| key.clone())
    }

    /// Lets go of templates of a namespace that are known by now: `knows` is asked about template and sample.
    pub fn learn(&mut self, namespace: &str, knows: impl Fn(&str) -> bool) {
        let before = std::mem::take(&mut self.entries);
        let stays =
            |entry: &Entry| entry.workload.namespace != namespace || !(knows(&entry.template) || knows(&entry.sample));
        self.entries = before.into_iter().filter(|(_, entry)| stays(entry)).collect();
        self.bytes = self.entries.values().map(Entry::bytes).sum();
    }

    /// The gravest first, then the most frequent.
    pub fn entries(&self) -> Vec<&Entry> {
        let mut entries: Vec<&Entry> = self.entries.values().collect();
        entries.sort_by_key(|entry| (entry.why, std::cmp::Reverse(entry.count)));
        entries
    }

    pub fn namespaces(&self) -> std::collections::BTreeSet<String> {
        self.entries.keys().map(|(workload, _)| workload.namespace.clone()).collect()
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all texts.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn dropped(&self) -> Dropped {
        self.dropped
    }
}

fn cut(name: &str) -> String {
    name[..name.floor_char_boundary(NAME_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::entity::EntityKind::Deployment;

    const SMALL: Bounds = Bounds { templates: 8, bytes: 4_000 };

    fn now() -> Timestamp {
        Timestamp::from_second(2_000_000_000).unwrap()
    }

    fn sighting(namespace: &str, workload: &str, template: &str, at: &[(u64, u64)]) -> Sighting {
        Sighting {
            workload: Entity::new(Deployment, namespace, workload),
            template: template.to_owned(),
            sample: template.replace("<*>", "7"),
            why: Why::Error,
            at: at.iter().map(|(second, count)| (second * 1_000_000_000, *count)).collect(),
            untimed: 0,
        }
    }

    fn seen(list: Vec<Sighting>) -> Sightings {
        Sightings { list, beyond: 0 }
    }

    #[test]
    fn a_line_is_counted_once_however_often_it_is_looked_at() {
        let mut queue = Queue::default();
        let first = sighting("shop", "cart", "shard <*> is sealed", &[(100, 1), (110, 2)]);
        queue.take_in(&seen(vec![first.clone()]), "shop/inc-1", now());
        queue.take_in(&seen(vec![first]), "shop/inc-1", now());
        let more = sighting("shop", "cart", "shard <*> is sealed", &[(100, 1), (110, 2), (120, 4)]);
        queue.take_in(&seen(vec![more]), "shop/inc-2", now());
        let [entry] = queue.entries()[..] else { unreachable!("{queue:?}") };
        assert_eq!((entry.count, entry.incident.as_str()), (7, "shop/inc-2"));
        assert_eq!((entry.first_seen.as_second(), entry.last_seen.as_second()), (100, 120));
        let untimed = Sighting { at: Vec::new(), untimed: 3, ..sighting("shop", "cart", "no time", &[]) };
        queue.take_in(&seen(vec![untimed.clone()]), "shop/inc-2", now());
        queue.take_in(&seen(vec![untimed]), "shop/inc-2", now());
        assert_eq!(queue.entries().iter().map(|entry| entry.count).sum::<u64>(), 10);
    }

    #[test]
    fn a_flood_pushes_out_itself_and_says_how_much() {
        let mut queue = Queue::new(SMALL);
        let quiet =
            [sighting("shop", "cart", "shard <*> is sealed", &[(1, 1)]), sighting("pay", "ledger", "no", &[(1, 1)])];
        queue.take_in(&seen(quiet.to_vec()), "shop/inc-1", now());
        let flood =
            (0..500).map(|number| sighting("evil", "flood", &format!("line {number:03}"), &[(100 + number, 2)]));
        queue.take_in(&seen(flood.collect()), "evil/inc-2", now());
        let kept: Vec<&str> = queue.entries().iter().map(|entry| entry.workload.name.as_str()).collect();
        assert_eq!((kept.iter().filter(|name| **name == "flood").count(), kept.len()), (6, 8));
        assert_eq!(queue.dropped(), Dropped { templates: 494, lines: 988 });
        assert!(queue.entries().iter().any(|entry| entry.template == "line 499"), "the newest stay");
    }

    #[test]
    fn what_is_taught_leaves_the_queue_of_its_namespace_only() {
        let mut queue = Queue::default();
        let both = ["shop", "pay"].map(|namespace| sighting(namespace, "cart", "shard <*> is sealed", &[(1, 1)]));
        queue.take_in(&seen(both.to_vec()), "shop/inc-1", now());
        queue.learn("shop", |line| line.contains("is sealed"));
        assert_eq!(queue.namespaces().into_iter().collect::<Vec<_>>(), ["pay"]);
        assert_eq!(queue.bytes(), queue.entries()[0].bytes());
    }

    proptest! {
        /// Bounds hold after every step, nothing is lost uncounted, and whoever has one template keeps it.
        #[test]
        fn bounds_hold_under_hostile_floods(
            looks in proptest::collection::vec(
                proptest::collection::vec(
                    ("[ab]", "[a-d]", "[a-z<*>\u{202e}\u{0}é]{0,700}", 0u64..200, 0u64..u64::MAX, any::<u64>()), 0..20),
                0..12),
            beyond in any::<u64>(),
        ) {
            let mut queue = Queue::new(SMALL);
            queue.take_in(&seen(vec![sighting("good", "one", "kept", &[(1, 1)])]), "good/inc", now());
            for look in looks {
                let list = look.into_iter().map(|(namespace, workload, template, at, count, untimed)| Sighting {
                    untimed,
                    at: vec![(at, count), (at.saturating_mul(u64::MAX / 200), count)],
                    ..sighting(&namespace, &workload.repeat(600), &template, &[])
                });
                let list: Vec<Sighting> = list.collect();
                queue.take_in(&Sightings { list, beyond }, &"é".repeat(1_000), now());
                prop_assert!(queue.len() <= SMALL.templates && queue.bytes() <= SMALL.bytes);
                prop_assert_eq!(queue.bytes(), queue.entries().iter().map(|entry| entry.bytes()).sum::<usize>());
                let good = queue.entries().iter().any(|entry| entry.workload.namespace == "good");
                prop_assert!(good, "a flood of others pushed it out");
            }
        }
    }
}
