//! `make bench`: measures what Amend costs and how fast it is; a table for people, JSON for programs.

use std::path::PathBuf;
use std::process::ExitCode;

use amend_tests::figures::{Figure, Options, Report};
use clap::Parser;

/// Measures what Amend costs and how fast it is.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only these (repeat, or separate by commas); the others keep the place that they have in the file
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Figure>,

    /// Where the JSON goes; figures that are in it and not taken now stay
    #[arg(long, value_name = "FILE", default_value = "target/figures.json")]
    json: PathBuf,

    #[command(flatten)]
    options: Options,
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    amend_tests::bench::install_crypto();
    let arguments = Arguments::parse();
    let wanted = if arguments.only.is_empty() { Figure::ALL.to_vec() } else { arguments.only };
    let mut report = Report::read(&arguments.json);
    let mut failed = false;
    for figure in wanted {
        eprintln!("figures: {}", figure.name());
        let machine = Report::machine();
        match figure.measure(&arguments.options).await {
            Ok(outcome) => report.note(figure, machine, outcome),
            Err(error) => {
                eprintln!("figures: {} could not be taken: {error:#}", figure.name());
                failed = true;
            }
        }
        if let Some(folder) = arguments.json.parent() {
            std::fs::create_dir_all(folder)?;
        }
        report.write(&arguments.json)?;
    }
    print!("{report}");
    eprintln!("figures: as JSON in {}", arguments.json.display());
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}
