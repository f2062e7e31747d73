//! The story as one JSON object, for scripts and tests.

use amend_controller::effects::remedy::told::gate_rows;
use amend_execution::record::Summary;
use amend_gitops::body::GateVerdict;
use amend_sandbox::World;
use amend_sandbox::forge::Pull;
use serde::Serialize;

use super::seen::Seen;
use super::story::Story;
use super::tempo::Tempo;

/// What `--format json` prints.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    scenario: String,
    /// Phase of the remediation at the end; `None` when there never was one.
    outcome: Option<String>,
    incident: Option<IncidentReport>,
    causes: Vec<CauseReport>,
    gates: Vec<GateReport>,
    pull_requests: Vec<PullRequestReport>,
    phases: Vec<PhaseReport>,
    record: RecordReport,
    peak_rss_mi_b: Option<u64>,
}

#[derive(Clone, Debug, Serialize)]
struct IncidentReport {
    phase: String,
    signals: u32,
}

#[derive(Clone, Debug, Serialize)]
struct CauseReport {
    entity: String,
    kind: String,
    /// Id of the change that brought it: a commit, mostly.
    change: Option<String>,
    confidence: f64,
}

#[derive(Clone, Debug, Serialize)]
struct GateReport {
    name: String,
    verdict: String,
    sentence: String,
}

/// A pull request as the forge has it.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PullRequestReport {
    url: String,
    state: String,
    files: Vec<String>,
    lines_added: usize,
    lines_removed: usize,
    diff: String,
}

#[derive(Clone, Debug, Serialize)]
struct PhaseReport {
    phase: String,
    /// How long it lasted, in real seconds; the last one lasted until the demo ended.
    seconds: f64,
}

#[derive(Clone, Debug, Serialize)]
struct RecordReport {
    entries: u64,
    verified: bool,
}

impl Report {
    pub fn of(story: &Story, seen: &Seen, world: &World, tempo: &Tempo, record: Option<&Summary>) -> Self {
        let incident = seen.incident().and_then(|one| one.status.as_ref());
        let diagnosis = incident.and_then(|status| status.diagnosis.as_ref());
        let verdicts = seen.remediation().and_then(|one| one.status.as_ref()).map(|status| status.verdicts.as_slice());
        let end = tempo.elapsed();
        let entered = seen.phases(tempo);
        let ends = entered.iter().skip(1).map(|(_, at)| *at).chain([end]);
        Self {
            scenario: story.name.into(),
            outcome: seen.phase().map(|phase| format!("{phase:?}")),
            incident: incident
                .map(|status| IncidentReport { phase: format!("{:?}", status.phase), signals: status.signal_count }),
            causes: diagnosis
                .into_iter()
                .flat_map(|diagnosis| &diagnosis.causes)
                .map(|cause| CauseReport {
                    entity: cause.entity.to_string(),
                    kind: cause.kind.clone(),
                    change: cause.change.as_ref().map(|change| change.id.clone()),
                    confidence: cause.confidence,
                })
                .collect(),
            gates: gate_rows(verdicts.unwrap_or_default())
                .into_iter()
                .map(|row| GateReport {
                    name: row.name,
                    verdict: match row.verdict {
                        GateVerdict::Pass => "Pass".into(),
                        GateVerdict::Fail => "Fail".into(),
                        GateVerdict::Unknown => "Unknown".into(),
                    },
                    sentence: row.sentence,
                })
                .collect(),
            pull_requests: pulls(world).iter().map(|pull| PullRequestReport::of(world, pull)).collect(),
            phases: entered
                .iter()
                .zip(ends)
                .map(|((phase, at), until)| PhaseReport {
                    phase: phase.clone(),
                    seconds: (until.saturating_sub(*at).as_secs_f64() * 1000.0).round() / 1000.0,
                })
                .collect(),
            record: RecordReport { entries: record.map_or(0, |summary| summary.entries), verified: record.is_some() },
            peak_rss_mi_b: peak_rss(),
        }
    }
}

impl PullRequestReport {
    pub fn of(world: &World, pull: &Pull) -> Self {
        let repository = world.endpoints().repository;
        let diff = world.forge().diff(&repository, pull.number).unwrap_or_default();
        let files = diff.lines().filter_map(|line| line.strip_prefix("+++ b/")).map(str::to_owned).collect();
        let count = |sign: char, header: &str| {
            diff.lines().filter(|line| line.starts_with(sign) && !line.starts_with(header)).count()
        };
        Self {
            url: world.forge().pull_url(&repository, pull.number),
            state: pull.state().into(),
            files,
            lines_added: count('+', "+++ "),
            lines_removed: count('-', "--- "),
            diff,
        }
    }

    pub fn diff(&self) -> &str {
        &self.diff
    }
}

/// All pull requests of the robot, oldest first.
pub fn pulls(world: &World) -> Vec<Pull> {
    let endpoints = world.endpoints();
    let all = world.forge().pulls(&endpoints.repository);
    all.into_iter().filter(|pull| pull.by == endpoints.forge_user).collect()
}

/// The most memory that this process ever held, in MiB; only Linux tells.
fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.div_ceil(1024))
}
