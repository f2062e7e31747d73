//! Who is not answered for any more, when nobody knows when trouble began.
//!
//! Latency is measured when a call ends. A callee that hangs or is gone leaves no slow samples but none at all, while its
//! callers still ask others: absence is the evidence. Compared are the longest silences of the callees with each other, so
//! that rare calls and a store with a gap say nothing. A request that hangs never reaches what its caller would have asked
//! later: who is silent towards one caller only stands back behind who is silent towards several at the same time.

use std::collections::{BTreeMap, BTreeSet};

use crate::diagnosis::cause;
use crate::entity::Entity;
use crate::finding::{Finding, Modality};
use crate::metric::{Family, name_of};
use crate::robust::median;
use crate::scene::Scene;

use super::metrics::is_edge;

/// Nats for each e-fold of silence beyond what is usual.
const NATS: f64 = 4.0;
/// Silences of this many times the usual one say nothing yet.
const USUAL: f64 = 2.0;
/// Rates and quantiles are taken over a few samples; shorter silences than this many are made by the asking.
const SAMPLES_MIN: f64 = 6.0;
/// This share of what else a caller asks must answer, or it is the caller that stopped: with it, all that it asks falls silent.
const OTHERS: f64 = 0.75;
/// Fewer moments than this have no usual silence.
const MOMENTS_MIN: usize = 24;

pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    // Whoever knows an alert or a beginning has two windows to compare, which say more.
    if scene.onset.is_some() || scene.windows.is_none_or(|windows| windows.told) {
        return Vec::new();
    }
    told(&Calls::of(scene))
}

fn told(calls: &Calls) -> Vec<Finding> {
    if calls.moments < MOMENTS_MIN {
        return Vec::new();
    }
    let silences: BTreeMap<&Entity, Silence> = calls.callees().map(|callee| (callee, calls.silence(callee))).collect();
    let lengths: Vec<f64> = silences.values().map(Silence::length).collect();
    let usual = median(&lengths).unwrap_or(0.0).max(SAMPLES_MIN);
    let told = silences.iter().filter_map(|(callee, silence)| {
        let clear = (silence.length() / (USUAL * usual)).ln().max(0.0);
        let most = calls.silent_beside(callee, silence, &silences).max(silence.callers);
        let weight = NATS * clear * silence.callers as f64 / most as f64;
        (weight > 0.05).then(|| {
            let sentence = format!(
                "nobody gets an answer of {} for {:.0} s, while {} still get answers of others",
                callee.name,
                silence.length() * calls.step,
                if silence.callers == 1 { "its caller does" } else { "its callers" },
            );
            Finding::new((*callee).clone(), cause::UNAVAILABLE, Modality::Metrics, weight, sentence)
                .labelled("answers nobody")
                .asked(calls.asked.get(*callee).map_or("", String::as_str))
        })
    });
    told.collect()
}

/// When each caller got answers of each callee.
#[derive(Debug, Default)]
struct Calls {
    moments: usize,
    /// Seconds between two moments.
    step: f64,
    /// By caller and callee, one entry for each moment.
    answered: BTreeMap<(Entity, Entity), Vec<bool>>,
    asked: BTreeMap<Entity, String>,
}

/// A stretch of moments, the first included, the last not, in which nobody got an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Silence {
    from: usize,
    to: usize,
    /// How many callers had got answers before.
    callers: usize,
}

impl Silence {
    fn length(&self) -> f64 {
        (self.to - self.from) as f64
    }
}

