//! The chart, rendered by the real Helm: what it may, what it refuses, what its switches add.

#![allow(clippy::panic, reason = "a helper of a test fails the test")]

mod files;
mod monitoring;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use amend_controller::settings::Settings;
use amend_tests::bench::{Bench, Part};
use clap::Parser;
use serde_json::{Value, json};

/// Everything that the chart can switch on, at once.
const EVERYTHING: [&str; 18] = [
    "remediators=[{\"namespace\":\"shop\",\"gitTargets\":[\"platform\"],\"merge\":true,\"policyAuthors\":[{\"kind\":\"Group\",\"name\":\"shop-team\"},{\"kind\":\"ServiceAccount\",\"name\":\"flux\",\"namespace\":\"flux-system\"}]},{\"namespace\":\"bank\"}]",
    "networkPolicy.enabled=true",
    "podDisruptionBudget.enabled=true",
    "serviceMonitor={\"enabled\":true,\"labels\":{\"release\":\"kube-prometheus\"}}",
    "prometheusRule={\"enabled\":true,\"labels\":{\"release\":\"kube-prometheus\"}}",
    "grafanaDashboard.enabled=true",
    "replicas=3",
    "intake.ciSecret=\"amend-ci\"",
    "paging={\"url\":\"https://pager.example.com/hook\",\"secret\":\"amend-page\"}",
    "model={\"url\":\"https://models.example.com/v1\",\"name\":\"small\",\"secretName\":\"amend-model\"}",
    "tracing.endpoint=\"http://collector.monitoring:4318\"",
    "publicUrl=\"https://amend.example.com\"",
    "tls={\"secret\":\"amend-tls\",\"clientCaSecret\":\"amend-clients\"}",
    "podAnnotations={\"team\":\"platform\"}",
    "podLabels={\"team\":\"platform\"}",
    "nodeSelector={\"kubernetes.io/os\":\"linux\"}",
    "tolerations=[{\"key\":\"infra\",\"operator\":\"Exists\"}]",
    "extraEnv=[{\"name\":\"RUST_LOG\",\"value\":\"info\"}]",
];

/// Verbs that change nothing.
const READS: [&str; 3] = ["get", "list", "watch"];

const SHOP: &str = "remediators=[{\"namespace\":\"shop\"}]";

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/amend")
}

async fn rendered(values: &[&str]) -> Vec<Value> {
    let bench = Bench::shared(&[Part::Helm]).await.expect("Helm can be built");
    let text = bench.helm().template(&chart(), "amend", "amend-system", values).await;
    let text = text.unwrap_or_else(|refusal| panic!("{values:?}: {refusal:#}"));
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("Helm renders YAML");
    documents.into_iter().filter(|document| !document.is_null()).collect()
}

async fn refusal(value: &str) -> String {
    let bench = Bench::shared(&[Part::Helm]).await.expect("Helm can be built");
    match bench.helm().template(&chart(), "amend", "amend-system", &[value]).await {
        Ok(_) => panic!("{value} is taken"),
        Err(refusal) => format!("{refusal:#}"),
    }
}

fn of_kind<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|document| document["kind"] == kind).collect()
}

fn named<'a>(documents: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let found = documents.iter().find(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    found.unwrap_or_else(|| panic!("no {kind} {name}"))
}

/// Helm reads every number as a float and writes large ones as such.
fn with_plain_numbers(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(with_plain_numbers).collect(),
        Value::Object(fields) => fields.iter().map(|(name, inner)| (name.clone(), with_plain_numbers(inner))).collect(),
        Value::Null | Value::Bool(_) | Value::String(_) => value.clone(),
    }
}

fn texts(value: &Value) -> Vec<&str> {
    value.as_array().map(|items| items.iter().filter_map(Value::as_str).collect()).unwrap_or_default()
}

