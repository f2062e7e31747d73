//! Everything fails everywhere: every story, with every fault at every point, must end honestly.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test binary: its helpers are outside of #[test] functions")]

mod any_world;
mod controller;
mod script;
mod world;

use std::collections::BTreeSet;

use amend_execution::decide::decide;
use amend_execution::journal::{ENTRIES_MAX, EffectKind, Ending, Event, UndoCause, Word};
use controller::{FAULTS, Fault, Simulation};
use proptest::prelude::*;
use script::{Script, scripts};

/// What must hold at the end, whatever went wrong.
fn check(run: &Simulation, faults: &[(u32, Fault)]) -> Ending {
    let tale = || {
        let entries: Vec<_> = run.journal.entries().iter().map(ToString::to_string).collect();
        format!("{} with {faults:?} at {} s:\n{}", run.world.script.name, run.world.now, entries.join("\n"))
    };
    let standing = run.standing();
    let ending = standing.phase.ending().unwrap_or_else(|| panic!("it never ends: {}", tale()));
    assert!(run.journal.len() <= ENTRIES_MAX, "{}", tale());
    let effects: BTreeSet<_> = run.world.ledger.iter().collect();
    assert_eq!(effects.len(), run.world.ledger.len(), "a deed was done twice {:?}: {}", run.world.ledger, tale());
    let clean = run.world.is_clean();
    assert!(ending != Ending::RolledBack || standing.was_merged(), "nothing was there to roll back: {}", tale());
    match ending {
        Ending::RolledBack | Ending::Withdrawn | Ending::Rejected => {
            assert_eq!(clean, Ok(()), "not undone completely: {}", tale());
        }
        Ending::Succeeded => {
            assert_eq!(run.world.script.verdict, Word::Pass, "{}", tale());
            assert!(!run.world.script.harm, "{}", tale());
        }
        Ending::Unverified | Ending::Held | Ending::Stuck => {
            assert!(run.world.pages > 0, "nobody was told: {}", tale());
            assert!(standing.paged.contains("ended"), "the page is not in the journal: {}", tale());
        }
    }
    // Having ended, it stays quiet.
    let after = decide(&run.snapshot()).unwrap();
    assert!(after.append.is_empty() && after.effects.is_empty(), "{:?} after the end of {}", after.effects, tale());
    ending
}

/// Endings that a story may take when the forge refuses or shows something inexplicable.
fn may_end(script: &Script, fault: Fault) -> BTreeSet<Ending> {
    let besides: &[Ending] = match fault {
        // A crash or a delay changes nothing about how it ends.
        Fault::CrashBefore | Fault::CrashAfter | Fault::Zombie | Fault::Later => &[],
        // What takes back and is refused is Stuck; what people can merge is left to them.
        Fault::Waits | Fault::Never => &[Ending::RolledBack, Ending::Held, Ending::Stuck, Ending::Withdrawn],
        Fault::CannotTell => &[Ending::Held, Ending::Stuck],
    };
    besides.iter().copied().chain([script.ends]).chain(script.or_ends).collect()
}

#[test]
fn every_story_ends_as_it_should() {
    for script in scripts() {
        let wanted = script.ends;
        let run = Simulation::new(script, vec![]).run();
        let entries: Vec<_> = run.journal.entries().iter().map(ToString::to_string).collect();
        assert_eq!(check(&run, &[]), wanted, "{}:\n{}", run.world.script.name, entries.join("\n"));
    }
}

#[test]
fn every_fault_at_every_point_of_every_story_ends_honestly() {
    for script in scripts() {
        let points = Simulation::new(script.clone(), vec![]).run().points;
        for point in 0..points {
            for fault in FAULTS {
                let faults = vec![(point, fault)];
                let ending = check(&Simulation::new(script.clone(), faults.clone()).run(), &faults);
                let allowed = may_end(&script, fault);
                assert!(allowed.contains(&ending), "{} ended {ending:?} with {faults:?}", script.name);
            }
        }
    }
}

#[test]
fn a_crash_inside_the_recovery_from_a_crash_changes_nothing() {
    let crashes = [Fault::CrashBefore, Fault::CrashAfter, Fault::Zombie];
    for script in scripts() {
        let points = Simulation::new(script.clone(), vec![]).run().points;
        for point in 0..points {
            for (first, second) in [(0, 0), (1, 1), (1, 0), (2, 1)].map(|(a, b)| (crashes[a], crashes[b])) {
                let faults = vec![(point, first), (point + 1, second)];
                let ending = check(&Simulation::new(script.clone(), faults.clone()).run(), &faults);
                let allowed = may_end(&script, first);
                assert!(allowed.contains(&ending), "{} ended {ending:?} with {faults:?}", script.name);
            }
        }
    }
}

