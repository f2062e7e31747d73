//! The life of a remediation as one trace, told once it has ended.
//!
//! ```text
//! remediation ├── Planned ─ Gating ─ Proposing ─ Proposed ─ Merged ─ Applying ─ Verifying ──┤ Succeeded
//!             └──────────────── push, open ───────────────────────────────────────────────────
//! ```
//!
//! A remediation lives for minutes or days and through restarts, so that no span could be held open for it. Its journal knows when
//! everything was, and makes the spans: one for the whole, one for each phase, one for each deed from intent to outcome. Where no
//! collector is configured this costs nothing; a trace that is lost is not sent again, since the record is what proves anything.

use std::time::SystemTime;

use amend_crds::Remediation;
use amend_execution::journal::{Event, Journal, Outcome};
use amend_execution::phase::{Phase, Standing};
use jiff::Timestamp;
use kube::ResourceExt;
use opentelemetry::trace::{Span, SpanBuilder, Status, TraceContextExt, Tracer};
use opentelemetry::{Context, KeyValue, global};

/// A stretch of the life of a remediation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// A phase, or the word of a deed.
    pub name: &'static str,
    pub from: Timestamp,
    pub to: Timestamp,
    /// Why the phase was entered, or what became of the deed.
    pub because: String,
}

/// Sends the life of a remediation that has ended to the collector, if there is one.
pub fn tell(remediation: &Remediation) {
    let Some(status) = &remediation.status else { return };
    let plan = &remediation.spec.plan;
    let about = vec![
        KeyValue::new("amend.remediation", format!("{}/{}", plan.incident.namespace, remediation.name_any())),
        KeyValue::new("amend.incident", format!("{}/{}", plan.incident.namespace, plan.incident.name)),
        KeyValue::new("amend.entity", plan.target.entity.to_string()),
        KeyValue::new("amend.cause", plan.cause.clone()),
        KeyValue::new("amend.policy", plan.policy.name.clone()),
        KeyValue::new("amend.because", status.because.clone()),
    ];
    spans(&global::tracer("amend"), about, status.phase.unwrap_or(Phase::Planned), &status.journal);
}

fn spans<T: Tracer>(tracer: &T, mut about: Vec<KeyValue>, phase: Phase, journal: &Journal)
where
    T::Span: Send + Sync + 'static,
{
    let (Some(first), Some(last)) = (journal.entries().first(), journal.entries().last()) else { return };
    about.push(KeyValue::new("amend.phase", phase.word()));
    let whole = SpanBuilder::from_name("remediation").with_start_time(time(first.at)).with_attributes(about);
    let mut whole = tracer.build_with_context(whole, &Context::new());
    if matches!(phase, Phase::Held | Phase::Stuck | Phase::Unverified | Phase::RolledBack) {
        whole.set_status(Status::error(phase.word()));
    }
    let within = Context::new().with_span(whole);
    for Stretch { name, from, to, because } in stretches(journal) {
        let part = SpanBuilder::from_name(name)
            .with_start_time(time(from))
            .with_attributes([KeyValue::new("amend.because", because)]);
        tracer.build_with_context(part, &within).end_with_timestamp(time(to));
    }
    within.span().end_with_timestamp(time(last.at));
}

fn time(at: Timestamp) -> SystemTime {
    SystemTime::from(at)
}

/// The phases in the order in which they were entered, and the deeds with their outcomes, as far as the journal is sound.
pub fn stretches(journal: &Journal) -> Vec<Stretch> {
    let (mut standing, mut phases, mut deeds) = (Standing::new(), Vec::<Stretch>::new(), Vec::new());
    for entry in journal.entries() {
        let intended = standing.open.clone();
        match standing.after(entry) {
            Ok(next) => standing = next,
            Err(_) => break,
        }
        if let Some(last) = phases.last_mut() {
            last.to = entry.at;
        }
        let name = standing.phase.word();
        if phases.last().is_none_or(|last| last.name != name) && standing.phase.ending().is_none() {
            phases.push(Stretch { name, from: entry.at, to: entry.at, because: entry.because.to_string() });
        }
        if standing.phase.ending().is_some() {
            break;
        }
        if let (Some(open), Event::Outcome { outcome, .. }) = (intended, &entry.event) {
            let because = match outcome {
                Outcome::Happened => "happened",
                Outcome::DidNot => "did not happen",
                Outcome::CannotTell => "cannot tell",
            };
            let because = because.to_owned();
            deeds.push(Stretch { name: open.effect.word(), from: open.at, to: entry.at, because });
        }
    }
    phases.extend(deeds);
    phases
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use amend_execution::journal::{Actor, EffectKind, Ending};
    use opentelemetry::trace::{SpanId, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{SdkTracerProvider, SpanData, SpanExporter};

    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn withdrawn() -> Journal {
        let push = EffectKind::PushBranch;
        let intent = Event::Intent { step: 0, effect: push, key: "k".into(), epoch: 1, pre_image: None };
        let events = [
            (0, Event::Planned { plan_digest: "d".into(), steps: 1 }),
            (5, Event::GatesEvaluated { gates: Vec::new(), cleared: true }),
            (8, intent),
            (20, Event::Outcome { step: 0, effect: push, outcome: Outcome::DidNot }),
            (30, Event::Ended { ending: Ending::Held, prepare_revert: false }),
        ];
        let mut journal = Journal::default();
        for (second, event) in events {
            journal.append(at(second), Actor::amend("amend-0"), "a reason", event).unwrap();
        }
        journal
    }

    /// Keeps what it is given.
    #[derive(Clone, Debug, Default)]
    struct Kept(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Kept {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().unwrap().extend(batch);
            Ok(())
        }
    }

    #[test]
    fn the_life_of_a_remediation_is_its_phases_and_its_deeds() {
        let told: Vec<(&str, i64, i64)> = stretches(&withdrawn())
            .iter()
            .map(|one| (one.name, one.from.duration_since(at(0)).as_secs(), one.to.duration_since(at(0)).as_secs()))
            .collect();
        assert_eq!(told, [("Planned", 0, 5), ("Gating", 5, 8), ("Proposing", 8, 30), ("push", 8, 20)]);
    }

    #[test]
    fn a_collector_is_sent_one_trace_with_the_times_of_the_journal() {
        let kept = Kept::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(kept.clone()).build();
        let about = vec![KeyValue::new("amend.incident", "shop/inc-1")];
        spans(&provider.tracer("amend"), about, Phase::Held, &withdrawn());
        let spans = kept.0.lock().unwrap();
        let whole = spans.iter().find(|span| span.name == "remediation").unwrap();
        assert_eq!((whole.start_time, whole.end_time), (time(at(0)), time(at(30))));
        assert_eq!(whole.parent_span_id, SpanId::INVALID);
        assert_eq!(whole.status, Status::error("Held"), "people look for what did not end well");
        let parts: Vec<&SpanData> = spans.iter().filter(|span| span.name != "remediation").collect();
        assert_eq!(parts.len(), 4);
        for part in parts {
            assert_eq!(part.parent_span_id, whole.span_context.span_id(), "{}", part.name);
            assert_eq!(part.span_context.trace_id(), whole.span_context.trace_id(), "{}", part.name);
        }
    }
}
