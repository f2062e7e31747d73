//! The ConfigMaps that a plan changes: as they are in the cluster, and whether the target's pods have taken them up.

use amend_diagnosis::evidence::{Answer, Window};
use amend_execution::snapshot::RolloutState;
use amend_policies::plan::{Configuration, Plan, first_missing};
use jiff::Timestamp;
use serde_json::Value;

use super::gitops::rollout;
use crate::cluster::{self, Read};
use crate::owner;
use crate::shell::Shell;

/// A ConfigMap that a plan changes, as it is in the cluster; `None`: it is not there.
#[derive(Clone, Debug)]
pub struct Configured {
    pub configuration: Configuration,
    pub live: Option<Value>,
}

impl Configured {
    pub fn is_planned(&self, plan: &Plan) -> bool {
        first_missing(&plan.expected_of(&self.configuration), self.live.as_ref()).is_none()
    }

    pub fn is_as_before(&self, plan: &Plan) -> bool {
        first_missing(&plan.before_of(&self.configuration), self.live.as_ref()).is_none()
    }
}

/// The ConfigMaps that a plan changes, read live; nothing is asked for a plan without any.
pub async fn read(shell: &Shell, plan: &Plan) -> Answer<Vec<Configured>> {
    let client = shell.clients.reader();
    let mut found = Vec::new();
    for configuration in &plan.configurations {
        let object = &configuration.object;
        let Some(kind) = Read::of(&object.api_version, &object.kind) else {
            return Answer::unknown(format!("{} is not a kind that Amend reads", object.kind));
        };
        match cluster::get(&client, kind, &object.namespace, &object.name).await {
            Answer::Known(live) => found.push(Configured { configuration: configuration.clone(), live }),
            Answer::Unknown { why } => return Answer::Unknown { why },
        }
    }
    Answer::Known(found)
}

/// The rollout of a change, which is not over before the pods have taken up the ConfigMaps that changed.
pub async fn taken_up(shell: &Shell, plan: &Plan, target: &Answer<Value>, now: Timestamp) -> Answer<RolloutState> {
    let mut state = match rollout(target) {
        Answer::Known(state) if state.complete && !plan.configurations.is_empty() => state,
        other => return other,
    };
    let configured = match read(shell, plan).await {
        Answer::Known(configured) => configured,
        Answer::Unknown { why } => return Answer::Unknown { why },
    };
    let pods = match pods_of(shell, plan, target, now).await {
        Answer::Known(pods) => pods,
        Answer::Unknown { why } => return Answer::Unknown { why },
    };
    for one in &configured {
        // What is taken away is in nobody's way.
        let Some(live) = &one.live else { continue };
        match one.configuration.not_taken_up(live, &pods, now) {
            Ok(None) => {}
            Ok(Some(why)) => {
                state.complete = false;
                state.stuck = Some(why);
                break;
            }
            Err(why) => return Answer::Unknown { why },
        }
    }
    Answer::Known(state)
}

/// The pods that a workload selects and that are not on their way out.
async fn pods_of(shell: &Shell, plan: &Plan, target: &Answer<Value>, now: Timestamp) -> Answer<Vec<Value>> {
    let (Answer::Known(target), Some(read)) = (target, Read::of_kind("Pod")) else {
        return Answer::unknown("the target cannot be read");
    };
    let window = Window { from: now, to: now };
    let (answer, _) = cluster::list(&shell.clients.reader(), read, Some(&plan.target.namespace), window).await;
    answer.map(|pods| {
        let own = |pod: &Value| owner::selects(&target["spec"]["selector"], &pod["metadata"]["labels"]);
        pods.into_iter().filter(|pod| own(pod) && pod["metadata"]["deletionTimestamp"].is_null()).collect()
    })
}
