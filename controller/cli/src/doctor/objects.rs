//! Sources, Git targets, policies, and the workloads that the policies answer for.

use std::collections::BTreeSet;

use amend_controller::cluster::{self, GIT_REPOSITORY, KUSTOMIZATION, Read};
use amend_crds::condition::WRITABLE;
use amend_crds::telemetrysource::SourceKind;
use amend_crds::{GROUP, GitTarget, RemediationPolicy, TelemetrySource};
use amend_diagnosis::evidence::Answer;
use amend_gitops::access::normalised;
use amend_gitops::locate::owner;
use amend_policies::policy::{Autonomy, Target};
use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Api, DynamicObject, ListParams};
use kube::core::{ApiResource, GroupVersionKind};
use serde_json::Value;

use super::rights::{Account, Wanted};
use super::{Visit, Weight};

/// Workloads of one policy that are looked up in Git; the others are of the same kind.
const WORKLOADS_MAX: usize = 20;

/// Keys of a Secret that can log in somewhere.
const LOGIN: [&str; 2] = ["token", "password"];

impl Visit<'_> {
    /// Everything that people have applied.
    pub(super) async fn objects(&mut self) -> anyhow::Result<()> {
        let all = ListParams::default();
        let sources = Api::<TelemetrySource>::all(self.client()).list(&all).await;
        let sources = self.told(sources, "telemetrysources").map(|list| list.items).unwrap_or_default();
        let targets = Api::<GitTarget>::all(self.client()).list(&all).await;
        let targets = self.told(targets, "gittargets").map(|list| list.items).unwrap_or_default();
        let policies = Api::<RemediationPolicy>::all(self.client()).list(&all).await;
        let policies = self.told(policies, "remediationpolicies").map(|list| list.items).unwrap_or_default();
        self.sources(&sources).await;
        self.targets(&targets).await;
        let fix = "kubectl apply -f docs/first-pull-request/policy.yaml   (set namespace and label first)";
        self.check(!policies.is_empty(), Weight::Gap, "no RemediationPolicy: Amend only observes", fix);
        let namespaces: BTreeSet<String> = policies.iter().filter_map(ResourceExt::namespace).collect();
        for namespace in &namespaces {
            self.hold(namespace).await;
            self.serving(namespace, &sources);
        }
        for policy in &policies {
            self.policy(policy, &targets).await?;
        }
        Ok(())
    }

    async fn sources(&mut self, sources: &[TelemetrySource]) {
        for source in sources {
            let (namespace, name) = (source.namespace().unwrap_or_default(), source.name_any());
            let conditions = source.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            let why = trouble(conditions, "Ready");
            let what = format!(
                "TelemetrySource {namespace}/{name} ({}): {}",
                source.spec.url,
                why.clone().unwrap_or_default()
            );
            self.check(
                why.is_none(),
                Weight::Missing,
                what,
                format!("kubectl edit telemetrysource {name} -n {namespace}"),
            );
            if let Some(secret) = &source.spec.secret_ref {
                self.secret(&namespace, &secret.name, &LOGIN).await;
            }
        }
    }

    /// Which kinds of store a namespace has.
    fn serving(&mut self, namespace: &str, sources: &[TelemetrySource]) {
        let serves = |kinds: &[SourceKind]| {
            sources.iter().any(|source| {
                kinds.contains(&source.spec.kind)
                    && (source.namespace().as_deref() == Some(namespace)
                        || source.spec.allowed_namespaces.iter().any(|allowed| allowed == "*" || allowed == namespace))
            })
        };
        let example = "kubectl apply -f docs/first-pull-request/telemetry-source.yaml";
        for (weight, kinds, what) in [
            (
                Weight::Missing,
                &[SourceKind::Prometheus][..],
                "a TelemetrySource of kind Prometheus: nothing can be measured or verified",
            ),
            (
                Weight::Gap,
                &[SourceKind::Alertmanager],
                "no TelemetrySource of kind Alertmanager: silences are unknown, so pull requests stay drafts",
            ),
            (
                Weight::Gap,
                &[SourceKind::Jaeger, SourceKind::Tempo, SourceKind::OtlpFiles],
                "no TelemetrySource with traces: who depends on a workload may be unknown, so pull requests may stay drafts",
            ),
        ] {
            let fix = format!("{example}   (kind {:?}, its url, and {namespace} in allowedNamespaces)", kinds[0]);
            self.check(serves(kinds), weight, format!("namespace {namespace}: {what}"), fix);
        }
    }

    async fn targets(&mut self, targets: &[GitTarget]) {
        let fix = "kubectl apply -f docs/first-pull-request/git-target.yaml   (set url and Secret first)";
        self.check(!targets.is_empty(), Weight::Gap, "no GitTarget: nothing can be proposed", fix);
        for target in targets {
            for (there, weight, what, fix) in judged(target) {
                self.check(there, weight, what, fix);
            }
            let namespace = target.namespace().unwrap_or_default();
            self.secret(&namespace, &target.spec.secret_ref.name, &LOGIN).await;
        }
    }

    async fn policy(&mut self, policy: &RemediationPolicy, targets: &[GitTarget]) -> anyhow::Result<()> {
        let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
        let spec = &policy.spec.0;
        let conditions = policy.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
        let why = trouble(conditions, "Accepted");
        let edit = format!("kubectl edit remediationpolicy {name} -n {namespace}");
        let what = format!("RemediationPolicy {namespace}/{name}: {}", why.clone().unwrap_or_default());
        self.check(why.is_none(), Weight::Missing, what, edit.clone());
        let resume = format!(
            "kubectl patch remediationpolicy {name} -n {namespace} --type merge -p '{{\"spec\":{{\"suspend\":false}}}}'"
        );
        self.check(!spec.suspend, Weight::Gap, format!("RemediationPolicy {namespace}/{name} is suspended"), resume);
        let account = Account { namespace: namespace.clone(), name: spec.service_account_name.clone() };
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), &namespace);
        let Some(found) = self.told(accounts.get_opt(&account.name).await, "serviceaccounts") else { return Ok(()) };
        let fix = format!(
            "{} --set-json 'remediators=[{{\"namespace\":\"{namespace}\"}}]'   (with those that are there already)",
            self.helm()
        );
        let what = format!("the remediator {namespace}/{} of policy {name}", account.name);
        if !self.check(found.is_some(), Weight::Missing, what, fix) {
            return Ok(());
        }
        let kinds: BTreeSet<String> =
            spec.matches.targets.iter().map(|target| format!("{:?}s", target.kind).to_lowercase()).collect();
        for resource in &kinds {
            let patch = Wanted { group: "apps", resource, verbs: &["patch"], namespace: &namespace, name: "" };
            self.may(&account, patch).await?;
        }
        if spec.steps.iter().any(|step| step.git.revert_commit.is_some()) {
            // A commit may have changed, or removed, a ConfigMap that the target reads.
            let verbs: &[&str] = &["patch", "create"];
            self.may(&account, Wanted { group: "", resource: "configmaps", verbs, namespace: &namespace, name: "" })
                .await?;
        }
        let controller = self.controllers_account();
        let speak = Wanted {
            group: "",
            resource: "serviceaccounts",
            verbs: &["impersonate"],
            namespace: &namespace,
            name: &account.name,
        };
        self.may(&controller, speak).await?;
        let serving: Vec<&GitTarget> = targets
            .iter()
            .filter(|target| target.spec.grants.iter().any(|grant| grant.namespace == namespace))
            .collect();
        let fix = match targets.first() {
            Some(target) => format!(
                "kubectl edit gittarget {} -n {}   (add {namespace} to allowedNamespaces and a grant for it)",
                target.name_any(),
                target.namespace().unwrap_or_default()
            ),
            None => format!(
                "kubectl apply -f docs/first-pull-request/git-target.yaml   (set url and Secret first; grants for {namespace})"
            ),
        };
        self.check(
            !serving.is_empty(),
            Weight::Missing,
            format!("a GitTarget with a grant for namespace {namespace}"),
            fix,
        );
        let verbs: &[&str] = if spec.autonomy == Autonomy::Act { &["propose", "merge"] } else { &["propose"] };
        for target in &serving {
            let (home, target) = (target.namespace().unwrap_or_default(), target.name_any());
            let propose = Wanted { group: GROUP, resource: "gittargets", verbs, namespace: &home, name: &target };
            self.may(&account, propose).await?;
        }
        for target in &spec.matches.targets {
            self.workloads(&namespace, &name, target, &serving).await;
        }
        Ok(())
    }

    /// The workloads that a policy answers for, and whether each has a place in Git.
    async fn workloads(&mut self, namespace: &str, policy: &str, target: &Target, serving: &[&GitTarget]) {
        let kind = format!("{:?}", target.kind);
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", &kind));
        let labels = target.selector.as_ref().map(|selector| &selector.match_labels);
        let labels =
            labels.into_iter().flatten().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",");
        let api: Api<DynamicObject> = Api::namespaced_with(self.client(), namespace, &resource);
        let listed = api.list(&ListParams::default().labels(&labels)).await;
        let Some(listed) = self.told(listed, &resource.plural.clone()) else { return };
        let matching: Vec<&DynamicObject> =
            listed.iter().filter(|one| target.name.as_ref().is_none_or(|name| *name == one.name_any())).collect();
        let what = format!("RemediationPolicy {namespace}/{policy} matches no {kind}");
        let fix = format!(
            "kubectl get {} -n {namespace} --show-labels, then kubectl edit remediationpolicy {policy} -n {namespace}",
            resource.plural
        );
        self.check(!matching.is_empty(), Weight::Gap, what, fix);
        for workload in matching.into_iter().take(WORKLOADS_MAX) {
            let (place, fix) = match self.place_in_git(namespace, &kind, workload, serving).await {
                Ok(()) => (String::new(), String::new()),
                Err(missing) => missing,
            };
            let what = format!("{kind} {namespace}/{} has no place in Git: {place}", workload.name_any());
            self.check(place.is_empty(), Weight::Missing, what, fix);
        }
    }

    /// `Err` says why a workload's file cannot be found, and what to do.
    async fn place_in_git(
        &self,
        namespace: &str,
        kind: &str,
        workload: &DynamicObject,
        serving: &[&GitTarget],
    ) -> Result<(), (String, String)> {
        let name = workload.name_any();
        let listed = serving.iter().flat_map(|target| &target.spec.objects);
        let mut same = listed.filter(|one| one.kind == kind && one.namespace == namespace && one.name == name);
        if same.next().is_some() {
            return Ok(());
        }
        let list_it = || {
            let entry =
                format!("{{\"kind\":\"{kind}\",\"namespace\":\"{namespace}\",\"name\":\"{name}\",\"path\":\"FILE\"}}");
            match serving.first() {
                Some(target) => format!(
                    "kubectl patch gittarget {} -n {} --type merge -p '{{\"spec\":{{\"objects\":[{entry}]}}}}'   (with those that are listed already)",
                    target.name_any(),
                    target.namespace().unwrap_or_default()
                ),
                None => {
                    "kubectl apply -f docs/first-pull-request/git-target.yaml   (set url and Secret first)".to_owned()
                }
            }
        };
        let Some(flux) = owner(workload.labels()) else {
            return Err(("Flux does not apply it and no GitTarget lists it".into(), list_it()));
        };
        let kustomization =
            self.read(KUSTOMIZATION, &flux.namespace, &flux.name).await.map_err(|why| (why, list_it()))?;
        let reference = &kustomization["spec"]["sourceRef"];
        let source = reference["name"].as_str().unwrap_or_default();
        let home = reference["namespace"].as_str().unwrap_or(&flux.namespace);
        let repository = self.read(GIT_REPOSITORY, home, source).await.map_err(|why| (why, list_it()))?;
        let url = normalised(repository["spec"]["url"].as_str().unwrap_or_default());
        if serving.iter().any(|target| normalised(&target.spec.url) == url) {
            return Ok(());
        }
        let why = format!("Flux applies it from {url}, which no GitTarget with a grant for {namespace} serves");
        Err((
            why,
            format!("kubectl apply -f docs/first-pull-request/git-target.yaml   (url: {url}, a grant for {namespace})"),
        ))
    }

    async fn read(&self, read: Read, namespace: &str, name: &str) -> Result<Value, String> {
        match cluster::get(&self.client(), read, namespace, name).await {
            Answer::Known(Some(object)) => Ok(object),
            Answer::Known(None) => {
                Err(format!("its labels name {} {namespace}/{name}, which does not exist", read.kind))
            }
            Answer::Unknown { why } => Err(why),
        }
    }
}

