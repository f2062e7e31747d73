//! Reads and bounds what the author wrote; every refusal is a sentence that says what to change.

use std::collections::{BTreeMap, BTreeSet};

use jiff::SignedDuration;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Autonomy, GoldenMetric, Match, Policy, RollbackOn, RollbackVia, TargetKind};
use crate::action::Action;
use crate::gate::Gate;
use crate::percentage::Percentage;
use crate::{duration, plan::AbortSignal, plan::Escalate, plan::RollbackRule};

/// Something in a policy that must be changed before it can be used.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PolicyProblem {
    /// Where, as in `gates[2].cooldown.for`.
    pub path: String,
    /// What is wrong and what to write instead.
    pub sentence: String,
}

/// A policy with every text read and every bound checked.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledPolicy {
    pub matches: CompiledMatch,
    pub autonomy: Autonomy,
    pub service_account_name: String,
    pub gates: Vec<Gate>,
    /// Never empty.
    pub steps: Vec<CompiledStep>,
    pub sla: Sla,
    pub abort_when: Vec<AbortSignal>,
    pub verify: Verification,
    pub rollback: RollbackRule,
    pub escalate: Vec<Escalate>,
    pub suspend: bool,
}

/// Which causes on which targets.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledMatch {
    pub causes: BTreeSet<String>,
    pub targets: Vec<CompiledTarget>,
    pub min_confidence: f64,
}

/// A group of workloads; has a name or at least one label.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompiledTarget {
    pub kind: TargetKind,
    pub name: Option<String>,
    pub labels: BTreeMap<String, String>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub struct CompiledStep {
    pub name: String,
    pub action: Action,
}

/// How long each phase may take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sla {
    #[serde(with = "duration::text")]
    #[schemars(with = "String")]
    pub diagnose: SignedDuration,
    #[serde(with = "duration::text")]
    #[schemars(with = "String")]
    pub merge: SignedDuration,
    #[serde(with = "duration::text")]
    #[schemars(with = "String")]
    pub reconcile: SignedDuration,
    #[serde(with = "duration::text")]
    #[schemars(with = "String")]
    pub rollout: SignedDuration,
    #[serde(with = "duration::text")]
    #[schemars(with = "String")]
    pub recover: SignedDuration,
}

/// The limits of a policy that names none.
///
/// Diagnosis is computing, so seconds; a merge waits for people who sleep, so a day; reconcilers poll every few minutes and
/// rollouts of a dozen pods take as long, so ten minutes each.
impl Default for Sla {
    fn default() -> Self {
        Self {
            diagnose: SignedDuration::from_secs(30),
            merge: SignedDuration::from_hours(24),
            reconcile: SignedDuration::from_mins(10),
            rollout: SignedDuration::from_mins(10),
            recover: SignedDuration::from_mins(10),
        }
    }
}

/// How success is judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// The least time to watch; none leaves it to three times the failure interval, which is never undercut.
    #[serde(default, with = "settle", skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>")]
    pub settle: Option<SignedDuration>,
    /// Never empty.
    pub golden: Vec<GoldenMetric>,
}

