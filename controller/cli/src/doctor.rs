//! `amend doctor`: what is missing, and the command that mends it.

use std::collections::BTreeMap;
use std::process::ExitCode;

use amend_controller::cluster::{GIT_REPOSITORY, KUSTOMIZATION, NAMESPACED, NODE, Read};
use amend_crds::{GROUP, GitTarget, RemediationPolicy, TelemetrySource};
use anyhow::Context;
use clap::Args;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Namespace, Secret, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, ListParams, PostParams};
use kube::{Client, ResourceExt};
use serde::Serialize;

use crate::connection::{Connection, Flags, plain, print};

/// Names everything that is missing, with the command that mends it; exits non-zero when something is.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Service account of the controller in its namespace
    #[arg(long, default_value = "amend")]
    service_account: String,
}

/// One thing that is missing.
#[derive(Clone, Debug, Serialize)]
struct Missing {
    what: String,
    fix: String,
}

struct Visit<'a> {
    connection: &'a Connection,
    account: &'a str,
    looked_at: usize,
    missing: Vec<Missing>,
}

pub async fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let connection = flags.connect().await?;
    let mut visit =
        Visit { connection: &connection, account: &arguments.service_account, looked_at: 0, missing: Vec::new() };
    let kinds = visit.kinds().await?;
    visit.installation().await?;
    visit.permissions().await?;
    if kinds {
        visit.sources().await?;
        visit.targets().await?;
        visit.policies().await?;
    }
    let Visit { looked_at, missing, .. } = visit;
    match connection.output {
        Some(output) => print(&missing, output)?,
        None => {
            for one in &missing {
                println!("missing: {}\n    fix: {}", plain(&one.what), one.fix);
            }
            println!("{looked_at} things looked at, {} missing", missing.len());
        }
    }
    Ok(if missing.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Visit<'_> {
    fn check(&mut self, there: bool, what: impl Into<String>, fix: impl Into<String>) {
        self.looked_at += 1;
        if !there {
            self.missing.push(Missing { what: what.into(), fix: fix.into() });
        }
    }

    fn client(&self) -> Client {
        self.connection.client.clone()
    }

    /// Whether all kinds are served.
    async fn kinds(&mut self) -> anyhow::Result<bool> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client());
        let before = self.missing.len();
        for wanted in amend_crds::schema::definitions()? {
            let name = wanted.name_any();
            let found = api.get_opt(&name).await.with_context(|| format!("cannot read the CRD {name}"))?;
            let fix = "helm upgrade --install amend charts/amend --namespace amend-system --create-namespace";
            self.check(found.is_some(), format!("the CRD {name}"), fix);
        }
        Ok(self.missing.len() == before)
    }

    async fn installation(&mut self) -> anyhow::Result<()> {
        let namespace = self.connection.install_namespace.clone();
        let namespaces: Api<Namespace> = Api::all(self.client());
        let found = namespaces.get_opt(&namespace).await.context("cannot read namespaces")?;
        let fix = format!("helm upgrade --install amend charts/amend --namespace {namespace} --create-namespace");
        self.check(found.is_some(), format!("the namespace {namespace}"), fix.clone());
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), &namespace);
        let account = accounts.get_opt(self.account).await.context("cannot read service accounts")?;
        self.check(account.is_some(), format!("the service account {namespace}/{}", self.account), fix);
        let leases: Api<Lease> = Api::namespaced(self.client(), &namespace);
        let lease = leases.get_opt("amend-controller").await.context("cannot read leases")?;
        let holder = lease.and_then(|lease| lease.spec).and_then(|spec| spec.holder_identity);
        self.check(
            holder.is_some_and(|holder| !holder.is_empty()),
            "a controller that leads",
            format!("kubectl -n {namespace} logs deploy/amend"),
        );
        Ok(())
    }

    async fn permissions(&mut self) -> anyhow::Result<()> {
        let namespace = self.connection.install_namespace.clone();
        let reads = NAMESPACED.iter().chain([&NODE, &KUSTOMIZATION, &GIT_REPOSITORY]);
        for Read { group, plural, .. } in reads {
            for verb in ["get", "list"] {
                self.may(self.user(), verb, group, plural, None, None).await?;
            }
        }
        for kind in amend_crds::schema::definitions()? {
            let plural = kind.spec.names.plural.clone();
            for verb in ["get", "list", "watch"] {
                self.may(self.user(), verb, GROUP, &plural, None, None).await?;
            }
            self.may(self.user(), "update", GROUP, &format!("{plural}/status"), None, None).await?;
        }
        for kind in ["incidents", "remediations", "builds"] {
            self.may(self.user(), "create", GROUP, kind, None, None).await?;
        }
        for (verb, group, resource) in [
            ("create", "authorization.k8s.io", "subjectaccessreviews"),
            ("create", "authentication.k8s.io", "tokenreviews"),
        ] {
            self.may(self.user(), verb, group, resource, None, None).await?;
        }
        for (verb, group, resource) in [
            ("get", "", "secrets"),
            ("create", "", "secrets"),
            ("get", "", "configmaps"),
            ("create", "", "configmaps"),
            ("update", "", "configmaps"),
            ("create", "coordination.k8s.io", "leases"),
            ("update", "coordination.k8s.io", "leases"),
        ] {
            self.may(self.user(), verb, group, resource, Some(&namespace), None).await?;
        }
        Ok(())
    }

    fn user(&self) -> (String, String) {
        (self.connection.install_namespace.clone(), self.account.to_owned())
    }

    /// Asks whether a service account may do something, and names the rule when it may not.
    async fn may(
        &mut self,
        (account_namespace, account): (String, String),
        verb: &str,
        group: &str,
        resource: &str,
        namespace: Option<&str>,
        name: Option<&str>,
    ) -> anyhow::Result<()> {
        let (plural, subresource) = match resource.split_once('/') {
            Some((plural, subresource)) => (plural, Some(subresource.to_owned())),
            None => (resource, None),
        };
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(format!("system:serviceaccount:{account_namespace}:{account}")),
                groups: Some(vec![
                    "system:serviceaccounts".into(),
                    format!("system:serviceaccounts:{account_namespace}"),
                    "system:authenticated".into(),
                ]),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.into()),
                    group: Some(group.into()),
                    resource: Some(plural.into()),
                    subresource,
                    namespace: namespace.map(str::to_owned),
                    name: name.map(str::to_owned),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.client());
        let answer = reviews.create(&PostParams::default(), &review).await.context("cannot ask who may do what")?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        let dotted = if group.is_empty() { resource.to_owned() } else { format!("{plural}.{group}") };
        let place = namespace.map_or(" in the whole cluster".to_owned(), |namespace| format!(" in {namespace}"));
        let which = name.map_or(String::new(), |name| format!(" --resource-name={name}"));
        let (kind, at) = match namespace {
            Some(namespace) => ("role", format!(" -n {namespace}")),
            None => ("clusterrole", String::new()),
        };
        let role = format!("{account}-{verb}-{}", plural.replace('/', "-"));
        let fix = format!(
            "kubectl create {kind} {role}{at} --verb={verb} --resource={dotted}{which} && \
             kubectl create {kind}binding {role}{at} --{kind}={role} --serviceaccount={account_namespace}:{account}"
        );
        self.check(allowed, format!("{account_namespace}/{account} may not {verb} {dotted}{place}"), fix);
        Ok(())
    }

    async fn sources(&mut self) -> anyhow::Result<()> {
        let all: Api<TelemetrySource> = Api::all(self.client());
        let all = all.list(&ListParams::default()).await.context("cannot list TelemetrySources")?;
        let mut kinds = BTreeMap::new();
        for source in &all {
            *kinds.entry(format!("{:?}", source.spec.kind)).or_insert(0) += 1;
            let place = format!("{}/{}", source.namespace().unwrap_or_default(), source.name_any());
            let conditions = source.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            let fix = format!(
                "kubectl edit telemetrysource {} -n {}",
                source.name_any(),
                source.namespace().unwrap_or_default()
            );
            let why = trouble(conditions, "Ready");
            self.check(
                why.is_none(),
                format!("TelemetrySource {place} ({}): {}", source.spec.url, why.unwrap_or_default()),
                fix,
            );
            if let Some(secret) = &source.spec.secret_ref {
                self.secret(&source.namespace().unwrap_or_default(), &secret.name, "token").await?;
            }
        }
        for kind in ["Prometheus", "Alertmanager"] {
            let fix = "kubectl apply -f - with the TelemetrySource of the README";
            self.check(kinds.contains_key(kind), format!("a TelemetrySource of kind {kind}"), fix);
        }
        Ok(())
    }

    async fn secret(&mut self, namespace: &str, name: &str, key: &str) -> anyhow::Result<()> {
        let secrets: Api<Secret> = Api::namespaced(self.client(), namespace);
        // Who may not read Secrets still gets the rest of the visit.
        if let Ok(found) = secrets.get_opt(name).await {
            let fix = format!("kubectl create secret generic {name} -n {namespace} --from-literal={key}=…");
            self.check(found.is_some(), format!("the Secret {namespace}/{name}"), fix);
        }
        Ok(())
    }

    async fn targets(&mut self) -> anyhow::Result<()> {
        let all: Api<GitTarget> = Api::all(self.client());
        let all = all.list(&ListParams::default()).await.context("cannot list GitTargets")?;
        let fix = "kubectl apply -f - with the GitTarget of the README";
        self.check(!all.items.is_empty(), "a GitTarget: without one nothing can be proposed", fix);
        for target in &all {
            let (namespace, name) = (target.namespace().unwrap_or_default(), target.name_any());
            let conditions = target.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            let edit = format!("kubectl edit gittarget {name} -n {namespace}");
            let why = trouble(conditions, "Ready");
            let what =
                format!("GitTarget {namespace}/{name} ({}): {}", target.spec.url, why.clone().unwrap_or_default());
            self.check(why.is_none(), what, edit.clone());
            self.check(
                !target.spec.grants.is_empty(),
                format!("grants of GitTarget {namespace}/{name}: nothing may be changed"),
                edit,
            );
            self.secret(&namespace, &target.spec.secret_ref.name, "token").await?;
        }
        Ok(())
    }

    async fn policies(&mut self) -> anyhow::Result<()> {
        let all: Api<RemediationPolicy> = Api::all(self.client());
        let all = all.list(&ListParams::default()).await.context("cannot list RemediationPolicies")?;
        let fix =
            "kubectl apply -f policies/library/raise-memory-after-oom.yaml (set its namespace and selector first)";
        self.check(!all.items.is_empty(), "a RemediationPolicy: without one Amend only observes", fix);
        let targets: Api<GitTarget> = Api::all(self.client());
        let targets = targets.list(&ListParams::default()).await.context("cannot list GitTargets")?;
        for policy in &all {
            let (namespace, name) = (policy.namespace().unwrap_or_default(), policy.name_any());
            let conditions = policy.status.as_ref().map(|status| status.conditions.as_slice()).unwrap_or_default();
            let why = trouble(conditions, "Accepted");
            let what = format!("RemediationPolicy {namespace}/{name}: {}", why.clone().unwrap_or_default());
            self.check(why.is_none(), what, format!("kubectl edit remediationpolicy {name} -n {namespace}"));
            let account = policy.spec.0.service_account_name.clone();
            let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), &namespace);
            let found = accounts.get_opt(&account).await.context("cannot read service accounts")?;
            let fix =
                format!("helm upgrade amend charts/amend --reuse-values --set 'remediators[0].namespace={namespace}'");
            self.check(found.is_some(), format!("the remediator {namespace}/{account} of policy {name}"), fix);
            let remediator = (namespace.clone(), account.clone());
            self.may(remediator.clone(), "patch", "apps", "deployments", Some(&namespace), None).await?;
            self.may(self.user(), "impersonate", "", "serviceaccounts", Some(&namespace), Some(&account)).await?;
            let serving: Vec<&GitTarget> = targets
                .iter()
                .filter(|target| target.spec.grants.iter().any(|grant| grant.namespace == namespace))
                .collect();
            let fix = format!("kubectl edit gittarget: add a grant for namespace {namespace}");
            self.check(!serving.is_empty(), format!("a GitTarget with a grant for namespace {namespace}"), fix);
            for target in serving {
                let place = target.namespace().unwrap_or_default();
                self.may(remediator.clone(), "propose", GROUP, "gittargets", Some(&place), Some(&target.name_any()))
                    .await?;
            }
        }
        Ok(())
    }
}

/// Why a condition does not hold; `None` when it does.
fn trouble(conditions: &[Condition], wanted: &str) -> Option<String> {
    match conditions.iter().find(|condition| condition.type_ == wanted) {
        None => Some("no controller has looked at it".into()),
        Some(condition) if condition.status == "True" => None,
        Some(condition) => Some(condition.message.clone()),
    }
}
