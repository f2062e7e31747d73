use super::*;
use crate::entity::EntityKind::{Deployment, Pod};
use crate::signal::Severity;

const WINDOW: SignedDuration = SignedDuration::from_mins(10);

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

fn signal(key: &str, name: &str, second: i64) -> Signal {
    Signal {
        key: key.into(),
        source: SignalSource::Alert,
        name: key.into(),
        entity: Entity::new(Deployment, "shop", name),
        severity: Severity::Warning,
        started_at: at(second),
        ended_at: None,
        summary: String::new(),
        labels: BTreeMap::new(),
        count: 1,
    }
}

fn incident(id: &str, second: i64, signals: Vec<Signal>) -> OpenIncident<'static> {
    OpenIncident { id: id.into(), opened_at: at(second), signals: signals.into() }
}

fn calls(pairs: &[(&str, &str)]) -> Links {
    let service = |name: &str| Entity::new(Deployment, "shop", name);
    let edges = pairs
        .iter()
        .map(|(from, to)| TopologyEdge { from: service(from), to: service(to), kind: LinkKind::Calls })
        .collect();
    Links { edges, rollouts: Vec::new() }
}

fn rolled(second: i64, changed: &[&str]) -> Links {
    let changed = changed.iter().map(|name| Entity::new(Deployment, "shop", *name)).collect();
    Links { edges: Vec::new(), rollouts: vec![Rollout { at: at(second), changed }] }
}

#[test]
fn the_first_signal_opens_an_incident() {
    let got = assign(&signal("a", "checkout", 0), &[], &Reach::new(&Links::default()), WINDOW, at(1));
    assert!(matches!(got, Assignment::Open { because } if because.contains("shop/Deployment/checkout")));
}

#[test]
fn a_caller_of_the_failing_service_joins_its_incident() {
    let open = [incident("one", 0, vec![signal("a", "checkout", 0)])];
    let got =
        assign(&signal("b", "frontend", 60), &open, &Reach::new(&calls(&[("frontend", "checkout")])), WINDOW, at(61));
    assert_eq!(
        got,
        Assignment::Join {
            incident: "one".into(),
            because: "shop/Deployment/frontend depends on shop/Deployment/checkout (1 hops)".into()
        }
    );
}

#[test]
fn two_callers_of_one_service_are_not_one_problem_by_that_alone() {
    let open = [incident("one", 0, vec![signal("a", "cart", 0)])];
    let links = calls(&[("cart", "cache"), ("search", "cache")]);
    assert!(matches!(
        assign(&signal("b", "search", 5), &open, &Reach::new(&links), WINDOW, at(6)),
        Assignment::Open { .. }
    ));
}

#[test]
fn a_pod_belongs_to_its_deployment() {
    let mut links = Links::default();
    let pod = Entity::new(Pod, "shop", "checkout-1");
    links.edges.push(TopologyEdge {
        from: Entity::new(Deployment, "shop", "checkout"),
        to: pod.clone(),
        kind: LinkKind::Owns,
    });
    let open = [incident("one", 0, vec![signal("a", "checkout", 0)])];
    let mut arrived = signal("b", "x", 5);
    arrived.entity = pod;
    assert!(
        matches!(assign(&arrived, &open, &Reach::new(&links), WINDOW, at(6)), Assignment::Join { because, .. } if because.contains("belong to"))
    );
}

#[test]
fn one_rollout_links_what_it_changed() {
    let links = rolled(100, &["cart", "search"]);
    let open = [incident("one", 130, vec![signal("a", "cart", 130)])];
    let got = assign(&signal("b", "search", 140), &open, &Reach::new(&links), WINDOW, at(141));
    let Assignment::Join { because, .. } = got else { panic!("{got:?}") };
    assert!(because.contains("one rollout") && because.contains("cart") && because.contains("search"), "{because}");
    let open = [open[0].clone(), incident("two", 140, vec![signal("b", "search", 140)])];
    assert_eq!(joins(&open, &links, WINDOW, at(150)).len(), 1, "found later, it joins them");
}

#[test]
fn what_began_before_a_rollout_has_nothing_to_do_with_it() {
    let links = rolled(100, &["cart", "search"]);
    let apart = |cart: i64, search: i64| {
        let open = [incident("one", cart, vec![signal("a", "cart", cart)])];
        let arrived = signal("b", "search", search);
        let got = assign(&arrived, &open, &Reach::new(&links), WINDOW, at(210));
        let both = [open[0].clone(), incident("two", search, vec![arrived])];
        matches!(got, Assignment::Open { .. }) && joins(&both, &links, WINDOW, at(210)).is_empty()
    };
    assert!(apart(0, 200) && apart(200, 0));
    assert!(!apart(95, 200), "clocks differ a little");
}

