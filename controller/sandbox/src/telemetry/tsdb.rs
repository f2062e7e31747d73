//! An in-memory time-series store with Prometheus' notion of staleness.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};

use regex::Regex;

/// How long a sample counts as current, as in Prometheus.
pub const LOOKBACK_MS: i64 = 5 * 60 * 1000;

/// How much history is kept: more than a baseline needs, little enough for a small process.
const KEPT_MS: i64 = 4 * 3600 * 1000;

/// Labels with the metric name under `__name__`.
pub type Labels = BTreeMap<String, String>;

/// One series.
#[derive(Debug)]
pub struct Series {
    /// Its labels.
    pub labels: Labels,
    /// Time in milliseconds and value, ascending; NaN is a staleness mark.
    pub samples: Vec<(i64, f64)>,
    /// When it was last part of a scrape.
    scraped: i64,
}

/// One label matcher.
#[derive(Clone, Debug)]
pub enum Matcher {
    /// `=`
    Equal(String, String),
    /// `!=`
    NotEqual(String, String),
    /// `=~`
    Matches(String, Regex),
    /// `!~`
    Differs(String, Regex),
}

impl Matcher {
    /// Whether labels are selected; a missing label is an empty one.
    pub fn fits(&self, labels: &Labels) -> bool {
        let value = |name: &str| labels.get(name).map(String::as_str).unwrap_or_default();
        match self {
            Self::Equal(name, wanted) => value(name) == wanted,
            Self::NotEqual(name, other) => value(name) != other,
            Self::Matches(name, pattern) => pattern.is_match(value(name)),
            Self::Differs(name, pattern) => !pattern.is_match(value(name)),
        }
    }
}

/// All series.
#[derive(Debug, Default)]
pub struct Tsdb {
    series: Vec<Series>,
    /// By the hash of name and labels: found without building a label set.
    by_hash: HashMap<u64, usize>,
    by_name: BTreeMap<String, Vec<usize>>,
    /// The same, of one namespace: what nearly every question is about.
    by_namespace: HashMap<(String, String), Vec<usize>>,
    /// Of one namespace whatever the name, for questions that know several names of a thing.
    by_namespace_alone: HashMap<String, Vec<usize>>,
    /// Series that had a sample in the last scrape of a job.
    live: BTreeMap<&'static str, Vec<usize>>,
}

