//! Harm while the change rolls out: does a watched metric get worse, lastingly, and can the change explain it?

use amend_diagnosis::evidence::Answer;
use jiff::{SignedDuration, Timestamp};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::samples::{Sample, kept};

/// How many samples in a row must be beyond the bar.
///
/// Two could be one bad scrape seen twice by overlapping rate windows; four at a scrape interval of 30 s would be two minutes of harm.
pub const SUSTAINED_SAMPLES: usize = 3;

/// How long the harm must have lasted, whatever the number of samples.
pub const SUSTAINED_FOR: SignedDuration = SignedDuration::from_secs(30);

/// How old the last sample may be.
const FRESH_FOR: SignedDuration = SignedDuration::from_mins(3);

/// How much worse is harm.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub enum Increase {
    /// In points of a ratio: 0.15 means from 2 % to 17 %. For `errorRatio` and `saturation`.
    Points(f64),
    /// Relative to the level at merge time: 0.15 means from 200 ms to 230 ms. For everything without a natural 100 %.
    Relative(f64),
}

/// One line of a policy's `abortWhen`.
#[derive(Clone, Debug, PartialEq)]
pub struct AbortRule {
    /// Its name in the policy: `errorRatio`.
    pub metric: String,
    pub increase: Increase,
    /// A rise below this is noise, however large in per cent; in the metric's unit.
    pub floor: f64,
}

/// Whose metric it is, seen from the target of the change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Relation {
    Target,
    /// Calls the target directly, so that the target's trouble is its trouble.
    DirectCaller,
    /// Anything else: harm there is real, but this change does not explain it.
    Other,
}

/// What a watched metric says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Breach {
    /// Lastingly beyond the bar.
    Breached,
    Within,
    /// Cannot tell; never a reason to take anything back.
    Unknown,
}

/// One watched metric, read.
#[derive(Clone, Debug, PartialEq)]
pub struct AbortReading {
    pub metric: String,
    pub relation: Relation,
    pub breach: Breach,
    /// Level at merge time; 0 when unknown.
    pub before: f64,
    /// The mildest of the samples that count as sustained, or the last one; 0 when unknown.
    pub during: f64,
    pub sentence: String,
}

impl AbortReading {
    /// Whether harm was measured that the change can explain.
    pub fn is_explained_harm(&self) -> bool {
        self.breach == Breach::Breached
            && match self.relation {
                Relation::Target | Relation::DirectCaller => true,
                Relation::Other => false,
            }
    }
}

