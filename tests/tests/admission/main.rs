//! Bad input that the API server refuses: the CRDs' schemas and rules, and the chart's admission policies.
//!
//! `cases/` holds one input per file, in the order in which they are sent:
//!
//! ```text
//! # why: what the author did wrong
//! # as: tenant                      (optional; else an administrator)
//! # refused: a part of the sentence that the author must read    (one line or more)
//! the object; documents before the last one are good and make the ground for it
//! ```
//!
//! `FILL_1400000` in a file stands for that many letters. Every input is sent twice, as a strict client (kubectl) and as one
//! that does not ask for checks, since a rule that holds for careful clients only is none.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use amend_tests::bench::{Bench, Part, until};
use anyhow::{Context, bail};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind};
use serde_json::Value;

const NAMESPACE: &str = "bad-input";

/// Admission policies are in force a moment after they are stored.
const IN_FORCE_WITHIN: Duration = Duration::from_secs(60);

/// One bad input.
#[derive(Debug)]
struct Case {
    file: String,
    as_tenant: bool,
    refused: Vec<String>,
    /// Good objects that come first.
    ground: Vec<Value>,
    bad: Value,
}

fn cases() -> anyhow::Result<Vec<Case>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/admission/cases");
    let mut files: Vec<_> = std::fs::read_dir(&folder)?.collect::<Result<_, _>>()?;
    files.sort_by_key(std::fs::DirEntry::file_name);
    files.iter().map(|file| case(&file.path()).with_context(|| file.path().display().to_string())).collect()
}

fn case(path: &Path) -> anyhow::Result<Case> {
    let text = std::fs::read_to_string(path)?;
    let said = |key: &str| -> Vec<String> {
        let mark = format!("# {key}: ");
        text.lines().filter_map(|line| line.strip_prefix(&mark)).map(str::to_owned).collect()
    };
    let (why, refused, who) = (said("why"), said("refused"), said("as"));
    if why.is_empty() || refused.is_empty() {
        bail!("a case says why it is bad and what its author reads");
    }
    let mut documents: Vec<Value> = serde_saphyr::from_multiple(&filled(&text)).context("not YAML")?;
    let bad = documents.pop().context("no object")?;
    let file = path.file_stem().context("a file has a name")?.to_string_lossy().into_owned();
    Ok(Case { file, as_tenant: who.iter().any(|who| who == "tenant"), refused, ground: documents, bad })
}

/// The text with `FILL_n` replaced by n letters.
fn filled(text: &str) -> String {
    let Some((before, after)) = text.split_once("FILL_") else { return text.to_owned() };
    let digits = after.len() - after.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let count = after[..digits].parse().unwrap_or_default();
    format!("{before}{}{}", "x".repeat(count), filled(&after[digits..]))
}

/// How carefully a client asks.
#[derive(Clone, Copy, Debug)]
enum Care {
    Strict,
    Ignore,
}

async fn send(client: &Client, object: &Value, care: Care) -> Result<Value, kube::Error> {
    let resource = resource_of(object);
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), NAMESPACE, &resource);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let (method, place, mut body) = match api.get_opt(name).await {
        Ok(Some(live)) => {
            let mut changed = object.clone();
            changed["metadata"]["resourceVersion"] = Value::from(live.metadata.resource_version.unwrap_or_default());
            ("PUT", format!("/{name}"), changed)
        }
        // Who may not read may still try to create.
        Ok(None) | Err(_) => ("POST", String::new(), object.clone()),
    };
    body["metadata"]["namespace"] = Value::from(NAMESPACE);
    let url = format!("{}{place}?fieldValidation={care:?}", api.resource_url());
    let request = http::Request::builder().method(method).uri(url).header("content-type", "application/json");
    let request = request.body(body.to_string().into_bytes()).map_err(kube::Error::HttpError)?;
    client.request::<Value>(request).await
}

fn resource_of(object: &Value) -> ApiResource {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let version = text(&object["apiVersion"]);
    let (group, version) = version.split_once('/').unwrap_or(("", &version));
    let kind = text(&object["kind"]);
    let plural = match kind.as_str() {
        "RemediationPolicy" => "remediationpolicies".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, &kind), &plural)
}

/// What is wrong with how one input was answered.
async fn complaint(case: &Case, admin: &Client, tenant: &Client, care: Care) -> anyhow::Result<Option<String>> {
    for object in &case.ground {
        send(admin, object, Care::Strict).await.context("the ground of the case is refused")?;
    }
    let client = if case.as_tenant { tenant } else { admin };
    let answer = send(client, &case.bad, care).await;
    Ok(match answer {
        Ok(_) => {
            let name = case.bad["metadata"]["name"].as_str().unwrap_or_default();
            let api: Api<DynamicObject> = Api::namespaced_with(admin.clone(), NAMESPACE, &resource_of(&case.bad));
            // Let no accepted input stand in the way of the second try.
            let _ = api.delete(name, &kube::api::DeleteParams::default()).await;
            Some("it is accepted".to_owned())
        }
        Err(kube::Error::Api(status)) => {
            let missing = case.refused.iter().find(|part| !status.message.contains(part.as_str()));
            let shown: String = status.message.chars().take(600).collect();
            missing.map(|part| format!("the author does not read {part:?} but {shown:?}"))
        }
        Err(error) => Some(format!("it is refused without a sentence: {error}")),
    })
}

/// A user of the namespace with Kubernetes' own role `edit`, and no more.
const TENANT: &str = "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: tenant}\n---\n\
    apiVersion: rbac.authorization.k8s.io/v1\nkind: RoleBinding\nmetadata: {name: tenant}\n\
    roleRef: {apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: edit}\n\
    subjects: [{kind: ServiceAccount, name: tenant, namespace: bad-input}]\n";

#[tokio::test(flavor = "multi_thread")]
async fn every_bad_input_is_refused_with_a_sentence_that_says_what_to_change() -> anyhow::Result<()> {
    let bench = Bench::shared(&[Part::ControlPlane, Part::Helm]).await?;
    let control_plane = bench.control_plane();
    control_plane.create_namespace(NAMESPACE).await?;
    control_plane.apply(NAMESPACE, TENANT).await?;
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/amend");
    let remediators = format!("remediators=[{{\"namespace\":\"{NAMESPACE}\",\"gitTargets\":[\"platform\"]}}]");
    bench.helm().install(&control_plane.kubeconfig(), &chart, "amend", "amend-system", &[&remediators]).await?;
    let admin = control_plane.client().await?;
    let tenant = control_plane.client_for_service_account(NAMESPACE, "tenant").await?;
    let cases = cases()?;
    assert!(cases.len() >= 40, "{} inputs", cases.len());

    for policy in ["approval-by-another", "policy-with-a-foreign-account"] {
        let canary = cases.iter().find(|case| case.file == policy).with_context(|| format!("no case {policy}"))?;
        until("the admission policies to be in force", IN_FORCE_WITHIN, || async {
            let complaint = complaint(canary, &admin, &tenant, Care::Ignore).await?;
            Ok::<_, anyhow::Error>(complaint.is_none().then_some(()))
        })
        .await?;
    }

    let mut complaints = BTreeMap::new();
    for case in &cases {
        for care in [Care::Strict, Care::Ignore] {
            let found = complaint(case, &admin, &tenant, care).await.with_context(|| case.file.clone())?;
            if let Some(complaint) = found {
                complaints.insert(format!("{} ({care:?})", case.file), complaint);
            }
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
    Ok(())
}
