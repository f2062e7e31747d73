//! A corpus of bad policies: each is refused with the sentence that says what to change, and none breaks anything else.
//!
//! Every case is the story's good policy with one slip in it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]

mod story;

use amend_policies::lint::{self, Severity};
use serde_json::{Value, json};

/// From, to, path, and a part of the sentence.
type Slip = (&'static str, &'static str, &'static str, &'static str);

const SLIPS: [Slip; 64] = [
    // Typos and unknown fields: the API server would prune them in silence.
    (
        "maxUnavailable",
        "maxUnavailible",
        "gates[0].blastRadius.maxUnavailible",
        "unknown field \"maxUnavailible\": did you mean maxUnavailable?",
    ),
    ("abortWhen", "abortwhen", "abortwhen", "did you mean abortWhen?"),
    ("autonomy: Propose", "autonmy: Propose", "autonmy", "did you mean autonomy?"),
    ("minConfidence", "minconfidence", "match.minconfidence", "did you mean minConfidence?"),
    (
        "factor: 1.5, max",
        "factor: 1.5, maximum",
        "steps[0].git.setResources.memory.maximum",
        "unknown field \"maximum\"",
    ),
    ("perTarget: { max", "perTarget: { maxx", "gates[2].cooldown.perTarget.max", "is missing"),
    ("matchLabels", "matchLables", "match.targets[0].selector.matchLables", "did you mean matchLabels?"),
    (
        "matchLabels: { tier: backend }",
        "matchExpressions: []",
        "match.targets[0].selector.matchExpressions",
        "unknown field",
    ),
    ("setResources", "setResource", "steps[0].git.setResource", "did you mean setResources?"),
    (
        "setResources: {",
        "restart: {",
        "steps[0].git.restart",
        "unknown field \"restart\": remove it; there are revertCommit, setImage, setResources",
    ),
    (
        "autonomy: Propose",
        "dryRun: true",
        "dryRun",
        "unknown field \"dryRun\": remove it; there are abortWhen, autonomy, ",
    ),
    (
        "verify: { settle",
        "verify: { \"set\\u202etle\": auto, settle",
        "verify.set\u{202e}tle",
        "unknown field \"settle\"",
    ),
    (
        "rollback: { when:",
        "rollback: { \"true\": [], when:",
        "rollback.true",
        "YAML reads the keys on, off, yes and no",
    ),
    ("rollback: { when:", "rollback: { \"on\":", "rollback.when", "is missing"),
    // Wrong words and types.
    (
        "autonomy: Propose",
        "autonomy: propose",
        "autonomy",
        "\"propose\" is not one of Observe, Propose, Act: did you mean Propose?",
    ),
    ("autonomy: Propose", "autonomy: Automatic", "autonomy", "\"Automatic\" is not one of Observe, Propose, Act"),
    ("autonomy: Propose", "autonomy: [Propose]", "autonomy", "must be one of Observe, Propose, Act"),
    (
        "kind: Deployment",
        "kind: Pod",
        "match.targets[0].kind",
        "\"Pod\" is not one of Deployment, StatefulSet, DaemonSet",
    ),
    ("metric: errorRatio", "metric: errorRate", "abortWhen[0].metric", "did you mean errorRatio?"),
    ("restarts]", "restart]", "verify.golden[3]", "did you mean restarts?"),
    ("Aborted, VerificationFailed", "Failed", "rollback.when[0]", "is not one of Aborted"),
    ("via: RevertPullRequest", "via: ForcePush", "rollback.via", "\"ForcePush\" is not one of RevertPullRequest"),
    ("increase: 15%", "increase: 15", "abortWhen[0].increase", "must be text: put it in quotes, with its unit"),
    (
        "maxDependents: 5",
        "maxDependents: five",
        "gates[0].blastRadius.maxDependents",
        "must be a whole number, not text",
    ),
    ("maxDependents: 5", "maxDependents: -5", "gates[0].blastRadius.maxDependents", "whole number from 0"),
    ("factor: 1.5", "factor: '1.5'", "steps[0].git.setResources.memory.factor", "must be a number, not text"),
    ("[container.oom-killed]", "container.oom-killed", "match.causes", "must be a list, not text"),
    (
        "serviceAccountName: shop-remediator",
        "serviceAccountName:",
        "serviceAccountName",
        "is empty: give it a value (text) or remove it",
    ),
    ("serviceAccountName: shop-remediator", "suspend: 'yes'", "suspend", "must be true or false, not text"),
    ("steps:", "others:", "steps", "is missing"),
    // Durations.
    (
        "for: 5m",
        "for: 5min",
        "gates[2].cooldown.for",
        "\"5min\" is not a duration: the units are w, d, h, m, s and ms; write it like 30s, 5m or 1h30m",
    ),
    ("for: 5m", "for: -5m", "gates[2].cooldown.for", "it is negative"),
    ("for: 5m", "for: '5'", "gates[2].cooldown.for", "the unit is missing"),
    ("for: 5m", "for: 1.5h", "gates[2].cooldown.for", "fractions are not allowed"),
    ("for: 5m", "for: 0s", "gates[2].cooldown.for", "it is zero"),
    ("in: 30d", "in: 30y", "gates[2].cooldown.perTarget.in", "the units are"),
    ("in: 30d", "in: 900d", "gates[2].cooldown.perTarget.in", "longer than a year"),
    ("after: 15m", "after: soon", "escalate[0].after", "a number is expected"),
    ("settle: auto", "settle: automatic", "verify.settle", "or auto"),
    ("settle: auto", "settle: 2h", "verify.settle", "watching for 2h never ends within sla.recover of 10m"),
    ("autonomy: Propose", "sla: { merge: tomorrow }", "sla.merge", "\"tomorrow\" is not a duration"),
    // Quantities, percentages, numbers.
    ("max: 2Gi", "max: 2GB", "steps[0].git.setResources.memory.max", "the suffix has no B: Mi, not MB or MiB"),
    ("max: 2Gi", "max: '0'", "steps[0].git.setResources.memory.max", "zero is not a limit"),
    ("max: 2Gi", "max: lots", "steps[0].git.setResources.memory.max", "it must begin with a number"),
    (", max: 2Gi", "", "steps[0].git.setResources.memory", "a factor needs max"),
    ("factor: 1.5", "factor: 0.5", "steps[0].git.setResources.memory.factor", "0.5 is out of bounds"),
    ("factor: 1.5", "factor: 40", "steps[0].git.setResources.memory.factor", "at most 4"),
    ("factor: 1.5", "factor: 1.5, to: 1Gi", "steps[0].git.setResources.memory", "not both"),
    ("factor: 1.5, max: 2Gi", "to: 3Gi, max: 2Gi", "steps[0].git.setResources.memory.to", "3Gi is above max 2Gi"),
    (
        "maxUnavailable: 50%",
        "maxUnavailable: 150%",
        "gates[0].blastRadius.maxUnavailable",
        "more than the whole; write at most 100%",
    ),
    (
        "maxUnavailable: 50%",
        "maxUnavailable: half",
        "gates[0].blastRadius.maxUnavailable",
        "neither a number nor a percentage",
    ),
    ("increase: 15%", "increase: 1.234%", "abortWhen[0].increase", "at most two decimals"),
    ("minConfidence: 0.8", "minConfidence: 80", "match.minConfidence", "write a number above 0 and at most 1"),
    ("perTarget: { max: 1", "perTarget: { max: 0", "gates[2].cooldown.perTarget.max", "0 allows nothing ever"),
    // Empty selectors and lists.
    ("matchLabels: { tier: backend }", "matchLabels: {}", "match.targets[0]", "an empty selector matches nothing"),
    (", selector: { matchLabels: { tier: backend } }", "", "match.targets[0]", "give a name or at least one label"),
    ("[container.oom-killed]", "[]", "match.causes", "an empty list matches nothing"),
    (
        "[container.oom-killed]",
        "[\"*\"]",
        "match.causes[0]",
        "\"*\" is not a cause; causes are written like container.oom-killed",
    ),
    (
        "blastRadius: { maxUnavailable: 50%, maxDependents: 5 }",
        "blastRadius: {}\n    fits: {}",
        "gates[0]",
        "write each as its own list item",
    ),
    ("fits: {}", "{}", "gates[1]", "name one gate here"),
    // Expressions.
    ("incident.severity != 'info'", "incident.severity !=", "gates[3].expression.cel", "the expression does not parse"),
    (
        "incident.severity != 'info'",
        "severity != 'info'",
        "gates[3].expression.cel",
        "refers to \"severity\"; it can see incident, target and cause",
    ),
    ("incident.severity != 'info'", "exec('rm')", "gates[3].expression.cel", "calls \"exec\"; it can call contains"),
    (
        "incident.severity != 'info'",
        "incident.signals.all(a, incident.signals.all(b, a == b))",
        "gates[3].expression.cel",
        "a loop inside a loop",
    ),
];

