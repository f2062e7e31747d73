//! Golden metrics of a workload before and after, in the words of the execution room.

use std::sync::Arc;
use std::time::Duration;

use amend_diagnosis::diagnosis::Cause;
use amend_diagnosis::entity::Entity;
use amend_diagnosis::evidence::{Answer, LinkKind, Window};
use amend_diagnosis::signal::Signal;
use amend_execution::verify::{
    AbortReading, AbortRule, GoldenSamples, Increase, Judgement, Relation, SAMPLE_EVERY, Sample, Verification,
    VerifyInput, abort_breached, judgement_of, longest_pause, settle, verify,
};
use amend_policies::plan::{AbortSignal, Plan};
use amend_policies::policy::GoldenMetric;
use amend_telemetry::golden::{Golden, golden};
use amend_telemetry::questions::Target;
use amend_telemetry::source::SourceKind;
use jiff::{SignedDuration, Timestamp};

use crate::shell::Shell;

/// Deadline of all questions of one judgement.
const ASKED_WITHIN: Duration = Duration::from_secs(10);

/// The healthy time that a verdict compares with. An hour holds a daily pattern still and gives 120 samples at 30 s.
const HEALTHY: SignedDuration = SignedDuration::from_hours(1);

/// How long before the first signal trouble may have begun: alerts wait for their `for` and for a rate window.
const BEFORE_SIGNALS: SignedDuration = SignedDuration::from_mins(5);

/// A change older than this before the first signal does not mark the onset.
const ONSET_AFTER_CHANGE: SignedDuration = SignedDuration::from_hours(2);

/// How much time before a change acts tells the level that an abort signal compares with.
const BEFORE: SignedDuration = SignedDuration::from_mins(10);

/// The healthy window before an incident: an hour that ends where trouble began, or well before the first signal.
pub fn healthy(signals: &[Signal], cause: Option<&Cause>, opened_at: Timestamp) -> Window {
    let first = signals.iter().map(|signal| signal.started_at).min().unwrap_or(opened_at).min(opened_at);
    let changed = cause.and_then(|cause| cause.change.as_ref()).map(|change| change.at);
    let onset = match changed.filter(|at| *at <= first && first.duration_since(*at) <= ONSET_AFTER_CHANGE) {
        Some(at) => at,
        None => first.saturating_sub(BEFORE_SIGNALS).unwrap_or(first),
    };
    Window { from: onset.saturating_sub(HEALTHY).unwrap_or(onset), to: onset }
}

/// The times that a verdict looks at.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// The healthy time before the incident.
    pub before: Window,
    /// From the first signal until the change was applied: tells how long the failure may hide.
    pub sick: Window,
    pub rolled_out_at: Timestamp,
}

/// Compares the plan's golden metrics after the rollout with the healthy time.
pub async fn verified(
    shell: &Arc<Shell>,
    plan: &Plan,
    cause: Option<&Cause>,
    times: Times,
    foreign_commits: Answer<Vec<String>>,
    now: Timestamp,
) -> Verification {
    let interval = cause
        .and_then(|cause| cause.measures.get("oom.intervalSeconds"))
        .and_then(|text| text.parse::<f64>().ok())
        .filter(|seconds| seconds.is_finite() && *seconds > 0.0)
        .and_then(|seconds| SignedDuration::try_from_secs_f64(seconds).ok());
    let restarts_were_the_failure = interval.is_some();
    let Times { before, sick, rolled_out_at } = times;
    let after = Window { from: rolled_out_at, to: now };
    let mut metrics = Vec::new();
    let mut pause = None;
    for metric in &plan.verify.golden {
        let failure = *metric == GoldenMetric::Restarts && restarts_were_the_failure;
        let Some(judgement) = judgement_of(metric.name(), failure) else { continue };
        let (old, new) = futures::join!(
            samples(shell, &plan.target.entity, *metric, before),
            samples(shell, &plan.target.entity, *metric, after)
        );
        if let (None, Answer::Known(usual), Judgement::Level { better, floor, .. }) = (interval, &old, &judgement) {
            let seen = samples(shell, &plan.target.entity, *metric, sick).await;
            let failing = seen.known().map_or(&[][..], Vec::as_slice);
            pause = pause.max(longest_pause(usual, failing, *better, *floor, sick.to));
        }
        metrics.push(GoldenSamples { metric: metric.name().to_owned(), judgement, before: old, after: new });
    }
    let settle = settle(interval.or(pause), plan.verify.settle, Some(sample_every(shell, &plan.target.entity).await));
    verify(&VerifyInput { now, rolled_out_at, settle, metrics, foreign_commits })
}