/// An optional duration as text.
mod settle {
    use jiff::SignedDuration;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(settle: &Option<SignedDuration>, serializer: S) -> Result<S::Ok, S::Error> {
        match settle {
            Some(duration) => serializer.serialize_str(&crate::duration::show(*duration)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SignedDuration>, D::Error> {
        let text = Option::<String>::deserialize(deserializer)?;
        text.map(|text| crate::duration::parse(&text).map_err(D::Error::custom)).transpose()
    }
}

/// Untrusted text in double quotes for a sentence: no control or direction characters, at most 40 characters.
pub fn quoted(text: &str) -> String {
    let clean = cleaned(text, 41);
    match clean.char_indices().nth(40) {
        Some((end, _)) => format!("\"{}...\"", &clean[..end]),
        None => format!("\"{clean}\""),
    }
}

/// The first characters of untrusted text without those that hide, move or control: what an eye can check.
pub fn cleaned(text: &str, most: usize) -> String {
    let hidden = |letter: &char| {
        letter.is_control()
            || matches!(letter, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().filter(|letter| !hidden(letter)).take(most).collect()
}

/// Collects problems under a path.
pub(crate) struct Problems {
    found: Vec<PolicyProblem>,
}

impl Problems {
    pub(crate) fn add(&mut self, path: impl Into<String>, sentence: impl Into<String>) {
        self.found.push(PolicyProblem { path: path.into(), sentence: sentence.into() });
    }

    /// Keeps a value, or the reason why there is none.
    pub(crate) fn keep<T>(&mut self, path: impl Into<String>, read: Result<T, String>) -> Option<T> {
        read.map_err(|sentence| self.add(path, sentence)).ok()
    }
}

impl Policy {
    /// Reads every text and checks every bound.
    ///
    /// # Errors
    /// All problems at once, in the order of the fields.
    pub fn compile(&self) -> Result<CompiledPolicy, Vec<PolicyProblem>> {
        let mut problems = Problems { found: Vec::new() };
        let matches = self.compile_match(&mut problems);
        if self.service_account_name.trim().is_empty() {
            problems.add("serviceAccountName", "name the service account whose rights bound this policy");
        } else if !is_dns_name(&self.service_account_name) {
            let name = quoted(&self.service_account_name);
            problems.add("serviceAccountName", format!("{name} is not the name of a service account"));
        }
        let gates = self.compile_gates(&mut problems);
        let steps = self.compile_steps(&mut problems);
        let sla = self.compile_sla(&mut problems);
        let abort_when = self.compile_abort(&mut problems);
        let verify = self.compile_verify(&sla, &mut problems);
        let rollback = self.compile_rollback(&mut problems);
        let escalate = self.compile_escalate(&mut problems);
        if !problems.found.is_empty() {
            return Err(problems.found);
        }
        Ok(CompiledPolicy {
            matches,
            autonomy: self.autonomy,
            service_account_name: self.service_account_name.clone(),
            gates,
            steps,
            sla,
            abort_when,
            verify,
            rollback,
            escalate,
            suspend: self.suspend,
        })
    }

    fn compile_match(&self, problems: &mut Problems) -> CompiledMatch {
        let Match { causes, targets, min_confidence } = &self.matches;
        if causes.is_empty() {
            problems.add("match.causes", "name at least one cause: an empty list matches nothing");
        }
        for (position, cause) in causes.iter().enumerate() {
            if !is_cause(cause) {
                let cause = quoted(cause);
                problems.add(
                    format!("match.causes[{position}]"),
                    format!("{cause} is not a cause; causes are written like container.oom-killed"),
                );
            }
        }
        if targets.is_empty() {
            problems.add("match.targets", "name at least one target: an empty list matches nothing");
        }
        let targets = targets.iter().enumerate().map(|(position, target)| {
            let labels = target.selector.clone().unwrap_or_default().match_labels;
            if labels.is_empty() && target.name.as_deref().is_none_or(str::is_empty) {
                problems.add(
                    format!("match.targets[{position}]"),
                    "give a name or at least one label in selector.matchLabels: an empty selector matches nothing",
                );
            }
            CompiledTarget { kind: target.kind, name: target.name.clone(), labels }
        });
        let targets = targets.collect();
        if !(*min_confidence > 0.0 && *min_confidence <= 1.0) {
            problems.add(
                "match.minConfidence",
                format!("{min_confidence} is not a confidence: write a number above 0 and at most 1, such as 0.8"),
            );
        }
        CompiledMatch { causes: causes.iter().cloned().collect(), targets, min_confidence: *min_confidence }
    }

    fn compile_gates(&self, problems: &mut Problems) -> Vec<Gate> {
        let mut gates = Vec::new();
        for (position, settings) in self.gates.iter().enumerate() {
            gates.extend(settings.compile(&format!("gates[{position}]"), problems));
        }
        gates
    }

    fn compile_steps(&self, problems: &mut Problems) -> Vec<CompiledStep> {
        if self.steps.is_empty() {
            problems.add("steps", "name at least one step: a policy without steps does nothing");
        }
        let mut seen = BTreeSet::new();
        let mut steps = Vec::new();
        for (position, step) in self.steps.iter().enumerate() {
            let path = format!("steps[{position}]");
            if !is_dns_name(&step.name) || step.name.len() > 63 {
                problems.add(
                    format!("{path}.name"),
                    format!(
                        "{} is not a step name: use letters, digits and -, such as raise-limit",
                        quoted(&step.name)
                    ),
                );
            }
            if !seen.insert(&step.name) {
                problems.add(
                    format!("{path}.name"),
                    format!("two steps are called {}; give each its own name", quoted(&step.name)),
                );
            }
            if let Some(action) = step.git.compile(&format!("{path}.git"), problems) {
                steps.push(CompiledStep { name: step.name.clone(), action });
            }
        }
        steps
    }

    fn compile_sla(&self, problems: &mut Problems) -> Sla {
        let (settings, default) = (self.sla.clone().unwrap_or_default(), Sla::default());
        let mut read = |field: &str, text: Option<String>, default| match text {
            Some(text) => problems.keep(format!("sla.{field}"), duration::parse(&text)).unwrap_or(default),
            None => default,
        };
        Sla {
            diagnose: read("diagnose", settings.diagnose, default.diagnose),
            merge: read("merge", settings.merge, default.merge),
            reconcile: read("reconcile", settings.reconcile, default.reconcile),
            rollout: read("rollout", settings.rollout, default.rollout),
            recover: read("recover", settings.recover, default.recover),
        }
    }

    fn compile_abort(&self, problems: &mut Problems) -> Vec<AbortSignal> {
        let mut signals: Vec<AbortSignal> = Vec::new();
        for (position, wanted) in self.abort_when.iter().enumerate() {
            if signals.iter().any(|signal| signal.metric == wanted.metric) {
                problems.add(
                    format!("abortWhen[{position}].metric"),
                    format!("{} is listed twice; keep one", wanted.metric.name()),
                );
            }
            let path = format!("abortWhen[{position}].increase");
            if let Some(increase) = problems.keep(path, Percentage::parse(&wanted.increase)) {
                signals.push(AbortSignal { metric: wanted.metric, increase });
            }
        }
        signals
    }

    fn compile_verify(&self, sla: &Sla, problems: &mut Problems) -> Verification {
        let Some(verify) = &self.verify else {
            let golden = vec![GoldenMetric::ErrorRatio, GoldenMetric::Restarts];
            return Verification { settle: None, golden };
        };
        if verify.golden.is_empty() {
            problems.add("verify.golden", "name at least one metric: without one nothing can be called a success");
        }
        let settle = match verify.settle.as_str() {
            "auto" => None,
            text => {
                let read = duration::parse(text).map_err(|sentence| format!("{sentence}, or auto"));
                problems.keep("verify.settle", read)
            }
        };
        if let Some(settle) = settle
            && settle > sla.recover
        {
            let (settle, recover) = (duration::show(settle), duration::show(sla.recover));
            problems.add("verify.settle", format!("watching for {settle} never ends within sla.recover of {recover}; raise sla.recover or lower settle"));
        }
        let mut golden = verify.golden.clone();
        golden.sort();
        golden.dedup();
        Verification { settle, golden }
    }

    fn compile_rollback(&self, problems: &mut Problems) -> RollbackRule {
        // Measured harm is undone unless the author says otherwise; doubt is not.
        let default = || BTreeSet::from([RollbackOn::Aborted, RollbackOn::VerificationFailed]);
        match &self.rollback {
            None => RollbackRule { on: default(), via: RollbackVia::default() },
            Some(rollback) => {
                if rollback.when.is_empty() {
                    problems.add(
                        "rollback.when",
                        "name at least one outcome, such as Aborted: with none the change is never taken back",
                    );
                }
                RollbackRule { on: rollback.when.iter().copied().collect(), via: rollback.via }
            }
        }
    }

    fn compile_escalate(&self, problems: &mut Problems) -> Vec<Escalate> {
        let mut steps = Vec::new();
        for (position, wanted) in self.escalate.iter().enumerate() {
            if wanted.notify.is_empty() {
                problems.add(format!("escalate[{position}].notify"), "name at least one receiver, such as oncall");
            }
            if let Some(after) = problems.keep(format!("escalate[{position}].after"), duration::parse(&wanted.after)) {
                steps.push(Escalate { after, notify: wanted.notify.clone() });
            }
        }
        steps
    }
}

/// `family.failure`, lower case with dashes.
fn is_cause(text: &str) -> bool {
    let part = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 128 && text.contains('.') && text.split('.').all(part)
}

/// A DNS subdomain as Kubernetes names objects (RFC 1123).
pub(crate) fn is_dns_name(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'.');
    let edge = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    text.len() <= 253 && text.bytes().all(inner) && edge(text.bytes().next()) && edge(text.bytes().last())
}