#[test]
fn every_slip_is_named_with_its_place_and_what_to_write() {
    for (from, to, path, sentence) in SLIPS {
        assert!(story::POLICY.contains(from), "{from}");
        let raw = story::yaml_value(&story::POLICY.replacen(from, to, 1));
        let (compiled, findings) = lint::read(&raw);
        assert!(compiled.is_none(), "{to} is accepted");
        let found = findings.iter().any(|finding| {
            finding.severity == Severity::Error && finding.path == path && finding.sentence.contains(sentence)
        });
        assert!(found, "{to}\nwanted {path}: {sentence}\ngot {findings:#?}");
    }
}

fn with(pointer: &str, value: Value) -> Value {
    let mut raw = story::yaml_value(story::POLICY);
    *raw.pointer_mut(pointer).unwrap() = value;
    raw
}

#[track_caller]
fn refused(raw: &Value, path: &str, sentence: &str) {
    let (compiled, findings) = lint::read(raw);
    assert!(compiled.is_none());
    let found = findings.iter().any(|finding| finding.path == path && finding.sentence.contains(sentence));
    assert!(found, "{findings:#?}");
}

#[test]
fn hostile_text_is_shown_short_and_plain() {
    for hostile in
        ["\u{1b}[31mred", "@everyone", "![x](http://evil)", "a\u{202e}b", "<script>", "a\nb", &"x".repeat(100_000)]
    {
        for pointer in [
            "/match/causes/0",
            "/serviceAccountName",
            "/steps/0/name",
            "/gates/2/cooldown/for",
            "/gates/3/expression/cel",
        ] {
            let (compiled, findings) = lint::read(&with(pointer, json!(hostile)));
            assert!(compiled.is_none(), "{pointer} {hostile:.20}");
            for finding in findings {
                assert!(finding.sentence.len() < 400, "{}", finding.sentence.len());
                assert!(!finding.sentence.chars().any(char::is_control), "{:?}", finding.sentence);
                assert!(!finding.sentence.contains('\u{202e}'));
            }
        }
    }
}

