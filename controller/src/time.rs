//! Time as a port: when it is, and how to wait.
//!
//! Service levels, settling times and requeues read this clock, so that the sandbox can run it scaled and tests can
//! step it. Deadlines of input and output do *not*: a socket that hangs does so in real seconds, whatever the
//! story's clock says; those use `tokio::time` directly.

use std::fmt::Debug;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};

/// The clock that decisions are made by.
pub trait Time: Send + Sync + Debug {
    /// The present moment. Never goes back within one process, as far as the implementation can promise it.
    fn now(&self) -> Timestamp;

    /// Resolves when this clock has moved on by `span`; at once when `span` is zero or negative.
    fn sleep(&self, span: SignedDuration) -> BoxFuture<'static, ()>;

    /// How long `span` of this clock takes on the machine's clock, for requeues that a library times.
    fn in_real_time(&self, span: SignedDuration) -> Duration {
        Duration::try_from(span).unwrap_or(Duration::ZERO)
    }
}

/// The wall clock of the machine.
#[derive(Clone, Copy, Debug, Default)]
pub struct WallClock;

impl Time for WallClock {
    #[allow(clippy::disallowed_methods)] // The one place where the wall clock is read for decisions.
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }

    fn sleep(&self, span: SignedDuration) -> BoxFuture<'static, ()> {
        tokio::time::sleep(Duration::try_from(span).unwrap_or(Duration::ZERO)).boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_negative_sleep_is_over_at_once() {
        WallClock.sleep(SignedDuration::from_secs(-3600)).await;
    }

    #[tokio::test]
    async fn a_sleep_moves_the_clock_by_at_least_its_span() {
        let before = WallClock.now();
        WallClock.sleep(SignedDuration::from_millis(20)).await;
        assert!(WallClock.now().duration_since(before) >= SignedDuration::from_millis(20));
    }
}
