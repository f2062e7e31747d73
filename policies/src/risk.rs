//! How often answers may be wrong, bounded from a count of labelled ones.

/// The largest share of wrong answers that an action may rest on, as an upper bound and not as an estimate.
pub const RISK: f64 = 0.05;

/// How sure the bound itself is: one time in twenty it is too low.
const SURE: f64 = 0.95;

/// Confidences that are tried as a threshold, the strictest first.
///
/// The order is fixed before right and wrong are counted and the search stops at the first that fails: so the one that is found keeps
/// its bound although several were tried (fixed-sequence testing; Angelopoulos, Bates, Candes, Jordan and Lei, "Learn then Test",
/// 2021). Those that too few answers reach to show anything, whatever they are, are passed over; that looks at confidences only.
const TRIED: [f64; 11] = [0.9875, 0.985, 0.98, 0.97, 0.96, 0.95, 0.94, 0.93, 0.92, 0.91, 0.90];

/// The upper bound, at 95 % on its side alone, of the share of wrong answers when `wrong` of `all` were.
///
/// The exact binomial bound: the share at which so few wrong ones would be seen one time in twenty (Clopper and Pearson, "The use of
/// confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26, 1934). 1 when there is no answer.
pub fn wrong_at_most(wrong: usize, all: usize) -> f64 {
    if wrong >= all {
        return 1.0;
    }
    let (mut low, mut high) = (0.0, 1.0);
    // Sixty halvings end at the precision of the type.
    for _ in 0..60 {
        let share = f64::midpoint(low, high);
        match chance_of_at_most(wrong, all, share) > 1.0 - SURE {
            true => low = share,
            false => high = share,
        }
    }
    high
}

/// The chance to see at most `wrong` among `all` when each is wrong with probability `share`.
fn chance_of_at_most(wrong: usize, all: usize, share: f64) -> f64 {
    let odds = share / (1.0 - share);
    let mut term = (all as f64 * (-share).ln_1p()).exp();
    let mut sum = term;
    for seen in 0..wrong {
        term *= (all - seen) as f64 / (seen + 1) as f64 * odds;
        sum += term;
    }
    sum
}

/// What was counted at one threshold.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Counted {
    /// Answers of at least this confidence.
    pub confidence: f64,
    pub right: usize,
    pub wrong: usize,
}

impl Counted {
    fn at(confidence: f64, answers: &[(f64, bool)]) -> Self {
        let sure = || answers.iter().filter(|(told, _)| *told >= confidence);
        let right = sure().filter(|(_, right)| *right).count();
        Self { confidence, right, wrong: sure().count() - right }
    }

    /// Upper bound of the share of wrong answers.
    pub fn bound(&self) -> f64 {
        wrong_at_most(self.wrong, self.right + self.wrong)
    }
}

/// The lowest of the tried confidences from which on the bound is at most [`RISK`], for answers with their confidence and
/// whether they were right.
///
/// # Errors
/// What was counted at the strictest one that enough answers reach, when even there it does not hold; at the lowest when none is.
pub fn lowest(answers: &[(f64, bool)]) -> Result<Counted, Counted> {
    let tried = TRIED.map(|confidence| Counted::at(confidence, answers));
    let mut found = Err(tried[tried.len() - 1]);
    for counted in tried.into_iter().filter(|counted| wrong_at_most(0, counted.right + counted.wrong) <= RISK) {
        match counted.bound() <= RISK {
            true => found = Ok(counted),
            false if found.is_err() => return Err(counted),
            false => break,
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_that_of_the_tables() {
        // Without a wrong one it is 1 - .05^(1/n); the others are from tables of the beta distribution.
        for (wrong, all, bound) in [(0, 1, 0.95), (0, 58, 0.0503), (0, 59, 0.0495), (1, 93, 0.0500), (3, 30, 0.2386)] {
            let got = wrong_at_most(wrong, all);
            assert!((got - bound).abs() < 5e-4, "{wrong} of {all}: {got}");
        }
        assert_eq!((wrong_at_most(0, 0), wrong_at_most(5, 5)), (1.0, 1.0));
        assert!(wrong_at_most(40, 2_000) > 0.02 && wrong_at_most(40, 2_000) < 0.03);
    }

    #[test]
    fn the_search_stops_at_the_first_confidence_that_fails() {
        let mut answers = vec![(0.99, true); 60];
        answers.extend([(0.975, true); 10]);
        let got = lowest(&answers).unwrap();
        assert_eq!((got.confidence, got.right, got.wrong), (0.90, 70, 0));
        // Two wrong ones in the middle are not outweighed by what comes after them.
        answers.extend([(0.955, false); 2]);
        answers.extend([(0.905, true); 500]);
        assert_eq!(lowest(&answers).unwrap().confidence, 0.96);
    }

    #[test]
    fn too_few_answers_show_nothing() {
        let got = lowest(&[(0.99, true); 58]).unwrap_err();
        assert_eq!((got.right, got.wrong), (58, 0));
        assert_eq!(lowest(&[]).unwrap_err().bound(), 1.0);
    }
}