impl Tsdb {
    /// Takes a scrape of a job: its series that were there before and are not now go stale.
    pub fn scrape<'a>(
        &mut self,
        job: &'static str,
        at: i64,
        samples: impl Iterator<Item = (&'a str, &'a [(&'a str, String)], f64)>,
    ) {
        let mut now = Vec::new();
        for (name, labels, value) in samples {
            let index = self.index(name, labels);
            self.series[index].scraped = at;
            now.push(index);
            self.push(index, at, value);
        }
        let before = self.live.insert(job, now).unwrap_or_default();
        for index in before {
            if self.series[index].scraped != at {
                self.push(index, at, f64::NAN);
            }
        }
    }

    fn push(&mut self, index: usize, at: i64, value: f64) {
        let samples = &mut self.series[index].samples;
        match samples.last() {
            Some((last, _)) if *last > at => {}
            Some((last, _)) if *last == at => {
                if let Some(last) = samples.last_mut() {
                    last.1 = value;
                }
            }
            _ => samples.push((at, value)),
        }
    }

    /// The series of these labels, which are ordered by name; hashes of 64 bits do not meet in a sandbox.
    fn index(&mut self, name: &str, labels: &[(&str, String)]) -> usize {
        let mut hash = DefaultHasher::new();
        (name, labels).hash(&mut hash);
        let hash = hash.finish();
        if let Some(index) = self.by_hash.get(&hash) {
            return *index;
        }
        let index = self.series.len();
        let mut all: Labels = labels.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        all.insert("__name__".into(), name.to_owned());
        self.by_name.entry(name.to_owned()).or_default().push(index);
        if let Some(namespace) = all.get("namespace") {
            self.by_namespace.entry((name.to_owned(), namespace.clone())).or_default().push(index);
            self.by_namespace_alone.entry(namespace.clone()).or_default().push(index);
        }
        self.by_hash.insert(hash, index);
        self.series.push(Series { labels: all, samples: Vec::new(), scraped: i64::MIN });
        index
    }

    /// Forgets samples that are too old; series without any stay known, which costs little.
    pub fn forget(&mut self, now: i64) {
        for series in &mut self.series {
            let old = series.samples.partition_point(|(at, _)| *at < now - KEPT_MS);
            if old > 256 || (old > 0 && old == series.samples.len()) {
                series.samples.drain(..old);
                series.samples.shrink_to_fit();
            }
        }
    }

    /// The series that all matchers fit.
    pub fn select<'a>(&'a self, matchers: &'a [Matcher]) -> impl Iterator<Item = &'a Series> + 'a {
        let equal = |wanted: &str| {
            matchers.iter().find_map(|matcher| match matcher {
                Matcher::Equal(label, value) if label == wanted && !value.is_empty() => Some(value),
                _ => None,
            })
        };
        let indices: Vec<usize> = match (equal("__name__"), equal("namespace")) {
            (Some(name), Some(namespace)) => {
                self.by_namespace.get(&(name.clone(), namespace.clone())).cloned().unwrap_or_default()
            }
            (Some(name), None) => self.by_name.get(name).cloned().unwrap_or_default(),
            (None, Some(namespace)) => self.by_namespace_alone.get(namespace).cloned().unwrap_or_default(),
            (None, None) => self.of_names(matchers),
        };
        indices
            .into_iter()
            .map(|index| &self.series[index])
            .filter(move |series| matchers.iter().all(|matcher| matcher.fits(&series.labels)))
    }

    /// The series whose name fits, when a matcher says anything of it; else all.
    fn of_names(&self, matchers: &[Matcher]) -> Vec<usize> {
        let about_the_name = |matcher: &&Matcher| match matcher {
            Matcher::Equal(label, _) | Matcher::NotEqual(label, _) => label == "__name__",
            Matcher::Matches(label, _) | Matcher::Differs(label, _) => label == "__name__",
        };
        let about: Vec<&Matcher> = matchers.iter().filter(about_the_name).collect();
        if about.is_empty() {
            return (0..self.series.len()).collect();
        }
        let fits = |name: &str| {
            let labels = Labels::from([("__name__".to_owned(), name.to_owned())]);
            about.iter().all(|matcher| matcher.fits(&labels))
        };
        self.by_name.iter().filter(|(name, _)| fits(name)).flat_map(|(_, indices)| indices).copied().collect()
    }

    /// Every metric name.
    pub fn names(&self) -> impl Iterator<Item = &String> {
        self.by_name.keys()
    }

    /// How many samples are held.
    pub fn len(&self) -> usize {
        self.series.iter().map(|series| series.samples.len()).sum()
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Series {
    /// The current sample at a time, unless stale.
    pub fn at(&self, time: i64) -> Option<f64> {
        let end = self.samples.partition_point(|(at, _)| *at <= time);
        let (at, value) = *self.samples.get(end.checked_sub(1)?)?;
        (time - at < LOOKBACK_MS && !value.is_nan()).then_some(value)
    }

    /// Samples in `(from, to]` without staleness marks.
    pub fn between(&self, from: i64, to: i64) -> Vec<(i64, f64)> {
        let start = self.samples.partition_point(|(at, _)| *at <= from);
        let end = self.samples.partition_point(|(at, _)| *at <= to);
        self.samples[start..end.max(start)].iter().filter(|(_, value)| !value.is_nan()).copied().collect()
    }

    /// Whether any sample lies in `[from, to]`.
    pub fn lives_in(&self, from: i64, to: i64) -> bool {
        let start = self.samples.partition_point(|(at, _)| *at < from);
        self.samples.get(start).is_some_and(|(at, _)| *at <= to)
    }
}
