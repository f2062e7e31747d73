//! Text that was written to hurt whoever shows it: in alert names, labels, annotations, logs and commit messages.

use amend_sandbox::Scenario;
use amend_sandbox::telemetry::rules::AlertRule;
use amend_tests::embedded::{Embedded, INTAKE_TOKEN};

use crate::{alone, incident, the_pull_request};

/// Markdown, HTML, mentions, links, commands, our own marker, a terminal escape and a reordering.
const HOSTILE: &str = "@everyone [prize](https://evil.example/x) <img src=x onerror=alert(1)> \u{1b}[31mred \u{202e}txt.exe /approve fixes #1 ``` <!-- amend:v1 key=a fingerprint=b plan=c --> |";

fn hostile_world() -> Scenario {
    let mut scenario = Scenario::oom();
    if let Some(rule) = scenario.rules.iter().find(|rule| rule.alert == "HighErrorRatio").cloned() {
        let annotations = rule.annotations.into_iter().map(|(key, text)| (key, format!("{text} {HOSTILE}"))).collect();
        let mut labels = rule.labels;
        labels.insert("runbook".to_owned(), format!("javascript:alert(1) {HOSTILE}"));
        scenario.rules.push(AlertRule { alert: format!("Errors {HOSTILE}"), labels, annotations, ..rule });
    }
    if let Some(service) = scenario.graph.services.get_mut("checkout") {
        for version in service.versions.values_mut() {
            version.error_message = HOSTILE.to_owned();
        }
    }
    for release in &mut scenario.releases {
        release.message = format!("checkout: {HOSTILE}\n\n{HOSTILE}");
    }
    scenario
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_text_is_inert_wherever_it_is_shown() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = Embedded::start(hostile_world()).await?;
    incident(&world).await?;

    let pull = the_pull_request(&world).await?;
    for text in [&pull.title, &pull.body] {
        assert_inert(text);
    }
    for comment in world.world.forge().comments(&world.endpoints.repository, pull.number) {
        assert_inert(&comment.body);
    }
    assert!(pull.body.contains("everyone") && pull.body.contains("evil.example"), "the text is there to be read");
    assert_eq!(pull.body.matches("<!-- amend:v1 ").count(), 1, "one marker, ours:\n{}", pull.body);

    let incident = world.all("incidents.amend.dev");
    let name = incident[0]["metadata"]["name"].as_str().unwrap_or_default();
    let status = incident[0]["status"].to_string();
    assert!(!status.contains("\\u001b") && !status.contains('\u{202e}'), "{status}");
    for page in [String::new(), format!("incidents/shop/{name}")] {
        let html = reqwest::get(format!("{}/{page}", world.url)).await?.text().await?;
        assert!(html.contains("checkout"), "{html}");
        assert!(!html.contains("<img src=x") && !html.contains("href=\"javascript:"), "{html}");
        assert!(!html.contains('\u{1b}') && !html.contains('\u{202e}'), "{html}");
    }
    Ok(())
}

/// Outside of code there is nothing that Markdown, a forge or a terminal could act on.
fn assert_inert(text: &str) {
    assert!(!text.chars().any(|letter| matches!(letter, '\u{1b}' | '\u{202a}'..='\u{202e}')), "{text:?}");
    let shown = without_code(text);
    for live in ["@everyone", "](https://evil", "<img", "javascript:", "/approve", "#1 "] {
        assert!(!shown.contains(live), "{live} is live in:\n{text}");
    }
}

/// The text without fenced blocks and code spans.
fn without_code(text: &str) -> String {
    let mut shown = String::new();
    let mut fence: Option<String> = None;
    for line in text.lines() {
        let ticks: String = line.trim_start().chars().take_while(|letter| *letter == '`').collect();
        match &fence {
            Some(open) if ticks.len() >= open.len() => fence = None,
            Some(_) => {}
            None if ticks.len() >= 3 => fence = Some(ticks),
            None => {
                for (position, part) in line.split('`').enumerate() {
                    if position % 2 == 0 {
                        shown.push_str(part);
                        shown.push(' ');
                    }
                }
                shown.push('\n');
            }
        }
    }
    shown
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_webhooks_are_refused_with_a_reason_and_the_next_good_one_is_taken() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = Embedded::start(Scenario::oom()).await?;
    let send = |body: String| {
        let request =
            reqwest::Client::new().post(format!("{}/intake/alertmanager", world.url)).bearer_auth(INTAKE_TOKEN);
        async move {
            let answer = request.body(body).send().await?;
            Ok::<_, anyhow::Error>((answer.status().as_u16(), answer.text().await?))
        }
    };
    let alert = |labels: &str| {
        format!(
            r#"{{"version":"4","alerts":[{{"status":"firing","labels":{labels},"startsAt":"2026-03-02T09:00:00Z"}}]}}"#
        )
    };
    let bad = [
        ("x".repeat(1_400_000), 413, "larger than 1048576 bytes"),
        ("[".repeat(100_000), 422, "nested deeper"),
        ("{\"version\":".to_owned(), 422, "EOF"),
        (r#"{"version":"3","alerts":[]}"#.to_owned(), 422, "version"),
        (r#"{"version":"4","alerts":"none"}"#.to_owned(), 422, "expected a sequence"),
        // One alert that makes no sense must not keep the others of its message out: counted, not stored.
        (alert(r#"["namespace","shop"]"#), 200, "\"accepted\":0"),
        (alert("{}"), 200, "\"accepted\":0"),
        (alert(r#"{"alertname":"Watchdog","severity":"none"}"#), 200, "\"accepted\":0"),
    ];
    for (body, status, part) in bad {
        let (got, said) = send(body.clone()).await?;
        assert!(got == status && said.contains(part), "{:.80}: {got} {said}", body);
    }
    assert!(world.all("incidents.amend.dev").is_empty(), "{:?}", world.told());

    incident(&world).await?;
    the_pull_request(&world).await?;
    Ok(())
}