/// One right, flattened: what RBAC would grant.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Right {
    /// Namespace of the Role; empty for a ClusterRole.
    namespace: String,
    group: String,
    resource: String,
    verb: String,
    /// Names that it is limited to; empty: any.
    names: Vec<String>,
}

fn rights_of_role(role: &Value) -> Vec<Right> {
    let namespace = role["metadata"]["namespace"].as_str().unwrap_or_default();
    let mut rights = Vec::new();
    for rule in role["rules"].as_array().into_iter().flatten() {
        assert!(rule["nonResourceURLs"].is_null(), "{rule}");
        for group in texts(&rule["apiGroups"]) {
            for resource in texts(&rule["resources"]) {
                for verb in texts(&rule["verbs"]) {
                    rights.push(Right {
                        namespace: namespace.to_owned(),
                        group: group.to_owned(),
                        resource: resource.to_owned(),
                        verb: verb.to_owned(),
                        names: texts(&rule["resourceNames"]).into_iter().map(str::to_owned).collect(),
                    });
                }
            }
        }
    }
    rights
}

/// Everything that the bindings of these documents give to an account.
fn rights_of(documents: &[Value], namespace: &str, account: &str) -> Vec<Right> {
    let mut rights = Vec::new();
    for binding in documents.iter().filter(|one| one["kind"].as_str().is_some_and(|kind| kind.ends_with("RoleBinding")))
    {
        let subjects = binding["subjects"].as_array().expect("a binding has subjects");
        let ours = subjects.iter().any(|subject| subject["name"] == account && subject["namespace"] == namespace);
        if !ours {
            continue;
        }
        let reference = &binding["roleRef"];
        let role = documents
            .iter()
            .find(|one| {
                one["kind"] == reference["kind"]
                    && one["metadata"]["name"] == reference["name"]
                    && (reference["kind"] == "ClusterRole"
                        || one["metadata"]["namespace"] == binding["metadata"]["namespace"])
            })
            .unwrap_or_else(|| panic!("a binding names a role that is not there: {binding}"));
        rights.extend(rights_of_role(role));
    }
    rights
}

#[tokio::test]
async fn no_role_holds_a_wildcard_or_can_grant_rights() {
    for values in [&[][..], &EVERYTHING] {
        let documents = rendered(values).await;
        let roles: Vec<&Value> =
            documents.iter().filter(|one| matches!(one["kind"].as_str(), Some("Role" | "ClusterRole"))).collect();
        assert!(roles.len() >= 4, "{}", roles.len());
        for right in roles.iter().flat_map(|role| rights_of_role(role)) {
            for word in [&right.group, &right.resource, &right.verb] {
                assert!(!word.contains('*'), "{right:?}");
            }
            assert!(!["bind", "escalate"].contains(&right.verb.as_str()), "{right:?}");
            assert_ne!(right.group, "rbac.authorization.k8s.io", "{right:?}");
            assert!(!right.resource.starts_with("pods/"), "{right:?}");
        }
    }
}

#[tokio::test]
async fn by_default_the_controller_changes_nothing_but_its_own_objects() {
    let documents = rendered(&[]).await;
    let rights = rights_of(&documents, "amend-system", "amend");
    assert!(rights.len() > 100, "{}", rights.len());
    for right in rights.iter().filter(|right| !READS.contains(&right.verb.as_str())) {
        let own_namespace = right.namespace == "amend-system";
        let allowed = match (right.group.as_str(), right.resource.as_str(), right.verb.as_str()) {
            ("amend.dev", _, _) => true,
            ("" | "events.k8s.io", "events", "create" | "patch") => true,
            ("authorization.k8s.io", "subjectaccessreviews", "create") => true,
            ("authentication.k8s.io", "tokenreviews", "create") => true,
            ("coordination.k8s.io", "leases", "create" | "update" | "patch") => own_namespace,
            // RBAC cannot limit a create by name. The record head and the signing key are made once and never overwritten.
            ("", "configmaps" | "secrets", "create") => own_namespace,
            ("", "configmaps", "update") => own_namespace && right.names == ["amend-record-head"],
            _ => false,
        };
        assert!(allowed, "{right:?}");
    }
}