/// Whether the metric is lastingly worse than at merge time.
///
/// The level before is the worst of the samples given for the time before the change could act: mid-incident as a rule, so this asks
/// "does the cure make it worse?", not "is it well?"; and a crash loop swings, so its median would call its own next swing harm. The bar is that level plus the increase, at least `floor` above it. Breached means
/// that the last [`SUSTAINED_SAMPLES`] samples are all beyond the bar and span at least [`SUSTAINED_FOR`].
pub fn abort_breached(
    rule: &AbortRule,
    relation: Relation,
    before: &Answer<Vec<Sample>>,
    during: &Answer<Vec<Sample>>,
    now: Timestamp,
) -> AbortReading {
    let name = &rule.metric;
    let unknown = |before: f64, sentence: String| AbortReading {
        metric: name.clone(),
        relation,
        breach: Breach::Unknown,
        before,
        during: 0.0,
        sentence,
    };
    let old = match before {
        Answer::Known(samples) => kept(samples, None).values,
        Answer::Unknown { why } => return unknown(0.0, format!("{name} at merge time is not known: {why}")),
    };
    if old.len() < SUSTAINED_SAMPLES {
        return unknown(0.0, format!("{name} has only {} samples from merge time", old.len()));
    }
    let level = old.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let mut new: Vec<Sample> = match during {
        Answer::Known(samples) => {
            samples.iter().filter(|sample| sample.value.is_finite() && sample.at <= now).copied().collect()
        }
        Answer::Unknown { why } => return unknown(level, format!("{name} is not known now: {why}")),
    };
    new.sort_by_key(|sample| sample.at);
    new.dedup_by_key(|sample| sample.at);
    let Some(last) = new.last().copied() else {
        return unknown(level, format!("{name} has no samples since the merge"));
    };
    let age = now.duration_since(last.at);
    if age > FRESH_FOR {
        return unknown(level, format!("the last sample of {name} is {} s old", age.as_secs()));
    }
    let rise = match rule.increase {
        Increase::Points(points) => points,
        Increase::Relative(share) => level.abs() * share,
    };
    let bar = level + rise.max(rule.floor);
    let tail = &new[new.len().saturating_sub(SUSTAINED_SAMPLES)..];
    let beyond = new.iter().rev().take_while(|sample| sample.value > bar).count();
    // A dense series needs more samples to span the time.
    let since = new[new.len() - beyond.max(1)].at;
    let breached = beyond >= SUSTAINED_SAMPLES && last.at.duration_since(since) >= SUSTAINED_FOR;
    let mildest = tail.iter().map(|sample| sample.value).fold(f64::INFINITY, f64::min);
    let (breach, shown) = if breached { (Breach::Breached, mildest) } else { (Breach::Within, last.value) };
    AbortReading {
        metric: name.clone(),
        relation,
        breach,
        before: level,
        during: shown,
        sentence: format!(
            "{name} was {} at merge time and is {} now; the bar is {}, {beyond} samples in a row beyond it",
            super::number(level),
            super::number(shown),
            super::number(bar),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn every_15s(from: i64, values: &[f64]) -> Answer<Vec<Sample>> {
        Answer::Known((0..).zip(values).map(|(i, value)| Sample { at: at(from + i * 15), value: *value }).collect())
    }

    fn rule() -> AbortRule {
        AbortRule { metric: "errorRatio".into(), increase: Increase::Points(0.15), floor: 0.01 }
    }

    fn read(during: &[f64]) -> AbortReading {
        let now = at(100 + (during.len() as i64) * 15);
        let before = every_15s(0, &[0.02; 6]);
        abort_breached(&rule(), Relation::Target, &before, &every_15s(100, during), now)
    }

    #[test]
    fn a_lasting_rise_is_harm() {
        let reading = read(&[0.02, 0.2, 0.2, 0.3]);
        assert_eq!(reading.breach, Breach::Breached);
        assert!(reading.is_explained_harm());
        assert_eq!(reading.during, 0.2);
    }

    #[test]
    fn a_spike_is_not() {
        assert_eq!(read(&[0.2, 0.9, 0.9, 0.02]).breach, Breach::Within);
        assert_eq!(read(&[0.02, 0.02, 0.9, 0.9]).breach, Breach::Within);
    }

    #[test]
    fn what_was_bad_already_is_not_harm_done_by_the_change() {
        let before = every_15s(0, &[0.4; 6]);
        let reading = abort_breached(&rule(), Relation::Target, &before, &every_15s(100, &[0.45; 6]), at(190));
        assert_eq!(reading.breach, Breach::Within);
    }

    #[test]
    fn a_relative_rise_below_the_floor_is_noise() {
        let rule = AbortRule { metric: "latencyP99".into(), increase: Increase::Relative(0.15), floor: 0.05 };
        let before = every_15s(0, &[0.010; 6]);
        let reading = abort_breached(&rule, Relation::Target, &before, &every_15s(100, &[0.020; 6]), at(190));
        assert_eq!(reading.breach, Breach::Within);
    }

    #[test]
    fn no_data_stale_data_and_no_numbers_are_unknown() {
        let before = every_15s(0, &[0.02; 6]);
        let gone = Answer::unknown("prometheus did not answer");
        for (before, during, now) in [
            (&gone, &before, 100),
            (&before, &gone, 100),
            (&before, &every_15s(100, &[0.9; 6]), 2000),
            (&before, &every_15s(100, &[f64::NAN; 6]), 190),
            (&every_15s(0, &[]), &every_15s(100, &[0.9; 6]), 190),
        ] {
            assert_eq!(abort_breached(&rule(), Relation::Target, before, during, at(now)).breach, Breach::Unknown);
        }
    }

    #[test]
    fn harm_elsewhere_is_not_explained_by_the_change() {
        let before = every_15s(0, &[0.02; 6]);
        let reading = abort_breached(&rule(), Relation::Other, &before, &every_15s(100, &[0.9; 6]), at(190));
        assert_eq!(reading.breach, Breach::Breached);
        assert!(!reading.is_explained_harm());
    }
}
