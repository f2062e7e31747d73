//! How much may be hurt at once: pods out of service, disruption budgets, who depends on the target, and what else the
//! changed files are rendered to.

use std::collections::BTreeSet;

use amend_diagnosis::entity::Entity;
use amend_diagnosis::evidence::Answer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::Gate;
use crate::percentage::CountOrShare;
use crate::policy::{Problems, quoted};
use crate::verdict::{GateName, Verdict};

/// Settings of the gate. They can only tighten the built-in bounds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BlastRadius {
    /// Serving pods that the rollout may take out of service at once, as a number or a share of the replicas.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 16))]
    pub max_unavailable: Option<String>,
    /// Workloads that reach the target over calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 10000))]
    pub max_dependents: Option<u32>,
}

/// The settings, read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlastRadiusRule {
    pub max_unavailable: Option<CountOrShare>,
    pub max_dependents: Option<u32>,
}

/// At most this share of the replicas may leave service at once, in percent: the other half must carry the load, which
/// is what capacity planning for the loss of one of two zones provides.
pub const MAX_UNAVAILABLE_PERCENT: u32 = 50;

/// A target with more dependents than this is shared platform, where a wrong change is an outage of its own; it is also
/// the most that a root-cause graph shows to people ([`amend_diagnosis::graph::NODES_MAX`]).
pub const MAX_DEPENDENTS: u32 = 25;

/// What the gate looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct BlastRadiusFacts {
    pub rollout: Answer<Rollout>,
    /// PodDisruptionBudgets that select the target's pods; an empty list means asked, and there is none.
    pub budgets: Answer<Vec<DisruptionBudget>>,
    /// Workloads that reach the target over calls, directly or not.
    pub dependents: Answer<Vec<Entity>>,
    /// Other workloads that change as well: the plan's files hold them too, or their pods read a ConfigMap that changes.
    pub readers: Answer<Vec<Entity>>,
    /// Who else renders the changed files, as `apps/staging` or `Kustomization flux-system/staging`; empty: nobody.
    pub elsewhere: Answer<Vec<String>>,
}

/// How the target replaces its pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rollout {
    /// Pods wanted.
    pub replicas: u32,
    /// Pods in service now.
    pub ready: u32,
    /// Pods that the strategy may keep out of service at once.
    pub max_unavailable: u32,
    /// Pods that the strategy may run beyond the replicas.
    pub max_surge: u32,
    /// Whether no pod is replaced as long as one is not ready: what a StatefulSet does (Kubernetes, "StatefulSets: forced rollback").
    pub waits_for_ready: bool,
}

/// How many pods of a group may be evicted now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisruptionBudget {
    pub name: String,
    pub disruptions_allowed: u32,
}

impl BlastRadius {
    pub(crate) fn compile(&self, path: &str, problems: &mut Problems) -> Option<BlastRadiusRule> {
        let max_unavailable = match &self.max_unavailable {
            Some(text) => Some(problems.keep(format!("{path}.maxUnavailable"), CountOrShare::parse(text))?),
            None => None,
        };
        Some(BlastRadiusRule { max_unavailable, max_dependents: self.max_dependents })
    }
}

/// The blast radius entries among a policy's gates; the tightest of each bound counts.
pub fn rules_among(gates: &[Gate]) -> Vec<BlastRadiusRule> {
    gates
        .iter()
        .filter_map(|gate| match gate {
            Gate::BlastRadius(rule) => Some(*rule),
            Gate::Permission | Gate::Environment | Gate::Rollback => None,
            Gate::Fits(_) | Gate::Cooldown(_) | Gate::Expression(_) => None,
        })
        .collect()
}

