//! From which confidence on an action of each class may follow an answer: the figures behind `amend_policies::action::class`.

use amend_policies::action::class::ActionClass;
use amend_policies::risk::{Counted, RISK, lowest};

use super::{Outcome, text};

/// Words by which labels name a fault coarsely; `network-loss` and `pod_network_delay` are both of the network.
const COARSE: [&str; 4] = ["cpu", "memory", "network", "disk"];

/// One line per class: the threshold, and what was counted from there on.
pub(super) fn table(outcomes: &[Outcome]) -> String {
    let mut out = format!(
        "\n{:24} {:>9} {:>6} {:>6} {:>7}  lowest confidence with at most {:.0} % wrong (95 % sure)\n",
        "class of action",
        "from",
        "right",
        "wrong",
        "bound",
        RISK * 100.0
    );
    for class in ActionClass::ALL {
        let answers: Vec<(f64, bool)> = outcomes
            .iter()
            .filter(|one| one.answered() && one.cause.as_deref().and_then(ActionClass::mending) == Some(class))
            .map(|one| (one.confidence(), is_right(class, one)))
            .collect();
        let (from, counted) = match lowest(&answers) {
            Ok(counted) => (format!("{:.4}", counted.confidence), counted),
            Err(counted) => ("none".to_owned(), counted),
        };
        out.push_str(&line(class, &from, &counted));
    }
    out
}

fn line(class: ActionClass, from: &str, counted: &Counted) -> String {
    format!("{:24} {from:>9} {:6} {:6} {:7.4}\n", class.to_string(), counted.right, counted.wrong, counted.bound())
}

/// Whether an action of a class that follows this answer would have been the right one.
///
/// A restart needs the right object only. More resources need the right resource as well. To go back is right when the change is the
/// guilty one, whatever it broke; where the labels name no change, and for a new configuration, the fault must be named exactly.
fn is_right(class: ActionClass, one: &Outcome) -> bool {
    let names_a_change = one.label["change"].is_string();
    let right_object = one.right();
    match class {
        ActionClass::Restart => right_object,
        ActionClass::Scale => right_object && names_the_fault(one),
        ActionClass::Revert => right_object && (names_a_change || names_the_fault(one)),
        ActionClass::Configuration => one.exact(),
    }
}

/// Whether the kind that was answered is that of the label, or the coarse sort of fault that the label is one of.
fn names_the_fault(one: &Outcome) -> bool {
    let said = text(&one.answer["ranked"][0], "kind");
    let coarse = COARSE.iter().find(|word| said.contains(**word));
    one.exact() || coarse.is_some_and(|word| text(&one.label, "kind").to_lowercase().contains(word))
}
