//! How grave an action is, and how sure an answer must be before an action of its class may follow without people.
//!
//! The sureness is measured, not chosen: `amend bench rca` prints, for labelled incidents, how often answers that ask for an
//! action of a class were wrong. The constants here are its output on the public development cases (1,110 of 14 data sets).

use std::fmt::{self, Display, Formatter};

use amend_diagnosis::diagnosis::cause;

use super::ActionKind;

/// What an action touches, the least grave first: what a wrong one costs, and how hard it is to notice, grows downwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ActionClass {
    /// The process begins anew; nothing is changed.
    Restart,
    /// More or less of the same: limits, replicas.
    Scale,
    /// Back to what ran before: an image, a commit.
    Revert,
    /// Something that never ran before.
    Configuration,
}

impl ActionClass {
    pub const ALL: [Self; 4] = [Self::Restart, Self::Scale, Self::Revert, Self::Configuration];

    /// The class of a remedy.
    pub fn of(kind: ActionKind) -> Self {
        match kind {
            ActionKind::SetResources => Self::Scale,
            ActionKind::SetImage | ActionKind::RevertCommit => Self::Revert,
        }
    }

    /// From which confidence on an action of this class may follow without people: as measured, and never less than a milder one needs.
    pub fn bar(self) -> Bar {
        let milder = Self::ALL.into_iter().filter(|class| *class < self).map(Self::measured);
        milder.fold(self.measured(), |bar, milder| match (bar, milder) {
            (Bar::From { confidence: own, right, wrong }, Bar::From { confidence: theirs, .. }) => {
                Bar::From { confidence: own.max(theirs), right, wrong }
            }
            (Bar::Unproven { .. }, _) | (Bar::From { .. }, Bar::Unproven { .. }) => bar,
        })
    }

    /// What `amend bench rca` counted on the public development cases. Counted by class and not by kind of cause: some kinds, the kill
    /// for memory among them, have no public case of their own; what is measured of their class stands for them.
    fn measured(self) -> Bar {
        match self {
            Self::Restart => Bar::From { confidence: 0.93, right: 65, wrong: 0 },
            Self::Scale => Bar::From { confidence: 0.9875, right: 81, wrong: 0 },
            Self::Revert => Bar::From { confidence: 0.90, right: 150, wrong: 0 },
            Self::Configuration => Bar::Unproven { right: 44, wrong: 0 },
        }
    }

    /// The least grave class that mends a cause on the object that is blamed; none where what must be mended is elsewhere (a
    /// dependency, a network, a node), nobody is to blame, or the cause is a pattern of the user's own.
    pub fn mending(cause: &str) -> Option<Self> {
        match cause {
            cause::CRASHING
            | cause::UNAVAILABLE
            | cause::ERRORS
            | cause::LATENCY
            | cause::BEHAVIOUR
            | cause::MEMORY_LEAK => Some(Self::Restart),
            cause::OOM_KILLED | cause::MEMORY | cause::CPU | cause::OVERLOAD | cause::SCALED_TO_ZERO => {
                Some(Self::Scale)
            }
            cause::BAD_IMAGE
            | cause::BAD_CONFIG
            | cause::IMAGE_PULL
            | cause::CONFIG_MISSING
            | cause::CONFIG_WRONG
            | cause::UNSCHEDULABLE => Some(Self::Revert),
            cause::ROUTING | cause::PROBE | cause::QUOTA | cause::VOLUME => Some(Self::Configuration),
            _ => None,
        }
    }
}

impl Display for ActionClass {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Restart => "restart",
            Self::Scale => "scale",
            Self::Revert => "revert",
            Self::Configuration => "configuration",
        })
    }
}

/// From which confidence on an action of a class may follow by itself.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Bar {
    /// At most [`RISK`](crate::risk::RISK) of the answers of this confidence or more are wrong, as a bound.
    From { confidence: f64, right: usize, wrong: usize },
    /// No confidence is known from which on that holds: too few labelled answers, or too many wrong ones.
    Unproven { right: usize, wrong: usize },
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::risk::{RISK, wrong_at_most};

    #[test]
    fn every_bar_keeps_the_risk_and_none_is_lower_than_that_of_a_milder_class() {
        let mut highest = 0.0;
        for class in ActionClass::ALL {
            match class.measured() {
                Bar::From { right, wrong, .. } => assert!(wrong_at_most(wrong, right + wrong) <= RISK, "{class}"),
                Bar::Unproven { right, wrong } => assert!(wrong_at_most(wrong, right + wrong) > RISK, "{class}"),
            }
            if let Bar::From { confidence, .. } = class.bar() {
                assert!(confidence >= highest, "{class}: {confidence}");
                highest = confidence;
            }
        }
    }

    #[test]
    fn a_pattern_of_the_users_own_and_what_lies_elsewhere_have_no_class() {
        for kind in ["shop.cart-lost", cause::DEPENDENCY, cause::NODE_PRESSURE, cause::NO_CHANGE] {
            assert_eq!(ActionClass::mending(kind), None, "{kind}");
        }
        assert_eq!(ActionClass::mending(cause::OOM_KILLED), Some(ActionClass::Scale));
    }
}
