//! A healthy past, as a Prometheus would have scraped it.

use std::collections::BTreeMap;

use amend_sandbox::model::Model;
use amend_sandbox::model::seen::Seen;
use jiff::{SignedDuration, Timestamp};

use super::PAST;
use crate::bench::Series;

/// Time between two samples of the past.
const EVERY: SignedDuration = SignedDuration::from_secs(5);

/// What tells one series from another: its metric and its labels.
type Name = (&'static str, Vec<(&'static str, String)>);

/// Lets the model live through the past with the pods of now, as if they were older than it, and tells its samples.
pub(super) fn lived(model: &mut Model, seen: &Seen, now: Timestamp) -> Vec<Series> {
    let mut past = seen.clone();
    for pod in &mut past.pods {
        pod.created = now - PAST - SignedDuration::from_hours(1);
        // Nobody wrote down how these containers did then.
        pod.told = None;
    }
    model.set_quiet(true);
    let mut series: BTreeMap<Name, Series> = BTreeMap::new();
    let mut at = now - PAST;
    while at < now - EVERY {
        at += EVERY;
        model.step(at, past.clone());
        for sample in model.scrape() {
            let key = (sample.name, sample.labels);
            if let Some(known) = series.get_mut(&key) {
                known.samples.push((at, sample.value));
                continue;
            }
            let labels: Vec<(&str, &str)> = key.1.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let mut new = Series::new(sample.name, &labels);
            // What Prometheus adds to what it scrapes.
            new.labels.insert("job".to_owned(), "bench".to_owned());
            new.samples.push((at, sample.value));
            series.insert(key, new);
        }
    }
    model.set_quiet(false);
    series.into_values().collect()
}
