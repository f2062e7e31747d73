//! Failed CI runs become Build objects, once per run, whether a webhook or the poller brought them.

use std::collections::BTreeMap;
use std::sync::Arc;

use amend_crds::build::CiForge;
use amend_crds::{Build, BuildSpec, GitTarget};
use amend_gitops::access::normalised;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};
use kube::ResourceExt;
use kube::api::{Api, ListParams};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use crate::effects::EffectError;
use crate::errors;
use crate::intake::build_report::{BuildReport, checked};
use crate::intake::{BuildStore, StoreError, Stored};
use crate::shell::Shell;

/// How often the forges are asked for runs whose webhook never came: forges do not repeat a lost delivery.
const POLL_EVERY: SignedDuration = SignedDuration::from_mins(1);

/// Runs that failed longer ago are history.
const RECENT: SignedDuration = SignedDuration::from_hours(6);

/// How often a count is tried again when somebody else writes the status: the build's own controller writes it a few times.
const COUNT_TRIES: u32 = 4;

/// The store of builds.
#[derive(Clone, Debug)]
pub struct Builds {
    shell: Arc<Shell>,
}

impl Builds {
    pub fn new(shell: Arc<Shell>) -> Self {
        Self { shell }
    }

    /// Stores a run beside the GitTarget of its repository, else in the release namespace.
    async fn keep(&self, spec: BuildSpec) -> Result<(Stored, Build), StoreError> {
        let namespace = self.namespace_of(&spec.repository).await?;
        let mut build = Build::new(&name_of(&spec), spec);
        build.metadata.namespace = Some(namespace.clone());
        match self.shell.effects.create_build(&build).await {
            Ok(_) => {
                self.shell.nudges.nudge("build", &namespace, &build.name_any());
                Ok((Stored::New, build))
            }
            Err(EffectError::Exists { .. }) => Ok((Stored::Repeat, build)),
            Err(error) => Err(StoreError::Unavailable { why: errors::chain(&error) }),
        }
    }

    /// Counts a webhook in the build's status. A count that is lost loses nothing: the run itself is stored.
    async fn count_delivery(&self, build: &Build) {
        let namespace = build.namespace().unwrap_or_default();
        let api: Api<Build> = Api::namespaced(self.shell.clients.reader(), &namespace);
        for _ in 0..COUNT_TRIES {
            let Ok(Some(found)) = api.get_opt(&build.name_any()).await else { return };
            match self.shell.effects.write_status(&delivered_once_more(found)).await {
                Ok(_) => return,
                Err(EffectError::Stale { .. }) => {}
                Err(error) => {
                    tracing::debug!(
                        build = build.name_any(),
                        error = errors::chain(&error),
                        "a delivery is not counted"
                    );
                    return;
                }
            }
        }
    }

    async fn namespace_of(&self, repository: &str) -> Result<String, StoreError> {
        let targets = self.targets().await.map_err(|why| StoreError::Unavailable { why })?;
        let serving = targets.iter().find(|target| serves(&target.spec.url, repository));
        Ok(serving.and_then(ResourceExt::namespace).unwrap_or_else(|| self.shell.settings.release_namespace.clone()))
    }

    async fn targets(&self) -> Result<Vec<GitTarget>, String> {
        let api: Api<GitTarget> = Api::all(self.shell.clients.reader());
        api.list(&ListParams::default())
            .await
            .map(|list| list.items)
            .map_err(|error| format!("cannot list GitTargets: {}", crate::errors::chain(&error)))
    }

