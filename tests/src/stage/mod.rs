//! The stage of the live stories: a shop on real parts, watched by the chart's Amend.
//!
//! ```no_run
//! # use amend_tests::bench::MergeStyle;
//! # use amend_tests::stage::*;
//! # use amend_execution::phase::Phase;
//! # async fn story() -> anyhow::Result<()> {
//! // What the story begins with: a namespace, a Gitea organisation, a shop in Git, policies. Data, changed before it is set.
//! let mut scenery = Scenery::shop("oom");
//! scenery.runs_out_of_memory("checkout", "v1.9.0", 310, "12s");
//! scenery.policy("raise-memory-after-oom", |spec| spec["autonomy"] = "Propose".into());
//!
//! // One cluster and one Amend for all stories that break neither; `World::alone` for those that do.
//! let stage = Stage::set(World::shared().await?, scenery).await?;
//!
//! // People act ...
//! stage.release("checkout", "v1.8.2", "v1.9.0").await?;
//! let pull = stage.ready_pull_request(PROPOSED).await?;
//! stage.merge(&pull, MergeStyle::Squash).await?;
//! // ... and the API says what came of it. Every wait has a deadline and tells all that is known when it passes.
//! stage.remediation_reaches(Phase::Succeeded, VERIFIED).await?;
//! stage.record_verifies().await?;
//! # Ok(()) }
//! ```
//!
//! Everything of a stage carries its namespace as its name: the organisation (`NAMESPACE/shop`), the Flux objects
//! (`shop` in the namespace), the `GitTarget` in the release namespace, rule file and scrape target of Prometheus.
//! Times are short by the product's own settings: samples every [`SAMPLE_EVERY`], the chart's `intake` values in `world.rs`.

mod captured;
mod scenery;
mod set;
mod watching;
mod world;

use std::time::Duration;

pub use scenery::{FOLDER, Scenery};
pub use set::Stage;
pub use watching::Seen;
pub use world::{RELEASE, RELEASE_NAMESPACE, World};

/// How often the stores get a sample, as the sources are told: rates look back over four of them.
pub const SAMPLE_EVERY: &str = "5s";

/// From a fault until there is an incident. Alerts need ten seconds; other stories may run on the same two cores.
pub const DETECTED: Duration = Duration::from_secs(90);

/// From a fault until its pull request is open and no draft.
pub const PROPOSED: Duration = Duration::from_secs(180);

/// From a merge until the verdict: rollout, settling, three failure intervals.
pub const VERIFIED: Duration = Duration::from_secs(360);

/// Whatever takes Amend one look.
pub const SOON: Duration = Duration::from_secs(60);
