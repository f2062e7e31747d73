//! What Amend costs and how fast it is, measured: `make bench`, or one figure by `make bench ARGS="--only webhook"`.
//!
//! Where memory counts, the production controller runs as a process of its own, so that the measuring program and the
//! sandbox beside it do not count. Times are those of everything together on this machine: the sandbox's API server, Git
//! and forge take their share of the same cores.

mod diagnosis;
mod fleet;
mod machine;
mod memory;
mod product;
mod pull_request;
mod quantile;
mod report;
mod stored;
mod stores;
mod thousand;
mod webhook;

use std::path::PathBuf;

pub use report::Report;
use serde::{Deserialize, Serialize};

/// One measured number.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Row {
    /// What was measured, for people.
    pub what: String,
    pub value: f64,
    pub unit: String,
    /// The value should not be larger.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<f64>,
}

impl Row {
    /// A number without a goal.
    pub fn new(what: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { what: what.into(), value, unit: unit.to_owned(), goal: None }
    }

    /// The same with a goal that it should not exceed.
    #[must_use]
    pub fn at_most(self, goal: f64) -> Self {
        Self { goal: Some(goal), ..self }
    }

    /// Whether it keeps its goal; one without a goal does.
    #[must_use]
    pub fn keeps_its_goal(&self) -> bool {
        self.goal.is_none_or(|goal| self.value <= goal)
    }
}

/// What came of measuring one figure.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    Measured(Vec<Row>),
    /// Not measured here, with the sentence why.
    Skipped(String),
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Figure {
    /// Alert accepted until the Incident is stored
    Stored,
    /// Alert accepted until the pull request is open on a real Gitea
    PullRequest,
    /// Time to find a cause, without asking stores
    Diagnosis,
    /// A thousand incidents through intent, effect and outcome
    Thousand,
    /// Resident memory: idle, with 1,000 and with 5,000 incidents
    Memory,
    /// Answers of the webhook at 20,000 alerts a minute
    Webhook,
}

impl Figure {
    pub const ALL: [Self; 6] =
        [Self::Stored, Self::PullRequest, Self::Diagnosis, Self::Thousand, Self::Memory, Self::Webhook];

    /// The word on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::PullRequest => "pull-request",
            Self::Diagnosis => "diagnosis",
            Self::Thousand => "thousand",
            Self::Memory => "memory",
            Self::Webhook => "webhook",
        }
    }

    /// Measures it.
    ///
    /// # Errors
    /// When something does not start or does not come to its end in time.
    pub async fn measure(self, options: &Options) -> anyhow::Result<Outcome> {
        match self {
            Self::Stored => stored::measure().await,
            Self::PullRequest => pull_request::measure(options.rounds).await,
            Self::Diagnosis => diagnosis::measure(options.cases.as_deref()),
            Self::Thousand => thousand::measure().await,
            Self::Memory => memory::measure().await,
            Self::Webhook => webhook::measure().await,
        }
    }
}

/// What may be asked of single figures.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Pull requests that are timed on the real Gitea, one after the other
    #[arg(long, default_value_t = 5)]
    pub rounds: usize,

    /// Diagnose these saved cases too: a folder with case directories somewhere below it
    #[arg(long, value_name = "DIR")]
    pub cases: Option<PathBuf>,
}
