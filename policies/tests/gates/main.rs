//! Every gate, one changed fact at a time: what it says and whether it blocks.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod blast_radius;
#[path = "../story/mod.rs"]
mod story;

use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::Answer::Known;
use amend_policies::gate::cooldown::PastAction;
use amend_policies::gate::environment::{FieldWriter, Hold, Silence, Silences};
use amend_policies::gate::fits::limit_range::{LimitKind, LimitRange};
use amend_policies::gate::fits::pod::Resource;
use amend_policies::gate::fits::quota::QuotaRoom;
use amend_policies::gate::rollback::DryRun;
use amend_policies::gate::{GateFacts, clear, clear_for_draft, evaluate_all};
use amend_policies::plan::FieldEdit;
use amend_policies::policy::Autonomy;
use amend_policies::verdict::{GateName, Outcome, Readiness, Verdict, readiness};
use story::{facts, now, plan, planned, policy, policy_of, quantity, unknown};

/// The verdict on one question after one change to facts under which all pass.
fn judged(question: &str, change: impl FnOnce(&mut GateFacts)) -> Verdict {
    let plan = plan();
    let mut facts = facts(&plan);
    change(&mut facts);
    let verdicts = evaluate_all(&policy(), &plan, &facts, now());
    let asked = |verdict: &&Verdict| verdict.question == question && verdict.outcome != Outcome::Pass;
    verdicts.iter().find(asked).or_else(|| verdicts.iter().find(|one| one.question == question)).unwrap().clone()
}

#[track_caller]
fn fails(question: &str, contains: &str, change: impl FnOnce(&mut GateFacts)) {
    let verdict = judged(question, change);
    assert_eq!(verdict.outcome, Outcome::Fail, "{verdict:?}");
    assert!(verdict.sentence.contains(contains), "{}", verdict.sentence);
}

#[track_caller]
fn passes(question: &str, contains: &str, change: impl FnOnce(&mut GateFacts)) {
    let verdict = judged(question, change);
    assert_eq!(verdict.outcome, Outcome::Pass, "{verdict:?}");
    assert!(verdict.sentence.contains(contains), "{}", verdict.sentence);
}

#[test]
fn a_plan_is_cleared_when_every_gate_passes() {
    let plan = plan();
    let verdicts = evaluate_all(&policy(), &plan, &facts(&plan), now());
    assert!(verdicts.iter().all(|verdict| verdict.outcome == Outcome::Pass), "{verdicts:#?}");
    assert_eq!(clear(&plan.digest(), &verdicts).unwrap().plan(), &plan.digest());
    for gate in
        [GateName::Permission, GateName::Environment, GateName::BlastRadius, GateName::Rollback, GateName::Confidence]
    {
        assert!(verdicts.iter().any(|verdict| verdict.gate == gate));
    }
}

#[test]
fn the_four_dimensions_and_the_sureness_are_judged_although_no_policy_lists_them() {
    let bare = policy_of(&story::POLICY.replace("gates:", "unused:")).compile().unwrap();
    assert!(bare.gates.is_empty());
    let plan = plan();
    let verdicts = evaluate_all(&bare, &plan, &facts(&plan), now());
    let gates: std::collections::BTreeSet<_> = verdicts.iter().map(|verdict| verdict.gate).collect();
    assert_eq!(gates.len(), 5);
}

#[test]
fn verdicts_about_another_plan_clear_nothing() {
    let plan = plan();
    let verdicts = evaluate_all(&policy(), &plan, &facts(&plan), now());
    let mut other = plan.clone();
    other.revision = 2;
    let blocked = clear(&other.digest(), &verdicts).unwrap_err();
    assert!(blocked.reasons[0].contains("another plan"));
    assert!(clear_for_draft(&other.digest(), Autonomy::Propose, &verdicts).is_err());
}

#[test]
fn a_policy_that_observes_clears_nothing() {
    let mut plan = plan();
    plan.autonomy = Autonomy::Observe;
    let verdicts = evaluate_all(&policy(), &plan, &facts(&plan), now());
    assert_eq!(readiness(Autonomy::Observe, &verdicts), Readiness::Ready);
    assert_eq!(clear(&plan.digest(), &verdicts).unwrap_err().reasons, ["the policy only observes"]);
    for autonomy in [Autonomy::Observe, Autonomy::Propose] {
        assert!(clear_for_draft(&plan.digest(), autonomy, &verdicts).is_err());
    }
}

