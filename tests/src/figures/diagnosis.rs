//! Time to find a cause when all answers of the stores are there: one thread, one case after the other.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::evidence::Observations;
use amend_telemetry::case;

use super::quantile::milliseconds;
use super::{Outcome, Row};
use crate::cases::stories::{decoys, faults};
use crate::cases::turned::amid_others;

/// Seeds of the eight kinds of fault, besides the sixty decoys.
const SEEDS: std::ops::Range<u64> = 1..11;

const GOAL: f64 = 500.0;

/// An incident of a platform: what stores with the usual limits answer at most.
const SERIES: usize = 2_000;
const SPANS: usize = 50_000;
const WIDE_GOAL: f64 = 1_000.0;

pub fn measure(saved: Option<&Path>) -> anyhow::Result<Outcome> {
    eprintln!("figures: letting the model live through its stories");
    let made = SEEDS.flat_map(faults).chain(decoys());
    let times: Vec<Duration> = made.map(|case| timed(&case.observations)).collect();
    let mut rows = rows("of the workload model: ten services, an hour of metrics, traces, logs", &times);
    let wide: Vec<Duration> =
        faults(SEEDS.start).iter().map(|case| timed(&amid_others(&case.observations, SERIES, SPANS))).collect();
    rows.push(
        Row::new(
            format!("diagnosis, longest of {} incidents with {SERIES} series and {SPANS} spans", wide.len()),
            milliseconds(&wide, 1.0),
            "ms",
        )
        .at_most(WIDE_GOAL),
    );
    if let Some(root) = saved {
        let mut folders = Vec::new();
        find(root, &mut folders)?;
        let mut times = Vec::new();
        for folder in &folders {
            times.push(timed(&case::read(folder)?.observations));
        }
        rows.extend(self::rows(&format!("saved below {}", root.display()), &times));
    }
    Ok(Outcome::Measured(rows))
}

fn rows(of: &str, times: &[Duration]) -> Vec<Row> {
    let named = |share: &str| format!("diagnosis, {share} of {} cases {of}", times.len());
    vec![
        Row::new(named("p50"), milliseconds(times, 0.5), "ms"),
        Row::new(named("p99"), milliseconds(times, 0.99), "ms").at_most(GOAL),
        Row::new(named("longest"), milliseconds(times, 1.0), "ms"),
    ]
}

fn timed(seen: &Observations) -> Duration {
    let began = Instant::now();
    std::hint::black_box(diagnose(seen));
    began.elapsed()
}

/// Every case directory below a folder.
fn find(folder: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    if folder.join("case.json").exists() {
        found.push(folder.to_owned());
        return Ok(());
    }
    let mut below: Vec<PathBuf> = std::fs::read_dir(folder)?.flatten().map(|entry| entry.path()).collect();
    below.sort();
    below.iter().filter(|path| path.is_dir()).try_for_each(|path| find(path, found))
}
