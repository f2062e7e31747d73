//! Runs `amend demo` and reads what it prints, as a script would.

use std::process::Stdio;
use std::time::{Duration, Instant};

use amend_tests::bench::product::amend_binary;
use serde::Deserialize;
use tokio::process::Command;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Longer than the demo itself allows any story to take.
const TOLD_WITHIN: Duration = Duration::from_secs(420);

/// A demo is one busy core; more than two at a time would measure the queue.
static STAGES: Semaphore = Semaphore::const_new(2);

pub async fn stage() -> SemaphorePermit<'static> {
    STAGES.acquire().await.unwrap()
}

/// The one JSON object, with exactly the keys that the issue lists.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Told {
    pub scenario: String,
    pub outcome: Option<String>,
    pub incident: Option<Incident>,
    pub causes: Vec<Cause>,
    pub gates: Vec<Gate>,
    pub pull_requests: Vec<PullRequest>,
    pub phases: Vec<Phase>,
    pub record: Record,
    #[serde(rename = "peakRssMiB")]
    pub peak_rss_mib: u64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Incident {
    pub phase: String,
    pub signals: u32,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cause {
    pub entity: String,
    pub kind: String,
    pub change: Option<String>,
    pub confidence: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gate {
    pub name: String,
    pub verdict: String,
    pub sentence: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullRequest {
    pub url: String,
    pub state: String,
    pub files: Vec<String>,
    pub lines_added: usize,
    pub lines_removed: usize,
    pub diff: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    pub phase: String,
    pub seconds: f64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    pub entries: u64,
    pub verified: bool,
}

impl Told {
    pub fn has_phase(&self, name: &str) -> bool {
        self.phases.iter().any(|one| one.phase == name)
    }

    /// What holds in every story that comes to its end.
    fn is_whole(&self) {
        let incident = self.incident.as_ref().unwrap();
        assert!(incident.signals >= 1, "{incident:?}");
        assert!(self.causes.iter().all(|cause| cause.entity.contains('/') && (0.0..=1.0).contains(&cause.confidence)));
        for named in ["permission", "environment", "blastRadius", "rollback"] {
            let gate = self.gates.iter().find(|gate| gate.name == named).unwrap_or_else(|| panic!("no gate {named}"));
            assert!(gate.verdict == "Pass" && !gate.sentence.is_empty(), "{gate:?}");
        }
        for pull in &self.pull_requests {
            assert!(pull.url.starts_with("http://127.0.0.1:"), "{}", pull.url);
            assert!(pull.diff.starts_with("diff --git") && !pull.files.is_empty(), "{pull:?}");
        }
        assert!(
            self.has_phase("Open") && self.has_phase("Proposed") && self.has_phase("Verifying"),
            "{:?}",
            self.phases
        );
        assert!(self.phases.iter().all(|phase| phase.seconds >= 0.0));
        assert!(self.record.verified && self.record.entries >= 5, "{:?}", self.record);
        assert!(self.peak_rss_mib > 0 && self.peak_rss_mib <= 256, "{} MiB", self.peak_rss_mib);
    }
}

/// Tells one story with `--merge`, which must end as the issue says.
pub async fn told(scenario: &str) -> Told {
    let (code, told, complaints) = run(&["--scenario", scenario, "--merge"]).await;
    assert_eq!(code, Some(0), "{complaints}\n{told:#?}");
    assert_eq!(told.scenario, scenario);
    told.is_whole();
    told
}

/// Exit code, the object, and what was said on standard error.
pub async fn run(arguments: &[&str]) -> (Option<i32>, Told, String) {
    let binary = amend_binary().await.unwrap();
    let _stage = stage().await;
    let began = Instant::now();
    let child = Command::new(binary)
        .args(["demo", "--format", "json"])
        .args(arguments)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output = tokio::time::timeout(TOLD_WITHIN, child.wait_with_output()).await.expect("the demo ends").unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(text.lines().count(), 1, "nothing but one object on standard output: {text}\n{complaints}");
    let told: Told = serde_json::from_str(&text).unwrap();
    eprintln!("{arguments:?}: {:.0} s, {} MiB", began.elapsed().as_secs_f64(), told.peak_rss_mib);
    (output.status.code(), told, complaints)
}