#[test]
fn several_problems_are_told_at_once() {
    let mut raw = with("/gates/2/cooldown/for", json!("5min"));
    raw["abortWhen"][0]["increase"] = json!("lots");
    raw["steps"][0]["git"]["setResources"]["memory"]["max"] = json!("2GB");
    assert_eq!(lint::read(&raw).1.len(), 3);
}

#[test]
fn what_is_no_policy_at_all_is_refused() {
    for raw in [json!(null), json!([]), json!("policy"), json!(5), json!({})] {
        assert!(lint::read(&raw).0.is_none(), "{raw}");
    }
    refused(&json!({}), "match", "is missing");
    let mut deep = json!({});
    for _ in 0..100 {
        deep = json!({ "match": deep });
    }
    assert!(lint::read(&deep).0.is_none());
}

#[test]
fn expressions_are_bounded() {
    let cel = |text: String| with("/gates/3/expression/cel", json!(text));
    let path = "gates[3].expression.cel";
    refused(&cel("1 + ".repeat(300) + "1 > 0"), path, "at most 1024 are allowed");
    refused(&cel("(".repeat(400) + "true" + &")".repeat(400)), path, "nests deeper");
    refused(&cel("!".repeat(900) + "true"), path, "nests deeper");
    refused(&cel(" ".into()), path, "the expression is empty");
    refused(&with("/gates/3/expression/message", json!(" ")), "gates[3].expression.message", "say in a sentence");
    for odd in [
        "\u{0}",
        "'",
        "\"\\u",
        "[[[",
        "a.b.c(",
        "1.2.3",
        "\u{1f600}",
        "incident.",
        "{}{}",
        "true ? :",
        "9999999999999999999999",
    ] {
        assert!(lint::read(&cel(odd.into())).0.is_none(), "{odd}");
    }
}

#[test]
fn steps_have_names_of_their_own() {
    let step = story::yaml_value(story::POLICY)["steps"][0].clone();
    refused(&with("/steps", json!([step, step])), "steps[1].name", "two steps are called \"raise-limit\"");
    refused(&with("/steps", json!([])), "steps", "name at least one step");
    let both = json!({ "setImage": {}, "revertCommit": {} });
    refused(&with("/steps/0/git", both), "steps[0].git", "write each as a step of its own");
    refused(
        &with("/steps/0/git", json!({ "setImage": { "to": "app" } })),
        "steps[0].git.setImage.to",
        "not an image with a tag",
    );
    refused(
        &with("/steps/0/git", json!({ "setImage": { "to": "app:latest" } })),
        "steps[0].git.setImage.to",
        "not an image with a tag",
    );
    refused(
        &with("/steps/0/git", json!({ "revertCommit": { "maxFiles": 0 } })),
        "steps[0].git.revertCommit.maxFiles",
        "from 1 to 100",
    );
}

#[test]
fn advice_is_given_on_policies_that_will_disappoint() {
    let minimal = story::yaml_value(
        "{match: {causes: [container.oom-killed, release.bad-image, made.up, container.oom-kiled, container.cpu-pressure], targets: [{kind: Deployment, selector: {matchLabels: {a: b}}}], minConfidence: 0.3}, \
         autonomy: Act, serviceAccountName: a, steps: [{name: a, git: {setResources: {memory: {factor: 2, max: 1Gi}}}}]}",
    );
    let (compiled, findings) = lint::read(&minimal);
    assert!(compiled.is_some());
    for expected in [
        "no diagnosis names the cause \"made.up\", so this never matches: there are container.oom-killed, ",
        "no diagnosis names the cause \"container.oom-kiled\", so this never matches: did you mean container.oom-killed?",
        "more than half of the proposals may be wrong",
        "Act without a cooldown",
        "nothing stops a rollout",
        "may not fit any node",
        "a bad release is not cured by resources",
        "success is judged by errorRatio and restarts only",
        "taken back by default",
        "nobody is told",
        "Act on every workload with one label is broad",
    ] {
        let found = findings.iter().any(|one| one.severity == Severity::Warning && one.sentence.contains(expected));
        assert!(found, "{expected}: {findings:#?}");
    }
    assert_eq!(lint::read(&story::yaml_value(story::POLICY)).1, []);
}
