//! One program of the bench: started, watched, killed and started again.

use std::ffi::{OsStr, OsString};
use std::fmt::Debug;
use std::fs::{File, OpenOptions};
use std::future::Future;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::reaper::Run;
use super::until::until;

/// How long a program may take from its start until it answers. Ten times what it takes alone on two
/// cores, since several start at once and compilers may be running.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// How long a program may take to end after it was asked to.
const STOP_WITHIN: Duration = Duration::from_secs(10);

/// A program with its arguments, its log, and its process while it runs.
///
/// Dropping it kills the process and everything that the process started.
#[derive(Debug)]
pub struct Program {
    name: String,
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: PathBuf,
    log: PathBuf,
    child: Mutex<Option<Child>>,
}

impl Program {
    /// A program that is not started yet. `name` names its log; `dir` is its working folder.
    ///
    /// # Errors
    /// When the run has no log folder.
    pub fn new(name: &str, path: impl Into<PathBuf>, dir: impl Into<PathBuf>) -> anyhow::Result<Self> {
        let log = Run::current()?.logs().join(format!("{name}.log"));
        Ok(Self {
            name: name.to_owned(),
            path: path.into(),
            args: Vec::new(),
            env: Vec::new(),
            dir: dir.into(),
            log,
            child: Mutex::new(None),
        })
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    /// Sets a variable of its environment.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The file that is executed.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where its standard output and standard error go; starts append.
    #[must_use]
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Its process id while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// Starts it, if it does not run already.
    ///
    /// # Errors
    /// When the file cannot be executed.
    pub fn start(&self) -> anyhow::Result<()> {
        let mut child = self.child();
        if child.is_some() {
            return Ok(());
        }
        let run = Run::current()?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .with_context(|| format!("cannot write {}", self.log.display()))?;
        let started = self.command(&log)?.process_group(0).spawn();
        let started = started.with_context(|| format!("cannot start {} ({})", self.name, self.path.display()))?;
        run.kill_at_end(started.id());
        *child = Some(started);
        Ok(())
    }

    /// Runs it to its end and returns what it printed on standard output.
    ///
    /// # Errors
    /// When it does not end well, with what it printed on standard error.
    pub async fn output(&self) -> anyhow::Result<String> {
        let mut command = Command::new(&self.path);
        command.args(&self.args).envs(self.env.iter().cloned()).current_dir(&self.dir).stdin(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        let output = command
            .kill_on_drop(true)
            .output()
            .await
            .with_context(|| format!("cannot start {}", self.path.display()))?;
        if !output.status.success() {
            bail!(
                "{} {:?}: {}\n{}{}",
                self.name,
                self.args,
                output.status,
                String::from_utf8_lossy(&output.stderr),
                String::from_utf8_lossy(&output.stdout)
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Waits until `probe` answers something.
    ///
    /// # Errors
    /// When it ends or does not answer in time: with the end of its log.
    pub async fn ready<T, E, F, A>(&self, mut probe: F) -> anyhow::Result<T>
    where
        F: FnMut() -> A,
        A: Future<Output = Result<Option<T>, E>>,
        E: Debug,
    {
        let mut ended = None;
        let what = format!("{} to be ready", self.name);
        let answer = until(&what, READY_WITHIN, || {
            ended = self.ended();
            let asked = ended.is_none().then(&mut probe);
            async move {
                match asked {
                    Some(asked) => Ok::<_, String>(asked.await.unwrap_or_default().map(Some)),
                    None => Ok(Some(None)),
                }
            }
        });
        match answer.await {
            Ok(Some(answer)) => Ok(answer),
            Ok(None) => bail!(
                "{} ended{} before it was ready; its log:\n{}",
                self.name,
                ended.map_or_else(String::new, |status| format!(" ({status})")),
                self.log_end()
            ),
            Err(error) => Err(error.context(format!("{} is not ready; its log:\n{}", self.name, self.log_end()))),
        }
    }

    /// Its exit status, when it has ended by itself.
    #[must_use]
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child();
        let status = child.as_mut()?.try_wait().ok().flatten()?;
        if let Some(child) = child.take() {
            self.forget(&child);
        }
        Some(status)
    }

    /// SIGKILL for it and what it started; returns when it is gone.
    pub fn kill(&self) {
        let Some(mut child) = self.child().take() else { return };
        if let Ok(run) = Run::current() {
            run.signal("KILL", child.id());
        }
        let _ = child.kill();
        let _ = child.wait();
        self.forget(&child);
    }

    /// Sends it a signal by name (`TERM`, `STOP`, `CONT` ...).
    ///
    /// # Errors
    /// When the run cannot be had.
    pub fn signal(&self, name: &str) -> anyhow::Result<()> {
        if let Some(pid) = self.pid() {
            Run::current()?.signal(name, pid);
        }
        Ok(())
    }

    /// Asks it to end; kills it when it has not within ten seconds.
    ///
    /// # Errors
    /// When the run cannot be had.
    pub async fn stop(&self) -> anyhow::Result<()> {
        self.signal("TERM")?;
        let began = Instant::now();
        let stopped = until("an end", STOP_WITHIN, || {
            let gone = self.pid().is_none() || self.ended().is_some();
            async move { Ok::<_, String>(gone.then_some(())) }
        });
        if stopped.await.is_err() {
            tracing::warn!(
                program = self.name,
                seconds = began.elapsed().as_secs(),
                "did not stop when asked, killing it"
            );
        }
        self.kill();
        Ok(())
    }

    /// The last lines of its log, for a failure's message.
    #[must_use]
    pub fn log_end(&self) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn command(&self, log: &File) -> anyhow::Result<Command> {
        let mut command = Command::new(&self.path);
        command.args(&self.args).envs(self.env.iter().cloned()).current_dir(&self.dir);
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log.try_clone()?);
        Ok(command)
    }

    fn forget(&self, child: &Child) {
        if let Ok(run) = Run::current() {
            // Its own children may have outlived it.
            run.signal("KILL", child.id());
            run.forget(child.id());
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        self.kill();
    }
}
