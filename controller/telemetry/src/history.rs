//! Which alerts fired when, as Prometheus remembers it in `ALERTS`: read in pieces, folded into spans of time.
//!
//! <https://prometheus.io/docs/prometheus/latest/configuration/alerting_rules/#inspecting-alerts-during-runtime>

use std::collections::BTreeMap;

use amend_diagnosis::evidence::{Series, Window};
use jiff::{SignedDuration, Timestamp};

use crate::promql::Selector;
use crate::source::{Source, SourceError};

/// Time that one question asks about: at a minute's step a few hundred samples for each alert, far below any store's limit.
const PIECE: SignedDuration = SignedDuration::from_hours(6);

/// A piece whose answer is too large is halved down to this; below it a store holds thousands of alerts at once.
const PIECE_MIN: SignedDuration = SignedDuration::from_mins(15);

/// A store that failed this often in a row is not asked any more: it has other worries.
const FAILURES_MAX: usize = 2;

/// Which alerts fired during a window.
#[derive(Clone, Debug, PartialEq)]
pub struct HistoryQuestion {
    /// Only alerts of this namespace; `None`: all.
    pub namespace: Option<String>,
    pub window: Window,
    pub step: SignedDuration,
}

impl HistoryQuestion {
    /// `ALERTS{alertstate="firing"}`, with the store's own name for the namespace.
    pub(crate) fn selector(&self, namespace_label: &str) -> Selector {
        let firing = Selector::metric("ALERTS").is("alertstate", "firing");
        match &self.namespace {
            Some(namespace) => firing.is(namespace_label, namespace),
            None => firing,
        }
    }
}

/// What one store remembers.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub series: Vec<Series>,
    /// Questions that were answered.
    pub read: usize,
    /// Spans of time that could not be read, each with the reason.
    pub unread: Vec<(Window, String)>,
}

/// Reads a window from one store, the newest piece first, one question after another.
///
/// What cannot be read is listed; the rest is used.
pub async fn read(source: &dyn Source, question: &HistoryQuestion) -> History {
    let mut history = History::default();
    let mut waiting = pieces(question.window, question.step);
    let mut failures = 0;
    while let Some(window) = waiting.pop() {
        let told = source.alerts_fired(&HistoryQuestion { window, ..question.clone() }).await;
        match told.outcome {
            Ok(series) => {
                failures = 0;
                history.read += 1;
                history.series.extend(series);
            }
            Err(SourceError::TooMany { .. } | SourceError::TooLarge { .. }) if length(window) > PIECE_MIN => {
                waiting.extend(halves(window, question.step));
            }
            Err(error) => {
                failures += 1;
                let why = error.why(&source.config().name);
                let for_good = failures >= FAILURES_MAX || matches!(error, SourceError::Spent { .. });
                history.unread.push((window, why.clone()));
                if for_good {
                    history.unread.extend(waiting.drain(..).rev().map(|window| (window, why.clone())));
                }
            }
        }
    }
    history
}

fn length(window: Window) -> SignedDuration {
    window.to.duration_since(window.from)
}

/// A window in pieces, oldest first. Both ends of a question count, so that the next piece begins a step later.
fn pieces(window: Window, step: SignedDuration) -> Vec<Window> {
    let mut pieces = Vec::new();
    let mut from = window.from;
    while from <= window.to {
        let to = from.saturating_add(PIECE - step).unwrap_or(window.to).min(window.to);
        pieces.push(Window { from, to });
        match to.checked_add(step) {
            Ok(next) => from = next,
            Err(_) => break,
        }
    }
    pieces
}

/// Two halves on the same grid of steps, the newer one last.
fn halves(window: Window, step: SignedDuration) -> [Window; 2] {
    let steps = length(window).as_secs() / step.as_secs().max(1) / 2;
    let middle = window.from.saturating_add(SignedDuration::from_secs(steps * step.as_secs())).unwrap_or(window.to);
    let next = middle.saturating_add(step).unwrap_or(window.to).min(window.to);
    [Window { from: window.from, to: middle }, Window { from: next, to: window.to }]
}

/// One alert that fired for a while.
#[derive(Clone, Debug, PartialEq)]
pub struct Firing {
    /// The alert's labels as the rule gave them.
    pub labels: BTreeMap<String, String>,
    /// The first look at which it fired.
    pub from: Timestamp,
    /// The first look at which it did not any more; `None`: it still fired when the window ended.
    pub to: Option<Timestamp>,
}

