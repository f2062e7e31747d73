//! Whether the way back exists and was tried before the way there is taken.

use amend_diagnosis::evidence::Answer;

use crate::plan::Plan;
use crate::policy::{cleaned, quoted};
use crate::verdict::{GateName, Verdict};

/// What the gate looks at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RollbackFacts {
    /// The rendered change, sent to the API server as a dry run.
    pub deed: Answer<DryRun>,
    /// The inverse: the undo applied to the changed files gives the tree at the plan's base byte for byte, and its
    /// rendered form passes a dry run.
    pub inverse: Answer<DryRun>,
}

/// What came of a dry run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DryRun {
    Accepted,
    /// What the server or the tree comparison said; untrusted text.
    Refused {
        because: String,
    },
}

const GATE: GateName = GateName::Rollback;

/// Judges the three questions: inverse (built), deed and undo (dry runs).
pub fn evaluate(plan: &Plan, facts: &RollbackFacts) -> Vec<Verdict> {
    vec![built(plan), tried("deed", "the change", &facts.deed), tried("undo", "the way back", &facts.inverse)]
}

fn built(plan: &Plan) -> Verdict {
    if plan.steps.is_empty() {
        return Verdict::fail(GATE, "inverse", "the plan has no steps");
    }
    for step in &plan.steps {
        let wanted: Vec<_> = step.files.iter().map(crate::plan::FileChange::inverse).collect();
        if step.undo.files != wanted || wanted.is_empty() {
            return Verdict::fail(GATE, "inverse", format!("step {} has no exact inverse", quoted(&step.name)));
        }
        if let Some(idle) = step.files.iter().find(|file| file.before == file.after) {
            let sentence = format!("step {} does not change {}", quoted(&step.name), quoted(&idle.path));
            return Verdict::fail(GATE, "inverse", sentence);
        }
    }
    let files: usize = plan.steps.iter().map(|step| step.files.len()).sum();
    let what = if files == 1 { "the one file".to_owned() } else { format!("all {files} files") };
    Verdict::pass(GATE, "inverse", format!("the way back is written down for {what}"))
}

fn tried(question: &str, what: &str, run: &Answer<DryRun>) -> Verdict {
    match run {
        Answer::Known(DryRun::Accepted) => Verdict::pass(GATE, question, format!("{what} passed a dry run")),
        Answer::Known(DryRun::Refused { because }) => {
            let because = cleaned(because, 200);
            Verdict::fail(GATE, question, format!("{what} was refused in a dry run: {because}"))
        }
        Answer::Unknown { why } => Verdict::unknown(GATE, question, format!("{what} was not tried: {why}")),
    }
}
