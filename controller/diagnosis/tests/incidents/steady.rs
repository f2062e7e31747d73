//! What must not change an answer does not, and what is missing never makes one sure.

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::{Answer, ChangeKind, Observations};
use proptest::prelude::*;
use serde_json::json;

use crate::shop::{asked, bad_release_beside_innocent, best, change, errors, objects, oom, pod, running, world};

#[test]
fn without_any_telemetry_and_objects_nothing_is_claimed() {
    let mut world = world();
    let down = || "nobody answers".to_owned();
    world.series = Answer::Unknown { why: down() };
    world.spans = Answer::Unknown { why: down() };
    world.logs = Answer::Unknown { why: down() };
    world.objects = Answer::Unknown { why: down() };
    world.changes = Answer::Unknown { why: down() };
    let got = diagnose(&world);
    assert!(got.actionable().is_none());
    assert!(got.abstained.is_some_and(|why| why.contains("metrics unknown")));
}

#[test]
fn the_state_alone_is_enough_for_what_the_state_says() {
    let mut world = oom();
    world.series = Answer::unknown("prometheus does not answer");
    let got = diagnose(&world);
    assert_eq!(best(&got), (cause::OOM_KILLED, "checkout"));
    assert!(got.actionable().is_some());
}

#[test]
fn of_changes_that_one_repository_did_not_tell_nobody_says_that_none_is_to_blame() {
    let mut whole = world();
    let mut commit = change("c0ffee", ChangeKind::Commit, "", 3_500, "+    retry(3)\n");
    commit.target = Entity::new(EntityKind::Service, "shop", "");
    whole.changes = Answer::Known(vec![commit]);
    let mut partial = whole.clone();
    let mut unread = asked("git-bank", "git", "changes applied by Kustomization flux-system/bank");
    unread.unknown = Some("Kustomization flux-system/bank: no GitTarget serves it".into());
    partial.asked.push(unread);

    let blames_none = |world: &Observations| diagnose(world).causes.iter().any(|one| one.kind == cause::NO_CHANGE);
    assert!(blames_none(&whole), "all changes are known");
    assert!(!blames_none(&partial));
    let why = diagnose(&partial).abstained.unwrap();
    assert!(why.contains("some changes unknown (Kustomization flux-system/bank: no GitTarget serves it)"), "{why}");
    assert!(partial.changes.known().is_some_and(|known| known.len() == 1), "what is known stays a fact");
}

#[test]
fn a_healthy_world_gives_no_cause_to_act_on() {
    assert!(diagnose(&world()).actionable().is_none());
}

fn shuffled(observations: &Observations, seed: u64) -> Observations {
    fn mix<T>(list: &mut [T], mut seed: u64) {
        for index in (1..list.len()).rev() {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            list.swap(index, (seed >> 33) as usize % (index + 1));
        }
    }
    let mut other = observations.clone();
    mix(&mut other.symptoms, seed);
    if let Answer::Known(list) = &mut other.series {
        mix(list, seed);
    }
    if let Answer::Known(list) = &mut other.objects {
        mix(list, seed);
    }
    if let Answer::Known(list) = &mut other.changes {
        mix(list, seed);
    }
    if let Answer::Known(list) = &mut other.logs {
        mix(list, seed);
    }
    if let Answer::Known(topology) = &mut other.topology {
        mix(&mut topology.edges, seed);
    }
    other
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_order_of_the_input_does_not_matter(seed in any::<u64>()) {
        for story in [oom(), bad_release_beside_innocent()] {
            prop_assert_eq!(diagnose(&shuffled(&story, seed)), diagnose(&story));
        }
    }
}

#[test]
fn an_unrelated_quiet_service_does_not_change_the_answer() {
    for story in [oom(), bad_release_beside_innocent()] {
        let mut larger = story.clone();
        objects(&mut larger).push(json!({"kind": "Deployment", "metadata": {"namespace": "shop", "name": "search"},
            "spec": {"replicas": 1, "template": {"metadata": {"labels": {"app": "search"}}}}}));
        objects(&mut larger).push(pod("search-old-x", "search", "old", 0, running()));
        if let Answer::Known(list) = &mut larger.series {
            list.push(errors("search", 0.0, 0.0));
        }
        assert_eq!(diagnose(&larger).causes, diagnose(&story).causes);
    }
}

#[test]
fn what_is_taken_away_never_makes_a_wrong_answer_sure() {
    type Damage = fn(&mut Observations);
    let damages: [(&str, Damage); 7] = [
        ("series", |world| world.series = Answer::unknown("gone")),
        ("objects", |world| world.objects = Answer::unknown("gone")),
        ("changes", |world| world.changes = Answer::unknown("gone")),
        ("topology", |world| world.topology = Answer::unknown("gone")),
        ("nan", |world| {
            if let Answer::Known(list) = &mut world.series {
                list.iter_mut().flat_map(|one| &mut one.samples).for_each(|sample| sample.1 = f64::NAN);
            }
        }),
        ("huge", |world| {
            if let Answer::Known(list) = &mut world.series {
                list.iter_mut().flat_map(|one| &mut one.samples).for_each(|sample| sample.1 *= 1e308);
            }
        }),
        ("empty", |world| {
            if let Answer::Known(list) = &mut world.series {
                list.iter_mut().for_each(|one| one.samples.clear());
            }
        }),
    ];
    for story in [oom(), bad_release_beside_innocent()] {
        let whole = diagnose(&story);
        for (name, damage) in damages {
            let mut damaged = story.clone();
            damage(&mut damaged);
            let got = diagnose(&damaged);
            if let Some(cause) = got.actionable() {
                assert_eq!(cause.entity.name, whole.causes[0].entity.name, "{name}: {cause:#?}");
            }
        }
    }
}
