//! The command line: one file per verb.

mod bench;
mod build;
mod diagnose;
mod logs;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Repairs what breaks on Kubernetes, the way a careful engineer would.
#[derive(Debug, Parser)]
#[command(name = "amend", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Diagnose(diagnose::Arguments),
    #[command(subcommand)]
    Build(build::Verb),
    #[command(subcommand)]
    Logs(logs::Verb),
    #[command(subcommand)]
    Bench(bench::Verb),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().verb {
        Verb::Diagnose(arguments) => diagnose::run(&arguments),
        Verb::Build(verb) => build::run(&verb),
        Verb::Logs(verb) => logs::run(&verb),
        Verb::Bench(verb) => bench::run(&verb),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("amend: {error:#}");
            ExitCode::FAILURE
        }
    }
}
