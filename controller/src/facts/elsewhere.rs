//! Who else renders the files that a plan changes: overlays of the repository, and what Flux applies for other objects.

use amend_diagnosis::evidence::{Answer, Window};
use amend_gitops::access::normalised;
use amend_gitops::locate::{AppliedFolder, GitRepository, Kustomization};
use amend_gitops::path::RepoPath;
use amend_policies::plan::Plan;
use jiff::Timestamp;
use serde_json::Value;

use super::About;
use crate::cluster::{self, GIT_REPOSITORY, KUSTOMIZATION};
use crate::errors;
use crate::owner::{self, Owner};
use crate::shell::Shell;

/// As people know them, each once: `apps/staging` or `Kustomization flux-system/staging`.
pub async fn renderings(
    shell: &Shell,
    about: &About<'_>,
    owner: &Answer<Option<Owner>>,
    now: Timestamp,
) -> Answer<Vec<String>> {
    match asked(shell, about, owner, now).await {
        Ok(found) => Answer::Known(found),
        Err(why) => Answer::unknown(why),
    }
}

async fn asked(
    shell: &Shell,
    about: &About<'_>,
    owner: &Answer<Option<Owner>>,
    now: Timestamp,
) -> Result<Vec<String>, String> {
    let target = about.target?;
    let owner = match owner {
        Answer::Known(owner) => owner.as_ref(),
        Answer::Unknown { why } => return Err(why.clone()),
    };
    let applied = match owner {
        Some(owner) => Some(Kustomization::read(&owner.kustomization).map_err(|unlocated| unlocated.sentence)?.folder),
        None => None,
    };
    let kustomizations = target.kustomizations().await.map_err(|error| errors::chain(&error))?;
    let others = others(shell, about.plan, owner, now).await?;
    let mut found: Vec<String> = Vec::new();
    for file in about.plan.steps.iter().flat_map(|step| &step.files) {
        let path = RepoPath::parse(&file.path).map_err(|error| errors::chain(&error))?;
        for one in kustomizations.elsewhere(&path, applied.as_ref(), &others)? {
            if !found.contains(&one) {
                found.push(one);
            }
        }
    }
    Ok(found)
}

/// The folders that Flux applies from the plan's repository and branch, but for the target's own.
async fn others(
    shell: &Shell,
    plan: &Plan,
    owner: Option<&Owner>,
    now: Timestamp,
) -> Result<Vec<AppliedFolder>, String> {
    let client = shell.clients.reader();
    let window = Window { from: now, to: now };
    let (kustomizations, sources) = futures::join!(
        cluster::list(&client, KUSTOMIZATION, None, window),
        cluster::list(&client, GIT_REPOSITORY, None, window)
    );
    let known = |(answer, _): (Answer<Vec<Value>>, _)| match answer {
        Answer::Known(objects) => Ok(objects),
        Answer::Unknown { why } => Err(why),
    };
    let (kustomizations, sources) = (known(kustomizations)?, known(sources)?);
    let repository = normalised(&plan.repository.url);
    let serving: Vec<GitRepository> = sources
        .iter()
        .filter_map(|source| GitRepository::read(source).ok())
        .filter(|source| {
            normalised(&source.url) == repository && source.branch.as_ref() == Some(&plan.repository.branch)
        })
        .collect();
    let own = owner.map(|owner| owner::shown(&owner.kustomization));
    let folders = kustomizations.iter().filter_map(|object| {
        let by = owner::shown(object);
        // One that applies from something else has no folder in this repository.
        let read = Kustomization::read(object).ok()?;
        let from_here = serving.iter().any(|source| source.at == read.source);
        (from_here && own.as_ref() != Some(&by)).then_some(AppliedFolder { by, folder: read.folder })
    });
    Ok(folders.collect())
}
