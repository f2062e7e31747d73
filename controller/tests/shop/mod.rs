//! A shop in trouble, as the dashboard would see it: used by its tests and by the preview example.

mod builds;

use std::collections::BTreeMap;

use amend_controller::dashboard::views::*;
use amend_diagnosis::alignment::{Alignment, UnalignedName};
use amend_diagnosis::clusters::Foreign;
use amend_diagnosis::deep::DeepCollection;
use amend_diagnosis::diagnosis::{Cause, Diagnosis, Fact};
use amend_diagnosis::drilldown::{Followed, SlowOperation};
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{Answer, Asked, Window};
use amend_diagnosis::graph::{Edge, Node, NodeRole, RootCauseGraph};
use amend_diagnosis::logs::anchor::{StoryLine, TraceStory};
use amend_diagnosis::signal::{Severity, Signal, SignalSource};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::broadcast;
use tokio_stream::wrappers::BroadcastStream;

use builds::builds;

/// Fixed content; may be changed and announced by tests.
pub struct Shop {
    pub now: Timestamp,
    pub rows: Vec<IncidentRow>,
    pub error: Option<ViewError>,
    /// Why the change of a remediation cannot be shown.
    pub unshown: Option<String>,
    pub changes: broadcast::Sender<Change>,
}

impl Shop {
    pub fn new(now: Timestamp) -> Self {
        Self { now, rows: rows(now), error: None, unshown: None, changes: broadcast::channel(16).0 }
    }
}

impl Shop {
    /// Forbidden is what a cluster answers who may read one namespace only.
    fn listed<T>(&self, rows: Vec<T>, namespace: Option<&str>, of: fn(&T) -> &String) -> Result<Vec<T>, ViewError> {
        match (&self.error, namespace) {
            (Some(ViewError::Forbidden { .. }), Some(namespace)) => {
                Ok(rows.into_iter().filter(|row| of(row) == namespace).collect())
            }
            (Some(error), _) => Err(error.clone()),
            (None, _) => Ok(rows),
        }
    }
}

impl IncidentViews for Shop {
    fn list<'a>(
        &'a self,
        _: &'a Reader,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<IncidentRow>, ViewError>> {
        let listed = self.listed(self.rows.clone(), namespace, |row| &row.namespace);
        async move { listed }.boxed()
    }

    fn get<'a>(
        &'a self,
        _: &'a Reader,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<IncidentView, ViewError>> {
        let row = self.rows.iter().find(|row| row.namespace == namespace && row.name == name);
        let mut view = match (&self.error, row) {
            (Some(error), _) => Err(error.clone()),
            (None, Some(row)) => Ok(incident(row.clone(), self.now)),
            (None, None) => Err(ViewError::NotFound),
        };
        if let (Ok(IncidentView { remediation: Some(remediation), .. }), Some(why)) = (&mut view, &self.unshown) {
            remediation.diff = Answer::unknown(why.as_str());
        }
        async move { view }.boxed()
    }

    fn unknown_lines<'a>(&'a self, _: &'a Reader) -> BoxFuture<'a, Result<UnknownLinesView, ViewError>> {
        let told = self.error.clone().map_or_else(|| Ok(unknown_lines(self.now)), Err);
        async move { told }.boxed()
    }

    fn builds<'a>(
        &'a self,
        _: &'a Reader,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<BuildRow>, ViewError>> {
        let rows = builds(self.now).into_iter().map(|view| view.row).collect();
        let told = self.listed(rows, namespace, |row| &row.namespace);
        async move { told }.boxed()
    }

    fn build<'a>(
        &'a self,
        _: &'a Reader,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<BuildView, ViewError>> {
        let found = builds(self.now).into_iter().find(|view| view.row.namespace == namespace && view.row.name == name);
        let told = self.error.clone().map_or_else(|| found.ok_or(ViewError::NotFound), Err);
        async move { told }.boxed()
    }

    fn changes(&self) -> BoxStream<'static, Change> {
        BroadcastStream::new(self.changes.subscribe()).filter_map(|change| async move { change.ok() }).boxed()
    }
}

