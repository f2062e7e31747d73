//! How often objects that only wait for people are looked at, when there are many of them.
//!
//! A look costs a few dozen questions to the API server, the stores and the forge. With a thousand open pull requests, looks every
//! half minute would leave no time for the next incident, and be a burden to everybody who is asked. Worse: kube's queue takes what is
//! overdue in no order, so that under more looks than there is time for some objects would never have their turn
//! (<https://docs.rs/kube-runtime/latest/src/kube_runtime/scheduler.rs.html>, `pending`).

use std::collections::BTreeSet;
use std::time::Duration;

/// Share of a controller's time that looks at waiting objects may take; the rest is for news.
const SHARE: f64 = 0.5;

/// Weight of the newest look in the mean: about the last twenty count.
const NEWEST: f64 = 0.05;

/// However many there are, each is looked at this often: the resync of any controller.
const LONGEST: Duration = Duration::from_secs(300);

/// The waiting objects of one controller, and what a look at one takes.
#[derive(Debug, Default)]
pub struct Pace {
    waiting: BTreeSet<String>,
    /// Mean seconds of a look.
    mean: f64,
}

impl Pace {
    /// When an object is looked at next: after `wanted`, or later when it only waits and there are too many of its kind.
    ///
    /// `at_once` is how many are looked at beside each other.
    pub fn next(&mut self, id: &str, waits: bool, took: Duration, wanted: Duration, at_once: u16) -> Duration {
        if !waits {
            self.waiting.remove(id);
            return wanted;
        }
        if !self.waiting.contains(id) {
            self.waiting.insert(id.to_owned());
        }
        self.mean += NEWEST * (took.as_secs_f64() - self.mean);
        let round = self.mean * self.waiting.len() as f64 / (f64::from(at_once) * SHARE);
        wanted.max(Duration::from_secs_f64(round).min(LONGEST))
    }

    /// The object is gone.
    pub fn forget(&mut self, id: &str) {
        self.waiting.remove(id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WANTED: Duration = Duration::from_secs(30);
    const TOOK: Duration = Duration::from_millis(500);

    fn round(pace: &mut Pace, objects: usize, waits: bool) -> Duration {
        (0..objects).fold(Duration::ZERO, |_, one| pace.next(&one.to_string(), waits, TOOK, WANTED, 4))
    }

    #[test]
    fn a_few_waiting_objects_are_looked_at_as_often_as_wanted() {
        assert_eq!(round(&mut Pace::default(), 20, true), WANTED);
    }

    #[test]
    fn many_waiting_objects_take_half_of_the_time_and_no_more() {
        let mut pace = Pace::default();
        let waits = round(&mut pace, 400, true).as_secs_f64();
        let busy = 400.0 * TOOK.as_secs_f64() / 4.0 / waits;
        assert!((0.49..0.51).contains(&busy), "{busy} of the time, {waits} s");
        assert_eq!(round(&mut pace, 5_000, true), LONGEST);
    }

    #[test]
    fn what_does_not_only_wait_is_never_put_off() {
        let mut pace = Pace::default();
        round(&mut pace, 5_000, true);
        assert_eq!(pace.next("0", false, TOOK, WANTED, 4), WANTED);
        round(&mut pace, 5_000, false);
        assert_eq!(round(&mut pace, 20, true), WANTED, "those that went on are not counted any more");
        pace.forget("0");
        assert_eq!(pace.waiting.len(), 19);
    }
}