#[test]
fn without_an_alertmanager_people_get_a_draft_that_says_so_and_nothing_acts() {
    let plan = plan();
    let mut facts = facts(&plan);
    facts.environment.silences = Silences::NobodyToAsk;
    let verdicts = evaluate_all(&policy(), &plan, &facts, now());
    let Readiness::Draft { gaps } = readiness(Autonomy::Propose, &verdicts) else { panic!("{verdicts:?}") };
    assert!(gaps.len() == 1 && gaps[0].contains("no TelemetrySource of kind Alertmanager"), "{gaps:?}");
    assert!(matches!(readiness(Autonomy::Act, &verdicts), Readiness::Blocked { .. }));
    // One that is declared and silent may hold a silence.
    facts.environment.silences = Silences::Asked(unknown());
    let verdicts = evaluate_all(&policy(), &plan, &facts, now());
    assert!(matches!(readiness(Autonomy::Propose, &verdicts), Readiness::Blocked { .. }));
}

/// What follows from an answer of this confidence, and what the gate says to it.
fn at_confidence(sure: f64, autonomy: Autonomy) -> (Readiness, String) {
    let mut plan = plan();
    plan.autonomy = autonomy;
    let mut facts = facts(&plan);
    facts.cause.confidence = sure;
    let verdicts = evaluate_all(&policy(), &plan, &facts, now());
    let verdict = verdicts.iter().find(|one| one.gate == GateName::Confidence).unwrap();
    (readiness(autonomy, &verdicts), verdict.sentence.clone())
}

#[test]
fn an_answer_that_says_no_probability_is_a_draft_at_most() {
    for sure in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, 0.0, -0.2, 1.01] {
        let (proposed, sentence) = at_confidence(sure, Autonomy::Propose);
        assert!(sentence.contains("the answer says no probability"), "{sure}: {sentence}");
        let Readiness::Draft { gaps } = proposed else { panic!("{sure}: {proposed:?}") };
        assert!(gaps.len() == 1 && gaps[0].contains("no probability"), "{sure}: {gaps:?}");
        let (acted, _) = at_confidence(sure, Autonomy::Act);
        assert!(matches!(acted, Readiness::Blocked { .. }), "{sure}: {acted:?}");
    }
}

#[test]
fn an_answer_below_the_bar_of_its_class_is_told_to_people_and_never_acted_on() {
    for (sure, told) in [
        (0.95, "the answer is 95 % sure; a scale follows by itself from 98.75 % on"),
        (0.01, "the answer is 1 % sure; a scale follows by itself from 98.75 % on"),
    ] {
        let (ready, sentence) = at_confidence(sure, Autonomy::Propose);
        assert!(sentence.contains(told) && sentence.ends_with("people decide"), "{sentence}");
        assert_eq!(ready, Readiness::Ready, "people merge it");
        let (ready, _) = at_confidence(sure, Autonomy::Act);
        let Readiness::Blocked { reasons } = ready else { panic!("{ready:?}") };
        assert!(
            reasons.iter().any(|reason| reason.starts_with("confidence: ") && reason.contains(told)),
            "{reasons:?}"
        );
    }
    passes("answer", "81 of 81 labelled answers", |facts| facts.cause.confidence = 0.99);
}

#[test]
fn what_nobody_has_measured_is_a_draft_for_people_and_never_an_act() {
    let held = |contains: &str, kind: &str| {
        let plan = plan();
        let mut facts = facts(&plan);
        facts.cause.kind = kind.into();
        let verdicts = evaluate_all(&policy(), &plan, &facts, now());
        let Readiness::Draft { gaps } = readiness(Autonomy::Propose, &verdicts) else { panic!("{verdicts:?}") };
        assert!(gaps.len() == 1 && gaps[0].contains(contains) && gaps[0].ends_with("people decide"), "{gaps:?}");
        assert!(matches!(readiness(Autonomy::Act, &verdicts), Readiness::Blocked { .. }));
        assert!(clear(&plan.digest(), &verdicts).is_err());
    };
    held("nobody has measured", "shop.cart-lost");
    // More memory for a pod whose probe asks wrongly would be a new configuration that mends nothing.
    held("44 labelled answers (0 wrong) are too few", cause::PROBE);
}

