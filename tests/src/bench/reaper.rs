//! Nothing of a test run outlives it.
//!
//! A small shell process reads from a pipe that only we hold. When we end, in whatever way (also by
//! SIGKILL, and when statics are never dropped), the pipe closes; it then kills every process group we
//! started and removes our folder. A death signal on each child would do the same only on Linux, only
//! with unsafe code, and would fire when the *thread* that started it ends.

use std::fs;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Mutex, OnceLock, PoisonError};

use anyhow::Context;

const SCRIPT: &str = r#"
trap '' HUP INT TERM
groups=' '
while read -r word group; do
  case $word in
    add) groups="$groups$group " ;;
    gone) groups="${groups%% $group *} ${groups#* $group }" ;;
    *) kill -s "$word" -- "-$group" 2>/dev/null ;;
  esac
done
for group in $groups; do kill -s KILL -- "-$group" 2>/dev/null; done
rm -rf -- "$1" || { sleep 1; rm -rf -- "$1"; }
"#;

/// What one test process owns on this machine: a folder, a log folder, and the process that clears up.
#[derive(Debug)]
pub struct Run {
    folder: PathBuf,
    logs: PathBuf,
    reaper: Mutex<ChildStdin>,
}

impl Run {
    /// The run of this process, made at first use.
    ///
    /// # Errors
    /// When the folders cannot be made or there is no `/bin/sh`.
    pub fn current() -> anyhow::Result<&'static Self> {
        static RUN: OnceLock<Result<Run, String>> = OnceLock::new();
        RUN.get_or_init(|| Self::begin().map_err(|error| format!("{error:#}")))
            .as_ref()
            .map_err(|error| anyhow::anyhow!("{error}"))
    }

    fn begin() -> anyhow::Result<Self> {
        let id = std::process::id();
        let folder = std::env::temp_dir().join(format!("amend-bench-{id}"));
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let logs = log_root().join(id.to_string());
        if logs.exists() {
            fs::remove_dir_all(&logs)?;
        }
        fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
        let mut reaper = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "amend-bench-reaper"])
            .arg(&folder)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .current_dir("/")
            .process_group(0)
            .spawn()
            .context("cannot start /bin/sh")?;
        let stdin = reaper.stdin.take().context("the reaper has no input")?;
        Ok(Self { folder, logs, reaper: Mutex::new(stdin) })
    }

    /// A folder below the run's folder; all of it goes when the run ends.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn folder(&self, name: &str) -> anyhow::Result<tempfile::TempDir> {
        Ok(tempfile::Builder::new().prefix(&format!("{name}-")).tempdir_in(&self.folder)?)
    }

    /// Where the logs of the parts stay after the run, one file per program.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    pub(super) fn kill_at_end(&self, group: u32) {
        self.tell("add", group);
    }

    pub(super) fn forget(&self, group: u32) {
        self.tell("gone", group);
    }

    /// Sends a signal to every process of the group.
    pub(super) fn signal(&self, name: &str, group: u32) {
        self.tell(name, group);
    }

    fn tell(&self, word: &str, group: u32) {
        let mut pipe = self.reaper.lock().unwrap_or_else(PoisonError::into_inner);
        // Gone means that someone killed it: the children are then ours alone, and dropped by us.
        let _ = writeln!(pipe, "{word} {group}");
    }
}

/// The target folder that the running test binary lies in.
pub(super) fn target_folder() -> Option<PathBuf> {
    let exe = std::env::current_exe().ok()?;
    exe.ancestors().find(|dir| dir.join("CACHEDIR.TAG").exists()).map(Path::to_path_buf)
}

/// `target/bench-logs`; the newest twenty runs are kept.
fn log_root() -> PathBuf {
    let root = target_folder().unwrap_or_else(std::env::temp_dir).join("bench-logs");
    let mut runs: Vec<_> = fs::read_dir(&root)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
        .collect();
    runs.sort();
    let old = runs.len().saturating_sub(19);
    for (_, path) in runs.drain(..old) {
        let _ = fs::remove_dir_all(path);
    }
    root
}
