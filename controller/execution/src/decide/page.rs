//! Telling people, once per occasion.

use std::collections::BTreeSet;

use super::{DecideError, Run};
use crate::effect::Effect;
use crate::journal::{ENTRIES_MAX, Event};
use crate::snapshot::Report;

impl Run<'_> {
    /// Pages about this occasion, or writes down that the page went out; nothing when people were told already.
    ///
    /// Asked for again until it is reported as delivered: at least once, and its key lets receivers drop repeats.
    pub(super) fn page(&mut self, about: &str, text: &str) -> Result<(), DecideError> {
        let escalate = &self.snapshot.terms.escalate;
        let to: BTreeSet<String> = escalate.iter().flat_map(|rung| rung.notify.iter().cloned()).collect();
        self.page_these(about, text, to.into_iter().collect())
    }

    /// Pages the rungs of the policy's `escalate` whose time has come while this is not ended.
    pub(super) fn escalate(&mut self) -> Result<(), DecideError> {
        let Some(planned_at) = self.standing.planned_at else { return Ok(()) };
        let waited = self.snapshot.now.duration_since(planned_at);
        for (rung, escalate) in self.snapshot.terms.escalate.iter().enumerate() {
            if waited >= escalate.after {
                let phase = self.standing.phase;
                let text = format!("not mended after {} s; the remediation is {phase:?}", waited.as_secs());
                self.page_these(&format!("escalation-{rung}"), &text, escalate.notify.clone())?;
            }
        }
        Ok(())
    }

    fn page_these(&mut self, about: &str, text: &str, to: Vec<String>) -> Result<(), DecideError> {
        if self.standing.paged.contains(about) || self.journal.len() >= ENTRIES_MAX {
            return Ok(());
        }
        let key = format!("{}/page/{about}", self.snapshot.terms.plan_digest);
        let delivered = self.snapshot.reports.iter().find_map(|report| match report {
            Report::Paged { key: found, to } if *found == key => Some(to.clone()),
            Report::Paged { .. } | Report::Effect { .. } => None,
        });
        match delivered {
            Some(to) => {
                let because = std::mem::take(&mut self.because);
                self.say("the page went out", Event::Paged { about: about.into(), to: to.into() })?;
                self.because = because;
            }
            None => {
                let asked = |effect: &Effect| matches!(effect, Effect::Page { key: known, .. } if *known == key);
                if !self.effects.iter().any(asked) {
                    self.effects.push(Effect::Page { key, to, text: text.to_owned() });
                }
            }
        }
        Ok(())
    }
}
