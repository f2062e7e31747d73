use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A sample every 15 s from `from` to `to`.
fn samples(from: i64, to: i64, value: impl Fn(i64) -> f64) -> Answer<Vec<Sample>> {
    Answer::Known((from..=to).step_by(15).map(|second| Sample { at: at(second), value: value(second) }).collect())
}

/// Noise without randomness, between 0 and 1.
fn noise(second: i64) -> f64 {
    f64::from(u32::try_from((second * 7919).rem_euclid(1000)).unwrap()) / 1000.0
}

fn error_ratio(before: Answer<Vec<Sample>>, after: Answer<Vec<Sample>>) -> GoldenSamples {
    GoldenSamples { metric: "errorRatio".into(), judgement: judgement_of("errorRatio", false).unwrap(), before, after }
}

fn restarts(was_the_failure: bool, after: Answer<Vec<Sample>>) -> GoldenSamples {
    GoldenSamples {
        metric: "restarts".into(),
        judgement: judgement_of("restarts", was_the_failure).unwrap(),
        before: samples(-3600, -3000, |_| 0.0),
        after,
    }
}

/// Rolled out at 0, settles for 600 s, judged at `now`.
fn judged(now: i64, metrics: Vec<GoldenSamples>) -> Verification {
    verify(&VerifyInput {
        now: at(now),
        rolled_out_at: at(0),
        settle: SignedDuration::from_secs(600),
        metrics,
        foreign_commits: Answer::Known(vec![]),
    })
}

fn healthy(second: i64) -> f64 {
    0.002 + 0.001 * noise(second)
}

#[test]
fn a_metric_that_is_back_passes_with_its_numbers() {
    let result = judged(600, vec![error_ratio(samples(-3600, -3000, healthy), samples(0, 600, healthy))]);
    assert_eq!(result.verdict, Word::Pass, "{}", result.sentence);
    let metric = &result.metrics[0];
    assert!(metric.sentence.contains("41 samples"), "{}", metric.sentence);
    assert!(metric.worse_by.unwrap().superiority > 0.3);
}

#[test]
fn a_metric_that_is_still_bad_fails() {
    let result =
        judged(600, vec![error_ratio(samples(-3600, -3000, healthy), samples(0, 600, |s| 0.2 + 0.1 * noise(s)))]);
    assert_eq!(result.verdict, Word::Fail);
    assert!(result.sentence.contains("worse than before"), "{}", result.sentence);
}

#[test]
fn bursts_that_a_median_hides_fail() {
    let bursts = |second: i64| if second % 150 < 15 { 0.5 } else { healthy(second) };
    let result = judged(600, vec![error_ratio(samples(-3600, -3000, healthy), samples(0, 600, bursts))]);
    assert_eq!(result.verdict, Word::Fail);
    assert!(result.sentence.contains("bursts"), "{}", result.sentence);
}

#[test]
fn a_window_that_is_not_full_never_passes() {
    let result = judged(599, vec![error_ratio(samples(-3600, -3000, healthy), samples(0, 599, healthy))]);
    assert_eq!(result.verdict, Word::Unknown);
    assert_eq!(result.settled_at, at(600));
}

#[test]
fn a_placebo_whose_restarts_go_on_never_passes() {
    // Fails every 400 s, first at 390: a naive window of 5 minutes would have passed.
    let crashing = |second: i64| f64::from(i32::try_from((second + 10) / 400).unwrap());
    for now in (0..4000).step_by(15) {
        let result = judged(now, vec![restarts(true, samples(0, now, crashing))]);
        assert_ne!(result.verdict, Word::Pass, "at {now}: {}", result.sentence);
    }
    let interval = SignedDuration::from_secs(400);
    assert_eq!(settle(Some(interval), None, None), SignedDuration::from_secs(1200));
}

#[test]
fn restarts_that_have_stopped_pass_once_the_window_is_full() {
    let quiet = |_| 3.0;
    assert_eq!(judged(300, vec![restarts(true, samples(0, 300, quiet))]).verdict, Word::Unknown);
    assert_eq!(judged(600, vec![restarts(true, samples(0, 600, quiet))]).verdict, Word::Pass);
}

#[test]
fn one_restart_early_in_the_window_is_told_at_once() {
    let result = judged(60, vec![restarts(true, samples(0, 60, |second| if second > 30 { 1.0 } else { 0.0 }))]);
    assert_eq!(result.verdict, Word::Fail, "{}", result.sentence);
}

#[test]
fn missing_stale_gappy_or_broken_data_is_unknown() {
    let before = || samples(-3600, -3000, healthy);
    let gap = Answer::Known(
        samples(0, 600, healthy)
            .known()
            .unwrap()
            .iter()
            .filter(|s| s.at < at(100) || s.at > at(400))
            .copied()
            .collect(),
    );
    for (case, after) in [
        ("absent", Answer::unknown("prometheus did not answer")),
        ("empty", Answer::Known(vec![])),
        ("stale", samples(0, 400, healthy)),
        ("gap", gap),
        ("late start", samples(300, 600, healthy)),
        ("no numbers", samples(0, 600, |_| f64::NAN)),
        ("half numbers", samples(0, 600, |s| if s % 30 == 0 { f64::INFINITY } else { 0.0 })),
    ] {
        let result = judged(600, vec![error_ratio(before(), after)]);
        assert_eq!(result.verdict, Word::Unknown, "{case}: {}", result.sentence);
    }
    let result = judged(600, vec![error_ratio(samples(-100, -60, healthy), samples(0, 600, healthy))]);
    assert_eq!(result.verdict, Word::Unknown, "too few before: {}", result.sentence);
}

