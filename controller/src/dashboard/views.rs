//! What the dashboard shows, as plain values: the shell fills them from the objects.
//!
//! Text in here may come from anybody; the templates escape it. Links are checked again before they are offered.

use amend_diagnosis::diagnosis::Diagnosis;
use amend_diagnosis::evidence::Answer;
use amend_diagnosis::signal::{Severity, Signal};
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use jiff::Timestamp;
use kube::Client;

/// Where the pages get their content.
pub trait IncidentViews: Send + Sync {
    /// Incidents that `reader` may see, in any order; at most 1,000. Who may not list those of every namespace is given those
    /// of `namespace`.
    fn list<'a>(
        &'a self,
        reader: &'a Reader,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<IncidentRow>, ViewError>>;

    /// One incident with everything that belongs to it.
    fn get<'a>(
        &'a self,
        reader: &'a Reader,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<IncidentView, ViewError>>;

    /// Log lines that nobody can class, for who may read every incident.
    fn unknown_lines<'a>(&'a self, reader: &'a Reader) -> BoxFuture<'a, Result<UnknownLinesView, ViewError>>;

    /// The same of failed CI runs.
    fn builds<'a>(
        &'a self,
        reader: &'a Reader,
        namespace: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Vec<BuildRow>, ViewError>>;

    /// One failed CI run.
    fn build<'a>(
        &'a self,
        reader: &'a Reader,
        namespace: &'a str,
        name: &'a str,
    ) -> BoxFuture<'a, Result<BuildView, ViewError>>;

    /// Which incidents and builds changed, from now on. May skip some when it falls behind.
    fn changes(&self) -> BoxStream<'static, Change>;
}

/// Who looks.
#[derive(Clone)]
pub struct Reader {
    /// The user name as Kubernetes knows it; empty for the demo's anonymous reader.
    pub name: String,
    /// Acts with the reader's own rights. Every read of the dashboard must go through it.
    pub client: Client,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Reader").field("name", &self.name).finish_non_exhaustive()
    }
}

/// An incident, something that belongs to it, or a build changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    pub namespace: String,
    pub name: String,
}

/// Why a view cannot be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ViewError {
    #[error("the token is no longer valid")]
    Unauthenticated,
    #[error("you may not read this: {why}")]
    Forbidden { why: String },
    #[error("there is nothing of this name: it may be deleted by now")]
    NotFound,
    #[error("the cluster does not answer: {why}")]
    Unavailable { why: String },
}

/// One line of the incident list.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentRow {
    pub namespace: String,
    pub name: String,
    pub severity: Severity,
    /// As in the status: `Diagnosed`, `Remediating` ...
    pub phase: String,
    /// Nothing more will happen.
    pub over: bool,
    /// Why it is in this phase.
    pub because: String,
    /// What is affected, for people: `Deployment/checkout [app]`.
    pub entity: String,
    /// The best cause's sentence, when it is sure enough to be named one.
    pub cause: Option<String>,
    /// 0 to 1.
    pub confidence: Option<f64>,
    /// Signals that arrived, repeats included.
    pub signals: u32,
    pub opened_at: Timestamp,
    /// What a person is asked to do, when one is needed: `merge pull request 7`.
    pub needs_person: Option<String>,
    pub pull_request: Option<PullRequestView>,
}

/// The queue of log lines that nobody can class.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UnknownLinesView {
    /// The gravest first.
    pub lines: Vec<UnknownLineView>,
    /// Times that a template was pushed out, and lines of them.
    pub dropped_templates: u64,
    pub dropped_lines: u64,
    /// This replica does not lead, and so has no queue.
    pub follows: bool,
}

/// Lines that have a template in common. The texts are without credentials.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownLineView {
    pub namespace: String,
    /// `Deployment/checkout`.
    pub workload: String,
    pub template: String,
    pub sample: String,
    /// `error`, `unreadable`, `new` or `bursting`.
    pub why: &'static str,
    pub count: u64,
    pub first_seen: Timestamp,
    pub last_seen: Timestamp,
    /// The incident that they were last seen in, `namespace/name`.
    pub incident: String,
}