/// Reads every abort signal of a plan, of the target and of its direct callers.
///
/// `sick_since`: when the first signal began; `acts_since`: when the change can show in a metric. The level between them is that of
/// the sick service, since the question is whether the cure makes it worse; healthy minutes before would make every cure look
/// harmful.
pub async fn abort_readings(
    shell: &Arc<Shell>,
    plan: &Plan,
    sick_since: Timestamp,
    acts_since: Timestamp,
    now: Timestamp,
) -> Vec<AbortReading> {
    let target = plan.target.entity.workload();
    let picture = shell.topologies.of(&shell.clients.reader(), &shell.sources, &plan.target.namespace, now).await;
    let callers = picture
        .links
        .edges
        .iter()
        .filter(|edge| edge.kind == LinkKind::Calls && edge.to == target)
        .map(|edge| edge.from.clone());
    let mut watched = vec![(target.clone(), Relation::Target)];
    watched.extend(callers.map(|caller| (caller, Relation::DirectCaller)));
    watched.dedup();
    watched.truncate(4);
    let before =
        Window { from: acts_since.saturating_sub(BEFORE).unwrap_or(acts_since).max(sick_since), to: acts_since };
    let during = Window { from: acts_since, to: now };
    let mut readings = Vec::new();
    for signal in &plan.abort_when {
        let rule = rule(signal);
        for (entity, relation) in &watched {
            let (old, new) = futures::join!(
                samples(shell, entity, signal.metric, before),
                samples(shell, entity, signal.metric, during)
            );
            readings.push(abort_breached(&rule, *relation, &old, &new, now));
        }
    }
    readings
}

fn rule(signal: &AbortSignal) -> AbortRule {
    let name = signal.metric.name();
    let floor = match judgement_of(name, false) {
        Some(Judgement::Level { floor, .. }) => floor,
        // Fewer than one more restart is none.
        Some(Judgement::Count { .. }) | None => 1.0,
    };
    let increase = match signal.metric {
        GoldenMetric::ErrorRatio | GoldenMetric::Saturation => Increase::Points(signal.increase.ratio()),
        GoldenMetric::LatencyP99 | GoldenMetric::Restarts => Increase::Relative(signal.increase.ratio()),
    };
    AbortRule { metric: name.to_owned(), increase, floor }
}

/// How often the metrics stores of a namespace get a sample.
async fn sample_every(shell: &Arc<Shell>, entity: &Entity) -> SignedDuration {
    let sources = shell.sources.serving(&entity.namespace).await;
    let every = sources.holding(SourceKind::holds_metrics).iter().map(|source| source.config().sample_every).min();
    every.unwrap_or(SAMPLE_EVERY).max(SignedDuration::from_secs(1))
}

async fn samples(shell: &Arc<Shell>, entity: &Entity, metric: GoldenMetric, window: Window) -> Answer<Vec<Sample>> {
    let sources = shell.sources.serving(&entity.namespace).await;
    let step = sample_every(shell, entity).await;
    let asked = match metric {
        GoldenMetric::ErrorRatio => Golden::ErrorRatio,
        GoldenMetric::LatencyP99 => Golden::LatencyP99,
        GoldenMetric::Saturation => Golden::Saturation,
        GoldenMetric::Restarts => Golden::Restarts,
    };
    if window.to <= window.from {
        return Answer::unknown("no time has passed yet");
    }
    let target = target(shell, entity, window.to).await;
    golden(&sources, asked, &target, window, step, ASKED_WITHIN).await.answer.map(|regular| {
        let moment = |seconds: f64| Timestamp::from_millisecond((seconds * 1000.0) as i64).ok();
        regular.samples.iter().filter_map(|(at, value)| Some(Sample { at: moment(*at)?, value: *value })).collect()
    })
}

/// The workload under the names that stores may know it by.
pub async fn target(shell: &Arc<Shell>, entity: &Entity, now: Timestamp) -> Target {
    let picture = shell.topologies.of(&shell.clients.reader(), &shell.sources, &entity.namespace, now).await;
    picture.target(&entity.workload())
}
