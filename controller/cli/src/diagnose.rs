//! `amend diagnose --case DIR`: what broke, and why, from a saved case.

use std::path::PathBuf;

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::Diagnosis;
use amend_diagnosis::render;
use amend_telemetry::case;
use anyhow::Context;
use clap::{Args, ValueEnum};

use crate::connection::plain;

/// Says what broke and why, from a case directory.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Directory in the case format (`amend-rca-case/1`), as `amend capture` writes it too
    #[arg(long)]
    case: PathBuf,
    /// Shape of the answer
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// For people, in a terminal.
    Text,
    /// One object: `ranked`, `confidence`, `abstain`, and the whole diagnosis.
    Json,
    Dot,
    Mermaid,
    Svg,
}

pub fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let folder = &arguments.case;
    anyhow::ensure!(folder.is_dir(), "{} is no case directory", folder.display());
    let case = case::read(folder).with_context(|| format!("no case in {}", folder.display()))?;
    let diagnosis = diagnose(&case.observations);
    match arguments.format {
        Format::Text => print!("{}", text(&diagnosis)),
        Format::Dot => print!("{}", render::dot(&diagnosis.graph)),
        Format::Mermaid => print!("{}", render::mermaid(&diagnosis.graph)),
        Format::Svg => print!("{}", render::svg(&diagnosis.graph)),
        Format::Json => {
            let mut answer = case.answer(&diagnosis);
            answer["diagnosis"] = serde_json::to_value(&diagnosis)?;
            println!("{answer}");
        }
    }
    Ok(())
}

/// The answer for a terminal: the sentence, the reasons, the graph, the runners-up.
fn text(diagnosis: &Diagnosis) -> String {
    let mut out = String::new();
    if let Some(why) = &diagnosis.abstained {
        out.push_str(&format!("not sure: {why}\n"));
    }
    if let Some(cause) = diagnosis.causes.first() {
        out.push_str(&format!(
            "{} ({}, {:.0} % sure)\n  on {}\n",
            cause.sentence,
            cause.kind,
            cause.confidence * 100.0,
            cause.entity
        ));
        for (sign, facts) in [('+', &cause.facts_for), ('-', &cause.facts_against)] {
            for fact in facts {
                out.push_str(&format!("  {sign} {}\n", fact.sentence));
            }
        }
    }
    if !diagnosis.graph.nodes.is_empty() {
        out.push_str(&format!("\n{}", render::text(&diagnosis.graph)));
    }
    if !diagnosis.slowest.is_empty() {
        out.push_str(&format!("\nwhere the time goes:\n{}", render::slowest(&diagnosis.slowest, diagnosis.followed)));
    }
    if !diagnosis.stories.is_empty() {
        out.push_str(&format!("\nwhat the services wrote:\n{}", render::stories(&diagnosis.stories)));
    }
    let others: Vec<String> = diagnosis
        .causes
        .iter()
        .skip(1)
        .take(4)
        .map(|cause| format!("  {:3.0} %  {} on {}\n", cause.confidence * 100.0, cause.kind, cause.entity.name))
        .collect();
    if !others.is_empty() {
        out.push_str(&format!("\nalso considered:\n{}", others.concat()));
    }
    if !diagnosis.unexplained.is_empty() {
        out.push_str(&format!("\nnot explained: {}\n", diagnosis.unexplained.join(", ")));
    }
    if let Some(left_over) = diagnosis.alignment.left_over() {
        out.push_str(&format!("\nnot aligned: {left_over}\n"));
    }
    if let Some(foreign) = diagnosis.alignment.foreign.told() {
        out.push_str(&format!("\nof other clusters: {foreign}\n"));
    }
    // A case quotes logs and names of the outside world: none of it may steer a terminal.
    out.lines().map(|line| plain(line) + "\n").collect()
}