#[test]
fn every_unknown_fact_blocks_with_its_reason() {
    let plan = plan();
    type Change = fn(&mut GateFacts);
    let changes: [(&str, Change); 19] = [
        ("access", |facts| facts.permission.access = unknown()),
        ("grant", |facts| facts.permission.grants = unknown()),
        ("grant", |facts| facts.permission.rendered = unknown()),
        ("writers", |facts| facts.environment.writers = unknown()),
        ("hold", |facts| facts.environment.holds = unknown()),
        ("silence", |facts| facts.environment.silences = Silences::Asked(unknown())),
        ("suspended", |facts| facts.environment.suspended = unknown()),
        ("firing", |facts| facts.environment.firing = unknown()),
        ("unavailable", |facts| facts.blast_radius.rollout = unknown()),
        ("budget", |facts| facts.blast_radius.budgets = unknown()),
        ("dependents", |facts| facts.blast_radius.dependents = unknown()),
        ("elsewhere", |facts| facts.blast_radius.elsewhere = unknown()),
        ("deed", |facts| facts.rollback.deed = unknown()),
        ("undo", |facts| facts.rollback.inverse = unknown()),
        ("node", |facts| facts.fits.pod = unknown()),
        ("node", |facts| facts.fits.nodes = unknown()),
        ("quota", |facts| facts.fits.quotas = unknown()),
        ("limitRange", |facts| facts.fits.limit_ranges = unknown()),
        ("wait", |facts| facts.cooldown.history = unknown()),
    ];
    for (question, change) in changes {
        let mut facts = facts(&plan);
        change(&mut facts);
        let verdicts = evaluate_all(&policy(), &plan, &facts, now());
        let verdict = verdicts.iter().find(|one| one.outcome == Outcome::Unknown).unwrap();
        assert_eq!(verdict.question, question);
        assert!(verdict.sentence.contains("the store did not answer in 5s"), "{}", verdict.sentence);
        assert!(clear(&plan.digest(), &verdicts).is_err(), "{question}");
        assert!(matches!(readiness(Autonomy::Act, &verdicts), Readiness::Blocked { .. }), "{question}");
        let draft = matches!(readiness(Autonomy::Propose, &verdicts), Readiness::Draft { .. });
        assert_eq!(draft, ["dependents", "elsewhere"].contains(&question), "{question}");
    }
}

#[test]
fn an_unknown_among_dependents_makes_a_draft_that_names_the_gap() {
    let plan = plan();
    let mut facts = facts(&plan);
    facts.blast_radius.dependents = unknown();
    let verdicts = evaluate_all(&policy(), &plan, &facts, now());
    let draft = clear_for_draft(&plan.digest(), Autonomy::Propose, &verdicts).unwrap();
    assert_eq!(draft.gaps(), ["blastRadius: cannot tell who depends on the target: the store did not answer in 5s"]);
    facts.environment.firing = Known(0);
    let verdicts = evaluate_all(&policy(), &plan, &facts, now());
    assert!(clear_for_draft(&plan.digest(), Autonomy::Propose, &verdicts).is_err(), "a fail blocks the draft too");
}

#[test]
fn no_verdict_is_not_a_yes() {
    assert!(matches!(readiness(Autonomy::Propose, &[]), Readiness::Blocked { .. }));
}

#[test]
fn a_missing_right_names_verb_object_and_the_rule_to_add() {
    fails(
        "access",
        "shop/shop-remediator may not patch deployments shop/checkout; add to a Role in namespace shop: {apiGroups: [\"apps\"], resources: [\"deployments\"], verbs: [\"patch\"], resourceNames: [\"checkout\"]}",
        |facts| {
            if let Known(reviews) = &mut facts.permission.access {
                reviews[0].allowed = false;
            }
        },
    );
    let unasked = judged("access", |facts| facts.permission.access = Known(Vec::new()));
    assert_eq!(unasked.outcome, Outcome::Unknown);
}

#[test]
fn merging_needs_its_own_verb_in_act_only() {
    let mut plan = plan();
    let verbs = |plan: &amend_policies::plan::Plan| -> Vec<String> {
        amend_policies::gate::permission::accesses_needed(plan).into_iter().map(|access| access.verb).collect()
    };
    assert_eq!(verbs(&plan), ["patch", "propose"]);
    plan.autonomy = Autonomy::Act;
    assert_eq!(verbs(&plan), ["patch", "propose", "merge"]);
}

