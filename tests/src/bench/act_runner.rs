//! Our runner of Gitea's workflows (`tests/env/act-runner`): `run:` steps on this machine, and checkout.

use super::gitea::Gitea;
use super::parts::{Binaries, Build};
use super::program::Program;
use super::reaper::Run;

/// A runner that is registered for every repository, for `runs-on: ubuntu-latest`.
#[derive(Debug)]
pub struct ActRunner {
    program: Program,
    _folder: tempfile::TempDir,
}

impl ActRunner {
    /// Starts it and waits until Gitea knows it.
    ///
    /// # Errors
    /// When it cannot register.
    pub async fn start(binaries: &Binaries, gitea: &Gitea) -> anyhow::Result<Self> {
        let folder = Run::current()?.folder("act-runner")?;
        let token = gitea.runner_registration_token().await?;
        let program = Program::new("act-runner", binaries.path(Build::ActRunner, "act-runner")?, folder.path())?
            .env("HOME", folder.path())
            .args(["-url", gitea.url(), "-token", &token, "-work"])
            .arg(folder.path());
        program.start()?;
        program
            .ready(|| async {
                let runners = gitea.api(reqwest::Method::GET, "/admin/actions/runners", None).await?;
                let online = runners["runners"].as_array().is_some_and(|all| !all.is_empty());
                Ok::<_, anyhow::Error>(online.then_some(()))
            })
            .await?;
        Ok(Self { program, _folder: folder })
    }

    /// The program, for stories that stop it: runs then stay queued.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }
}