#[tokio::test]
async fn secrets_are_read_by_name_in_the_release_namespace_only() {
    let documents = rendered(&EVERYTHING).await;
    for role in documents.iter().filter(|one| matches!(one["kind"].as_str(), Some("Role" | "ClusterRole"))) {
        for right in rights_of_role(role).iter().filter(|right| right.resource == "secrets") {
            assert_eq!(right.namespace, "amend-system", "{right:?}");
            assert!(["get", "create"].contains(&right.verb.as_str()), "{right:?}");
        }
    }
}

#[tokio::test]
async fn the_crds_are_those_of_the_source_tree_and_outlive_the_release() {
    let documents = rendered(&[]).await;
    let crds = of_kind(&documents, "CustomResourceDefinition");
    let wanted = amend_crds::schema::definitions().expect("the CRDs can be made");
    assert_eq!(crds.len(), wanted.len());
    for definition in wanted {
        let name = definition.metadata.name.clone().expect("a CRD has a name");
        let shown = named(&documents, "CustomResourceDefinition", &name);
        let file = std::fs::read_to_string(
            chart().join(format!("../../crds/yaml/amend.dev_{}.yaml", definition.spec.names.plural)),
        );
        let file: Value = serde_saphyr::from_str(&file.expect("the CRD is checked in")).expect("it is YAML");
        assert_eq!(
            with_plain_numbers(&shown["spec"]),
            with_plain_numbers(&file["spec"]),
            "{name}: run `make generate`"
        );
        assert_eq!(shown["metadata"]["annotations"]["helm.sh/resource-policy"], "keep", "{name}");
    }
    let without = rendered(&["crds.enabled=false"]).await;
    assert!(of_kind(&without, "CustomResourceDefinition").is_empty());
}

#[tokio::test]
async fn a_typo_in_the_values_is_refused_by_its_name() {
    for (value, words) in [
        ("remediatiors=[{\"namespace\":\"shop\"}]", &["remediatiors"][..]),
        ("remediators=[{\"namepsace\":\"shop\"}]", &["remediators", "namepsace"]),
        ("remediators=[{\"serviceAccountName\":\"me\"}]", &["remediators", "namespace"]),
        ("remediators=[{\"namespace\":\"shop\",\"merge\":\"yes\"}]", &["merge", "boolean"]),
        ("intake.clearFor=\"five minutes\"", &["clearFor"]),
        ("intake.absentFor=\"0m\"", &["absentFor"]),
        ("tls.clientCaSecret=\"authority\"", &["tls", "secret"]),
        ("egress.allow=[\"prometheus.monitoring\"]", &["egress", "allow"]),
        ("replicas=0", &["replicas", "1"]),
        ("image.digest=\"latest\"", &["digest"]),
        ("networkPolicy.enable=true", &["networkPolicy", "enable"]),
        ("prometheusRule.label={}", &["prometheusRule", "label"]),
        ("grafanaDashboard.labels={\"grafana_dashboard\":1}", &["grafana_dashboard", "string"]),
        ("tests.enabled=\"no\"", &["tests", "boolean"]),
        ("publicUrl=\"amend.example.com\"", &["publicUrl"]),
        ("model.url=\"https://models.example.com/v1\"", &["model", "name"]),
    ] {
        let told = refusal(value).await;
        for word in words {
            assert!(told.contains(word), "{value}: {told}");
        }
    }
}