impl Rollout {
    /// Reads a Deployment, StatefulSet or DaemonSet, with the defaults of the API server.
    ///
    /// # Errors
    /// A clause that says what is missing or not understood.
    pub fn of(object: &Value) -> Result<Self, String> {
        let number = |pointer: &str| object.pointer(pointer).and_then(Value::as_u64).map(saturated);
        let kind = object.get("kind").and_then(Value::as_str).unwrap_or_default();
        let strategy = |field: &str| object.pointer(&format!("/spec/{field}/type")).and_then(Value::as_str);
        let (ready, replicas) = match kind {
            "DaemonSet" => (number("/status/numberAvailable"), number("/status/desiredNumberScheduled")),
            "Deployment" | "StatefulSet" => {
                (number("/status/readyReplicas"), Some(number("/spec/replicas").unwrap_or(1)))
            }
            other => return Err(format!("how a {} replaces its pods is not known", quoted(other))),
        };
        if object.get("status").is_none() {
            return Err("the target has no status".into());
        }
        if kind == "Deployment" && object.pointer("/spec/paused") == Some(&Value::Bool(true)) {
            return Err("the Deployment is paused and replaces no pod before somebody resumes it".into());
        }
        if let Some(from) = number("/spec/updateStrategy/rollingUpdate/partition").filter(|from| *from > 0) {
            return Err(format!("its partition {from} keeps the pods of lower ordinals as they are; set it to 0"));
        }
        let Some(replicas) = replicas else { return Err("the target does not say how many pods it wants".into()) };
        // The API server leaves the count out while it is zero.
        let ready = ready.unwrap_or(0);
        let bound = |field: &str, name: &str, default: &str, up: bool| {
            let found = object.pointer(&format!("/spec/{field}/rollingUpdate/{name}"));
            let text = match found {
                Some(Value::String(text)) => text.clone(),
                Some(Value::Number(number)) => number.to_string(),
                _ => default.to_owned(),
            };
            resolved(&text, replicas, up)
        };
        let (max_unavailable, max_surge) = match (kind, strategy("strategy"), strategy("updateStrategy")) {
            ("Deployment", Some("Recreate"), _) => (replicas, 0),
            ("Deployment", _, _) => {
                let surge = bound("strategy", "maxSurge", "25%", true)?;
                // Both zero would never move: the controller then lets one go.
                let unavailable = bound("strategy", "maxUnavailable", "25%", false)?;
                (if surge == 0 { unavailable.max(1) } else { unavailable }, surge)
            }
            (_, _, Some("OnDelete")) => return Err("the update strategy OnDelete replaces no pod by itself".into()),
            ("DaemonSet", _, _) => {
                (bound("updateStrategy", "maxUnavailable", "1", true)?, bound("updateStrategy", "maxSurge", "0", true)?)
            }
            _ => (bound("updateStrategy", "maxUnavailable", "1", true)?.max(1), 0),
        };
        let waits_for_ready = kind == "StatefulSet";
        Ok(Self { replicas, ready, max_unavailable: max_unavailable.min(replicas), max_surge, waits_for_ready })
    }

    /// Serving pods that the rollout can take out of service at once: pods that do not serve now lose nothing.
    pub fn taken(&self) -> u32 {
        self.ready.saturating_sub(self.replicas.saturating_sub(self.max_unavailable)).min(self.ready)
    }
}

fn saturated(number: u64) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// `25%` or `1` of the replicas; Kubernetes rounds maxSurge (and a DaemonSet's bounds) up and maxUnavailable down.
fn resolved(text: &str, replicas: u32, up: bool) -> Result<u32, String> {
    let Some(percent) = text.strip_suffix('%') else {
        return text.parse().map_err(|_| format!("{} is not a rollout bound", quoted(text)));
    };
    let percent: u64 = percent.parse().map_err(|_| format!("{} is not a rollout bound", quoted(text)))?;
    let product = u64::from(replicas).saturating_mul(percent);
    Ok(saturated(if up { product.div_ceil(100) } else { product / 100 }))
}

/// Judges four questions (unavailable, budgets, dependents, elsewhere), and whether a rollout gets under way where it may not.
pub fn evaluate(rules: &[BlastRadiusRule], facts: &BlastRadiusFacts) -> Vec<Verdict> {
    let mut verdicts =
        vec![unavailable(rules, &facts.rollout), budgets(facts), dependents(rules, facts), elsewhere(&facts.elsewhere)];
    verdicts.extend(facts.rollout.known().and_then(under_way));
    verdicts
}

const GATE: GateName = GateName::BlastRadius;

fn unavailable(rules: &[BlastRadiusRule], rollout: &Answer<Rollout>) -> Verdict {
    let rollout = match rollout {
        Answer::Known(rollout) => rollout,
        Answer::Unknown { why } => {
            return Verdict::unknown(GATE, "unavailable", format!("cannot tell how pods are replaced: {why}"));
        }
    };
    let Rollout { replicas, ready, max_surge, .. } = *rollout;
    let taken = rollout.taken();
    let built_in = saturated(u64::from(replicas) * u64::from(MAX_UNAVAILABLE_PERCENT) / 100);
    let allowed = rules.iter().filter_map(|rule| rule.max_unavailable).map(|bound| bound.of(replicas)).min();
    let allowed = allowed.unwrap_or(built_in).min(built_in);
    let share = (u64::from(taken) * 100).checked_div(u64::from(replicas)).unwrap_or(0);
    let numbers = format!(
        "the rollout takes at most {taken} of {ready} serving pods out of service at once \
         ({share}% of {replicas} replicas, {max_surge} extra)"
    );
    match taken <= allowed {
        true => Verdict::pass(GATE, "unavailable", format!("{numbers}; allowed are {allowed}")),
        false => Verdict::fail(
            GATE,
            "unavailable",
            format!(
                "{numbers}, but only {allowed} are allowed; use RollingUpdate with a lower maxUnavailable, or more replicas"
            ),
        ),
    }
}