#[test]
fn every_rendered_change_lies_inside_one_grant() {
    let grant = |facts: &mut GateFacts, change: &dyn Fn(&mut amend_policies::grant::Grant)| {
        if let Known(grants) = &mut facts.permission.grants {
            change(&mut grants[0]);
        }
    };
    fails("grant", "grants nothing to namespace shop", |facts| grant(facts, &|grant| grant.namespace = "bank".into()));
    fails("grant", "the file \"apps/shop/checkout.yaml\"", |facts| {
        grant(facts, &|grant| grant.paths = vec!["apps/bank/**".into()])
    });
    fails("grant", "the kind \"Deployment\"", |facts| grant(facts, &|grant| grant.kinds = vec!["StatefulSet".into()]));
    fails("grant", "the field spec.template", |facts| {
        grant(facts, &|grant| grant.fields = vec!["spec.replicas".into()])
    });
    fails("grant", "namespace \"bank\"", |facts| {
        if let Known(rendered) = &mut facts.permission.rendered {
            rendered[0].object.namespace = "bank".into();
        }
    });
    fails("grant", "no difference", |facts| facts.permission.rendered = Known(Vec::new()));
}

#[test]
fn whoever_else_writes_the_field_is_named() {
    fails("writers", "VerticalPodAutoscaler shop/checkout also writes spec.template", |facts| {
        facts.environment.writers = Known(vec![FieldWriter {
            who: "VerticalPodAutoscaler shop/checkout".into(),
            field: "spec.template.spec.containers[app].resources".parse().unwrap(),
        }]);
    });
    passes("writers", "nobody else", |facts| {
        let field = "spec.replicas".parse().unwrap();
        facts.environment.writers =
            Known(vec![FieldWriter { who: "HorizontalPodAutoscaler shop/checkout".into(), field }]);
    });
}

#[test]
fn holds_silences_suspensions_and_quiet_alerts_stop_it() {
    fails("hold", "Namespace shop carries amend.dev/hold \"release week\"", |facts| {
        facts.environment.holds =
            Known(vec![Hold { on: "Namespace shop".into(), reason: "release\u{202e} week\n".into() }]);
    });
    fails("silence", "silence \"s-1\" by \"ann\"", |facts| {
        let silence = Silence { id: "s-1".into(), by: "ann".into(), comment: "known".into() };
        facts.environment.silences = Silences::Asked(Known(vec![silence]));
    });
    fails("suspended", "resume it first", |facts| {
        facts.environment.suspended = Known(vec!["Kustomization flux-system/shop".into()]);
    });
    fails("firing", "none of the incident's signals fires", |facts| facts.environment.firing = Known(0));
}

#[test]
fn the_way_back_must_be_exact_and_tried() {
    fails("undo", "refused in a dry run: quota exceeded", |facts| {
        facts.rollback.inverse = Known(DryRun::Refused { because: "quota\u{1b} exceeded".into() });
    });
    let mut broken = plan();
    broken.steps[0].undo.files.clear();
    let verdicts = evaluate_all(&policy(), &broken, &facts(&broken), now());
    assert!(verdicts.iter().any(|verdict| verdict.sentence.contains("no exact inverse")));
}

