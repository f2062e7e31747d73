use proptest::prelude::*;

use super::*;
use crate::evidence::{Answer, Observations, SpanKind};

const MS: u64 = 1_000_000;
const BEGAN: i64 = 1_700_000_000;
const FAILED: &str = "0af7651916cd43dd8448eb211c80319c";

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(BEGAN + second).unwrap()
}

fn ns(second: i64) -> u64 {
    u64::try_from(at(second).as_nanosecond()).unwrap()
}

fn span(trace: &str, id: &str, parent: Option<&str>, service: &str, second: i64, error: bool) -> Span {
    Span {
        trace_id: trace.into(),
        span_id: id.into(),
        parent_id: parent.map(str::to_owned),
        service: service.into(),
        pod: None,
        operation: "POST /pay".into(),
        kind: SpanKind::Server,
        start_ns: ns(second),
        duration_ns: 100 * MS,
        error,
        attributes: BTreeMap::new(),
    }
}

/// frontend calls payment calls ledger; what fails is ledger, and with it everybody above.
fn failing(trace: &str, second: i64) -> [Span; 4] {
    [
        span(trace, "a", None, "frontend", second, true),
        span(trace, "b", Some("a"), "payment", second, true),
        span(trace, "c", Some("b"), "ledger", second, true),
        span(trace, "d", Some("a"), "cart", second, false),
    ]
}

fn line(second: i64, source: &str, body: &str, trace: Option<&str>) -> LogLine {
    LogLine {
        at_ns: Some(ns(second)),
        source: source.into(),
        severity: None,
        body: body.into(),
        trace_id: trace.map(str::to_owned),
        span_id: None,
        count: 1,
        taught: None,
    }
}

fn observed(spans: Vec<Span>, logs: Vec<LogLine>) -> Observations {
    let names = ["frontend", "payment", "ledger", "cart"];
    Observations {
        at: at(600),
        began: Some(at(0)),
        normal: Some(Window { from: at(-3_600), to: at(0) }),
        fault: Some(Window { from: at(0), to: at(600) }),
        symptoms: Vec::new(),
        candidates: Some(names.map(|name| Entity::new(EntityKind::Deployment, "shop", name)).into()),
        topology: Answer::unknown("nobody was asked"),
        series: Answer::unknown("nobody was asked"),
        spans: Answer::Known(spans),
        exemplars: Answer::unknown("nobody was asked"),
        logs: Answer::Known(logs),
        changes: Answer::unknown("nobody was asked"),
        objects: Answer::unknown("nobody was asked"),
        events: Answer::unknown("nobody was asked"),
        asked: Vec::new(),
    }
}

fn told(logs: Vec<LogLine>) -> Vec<TraceStory> {
    let observations = observed(failing(FAILED, 100).into(), logs);
    stories(&Scene::new(&observations), None, false)
}

fn texts(story: &TraceStory) -> Vec<(&str, &str)> {
    story.lines.iter().map(|line| (line.service.as_str(), line.text.as_str())).collect()
}

#[test]
fn one_request_is_told_by_all_services_in_the_order_in_which_they_wrote() {
    let stories = told(vec![
        line(101, "frontend-5d9c7b9f4-x2x9k", "pay failed", Some(FAILED)),
        line(99, "ledger-0", "2023-11-14T22:15:19Z connection refused", Some(FAILED)),
        line(100, "payment", &format!("call to ledger failed trace_id={FAILED}"), None),
        line(100, "cart", "another request", Some("4bf92f3577b34da6a3ce929d0e0e4736")),
        line(100, "cart", &format!("longer id {FAILED}00"), None),
    ]);
    let [story] = stories.as_slice() else { panic!("{stories:#?}") };
    assert_eq!((story.entity.name.as_str(), story.failed, story.within), ("ledger", true, 30));
    assert_eq!(
        texts(story),
        [
            ("ledger", "connection refused"),
            ("payment", &format!("call to ledger failed trace_id={FAILED}")),
            ("frontend", "pay failed"),
        ]
    );
    assert_eq!(story.lines[0].class, Some(Class::Network));
}

