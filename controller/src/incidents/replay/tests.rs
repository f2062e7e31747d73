use amend_diagnosis::entity::EntityKind;
use amend_diagnosis::evidence::{LinkKind, TopologyEdge};
use amend_diagnosis::signal::{Severity, SignalSource};
use proptest::prelude::*;

use super::*;

const RULES: Rules = Rules { group_window: SignedDuration::from_mins(10), clear_for: SignedDuration::from_mins(5) };
const SERVICES: [&str; 4] = ["frontend", "checkout", "payment", "ads"];

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(1_770_000_000 + 60 * minute).unwrap()
}

fn alert(name: &str, service: &str, from: i64, to: Option<i64>) -> Signal {
    Signal {
        key: format!("alert/{name}/{service}"),
        source: SignalSource::Alert,
        name: name.to_owned(),
        entity: Entity::new(EntityKind::Deployment, "shop", service),
        severity: Severity::Warning,
        started_at: at(from),
        ended_at: to.map(at),
        summary: String::new(),
        labels: BTreeMap::new(),
        count: 1,
    }
}

/// `frontend` calls `checkout`, which calls `payment`; `ads` stands alone.
fn links() -> BTreeMap<String, Links> {
    let service = |name: &str| Entity::new(EntityKind::Deployment, "shop", name);
    let edges = [("frontend", "checkout"), ("checkout", "payment")].map(|(from, to)| TopologyEdge {
        from: service(from),
        to: service(to),
        kind: LinkKind::Calls,
    });
    BTreeMap::from([("shop".to_owned(), Links { edges: edges.into(), rollouts: Vec::new() })])
}

fn groups(alerts: &[Signal]) -> Vec<Vec<usize>> {
    replay(alerts, &links(), RULES).into_iter().map(|problem| problem.alerts).collect()
}

#[test]
fn alerts_along_the_calls_are_one_problem_and_a_stranger_is_another() {
    let alerts = [
        alert("Oom", "checkout", 0, Some(20)),
        alert("Errors", "frontend", 2, Some(18)),
        alert("Slow", "ads", 3, Some(9)),
    ];
    assert_eq!(groups(&alerts), [vec![0, 1], vec![2]]);
}

#[test]
fn a_flapping_alert_stays_in_its_problem_until_it_was_quiet_for_long_enough() {
    let again = |minute| alert("Oom", "checkout", minute, Some(minute + 2));
    let alerts = [again(0), again(5), again(30)];
    let problems = replay(&alerts, &links(), RULES);
    assert_eq!(problems.iter().map(|one| one.alerts.clone()).collect::<Vec<_>>(), [vec![0, 1], vec![2]]);
    assert_eq!((problems[0].ended_at, problems[1].opened_at), (Some(at(7)), at(30)));
    assert_eq!(problems[0].signals[0].count, 4, "two starts and two ends were told");
}

#[test]
fn what_still_fires_has_no_end() {
    let problems = replay(&[alert("Oom", "checkout", 0, None)], &links(), RULES);
    assert_eq!((problems[0].ended_at, problems[0].entity.name.as_str()), (None, "checkout"));
}

#[test]
fn a_flood_is_counted_whole_although_an_incident_keeps_few_of_it() {
    let alerts: Vec<Signal> = (0..500).map(|number| alert(&format!("Route{number}"), "payment", 0, Some(9))).collect();
    let problems = replay(&alerts, &links(), RULES);
    assert_eq!((problems.len(), problems[0].alerts.len()), (1, 500));
    assert_eq!(problems[0].signals.len(), amend_diagnosis::incident::SIGNALS_MAX);
}

proptest! {
    #[test]
    fn every_alert_is_in_exactly_one_problem(
        fired in prop::collection::vec((0..4usize, 0..3u8, 0..600i64, prop::option::of(0..90i64)), 0..60)
    ) {
        let alerts: Vec<Signal> = fired
            .into_iter()
            .map(|(service, rule, from, lasts)| {
                alert(&format!("Rule{rule}"), SERVICES[service], from, lasts.map(|lasts| from + lasts))
            })
            .collect();
        let mut counted: Vec<usize> = groups(&alerts).into_iter().flatten().collect();
        counted.sort_unstable();
        prop_assert_eq!(counted, (0..alerts.len()).collect::<Vec<_>>());
    }
}
