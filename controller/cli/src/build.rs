//! `amend build explain --case DIR`: which lines of a CI log tell why it failed.

use std::fs;
use std::path::{Path, PathBuf};

use amend_diagnosis::build::classify_build;
use amend_diagnosis::build::features::lines;
use amend_diagnosis::logs::Class;
use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use serde_json::json;

/// Failed builds.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Finds the failing lines in `fail.log`, compared with `pass.log` when it is there.
    Explain {
        /// Folder with `fail.log`, and `pass.log` of a run that passed where there is one.
        #[arg(long, value_name = "DIR")]
        case: PathBuf,
        /// Shape of the answer.
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    Text,
    Json,
}

pub fn run(verb: &Verb) -> anyhow::Result<()> {
    let Verb::Explain { case, format } = verb;
    let path = case.join("fail.log");
    let failed = text(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let passed = text(&case.join("pass.log")).ok();
    let failure = classify_build(&failed, passed.as_deref());
    match format {
        Format::Json => {
            let class = failure.speaks_of.unwrap_or(Class::Other);
            println!(
                "{}",
                json!({"ranges": failure.ranges, "class": class, "kind": failure.class, "why": failure.why})
            );
        }
        Format::Text => {
            println!("{}", failure.why);
            for (from, to) in &failure.ranges {
                println!("--- lines {from} to {to}");
                for line in lines(&failed).take(*to).skip(from.saturating_sub(1)).take(40) {
                    println!("{}", amend_diagnosis::logs::clean::plain(line));
                }
            }
        }
    }
    Ok(())
}

/// Larger logs are refused: a build that says more than this has been writing data, not a log.
const BYTES_MAX: u64 = 256 << 20;

fn text(path: &Path) -> anyhow::Result<String> {
    let size = fs::metadata(path)?.len();
    anyhow::ensure!(size <= BYTES_MAX, "{size} bytes are more than {BYTES_MAX}");
    Ok(String::from_utf8_lossy(&fs::read(path)?).into_owned())
}
