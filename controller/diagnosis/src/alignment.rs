//! How much of the telemetry found the thing that it speaks about. What did not is shown, never dropped silently.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::align::Aligner;
use crate::clusters::Foreign;
use crate::edge;
use crate::evidence::Observations;

/// Names of what did not align that are shown; more would be the same mistake again.
const NAMES_MAX: usize = 20;
/// Characters of such a name.
const NAME_MAX: usize = 120;

/// Series, spans and log lines by whether they speak of something known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Alignment {
    pub aligned: u64,
    pub unaligned: u64,
    /// What the rest called itself, the most frequent first; at most twenty.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub names: Vec<UnalignedName>,
    /// What other clusters sent; it was left out before anything was aligned.
    #[serde(default, skip_serializing_if = "Foreign::is_empty")]
    pub foreign: Foreign,
}

/// A name under which telemetry came that belongs to nothing known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct UnalignedName {
    /// `pod=cart-x`, `service cart` of a span, `log source shop/cart-x`.
    pub name: String,
    pub count: u64,
}

impl Alignment {
    pub fn of(observations: &Observations, aligner: &Aligner) -> Self {
        let mut counted = Counted::default();
        for one in observations.series.known().into_iter().flatten() {
            let end = |label: &str| one.labels.get(label).and_then(|name| aligner.named("", name));
            let on_the_way = || edge::counted(one)?.ends(one, aligner).into_iter().flatten().next();
            let known =
                aligner.of_series(one).or_else(|| end("destination")).or_else(|| end("source")).or_else(on_the_way);
            counted.note(known.is_some(), 1, || aligner.shown(&one.labels));
        }
        for span in observations.spans.known().into_iter().flatten() {
            counted.note(aligner.source(&span.service).is_some(), 1, || format!("service {}", span.service));
        }
        for line in observations.logs.known().into_iter().flatten() {
            let known = aligner.of_line(line).is_some();
            counted.note(known, line.count, || format!("log source {}", line.source));
        }
        counted.told()
    }

    /// Whether nothing was left over, and nothing left out.
    pub fn is_whole(&self) -> bool {
        self.unaligned == 0 && self.foreign.is_empty()
    }

    /// What was left over, as one line for people; none when nothing was.
    pub fn left_over(&self) -> Option<String> {
        let names: Vec<String> = self.names.iter().take(3).map(|one| format!("{} ({})", one.name, one.count)).collect();
        (self.unaligned > 0).then(|| {
            format!(
                "{} of {} series, spans and log lines name nothing that is known here: {}",
                self.unaligned,
                self.aligned + self.unaligned,
                names.join(", ")
            )
        })
    }
}

#[derive(Default)]
struct Counted {
    aligned: u64,
    names: BTreeMap<String, u64>,
}

impl Counted {
    fn note(&mut self, known: bool, count: u64, name: impl FnOnce() -> String) {
        match known {
            true => self.aligned += count,
            false => *self.names.entry(name()).or_default() += count,
        }
    }

    fn told(self) -> Alignment {
        let unaligned = self.names.values().sum();
        let mut names: Vec<UnalignedName> =
            self.names.into_iter().map(|(name, count)| UnalignedName { name, count }).collect();
        names.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.name.cmp(&b.name)));
        names.truncate(NAMES_MAX);
        for one in &mut names {
            one.name = one.name.chars().filter(|c| !c.is_control()).take(NAME_MAX).collect();
        }
        Alignment { aligned: self.aligned, unaligned, names, foreign: Foreign::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_aligns_with_nothing_is_counted_and_the_most_frequent_shown() {
        let mut counted = Counted::default();
        counted.note(true, 7, || unreachable!("a known thing needs no name"));
        for number in 0..30 {
            counted.note(false, 1, || format!("pod=ghost-{number}"));
        }
        counted.note(false, 5, || "service \u{1b}[31mcart".to_owned());
        let told = counted.told();
        assert_eq!((told.aligned, told.unaligned, told.names.len()), (7, 35, NAMES_MAX));
        assert_eq!((told.names[0].name.as_str(), told.names[0].count), ("service [31mcart", 5));
        let line = told.left_over().unwrap();
        assert!(line.starts_with("35 of 42 series, spans and log lines name nothing that is known here: "), "{line}");
        assert_eq!(Alignment::default().left_over(), None);
    }
}
