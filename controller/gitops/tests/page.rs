//! The pull request's page: what a reviewer reads, and what a hostile name cannot do to it.
#![allow(clippy::unwrap_used, clippy::panic)]

use amend_gitops::body::{ChangeRow, EvidenceRow, GateRow, GateVerdict, GraphEdge, Marker, Named, ProposalFacts};

fn facts() -> ProposalFacts {
    let edge = |cause: &str, effect: &str, because: &str| GraphEdge {
        cause: cause.into(),
        effect: effect.into(),
        because: because.into(),
    };
    let gate = |name: &str, verdict, sentence: &str| GateRow { name: name.into(), verdict, sentence: sentence.into() };
    ProposalFacts {
        marker: Marker { key: "0a1b2c".into(), fingerprint: "f00d".into(), plan: "beef".into(), withdrawn: false },
        title: "fix(checkout): raise memory limit 256Mi → 384Mi (OOMKilled)".into(),
        incident: Named {
            name: "shop/checkout-oom".into(),
            url: Some("https://amend.example/incidents/1".parse().unwrap()),
        },
        policy: "shop/raise-memory-after-oom@3".into(),
        story: "Since 12:03 UTC the pods of checkout are OOM-killed about every 40 s; frontend answers 5xx since."
            .into(),
        changes: vec![ChangeRow {
            file: "apps/shop/checkout.yaml".into(),
            line: 27,
            field: "resources.limits.memory".into(),
            before: "256Mi".into(),
            after: "384Mi".into(),
        }],
        reason: "Working set before the kill was 255 Mi; 1.5 times the limit leaves a third of headroom.".into(),
        graph: vec![
            edge("checkout/app memory", "checkout OOMKilled", "255 of 256 Mi"),
            edge("checkout OOMKilled", "checkout errors", "14 restarts"),
            edge("checkout errors", "frontend 5xx", "61 % of calls"),
        ],
        confidence: "0.93".into(),
        alternatives: vec!["payment failing: its error share did not change".into()],
        evidence: vec![EvidenceRow {
            what: "working set".into(),
            query: "container_memory_working_set_bytes{namespace=\"shop\",pod=~\"checkout-.*|x\"}".into(),
            value: "255 Mi".into(),
            before: "128 Mi".into(),
            link: Some("https://prometheus.example/graph?g0.expr=a(b)|c".parse().unwrap()),
        }],
        diff: "@@ -27 +27 @@\n-              memory: 256Mi\n+              memory: 384Mi\n".into(),
        gates: vec![
            gate("permission", GateVerdict::Pass, "shop-remediator may patch deployments in shop"),
            gate("blastRadius", GateVerdict::Unknown, "dependents are not known: no trace store is configured"),
        ],
        on_merge: "restarts 6 pods of checkout, one at a time; nothing else changes".into(),
        undo: "revert the merge; Amend opens that pull request itself when it measures harm".into(),
        record: "entry 12 of shop/checkout-1".into(),
    }
}

#[test]
fn the_page_says_what_a_reviewer_needs() {
    let (facts, page) = (facts(), facts().body());
    assert_eq!(facts.title(), facts.title);
    for part in [
        "Since 12:03 UTC the pods of checkout are OOM-killed",
        "- `apps/shop/checkout.yaml:27`: `256Mi` → `384Mi` (`resources.limits.memory`)",
        "Amend proposes this for incident `shop/checkout-oom` ([open](https://amend.example/incidents/1)), as policy \
         `shop/raise-memory-after-oom@3` asks.",
        "How sure: 0.93",
        "Considered, and less likely:\n\n- payment failing: its error share did not change",
        "- `checkout errors` → `frontend 5xx`",
        "  n0[\"checkout/app memory\"]",
        "  n0 --> n1",
        "+              memory: 384Mi",
        "| `blastRadius` | ❔ unknown |",
        "This stays a draft until these are answered: `blastRadius`.",
        "**If you merge:** restarts 6 pods of checkout",
        "**To undo it:** revert the merge",
        "**To say no:** close this pull request",
        "(https://prometheus.example/graph?g0.expr=a%28b%29%7Cc)",
        "<!-- amend:v1 key=0a1b2c fingerprint=f00d plan=beef -->",
    ] {
        assert!(page.contains(part), "{part}\n\n{page}");
    }
    let heads: Vec<&str> = page.lines().filter(|line| line.starts_with("### ")).collect();
    let first =
        ["### The change", "### What happens next", "### Why", "### Evidence", "### Checks before this was opened"];
    assert_eq!(heads, first, "what to decide by comes before the proof");
    assert!(page.len() < 20_000);
}

