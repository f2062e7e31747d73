//! Diagnosis of cases that the workload model makes: the cause is known, so every confident answer can be judged.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::time::{Duration, Instant};

use amend_diagnosis::diagnose::diagnose;
use amend_diagnosis::diagnosis::Diagnosis;
use amend_tests::cases::stories::{decoys, faults};
use amend_tests::cases::turned::{Renaming, amid_others, shuffled, with_quiet_neighbour};
use amend_tests::cases::{Case, DAMAGES, Stage};

/// A case with everything in it; the machine that runs the tests may be busy and unoptimised.
const TIME_MAX: Duration = Duration::from_secs(60);

fn told(case: &Case, diagnosis: &Diagnosis) -> String {
    let best = diagnosis.causes.iter().take(3);
    let best: Vec<String> =
        best.map(|cause| format!("{} on {} ({:.2})", cause.kind, cause.entity.name, cause.confidence)).collect();
    let silent = if diagnosis.abstained.is_some() { " silent" } else { "" };
    format!("{}:{silent} {}; right would be {:?}", case.name, best.join(", "), case.truth.entities)
}

/// Cases with a confident answer that is wrong, told in words.
fn wrong_and_sure(cases: &[(Case, Diagnosis)]) -> Vec<String> {
    let sure = cases.iter().filter(|(_, diagnosis)| diagnosis.actionable().is_some());
    sure.filter(|(case, diagnosis)| !case.truth.is_met_by(diagnosis)).map(|(case, got)| told(case, got)).collect()
}

fn diagnosed(cases: Vec<Case>) -> Vec<(Case, Diagnosis)> {
    let diagnosed = cases.into_iter().map(|case| {
        let diagnosis = diagnose(&case.observations);
        println!("{}", told(&case, &diagnosis));
        (case, diagnosis)
    });
    diagnosed.collect()
}

#[test]
fn of_eight_kinds_of_fault_at_least_seven_are_named_and_none_wrongly() {
    let cases = diagnosed(faults(7));
    assert_eq!(wrong_and_sure(&cases), Vec::<String>::new());
    let wrong: Vec<String> =
        cases.iter().filter(|(case, got)| !case.truth.is_met_by(got)).map(|(case, got)| told(case, got)).collect();
    assert!(wrong.len() <= 1, "{wrong:#?}");
}

#[test]
fn no_decoy_is_blamed_with_confidence() {
    let cases = decoys();
    assert_eq!(cases.len(), 60);
    assert_eq!(wrong_and_sure(&diagnosed(cases)), Vec::<String>::new());
}

#[test]
fn damaged_cases_are_bounded_and_never_make_a_wrong_answer_sure() {
    let good: Vec<Case> = faults(3)
        .into_iter()
        .filter(|case| {
            ["memory", "bad release", "latency of one dependency", "node pressure"].contains(&case.name.as_str())
        })
        .collect();
    let (mut answered, mut wrong, mut rises) = (0, Vec::new(), Vec::new());
    let (mut whole_sum, mut damaged_sum, mut count) = (0.0, 0.0, 0);
    for case in good {
        let whole = diagnose(&case.observations);
        println!("{}", told(&case, &whole));
        for (name, damage) in DAMAGES {
            let mut damaged = case.clone();
            damaged.name = format!("{} with damage: {name}", case.name);
            damage(&mut damaged.observations);
            let start = Instant::now();
            let got = diagnose(&damaged.observations);
            let took = start.elapsed();
            println!("{took:.2?} {}", told(&damaged, &got));
            assert!(took < TIME_MAX, "{name} took {took:.1?}");
            count += 1;
            let sure = |diagnosis: &Diagnosis| diagnosis.causes.first().map_or(0.0, |cause| cause.confidence);
            whole_sum += sure(&whole);
            damaged_sum += sure(&got);
            assert!(got.causes.iter().all(|cause| (0.0..=1.0).contains(&cause.confidence)), "{name}: {got:#?}");
            if sure(&got) > sure(&whole) + 0.05 {
                rises.push(told(&damaged, &got));
            }
            if got.actionable().is_some() {
                answered += 1;
                if !damaged.truth.is_met_by(&got) {
                    wrong.push(told(&damaged, &got));
                }
            }
            if name.starts_with("no ")
                && let Some(why) = &got.abstained
            {
                assert!(why.contains("unknown ("), "{name}: the lack is not shown: {why}");
            }
        }
    }
    assert!(count >= 40);
    let precision = 1.0 - wrong.len() as f64 / f64::from(answered).max(1.0);
    println!("{count} damaged cases, {answered} answered, precision {precision:.3}");
    println!(
        "mean confidence {:.3} whole, {:.3} damaged",
        whole_sum / f64::from(count),
        damaged_sum / f64::from(count)
    );
    assert!(precision >= 0.95, "{wrong:#?}");
    assert!(damaged_sum < whole_sum, "confidence must fall");
    assert_eq!(rises, Vec::<String>::new(), "what is lost makes nobody surer");
}

