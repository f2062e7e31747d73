//! Whether the diagnosis is sure enough for the class of what is planned.
//!
//! An answer that is good enough to be read may be too unsure to be acted on; how sure it must be is measured, class by class (see
//! [`class`](crate::action::class)). Below that an `Act` is held; a `Propose` leaves it to people anyway and tells them. Where nobody
//! has measured it, and where the answer says no probability at all, an `Act` is held as well, and a `Propose` opens a draft that says so.

use amend_diagnosis::diagnosis::Cause;

use crate::action::class::{ActionClass, Bar};
use crate::plan::Plan;
use crate::policy::{Autonomy, quoted};
use crate::verdict::{GateName, Verdict};

const GATE: GateName = GateName::Confidence;
const QUESTION: &str = "answer";

/// Judges the cause for the gravest of the plan's steps.
pub fn evaluate(plan: &Plan, cause: &Cause) -> Verdict {
    let held = |sentence: String| Verdict::unknown(GATE, QUESTION, sentence).as_gap();
    let Some(mends) = ActionClass::mending(&cause.kind) else {
        return held(format!(
            "nobody has measured how often an action on what is blamed for {} is wrong; people decide",
            quoted(&cause.kind)
        ));
    };
    let Some(class) = plan.steps.iter().map(|step| ActionClass::of(step.action)).max() else {
        return held("the plan has no step".to_owned());
    };
    // A change of another class than the cause asks for is as doubtful as the graver of the two.
    let class = class.max(mends);
    if !is_probability(cause.confidence) {
        return held(format!("the answer says no probability ({}); people decide", cause.confidence));
    }
    let told = percent(cause.confidence);
    match class.bar() {
        Bar::Unproven { right, wrong } => held(format!(
            "{} labelled answers ({wrong} wrong) are too few to let a {class} follow by itself; people decide",
            right + wrong
        )),
        Bar::From { confidence, .. } if cause.confidence < confidence => {
            let sentence = format!(
                "the answer is {told} sure; a {class} follows by itself from {} on, where at most one answer in twenty is wrong; people decide",
                percent(confidence)
            );
            match plan.autonomy {
                Autonomy::Act => Verdict::unknown(GATE, QUESTION, sentence),
                Autonomy::Observe | Autonomy::Propose => Verdict::pass(GATE, QUESTION, sentence),
            }
        }
        Bar::From { confidence, right, wrong } => Verdict::pass(
            GATE,
            QUESTION,
            format!(
                "the answer is {told} sure; {right} of {} labelled answers that asked for a {class} were right, and {} is enough",
                right + wrong,
                percent(confidence)
            ),
        ),
    }
}

/// Whether a confidence is one: what no diagnosis can say, infinity among it, is below every bar and never above one.
fn is_probability(confidence: f64) -> bool {
    confidence > 0.0 && confidence <= 1.0
}

/// With two decimals where they say something: the bars lie close to certainty.
fn percent(share: f64) -> String {
    let digits = format!("{:.2}", share * 100.0);
    format!("{} %", digits.trim_end_matches('0').trim_end_matches('.'))
}
