//! `Build`: fetches the log of a failed run with bounds, finds the failing lines and says what sort of failure it is.

use std::sync::Arc;

use amend_crds::Build;
use amend_crds::build::{CiForge, FailingLine};
use amend_crds::condition::{self, Claim};
use amend_crds::incident::IncidentPhase;
use amend_diagnosis::build::features::lines;
use amend_diagnosis::build::{BuildClass, BuildFailure, classify_build};
use amend_diagnosis::evidence::Answer;
use amend_gitops::forge::ForgeError;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;

use crate::builds::serves;
use crate::effects::{EffectError, Notice, reference};
use crate::errors;
use crate::reconcile::{Control, Decision, GatherError};
use crate::shell::Shell;
use crate::targets::Target;

/// Lines kept in the status.
const LINES_MAX: usize = 40;

/// Characters of one line kept.
const LINE_MAX: usize = 300;

/// Characters of one line that are looked through for secrets: what lies behind is not kept.
const REDACTED_MAX: usize = 4 * LINE_MAX;

/// A log that is not there yet is asked for again; forges store it shortly after the run.
const AGAIN: SignedDuration = SignedDuration::from_secs(20);

/// After this the log is taken for lost.
const GIVE_UP: SignedDuration = SignedDuration::from_mins(10);

/// See the module.
#[derive(Debug)]
pub struct BuildControl;

/// A build and its log.
#[derive(Debug)]
pub struct Read {
    object: Build,
    failure: Answer<(BuildFailure, Vec<FailingLine>)>,
    now: Timestamp,
}

impl Control for BuildControl {
    type Kind = Build;
    type Snapshot = Read;
    type Effect = Notice;
    const NAME: &'static str = "build";

    async fn gather(shell: &Arc<Shell>, object: Build) -> Result<Read, GatherError> {
        let now = shell.time.now();
        let done = object.status.as_ref().is_some_and(|status| is_over(status.phase));
        if done {
            return Ok(Read { object, failure: Answer::unknown("it is diagnosed already"), now });
        }
        let failure = match log(shell, &object).await {
            Answer::Known(text) => {
                let unknown = Arc::clone(&shell.unknown_lines);
                let found = tokio::task::spawn_blocking(move || {
                    let redacted = |text: &str| unknown.redacted(text);
                    let mut failure = classify_build(&text, None);
                    failure.why = redacted(&failure.why);
                    let lines = failing_lines(&text, &failure, redacted);
                    (failure, lines)
                });
                found.await.map_or_else(|_| Answer::unknown("reading the log panicked"), Answer::Known)
            }
            Answer::Unknown { why } => Answer::Unknown { why },
        };
        Ok(Read { object, failure, now })
    }

    fn decide(read: &Read) -> Decision<Build, Notice> {
        let before = read.object.status.clone().unwrap_or_default();
        if is_over(before.phase) {
            return Decision::rest(None);
        }
        let mut status = before.clone();
        let mut wake = None;
        match &read.failure {
            Answer::Known((failure, lines)) => {
                status.phase = IncidentPhase::Diagnosed;
                status.class = failure.class.map(class_name);
                status.reason.clone_from(&failure.why);
                status.because.clone_from(&failure.why);
                status.failing_lines.clone_from(lines);
                status.diagnosed_at = Some(read.now);
            }
            Answer::Unknown { why } => {
                let created = read.object.metadata.creation_timestamp.as_ref().map_or(read.now, |time| time.0);
                let lost = read.now.duration_since(created) >= GIVE_UP || read.object.spec.forge != CiForge::Gitea;
                status.phase = if lost { IncidentPhase::Abstained } else { IncidentPhase::Diagnosing };
                status.because = format!("log not available: {why}");
                wake = (!lost).then_some(AGAIN);
            }
        }
        let reason = format!("{:?}", status.phase);
        let claims = match status.phase {
            IncidentPhase::Diagnosed => vec![Claim::new(condition::READY, Some(true), reason, status.because.clone())],
            IncidentPhase::Abstained => vec![
                Claim::new(condition::READY, Some(false), reason.clone(), status.because.clone()),
                Claim::new(condition::STALLED, Some(true), reason, status.because.clone()),
            ],
            _ => vec![
                Claim::new(condition::READY, Some(false), reason.clone(), status.because.clone()),
                Claim::new(condition::RECONCILING, Some(true), reason, status.because.clone()),
            ],
        };
        status.observed_generation = read.object.metadata.generation;
        status.conditions = condition::settled(&before.conditions, &claims, status.observed_generation, read.now);
        let effects = match status.phase == before.phase {
            true => Vec::new(),
            false => {
                vec![Notice { warning: false, reason: format!("{:?}", status.phase), note: status.because.clone() }]
            }
        };
        let mut changed = read.object.clone();
        let differs = status != before;
        changed.status = Some(status);
        Decision { write: differs.then_some(changed), effects, wake }
    }