fn unknown_lines(now: Timestamp) -> UnknownLinesView {
    let line = UnknownLineView {
        namespace: "shop".to_owned(),
        workload: "Deployment/ledger".to_owned(),
        template: "shard <*> refuses writes: journal <img src=x> is sealed".to_owned(),
        sample: "shard 17 refuses writes: journal <img src=x> is sealed".to_owned(),
        why: "error",
        count: 12,
        first_seen: ago(now, 300),
        last_seen: ago(now, 60),
        incident: "shop/checkout-7f3a".to_owned(),
    };
    UnknownLinesView { lines: vec![line], dropped_templates: 3, dropped_lines: 40, follows: false }
}

fn ago(now: Timestamp, seconds: i64) -> Timestamp {
    now - SignedDuration::from_secs(seconds)
}

pub fn rows(now: Timestamp) -> Vec<IncidentRow> {
    let row =
        |name: &str, severity, phase: &str, over, entity: &str, cause: Option<&str>, confidence, signals, seconds| {
            IncidentRow {
                namespace: "shop".to_owned(),
                name: name.to_owned(),
                severity,
                phase: phase.to_owned(),
                over,
                because: String::new(),
                entity: entity.to_owned(),
                cause: cause.map(str::to_owned),
                confidence,
                signals,
                opened_at: ago(now, seconds),
                needs_person: None,
                pull_request: None,
            }
        };
    let request = |number, state: &str| PullRequestView {
        number,
        url: format!("https://git.example/shop/fleet/pulls/{number}"),
        state: state.to_owned(),
    };
    vec![
        IncidentRow {
            because: "policy raise-memory-after-oom proposed pull request 7 and waits for its merge".to_owned(),
            needs_person: Some("review and merge pull request 7".to_owned()),
            pull_request: Some(request(7, "open")),
            ..row(
                "checkout-7f3a",
                Severity::Critical,
                "Remediating",
                false,
                "Deployment/checkout [app]",
                Some("checkout runs out of memory: its limit of 64 MiB is below the 81 MiB that release 1.8.0 needs"),
                Some(0.96),
                42,
                372,
            )
        },
        IncidentRow {
            because: "cart and checkout were released 40 s apart; error rate by version would decide; no such label"
                .to_owned(),
            ..row("cart-19bc", Severity::Critical, "Abstained", false, "Deployment/cart", None, Some(0.54), 9, 1260)
        },
        IncidentRow {
            because: "asking Prometheus, Jaeger and Loki about 6 entities".to_owned(),
            namespace: "payments".to_owned(),
            ..row("ledger-2201", Severity::Warning, "Diagnosing", false, "StatefulSet/ledger", None, None, 1, 9)
        },
        IncidentRow {
            because: "symptoms are gone, the cause is still there".to_owned(),
            pull_request: Some(request(6, "draft")),
            ..row(
                "search-88e1",
                Severity::Info,
                "Mitigated",
                false,
                "Deployment/search",
                Some("a readiness probe of search asks a path that 2.1.0 does not serve"),
                Some(0.83),
                3,
                7900,
            )
        },
        IncidentRow {
            because: "verified: error ratio and restarts are back at their baseline".to_owned(),
            pull_request: Some(request(4, "merged")),
            ..row(
                "frontend-0c9d",
                Severity::Critical,
                "Resolved",
                true,
                "Deployment/frontend",
                Some("release 3.2.0 of frontend misbehaves: errors rose 20 s after it was rolled out"),
                Some(0.93),
                17,
                90_000,
            )
        },
    ]
}

