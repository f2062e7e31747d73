//! The machine that figures were taken on: a figure without it means nothing.

use std::fs;

use serde::{Deserialize, Serialize};

/// Cores, processor, memory and kernel, and how busy it was with other things.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Machine {
    pub cores: usize,
    pub processor: String,
    pub memory_mib: u64,
    pub kernel: String,
    /// One-minute load average before the figure was taken.
    pub load_before: f64,
    /// How the programs were built: `release` or `debug`.
    pub built: String,
}

impl Machine {
    /// This one, now. What the system does not tell is empty or zero.
    #[must_use]
    pub fn here() -> Self {
        let file = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find(|line| line.starts_with(name))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        };
        let memory = field(&file("/proc/meminfo"), "MemTotal").unwrap_or_default();
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            processor: field(&file("/proc/cpuinfo"), "model name").unwrap_or_default(),
            memory_mib: memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) / 1024,
            kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
            load_before: file("/proc/loadavg").split(' ').next().and_then(|load| load.parse().ok()).unwrap_or(0.0),
            built: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        }
    }
}

impl std::fmt::Display for Machine {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { cores, processor, memory_mib, kernel, load_before, built } = self;
        write!(
            out,
            "{cores} cores of {processor}, {memory_mib} MiB, Linux {kernel}, load {load_before} before, {built} build"
        )
    }
}