#[test]
fn one_unknown_metric_keeps_the_others_from_passing_and_one_failed_decides() {
    let good = || error_ratio(samples(-3600, -3000, healthy), samples(0, 600, healthy));
    let missing = || error_ratio(samples(-3600, -3000, healthy), Answer::unknown("gone"));
    assert_eq!(judged(600, vec![good(), missing()]).verdict, Word::Unknown);
    let bad = error_ratio(samples(-3600, -3000, healthy), samples(0, 600, |_| 0.9));
    assert_eq!(judged(600, vec![missing(), bad]).verdict, Word::Fail);
    assert_eq!(judged(600, vec![]).verdict, Word::Unknown);
}

#[test]
fn metrics_that_lack_data_for_one_reason_are_told_together() {
    let error_ratio = error_ratio(samples(-3600, -3000, healthy), Answer::unknown("gone"));
    let result = judged(600, vec![error_ratio, restarts(true, Answer::unknown("gone"))]);
    assert_eq!(result.sentence, "errorRatio, restarts: nothing known since the rollout: gone");
}

#[test]
fn commits_by_others_make_the_verdict_unknown_whatever_the_numbers_say() {
    for (commits, wanted) in [
        (Answer::Known(vec!["0123456789abcdef".into()]), "0123456789ab"),
        (Answer::unknown("no history"), "no history"),
    ] {
        let result = verify(&VerifyInput {
            now: at(600),
            rolled_out_at: at(0),
            settle: SignedDuration::from_secs(600),
            metrics: vec![error_ratio(samples(-3600, -3000, healthy), samples(0, 600, healthy))],
            foreign_commits: commits,
        });
        assert_eq!(result.verdict, Word::Unknown);
        assert!(result.sentence.contains(wanted), "{}", result.sentence);
    }
}

#[test]
fn a_metric_that_should_be_high_is_judged_the_other_way_round() {
    let throughput = |after: f64| GoldenSamples {
        metric: "throughput".into(),
        judgement: Judgement::Level { better: Better::Higher, floor: 1.0, share: 0.1 },
        before: samples(-3600, -3000, |s| 100.0 + noise(s)),
        after: samples(0, 600, move |s| after + noise(s)),
    };
    assert_eq!(judged(600, vec![throughput(200.0)]).verdict, Word::Pass);
    assert_eq!(judged(600, vec![throughput(50.0)]).verdict, Word::Fail);
}

#[test]
fn a_policy_may_lengthen_the_window_but_not_shorten_it() {
    let interval = Some(SignedDuration::from_mins(4));
    assert_eq!(settle(interval, Some(SignedDuration::from_mins(1)), None), SignedDuration::from_mins(12));
    assert_eq!(settle(interval, Some(SignedDuration::from_mins(30)), None), SignedDuration::from_mins(30));
    assert_eq!(settle(None, None, None), SETTLE_WHEN_INTERVAL_UNKNOWN);
}

#[test]
fn the_shortest_window_holds_ten_samples_and_never_less_than_a_minute() {
    let often = Some(SignedDuration::from_secs(1));
    assert_eq!(settle(often, None, None), SignedDuration::from_mins(5));
    assert_eq!(settle(often, None, Some(SignedDuration::from_secs(10))), SignedDuration::from_secs(100));
    assert_eq!(settle(often, None, often), SETTLE_AT_LEAST);
}

#[test]
fn a_failure_hides_as_long_as_its_longest_pause() {
    let usual = known(samples(-3600, -3000, |_| 0.002));
    let pause = |sick: Answer<Vec<Sample>>, end| longest_pause(&usual, &known(sick), Better::Lower, 0.01, at(end));

    let always = samples(0, 300, |_| 0.3);
    assert_eq!(pause(always.clone(), 300), Some(SignedDuration::from_secs(15)), "the distance of two samples");
    assert_eq!(pause(always, 900), Some(SignedDuration::from_secs(600)), "it was well at the end");
    let bursts = samples(0, 900, |second| if second % 300 < 60 { 0.3 } else { 0.002 });
    assert_eq!(pause(bursts, 900), Some(SignedDuration::from_secs(255)));
    assert_eq!(pause(samples(0, 90, |_| 0.3), 90), None, "seven samples know no rhythm");
    assert_eq!(pause(samples(0, 900, |_| 0.011), 900), None, "within the noise");
}

fn known(answer: Answer<Vec<Sample>>) -> Vec<Sample> {
    answer.known().cloned().unwrap_or_default()
}
