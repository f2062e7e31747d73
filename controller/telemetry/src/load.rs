//! What asking costs the stores, and how much it may cost: for work that nobody waits for and that must not be felt.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::{Semaphore, SemaphorePermit};

/// Counts what a set of sources is asked, and lets one question through at a time until the budget is spent.
#[derive(Debug)]
pub struct Load {
    budget: u64,
    queries: AtomicU64,
    bytes: AtomicU64,
    busy_us: AtomicU64,
    turn: Semaphore,
}

/// What asking has cost so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Cost {
    pub queries: u64,
    /// Bytes of all answers, counted after decompression.
    pub bytes: u64,
    /// Seconds in which some store was at work for us.
    pub seconds: f64,
}

impl Load {
    /// One question after another, at most `budget` of them.
    pub fn within(budget: u64) -> Self {
        let zero = AtomicU64::default;
        Self { budget, queries: zero(), bytes: zero(), busy_us: zero(), turn: Semaphore::new(1) }
    }

    /// Questions that may still be asked.
    pub fn left(&self) -> u64 {
        self.budget.saturating_sub(self.queries.load(Ordering::Relaxed))
    }

    pub fn budget(&self) -> u64 {
        self.budget
    }

    pub fn cost(&self) -> Cost {
        Cost {
            queries: self.queries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            seconds: Duration::from_micros(self.busy_us.load(Ordering::Relaxed)).as_secs_f64(),
        }
    }

    /// Waits for the turn of a question and counts it; `None` when the budget is spent.
    pub(crate) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        // Closed never happens: the semaphore lives as long as we do.
        let turn = self.turn.acquire().await.ok()?;
        if self.left() == 0 {
            return None;
        }
        self.queries.fetch_add(1, Ordering::Relaxed);
        Some(turn)
    }

    pub(crate) fn took(&self, time: Duration) {
        self.busy_us.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    pub(crate) fn read(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_question_goes_at_a_time_and_none_beyond_the_budget() {
        let load = Load::within(2);
        let first = load.turn().await.expect("the first question goes");
        let waiting = tokio::time::timeout(Duration::from_millis(5), load.turn());
        assert!(waiting.await.is_err(), "the second one waits for the first");
        drop(first);
        assert!(load.turn().await.is_some());
        assert!(load.turn().await.is_none(), "the budget is spent");
        assert_eq!((load.cost().queries, load.left()), (2, 0));
    }
}
