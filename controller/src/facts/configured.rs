//! What a plan changes besides its target: other workloads, and ConfigMaps with whoever reads and holds them.

use std::collections::BTreeSet;

use amend_crds::HOLD_ANNOTATION;
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Answer;
use amend_policies::configuration::read_by;
use amend_policies::gate::environment::Hold;
use amend_policies::plan::{LiveChange, Plan};

use crate::cluster::Look;
use crate::watch::configured::Configured;

/// Other workloads that change as well: the plan's files hold them too, or their pods read a ConfigMap that the plan changes.
pub fn readers(plan: &Plan, look: &Look) -> Answer<Vec<Entity>> {
    let target = plan.target.entity.workload();
    let mut found = changed_too(plan);
    if plan.configurations.is_empty() {
        return Answer::Known(found);
    }
    if let Some(why) = READING.iter().find_map(|(_, _, plural)| look.unread(plural)) {
        return Answer::Unknown { why };
    }
    let changed: Vec<(EntityKind, String)> =
        plan.configurations.iter().map(|one| (EntityKind::ConfigMap, one.object.name.clone())).collect();
    let reading = look.objects.iter().filter_map(|object| {
        let (_, kind, _) = READING.iter().find(|(name, _, _)| object["kind"] == *name)?;
        // A ReplicaSet of a Deployment and a Job of a CronJob are the same pods once more.
        let owned = object["metadata"]["ownerReferences"].as_array().is_some_and(|owners| !owners.is_empty());
        let read = read_by(object);
        let reads = !owned && changed.iter().any(|place| read.contains_key(place));
        let entity = Entity::new(*kind, &plan.target.namespace, object["metadata"]["name"].as_str()?);
        (reads && entity != target).then_some(entity)
    });
    found.extend(reading);
    found.dedup();
    Answer::Known(found)
}

/// Workloads besides the target that a plan changes, each once.
fn changed_too(plan: &Plan) -> Vec<Entity> {
    let target = plan.target.object();
    let entity = |change: LiveChange| {
        let (_, kind, _) = READING.iter().find(|(name, _, _)| change.object.kind == *name)?;
        (!change.is_of(&target)).then(|| Entity::new(*kind, &plan.target.namespace, &change.object.name))
    };
    plan.live_changes().into_iter().filter_map(entity).collect::<BTreeSet<_>>().into_iter().collect()
}

/// Kinds with a pod template, which may read a ConfigMap: how they are called in objects and in lists.
const READING: [(&str, EntityKind, &str); 6] = [
    ("Deployment", EntityKind::Deployment, "deployments"),
    ("StatefulSet", EntityKind::StatefulSet, "statefulsets"),
    ("DaemonSet", EntityKind::DaemonSet, "daemonsets"),
    ("ReplicaSet", EntityKind::ReplicaSet, "replicasets"),
    ("Job", EntityKind::Job, "jobs"),
    ("CronJob", EntityKind::CronJob, "cronjobs"),
];

/// `amend.dev/hold` on a ConfigMap counts as on the target.
pub fn with_holds(holds: Answer<Vec<Hold>>, configured: &Answer<Vec<Configured>>) -> Answer<Vec<Hold>> {
    match (holds, configured) {
        (Answer::Known(mut holds), Answer::Known(configured)) => {
            holds.extend(configured.iter().filter_map(|one| {
                let annotation = &one.live.as_ref()?["metadata"]["annotations"][HOLD_ANNOTATION];
                Some(Hold { on: one.configuration.object.to_string(), reason: annotation.as_str()?.to_owned() })
            }));
            Answer::Known(holds)
        }
        (Answer::Unknown { why }, _) => Answer::Unknown { why },
        (_, Answer::Unknown { why }) => Answer::unknown(why.clone()),
    }
}
