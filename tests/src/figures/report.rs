//! The table for people and the JSON for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

use anyhow::Context;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::machine::Machine;
use super::{Figure, Outcome};

/// All figures that were ever taken into one file, each with its machine and time: a figure can be taken again alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    figures: BTreeMap<String, Taken>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Taken {
    at: Timestamp,
    machine: Machine,
    #[serde(flatten)]
    outcome: Outcome,
}

impl Report {
    /// What is in a file so far; nothing when there is none or it is not ours.
    #[must_use]
    pub fn read(file: &Path) -> Self {
        std::fs::read(file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }

    /// The machine as it is before a figure is taken.
    #[must_use]
    pub fn machine() -> Machine {
        Machine::here()
    }

    /// Puts what came of a figure in the place of what came of it before.
    pub fn note(&mut self, figure: Figure, machine: Machine, outcome: Outcome) {
        self.figures.insert(figure.name().to_owned(), Taken { at: Timestamp::now(), machine, outcome });
    }

    /// Writes the JSON.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write(&self, file: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)?;
        std::fs::write(file, format!("{text}\n")).with_context(|| format!("cannot write {}", file.display()))
    }
}

impl fmt::Display for Report {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        for figure in Figure::ALL {
            let Some(taken) = self.figures.get(figure.name()) else { continue };
            writeln!(
                out,
                "{} ({}; {})",
                figure.name(),
                taken.at.round(jiff::Unit::Second).unwrap_or(taken.at),
                taken.machine
            )?;
            match &taken.outcome {
                Outcome::Skipped(why) => writeln!(out, "  skipped: {why}")?,
                Outcome::Measured(rows) => {
                    for row in rows {
                        let goal = match row.goal {
                            Some(goal) if row.keeps_its_goal() => format!("  (goal {goal}: kept)"),
                            Some(goal) => format!("  (goal {goal}: MISSED)"),
                            None => String::new(),
                        };
                        writeln!(out, "  {:<78} {:>10.1} {}{goal}", row.what, row.value, row.unit)?;
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Row;
    use super::*;

    #[test]
    fn a_figure_that_is_taken_again_takes_the_place_of_the_old_one_and_the_others_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("figures.json");
        let mut report = Report::read(&file);
        report.note(Figure::Memory, Report::machine(), Outcome::Measured(vec![Row::new("idle", 40.0, "MiB")]));
        report.note(Figure::Stored, Report::machine(), Outcome::Skipped("no bench".to_owned()));
        report.write(&file).expect("written");
        let mut again = Report::read(&file);
        assert_eq!(again, report);
        let row = Row::new("idle", 200.0, "MiB").at_most(150.0);
        again.note(Figure::Memory, Report::machine(), Outcome::Measured(vec![row]));
        let told = again.to_string();
        assert!(told.contains("200.0 MiB  (goal 150: MISSED)") && told.contains("skipped: no bench"), "{told}");
        assert!(!told.contains("40.0"), "{told}");
    }
}
