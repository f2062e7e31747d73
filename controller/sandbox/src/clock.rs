//! The time of the world: virtual, scaled while a person watches, stepped while a test asserts.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;

/// A clock that everything in one sandbox shares; cloning it is cheap and gives the same clock.
///
/// *Scaled*: virtual now = anchor + real time since then x speed. *Stepped*: time stands still until
/// [`SandboxClock::advance`] moves it. A clock may change from one to the other while it runs
/// (the world back-fills its history stepped and then starts to flow).
#[derive(Clone, Debug)]
pub struct SandboxClock {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reading: Mutex<Reading>,
    changed: watch::Sender<u64>,
}

#[derive(Clone, Copy, Debug)]
enum Reading {
    Scaled { anchor: Timestamp, since: Instant, speed: f64 },
    Stepped { now: Timestamp },
}

impl Reading {
    fn now(self) -> Timestamp {
        match self {
            Self::Stepped { now } => now,
            Self::Scaled { anchor, since, speed } => later(anchor, since.elapsed().as_secs_f64() * speed),
        }
    }
}

fn later(from: Timestamp, seconds: f64) -> Timestamp {
    SignedDuration::try_from_secs_f64(seconds).ok().and_then(|by| from.checked_add(by).ok()).unwrap_or(from)
}

impl SandboxClock {
    /// A clock that flows `speed` times as fast as the wall, from `start`.
    ///
    /// A speed that is not a positive finite number is taken as 1.
    pub fn scaled(start: Timestamp, speed: f64) -> Self {
        Self::reading(Reading::Scaled { anchor: start, since: Instant::now(), speed: sane(speed) })
    }

    /// A clock that stands at `start` until it is advanced.
    pub fn stepped(start: Timestamp) -> Self {
        Self::reading(Reading::Stepped { now: start })
    }

    fn reading(reading: Reading) -> Self {
        Self { shared: Arc::new(Shared { reading: Mutex::new(reading), changed: watch::Sender::new(0) }) }
    }

    fn read(&self) -> Reading {
        *self.shared.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, to: impl FnOnce(Reading) -> Reading) {
        {
            let mut reading = self.shared.reading.lock().unwrap_or_else(PoisonError::into_inner);
            *reading = to(*reading);
        }
        self.shared.changed.send_modify(|count| *count += 1);
    }

    /// The virtual time.
    pub fn now(&self) -> Timestamp {
        self.read().now()
    }

    /// How fast virtual time flows; `None` while stepped.
    pub fn speed(&self) -> Option<f64> {
        match self.read() {
            Reading::Scaled { speed, .. } => Some(speed),
            Reading::Stepped { .. } => None,
        }
    }

    /// Lets time flow from now on at this speed, whatever it did before.
    pub fn flow(&self, speed: f64) {
        self.change(|reading| Reading::Scaled { anchor: reading.now(), since: Instant::now(), speed: sane(speed) });
    }

    /// Stops time where it is; only [`SandboxClock::advance`] moves it then.
    pub fn stop(&self) {
        self.change(|reading| Reading::Stepped { now: reading.now() });
    }

    /// Stands at this time, also an earlier one: for the making of a world, before anybody has looked at the clock.
    pub(crate) fn stand_at(&self, now: Timestamp) {
        self.change(|_| Reading::Stepped { now });
    }

    /// Moves time forward at once; sleepers whose time has come wake.
    pub fn advance(&self, by: SignedDuration) {
        self.change(|reading| match reading {
            Reading::Stepped { now } => Reading::Stepped { now: now.checked_add(by).unwrap_or(now) },
            Reading::Scaled { speed, .. } => Reading::Scaled {
                anchor: reading.now().checked_add(by).unwrap_or(reading.now()),
                since: Instant::now(),
                speed,
            },
        });
    }

    /// Returns when `duration` of virtual time has passed.
    pub async fn sleep(&self, duration: SignedDuration) {
        let deadline = self.now().checked_add(duration).unwrap_or(Timestamp::MAX);
        self.sleep_until(deadline).await;
    }

    /// Returns when the virtual time is at or after `deadline`.
    pub async fn sleep_until(&self, deadline: Timestamp) {
        let mut changed = self.shared.changed.subscribe();
        loop {
            let reading = self.read();
            let left = reading.now().duration_until(deadline);
            if left <= SignedDuration::ZERO {
                return;
            }
            match reading {
                Reading::Stepped { .. } => {
                    if changed.changed().await.is_err() {
                        return;
                    }
                }
                Reading::Scaled { speed, .. } => {
                    let real = Duration::from_secs_f64((left.as_secs_f64() / speed).clamp(0.0005, 3600.0));
                    tokio::select! {
                        () = tokio::time::sleep(real) => {}
                        _ = changed.changed() => {}
                    }
                }
            }
        }
    }
}

fn sane(speed: f64) -> f64 {
    if speed.is_finite() && speed > 0.0 { speed } else { 1.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start() -> Timestamp {
        "2026-03-02T09:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_stepped_clock_moves_only_when_told() {
        let clock = SandboxClock::stepped(start());
        assert_eq!(clock.now(), start());
        clock.advance(SignedDuration::from_secs(90));
        assert_eq!(clock.now().duration_since(start()).as_secs(), 90);
    }

    #[tokio::test]
    async fn a_sleeper_wakes_when_the_clock_is_advanced_past_its_deadline() {
        let clock = SandboxClock::stepped(start());
        let sleeper = tokio::spawn({
            let clock = clock.clone();
            async move { clock.sleep(SignedDuration::from_mins(10)).await }
        });
        tokio::task::yield_now().await;
        assert!(!sleeper.is_finished());
        clock.advance(SignedDuration::from_mins(11));
        tokio::time::timeout(Duration::from_secs(5), sleeper).await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_scaled_clock_flows_faster_than_the_wall() {
        let clock = SandboxClock::scaled(start(), 1000.0);
        clock.sleep(SignedDuration::from_secs(20)).await;
        assert!(clock.now().duration_since(start()).as_secs() >= 20);
        clock.stop();
        let stopped = clock.now();
        assert_eq!(clock.now(), stopped);
    }
}