#[test]
fn data_that_comes_back_late_gives_a_late_verdict_and_no_other_ending() {
    let script = scripts().into_iter().find(|script| script.data_back.is_some()).unwrap();
    let run = Simulation::new(script, vec![]).run();
    let standing = run.standing();
    assert_eq!(standing.late_verdict, Some(Word::Pass));
    assert_eq!(standing.phase.ending(), Some(Ending::Unverified));
    let said_late = run.journal.entries().iter().any(|entry| matches!(entry.event, Event::Verified { late: true, .. }));
    assert!(said_late);
}

#[test]
fn an_edit_by_a_person_withdraws_at_once_and_the_very_change_as_soon_as_it_cannot_be_our_merge() {
    for (name, cause, within) in [
        ("a person edits the line while it is open", UndoCause::Outdated, 30),
        ("a person makes the very change", UndoCause::CuredByPeople, 120),
    ] {
        let script = scripts().into_iter().find(|script| script.name == name).unwrap();
        let (edited, _) = script.edited.unwrap();
        let run = Simulation::new(script, vec![]).run();
        let undone = run.standing().undo;
        let (found, began) = undone.unwrap();
        assert_eq!(found, cause, "{name}");
        assert!(began.duration_since(world::at(edited)).as_secs() <= within, "{name}: began {began}");
    }
}

#[test]
fn where_nobody_can_tell_whether_a_person_edited_the_line_nothing_is_withdrawn_for_it() {
    let name = "nobody can tell whether a person edited the line";
    let script = scripts().into_iter().find(|script| script.name == name).unwrap();
    let run = Simulation::new(script, vec![]).run();
    assert_eq!(run.standing().undo.map(|(cause, _)| cause), Some(UndoCause::Expired));
}

#[test]
fn a_held_change_has_its_revert_prepared_as_a_draft() {
    let script = scripts().into_iter().find(|script| script.name == "stuck rollout").unwrap();
    let run = Simulation::new(script, vec![]).run();
    let revert = run.world.sites[&0].revert.as_ref().unwrap();
    assert!(revert.draft && revert.is_open());
}

#[test]
fn a_forge_that_will_not_have_it_yet_blocks_with_its_sentence_and_nothing_is_pushed_before_there_is_room() {
    for (name, sentence) in [
        ("a cap that ends", "the next is possible at"),
        ("a token that is mended late", "the token for the forge lacks the right"),
    ] {
        let script = scripts().into_iter().find(|script| script.name == name).unwrap();
        let until = script.capped_until.or(script.token_mended).unwrap();
        let run = Simulation::new(script, vec![]).run();
        assert_eq!(run.standing().phase.ending(), Some(Ending::Succeeded), "{name}");
        let blocked: Vec<_> =
            run.journal.entries().iter().filter(|entry| matches!(entry.event, Event::Blocked { .. })).collect();
        let [blocked] = blocked.as_slice() else { panic!("{name}: said {} times", blocked.len()) };
        assert!(blocked.because.as_str().contains(sentence), "{name}: {}", blocked.because);
        let first = run.journal.entries().iter().find(|entry| matches!(entry.event, Event::BranchPushed { .. }));
        assert!(first.unwrap().at >= world::at(until), "{name}");
    }
}

#[test]
fn a_revert_is_merged_by_us_through_a_silent_alertmanager_and_never_without_the_right_to_merge() {
    for (name, by_us) in
        [("harm, undone by us although Alertmanager is silent", true), ("harm, and the right to merge is gone", false)]
    {
        let script = scripts().into_iter().find(|script| script.name == name).unwrap();
        let run = Simulation::new(script, vec![]).run();
        let merged = run.world.ledger.iter().any(|(_, kind)| *kind == EffectKind::MergeRevert);
        assert_eq!(merged, by_us, "{name}");
        assert_eq!(run.standing().phase.ending(), Some(Ending::RolledBack), "{name}");
        assert!(run.standing().paged.contains("undo"), "{name}");
    }
}

#[test]
fn steps_are_taken_back_last_one_first() {
    let script = scripts().into_iter().find(|script| script.name == "no better, and two steps").unwrap();
    let run = Simulation::new(script, vec![]).run();
    let reverts = run.world.ledger.iter().filter(|(_, kind)| *kind == EffectKind::OpenRevert);
    assert_eq!(reverts.map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["key1", "key0"]);
}

#[test]
fn a_straight_success_takes_few_entries() {
    let run = Simulation::new(scripts().remove(0), vec![]).run();
    assert!(run.journal.len() <= 14, "{}", run.journal.len());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn any_mixture_of_faults_ends_honestly(
        story in 0..scripts().len(),
        faults in proptest::collection::vec((0_u32..80, 0..FAULTS.len()), 0..12),
    ) {
        let script = scripts().remove(story);
        let faults: Vec<_> = faults.into_iter().map(|(point, fault)| (point, FAULTS[fault])).collect();
        check(&Simulation::new(script, faults.clone()).run(), &faults);
    }
}