/// What to look at in a GitTarget: whether it holds, how much it matters, and what to do.
///
/// One that can only be read names what was changed, and is enough where nobody proposes: its controller knows who does, and says
/// that it is not ready where somebody wants more.
fn judged(target: &GitTarget) -> Vec<(bool, Weight, String, String)> {
    let (namespace, name) = (target.namespace().unwrap_or_default(), target.name_any());
    let conditions = target.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
    let edit = format!("kubectl edit gittarget {name} -n {namespace}");
    let shown = format!("GitTarget {namespace}/{name} ({})", target.spec.url);
    let writable = conditions.iter().find(|one| one.type_ == WRITABLE && one.status == "False");
    let fix = match writable.is_some_and(|one| one.reason == "NoRight") {
        true => format!(
            "kubectl edit secret {} -n {namespace}   (or give its account the right at the forge)",
            target.spec.secret_ref.name
        ),
        false => edit.clone(),
    };
    let why = trouble(conditions, "Ready");
    let granted = !target.spec.grants.is_empty();
    let mut found = vec![
        (why.is_none(), Weight::Missing, format!("{shown}: {}", why.clone().unwrap_or_default()), fix.clone()),
        (
            granted,
            Weight::Gap,
            format!(
                "grants of GitTarget {namespace}/{name}: nothing may be changed, which is right for one that is only read"
            ),
            edit,
        ),
    ];
    if let Some(writable) = writable.filter(|_| why.is_none() && granted) {
        found.push((false, Weight::Gap, format!("{shown} can only be read: {}", writable.message), fix));
    }
    found
}