/// Kind and entity of every cause, best first.
fn ranking(diagnosis: &Diagnosis) -> Vec<(String, String)> {
    diagnosis.causes.iter().map(|cause| (cause.kind.clone(), cause.entity.name.clone())).collect()
}

#[test]
fn the_order_of_the_input_does_not_matter() {
    for case in faults(5) {
        let told = diagnose(&case.observations);
        for seed in 0..2 {
            let got = diagnose(&shuffled(&case.observations, seed));
            assert_eq!(ranking(&got), ranking(&told), "{}", case.name);
            assert_eq!(got.abstained, told.abstained, "{}", case.name);
        }
    }
}

#[test]
fn renaming_all_services_does_not_change_the_ranking() {
    for (seed, case) in faults(5).into_iter().enumerate() {
        let names = Renaming::of(Stage::shop(0).workloads.into_keys(), seed);
        let told = diagnose(&case.observations);
        let got = diagnose(&names.of_case(&case.observations));
        let renamed: Vec<(String, String)> =
            ranking(&told).into_iter().map(|(kind, name)| (kind, names.text(&name))).collect();
        assert_eq!(ranking(&got).first(), renamed.first(), "{}", case.name);
        let sure = |diagnosis: &Diagnosis| diagnosis.causes.first().map(|cause| cause.confidence);
        assert_eq!(sure(&got), sure(&told), "{}", case.name);
        let mut sorted = [ranking(&got), renamed];
        sorted.iter_mut().for_each(|ranking| ranking.sort());
        assert_eq!(sorted[0], sorted[1], "{}", case.name);
    }
}

#[test]
fn an_unrelated_quiet_service_does_not_change_the_answer() {
    for case in faults(5) {
        let told = diagnose(&case.observations);
        let got = diagnose(&with_quiet_neighbour(&case.observations));
        assert_eq!(ranking(&got), ranking(&told), "{}", case.name);
        assert_eq!(got.actionable().is_some(), told.actionable().is_some(), "{}", case.name);
    }
}

#[test]
fn a_whole_platform_around_the_incident_neither_hides_nor_replaces_its_cause() {
    let cases = faults(5).into_iter().filter(|case| case.name == "memory" || case.name == "bad release");
    for case in cases {
        let seen = amid_others(&case.observations, 2_000, 50_000);
        assert_eq!(seen.series.known().map(Vec::len), Some(2_000));
        assert_eq!(seen.spans.known().map(Vec::len), Some(50_000));
        let start = Instant::now();
        let got = diagnose(&seen);
        assert!(start.elapsed() < TIME_MAX, "{:.1?}", start.elapsed());
        assert!(case.truth.is_met_by(&got) && got.actionable().is_some(), "{}", told(&case, &got));
    }
}