#[test]
fn two_rollouts_at_one_time_link_nothing_across() {
    let mut links = rolled(100, &["cart", "search"]);
    links.rollouts.extend(rolled(100, &["payment", "ledger"]).rollouts);
    let open = [incident("one", 130, vec![signal("a", "cart", 130)])];
    let got = assign(&signal("b", "payment", 140), &open, &Reach::new(&links), WINDOW, at(141));
    assert!(matches!(got, Assignment::Open { .. }));
}

#[test]
fn a_known_signal_is_counted_not_added() {
    let open = [incident("one", 0, vec![signal("a", "checkout", 0)])];
    let got = assign(&signal("a", "checkout", 0), &open, &Reach::new(&Links::default()), WINDOW, at(9));
    assert!(matches!(got, Assignment::Repeat { incident, .. } if incident == "one"));
    let mut signals = vec![signal("a", "checkout", 0)];
    assert_eq!(keep(&mut signals, signal("a", "checkout", 0)), Kept::Repeat);
    assert_eq!((signals.len(), signals[0].count), (1, 2));
}

#[test]
fn what_ended_before_work_began_is_dropped() {
    let mut over = signal("a", "checkout", 0);
    over.ended_at = Some(at(5));
    assert!(matches!(assign(&over, &[], &Reach::new(&Links::default()), WINDOW, at(9)), Assignment::Drop { .. }));
}

#[test]
fn an_old_quiet_incident_takes_nothing_in() {
    let mut quiet = signal("a", "checkout", 0);
    quiet.ended_at = Some(at(10));
    let open = [incident("one", 0, vec![quiet])];
    let late = signal("b", "checkout", 10 + 601);
    assert!(matches!(assign(&late, &open, &Reach::new(&Links::default()), WINDOW, at(700)), Assignment::Open { .. }));
}

#[test]
fn links_found_later_join_the_younger_to_the_older() {
    let open = [
        incident("young", 60, vec![signal("b", "frontend", 60)]),
        incident("old", 0, vec![signal("a", "payment", 0)]),
        incident("other", 30, vec![signal("c", "search", 30)]),
    ];
    let links = calls(&[("frontend", "checkout"), ("checkout", "payment")]);
    let joined = joins(&open, &links, WINDOW, at(100));
    assert_eq!(joined.len(), 1);
    assert_eq!((joined[0].younger.as_str(), joined[0].older.as_str()), ("young", "old"));
}

#[test]
fn a_flapping_alert_is_not_cleared_until_quiet_long_enough() {
    let clear_for = SignedDuration::from_mins(5);
    let mut flapping = signal("a", "checkout", 0);
    assert_eq!(cleared(std::slice::from_ref(&flapping), clear_for, at(50)), Clearing::Firing);
    flapping.ended_at = Some(at(60));
    assert_eq!(cleared(std::slice::from_ref(&flapping), clear_for, at(100)), Clearing::Quiet { until: at(360) });
    assert_eq!(cleared(&[flapping], clear_for, at(360)), Clearing::Cleared { since: at(60) });
    assert_eq!(cleared(&[], clear_for, at(360)), Clearing::Firing);
}

#[test]
fn the_list_of_signals_is_bounded() {
    let mut signals = Vec::new();
    for number in 0..SIGNALS_MAX {
        assert_eq!(keep(&mut signals, signal(&number.to_string(), "checkout", 0)), Kept::New);
    }
    assert_eq!(keep(&mut signals, signal("one more", "checkout", 0)), Kept::Beyond);
    assert_eq!(signals.len(), SIGNALS_MAX);
}

#[test]
fn the_order_of_open_incidents_does_not_matter() {
    let mut open =
        vec![incident("a", 5, vec![signal("x", "checkout", 5)]), incident("b", 0, vec![signal("y", "checkout", 0)])];
    let arrived = signal("z", "checkout", 9);
    let first = assign(&arrived, &open, &Reach::new(&Links::default()), WINDOW, at(10));
    open.reverse();
    assert_eq!(assign(&arrived, &open, &Reach::new(&Links::default()), WINDOW, at(10)), first);
    assert!(matches!(first, Assignment::Join { incident, .. } if incident == "b"));
}
