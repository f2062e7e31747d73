//! What a real store answered while the contract was held against it: enough to hold the contract again without the store.

use std::collections::BTreeMap;

use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Window;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use url::Url;

use super::Subject;
use crate::egress::Egress;
use crate::questions::{Measure, Target};
use crate::source::{SourceConfig, SourceKind};

/// A store, what was asked about, and every exchange.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// Product and version, for people.
    pub store: String,
    pub kind: SourceKind,
    pub namespace: String,
    /// A Deployment with data in the window.
    pub workload: String,
    /// See [`Subject::trace`].
    pub trace: Option<String>,
    pub window: Window,
    /// Seconds between two samples.
    pub sample_every: i64,
    /// Names that the store uses, as in `TelemetrySource.spec.mapping`.
    #[serde(default)]
    pub mapping: BTreeMap<String, String>,
    #[serde(default)]
    pub exchanges: Vec<Exchange>,
}

/// One question and its answer.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Exchange {
    /// Method, path and query.
    pub asked: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
    pub status: u16,
    pub reply: String,
}

impl Recorded {
    /// The same questions, for a server at this address of this machine.
    ///
    /// # Errors
    /// When the URL or the mapping is none.
    pub fn subject(&self, url: &str) -> Result<Subject, String> {
        let url: Url = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let loopback = "127.0.0.0/8".parse().map_err(|error| format!("{error}"))?;
        let sample_every = SignedDuration::from_secs(self.sample_every);
        let config = SourceConfig { sample_every, ..SourceConfig::new(&self.store, self.kind, url) };
        Ok(Subject {
            config: config.mapped(&self.mapping).map_err(|error| error.to_string())?,
            egress: Egress::new([loopback]),
            target: Target::new(Entity::new(EntityKind::Deployment, &self.namespace, &self.workload)),
            measure: Measure::Memory,
            window: self.window,
            trace: self.trace.clone(),
            alert: None,
        })
    }

    /// What the store answered to this; `None` where it was never asked.
    pub fn reply_to(&self, asked: &str, body: &str) -> Option<&Exchange> {
        self.exchanges.iter().find(|exchange| exchange.asked == asked && exchange.body == body)
    }

    /// Adds an exchange; what was answered first stays.
    pub fn note(&mut self, exchange: Exchange) {
        if self.reply_to(&exchange.asked, &exchange.body).is_none() {
            self.exchanges.push(exchange);
            self.exchanges.sort();
        }
    }
}
