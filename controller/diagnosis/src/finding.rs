//! One piece of evidence: what was seen on which entity, and how strongly it speaks for or against a cause.

use std::collections::BTreeMap;

use jiff::Timestamp;

use crate::entity::Entity;
use crate::evidence::Asked;

/// Which sort of observation a finding comes from; agreement of several counts more than several of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Modality {
    State,
    Metrics,
    Traces,
    Logs,
    Changes,
    Alerts,
}

/// What an extractor hands to the inference.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding {
    pub entity: Entity,
    /// One of [`crate::diagnosis::cause`].
    pub kind: &'static str,
    /// Finer name of the fault inside its kind, when the evidence tells.
    pub fault: Option<&'static str>,
    pub modality: Modality,
    /// Log-likelihood ratio in nats: positive speaks for this cause on this entity, negative against it.
    pub weight: f64,
    /// A full sentence with the numbers.
    pub sentence: String,
    /// What the graph shows of it: a short clause. Empty: not shown as an effect.
    pub label: String,
    /// Id of the question behind it; empty when none was recorded.
    pub asked: String,
    pub since: Option<Timestamp>,
    /// Id of the change that it speaks about.
    pub change: Option<String>,
    pub measures: BTreeMap<String, String>,
    /// What it led to, one after the other; empty for a finding that stands alone.
    pub chain: Vec<Link>,
}

/// One link of a chain: an effect that is itself the cause of the next.
#[derive(Clone, Debug, PartialEq)]
pub struct Link {
    pub entity: Entity,
    /// What the graph shows of it.
    pub label: String,
    pub sentence: String,
    pub asked: String,
}

impl Finding {
    pub fn new(
        entity: Entity,
        kind: &'static str,
        modality: Modality,
        weight: f64,
        sentence: impl Into<String>,
    ) -> Self {
        Self {
            entity,
            kind,
            fault: None,
            modality,
            weight,
            sentence: sentence.into(),
            label: String::new(),
            asked: String::new(),
            since: None,
            change: None,
            measures: BTreeMap::new(),
            chain: Vec::new(),
        }
    }

    pub fn labelled(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    pub fn asked(mut self, id: impl Into<String>) -> Self {
        self.asked = id.into();
        self
    }

    pub fn fault(mut self, fault: &'static str) -> Self {
        self.fault = Some(fault);
        self
    }

    pub fn measure(mut self, name: &str, value: impl Into<String>) -> Self {
        self.measures.insert(name.to_owned(), value.into());
        self
    }

    pub fn of_change(mut self, id: &str) -> Self {
        self.change = Some(id.to_owned());
        self
    }
}

/// Finds the question behind a fact that carries no id of its own.
#[derive(Clone, Copy, Debug)]
pub struct Questions<'a>(pub &'a [Asked]);

impl Questions<'_> {
    /// The first question whose id or query mentions any of the words, in the words' order; empty when there is none.
    pub fn about(&self, words: &[&str]) -> String {
        let mentions = |asked: &&Asked, word: &str| asked.id.contains(word) || asked.query.contains(word);
        words
            .iter()
            .find_map(|word| self.0.iter().filter(|asked| mentions(asked, word)).min_by_key(|asked| &asked.id))
            .map_or(String::new(), |asked| asked.id.clone())
    }

    /// The first question that was put to a source.
    pub fn to(&self, source: &str) -> String {
        let asked = self.0.iter().filter(|asked| asked.source == source).min_by_key(|asked| &asked.id);
        asked.map_or(String::new(), |asked| asked.id.clone())
    }
}