#[tokio::test]
async fn each_switch_adds_its_object_and_is_off_by_default() {
    let count = |documents: &[Value], kind: &str| of_kind(documents, kind).len();
    let plain = rendered(&[]).await;
    for (switch, kind) in [
        ("networkPolicy.enabled=true", "NetworkPolicy"),
        ("podDisruptionBudget.enabled=true", "PodDisruptionBudget"),
        ("serviceMonitor.enabled=true", "ServiceMonitor"),
        ("prometheusRule.enabled=true", "PrometheusRule"),
        ("grafanaDashboard.enabled=true", "ConfigMap"),
    ] {
        assert_eq!(count(&plain, kind), 0, "{kind}");
        let on = rendered(&[switch]).await;
        assert_eq!(count(&on, kind), 1, "{kind}");
        assert_eq!(on.len(), plain.len() + 1, "{switch} adds something else too");
    }
}

#[tokio::test]
async fn no_model_is_asked_unless_one_is_named() {
    let model = |documents: &[Value]| -> Vec<String> {
        let pod = &named(documents, "Deployment", "amend")["spec"]["template"]["spec"]["containers"][0];
        let about_it = |one: &&str| one.starts_with("--model");
        texts(&pod["args"]).into_iter().filter(about_it).map(str::to_owned).collect()
    };
    assert_eq!(model(&rendered(&[]).await), Vec::<String>::new());
    let on = rendered(&["model={\"url\":\"https://models.example.com/v1\",\"name\":\"small\"}"]).await;
    assert_eq!(model(&on), ["--model-url=https://models.example.com/v1", "--model-name=small"]);
}

#[tokio::test]
async fn a_network_policy_without_private_ranges_opens_none() {
    let documents = rendered(&["networkPolicy.enabled=true", "egress.allow=[]"]).await;
    let egress = of_kind(&documents, "NetworkPolicy")[0]["spec"]["egress"].as_array().expect("egress rules").clone();
    for rule in &egress {
        let open =
            rule["to"].as_array().is_none_or(Vec::is_empty) && rule["ports"].as_array().is_none_or(Vec::is_empty);
        assert!(!open, "a rule without `to` and `ports` allows everything: {rule}");
    }
}

#[tokio::test]
async fn the_pod_is_restricted() {
    for values in [&[][..], &EVERYTHING] {
        let documents = rendered(values).await;
        let controller = &named(&documents, "Deployment", "amend")["spec"]["template"]["spec"];
        let test = &named(&documents, "Pod", "amend-test")["spec"];
        for pod in [controller, test] {
            assert_restricted(pod);
        }
    }
}

/// As the Pod Security Standard "restricted" wants it, and a little more.
fn assert_restricted(pod: &Value) {
    assert_eq!(pod["securityContext"]["runAsNonRoot"], true);
    assert_eq!(pod["securityContext"]["seccompProfile"]["type"], "RuntimeDefault");
    for forbidden in ["hostNetwork", "hostPID", "hostIPC"] {
        assert!(pod[forbidden].is_null(), "{forbidden}");
    }
    for container in pod["containers"].as_array().expect("containers") {
        let context = &container["securityContext"];
        assert_eq!(context["allowPrivilegeEscalation"], false);
        assert_eq!(context["readOnlyRootFilesystem"], true);
        assert_eq!(context["capabilities"]["drop"], json!(["ALL"]));
        assert!(context["privileged"].is_null() && context["capabilities"]["add"].is_null());
        assert!(!container["resources"]["limits"]["memory"].is_null());
    }
    let kinds: BTreeSet<&str> = pod["volumes"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|volume| volume.as_object().expect("a volume").keys())
        .map(String::as_str)
        .filter(|key| *key != "name")
        .collect();
    assert!(kinds.is_subset(&BTreeSet::from(["emptyDir", "secret"])), "{kinds:?}");
}

