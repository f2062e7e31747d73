//! What can go wrong between Amend and a Git repository.

use std::time::Duration;

/// Why a Git operation did not happen, or is not known to have happened.
#[derive(Debug, thiserror::Error)]
pub enum GitError {
    #[error("the repository address cannot be used: {why}")]
    BadAddress { why: String },
    #[error("may not connect to {repository}")]
    Egress {
        repository: String,
        #[source]
        source: crate::egress::EgressError,
    },
    #[error("cannot reach {repository}")]
    Unreachable {
        repository: String,
        #[source]
        source: reqwest::Error,
    },
    #[error("{repository} did not answer within {} s", .after.as_secs())]
    TimedOut { repository: String, after: Duration },
    #[error("{repository} refuses the credentials (revoked, expired, or without this right)")]
    Unauthorized { repository: String },
    #[error("{repository} does not exist, or these credentials may not see it")]
    NoRepository { repository: String },
    #[error("{repository} answered with status {status}")]
    Answered { repository: String, status: u16 },
    #[error("{repository} did not answer in Git's smart HTTP protocol")]
    NotGit { repository: String },
    #[error("{what} is larger than {limit} bytes")]
    TooLarge { what: String, limit: u64 },
    #[error("branch {branch} does not exist in {repository}")]
    NoBranch { repository: String, branch: String },
    #[error("commit {revision} is not among the last {depth} commits of the branch")]
    UnknownRevision { revision: String, depth: u32 },
    #[error("{text} is not a full Git commit id")]
    BadRevision { text: String },
    #[error("{path} does not exist at {revision}")]
    NoFile { path: String, revision: String },
    #[error("{path} cannot be changed by Amend: {why}")]
    FileRefused { path: String, why: String },
    #[error("the commit would change nothing")]
    Empty,
    #[error("{path} changed in Git since it was read")]
    FileMoved { path: String },
    #[error("branch {branch} already holds a different change")]
    Taken { branch: String },
    #[error("branch {branch} moved on while Amend was working")]
    Moved { branch: String },
    #[error("the server refuses the push to {branch}: {why}")]
    PushRefused { branch: String, why: String },
    #[error("reverting {revision} conflicts with later changes of {}", .paths.join(", "))]
    RevertConflict { revision: String, paths: Vec<String> },
    #[error(
        "the key `signingKey` of the Secret cannot sign commits: put an OpenSSH ed25519 private key without passphrase there, or remove it"
    )]
    SigningKey(#[source] ssh_key::Error),
    #[error("cannot {doing}")]
    Git {
        doing: String,
        #[source]
        source: git2::Error,
    },
    #[error("cannot prepare the scratch folder")]
    Scratch(#[source] std::io::Error),
    #[error("the worker of {repository} stopped in the middle of its work")]
    WorkerStopped { repository: String },
}

impl GitError {
    pub(crate) fn git(doing: impl Into<String>) -> impl FnOnce(git2::Error) -> Self {
        let doing = doing.into();
        move |source| Self::Git { doing, source }
    }

    /// Whether trying again later, unchanged, may succeed.
    ///
    /// Every operation here may be repeated: reads have no effect, commits are deterministic and pushes name the
    /// commit that they expect to find.
    pub fn retry(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::WorkerStopped { .. } | Self::Scratch(_) => true,
            Self::Answered { status, .. } => *status == 429 || *status >= 500,
            Self::Moved { .. } | Self::FileMoved { .. } => true,
            Self::BadAddress { .. }
            | Self::Egress { .. }
            | Self::Unauthorized { .. }
            | Self::NoRepository { .. }
            | Self::NotGit { .. }
            | Self::TooLarge { .. }
            | Self::NoBranch { .. }
            | Self::UnknownRevision { .. }
            | Self::BadRevision { .. }
            | Self::NoFile { .. }
            | Self::FileRefused { .. }
            | Self::Empty
            | Self::Taken { .. }
            | Self::PushRefused { .. }
            | Self::RevertConflict { .. }
            | Self::SigningKey(_)
            | Self::Git { .. } => false,
        }
    }

    /// Whether it did not happen because of a token, a right or a rule that people can change.
    pub fn people_can_mend(&self) -> bool {
        match self {
            Self::BadAddress { .. }
            | Self::Egress { .. }
            | Self::Unauthorized { .. }
            | Self::NoRepository { .. }
            | Self::NoBranch { .. }
            | Self::PushRefused { .. }
            | Self::SigningKey(_) => true,
            Self::Unreachable { .. }
            | Self::TimedOut { .. }
            | Self::Answered { .. }
            | Self::NotGit { .. }
            | Self::TooLarge { .. }
            | Self::UnknownRevision { .. }
            | Self::BadRevision { .. }
            | Self::NoFile { .. }
            | Self::FileRefused { .. }
            | Self::Empty
            | Self::FileMoved { .. }
            | Self::Taken { .. }
            | Self::Moved { .. }
            | Self::RevertConflict { .. }
            | Self::Git { .. }
            | Self::Scratch(_)
            | Self::WorkerStopped { .. } => false,
        }
    }
}

/// An error with all of its causes, in one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        next = cause.source();
    }
    text
}
