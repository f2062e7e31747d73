//! Our own metrics, in the OpenMetrics text format.
//!
//! Label values are `&'static str`: text that arrives at run time cannot become a label, so neither a hostile alert
//! nor a busy day can make the number of series grow.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use amend_diagnosis::signal::SignalSource;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// What [`Metrics::text`] is to be served as.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident { $($field:ident),+ })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
        pub struct $name {
            $(pub $field: &'static str,)+
        }
    )*};
}

labels! {
    /// Who told us: `alert`, `event`, `build`.
    BySource { source }
    /// Who told us, and why it was not taken.
    Dropped { source, reason }
    ByRoute { route }
    Refused { route, reason }
    ByForge { forge, result }
    ByPhase { phase }
    ByOutcome { outcome }
    Verdict { gate, verdict }
    Effect { kind, outcome }
    SourceHealth { kind, health }
    ByController { controller }
}

/// Every metric of the controller. Cheap to clone; all clones count together.
#[derive(Clone)]
pub struct Metrics {
    registry: Arc<Registry>,
    pub signals_accepted: Family<BySource, Counter>,
    pub signals_repeated: Family<BySource, Counter>,
    pub signals_dropped: Family<Dropped, Counter>,
    pub alerts_truncated: Counter,
    pub intake_refused: Family<Refused, Counter>,
    intake_seconds: Family<ByRoute, Histogram>,
    pub signals_waiting: Gauge,
    pub builds_received: Family<ByForge, Counter>,
    pub incidents: Family<ByPhase, Gauge>,
    diagnosis_seconds: Histogram,
    pub gate_verdicts: Family<Verdict, Counter>,
    pub remediations: Family<ByPhase, Gauge>,
    pub remediations_ended: Family<ByOutcome, Counter>,
    pub effects: Family<Effect, Counter>,
    pub pull_requests_opened: Counter,
    pub pages: Family<ByOutcome, Counter>,
    pub sources: Family<SourceHealth, Gauge>,
    pub reconcile_errors: Family<ByController, Counter>,
    reconcile_seconds: Family<ByController, Histogram>,
    pub leader: Gauge,
    pub record_entries: Gauge,
    /// `verified`, `bad`, or `unknown` when it could not be read.
    pub record_checks: Family<ByOutcome, Counter>,
    unknown_log_templates: Gauge,
    unknown_log_templates_dropped: Counter,
    pub paused: Gauge,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Around the goals: an alert is acknowledged within 0.5 s, a diagnosis made within 0.5 s.
fn quick() -> Histogram {
    Histogram::new([0.005, 0.01, 0.025, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0])
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    pub fn new() -> Self {
        let mut metrics = Self {
            registry: Arc::default(),
            signals_accepted: Family::default(),
            signals_repeated: Family::default(),
            signals_dropped: Family::default(),
            alerts_truncated: Counter::default(),
            intake_refused: Family::default(),
            intake_seconds: Family::new_with_constructor(quick),
            signals_waiting: Gauge::default(),
            builds_received: Family::default(),
            incidents: Family::default(),
            diagnosis_seconds: quick(),
            gate_verdicts: Family::default(),
            remediations: Family::default(),
            remediations_ended: Family::default(),
            effects: Family::default(),
            pull_requests_opened: Counter::default(),
            pages: Family::default(),
            sources: Family::default(),
            reconcile_errors: Family::default(),
            reconcile_seconds: Family::new_with_constructor(quick),
            leader: Gauge::default(),
            record_entries: Gauge::default(),
            record_checks: Family::default(),
            unknown_log_templates: Gauge::default(),
            unknown_log_templates_dropped: Counter::default(),
            paused: Gauge::default(),
        };
        // From zero, so that a rate sees the first one too: what alerts ask for must be there before it happens.
        for outcome in ["verified", "bad", "unknown"] {
            let _ = metrics.record_checks.get_or_create(&ByOutcome { outcome });
        }
        for reason in ["busy", "full", "store"] {
            let _ = metrics.intake_refused.get_or_create(&Refused { route: "alertmanager", reason });
        }
        let _ = metrics.pages.get_or_create(&ByOutcome { outcome: "failed" });
        metrics.registry = Arc::new(metrics.registered());
        metrics
    }

    fn registered(&self) -> Registry {
        let mut all = Registry::with_prefix("amend");
        all.register("signals_accepted", "Signals stored, after merging repeats", self.signals_accepted.clone());
        all.register("signals_repeated", "Signals merged into one that waited already", self.signals_repeated.clone());
        all.register("signals_dropped", "Signals not stored, by reason", self.signals_dropped.clone());
        all.register(
            "alerts_truncated",
            "Alerts that Alertmanager left out of its message",
            self.alerts_truncated.clone(),
        );
        all.register("intake_refused", "Requests refused at the intake, by reason", self.intake_refused.clone());
        let help = "Time from the request to its answer, storing included";
        all.register_with_unit("intake_duration", help, Unit::Seconds, self.intake_seconds.clone());
        all.register("signals_waiting", "Signals taken in and not stored yet", self.signals_waiting.clone());
        all.register("builds_received", "Failed CI runs reported", self.builds_received.clone());
        all.register("incidents", "Incidents by phase", self.incidents.clone());
        let help = "Time to find a cause, waiting for telemetry apart";
        all.register_with_unit("diagnosis_duration", help, Unit::Seconds, self.diagnosis_seconds.clone());
        all.register("gate_verdicts", "Outcomes of gates", self.gate_verdicts.clone());
        all.register("remediations", "Remediations by phase", self.remediations.clone());
        all.register("remediations_ended", "Remediations that ended, by outcome", self.remediations_ended.clone());
        all.register("effects", "Changes made outside, by kind and outcome", self.effects.clone());
        all.register("pull_requests_opened", "Pull requests opened", self.pull_requests_opened.clone());
        all.register("pages", "Attempts to call a person, by outcome", self.pages.clone());
        all.register("telemetry_sources", "Telemetry sources by kind and health", self.sources.clone());
        all.register("reconcile_errors", "Reconciliations that failed", self.reconcile_errors.clone());
        let help = "Time of one reconciliation";
        all.register_with_unit("reconcile_duration", help, Unit::Seconds, self.reconcile_seconds.clone());
        all.register("leader", "1 while this process leads", self.leader.clone());
        all.register("record_entries", "Entries in the record", self.record_entries.clone());
        all.register("record_checks", "Checks of the whole record, by outcome", self.record_checks.clone());
        let help = "Log templates that nobody can class, in the queue for people";
        all.register("unknown_log_templates", help, self.unknown_log_templates.clone());
        let help = "Times that a log template was pushed out of the queue or found no place";
        all.register("unknown_log_templates_dropped", help, self.unknown_log_templates_dropped.clone());
        all.register("paused", "1 while all effects are stopped by a person", self.paused.clone());
        all
    }

    pub fn observe_intake(&self, route: &'static str, took: Duration) {
        self.intake_seconds.get_or_create(&ByRoute { route }).observe(took.as_secs_f64());
    }

    pub fn observe_diagnosis(&self, took: Duration) {
        self.diagnosis_seconds.observe(took.as_secs_f64());
    }

    pub fn observe_reconcile(&self, controller: &'static str, took: Duration) {
        self.reconcile_seconds.get_or_create(&ByController { controller }).observe(took.as_secs_f64());
    }

    /// How many templates the queue of unknown log lines holds, and how often it did not keep one so far.
    pub fn show_unknown_lines(&self, kept: usize, dropped: u64) {
        self.unknown_log_templates.set(i64::try_from(kept).unwrap_or(i64::MAX));
        let counted = self.unknown_log_templates_dropped.get();
        self.unknown_log_templates_dropped.inc_by(dropped.saturating_sub(counted));
    }

    pub fn drop_signal(&self, source: &'static str, reason: &'static str) {
        self.signals_dropped.get_or_create(&Dropped { source, reason }).inc();
    }

    /// A signal that was over before any work began.
    pub fn signal_dropped(&self, source: SignalSource) {
        self.drop_signal(source_name(source), "over");
    }

    pub fn reconcile_failed(&self, controller: &'static str) {
        self.reconcile_errors.get_or_create(&ByController { controller }).inc();
    }

    pub fn refuse(&self, route: &'static str, reason: &'static str) {
        self.intake_refused.get_or_create(&Refused { route, reason }).inc();
    }

    /// Everything in the text format that Prometheus reads.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail; an encoder's own error leaves a text without its end mark, which
        // Prometheus refuses instead of believing half of it.
        if encode(&mut text, &self.registry).is_err() {
            text.push_str("# incomplete\n");
        }
        text
    }
}

/// What a source is called in a label.
pub fn source_name(source: SignalSource) -> &'static str {
    match source {
        SignalSource::Alert => "alert",
        SignalSource::Event => "event",
        SignalSource::Condition => "condition",
        SignalSource::Build => "build",
        SignalSource::Slo => "slo",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_gauges_and_histograms_appear_with_their_labels() {
        let metrics = Metrics::new();
        metrics.drop_signal("alert", "malformed");
        metrics.incidents.get_or_create(&ByPhase { phase: "Open" }).set(3);
        metrics.observe_intake("alertmanager", Duration::from_millis(7));
        let text = metrics.clone().text();
        for line in [
            "amend_signals_dropped_total{source=\"alert\",reason=\"malformed\"} 1",
            "amend_incidents{phase=\"Open\"} 3",
            "amend_intake_duration_seconds_bucket{le=\"0.01\",route=\"alertmanager\"} 1",
            "amend_leader 0",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line} not in:\n{text}");
        }
    }
}