#[tokio::test]
async fn a_remediator_is_an_account_that_may_patch_workloads_and_their_settings_there_and_propose() {
    let documents = rendered(&[SHOP]).await;
    named(&documents, "ServiceAccount", "amend-remediator");
    let rights: BTreeSet<Right> = rights_of(&documents, "shop", "amend-remediator").into_iter().collect();
    let workloads = ["daemonsets", "deployments", "statefulsets"].map(|resource| ("apps", resource, ["get", "patch"]));
    let mut wanted: BTreeSet<Right> = [&workloads[..], &[("", "configmaps", ["create", "patch"])]]
        .concat()
        .into_iter()
        .flat_map(|(group, resource, verbs)| verbs.map(|verb| (group, resource, verb)))
        .map(|(group, resource, verb)| Right {
            namespace: "shop".into(),
            group: group.into(),
            resource: resource.into(),
            verb: verb.into(),
            names: Vec::new(),
        })
        .collect();
    wanted.insert(Right {
        namespace: "amend-system".into(),
        group: "amend.dev".into(),
        resource: "gittargets".into(),
        verb: "propose".into(),
        names: Vec::new(),
    });
    assert_eq!(rights, wanted);
}

#[tokio::test]
async fn the_controller_may_speak_as_its_remediators_and_as_nobody_else() {
    let documents = rendered(&EVERYTHING).await;
    let impersonates: Vec<Right> = rights_of(&documents, "amend-system", "amend")
        .into_iter()
        .filter(|right| right.verb == "impersonate")
        .collect();
    let accounts: BTreeSet<&str> = impersonates
        .iter()
        .filter(|right| right.resource == "serviceaccounts")
        .map(|right| right.namespace.as_str())
        .collect();
    assert_eq!(accounts, BTreeSet::from(["bank", "shop"]));
    for right in &impersonates {
        match right.resource.as_str() {
            "serviceaccounts" => assert_eq!(right.names, ["amend-remediator"], "{right:?}"),
            "groups" => {
                let known =
                    |name: &String| name.starts_with("system:serviceaccounts") || name == "system:authenticated";
                assert!(right.names.len() == 3 && right.names.iter().all(known), "{right:?}");
            }
            other => panic!("{other}: {right:?}"),
        }
    }
    let none = rendered(&[]).await;
    assert!(rights_of(&none, "amend-system", "amend").iter().all(|right| right.verb != "impersonate"));
}

#[tokio::test]
async fn merging_and_single_git_targets_are_granted_only_where_the_values_say_so() {
    let documents = rendered(&EVERYTHING).await;
    let on_targets = |namespace: &str| -> Vec<(String, Vec<String>)> {
        rights_of(&documents, namespace, "amend-remediator")
            .into_iter()
            .filter(|right| right.resource == "gittargets")
            .map(|right| (right.verb, right.names))
            .collect()
    };
    let platform = vec!["platform".to_owned()];
    assert_eq!(on_targets("shop"), [("propose".into(), platform.clone()), ("merge".into(), platform)]);
    assert_eq!(on_targets("bank"), [("propose".into(), Vec::new())]);
    let none = rendered(&["remediators=[{\"namespace\":\"shop\",\"gitTargets\":[]}]"]).await;
    assert!(rights_of(&none, "shop", "amend-remediator").iter().all(|right| right.resource != "gittargets"));
}

#[tokio::test]
async fn authors_of_policies_get_the_verb_use_on_the_remediator() {
    let documents = rendered(&EVERYTHING).await;
    let binding = named(&documents, "RoleBinding", "amend-remediator-use");
    let subjects: Vec<&str> = binding["subjects"]
        .as_array()
        .expect("subjects")
        .iter()
        .filter_map(|subject| subject["name"].as_str())
        .collect();
    assert_eq!(subjects, ["shop-team", "flux"]);
    let right = &rights_of_role(named(&documents, "Role", "amend-remediator-use"))[0];
    assert_eq!((right.verb.as_str(), right.names.as_slice()), ("use", &["amend-remediator".to_owned()][..]));
}