/// One line of the list of failed CI runs. Every text is as the forge or the log gave it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildRow {
    pub namespace: String,
    pub name: String,
    pub repository: String,
    pub commit: String,
    pub branch: String,
    pub workflow: String,
    pub job: String,
    pub run_id: String,
    pub attempt: u32,
    /// As the status names it: `Diagnosing`, `Diagnosed`, `Abstained`.
    pub phase: String,
    /// `code`, `flaky` ...; `None` while unknown.
    pub class: Option<String>,
    /// Why it is in this phase; of a diagnosed one, the sentence with the line that decided.
    pub because: String,
    pub reported_at: Timestamp,
}

/// Everything about one failed CI run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BuildView {
    pub row: BuildRow,
    /// `Gitea`, `GitHub`, `GitLab`.
    pub forge: String,
    /// As the forge calls it: `failure`, `cancelled` ...
    pub result: String,
    /// The run at the forge; checked before it is offered as a link.
    pub url: String,
    /// Line number in the log, and its text.
    pub lines: Vec<(u32, String)>,
    pub diagnosed_at: Option<Timestamp>,
    /// Webhooks that told of it; 0 when it was found by asking the forge.
    pub deliveries: u32,
}

/// Everything about one incident.
#[derive(Clone, Debug, PartialEq)]
pub struct IncidentView {
    pub row: IncidentRow,
    pub signals: Vec<Signal>,
    pub diagnosis: Option<Diagnosis>,
    /// What an optional model says about it, as one line that says whose words these are.
    pub note: Option<String>,
    /// The way from detection to the end, in order.
    pub steps: Vec<Step>,
    pub timeline: Vec<Moment>,
    /// Every policy that was looked at, and why it did or did not match.
    pub policies: Vec<PolicyView>,
    pub remediation: Option<RemediationView>,
    pub record: Option<RecordView>,
}

/// One step of the way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub name: String,
    pub state: StepState,
    pub at: Option<Timestamp>,
}

/// How far a step is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StepState {
    Done,
    Current,
    Waiting,
    Failed,
    /// It came to its end without an answer.
    Unknown,
    /// Not needed any more.
    Skipped,
}

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment {
    pub at: Timestamp,
    pub lane: Lane,
    pub title: String,
    /// More about it; may be empty.
    pub detail: String,
}

/// What sort of thing happened; also the order from top to bottom on the axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Lane {
    /// Somebody else changed something.
    Change,
    Signal,
    /// Amend thought.
    Diagnosis,
    /// Amend or a person did something.
    Remedy,
}

/// One policy and what it makes of the incident.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyView {
    pub name: String,
    pub matched: bool,
    pub because: String,
}

/// What is being done about it.
#[derive(Clone, Debug, PartialEq)]
pub struct RemediationView {
    pub name: String,
    pub phase: String,
    pub because: String,
    pub policy: String,
    /// `Observe`, `Propose` or `Act`.
    pub autonomy: String,
    pub gates: Vec<GateView>,
    /// Unified diff.
    pub diff: Answer<String>,
    /// How it would be undone, in one sentence.
    pub undo: String,
    pub pull_request: Option<PullRequestView>,
    pub revert_pull_request: Option<PullRequestView>,
    pub checks: Vec<CheckView>,
}

/// A gate's verdict: `Pass`, `Fail` or `Unknown`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateView {
    pub name: String,
    pub verdict: String,
    pub sentence: String,
}

/// A metric before and after.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckView {
    pub metric: String,
    /// `Pass`, `Fail` or `Unknown`.
    pub verdict: String,
    /// With both medians, samples and what is tolerated.
    pub sentence: String,
}

/// A pull request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PullRequestView {
    pub number: u64,
    pub url: String,
    /// `open`, `draft`, `merged`, `closed`.
    pub state: String,
}

/// The record of what was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordView {
    pub entries: u64,
    /// Root hash of the log's head, in hex.
    pub root: String,
    /// Whether the entries hold together and carry our signature, as checked now.
    pub verified: Answer<bool>,
    /// What to run to check it without trusting this page.
    pub command: String,
}
