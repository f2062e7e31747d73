//! Between two that show the same, the one that began first leads, where one calls the other.

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::{Cause, Diagnosis};
use amend_diagnosis::evidence::{Answer, Observations, Series};

use crate::shop::*;

/// Busy from this second on.
fn busy(service: &str, since: i64) -> Series {
    let value = move |t| if t < since { 0.2 } else { 0.9 };
    series(&[("__name__", "container_cpu_usage"), ("service", service)], "cpu", value)
}

/// Both busy in the same way, since these seconds.
fn both(frontend: i64, checkout: i64) -> Observations {
    let mut world = world();
    world.series = Answer::Known(vec![busy("frontend", frontend), busy("checkout", checkout)]);
    world
}

fn of<'d>(got: &'d Diagnosis, name: &str) -> &'d Cause {
    got.causes.iter().find(|one| one.entity.name == name).unwrap_or_else(|| panic!("{got:#?}"))
}

#[test]
fn who_began_first_leads_whichever_end_of_the_call_it_is() {
    for (seconds, first, told) in [
        ((3_780, 3_600), "checkout", "checkout left its usual range 180 s before frontend, its caller"),
        ((3_600, 3_780), "frontend", "frontend left its usual range 180 s before checkout, which it calls"),
    ] {
        let got = diagnose(&both(seconds.0, seconds.1));
        assert_eq!(got.causes[0].entity.name, first, "{got:#?}");
        assert!(of(&got, first).facts_for.iter().any(|fact| fact.sentence == told), "{got:#?}");
        let other = if first == "checkout" { "frontend" } else { "checkout" };
        assert!(of(&got, other).facts_against.iter().any(|fact| fact.sentence == told), "{got:#?}");
    }
}

#[test]
fn what_begins_within_one_scrape_or_without_a_call_between_says_nothing() {
    let mut apart = both(3_780, 3_600);
    if let Answer::Known(topology) = &mut apart.topology {
        topology.edges.retain(|edge| edge.to.name != "checkout");
    }
    for world in [both(3_630, 3_600), apart] {
        let got = diagnose(&world);
        let facts = got.causes.iter().flat_map(|cause| cause.facts_for.iter().chain(&cause.facts_against));
        assert!(!facts.into_iter().any(|fact| fact.sentence.contains("usual range")), "{got:#?}");
    }
}
