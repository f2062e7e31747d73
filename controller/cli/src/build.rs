//! `amend build explain --case DIR`: which lines of a CI log tell why it failed.

use std::fs;
use std::path::PathBuf;

use amend_diagnosis::build::classify_build;
use anyhow::Context;
use clap::{Subcommand, ValueEnum};
use serde_json::json;

/// Failed builds.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Finds the failing lines in `fail.log`, compared with `pass.log` when it is there.
    Explain {
        #[arg(long)]
        case: PathBuf,
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
    let failed = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let failed = String::from_utf8_lossy(&failed);
    let passed = fs::read(case.join("pass.log")).ok().map(|log| String::from_utf8_lossy(&log).into_owned());
    let failure = classify_build(&failed, passed.as_deref());
    match format {
        Format::Json => println!("{}", json!({"ranges": failure.ranges, "class": failure.class, "why": failure.why})),
        Format::Text => {
            println!("{}", failure.why);
            let lines: Vec<&str> = failed.split('\n').collect();
            for (from, to) in &failure.ranges {
                println!("--- lines {from} to {to}");
                for line in lines.iter().take(*to).skip(from.saturating_sub(1)).take(40) {
                    println!("{}", amend_diagnosis::logs::clean::plain(line));
                }
            }
        }
    }
    Ok(())
}
