//! `TelemetrySource`: whether the store answers, and what to change when it does not.

use std::sync::Arc;
use std::time::Duration;

use amend_crds::TelemetrySource;
use amend_crds::condition::{self, Claim};
use amend_crds::telemetrysource::SourceKind;
use jiff::{SignedDuration, Timestamp};

use crate::census::Counted;
use crate::effects::EffectError;
use crate::errors;
use crate::reconcile::{Control, Decision, GatherError};
use crate::shell::Shell;
use crate::unknown_lines;

/// How often a source is probed. Fresh enough to show trouble before an incident needs it, rare enough to cost nothing.
const PROBE_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// See the module.
#[derive(Debug)]
pub struct TelemetrySourceControl;

/// What a probe found.
#[derive(Debug)]
pub struct Probed {
    object: TelemetrySource,
    /// The answer's time, or a sentence and whether the spec itself is at fault.
    outcome: Result<Duration, (String, bool)>,
    now: Timestamp,
}

impl Control for TelemetrySourceControl {
    type Kind = TelemetrySource;
    type Snapshot = Probed;
    type Effect = std::convert::Infallible;
    const NAME: &'static str = "telemetrysource";

    async fn gather(shell: &Arc<Shell>, object: TelemetrySource) -> Result<Probed, GatherError> {
        let outcome = match shell.sources.open(&object).await {
            Err(problem) => Err((errors::chain(&problem), true)),
            Ok(source) => {
                let told = source.probe().await;
                if !object.spec.logs.is_empty() {
                    unknown_lines::learn(shell).await;
                }
                told.outcome.map_err(|error| (error.why(&source.config().name), false))
            }
        };
        Ok(Probed { object, outcome, now: shell.time.now() })
    }

    fn decide(probed: &Probed) -> Decision<TelemetrySource, Self::Effect> {
        let mut changed = probed.object.clone();
        let mut status = changed.status.take().unwrap_or_default();
        let before = status.clone();
        let claims = match &probed.outcome {
            Ok(took) => {
                status.last_error.clear();
                // Rounded, so that a status is not written at every probe.
                let millis = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
                status.latency = if millis < 100 { "<100ms".to_owned() } else { format!("{}00ms", millis / 100) };
                vec![Claim::new(condition::READY, Some(true), "Answers", "the store answers")]
            }
            Err((why, wrong_spec)) => {
                status.last_error.clone_from(why);
                let reason = if *wrong_spec { "WrongSpec" } else { "NoAnswer" };
                let pending = if *wrong_spec { condition::STALLED } else { condition::RECONCILING };
                vec![
                    Claim::new(condition::READY, Some(false), reason, why.clone()),
                    Claim::new(pending, Some(true), reason, why.clone()),
                ]
            }
        };
        status.observed_generation = changed.metadata.generation;
        status.conditions = condition::settled(&before.conditions, &claims, changed.metadata.generation, probed.now);
        if status != before && probed.outcome.is_ok() {
            status.last_answer_at = Some(probed.now);
        }
        let differs = status != before;
        changed.status = Some(status);
        Decision { write: differs.then_some(changed), effects: Vec::new(), wake: Some(PROBE_EVERY) }
    }

    fn counted(object: &TelemetrySource) -> Option<Counted> {
        let kind = match object.spec.kind {
            SourceKind::Prometheus => "Prometheus",
            SourceKind::Alertmanager => "Alertmanager",
            SourceKind::Jaeger => "Jaeger",
            SourceKind::Tempo => "Tempo",
            SourceKind::Loki => "Loki",
            SourceKind::OpenSearch => "OpenSearch",
            SourceKind::OtlpFiles => "OtlpFiles",
        };
        let conditions = object.status.iter().flat_map(|status| &status.conditions);
        let mut ready = conditions.filter(|one| one.type_ == condition::READY);
        Some(Counted::Source { kind, ready: ready.any(|one| one.status == "True") })
    }

    async fn perform(_: &Arc<Shell>, _: &TelemetrySource, _: &Probed, effect: Self::Effect) -> Result<(), EffectError> {
        match effect {}
    }
}
