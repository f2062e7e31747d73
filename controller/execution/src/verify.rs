//! Did it help? Golden metrics after the rollout against the time before the incident, and harm while it rolls out.
//!
//! Both judgements are closed: missing, stale or too little data is `Unknown`, and `Unknown` neither passes a change nor
//! takes one back.

use amend_diagnosis::evidence::{Answer, Window};
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::journal::{Word, finding};

mod abort;
mod rank;
mod samples;

pub use abort::{AbortReading, AbortRule, Breach, Increase, Relation, abort_breached};
pub use rank::{Shift, shift};
pub use samples::Sample;

use samples::{Kept, kept, median, rises};

/// How many failure intervals a change must survive before it is called good.
///
/// With failures at random moments, surviving one mean interval happens by luck in 37 % of the cases, three in 5 %.
pub const INTERVALS_TO_SURVIVE: i32 = 3;

/// How many samples the shortest window for a verdict holds: enough for a rank test to tell a shift, with two to spare.
pub const SAMPLES_TO_SETTLE: i32 = 10;

/// The shortest window for a verdict, however dense the samples: rates look back over several of them, so that the first
/// ones after a rollout still count requests from before it.
pub const SETTLE_AT_LEAST: SignedDuration = SignedDuration::from_mins(1);

/// How often stores get samples when nobody says: the common scrape interval.
pub const SAMPLE_EVERY: SignedDuration = SignedDuration::from_secs(30);

/// The window when nobody knows how often it failed: three times the kubelet's longest crash-loop pause of 5 min.
pub const SETTLE_WHEN_INTERVAL_UNKNOWN: SignedDuration = SignedDuration::from_mins(15);

/// How many samples each side needs: below eight, a rank test at 5 % can hardly tell anything.
pub const SAMPLES_AT_LEAST: usize = 8;

/// How long a verdict needs to watch.
///
/// `failure_interval` is the time between two failures seen before the cure, `asked` what the policy wants, `sample_every` how
/// often the stores get a sample; the longest wins, so a policy can lengthen the window and never shorten it.
pub fn settle(
    failure_interval: Option<SignedDuration>,
    asked: Option<SignedDuration>,
    sample_every: Option<SignedDuration>,
) -> SignedDuration {
    let survive = match failure_interval {
        Some(interval) => interval.saturating_mul(INTERVALS_TO_SURVIVE),
        None => SETTLE_WHEN_INTERVAL_UNKNOWN,
    };
    let sampled = sample_every.unwrap_or(SAMPLE_EVERY).saturating_mul(SAMPLES_TO_SETTLE);
    survive.max(asked.unwrap_or(SignedDuration::ZERO)).max(sampled).max(SETTLE_AT_LEAST)
}

/// The longest pause between two failing samples while a service was sick: how long its failure may hide.
///
/// A sample fails when it is worse than all of `usual` by more than `floor`. The pause up to the `end` of the sick time counts as
/// well. `None` when too few samples failed to know a rhythm; then the failure's interval is unknown.
pub fn longest_pause(
    usual: &[Sample],
    sick: &[Sample],
    better: Better,
    floor: f64,
    end: Timestamp,
) -> Option<SignedDuration> {
    let badness = |value: f64| match better {
        Better::Lower => value,
        Better::Higher => -value,
    };
    let usual = kept(usual, None);
    if usual.unusable().is_some() {
        return None;
    }
    let bar = usual.values.iter().copied().map(badness).fold(f64::NEG_INFINITY, f64::max) + floor;
    let fails = |sample: &&Sample| sample.at <= end && sample.value.is_finite() && badness(sample.value) > bar;
    let mut failing: Vec<Timestamp> = sick.iter().filter(fails).map(|sample| sample.at).collect();
    failing.sort();
    failing.dedup();
    if failing.len() < SAMPLES_AT_LEAST {
        return None;
    }
    let until = failing.iter().skip(1).chain(std::iter::once(&end));
    failing.iter().zip(until).map(|(from, to)| to.duration_since(*from)).max()
}

/// Which way is good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Better {
    Lower,
    Higher,
}

/// How one golden metric is judged.
#[derive(Clone, Debug, PartialEq)]
pub enum Judgement {
    /// A level, compared with the level before the incident.
    ///
    /// Tolerated is a worsening of `floor` in the metric's own unit or `share` of the level before, whichever is larger:
    /// below it a difference is noise to people, however significant.
    Level { better: Better, floor: f64, share: f64 },
    /// A cumulative count of failures (restarts), summed over the pods that are judged; a fall is a reset, not a repair.
    ///
    /// `was_the_failure`: one more is a failed cure. Otherwise as many as before the incident are tolerated.
    Count { was_the_failure: bool },
}

/// The usual judgement of a golden metric by its name in policies; `None` for a name that is not known here.
///
/// Floors: 1 point of errors and 10 ms are within the noise of a healthy service; a release may need a
/// fifth of its limit more than the one before: what hurts is the limit itself, and that shows as restarts and latency.
pub fn judgement_of(metric: &str, was_the_failure: bool) -> Option<Judgement> {
    let level = |floor, share| Some(Judgement::Level { better: Better::Lower, floor, share });
    match metric {
        "errorRatio" => level(0.01, 0.25),
        "latencyP99" => level(0.010, 0.25),
        "saturation" => level(0.20, 0.25),
        "restarts" => Some(Judgement::Count { was_the_failure }),
        _ => None,
    }
}