pub fn incident(row: IncidentRow, now: Timestamp) -> IncidentView {
    if row.name != "checkout-7f3a" {
        let abstained = || Diagnosis { abstained: Some(row.because.clone()), ..diagnosis(now) };
        return IncidentView {
            steps: Vec::new(),
            timeline: Vec::new(),
            signals: Vec::new(),
            diagnosis: (row.phase == "Abstained").then(abstained),
            note: None,
            policies: Vec::new(),
            remediation: None,
            record: None,
            row,
        };
    }
    IncidentView {
        signals: signals(now),
        diagnosis: Some(diagnosis(now)),
        note: Some("phrased by a model (small), may be wrong: needs <b>more</b> memory".to_owned()),
        steps: steps(now),
        timeline: moments(now),
        policies: vec![
            PolicyView {
                name: "raise-memory-after-oom".to_owned(),
                matched: true,
                because: "cause container.oom-killed with 96 % is at least 80 %".to_owned(),
            },
            PolicyView {
                name: "revert-bad-release".to_owned(),
                matched: false,
                because: "the cause is not a bad release".to_owned(),
            },
        ],
        remediation: Some(remediation(&row)),
        record: Some(RecordView {
            entries: 9,
            root: "8f14e45fceea167a5a36dedd4bea2543c1b0f8b8d5c2a5b0f3a9e3a7d0c6e1f2".to_owned(),
            verified: Answer::Known(true),
            command: "kubectl amend record verify --incident shop/checkout-7f3a --key amend.pub".to_owned(),
        }),
        row,
    }
}

fn signals(now: Timestamp) -> Vec<Signal> {
    let signal = |name: &str, entity: Entity, severity, count, summary: &str, seconds| Signal {
        key: format!("alert/{name}"),
        source: SignalSource::Alert,
        name: name.to_owned(),
        entity,
        severity,
        started_at: ago(now, seconds),
        ended_at: None,
        summary: summary.to_owned(),
        labels: BTreeMap::new(),
        count,
    };
    let workload = |name: &str| Entity::new(EntityKind::Deployment, "shop", name);
    vec![
        signal(
            "ContainerOomKilled",
            workload("checkout").with_container("app"),
            Severity::Critical,
            28,
            "checkout/app was killed for lack of memory 6 times in 5 minutes",
            372,
        ),
        signal("HighErrorRatio", workload("checkout"), Severity::Critical, 8, "31 % of requests to checkout fail", 348),
        signal("HighErrorRatio", workload("frontend"), Severity::Warning, 6, "12 % of requests to frontend fail", 331),
    ]
}

fn story_line(at: Timestamp, service: &str, severity: &str, text: &str) -> StoryLine {
    let (service, severity, text) = (service.to_owned(), severity.to_owned(), text.to_owned());
    StoryLine { at, service, severity, class: None, text }
}

