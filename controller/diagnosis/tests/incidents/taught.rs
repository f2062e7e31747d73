//! Classes that people taught: they explain, and never make an action possible.

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::{Answer, LogLine, Observations};
use amend_diagnosis::logs::Class;
use proptest::prelude::*;

use crate::shop::*;

fn line(second: i64, source: &str, body: &str, taught: Option<Class>) -> LogLine {
    LogLine {
        at_ns: Some(u64::try_from(at(second).as_nanosecond()).unwrap()),
        source: format!("shop/{source}"),
        severity: Some("ERROR".into()),
        body: body.into(),
        trace_id: None,
        span_id: None,
        count: 1,
        taught,
    }
}

fn refusing(taught: Option<Class>) -> Observations {
    let mut world = world();
    set_errors(&mut world, &[("checkout", 0.5), ("frontend", 0.3)]);
    let body = "calling api.bank.example went nowhere: the vault is shut";
    world.logs = Answer::Known((3_610..3_640).map(|second| line(second, "checkout-old-x", body, taught)).collect());
    world
}

#[test]
fn a_taught_line_is_evidence_of_its_class() {
    let names = |world: &Observations| {
        let got = diagnose(world);
        got.causes.iter().any(|one| one.measures.get("dependency").is_some_and(|name| name == "api.bank.example"))
    };
    assert!(!names(&refusing(None)));
    assert!(names(&refusing(Some(Class::Network))));
    let taught = diagnose(&refusing(Some(Class::Database)));
    let says = |sentence: &str| sentence.contains("people taught to be about database");
    assert!(taught.causes.iter().any(|one| one.facts_for.iter().any(|fact| says(&fact.sentence))), "{taught:#?}");
}

#[test]
fn what_only_taught_lines_say_is_told_and_not_acted_on() {
    let mut world = world();
    let crashed = serde_json::json!({"phase": "Running", "containerStatuses": [{"name": "app", "restartCount": 9, "ready": false,
        "state": {"waiting": {"reason": "CrashLoopBackOff", "message": ""}},
        "lastState": {"terminated": {"exitCode": 3, "reason": "Error", "finishedAt": "2023-11-14T23:20:00Z"}}}]});
    set_pod(&mut world, pod("cart-new-y", "cart", "new", 3_545, crashed));
    world.symptoms = vec![alert("PodsNotReady", "cart")];
    let body = "the compass points nowhere";
    let taught = |class| (3_610..3_640).map(|second| line(second, "cart-new-y", body, class)).collect::<Vec<_>>();
    world.logs = Answer::Known(taught(None));
    let before = diagnose(&world);
    world.logs = Answer::Known(taught(Some(Class::Configuration)));
    let after = diagnose(&world);
    assert_eq!(best(&after), (cause::CONFIG_WRONG, "cart"), "{after:#?}");
    assert_ne!(best(&before), (cause::CONFIG_WRONG, "cart"), "{before:#?}");
    let why = after.abstained.as_deref().unwrap_or_default();
    assert!(why.contains("config.wrong on cart is sure only by log lines whose class people taught"), "{after:#?}");
    assert!(after.causes[0].confidence < 0.9);
}

fn class() -> impl Strategy<Value = Option<Class>> {
    prop::sample::select(vec![
        None,
        Some(Class::Dns),
        Some(Class::Network),
        Some(Class::Database),
        Some(Class::Memory),
        Some(Class::Disk),
        Some(Class::Quota),
        Some(Class::Permission),
        Some(Class::Timeout),
        Some(Class::Dependency),
        Some(Class::Configuration),
        Some(Class::Other),
    ])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    /// Whoever may write patterns cannot thereby make Amend act on anything that it would not have acted on.
    #[test]
    fn no_teaching_makes_an_action_possible(
        story in 0usize..4,
        lines in prop::collection::vec((3_000i64..4_200, prop::sample::select(vec!["checkout-old-x", "cart", "frontend"]),
            prop::sample::select(vec!["calling cart went nowhere", "the vault is shut", "calling api.bank.example: no"]), class()), 0..40),
    ) {
        let mut world = match story {
            0 => world(),
            1 => oom(),
            2 => bad_release_beside_innocent(),
            _ => refusing(None),
        };
        let with = |taught: bool| lines.iter().map(|(at, on, body, class)| line(*at, on, body, class.filter(|_| taught))).collect();
        world.logs = Answer::Known(with(false));
        let before = diagnose(&world);
        world.logs = Answer::Known(with(true));
        let after = diagnose(&world);
        if let Some(cause) = after.actionable() {
            let same = before.actionable().filter(|one| one.kind == cause.kind && one.entity.workload() == cause.entity.workload());
            prop_assert!(same.is_some_and(|one| one.confidence >= cause.confidence), "{:?} came from {:?}", cause, before.causes.first());
        }
    }
}
