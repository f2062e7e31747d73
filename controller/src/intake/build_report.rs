//! A failed CI run as a forge reported it, in one shape for all forges.

use amend_crds::build::BuildSpec;
use jiff::Timestamp;

use super::untrusted::{link, one_line};

/// One delivery about a failed run.
#[derive(Clone, Debug, PartialEq)]
pub struct BuildReport {
    pub run: BuildSpec,
    /// The forge's name for this delivery.
    pub delivery: String,
    pub finished_at: Option<Timestamp>,
}

/// What a payload said.
#[derive(Clone, Debug, PartialEq)]
pub enum Reading {
    Failed(Box<BuildReport>),
    /// Nothing for us: why, in one word for the metric.
    Nothing {
        why: &'static str,
    },
}

/// Why a payload cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PayloadError {
    #[error("the payload is not what {event} carries")]
    Unreadable {
        event: &'static str,
        #[source]
        source: serde_json::Error,
    },
    #[error("the payload names no usable {field}")]
    Unusable { field: &'static str },
}

/// A run with every field checked and bounded; what must be exact is refused, what is for reading is cleaned.
pub fn checked(mut run: BuildSpec) -> Result<BuildSpec, PayloadError> {
    if !is_repository(&run.repository) {
        return Err(PayloadError::Unusable { field: "repository" });
    }
    let hex = run.commit.bytes().all(|byte| byte.is_ascii_hexdigit());
    if !hex || !matches!(run.commit.len(), 40 | 64) {
        return Err(PayloadError::Unusable { field: "commit" });
    }
    if run.run_id.is_empty() || run.run_id.len() > 64 {
        return Err(PayloadError::Unusable { field: "run id" });
    }
    run.commit.make_ascii_lowercase();
    run.branch = one_line(&run.branch, 255);
    run.workflow = one_line(&run.workflow, 255);
    run.job = one_line(&run.job, 255);
    run.result = one_line(&run.result, 64);
    run.url = link(&run.url).unwrap_or_default();
    // Forges that do not count attempts send none or zero.
    run.attempt = run.attempt.max(1);
    Ok(run)
}

/// `owner/name`, or deeper groups; no path tricks, since it becomes part of an API path.
fn is_repository(name: &str) -> bool {
    let sound = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
    };
    name.len() <= 256 && name.contains('/') && name.split('/').all(sound)
}

/// A delivery id: what forges use are UUIDs; anything longer or stranger is not remembered.
pub fn is_delivery(id: &str) -> bool {
    (1..=64).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

#[cfg(test)]
mod tests {
    use amend_crds::build::CiForge;

    use super::*;

    fn run() -> BuildSpec {
        BuildSpec {
            forge: CiForge::Gitea,
            repository: "shop/checkout".to_owned(),
            commit: "A".repeat(40),
            branch: "main\u{1b}[2J".to_owned(),
            workflow: String::new(),
            job: "x".repeat(999),
            run_id: "7".to_owned(),
            attempt: 0,
            result: "failure".to_owned(),
            url: "javascript:alert(1)".to_owned(),
            log_reference: String::new(),
            trace_id: None,
        }
    }

    #[test]
    fn what_is_for_reading_is_cleaned_and_bounded() {
        let run = checked(run()).unwrap();
        assert_eq!((run.branch.as_str(), run.url.as_str(), run.attempt), ("main", "", 1));
        assert_eq!(run.job.chars().count(), 255);
        assert_eq!(run.commit, "a".repeat(40));
    }

    #[test]
    fn what_must_be_exact_is_refused_by_name() {
        for repository in ["shop", "shop/", "../admin", "shop/../../admin", "shop/a b", "shop/.git", "shop/a?x"] {
            let error = checked(BuildSpec { repository: repository.to_owned(), ..run() }).unwrap_err();
            assert_eq!(error.to_string(), "the payload names no usable repository", "{repository}");
        }
        for commit in ["", "main", "abc123", &"g".repeat(40)] {
            assert!(checked(BuildSpec { commit: commit.to_owned(), ..run() }).is_err(), "{commit}");
        }
    }
}