    /// Asks every forge for failed runs until `stop`: a webhook that was lost is found here.
    pub async fn poll(self, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.shell.time.sleep(POLL_EVERY) => {}
            }
            let targets = match self.targets().await {
                Ok(targets) => targets,
                Err(why) => {
                    tracing::warn!(why, "failed runs are not polled");
                    continue;
                }
            };
            let mut seen = BTreeMap::new();
            for target in targets {
                if seen.insert(target.spec.url.clone(), ()).is_none() {
                    self.poll_one(&target).await;
                }
            }
        }
    }

    async fn poll_one(&self, object: &GitTarget) {
        let Ok(target) = self.shell.targets.open(object).await else { return };
        let runs = match target.forge().failed_runs().await {
            Ok(runs) => runs,
            Err(error) => {
                tracing::debug!(target = target.id, error = errors::chain(&error), "failed runs cannot be listed");
                return;
            }
        };
        let now = self.shell.time.now();
        let repository = repository_of(&object.spec.url);
        for run in runs.into_iter().filter(|run| run.finished.is_none_or(|at| is_recent(at, now))) {
            let (job, log_reference) = run.job.unwrap_or_default();
            let spec = BuildSpec {
                forge: CiForge::Gitea,
                repository: repository.clone(),
                commit: run.commit,
                branch: run.branch,
                workflow: run.workflow,
                job,
                run_id: run.run_id,
                attempt: run.attempt,
                result: "failure".to_owned(),
                url: run.url,
                log_reference,
                trace_id: None,
            };
            if let Ok(spec) = checked(spec)
                && let Err(error) = self.keep(spec).await
            {
                tracing::warn!(%error, "a failed run was not stored");
            }
        }
    }
}

impl BuildStore for Builds {
    fn store(&self, report: BuildReport) -> BoxFuture<'_, Result<Stored, StoreError>> {
        Box::pin(async {
            let (stored, build) = self.keep(report.run).await?;
            self.count_delivery(&build).await;
            Ok(stored)
        })
    }
}

fn delivered_once_more(mut build: Build) -> Build {
    let status = build.status.get_or_insert_default();
    status.deliveries = status.deliveries.saturating_add(1);
    build
}

fn is_recent(at: Timestamp, now: Timestamp) -> bool {
    now.duration_since(at) <= RECENT
}

/// Whether the clone URL is that of a repository that a forge calls `owner/name`.
pub fn serves(url: &str, repository: &str) -> bool {
    !repository.is_empty() && normalised(url).ends_with(&format!("/{repository}"))
}

/// `owner/name` at the end of a clone URL.
fn repository_of(url: &str) -> String {
    let url = normalised(url);
    let mut parts = url.rsplit('/');
    let (name, owner) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    format!("{owner}/{name}")
}

/// One name for one run and attempt, whoever reports it.
fn name_of(spec: &BuildSpec) -> String {
    let identity = format!("{:?}\n{}\n{}\n{}", spec.forge, spec.repository, spec.run_id, spec.attempt.max(1));
    format!("bld-{}", hex::encode(&Sha256::digest(identity)[..6]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_webhook_about_a_run_is_counted_and_nothing_else_of_its_status_changes() {
        let spec = BuildSpec {
            forge: CiForge::Gitea,
            repository: "shop/fleet".into(),
            commit: String::new(),
            branch: String::new(),
            workflow: String::new(),
            job: String::new(),
            run_id: "7".into(),
            attempt: 1,
            result: "failure".into(),
            url: String::new(),
            log_reference: String::new(),
            trace_id: None,
        };
        let once = delivered_once_more(Build::new("bld-1", spec));
        let mut known = once.clone();
        known.status.get_or_insert_default().because = "seen".into();
        let twice = delivered_once_more(known);
        assert_eq!(once.status.map(|status| status.deliveries), Some(1));
        assert_eq!(twice.status.map(|status| (status.deliveries, status.because)), Some((2, "seen".into())));
    }

    #[test]
    fn a_clone_url_serves_its_repository_however_it_is_written() {
        for url in [
            "https://git.example.com/shop/fleet",
            "https://git.example.com/shop/fleet/",
            "https://git.example.com/shop/fleet.git",
            "https://git.example.com/shop/fleet.git/",
            "git@git.example.com:shop/fleet.git",
        ] {
            assert!(serves(url, "shop/fleet"), "{url}");
        }
        assert!(!serves("https://git.example.com/workshop/fleet", "shop/fleet"));
        assert!(!serves("https://git.example.com/shop/fleet", ""));
    }

    #[test]
    fn the_repository_is_the_end_of_a_clone_url() {
        assert_eq!(repository_of("https://git.example.com/shop/fleet.git/"), "shop/fleet");
        assert_eq!(repository_of("http://127.0.0.1:3000/a/b"), "a/b");
    }
}