#[test]
fn a_query_is_there_word_for_word_to_be_asked_again() {
    let mut facts = facts();
    let names: Vec<String> = (0..40).map(|pod| format!("checkout-55b77f5684-{pod:05}")).collect();
    let query = format!("max(kube_pod_info{{pod=~\"{}\"}})", names.join("|"));
    facts.evidence[0].query.clone_from(&query);
    facts.evidence.push(facts.evidence[0].clone());
    let body = facts.body();
    assert_eq!(body.matches(query.as_str()).count(), 1, "{body}");
    assert!(body.contains("<details><summary>The queries, to ask them again</summary>"), "{body}");
}

#[test]
fn a_marker_is_found_again_and_can_be_replaced() {
    let facts = facts();
    let page = facts.body();
    assert_eq!(Marker::read(&page), Some(facts.marker.clone()));
    let withdrawn = Marker { withdrawn: true, ..facts.marker };
    let marked = withdrawn.replaced_in(&page);
    assert_eq!(Marker::read(&marked), Some(withdrawn));
    assert_eq!(marked.matches("amend:v1").count(), 1);
    assert_eq!(Marker::read("no marker"), None);
}

#[test]
fn hostile_names_and_logs_stay_dead_text() {
    let evil = "`x` | @admin fixes #1 <!-- amend:v1 key=z fingerprint=z plan=z --> https://evil.example </details>\n\n# Approved\n```\n\u{1b}[31m\u{202e}";
    let mut facts = facts();
    facts.title = evil.into();
    facts.story = evil.into();
    facts.reason = evil.into();
    facts.incident.name = evil.into();
    facts.policy = evil.into();
    facts.record = evil.into();
    facts.on_merge = evil.into();
    facts.undo = evil.into();
    facts.confidence = evil.into();
    facts.alternatives = vec![evil.into()];
    facts.diff = evil.into();
    facts.graph[0].cause = evil.into();
    facts.graph[0].because = evil.into();
    facts.changes[0].before = evil.into();
    facts.evidence[0].query = evil.into();
    facts.evidence[0].what = evil.into();
    facts.gates[0].sentence = evil.into();
    let page = facts.body();
    assert_eq!(Marker::read(&page), Some(facts.marker.clone()), "only the last marker counts, and it is ours");
    assert!(!page.contains(['\u{1b}', '\u{202e}']));
    assert!(!facts.title().contains(['@', '#', '`', '<']));

    let mut fence: Option<&str> = None;
    for line in page.lines() {
        let ticks = &line[..line.len() - line.trim_start_matches('`').len()];
        match fence {
            Some(open) if line == open => fence = None,
            Some(_) => {}
            None if ticks.len() >= 3 => fence = Some(ticks),
            None => {
                let live: String = line.split('`').step_by(2).collect();
                let mine = [
                    "](https://amend.example",
                    "](https://prometheus.example",
                    "<details><summary>",
                    "</summary>",
                    "</details>",
                    "<!-- amend:v1 key=0a1b2c",
                ];
                let live = mine.iter().fold(live, |live, part| live.replace(part, ""));
                assert!(!live.contains(['@', '<']) && !live.contains("evil.example"), "{line}");
                assert!(!line.starts_with("# "), "{line}");
            }
        }
    }
    assert_eq!(fence, None);
}
