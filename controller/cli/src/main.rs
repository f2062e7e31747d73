//! The command line: one file per verb.

mod bench;
mod build;
mod controller;
#[cfg(feature = "sandbox")]
mod demo;
mod diagnose;
mod logs;

use std::process::ExitCode;

use anyhow::Context;
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
    #[cfg(feature = "sandbox")]
    Demo(demo::Arguments),
    /// Run the controller, as the image does
    Controller(Box<amend_controller::settings::Settings>),
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
        #[cfg(feature = "sandbox")]
        Verb::Demo(arguments) => connected(demo::run(&arguments)),
        Verb::Controller(settings) => connected(controller::run(*settings)),
        Verb::Diagnose(arguments) => diagnose::run(&arguments).map(|()| ExitCode::SUCCESS),
        Verb::Build(verb) => build::run(&verb).map(|()| ExitCode::SUCCESS),
        Verb::Logs(verb) => logs::run(&verb).map(|()| ExitCode::SUCCESS),
        Verb::Bench(verb) => bench::run(&verb).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("amend: {error:#}");
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