    async fn perform(shell: &Arc<Shell>, object: &Build, _: &Read, effect: Notice) -> Result<(), EffectError> {
        shell.effects.notice(&reference(object), effect).await;
        Ok(())
    }
}

/// The class as the status shows it.
fn class_name(class: BuildClass) -> String {
    match class {
        BuildClass::Transient => "transient",
        BuildClass::Flaky => "flaky",
        BuildClass::Dependency => "dependency",
        BuildClass::Toolchain => "toolchain",
        BuildClass::Code => "code",
        BuildClass::Infra => "infra",
    }
    .to_owned()
}

fn is_over(phase: IncidentPhase) -> bool {
    matches!(phase, IncidentPhase::Diagnosed | IncidentPhase::Abstained) || phase.is_end()
}

/// The run's log; `Unknown` says what is missing.
async fn log(shell: &Shell, build: &Build) -> Answer<String> {
    match build.spec.forge {
        CiForge::Gitea => {}
        CiForge::GitHub | CiForge::GitLab => return Answer::unknown("logs of this forge are not fetched yet"),
    }
    let namespace = build.namespace().unwrap_or_default();
    let targets = match shell.targets.listed(&namespace).await {
        Ok(targets) => targets,
        Err(error) => return Answer::unknown(errors::chain(&error)),
    };
    let serving = targets.iter().find(|target| serves(&target.spec.url, &build.spec.repository));
    let Some(object) = serving else {
        return Answer::unknown(format!(
            "no GitTarget serves repository {}: its log needs credentials",
            build.spec.repository
        ));
    };
    match shell.targets.open(object).await {
        Ok(target) => match job_log(&target, build).await {
            Ok(Some(text)) => Answer::Known(text),
            Ok(None) => Answer::unknown("the forge names no failed job of this run"),
            Err(error) => Answer::unknown(errors::chain(&error)),
        },
        Err(error) => Answer::unknown(errors::chain(&error)),
    }
}

/// The log of the job that failed; a webhook about the whole run names no job, so the forge is asked which one it was.
async fn job_log(target: &Target, build: &Build) -> Result<Option<String>, ForgeError> {
    let named = Some(build.spec.log_reference.clone()).filter(|job| !job.is_empty());
    let job = match named {
        Some(job) => Some(job),
        None => {
            let runs = target.forge().failed_runs().await?;
            runs.into_iter().find(|run| run.run_id == build.spec.run_id).and_then(|run| run.job).map(|(_, id)| id)
        }
    };
    match job {
        Some(job) => target.forge().job_log(job).await.map(Some),
        None => Ok(None),
    }
}

/// The lines as people may read them: CI masks only what it was told is a secret.
fn failing_lines(text: &str, failure: &BuildFailure, redacted: impl Fn(&str) -> String) -> Vec<FailingLine> {
    let lines: Vec<&str> = lines(text).collect();
    let mut found = Vec::new();
    for (from, to) in &failure.ranges {
        for number in *from..=*to {
            if found.len() >= LINES_MAX {
                return found;
            }
            if let Some(line) = number.checked_sub(1).and_then(|at| lines.get(at)) {
                // Cut after it is redacted, so that no half of a secret stays.
                let bounded: String = line.chars().take(REDACTED_MAX).collect();
                let shown = amend_gitops::untrusted::line(&redacted(&bounded), LINE_MAX);
                found.push(FailingLine { number: u32::try_from(number).unwrap_or(u32::MAX), text: shown });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failing_lines_hold_no_credentials_and_no_half_of_one() {
        let long = format!("{} token=ghp_{}", "x".repeat(LINE_MAX - 12), "a".repeat(40));
        let text = format!("ok\nerror: login failed with password=hunter2 at once\n{long}\n");
        let failure = BuildFailure { ranges: vec![(2, 3)], class: None, speaks_of: None, why: String::new() };
        let queue = crate::unknown_lines::UnknownLines::default();
        let found = failing_lines(&text, &failure, |line| queue.redacted(line));
        assert_eq!(found.iter().map(|line| line.number).collect::<Vec<_>>(), [2, 3]);
        assert!(!found[0].text.contains("hunter2") && found[0].text.ends_with("at once"), "{}", found[0].text);
        assert!(!found[1].text.contains("ghp_"), "{}", found[1].text);
    }
}