/// One golden metric with its samples.
#[derive(Clone, Debug, PartialEq)]
pub struct GoldenSamples {
    /// Its name in the policy: `errorRatio`.
    pub metric: String,
    pub judgement: Judgement,
    /// From the healthy time before the incident.
    pub before: Answer<Vec<Sample>>,
    /// Since the rollout was complete.
    pub after: Answer<Vec<Sample>>,
}

/// What the verdict looks at.
#[derive(Clone, Debug, PartialEq)]
pub struct VerifyInput {
    pub now: Timestamp,
    /// When every pod ran the change and was available.
    pub rolled_out_at: Timestamp,
    /// From [`settle`].
    pub settle: SignedDuration,
    pub metrics: Vec<GoldenSamples>,
    /// Commits by others that touched the target or its dependencies since the merge; then nobody can say who did it.
    pub foreign_commits: Answer<Vec<String>>,
}

/// The verdict, with the reasons.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    pub verdict: Word,
    pub sentence: String,
    pub metrics: Vec<MetricVerdict>,
    /// The time that was judged: the last `settle` of it, and never before the rollout was complete.
    pub window: Window,
    /// When the window is full for the first time: no verdict can pass before.
    pub settled_at: Timestamp,
}

/// The verdict on one metric.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MetricVerdict {
    pub metric: String,
    pub verdict: Word,
    /// With samples, medians and effect size.
    pub sentence: String,
    pub samples_before: u32,
    pub samples_after: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_before: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub median_after: Option<f64>,
    /// Hodges-Lehmann shift in the bad direction, with its 90 % interval; absent where it was not computed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worse_by: Option<Shift>,
}

/// Compares golden metrics after the rollout with the time before the incident.
///
/// Pass needs: the window is full, every metric is fresh, covered and, with 95 % confidence, not worse than tolerated.
/// Fail needs as much confidence that one is worse. Everything between is Unknown and may become either with more samples.
pub fn verify(input: &VerifyInput) -> Verification {
    let settled_at = input.rolled_out_at.saturating_add(input.settle).unwrap_or(Timestamp::MAX);
    let from = input.now.saturating_sub(input.settle).unwrap_or(Timestamp::MIN).max(input.rolled_out_at);
    let window = Window { from, to: input.now.max(from) };
    let metrics: Vec<_> = input.metrics.iter().map(|metric| judge(metric, window, input.now >= settled_at)).collect();
    let (verdict, sentence) = overall(input, &metrics, settled_at);
    Verification { verdict, sentence, metrics, window, settled_at }
}

fn overall(input: &VerifyInput, metrics: &[MetricVerdict], settled_at: Timestamp) -> (Word, String) {
    match &input.foreign_commits {
        Answer::Known(commits) if commits.is_empty() => {}
        Answer::Known(commits) => {
            let shown = commits.iter().take(3).map(|commit| short(commit)).collect::<Vec<_>>().join(", ");
            let sentence = format!("{} commits by others touched the target meanwhile: {shown}", commits.len());
            return (Word::Unknown, sentence);
        }
        Answer::Unknown { why } => {
            return (Word::Unknown, format!("cannot tell whether others changed the target meanwhile: {why}"));
        }
    }
    let first = |wanted: Word| metrics.iter().find(|metric| metric.verdict == wanted);
    match (first(Word::Fail), first(Word::Unknown)) {
        (Some(failed), _) => (Word::Fail, failed.sentence.clone()),
        (None, Some(unknown)) => (Word::Unknown, open(metrics, unknown)),
        (None, None) if metrics.is_empty() => (Word::Unknown, "no golden metric was asked for".to_owned()),
        (None, None) if input.now < settled_at => (Word::Unknown, "the window is not full yet".to_owned()),
        (None, None) => {
            (Word::Pass, format!("all {} golden metrics are back where they were before the incident", metrics.len()))
        }
    }
}

/// Why there is no answer, with the names of all metrics that lack one for this reason.
fn open(metrics: &[MetricVerdict], first: &MetricVerdict) -> String {
    let why = |metric: &MetricVerdict| finding(&metric.metric, &metric.sentence).to_owned();
    let alike = metrics.iter().filter(|metric| metric.verdict == first.verdict && why(metric) == why(first));
    match alike.map(|metric| metric.metric.as_str()).collect::<Vec<_>>().as_slice() {
        [] | [_] => first.sentence.clone(),
        several => format!("{}: {}", several.join(", "), why(first)),
    }
}

