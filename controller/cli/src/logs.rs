//! `amend logs parse`: lines in, templates out.

use std::io::{BufWriter, Read, Write};

use amend_diagnosis::logs::{classify, template};
use clap::Subcommand;

/// Log lines.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Reads lines and writes one line each: template id, tab, template with `<*>`, tab, class.
    Parse,
}

pub fn run(verb: &Verb) -> anyhow::Result<()> {
    let Verb::Parse = verb;
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let mut lines: Vec<&str> = text.split('\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    let parsed = template::parse(&lines);
    let classes: Vec<String> = parsed.templates.iter().map(|template| classify(template).to_string()).collect();
    let mut out = BufWriter::new(std::io::stdout().lock());
    for id in parsed.lines {
        writeln!(out, "{id}\t{}\t{}", parsed.templates[id], classes[id])?;
    }
    out.flush()?;
    Ok(())
}
