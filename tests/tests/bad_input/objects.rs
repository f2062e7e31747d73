//! Objects with a slip that no schema can see.
//!
//! `cases/` holds one input per file:
//!
//! ```text
//! # why: what the author did wrong
//! # says: a part of the sentence in its condition    (one line or more)
//! the object; documents before the last one are good and make the ground for it
//! ```
//!
//! `FILL_1400000` stands for that many letters.

use std::path::Path;

use amend_sandbox::Scenario;
use amend_tests::embedded::Embedded;
use anyhow::{Context, bail};
use serde_json::Value;

use crate::{SOON, alone, condition, incident, the_pull_request};

/// Longest sentence that anybody reads, and that a status may hold.
const SENTENCE_MAX: usize = 2100;

#[derive(Debug)]
struct Case {
    file: String,
    says: Vec<String>,
    yaml: String,
    resource: String,
    namespace: String,
    name: String,
}

fn cases(world: &Embedded) -> anyhow::Result<Vec<Case>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/bad_input/cases");
    let mut files: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    files.iter().map(|file| case(&file.path(), world).with_context(|| file.path().display().to_string())).collect()
}

fn case(path: &Path, world: &Embedded) -> anyhow::Result<Case> {
    let text = std::fs::read_to_string(path)?;
    let says: Vec<String> = text.lines().filter_map(|line| line.strip_prefix("# says: ")).map(str::to_owned).collect();
    if says.is_empty() || !text.contains("# why: ") {
        bail!("a case says why it is bad and what its condition says");
    }
    let yaml = world.filled(&text).replace("FILL_1400000", &"x".repeat(1_400_000));
    let documents: Vec<Value> = serde_saphyr::from_multiple(&yaml).context("not YAML")?;
    let object = documents.last().context("no object")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let resource = match object["kind"].as_str().unwrap_or_default() {
        "RemediationPolicy" => "remediationpolicies.amend.dev".to_owned(),
        kind => format!("{}s.amend.dev", kind.to_lowercase()),
    };
    let file = path.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
    let (namespace, name) = (text(&object["metadata"]["namespace"]), text(&object["metadata"]["name"]));
    Ok(Case { file, says, yaml, resource, namespace, name })
}

/// What is wrong with how the controller answered; `None` when all is well.
fn complaint(case: &Case, world: &Embedded) -> Option<String> {
    let Some(object) = world.one(&case.resource, &case.namespace, &case.name) else {
        return Some("the object is not there".to_owned());
    };
    let Some(said) = condition(&object, "Ready", "False") else {
        return Some(format!("no condition refuses it: {}", object["status"]["conditions"]));
    };
    let hidden =
        |letter: char| letter.is_control() || matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    if said.len() > SENTENCE_MAX || said.chars().any(hidden) {
        return Some(format!(
            "the sentence is long or holds letters that nobody sees: {:?}",
            &said[..said.len().min(400)]
        ));
    }
    let missing = case.says.iter().find(|part| !said.contains(part.as_str()))?;
    Some(format!("wanted {missing:?}, it says {said:?}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_object_gets_its_sentence_and_the_good_ones_go_on_working() -> anyhow::Result<()> {
    let _alone = alone().await;
    let world = Embedded::start(Scenario::oom()).await?;
    let cases = cases(&world)?;
    assert!(cases.len() >= 30, "{} inputs", cases.len());
    for case in &cases {
        world.world.apply_yaml(&case.yaml).with_context(|| case.file.clone())?;
    }
    let complaints = |world: &Embedded| -> Vec<String> {
        cases.iter().filter_map(|case| Some(format!("{}: {}", case.file, complaint(case, world)?))).collect()
    };
    let judged = world.wait("every bad object to be judged", SOON, |world| complaints(world).is_empty().then_some(()));
    if judged.await.is_err() {
        bail!("{:#?}", complaints(&world));
    }

    incident(&world).await?;
    let pull = the_pull_request(&world).await?;
    let diff = world
        .world
        .forge()
        .diff(&world.endpoints.repository, pull.number)
        .map_err(|no| anyhow::anyhow!("{}", no.message))?;
    assert!(diff.contains("+              memory: 384Mi"), "{diff}");
    assert_eq!(complaints(&world), Vec::<String>::new(), "what was refused stays refused");
    Ok(())
}
