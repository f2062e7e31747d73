//! The model lives through a story, and the stores write down what they see.

use std::collections::BTreeMap;

use amend_diagnosis::entity::Entity;
use amend_diagnosis::evidence::{
    Answer, Asked, LinkKind, LogLine, Observations, Series, Span, SpanKind, Topology, TopologyEdge, Window,
};
use amend_diagnosis::metric::name;
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use amend_sandbox::model::seen::Seen;
use amend_sandbox::model::{Model, Span as Modelled};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::metrics::Scraped;
use super::objects::{deployment, status};
use super::{BEGINS, LOOKED_AT, Stage, at};

/// Seconds between two scrapes.
const EVERY: i64 = 15;

/// Traces and logs are kept from here on: twenty minutes before trouble begins.
const TOLD_FROM: i64 = BEGINS - 1_200;

impl Stage {
    /// Lets the model live through everything, and gives what a diagnosis would be told at [`LOOKED_AT`].
    pub fn play(mut self) -> Observations {
        let mut deeds = std::mem::take(&mut self.deeds);
        deeds.sort_by_key(|(second, _)| *second);
        let mut deeds = deeds.into_iter().peekable();
        let mut model = Model::new(self.graph.clone(), at(0));
        let mut scraped = Scraped::default();
        let (mut spans, mut logs) = (Vec::new(), Vec::new());
        while self.now < LOOKED_AT {
            self.now += EVERY;
            while let Some((_, deed)) = deeds.next_if(|(second, _)| *second <= self.now) {
                deed(&mut self);
            }
            model.set_quiet(self.now < TOLD_FROM);
            model.set_graph(self.graph.clone());
            let step = model.step(at(self.now), self.seen());
            for pod in &mut self.pods {
                let shown = pod["metadata"]["uid"].as_str().and_then(|uid| step.containers.get(uid));
                if let Some(container) = shown {
                    pod["status"] = status(container);
                }
            }
            scraped.keep(self.now, model.scrape());
            if self.now >= TOLD_FROM {
                spans.extend(step.spans.iter().map(span));
                logs.extend(step.logs.into_iter().map(|line| LogLine {
                    at_ns: Some(nanoseconds(line.at)),
                    source: line.labels.get("pod").cloned().unwrap_or_default(),
                    severity: line.line.contains("level=error").then(|| "ERROR".to_owned()),
                    body: line.line,
                    trace_id: None,
                    span_id: None,
                    count: 1,
                    taught: None,
                }));
            }
        }
        let series = scraped.answers();
        Observations {
            at: at(LOOKED_AT),
            began: Some(at(BEGINS)),
            normal: None,
            fault: None,
            symptoms: self.alerts(&series),
            candidates: None,
            topology: Answer::Known(self.topology()),
            series: Answer::Known(series),
            spans: Answer::Known(spans),
            exemplars: Answer::unknown("the model keeps none"),
            logs: Answer::Known(logs),
            changes: Answer::Known(self.changes.clone()),
            objects: Answer::Known(self.objects()),
            events: Answer::Known(self.events.clone()),
            asked: ["metrics", "traces", "logs", "pods", "revisions"].map(asked).into(),
        }
    }

    /// What the model sees; evicted pods are gone for it.
    fn seen(&self) -> Seen {
        let maps: Vec<Value> = self
            .config_maps
            .iter()
            .map(|(name, data)| json!({"metadata": {"namespace": super::NAMESPACE, "name": name}, "data": data}))
            .collect();
        Seen::read(self.pods.iter().filter(|pod| pod["status"]["phase"] != "Failed"), maps.iter())
    }

    fn topology(&self) -> Topology {
        let calls = self.graph.services.iter().flat_map(|(from, service)| {
            let kind = LinkKind::Calls;
            service.calls.iter().map(move |call| TopologyEdge {
                from: deployment(from),
                to: deployment(&call.to),
                kind,
            })
        });
        Topology { nodes: self.workloads.keys().map(|name| deployment(name)).collect(), edges: calls.collect() }
    }

    /// The alerts that usual rules would raise; one about the whole shop when none does, since somebody asked.
    fn alerts(&self, series: &[Series]) -> Vec<Signal> {
        let mut alerts = Vec::new();
        for one in series {
            let (Some(service), Some(metric)) = (one.labels.get("service"), one.labels.get("__name__")) else {
                continue;
            };
            let begins = at(BEGINS).as_second() as f64;
            let (before, after): (Vec<_>, Vec<_>) = one.samples.iter().partition(|(time, _)| *time < begins);
            let usual = before.iter().map(|(_, value)| value).sum::<f64>() / before.len().max(1) as f64;
            let (alert, bound) = match metric.as_str() {
                name::ERROR_RATIO => ("HighErrorRate", 0.05),
                name::LATENCY_P99 => ("HighLatency", 2.5 * usual),
                name::REQUEST_RATE => ("HighTraffic", 2.0 * usual),
                _ => continue,
            };
            let over: Vec<f64> = after.iter().filter(|(_, value)| *value > bound).map(|(time, _)| *time).collect();
            if let (true, Some(first)) = (over.len() >= 8, over.first()) {
                let second = *first as i64 - at(0).as_second() + 60;
                alerts.push(signal(alert, deployment(service), second));
            }
        }
        if alerts.is_empty() {
            alerts.push(signal("ShopLooksOdd", deployment("frontend"), BEGINS + 120));
        }
        alerts
    }
}

fn signal(alert: &str, entity: Entity, second: i64) -> Signal {
    Signal {
        key: format!("{alert}/{}", entity.name),
        source: SignalSource::Alert,
        name: alert.to_owned(),
        entity,
        severity: Severity::Critical,
        started_at: at(second),
        ended_at: None,
        summary: String::new(),
        labels: BTreeMap::new(),
        count: 1,
    }
}

fn asked(id: &str) -> Asked {
    let window = Window { from: at(0), to: at(LOOKED_AT) };
    Asked {
        id: id.to_owned(),
        source: "model".to_owned(),
        query: id.to_owned(),
        window,
        digest: String::new(),
        unknown: None,
    }
}

fn span(span: &Modelled) -> Span {
    Span {
        trace_id: span.trace.clone(),
        span_id: span.id.clone(),
        parent_id: span.parent.clone(),
        service: span.service.clone(),
        pod: Some(span.pod.clone()),
        operation: span.operation.clone(),
        kind: if span.kind == "server" { SpanKind::Server } else { SpanKind::Client },
        start_ns: nanoseconds(span.start),
        duration_ns: u64::try_from(span.duration.as_nanos()).unwrap_or_default(),
        error: span.failed(),
        attributes: BTreeMap::from([("http.response.status_code".to_owned(), span.status.to_string())]),
    }
}

fn nanoseconds(time: Timestamp) -> u64 {
    u64::try_from(time.as_nanosecond()).unwrap_or_default()
}