#[test]
fn lines_are_looked_for_half_a_minute_around_and_two_minutes_only_when_there_are_none() {
    let late = || line(190, "ledger", "late", Some(FAILED));
    let near = || line(120, "ledger", "near", Some(FAILED));
    let gone = || line(300, "ledger", "gone", Some(FAILED));
    assert_eq!(texts(&told(vec![late(), near(), gone()])[0]), [("ledger", "near")]);
    let wide = told(vec![late(), gone()]);
    assert_eq!((texts(&wide[0]), wide[0].within), (vec![("ledger", "late")], 120));
    assert_eq!(told(vec![gone()]), []);
}

#[test]
fn each_way_of_failing_is_followed_before_any_twice_and_the_deepest_span_names_it() {
    let ids: Vec<String> = (1..=5).map(|number| format!("{number:032x}")).collect();
    let mut spans: Vec<Span> = ids[..4].iter().flat_map(|id| failing(id, 10)).collect();
    spans.push(span(&ids[4], "a", None, "cart", 20, true));
    let followed = anchors(&spans, ns(0));
    let told: Vec<(&str, &str)> =
        followed.iter().map(|anchor| (anchor.service.as_str(), anchor.trace_id.as_str())).collect();
    assert_eq!(told[..3], [("ledger", ids[0].as_str()), ("cart", &ids[4]), ("ledger", &ids[1])]);
    assert_eq!(anchors(&spans, ns(30)), [], "what failed before the trouble is another story");
}

#[test]
fn where_nothing_failed_the_slowest_are_followed_and_told_only_when_something_became_slow() {
    let mut spans =
        vec![span(FAILED, "a", None, "cart", 10, false), span("b1b1b1b1b1b1b1b1", "a", None, "cart", 10, false)];
    spans[0].duration_ns = 900 * MS;
    assert_eq!(anchors(&spans, ns(0))[0].trace_id, FAILED);
    let observations = observed(spans, vec![line(10, "cart", "waited for a lock", Some(FAILED))]);
    let scene = Scene::new(&observations);
    assert_eq!(stories(&scene, None, false), []);
    assert!(!stories(&scene, None, true)[0].failed);
}

#[test]
fn ids_that_could_mean_anything_are_not_followed() {
    for id in ["", "a1", "00000000000000000000000000000000", "x\" or y=\"aaaaaaa", "a b c d e f g h", &"a".repeat(65)] {
        assert_eq!(anchors(&[span(id, "a", None, "cart", 10, true)], ns(0)), [], "{id:?}");
    }
    for id in ["463ac35c9f6413ad", "1-5759e988-bd862e3fe1be46a994272793", "2a7a0e1e.41.16385472000010001"] {
        assert_eq!(anchors(&[span(id, "a", None, "cart", 10, true)], ns(0)).len(), 1, "{id}");
    }
}

#[test]
fn of_many_lines_those_about_trouble_stay_and_the_rest_is_counted() {
    let mut logs: Vec<LogLine> =
        (0..40).map(|number| line(80 + number, "cart", &format!("step {number}"), Some(FAILED))).collect();
    logs.push(line(125, "ledger", "connection refused", Some(FAILED)));
    logs.push(line(126, "ledger", &format!("{}\u{1b}[31m", "x".repeat(5_000)), Some(FAILED)));
    let story = told(logs).remove(0);
    assert_eq!((story.lines.len(), story.left_out), (12, 30));
    assert_eq!(story.lines.last().map(|line| line.text.as_str()), Some("connection refused"));
    assert!(story.lines.iter().all(|line| line.text.chars().count() <= LINE_MAX + 1));
}

proptest! {
    #[test]
    fn the_order_of_what_was_gathered_does_not_change_a_story(seed in 0_u64..500) {
        let other = "4bf92f3577b34da6a3ce929d0e0e4736";
        let mut spans: Vec<Span> = failing(FAILED, 100).into_iter().chain(failing(other, 100)).collect();
        let mut logs: Vec<LogLine> = (0..30)
            .map(|number| line(90 + number % 7, ["cart", "ledger"][number as usize % 2], &format!("l{number}"), Some(FAILED)))
            .collect();
        let expected = {
            let observations = observed(spans.clone(), logs.clone());
            stories(&Scene::new(&observations), None, false)
        };
        let turn = usize::try_from(seed).unwrap();
        spans.rotate_left(turn % 8);
        spans.push(spans[turn % 8].clone());
        logs.rotate_left(turn % 30);
        let observations = observed(spans, logs);
        prop_assert_eq!(stories(&Scene::new(&observations), None, false), expected);
    }
}
