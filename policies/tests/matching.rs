//! Which policies answer, and the sentence of every one that does not.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod story;

use std::collections::BTreeMap;

use amend_diagnosis::diagnosis::Cause;
use amend_diagnosis::entity::EntityKind;
use amend_diagnosis::evidence::Answer;
use amend_policies::matching::{Candidate, matching};
use amend_policies::policy::{CompiledPolicy, PolicyRef};
use story::{oom, policy, policy_ref, unknown};

fn backend() -> Answer<BTreeMap<String, String>> {
    Answer::Known(BTreeMap::from([("tier".into(), "backend".into())]))
}

fn answer(policy: &CompiledPolicy, cause: &Cause, labels: &Answer<BTreeMap<String, String>>) -> (bool, String) {
    let policy_ref = policy_ref();
    let candidate = Candidate { policy_ref: &policy_ref, policy: Some(policy) };
    let one = matching(&[candidate], cause, labels).remove(0);
    (one.matches, one.sentence)
}

#[test]
fn a_policy_answers_its_cause_on_its_target() {
    let (matches, sentence) = answer(&policy(), &oom(), &backend());
    assert!(matches);
    assert_eq!(sentence, "container.oom-killed on shop/Deployment/checkout");
}

#[test]
fn every_reason_not_to_match_is_a_sentence() {
    type Change = fn(&mut CompiledPolicy, &mut Cause);
    let cases: [(Change, &str); 10] = [
        (|policy, _| policy.suspend = true, "suspended"),
        (
            |_, cause| cause.entity.namespace = "bank".into(),
            "in namespace \"bank\"; a policy answers only for its own, \"shop\"",
        ),
        (|_, cause| cause.entity.cluster = "west".into(), "in cluster \"west\""),
        (
            |_, cause| cause.kind = "release.bad-image".into(),
            "the cause is \"release.bad-image\"; the policy answers container.oom-killed",
        ),
        (|_, cause| cause.confidence = 0.79, "confidence 0.79 is below the policy's minConfidence 0.80"),
        (|_, cause| cause.confidence = f64::NAN, "below the policy's minConfidence"),
        (|_, cause| cause.entity.kind = EntityKind::DaemonSet, "the target is a DaemonSet, not a Deployment"),
        (|policy, _| policy.matches.targets.clear(), "names no target"),
        (|policy, _| policy.matches.targets[0].labels.clear(), "an empty selector matches nothing"),
        (|policy, _| policy.matches.targets[0].name = Some("cart".into()), "called \"checkout\", not \"cart\""),
    ];
    for (change, expected) in cases {
        let (mut policy, mut cause) = (policy(), oom());
        change(&mut policy, &mut cause);
        let (matches, sentence) = answer(&policy, &cause, &backend());
        assert!(!matches && sentence.contains(expected), "{expected}: {sentence}");
    }
}

#[test]
fn labels_must_be_known_and_equal() {
    let other = Answer::Known(BTreeMap::from([("tier".into(), "front\u{202e}end".into())]));
    assert!(answer(&policy(), &oom(), &other).1.contains("has \"frontend\" for tier, wanted is \"backend\""));
    let none = Answer::Known(BTreeMap::new());
    assert!(answer(&policy(), &oom(), &none).1.contains("does not carry the label tier"));
    let (matches, sentence) = answer(&policy(), &oom(), &unknown());
    assert!(!matches && sentence.contains("labels are not known: the store did not answer"));
}

#[test]
fn a_policy_with_problems_never_matches() {
    let policy_ref = policy_ref();
    let got = matching(&[Candidate { policy_ref: &policy_ref, policy: None }], &oom(), &backend());
    assert!(!got[0].matches && got[0].sentence.contains("not accepted"));
}

#[test]
fn the_order_of_policies_does_not_matter() {
    let (compiled, refs): (CompiledPolicy, Vec<PolicyRef>) =
        (policy(), ["b", "a", "c"].map(|name| PolicyRef { name: name.into(), ..policy_ref() }).into());
    let mut candidates: Vec<_> =
        refs.iter().map(|policy_ref| Candidate { policy_ref, policy: Some(&compiled) }).collect();
    let first = matching(&candidates, &oom(), &backend());
    candidates.reverse();
    assert_eq!(matching(&candidates, &oom(), &backend()), first);
    assert_eq!(first.iter().map(|one| one.policy.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c"]);
}
