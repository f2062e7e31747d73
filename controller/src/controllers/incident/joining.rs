//! An incident that turns out to be part of an older one: first its signals go there, then it ends as `Joined`.

use std::sync::Arc;

use amend_crds::Incident;
use amend_crds::reference::NamespacedName;
use amend_diagnosis::incident::{Kept, OpenIncident, SIGNALS_MAX, joins, keep};
use amend_diagnosis::signal::Signal;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::{Api, ListParams};

use crate::effects::EffectError;
use crate::reconcile::GatherError;
use crate::shell::Shell;

/// The older incident that this one turns out to be part of.
pub async fn older(
    shell: &Shell,
    object: &Incident,
    signals: &[Signal],
    now: Timestamp,
) -> Result<Option<Incident>, GatherError> {
    let namespace = object.namespace().unwrap_or_default();
    let api: Api<Incident> = Api::namespaced(shell.clients.reader(), &namespace);
    let list = api
        .list(&ListParams::default())
        .await
        .map_err(|error| GatherError::unreadable(format!("incidents of {namespace}"), error))?;
    let open: Vec<OpenIncident<'_>> = list
        .items
        .iter()
        .filter(|one| !one.status.as_ref().map(|status| status.phase).unwrap_or_default().is_end())
        .map(|one| OpenIncident {
            id: one.name_any(),
            opened_at: one.metadata.creation_timestamp.as_ref().map_or(now, |time| time.0),
            signals: match (one.name_any() == object.name_any(), &one.status) {
                (true, _) => signals.into(),
                (false, Some(status)) if !status.signals.is_empty() => status.signals.as_slice().into(),
                (false, _) => one.spec.signals.as_slice().into(),
            },
        })
        .collect();
    if open.len() < 2 {
        return Ok(None);
    }
    let picture = shell.topologies.of(&shell.clients.reader(), &shell.sources, &namespace, now).await;
    let joined = joins(&open, &picture.links, shell.settings.group_window, now);
    let joining = joined.into_iter().find(|one| one.younger == object.name_any());
    Ok(joining.and_then(|joining| list.items.into_iter().find(|one| one.name_any() == joining.older)))
}

/// Whether an incident has taken over everything that a part of it has heard, as far as its list has room.
pub fn has_all_of(older: &Incident, part: &str, signals: &[Signal]) -> bool {
    let Some(status) = &older.status else { return false };
    let has = |signal: &Signal| status.signals.iter().any(|kept| kept.key == signal.key);
    status.parts.iter().any(|one| one == part) && (status.signals.len() >= SIGNALS_MAX || signals.iter().all(has))
}

/// Gives the older incident the signals of the one that is part of it: once, however often it is asked to.
pub async fn hand_over(shell: &Arc<Shell>, object: &Incident, older: &NamespacedName) -> Result<(), EffectError> {
    let api: Api<Incident> = Api::namespaced(shell.clients.reader(), &older.namespace);
    let Ok(incident) = api.get(&older.name).await else { return Ok(()) };
    if incident.status.as_ref().is_some_and(|status| status.phase.is_end()) {
        return Ok(());
    }
    shell.effects.write_status(&with_part(incident, object)).await?;
    shell.nudges.nudge("incident", &older.namespace, &older.name);
    shell.nudges.nudge("incident", &older.namespace, &object.name_any());
    Ok(())
}

/// The older incident with the signals of its part; all that the part has counted is counted once.
fn with_part(mut older: Incident, part: &Incident) -> Incident {
    let mut status = older.status.take().unwrap_or_default();
    let theirs = part.status.clone().unwrap_or_default();
    let is_new = !status.parts.contains(&part.name_any());
    if is_new {
        status.parts.push(part.name_any());
        status.signal_count = status.signal_count.saturating_add(theirs.signal_count);
        status.signals_not_kept = status.signals_not_kept.saturating_add(theirs.signals_not_kept);
    }
    let signals = if theirs.signals.is_empty() { &part.spec.signals } else { &theirs.signals };
    for signal in signals {
        if status.signals.iter().any(|kept| kept.key == signal.key) {
            continue;
        }
        if !is_new {
            status.signal_count = status.signal_count.saturating_add(signal.count.max(1));
        }
        if keep(&mut status.signals, signal.clone()) == Kept::Beyond && is_new {
            status.signals_not_kept = status.signals_not_kept.saturating_add(1);
        }
    }
    status.severity = status.severity.max(Some(part.severity()));
    status.last_signal_at = status.last_signal_at.max(theirs.last_signal_at);
    older.status = Some(status);
    older.graded()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use amend_crds::{IncidentSpec, IncidentStatus};
    use amend_diagnosis::entity::{Entity, EntityKind};
    use amend_diagnosis::signal::{Severity, SignalSource};

    use super::*;

    fn signal(key: &str, count: u32) -> Signal {
        Signal {
            key: key.into(),
            source: SignalSource::Alert,
            name: key.into(),
            entity: Entity::new(EntityKind::Deployment, "shop", "checkout"),
            severity: Severity::Warning,
            started_at: Timestamp::UNIX_EPOCH,
            ended_at: None,
            summary: String::new(),
            labels: BTreeMap::new(),
            count,
        }
    }

    fn incident(name: &str, signals: Vec<Signal>) -> Incident {
        let first = vec![signals[0].clone()];
        let spec = IncidentSpec { entity: signals[0].entity.clone(), severity: Severity::Warning, signals: first };
        let mut incident = Incident::new(name, spec);
        let signal_count = signals.iter().map(|signal| signal.count).sum();
        incident.status = Some(IncidentStatus { signals, signal_count, ..IncidentStatus::default() });
        incident
    }

    #[test]
    fn what_a_part_has_heard_is_counted_once_however_often_it_is_handed_over() {
        let older = incident("old", vec![signal("a", 2)]);
        let part = incident("young", vec![signal("a", 1), signal("b", 3)]);
        assert!(!has_all_of(&older, "young", &part.status.as_ref().unwrap().signals));
        let once = with_part(older, &part);
        let twice = with_part(once.clone(), &part);
        assert_eq!(once.status, twice.status);
        let status = once.status.clone().unwrap();
        assert_eq!((status.signal_count, status.signals.len()), (6, 2));
        assert!(has_all_of(&once, "young", &part.status.unwrap().signals));
    }

    #[test]
    fn what_a_part_hears_while_it_is_handed_over_follows() {
        let older = with_part(incident("old", vec![signal("a", 1)]), &incident("young", vec![signal("b", 1)]));
        let part = incident("young", vec![signal("b", 1), signal("c", 1)]);
        assert!(!has_all_of(&older, "young", &part.status.as_ref().unwrap().signals));
        let status = with_part(older, &part).status.unwrap();
        assert_eq!((status.signal_count, status.signals.len()), (3, 3));
    }

    #[test]
    fn an_incident_becomes_as_grave_as_its_part() {
        let mut part = incident("young", vec![signal("b", 1)]);
        part.status.as_mut().unwrap().severity = Some(Severity::Critical);
        let older = with_part(incident("old", vec![signal("a", 1)]), &part);
        assert_eq!(older.status.unwrap().severity, Some(Severity::Critical), "by a signal that had no room there");
    }
}
