//! The command line: one file per verb.

mod backtest;
mod bench;
mod build;
mod capture;
mod connection;
mod controller;
mod decision;
#[cfg(feature = "sandbox")]
mod demo;
mod diagnose;
mod docs;
mod doctor;
mod explain;
mod get;
mod lint;
mod logs;
mod ready;
mod record;
mod uninstall;

use std::process::ExitCode;

use amend_controller::settings::Settings;
use amend_crds::approval::ApprovalDecision;
use anyhow::Context;
use clap::{CommandFactory, Parser, Subcommand};
use connection::Flags;

/// Repairs what breaks on Kubernetes, the way a careful engineer would.
#[derive(Debug, Parser)]
#[command(name = "amend", version)]
struct Arguments {
    #[command(flatten)]
    flags: Flags,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    #[cfg(feature = "sandbox")]
    Demo(demo::Arguments),
    /// Runs the controller until SIGTERM, or until it may no longer lead
    Controller(Box<Settings>),
    Doctor(doctor::Arguments),
    Ready(ready::Arguments),
    Get(get::Arguments),
    Explain(explain::Arguments),
    Diagnose(diagnose::Arguments),
    Backtest(Box<backtest::Arguments>),
    Capture(capture::Arguments),
    /// Says yes to the plan of a remediation
    Approve(decision::Arguments),
    /// Says no to the plan of a remediation
    Refuse(decision::Arguments),
    /// Stops a remediation; what is not merged is withdrawn, what is merged stays
    Stop(decision::Arguments),
    #[command(subcommand)]
    Record(record::Verb),
    Lint(lint::Arguments),
    Uninstall(uninstall::Arguments),
    #[command(subcommand)]
    Build(build::Verb),
    #[command(subcommand)]
    Logs(logs::Verb),
    #[command(subcommand)]
    Bench(bench::Verb),
    /// Prints this reference as Markdown
    Docs,
}

/// Reads the command line and does what it says.
pub fn main() -> ExitCode {
    let Arguments { flags, verb } = Arguments::parse();
    let done = match verb {
        #[cfg(feature = "sandbox")]
        Verb::Demo(arguments) => {
            demo::share_one_heap();
            connected(demo::run(&arguments))
        }
        Verb::Controller(settings) => connected(controller::run(*settings, &flags)),
        Verb::Doctor(arguments) => connected(doctor::run(&arguments, &flags)),
        Verb::Ready(arguments) => connected(ready::run(&arguments, &flags)),
        Verb::Get(arguments) => connected(get::run(&arguments, &flags)),
        Verb::Explain(arguments) => connected(explain::run(&arguments, &flags)),
        Verb::Capture(arguments) => connected(capture::run(&arguments, &flags)),
        Verb::Diagnose(arguments) => diagnose::run(&arguments).map(|()| ExitCode::SUCCESS),
        Verb::Backtest(arguments) => connected(backtest::run(&arguments, &flags)),
        Verb::Approve(arguments) => connected(decision::run(&arguments, ApprovalDecision::Approve, &flags)),
        Verb::Refuse(arguments) => connected(decision::run(&arguments, ApprovalDecision::Refuse, &flags)),
        Verb::Stop(arguments) => connected(decision::run(&arguments, ApprovalDecision::Stop, &flags)),
        Verb::Record(verb) => connected(record::run(&verb, &flags)),
        Verb::Lint(arguments) => lint::run(&arguments, &flags),
        Verb::Uninstall(arguments) => connected(uninstall::run(&arguments, &flags)),
        Verb::Build(verb) => build::run(&verb).map(|()| ExitCode::SUCCESS),
        Verb::Logs(logs::Verb::Parse) => logs::parse_input().map(|()| ExitCode::SUCCESS),
        Verb::Logs(logs::Verb::Unknown(arguments)) => connected(logs::unknown::run(&arguments, &flags)),
        Verb::Bench(verb) => bench::run(&verb).map(|()| ExitCode::SUCCESS),
        Verb::Docs => {
            print!("{}", docs::page(Arguments::command()));
            Ok(ExitCode::SUCCESS)
        }
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("amend: {}", amend_controller::errors::chain(error.as_ref()));
            ExitCode::FAILURE
        }
    }
}

/// Runs a verb that talks to others. Only these pay for a runtime and for TLS.
fn connected(verb: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    // An error only says that the process has chosen one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        // On a machine with one or two cores a busy task must not keep the lease from being renewed.
        .worker_threads(std::thread::available_parallelism().map_or(4, usize::from).max(4))
        .enable_all()
        .build()
        .context("cannot start the async runtime")?
        .block_on(verb)
}
