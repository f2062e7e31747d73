//! `amend record verify|export`: the account of everything done, and the proof that nobody changed it.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use amend_controller::records;
use amend_execution::record::{Line, PublicKey, TrustRoot, read_lines, verify, write_lines};
use anyhow::Context;
use clap::Subcommand;
use serde_json::json;

use crate::connection::{Flags, print};

/// The record of what was intended, done and seen.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Checks every signature and the chain, and names the first bad entry
    Verify {
        /// An export, instead of the cluster; needs no network
        #[arg(long, requires = "key")]
        file: Option<PathBuf>,
        /// The key that you trust (name+hash+key); without it the one that the cluster names, which proves less
        #[arg(long, value_name = "VKEY")]
        key: Option<String>,
    },
    /// Prints the record as JSON lines
    Export,
}

pub async fn run(verb: &Verb, flags: &Flags) -> anyhow::Result<ExitCode> {
    match verb {
        Verb::Export => {
            let connection = flags.connect().await?;
            let export = records::export(&connection.client, &connection.install_namespace).await;
            std::print!("{}", write_lines(&export.map_err(anyhow::Error::msg)?.lines)?);
            Ok(ExitCode::SUCCESS)
        }
        Verb::Verify { file: Some(file), key: Some(key) } => {
            let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            let lines = read_lines(&text).with_context(|| format!("{} is not an export", file.display()))?;
            judge(&lines, PublicKey::parse(key).context("--key is not usable")?, flags)
        }
        Verb::Verify { key, .. } => {
            let connection = flags.connect().await?;
            let export = records::export(&connection.client, &connection.install_namespace).await;
            let export = export.map_err(anyhow::Error::msg)?;
            let trusted = match key {
                Some(key) => PublicKey::parse(key).context("--key is not usable")?,
                None => {
                    eprintln!("trusting the key that the cluster names: {}", export.key);
                    export.key
                }
            };
            judge(&export.lines, trusted, flags)
        }
    }
}

fn judge(lines: &[Line], key: PublicKey, flags: &Flags) -> anyhow::Result<ExitCode> {
    let judged = verify(lines, &TrustRoot { key, seen: Vec::new() });
    match (&judged, flags.output()) {
        (Ok(summary), Some(output)) => print(
            &json!({ "verified": true, "entries": summary.entries, "root": summary.root.to_string(), "epoch": summary.epoch }),
            output,
        )?,
        (Ok(summary), None) => {
            println!("{} entries verify, epoch {}, root {}", summary.entries, summary.epoch, summary.root);
        }
        (Err(bad), Some(output)) => {
            print(&json!({ "verified": false, "entry": bad.index, "reason": bad.to_string() }), output)?;
        }
        (Err(bad), None) => println!("NOT VERIFIED: {bad}"),
    }
    Ok(if judged.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