fn diagnosis(now: Timestamp) -> Diagnosis {
    let workload = |name: &str| Entity::new(EntityKind::Deployment, "shop", name);
    let fact = |sentence: &str, asked: &str| Fact { sentence: sentence.to_owned(), asked: asked.to_owned() };
    let cause = |kind: &str, entity: Entity, confidence, sentence: &str| Cause {
        kind: kind.to_owned(),
        entity,
        change: None,
        confidence,
        sentence: sentence.to_owned(),
        facts_for: Vec::new(),
        facts_against: Vec::new(),
        measures: BTreeMap::new(),
    };
    let node = |id: &str, name: &str, label: &str, role| Node {
        id: id.to_owned(),
        entity: workload(name),
        label: label.to_owned(),
        role,
    };
    let edge = |from: &str, to: &str, evidence: &str, asked: &str| Edge {
        from: from.to_owned(),
        to: to.to_owned(),
        weight: 0.9,
        evidence: evidence.to_owned(),
        asked: asked.to_owned(),
    };
    let asked = |id: &str, source: &str, query: &str, unknown: Option<&str>| Asked {
        id: id.to_owned(),
        source: source.to_owned(),
        query: query.to_owned(),
        window: Window { from: ago(now, 1200), to: now },
        digest: "5e88".to_owned(),
        unknown: unknown.map(str::to_owned),
    };
    Diagnosis {
        causes: vec![
            Cause {
                facts_for: vec![
                    fact("memory stood at its limit of 64 MiB before each of 6 kills", "m1"),
                    fact("the kubelet reports OOMKilled for app, 6 restarts in 5 min", "k1"),
                    fact("release 1.8.0 was applied 40 s before the first kill; working set doubled with it", "g1"),
                ],
                facts_against: vec![fact("one pod of 1.7.2 was killed as well, 3 h ago", "k1")],
                ..cause(
                    "container.oom-killed",
                    workload("checkout").with_container("app"),
                    0.96,
                    "checkout runs out of memory: its limit of 64 MiB is below the 81 MiB that release 1.8.0 needs",
                )
            },
            cause("release.bad-image", workload("checkout"), 0.31, "release 1.8.0 misbehaves in another way"),
            cause("dependency.failing", workload("payment"), 0.04, "payment fails and checkout with it"),
        ],
        abstained: None,
        unexplained: Vec::new(),
        graph: RootCauseGraph {
            nodes: vec![
                node("n0", "checkout", "release 1.8.0 applied", NodeRole::Change),
                node("n1", "checkout", "memory at its limit", NodeRole::Cause),
                node("n2", "checkout", "OOMKilled 6 times", NodeRole::Effect),
                node("n3", "checkout", "5xx 31 %", NodeRole::Symptom),
                node("n4", "frontend", "5xx 12 %", NodeRole::Symptom),
                node("n5", "payment", "as before", NodeRole::Rejected),
            ],
            edges: vec![
                edge("n0", "n1", "applied 40 s before, working set doubled", "g1"),
                edge("n1", "n2", "at 64 MiB before each kill", "m1"),
                edge("n2", "n3", "errors within 10 s of each kill", "t1"),
                edge("n3", "n4", "frontend calls checkout, 39 % of its errors are there", "t1"),
            ],
        },
        slowest: vec![SlowOperation {
            entity: workload("checkout"),
            operation: "POST /checkout".to_owned(),
            own_ms: 412.0,
            own_before_ms: 23.0,
            p99_ms: 1_310.0,
            p99_before_ms: Some(96.0),
            error_ratio: 0.31,
            spans: 204,
        }],
        alignment: Alignment {
            aligned: 812,
            unaligned: 7,
            names: vec![UnalignedName { name: "pod=<b>ghost</b>-1".to_owned(), count: 7 }],
            foreign: Foreign { left_out: [("<b>staging</b>".to_owned(), 3)].into(), assumed: None },
        },
        followed: Some(Followed { requests: 4, exemplars: true }),
        stories: vec![TraceStory {
            trace: "0af7651916cd43dd8448eb211c80319c".to_owned(),
            entity: workload("checkout"),
            operation: "POST /checkout".to_owned(),
            failed: true,
            within: 30,
            lines: vec![
                story_line(now, "checkout", "fatal", "Out of memory: killed <b>process</b> 1"),
                story_line(now, "frontend", "error", "call to checkout failed"),
            ],
            left_out: 1,
            asked: vec!["l1".to_owned()],
        }],
        deep: Some(DeepCollection {
            because: "checkout and payment explain the signals <i>equally</i> well".to_owned(),
            asked: vec!["m1".to_owned(), "l1".to_owned()],
            unanswered: 1,
            changed: "container.oom-killed on checkout went from 61 % to 96 % and may be acted on now".to_owned(),
        }),
        asked: vec![
            asked(
                "m1",
                "prometheus",
                "max_over_time(container_memory_working_set_bytes{namespace=\"shop\",pod=~\"checkout-.*\",container=\"app\"}[5m])",
                None,
            ),
            asked("k1", "cluster", "/api/v1/namespaces/shop/pods?labelSelector=app%3Dcheckout", None),
            asked("g1", "git", "diff 1f0c3ab..9e2d7f1 -- apps/checkout", None),
            asked("t1", "jaeger", "/api/traces?service=frontend&limit=200", None),
            asked("l1", "loki", "{namespace=\"shop\",app=\"checkout\"} |= \"error\"", Some("no answer within 3 s")),
        ],
    }
}