/// Why a condition does not hold; `None` when it does.
fn trouble(conditions: &[Condition], wanted: &str) -> Option<String> {
    match conditions.iter().find(|condition| condition.type_ == wanted) {
        None => Some("no controller has looked at it".into()),
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(condition.message.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is found of a target with a grant or without, and with these conditions.
    fn found(granted: bool, conditions: &[(&str, &str, &str)]) -> Vec<String> {
        let grants = if granted {
            serde_json::json!([{"namespace": "shop", "paths": ["apps/**"], "kinds": ["Deployment"], "fields": ["spec"]}])
        } else {
            Value::Null
        };
        let conditions: Vec<Value> = conditions
            .iter()
            .map(|(kind, status, reason)| {
                serde_json::json!({"type": kind, "status": status, "reason": reason, "message": format!("{kind} says so"),
                    "lastTransitionTime": "2026-01-01T00:00:00Z"})
            })
            .collect();
        let mut object = serde_json::json!({"apiVersion": "amend.dev/v1alpha1", "kind": "GitTarget",
            "metadata": {"name": "platform", "namespace": "amend-system"},
            "spec": {"url": "https://git.example/shop/fleet.git", "branch": "main", "forge": {"kind": "Gitea"}, "secretRef": {"name": "git"}},
            "status": {"conditions": conditions}});
        if granted {
            object["spec"]["grants"] = grants;
        }
        let target: GitTarget = serde_json::from_value(object).expect("a target");
        let missing = judged(&target).into_iter().filter(|(there, ..)| !there);
        missing.map(|(_, weight, what, fix)| format!("{weight:?}: {what} | {fix}")).collect()
    }

    #[test]
    fn a_target_that_is_only_read_is_a_gap_and_one_that_somebody_wants_to_write_is_missing() {
        let told = found(true, &[("Ready", "True", "ReadOnly"), ("Writable", "False", "NoRight")]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("Gap: GitTarget amend-system/platform"), "{told:?}");
        assert!(told[0].contains("can only be read: Writable says so | kubectl edit secret git"), "{told:?}");

        let told = found(true, &[("Ready", "False", "NoRight"), ("Writable", "False", "NoRight")]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("Missing:") && told[0].contains("| kubectl edit secret git"), "{told:?}");

        let told = found(false, &[("Ready", "True", "Answers"), ("Writable", "False", "NothingGranted")]);
        assert_eq!(told.len(), 1, "{told:?}");
        assert!(told[0].starts_with("Gap: grants of"), "{told:?}");
        assert_eq!(found(true, &[("Ready", "True", "Answers"), ("Writable", "True", "Granted")]), [""; 0]);
    }
}
