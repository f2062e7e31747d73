use jiff::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::evidence::Answer;

const BEGAN: i64 = 1_700_003_600;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(BEGAN + second).unwrap()
}

/// Lines of `shop/cart` at seconds from the onset.
fn seen(lines: &[(Option<i64>, &str)]) -> Observations {
    let line = |(second, body): &(Option<i64>, &str)| LogLine {
        at_ns: second.map(|second| u64::try_from(at(second).as_nanosecond()).unwrap()),
        source: "shop/cart".into(),
        severity: None,
        body: (*body).into(),
        trace_id: None,
        span_id: None,
        count: 1,
        taught: None,
    };
    let nobody = || Answer::unknown("nobody was asked");
    Observations {
        at: at(600),
        began: Some(at(0)),
        normal: Some(Window { from: at(-3_600), to: at(0) }),
        fault: Some(Window { from: at(0), to: at(600) }),
        symptoms: Vec::new(),
        candidates: Some(vec![Entity::new(crate::entity::EntityKind::Deployment, "shop", "cart")]),
        topology: Answer::unknown("nobody was asked"),
        series: Answer::unknown("nobody was asked"),
        spans: Answer::unknown("nobody was asked"),
        exemplars: Answer::unknown("nobody was asked"),
        logs: Answer::Known(lines.iter().map(line).collect()),
        changes: Answer::unknown("nobody was asked"),
        objects: nobody(),
        events: Answer::unknown("nobody was asked"),
        asked: Vec::new(),
    }
}

fn found(lines: &[(Option<i64>, &str)]) -> Vec<(Why, String, u64)> {
    let all = sightings(&seen(lines), &|line| line.to_owned());
    all.list.into_iter().map(|one| (one.why, one.template.clone(), one.lines())).collect()
}

#[test]
fn errors_that_the_catalogue_does_not_know_are_found_as_templates() {
    let got = found(&[
        (Some(10), "level=error msg=\"shard 17 seals its journal\""),
        (Some(20), "level=error msg=\"shard 4 seals its journal\""),
        (Some(30), "level=error msg=\"connection refused\""),
        (Some(-10), "level=info msg=\"all is well\""),
        (Some(40), "level=info msg=\"all is well\""),
    ]);
    assert_eq!(got, [(Why::Error, "level=error msg=\"shard <*> seals its journal\"".to_owned(), 2)]);
}

#[test]
fn what_is_new_or_bursts_is_found_and_what_was_always_there_is_not() {
    let mut lines = vec![(Some(-1_000), "cache is warm"), (Some(-900), "quiet turn")];
    lines.extend((0..40).map(|second| (Some(second), "cache is warm")));
    lines.extend([(Some(50), "quiet turn"), (Some(60), "the moon is full")]);
    let got = found(&lines);
    assert_eq!(got, [(Why::New, "the moon is full".to_owned(), 1), (Why::Bursting, "cache is warm".to_owned(), 40)]);
}

#[test]
fn without_older_lines_nothing_is_called_new() {
    assert!(found(&[(Some(60), "the moon is full")]).is_empty());
}

#[test]
fn lines_that_cannot_be_read_are_found() {
    let long = "z".repeat(5_000);
    let got = found(&[(None, "zeitlos"), (Some(3), "bytes \u{fffd}\u{1}"), (Some(4), &long)]);
    assert_eq!(got.iter().filter(|(why, ..)| *why == Why::Unreadable).count(), 3, "{got:?}");
    assert!(got.iter().all(|(_, template, _)| template.len() <= TEMPLATE_MAX), "{got:?}");
}

#[test]
fn a_taught_line_is_not_found_again() {
    let mut world = seen(&[(Some(10), "level=error msg=\"shard 17 seals its journal\"")]);
    if let Answer::Known(lines) = &mut world.logs {
        lines[0].taught = Some(Class::Other);
    }
    assert!(sightings(&world, &|line| line.to_owned()).list.is_empty());
}

#[test]
fn what_must_not_be_shown_is_in_neither_template_nor_sample() {
    let hide = |line: &str| line.replace("hunter", "redacted-0a1b2c3d4e5f");
    let world =
        seen(&[(Some(1), "error: password=hunter, shard sealed"), (Some(2), "error: password=hunter, shard sealed")]);
    let got = sightings(&world, &hide);
    assert_eq!(got.list[0].template, "error: password=<*>, shard sealed");
    assert!(!got.list[0].sample.contains("hunter"));
}

proptest! {
    /// Whatever a store sends, in whatever order: bounded, the same, and without letters that act.
    #[test]
    fn hostile_lines_stay_bounded_and_their_order_does_not_matter(
        lines in proptest::collection::vec((proptest::option::of(-100i64..600), "\\PC{0,60}|[\u{0}-\u{7f}]{0,40}|(error ){0,900}[0-9]{1,3}"), 0..60),
    ) {
        let lines: Vec<(Option<i64>, &str)> = lines.iter().map(|(at, body)| (*at, body.as_str())).collect();
        let first = sightings(&seen(&lines), &|line| line.to_owned());
        let reversed: Vec<(Option<i64>, &str)> = lines.iter().rev().copied().collect();
        prop_assert_eq!(&first, &sightings(&seen(&reversed), &|line| line.to_owned()));
        prop_assert!(first.list.len() <= SIGHTINGS_MAX);
        for one in &first.list {
            prop_assert!(one.template.len() <= TEMPLATE_MAX && one.sample.len() <= SAMPLE_MAX);
            prop_assert!(!one.sample.contains(['\u{1b}', '\u{202e}', '\u{0}']), "{:?}", one.sample);
        }
    }
}
