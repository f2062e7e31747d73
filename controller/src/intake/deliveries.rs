//! Which deliveries were taken in already: a signature covers no time, so a recorded request stays valid for ever.

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Mutex, PoisonError};

/// How many delivery ids are remembered.
///
/// A busy forge sends a few thousand a day. Older replays and replays at another replica are harmless: the store
/// keeps one build per run and attempt.
pub const REMEMBERED: usize = 10_000;

/// The deliveries seen last, in a bounded memory.
#[derive(Debug, Default)]
pub struct Deliveries {
    seen: Mutex<(BTreeSet<String>, VecDeque<String>)>,
}

impl Deliveries {
    /// Whether `id` was remembered before.
    pub fn knows(&self, id: &str) -> bool {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).0.contains(id)
    }

    /// Remembers `id`. Call it once the delivery is stored: a failed one must be let in again.
    pub fn remember(&self, id: &str) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (known, order) = &mut *seen;
        if !known.insert(id.to_owned()) {
            return;
        }
        order.push_back(id.to_owned());
        if order.len() > REMEMBERED
            && let Some(oldest) = order.pop_front()
        {
            known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delivery_is_known_once_it_is_remembered() {
        let deliveries = Deliveries::default();
        assert!(!deliveries.knows("a"));
        deliveries.remember("a");
        assert!(deliveries.knows("a"));
    }

    #[test]
    fn memory_is_bounded_and_forgets_the_oldest() {
        let deliveries = Deliveries::default();
        for id in 0..=REMEMBERED {
            deliveries.remember(&id.to_string());
        }
        assert!(!deliveries.knows("0"));
        assert!(deliveries.knows("1"));
    }
}
