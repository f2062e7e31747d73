//! Alerts that are over, put through the rules that the intake applies to those that arrive: which incidents there would have been.
//!
//! Time is walked through once. At each start and each end of an alert the incidents that have been quiet for long enough are
//! closed, the alert is assigned, and incidents that turn out to be one are joined: [`assign`], [`keep`], [`joins`] and
//! [`cleared`] decide, as they do live.

use std::collections::BTreeMap;

use amend_diagnosis::entity::Entity;
use amend_diagnosis::incident::{Assignment, Clearing, Links, OpenIncident, Reach, assign, cleared, joins, keep};
use amend_diagnosis::signal::Signal;
use jiff::{SignedDuration, Timestamp};

/// How incidents are told apart: the controller's settings of the same names.
#[derive(Clone, Copy, Debug)]
pub struct Rules {
    pub group_window: SignedDuration,
    pub clear_for: SignedDuration,
}

/// An incident that there would have been.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    pub namespace: String,
    /// The entity of the first signal.
    pub entity: Entity,
    pub opened_at: Timestamp,
    /// When its last alert ended; `None`: one still fires.
    pub ended_at: Option<Timestamp>,
    /// The signals that it would have kept.
    pub signals: Vec<Signal>,
    /// Which alerts were put into it, by their place in the input.
    pub alerts: Vec<usize>,
}

struct Open {
    incident: OpenIncident<'static>,
    namespace: String,
    alerts: Vec<usize>,
}

/// Groups alerts whose entities are aligned. Each of them is in exactly one problem.
pub fn replay(alerts: &[Signal], links: &BTreeMap<String, Links>, rules: Rules) -> Vec<Problem> {
    let mut moments: Vec<(Timestamp, bool, usize)> = Vec::new();
    for (place, alert) in alerts.iter().enumerate() {
        moments.push((alert.started_at, true, place));
        moments.extend(alert.ended_at.map(|end| (end, false, place)));
    }
    // What ends at the moment at which something else begins has ended before; but nothing ends before it has begun.
    moments.sort_by_key(|(at, starts, place)| {
        let momentary = alerts[*place].ended_at == Some(alerts[*place].started_at);
        (*at, *starts && !momentary, *place, !*starts)
    });
    let none = Links::default();
    let mut open: Vec<Open> = Vec::new();
    let mut problems = Vec::new();
    for (now, starts, place) in moments {
        let over =
            |one: &mut Open| matches!(cleared(&one.incident.signals, rules.clear_for, now), Clearing::Cleared { .. });
        problems.extend(open.extract_if(.., over).map(closed));
        let alert = &alerts[place];
        let namespace = alert.entity.namespace.clone();
        let signal = match starts {
            true => Signal { ended_at: None, count: 1, ..alert.clone() },
            false => Signal { count: 1, ..alert.clone() },
        };
        let links = links.get(&namespace).unwrap_or(&none);
        let known: Vec<OpenIncident<'_>> = open.iter().map(|one| one.incident.borrowed()).collect();
        match assign(&signal, &known, &Reach::new(links), rules.group_window, now) {
            Assignment::Open { .. } => {
                let incident = OpenIncident { id: format!("{place:08}"), opened_at: now, signals: vec![signal].into() };
                open.push(Open { incident, namespace: namespace.clone(), alerts: vec![place] });
            }
            Assignment::Join { incident, .. } | Assignment::Repeat { incident, .. } => {
                if let Some(one) = open.iter_mut().find(|one| one.incident.id == incident) {
                    keep(one.incident.signals.to_mut(), signal);
                    if starts {
                        one.alerts.push(place);
                    }
                }
            }
            // The end of a signal that its incident had no room for.
            Assignment::Drop { .. } => {}
        }
        join(&mut open, &namespace, links, rules.group_window, now);
    }
    problems.extend(open.into_iter().map(closed));
    problems.sort_by(|left, right| (left.opened_at, &left.alerts).cmp(&(right.opened_at, &right.alerts)));
    problems
}

/// Incidents of one namespace that turned out to be one: the younger one's signals go to the older one.
fn join(open: &mut Vec<Open>, namespace: &str, links: &Links, window: SignedDuration, now: Timestamp) {
    let here: Vec<OpenIncident<'_>> =
        open.iter().filter(|one| one.namespace == namespace).map(|one| one.incident.borrowed()).collect();
    if here.len() < 2 {
        return;
    }
    for joining in joins(&here, links, window, now) {
        let Some(place) = open.iter().position(|one| one.incident.id == joining.younger) else { continue };
        let younger = open.remove(place);
        let Some(older) = open.iter_mut().find(|one| one.incident.id == joining.older) else { continue };
        for signal in younger.incident.signals.into_owned() {
            if !older.incident.signals.iter().any(|kept| kept.key == signal.key) {
                keep(older.incident.signals.to_mut(), signal);
            }
        }
        older.alerts.extend(younger.alerts);
    }
}

fn closed(mut open: Open) -> Problem {
    open.alerts.sort_unstable();
    let signals = open.incident.signals.into_owned();
    let ends: Option<Vec<Timestamp>> = signals.iter().map(|signal| signal.ended_at).collect();
    let first = signals.iter().min_by_key(|signal| (signal.started_at, signal.key.clone()));
    let nothing = || Entity::new(amend_diagnosis::entity::EntityKind::Namespace, "", &open.namespace);
    Problem {
        entity: first.map_or_else(nothing, |signal| signal.entity.workload()),
        namespace: open.namespace.clone(),
        opened_at: open.incident.opened_at,
        ended_at: ends.and_then(|ends| ends.into_iter().max()),
        alerts: open.alerts,
        signals,
    }
}

#[cfg(test)]
mod tests;