#[tokio::test]
async fn helm_test_asks_the_controller_through_its_service_with_an_account_that_may_read_one_lease() {
    let documents = rendered(&EVERYTHING).await;
    let pod = named(&documents, "Pod", "amend-test");
    assert_eq!(pod["metadata"]["annotations"]["helm.sh/hook"], "test");
    let container = &pod["spec"]["containers"][0];
    let deployed = &named(&documents, "Deployment", "amend")["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["image"], deployed["image"], "no other image is needed");
    let arguments = texts(&container["args"]);
    assert!(arguments.contains(&"--url=https://amend.amend-system:8080"), "{arguments:?}");
    named(&documents, "Service", "amend");

    let account = pod["spec"]["serviceAccountName"].as_str().expect("an account");
    let rights = rights_of(&documents, "amend-system", account);
    let one_lease = Right {
        namespace: "amend-system".into(),
        group: "coordination.k8s.io".into(),
        resource: "leases".into(),
        verb: "get".into(),
        names: vec!["amend-controller".into()],
    };
    assert_eq!(rights, [one_lease]);
    let selector = named(&documents, "Service", "amend")["spec"]["selector"].clone();
    assert_ne!(pod["metadata"]["labels"]["app.kubernetes.io/name"], selector["app.kubernetes.io/name"]);
    let off = rendered(&["tests.enabled=false"]).await;
    assert!(off.iter().all(|one| one["metadata"]["annotations"]["helm.sh/hook"].is_null()));
}

#[tokio::test]
async fn the_controller_starts_before_the_secrets_that_it_reads_when_it_uses_them() {
    let documents = rendered(&EVERYTHING).await;
    let volumes = &named(&documents, "Deployment", "amend")["spec"]["template"]["spec"]["volumes"];
    let volumes = volumes.as_array().expect("volumes");
    for name in ["intake", "ci", "paging", "model"] {
        let volume = volumes.iter().find(|volume| volume["name"] == name).expect(name);
        assert_eq!(volume["secret"]["optional"], true, "{volume}");
    }
}

/// So that arguments are read as `amend controller` reads them.
#[derive(Debug, Parser)]
struct Controller {
    #[command(flatten)]
    settings: Settings,
}

#[tokio::test]
async fn the_controller_takes_every_argument_that_the_chart_gives_it() {
    for values in [&[][..], &EVERYTHING] {
        let documents = rendered(values).await;
        let container = named(&documents, "Deployment", "amend")["spec"]["template"]["spec"]["containers"][0].clone();
        let arguments = texts(&container["args"]);
        assert_eq!(arguments.first(), Some(&"controller"));
        let read = Controller::try_parse_from(&arguments).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(read.settings.release_namespace, "amend-system");
        let mounts = container["volumeMounts"].as_array().expect("mounts");
        for file in arguments.iter().filter_map(|one| one.split_once("=/etc/")).map(|(_, path)| format!("/etc/{path}"))
        {
            let mounted = |mount: &Value| {
                mount["mountPath"].as_str().is_some_and(|folder| file.starts_with(&format!("{folder}/")))
            };
            assert!(mounts.iter().any(mounted), "{file} is not mounted");
        }
    }
}

#[tokio::test]
async fn rendering_twice_gives_the_same_text() {
    let bench = Bench::shared(&[Part::Helm]).await.expect("Helm can be built");
    let chart = chart();
    let once = || bench.helm().template(&chart, "amend", "amend-system", &EVERYTHING);
    assert_eq!(
        once().await.expect("it renders"),
        once().await.expect("it renders"),
        "Argo CD and Flux would see drift"
    );
}

#[tokio::test]
async fn helm_lint_finds_nothing() {
    let bench = Bench::shared(&[Part::Helm]).await.expect("Helm can be built");
    for values in [&[][..], &EVERYTHING] {
        let told = bench.helm().lint(&chart(), values).await.unwrap_or_else(|findings| panic!("{findings:#}"));
        assert!(told.contains("0 chart(s) failed"), "{told}");
        assert!(!told.contains("[WARNING]"), "{told}");
    }
}
