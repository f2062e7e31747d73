//! One measure out of whatever keeps series: the forms in which it may be there are tried in turn.

use std::collections::BTreeSet;

use amend_diagnosis::evidence::{Series, Window};
use futures::future::BoxFuture;
use jiff::SignedDuration;

use crate::measures::{self, Failed};
use crate::promql::{Expr, Selector};
use crate::questions::{Selection, SeriesQuestion};
use crate::source::{SourceConfig, SourceError, Told};

/// The names that are there; `None` where the store does not say.
pub(crate) type Names<'a> = BoxFuture<'a, Result<Option<BTreeSet<String>>, SourceError>>;

/// Series, and how many samples were left out because they were not numbers.
pub(crate) type Samples<'a> = BoxFuture<'a, Result<(Vec<Series>, usize), SourceError>>;

/// What keeps series under the names that senders gave them.
pub(crate) trait Kept: Sync {
    /// Which of these metrics are there at all.
    fn there<'a>(&'a self, names: &'a BTreeSet<String>, window: Window) -> Names<'a>;

    /// Samples of every series of an expression at regular times.
    fn evaluated<'a>(&'a self, query: &'a Expr, window: Window, step: SignedDuration) -> Samples<'a>;
}

/// The window over which rates are taken.
fn rate_window(config: &SourceConfig, step: SignedDuration) -> SignedDuration {
    (config.sample_every * 4).max(step)
}

/// What the first form that finds any series says; of several workloads, which may count in several ways, what the first
/// form of each family says of those that no other has told yet.
pub(crate) async fn measured(store: &dyn Kept, config: &SourceConfig, question: &SeriesQuestion) -> Told<Vec<Series>> {
    let between = (config.sample_every * 2).max(question.step);
    let forms = measures::forms(question, &config.mapping, rate_window(config, question.step), between);
    let names: BTreeSet<String> =
        forms.iter().filter_map(|form| form.of_family.as_ref()).map(|of| of.metric.clone()).collect();
    let present = match names.is_empty() {
        true => None,
        false => match store.there(&names, question.window).await {
            Ok(present) => present,
            Err(error) => return Told::new(named_one_of(&names), Err(error)),
        },
    };
    let asked =
        forms.into_iter().filter(|form| form.of_family.as_ref().is_none_or(|of| of.is_worth_asking(present.as_ref())));
    let mut sent = BTreeSet::new();
    let mut first = None;
    let mut found = Found::default();
    for form in asked {
        let family = form.of_family.as_ref().map(|of| of.place);
        if found.has_answered(family) {
            continue;
        }
        let query = form.query.to_string();
        // Two families may share a histogram.
        if !sent.insert(query.clone()) {
            continue;
        }
        match store.evaluated(&form.query, question.window, question.step).await {
            Ok((series, dropped)) if series.is_empty() => {
                // Nothing under this name; the store may use another. The first form is what we report then.
                first.get_or_insert(Told { query, outcome: Ok(Vec::new()), dropped });
            }
            Ok((series, dropped)) => {
                found.add(query, form.normalised(series, &question.id), dropped, family);
                // Where each family costs questions that may be about nothing, the first that answers is enough.
                if found.suffices(&question.of, family) || present.is_none() {
                    break;
                }
            }
            Err(error) => return Told::new(query, Err(error)),
        }
    }
    match found.series.is_empty() {
        false => Told { query: found.queries.join(" or "), outcome: Ok(found.series), dropped: found.dropped },
        // No family is there: the question about names is what was sent.
        true => first.unwrap_or_else(|| Told::new(named_one_of(&names), Ok(Vec::new()))),
    }
}

/// A selector of all series with one of these names.
pub(crate) fn named_one_of(names: &BTreeSet<String>) -> String {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    Selector::metric("").like("__name__", &names.join("|")).to_string()
}

/// What the forms of a question have found so far.
#[derive(Default)]
struct Found {
    series: Vec<Series>,
    queries: Vec<String>,
    dropped: usize,
    families: BTreeSet<usize>,
    /// Who something is known of.
    told: BTreeSet<Who>,
}

/// Namespace, service and pod.
type Who = [Option<String>; 3];

impl Found {
    fn has_answered(&self, family: Option<usize>) -> bool {
        family.is_some_and(|family| self.families.contains(&family))
    }

    /// Takes over what is told of those that nothing is known of yet: counted twice, requests would be two.
    ///
    /// Requests that do not say how they ended give way to those of another family that do.
    fn add(&mut self, query: String, series: Vec<Series>, dropped: usize, family: Option<usize>) {
        let who = |series: &Series| ["namespace", "service", "pod"].map(|label| series.labels.get(label).cloned());
        let untold = |series: &Series| Failed::of(series) == Some(Failed::Untold);
        let half: BTreeSet<Who> = series.iter().filter(|one| untold(one)).map(who).collect();
        let held: BTreeSet<Who> = self.series.iter().map(who).collect();
        let is_new = |of: &Who| !held.contains(of) || !(self.told.contains(of) || half.contains(of));
        let new: Vec<Series> = series.into_iter().filter(|one| is_new(&who(one))).collect();
        self.dropped += dropped;
        if new.is_empty() {
            return;
        }
        let of: BTreeSet<Who> = new.iter().map(who).collect();
        self.series.retain(|one| !of.contains(&who(one)));
        self.told.extend(of.difference(&half).cloned());
        self.series.extend(new);
        self.queries.push(query);
        self.families.extend(family);
    }

    /// Of one workload the first that says how requests ended is enough; several may count in several ways.
    fn suffices(&self, of: &Selection, family: Option<usize>) -> bool {
        (!of.several || family.is_none()) && !self.told.is_empty()
    }
}