/// Spans of firing, oldest first. The same labels in two stores, or in two pieces, are one alert.
///
/// Two samples belong together when at most one look between them found nothing, or when nobody could look.
pub fn folded(history: &[History], question: &HistoryQuestion) -> Vec<Firing> {
    let mut seen: BTreeMap<BTreeMap<String, String>, Vec<i64>> = BTreeMap::new();
    for series in history.iter().flat_map(|one| &one.series) {
        let mut labels = series.labels.clone();
        labels.remove("__name__");
        labels.remove("alertstate");
        let times = series.samples.iter().filter(|(_, value)| *value > 0.0).map(|(at, _)| at.round() as i64);
        seen.entry(labels).or_default().extend(times);
    }
    let step = question.step.as_secs().max(1);
    let unread: Vec<(i64, i64)> = history
        .iter()
        .flat_map(|one| &one.unread)
        .map(|(window, _)| (window.from.as_second() - step, window.to.as_second() + step))
        .collect();
    let bridged = |from: i64, to: i64| unread.iter().any(|(start, end)| *start <= from && to <= *end);
    let mut firings = Vec::new();
    for (labels, mut times) in seen {
        times.sort_unstable();
        times.dedup();
        let mut span: Option<(i64, i64)> = None;
        for at in times {
            span = match span {
                Some((from, last)) if at - last <= 2 * step || bridged(last, at) => Some((from, at)),
                Some(over) => {
                    firings.extend(firing(&labels, over, step, question.window.to));
                    Some((at, at))
                }
                None => Some((at, at)),
            };
        }
        firings.extend(span.and_then(|span| firing(&labels, span, step, question.window.to)));
    }
    firings.sort_by(|left, right| (left.from, &left.labels).cmp(&(right.from, &right.labels)));
    firings
}

fn firing(labels: &BTreeMap<String, String>, (from, last): (i64, i64), step: i64, end: Timestamp) -> Option<Firing> {
    let over = last + step;
    let to = (over < end.as_second()).then(|| Timestamp::from_second(over).ok()).flatten();
    Some(Firing { labels: labels.clone(), from: Timestamp::from_second(from).ok()?, to })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: SignedDuration = SignedDuration::from_mins(1);

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(1_770_000_000 / 60 * 60 + 60 * minute).unwrap()
    }

    fn question(minutes: i64) -> HistoryQuestion {
        HistoryQuestion { namespace: None, window: Window { from: at(0), to: at(minutes) }, step: MINUTE }
    }

    fn fired(name: &str, minutes: &[i64]) -> Series {
        let labels = [("__name__", "ALERTS"), ("alertstate", "firing"), ("alertname", name)];
        Series {
            labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
            samples: minutes.iter().map(|minute| (at(*minute).as_second() as f64, 1.0)).collect(),
            asked: String::new(),
        }
    }

    fn spans(firings: &[Firing]) -> Vec<(Timestamp, Option<Timestamp>)> {
        firings.iter().map(|one| (one.from, one.to)).collect()
    }

    #[test]
    fn the_question_is_one_selector_that_no_value_can_break() {
        let everywhere = question(10);
        assert_eq!(everywhere.selector("namespace").to_string(), r#"ALERTS{alertstate="firing"}"#);
        let one = HistoryQuestion { namespace: Some("a\"} or up".into()), ..everywhere };
        let shown = one.selector("exported_namespace").to_string();
        assert_eq!(shown, r#"ALERTS{alertstate="firing",exported_namespace="a\"} or up"}"#);
    }

    #[test]
    fn pieces_meet_without_sharing_a_sample_and_cover_the_window() {
        let window = Window { from: at(0), to: at(14 * 24 * 60) };
        let pieces = pieces(window, MINUTE);
        assert_eq!(pieces.len(), 57, "a last look of its own at the very end");
        assert!(pieces.windows(2).all(|pair| pair[0].to + MINUTE == pair[1].from));
        assert_eq!((pieces[0].from, pieces[56].to), (window.from, window.to));
        let [older, newer] = halves(pieces[0], MINUTE);
        assert_eq!((older.from, older.to + MINUTE, newer.to), (pieces[0].from, newer.from, pieces[0].to));
    }

    #[test]
    fn samples_become_spans_and_one_missed_look_does_not_break_them() {
        let history = History { series: vec![fired("A", &[1, 2, 4, 9, 10])], ..History::default() };
        let firings = folded(&[history], &question(60));
        assert_eq!(spans(&firings), [(at(1), Some(at(5))), (at(9), Some(at(11)))]);
        assert_eq!(firings[0].labels, BTreeMap::from([("alertname".to_owned(), "A".to_owned())]));
    }

    #[test]
    fn what_fires_at_the_end_has_no_end_and_two_stores_tell_of_one_alert() {
        let one = History { series: vec![fired("A", &[57, 58, 59, 60])], ..History::default() };
        let firings = folded(&[one.clone(), one], &question(60));
        assert_eq!(spans(&firings), [(at(57), None)]);
    }

    #[test]
    fn an_alert_on_both_sides_of_a_time_that_nobody_could_read_is_one_alert() {
        let unread = vec![(Window { from: at(11), to: at(19) }, "no answer".to_owned())];
        let history = History { series: vec![fired("A", &[9, 10, 20, 21])], unread, ..History::default() };
        assert_eq!(spans(&folded(&[history], &question(60))), [(at(9), Some(at(22)))]);
    }
}