fn judge(metric: &GoldenSamples, window: Window, settled: bool) -> MetricVerdict {
    let name = &metric.metric;
    let unknown = |sentence: String, before: usize, after: usize| MetricVerdict {
        metric: name.clone(),
        verdict: Word::Unknown,
        sentence,
        samples_before: count(before),
        samples_after: count(after),
        median_before: None,
        median_after: None,
        worse_by: None,
    };
    let before = match &metric.before {
        Answer::Known(samples) => kept(samples, None),
        Answer::Unknown { why } => {
            return unknown(format!("{name}: nothing known from before the incident: {why}"), 0, 0);
        }
    };
    let after = match &metric.after {
        Answer::Known(samples) => kept(samples, Some(window)),
        Answer::Unknown { why } => {
            return unknown(format!("{name}: nothing known since the rollout: {why}"), before.values.len(), 0);
        }
    };
    let (n, m) = (before.values.len(), after.values.len());
    if let Some(why) = before.unusable().map(|why| format!("before the incident {why}")).or_else(|| {
        after.unusable().or_else(|| after.not_covering(window, settled)).map(|why| format!("since the rollout {why}"))
    }) {
        // A failure that repeats is told at once: waiting cannot make it unseen.
        if let (Judgement::Count { was_the_failure: true }, true) = (&metric.judgement, rises(&after.values) > 0.0) {
            return counted(name, &before, &after, true, settled);
        }
        return unknown(format!("{name}: {why}"), n, m);
    }
    match metric.judgement {
        Judgement::Level { better, floor, share } => levelled(name, &before, &after, better, floor, share),
        Judgement::Count { was_the_failure } => counted(name, &before, &after, was_the_failure, settled),
    }
}

fn levelled(name: &str, before: &Kept, after: &Kept, better: Better, floor: f64, share: f64) -> MetricVerdict {
    let (old, new) = (median(&before.values), median(&after.values));
    let tolerated = floor.max(old.abs() * share);
    let toward_bad = |values: &[f64]| -> Vec<f64> {
        match better {
            Better::Lower => values.to_vec(),
            Better::Higher => values.iter().map(|value| -value).collect(),
        }
    };
    let (old_bad, new_bad) = (toward_bad(&before.values), toward_bad(&after.values));
    let worse_by = shift(&old_bad, &new_bad);
    // Medians do not see bursts: a crash every ten minutes spoils only one sample in ten.
    let bar = old_bad.iter().copied().fold(f64::NEG_INFINITY, f64::max) + tolerated;
    let bursts = new_bad.iter().filter(|value| **value > bar).count();
    let bursting = bursts >= 2 && bursts * 20 > new_bad.len();
    let facts = format!(
        "median {} before ({} samples), {} now ({} samples), shift {} [{} to {}], tolerated {}",
        number(old),
        before.values.len(),
        number(new),
        after.values.len(),
        number(worse_by.estimate),
        number(worse_by.low),
        number(worse_by.high),
        number(tolerated),
    );
    let (verdict, sentence) = if worse_by.low > tolerated {
        (Word::Fail, format!("{name} is worse than before the incident: {facts}"))
    } else if bursting {
        (Word::Fail, format!("{name} is worse in bursts, {bursts} samples beyond anything seen before: {facts}"))
    } else if worse_by.high <= tolerated {
        (Word::Pass, format!("{name} is back: {facts}"))
    } else {
        (Word::Unknown, format!("{name} cannot be told yet: {facts}"))
    };
    MetricVerdict {
        metric: name.to_owned(),
        verdict,
        sentence,
        samples_before: count(before.values.len()),
        samples_after: count(after.values.len()),
        median_before: Some(old),
        median_after: Some(new),
        worse_by: Some(worse_by),
    }
}

fn counted(name: &str, before: &Kept, after: &Kept, was_the_failure: bool, settled: bool) -> MetricVerdict {
    let (old, new) = (rises(&before.values), rises(&after.values));
    let spans = (after.span.as_secs_f64() / before.span.as_secs_f64().max(1.0)).min(1.0);
    let tolerated = if was_the_failure { 0.0 } else { old * spans };
    let facts = format!(
        "{} in {} s since the rollout ({} samples), {} in {} s before the incident ({} samples)",
        number(new),
        after.span.as_secs(),
        after.values.len(),
        number(old),
        before.span.as_secs(),
        before.values.len(),
    );
    let (verdict, sentence) = if new > tolerated {
        (Word::Fail, format!("{name} go on: {facts}"))
    } else if settled {
        (Word::Pass, format!("{name} have stopped: {facts}"))
    } else {
        (Word::Unknown, format!("{name}: none so far, but the window is not full yet: {facts}"))
    };
    MetricVerdict {
        metric: name.to_owned(),
        verdict,
        sentence,
        samples_before: count(before.values.len()),
        samples_after: count(after.values.len()),
        median_before: None,
        median_after: None,
        worse_by: None,
    }
}

fn count(samples: usize) -> u32 {
    u32::try_from(samples).unwrap_or(u32::MAX)
}

fn short(commit: &str) -> &str {
    commit.get(..12).unwrap_or(commit)
}

/// Three significant digits, enough for people.
fn number(value: f64) -> String {
    let digits = if value == 0.0 || !value.is_finite() { 0 } else { 2 - value.abs().log10().floor() as i32 };
    let text = format!("{value:.*}", usize::try_from(digits.clamp(0, 6)).unwrap_or(0));
    match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => text,
    }
}

#[cfg(test)]
mod tests;
