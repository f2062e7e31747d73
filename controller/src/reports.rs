//! What effects came to, remembered until the next decision about the same remediation has seen it.
//!
//! Losing this in a crash loses nothing: the world is observed instead. It saves waiting for a forge whose lists lag.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use amend_execution::snapshot::Report;

/// Reports by the UID of the remediation.
#[derive(Clone, Debug, Default)]
pub struct Reports {
    kept: Arc<Mutex<BTreeMap<String, Vec<Report>>>>,
}

/// More reports than one decision can bring forth; older ones are dropped.
const KEPT: usize = 16;

impl Reports {
    pub fn add(&self, remediation: &str, report: Report) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let list = kept.entry(remediation.to_owned()).or_default();
        list.push(report);
        let surplus = list.len().saturating_sub(KEPT);
        list.drain(..surplus);
    }

    /// The reports about one remediation, which are forgotten by this.
    pub fn take(&self, remediation: &str) -> Vec<Report> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).remove(remediation).unwrap_or_default()
    }
}
