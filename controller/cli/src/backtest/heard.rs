//! Alerts that a store remembers, as the intake would have taken them: each is grouped, not aligned, or left out with a reason.

use std::collections::{BTreeMap, BTreeSet};

use amend_controller::intake::alertmanager::{Naming, remembered};
use amend_controller::topology::{Picture, align};
use amend_diagnosis::entity::EntityKind;
use amend_diagnosis::signal::Signal;
use amend_telemetry::history::{History, HistoryQuestion, folded};
use serde::Serialize;

/// What was heard.
#[derive(Debug, Default)]
pub struct Heard {
    /// One for each time that an alert fired.
    pub alerts: Vec<Signal>,
    /// Why others were left out, and how many.
    pub dropped: BTreeMap<&'static str, usize>,
}

/// How many alerts there were, and what became of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Counted {
    pub all: usize,
    pub grouped: usize,
    pub not_aligned: usize,
    pub dropped: BTreeMap<&'static str, usize>,
}

pub fn heard(histories: &[History], question: &HistoryQuestion) -> Heard {
    let mut heard = Heard::default();
    for firing in folded(histories, question) {
        match remembered(firing.labels, firing.from, firing.to, &Naming::default()) {
            Ok(signal) => heard.alerts.push(signal),
            Err(reason) => *heard.dropped.entry(reason).or_default() += 1,
        }
    }
    heard
}

impl Heard {
    pub fn namespaces(&self) -> BTreeSet<String> {
        let all = self.alerts.iter().map(|alert| alert.entity.namespace.clone());
        all.filter(|namespace| !namespace.is_empty()).collect()
    }

    pub fn align(&mut self, namespace: &str, picture: &Picture) {
        align(&mut self.alerts, namespace, picture);
    }

    /// Takes out the alerts whose entity is a mere name, or is in no namespace although its kind is.
    pub fn split_off_unaligned(&mut self) -> Vec<Signal> {
        let (aligned, unaligned) = std::mem::take(&mut self.alerts).into_iter().partition(is_aligned);
        self.alerts = aligned;
        unaligned
    }

    pub fn counted(&self, not_aligned: usize) -> Counted {
        let dropped: usize = self.dropped.values().sum();
        Counted {
            all: self.alerts.len() + not_aligned + dropped,
            grouped: self.alerts.len(),
            not_aligned,
            dropped: self.dropped.clone(),
        }
    }
}

fn is_aligned(alert: &Signal) -> bool {
    match alert.entity.kind {
        EntityKind::Unaligned => false,
        EntityKind::Node | EntityKind::Namespace => true,
        _ => !alert.entity.namespace.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use amend_diagnosis::evidence::{Series, Window};
    use jiff::{SignedDuration, Timestamp};

    use super::*;

    fn fired(labels: &[(&str, &str)]) -> Series {
        let labels = labels.iter().chain(&[("__name__", "ALERTS"), ("alertstate", "firing")]);
        Series {
            labels: labels.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
            samples: vec![(60.0, 1.0), (120.0, 1.0)],
            asked: String::new(),
        }
    }

    #[test]
    fn every_alert_is_counted_once_as_grouped_not_aligned_or_left_out() {
        let series = vec![
            fired(&[("alertname", "Oom"), ("namespace", "shop"), ("deployment", "checkout")]),
            fired(&[("alertname", "NodeDown"), ("node", "n1")]),
            fired(&[("alertname", "Slow"), ("job", "blackbox"), ("instance", "checkout.shop.svc:8080")]),
            fired(&[("alertname", "PodDown"), ("pod", "checkout-0")]),
            fired(&[("alertname", "Watchdog"), ("severity", "none")]),
            fired(&[("severity", "critical")]),
        ];
        let window = Window { from: Timestamp::UNIX_EPOCH, to: Timestamp::from_second(3600).unwrap() };
        let question = HistoryQuestion { namespace: None, window, step: SignedDuration::from_mins(1) };
        let mut heard = heard(&[History { series, ..History::default() }], &question);
        let unaligned = heard.split_off_unaligned();
        let names: Vec<&str> = unaligned.iter().map(|alert| alert.name.as_str()).collect();
        assert_eq!(names, ["PodDown", "Slow"]);
        let counted = heard.counted(unaligned.len());
        assert_eq!((counted.all, counted.grouped, counted.not_aligned), (6, 2, 2));
        assert_eq!(counted.dropped, BTreeMap::from([("heartbeat", 1), ("unnamed", 1)]));
    }
}