#[test]
fn a_pod_that_fits_nowhere_is_not_proposed() {
    fails("node", "none of 1 nodes has room (most free memory: 64Mi)", |facts| {
        if let Known(nodes) = &mut facts.fits.nodes {
            nodes[0].memory_free = quantity("64Mi");
        }
    });
    fails("node", "more than the largest node has", |facts| {
        if let Known(nodes) = &mut facts.fits.nodes {
            nodes[0].memory_allocatable = quantity("300Mi");
        }
    });
    fails("node", "no node may run this pod", |facts| facts.fits.nodes = Known(Vec::new()));
    fails("quota", "ResourceQuota shop allows 1Gi of limits.memory", |facts| {
        let (resource, hard, used) = ("limits.memory".into(), quantity("1Gi"), quantity("1Gi"));
        facts.fits.quotas = Known(vec![QuotaRoom { name: "shop".into(), resource, hard, used }]);
    });
    let counted = |resource: &str, hard: &str, used: &str| {
        let (resource, hard, used) = (resource.to_owned(), quantity(hard), quantity(used));
        Known(vec![QuotaRoom { name: "shop".into(), resource, hard, used }])
    };
    fails("quota", "allows 6 of pods: 6 are used and the rollout adds 1", |facts| {
        facts.fits.quotas = counted("pods", "6", "6");
    });
    fails(
        "quota",
        "counts limits.cpu, so that every container must name it, and container \"app\" does not",
        |facts| {
            facts.fits.quotas = counted("limits.cpu", "100", "0");
        },
    );
    passes("quota", "stay within every ResourceQuota", |facts| facts.fits.quotas = counted("secrets", "1", "1"));
    let range = |kind| LimitRange::new("shop", kind, Resource::Memory);
    fails("limitRange", "allows at most 300Mi memory per container", |facts| {
        facts.fits.limit_ranges =
            Known(vec![LimitRange { max: Some(quantity("300Mi")), ..range(LimitKind::Container) }]);
    });
    fails("limitRange", "allows a memory limit of at most 2 times the request per pod", |facts| {
        facts.fits.limit_ranges =
            Known(vec![LimitRange { max_limit_request_ratio: Some(quantity("2")), ..range(LimitKind::Pod) }]);
    });
}

fn past(minutes: i64, policy: &str, edits: Vec<FieldEdit>) -> PastAction {
    let at = now() - jiff::SignedDuration::from_mins(minutes);
    PastAction { at, target: plan().target.object(), policy: policy.into(), edits }
}

#[test]
fn cooldown_waits_counts_and_never_goes_in_circles() {
    fails("wait", "the last action was 3m ago, the policy waits 5m", |facts| {
        facts.cooldown.history = Known(vec![past(3, "other", Vec::new())]);
    });
    fails("perTarget", "1 actions on this target in 30d, at most 1", |facts| {
        facts.cooldown.history = Known(vec![past(60, "p-1", Vec::new())]);
    });
    passes("perTarget", "0 of at most 1", |facts| {
        facts.cooldown.history = Known(vec![past(60, "other", Vec::new()), past(31 * 24 * 60, "p-1", Vec::new())]);
    });
    fails("circle", "set spec.template.spec.containers[app].resources.limits.memory back", |facts| {
        let back = plan().steps[0].undo.files[0].edits.clone();
        facts.cooldown.history = Known(vec![past(60, "other", back)]);
    });
    fails("wait", "the last action was 0s ago", |facts| {
        facts.cooldown.history = Known(vec![past(-5, "other", Vec::new())]);
    });
}

#[test]
fn an_expression_sees_incident_target_and_cause() {
    let plan = plan();
    let judge = |cel: &str| {
        let yaml = story::POLICY.replace("incident.severity != 'info'", cel);
        let policy = policy_of(&yaml).compile().unwrap();
        let verdicts = evaluate_all(&policy, &plan, &facts(&plan), now());
        verdicts.iter().find(|verdict| verdict.gate == GateName::Expression).unwrap().clone()
    };
    for cel in [
        "incident.severity == 'critical' && incident.ageSeconds < 60",
        "target.metadata.labels.tier == 'backend' && target.spec.replicas >= 2",
        "cause.kind.startsWith('container.') && cause.confidence > 0.9",
        "target.spec.template.spec.containers.exists(c, c.name == 'app')",
        "size(incident.signals) == 0",
    ] {
        assert_eq!(judge(cel).outcome, Outcome::Pass, "{cel}: {}", judge(cel).sentence);
    }
    assert_eq!(judge("incident.severity == 'info'").sentence, "info incidents are not remediated");
    for (cel, why) in [
        ("target.metadata.labels.owner == 'a'", "there is no \"owner\""),
        ("incident.severity", "neither true nor false"),
        ("1 / (target.spec.replicas - 4) == 1", "cannot tell"),
    ] {
        let verdict = judge(cel);
        assert_eq!(verdict.outcome, Outcome::Unknown, "{cel}");
        assert!(verdict.sentence.contains(why), "{}", verdict.sentence);
    }
}

#[test]
fn the_story_plan_is_the_same_every_time() {
    assert_eq!(planned().unwrap(), planned().unwrap());
    assert_eq!(plan().digest(), plan().digest());
}
