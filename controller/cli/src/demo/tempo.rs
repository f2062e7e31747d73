//! The story's clock for the controller, and how story time maps to the time of the person who watches.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use amend_controller::time::Time;
use amend_sandbox::SandboxClock;
use futures::FutureExt;
use futures::future::BoxFuture;
use jiff::{SignedDuration, Timestamp};

/// The sandbox's clock, with a memory of how fast it ran when.
#[derive(Debug)]
pub struct Tempo {
    clock: SandboxClock,
    began: Instant,
    marks: Mutex<Vec<Mark>>,
}

/// From here on the clock ran at this speed.
#[derive(Clone, Copy, Debug)]
struct Mark {
    story: Timestamp,
    real: Duration,
    speed: f64,
}

impl Tempo {
    /// Remembers `clock` from now on; it keeps its speed.
    pub fn new(clock: SandboxClock, began: Instant) -> Self {
        let mark = Mark { story: clock.now(), real: began.elapsed(), speed: clock.speed().unwrap_or(1.0) };
        Self { clock, began, marks: Mutex::new(vec![mark]) }
    }

    /// Lets story time flow at `speed` times real time.
    pub fn flow(&self, speed: f64) {
        if self.clock.speed() == Some(speed) {
            return;
        }
        self.clock.flow(speed);
        let mark = Mark { story: self.clock.now(), real: self.began.elapsed(), speed };
        self.marks.lock().unwrap_or_else(PoisonError::into_inner).push(mark);
    }

    /// When it was on the watcher's clock, since the demo began, that the story's clock said `at`.
    pub fn real(&self, at: Timestamp) -> Duration {
        let marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(mark) = marks.iter().rev().find(|mark| mark.story <= at).or(marks.first()) else {
            return Duration::ZERO;
        };
        let since = at.duration_since(mark.story).as_secs_f64().max(0.0) / mark.speed;
        mark.real + Duration::try_from_secs_f64(since).unwrap_or_default()
    }

    /// How long the demo has run on the watcher's clock.
    pub fn elapsed(&self) -> Duration {
        self.began.elapsed()
    }
}

impl Time for Tempo {
    fn now(&self) -> Timestamp {
        self.clock.now()
    }

    fn sleep(&self, span: SignedDuration) -> BoxFuture<'static, ()> {
        let clock = self.clock.clone();
        async move { clock.sleep(span).await }.boxed()
    }

    fn in_real_time(&self, span: SignedDuration) -> Duration {
        let speed = self.clock.speed().unwrap_or(1.0);
        Duration::try_from_secs_f64((span.as_secs_f64() / speed).max(0.0)).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_of_the_story_is_found_on_the_watchers_clock_across_changes_of_speed() {
        let start: Timestamp = "2026-03-02T09:00:00Z".parse().unwrap();
        let mark = |seconds: i64, real, speed| Mark {
            story: start + SignedDuration::from_secs(seconds),
            real: Duration::from_secs(real),
            speed,
        };
        let tempo = Tempo {
            clock: SandboxClock::stepped(start),
            began: Instant::now(),
            marks: Mutex::new(vec![mark(0, 2, 10.0), mark(100, 12, 50.0)]),
        };
        assert_eq!(tempo.real(start + SignedDuration::from_secs(50)), Duration::from_secs(7));
        assert_eq!(tempo.real(start + SignedDuration::from_secs(200)), Duration::from_secs(14));
        assert_eq!(tempo.real(start - SignedDuration::from_secs(9)), Duration::from_secs(2));
    }
}