fn steps(now: Timestamp) -> Vec<Step> {
    let step = |name: &str, state, seconds: Option<i64>| Step {
        name: name.to_owned(),
        state,
        at: seconds.map(|seconds| ago(now, seconds)),
    };
    vec![
        step("Detected", StepState::Done, Some(372)),
        step("Diagnosed", StepState::Done, Some(369)),
        step("Gates passed", StepState::Done, Some(368)),
        step("Proposed", StepState::Current, Some(366)),
        step("Merged", StepState::Waiting, None),
        step("Rolled out", StepState::Waiting, None),
        step("Verified", StepState::Waiting, None),
    ]
}

fn moments(now: Timestamp) -> Vec<Moment> {
    let moment = |seconds, lane, title: &str, detail: &str| Moment {
        at: ago(now, seconds),
        lane,
        title: title.to_owned(),
        detail: detail.to_owned(),
    };
    vec![
        moment(430, Lane::Change, "checkout 1.8.0 applied by Flux", "commit 9e2d7f1"),
        moment(390, Lane::Change, "checkout rolled out", "6 pods"),
        moment(372, Lane::Signal, "ContainerOomKilled fires", "checkout [app]"),
        moment(348, Lane::Signal, "HighErrorRatio fires", "checkout"),
        moment(331, Lane::Signal, "HighErrorRatio fires", "frontend"),
        moment(369, Lane::Diagnosis, "cause found, 96 % sure", "took 0.12 s after 1.4 s of questions"),
        moment(368, Lane::Remedy, "all 7 gates pass", ""),
        moment(366, Lane::Remedy, "pull request 7 opened", "one line changed"),
    ]
}

fn remediation(row: &IncidentRow) -> RemediationView {
    let gate = |name: &str, verdict: &str, sentence: &str| GateView {
        name: name.to_owned(),
        verdict: verdict.to_owned(),
        sentence: sentence.to_owned(),
    };
    RemediationView {
        name: "checkout-7f3a-1".to_owned(),
        phase: "Proposed".to_owned(),
        because: "The memory limit of container app goes from 64Mi to 96Mi, 1.5 times what it was; merging restarts 6 pods, one at a time.".to_owned(),
        policy: "raise-memory-after-oom".to_owned(),
        autonomy: "Propose".to_owned(),
        gates: vec![
            gate("permission", "Pass", "shop-remediator may patch deployments in shop and propose on fleet"),
            gate("environment", "Pass", "Flux applies apps/checkout; nobody else writes this field"),
            gate("blastRadius", "Pass", "1 of 6 pods is unavailable at a time; 1 dependent: frontend"),
            gate("rollback", "Pass", "the inverse edit was built and applied in a dry run"),
            gate("fits", "Pass", "3 nodes have room for 96Mi"),
            gate("cooldown", "Pass", "no change of this target in 30 days"),
            gate("silence", "Pass", "no silence in Alertmanager matches"),
        ],
        diff: Answer::Known("--- a/apps/checkout/deployment.yaml\n+++ b/apps/checkout/deployment.yaml\n@@ -24,7 +24,7 @@ spec:\n           resources:\n             requests:\n               cpu: 50m\n             limits:\n-              memory: 64Mi  # measured in spring\n+              memory: 96Mi  # measured in spring\n           ports:\n             - containerPort: 8080\n".to_owned()),
        undo: "the inverse edit, back to 64Mi, is prepared and would be proposed as a revert".to_owned(),
        pull_request: row.pull_request.clone(),
        revert_pull_request: None,
        checks: vec![
            CheckView { metric: "restarts".to_owned(), verdict: "Unknown".to_owned(), sentence: "6 in 5 min before; judged after the merge".to_owned() },
        ],
    }
}