impl Calls {
    fn of(scene: &Scene<'_>) -> Self {
        let all = scene.observations.series.known().into_iter().flatten();
        let edges = all.filter(|series| is_edge(series) && Family::of(name_of(&series.labels)) == Family::Latency);
        let end = |name: &str| scene.aligner.named("", name);
        let named = edges.filter_map(|series| {
            Some((end(series.labels.get("source")?)?, end(series.labels.get("destination")?)?, series))
        });
        let named: Vec<_> = named.collect();
        let key = |second: f64| (second * 1000.0) as i64;
        let times: BTreeSet<i64> =
            named.iter().flat_map(|(_, _, series)| series.samples.iter().map(|(at, _)| key(*at))).collect();
        let times: Vec<i64> = times.into_iter().collect();
        let steps: Vec<f64> = times.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1000.0).collect();
        let mut calls = Self { moments: times.len(), step: median(&steps).unwrap_or(0.0), ..Self::default() };
        for (source, destination, series) in named {
            calls.asked.entry(destination.clone()).or_insert_with(|| series.asked.clone());
            let answered = calls.answered.entry((source, destination)).or_insert_with(|| vec![false; times.len()]);
            for (at, value) in &series.samples {
                if let (true, Ok(moment)) = (value.is_finite(), times.binary_search(&key(*at))) {
                    answered[moment] = true;
                }
            }
        }
        calls
    }

    fn callees(&self) -> impl Iterator<Item = &Entity> {
        self.answered.keys().map(|(_, callee)| callee).collect::<BTreeSet<_>>().into_iter()
    }

    fn callers<'c>(&'c self, callee: &'c Entity) -> impl Iterator<Item = &'c Entity> {
        self.answered.keys().filter(move |(_, to)| to == callee).map(|(from, _)| from)
    }

    /// The longest time in which no caller got an answer, though one of them was asked itself and got answers of others.
    fn silence(&self, callee: &Entity) -> Silence {
        let callers: Vec<&Entity> = self.callers(callee).collect();
        let answered = |moment: usize| self.speaks(callee, moment);
        let Some(first) = (0..self.moments).find(|moment| answered(*moment)) else { return Silence::default() };
        let (mut longest, mut since, mut length) = (Silence::default(), first, 0);
        for moment in first..self.moments {
            if answered(moment) {
                (since, length) = (moment + 1, 0);
            } else if callers.iter().any(|caller| self.asks_others(caller, callee, moment)) {
                length += 1;
                if length as f64 > longest.length() {
                    longest = Silence { from: since, to: since + length, callers: callers.len() };
                }
            }
        }
        longest
    }

    /// Whether anybody got an answer of an entity.
    fn speaks(&self, entity: &Entity, moment: usize) -> bool {
        self.answered.iter().any(|((_, to), answered)| to == entity && answered[moment])
    }

    /// Whether most of what a caller asks besides answers; of all calls, where it asks nobody else.
    fn asks_others(&self, caller: &Entity, callee: &Entity, moment: usize) -> bool {
        let called = self.callers(caller).next().is_some();
        if called && !self.speaks(caller, moment) {
            return false;
        }
        let others = |of_caller: bool| {
            let of = self.answered.iter().filter(move |((from, to), _)| to != callee && (!of_caller || from == caller));
            of.fold((0, 0), |(some, all), (_, answered)| (some + usize::from(answered[moment]), all + 1))
        };
        let (some, all) = match others(true) {
            (_, 0) => others(false),
            own => own,
        };
        all > 0 && f64::from(some as u32) >= OTHERS * f64::from(all as u32)
    }

    /// Towards how many callers somebody else of the same callers is silent at the same time.
    fn silent_beside(&self, callee: &Entity, silence: &Silence, all: &BTreeMap<&Entity, Silence>) -> usize {
        let callers: BTreeSet<&Entity> = self.callers(callee).collect();
        let beside = all.iter().filter(|(other, theirs)| {
            **other != callee
                && theirs.from < silence.to
                && silence.from < theirs.to
                && theirs.length() >= silence.length() / USUAL
                && self.callers(other).any(|caller| callers.contains(caller))
        });
        beside.map(|(_, theirs)| theirs.callers).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::entity::EntityKind;

    fn entity(name: &str) -> Entity {
        Entity::new(EntityKind::Service, "", name)
    }

    /// A hundred moments of calls, each told by caller, callee, and the moments in which no answer came.
    fn calls(edges: &[(&str, &str, std::ops::Range<usize>)]) -> Calls {
        let answered = edges.iter().map(|(from, to, silent)| {
            ((entity(from), entity(to)), (0..100).map(|moment| !silent.contains(&moment)).collect())
        });
        Calls { moments: 100, step: 5.0, answered: answered.collect(), asked: BTreeMap::new() }
    }

    fn blamed(edges: &[(&str, &str, std::ops::Range<usize>)]) -> Vec<String> {
        let mut findings = told(&calls(edges));
        findings.sort_by(|a, b| b.weight.total_cmp(&a.weight));
        findings.into_iter().map(|finding| finding.entity.name).collect()
    }

    #[test]
    fn a_callee_that_answers_nobody_while_others_are_answered_is_blamed() {
        let edges = [("web", "cart", 40..70), ("web", "ads", 0..0), ("web", "search", 20..23), ("pay", "cart", 35..75)];
        assert_eq!(blamed(&edges), ["cart"]);
        let finding = told(&calls(&edges)).remove(0);
        assert_eq!(
            finding.sentence,
            "nobody gets an answer of cart for 150 s, while its callers still get answers of others"
        );
    }

    #[test]
    fn a_caller_that_asks_nobody_any_more_and_a_store_with_a_gap_say_nothing() {
        let stops = [("in", "web", 40..70), ("web", "cart", 40..70), ("web", "ads", 40..70), ("in", "api", 0..0)];
        assert!(!blamed(&stops).iter().any(|name| name == "cart" || name == "ads"), "{:?}", blamed(&stops));
        let gap = [("web", "cart", 40..70), ("web", "ads", 40..70), ("web", "search", 40..70)];
        assert_eq!(blamed(&gap), Vec::<String>::new());
    }

    #[test]
    fn what_a_hanging_request_never_reaches_stands_back() {
        let after = |silent: std::ops::Range<usize>| {
            [
                ("web", "shipping", 40..80),
                ("checkout", "shipping", 40..80),
                ("checkout", "mail", silent),
                ("checkout", "cart", 0..0),
                ("checkout", "stock", 0..0),
                ("checkout", "prices", 0..0),
                ("checkout", "coupons", 0..0),
                ("web", "cart", 0..0),
                ("web", "ads", 0..0),
                ("web", "search", 0..0),
            ]
        };
        assert_eq!(blamed(&after(40..80)), ["shipping", "mail"]);
        assert_eq!(blamed(&after(0..0)), ["shipping"]);
    }
}