/// A StatefulSet is not sure to take up what would mend its broken pods: people must know that before they merge.
fn under_way(rollout: &Rollout) -> Option<Verdict> {
    let Rollout { replicas, ready, .. } = *rollout;
    (rollout.waits_for_ready && ready < replicas).then(|| {
        let sentence = format!(
            "cannot tell whether the rollout gets under way: {} of {replicas} pods are not ready, and a StatefulSet replaces none \
             before all are; once the change is applied, delete the pods that stay so",
            replicas - ready
        );
        Verdict::unknown(GATE, "under-way", sentence).as_gap()
    })
}

fn budgets(facts: &BlastRadiusFacts) -> Verdict {
    let (rollout, budgets) = match (&facts.rollout, &facts.budgets) {
        (Answer::Known(rollout), Answer::Known(budgets)) => (rollout, budgets),
        (Answer::Unknown { why }, _) | (_, Answer::Unknown { why }) => {
            return Verdict::unknown(GATE, "budget", format!("cannot tell the room in disruption budgets: {why}"));
        }
    };
    let taken = rollout.taken();
    match budgets.iter().min_by_key(|budget| budget.disruptions_allowed) {
        None => Verdict::pass(GATE, "budget", "no PodDisruptionBudget covers the target"),
        Some(DisruptionBudget { name, disruptions_allowed }) if taken <= *disruptions_allowed => Verdict::pass(
            GATE,
            "budget",
            format!("PodDisruptionBudget {name} allows {disruptions_allowed} disruptions, the rollout needs {taken}"),
        ),
        Some(DisruptionBudget { name, disruptions_allowed }) => Verdict::fail(
            GATE,
            "budget",
            format!(
                "PodDisruptionBudget {name} allows {disruptions_allowed} disruptions now, the rollout needs {taken}; \
                 wait for pods to recover or lower the rollout's maxUnavailable"
            ),
        ),
    }
}

/// A shared base changes every environment that takes it in, and what happens there is not looked at: a reviewer can judge it,
/// nothing may be merged on it.
fn elsewhere(others: &Answer<Vec<String>>) -> Verdict {
    let others = match others {
        Answer::Known(others) => others,
        Answer::Unknown { why } => {
            let sentence = format!("cannot tell what else the changed files are rendered to: {why}");
            return Verdict::unknown(GATE, "elsewhere", sentence).as_gap();
        }
    };
    if others.is_empty() {
        return Verdict::pass(GATE, "elsewhere", "the changed files are rendered for the target's environment only");
    }
    let names: Vec<String> = others.iter().take(5).map(|one| quoted(one)).collect();
    let more = if others.len() > 5 { format!(" and {} more", others.len() - 5) } else { String::new() };
    let sentence = format!(
        "cannot tell what the change does elsewhere: {}{more} also render the changed files; review it for all of them, or \
         give the target's environment a file of its own",
        names.join(", ")
    );
    Verdict::unknown(GATE, "elsewhere", sentence).as_gap()
}

fn dependents(rules: &[BlastRadiusRule], facts: &BlastRadiusFacts) -> Verdict {
    let readers = match &facts.readers {
        Answer::Known(readers) => readers,
        Answer::Unknown { why } => {
            let sentence = format!("cannot tell who else changes with the target: {why}");
            return Verdict::unknown(GATE, "dependents", sentence);
        }
    };
    let dependents = match &facts.dependents {
        Answer::Known(list) => list,
        Answer::Unknown { why } => {
            let sentence = format!("cannot tell who depends on the target: {why}");
            return Verdict::unknown(GATE, "dependents", sentence).as_gap();
        }
    };
    let list: BTreeSet<&Entity> = readers.iter().chain(dependents).collect();
    let count = saturated(list.len() as u64);
    let depend = match (count, readers.is_empty()) {
        (1, true) => "workload depends on the target",
        (1, false) => "workload depends on the target or changes with it",
        (_, true) => "workloads depend on the target",
        (_, false) => "workloads depend on the target or change with it",
    };
    let allowed =
        rules.iter().filter_map(|rule| rule.max_dependents).min().unwrap_or(MAX_DEPENDENTS).min(MAX_DEPENDENTS);
    let names: Vec<_> = list.iter().take(5).map(|entity| entity.name.as_str()).collect();
    let more = if list.len() > 5 { ", ..." } else { "" };
    let who = if names.is_empty() { String::new() } else { format!(" ({}{more})", names.join(", ")) };
    match count <= allowed {
        true => Verdict::pass(GATE, "dependents", format!("{count} {depend}{who}; allowed are {allowed}")),
        false => Verdict::fail(
            GATE,
            "dependents",
            format!("{count} {depend}{who}, but only {allowed} are allowed by maxDependents"),
        ),
    }
}
