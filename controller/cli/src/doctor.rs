//! `amend doctor`: what is missing, and the command that mends it.

mod objects;
mod rights;

use std::process::ExitCode;

use amend_crds::HOLD_ANNOTATION;
use anyhow::Context;
use clap::Args;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Secret, ServiceAccount};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::Api;
use kube::{Client, ResourceExt};
use serde::Serialize;
use serde_json::json;

use crate::connection::{Connection, Flags, plain, print, release};

/// Names everything that is missing, with the command that mends it; exits non-zero when something is.
#[derive(Debug, Args)]
pub struct Arguments {
    /// Service account of the controller in its namespace; without it that of its Deployment
    #[arg(long, value_name = "NAME")]
    service_account: Option<String>,
}

/// Volumes of the chart's Deployment that hold a Secret, and the key that is read of it.
const MOUNTED: [(&str, &str); 4] = [("intake", "token"), ("ci", "secret"), ("paging", "secret"), ("model", "key")];

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
enum Weight {
    /// Something does not work.
    Missing,
    /// It could not be looked at. Unknown is never yes: this counts like missing.
    Unknown,
    /// It works, with less: pull requests stay drafts, or nothing matches yet.
    Gap,
}

/// One thing to mend.
#[derive(Clone, Debug, Serialize)]
struct Finding {
    weight: Weight,
    what: String,
    fix: String,
}

struct Visit<'a> {
    connection: &'a Connection,
    /// The controller's service account.
    account: String,
    controller: Option<Deployment>,
    looked_at: usize,
    found: Vec<Finding>,
}

pub async fn run(arguments: &Arguments, flags: &Flags) -> anyhow::Result<ExitCode> {
    let connection = flags.connect().await?;
    let mut visit =
        Visit { connection: &connection, account: String::new(), controller: None, looked_at: 0, found: Vec::new() };
    visit.controller = visit.told(connection.controller().await, "deployments").flatten();
    visit.account = match &arguments.service_account {
        Some(named) => named.clone(),
        None => account_of(visit.controller.as_ref()),
    };
    // Without the kinds or the account there is nothing else to look at.
    if visit.kinds().await? && visit.installation().await? {
        visit.rights().await?;
        visit.objects().await?;
    }
    let Visit { looked_at, mut found, .. } = visit;
    found.sort_by_key(|one| one.weight);
    let well = found.iter().all(|one| one.weight == Weight::Gap);
    match connection.output {
        Some(output) => print(&json!({ "well": well, "lookedAt": looked_at, "findings": found }), output)?,
        None => {
            for Finding { weight, what, fix } in &found {
                let word = match weight {
                    Weight::Missing => "missing",
                    Weight::Unknown => "unknown",
                    Weight::Gap => "gap",
                };
                println!("{word}: {}\n    fix: {fix}", plain(what));
            }
            let count = |weight| found.iter().filter(|one| one.weight == weight).count();
            println!(
                "{looked_at} things looked at: {} missing, {} unknown, {} gaps",
                count(Weight::Missing),
                count(Weight::Unknown),
                count(Weight::Gap)
            );
        }
    }
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

impl Visit<'_> {
    fn client(&self) -> Client {
        self.connection.client.clone()
    }

    fn helm(&self) -> String {
        let release = self.controller.as_ref().map_or_else(|| "amend".to_owned(), release);
        format!(
            "helm upgrade --install {release} charts/amend --namespace {} --create-namespace --reuse-values",
            self.connection.install_namespace
        )
    }

    fn check(&mut self, there: bool, weight: Weight, what: impl Into<String>, fix: impl Into<String>) -> bool {
        self.looked_at += 1;
        if !there {
            self.found.push(Finding { weight, what: what.into(), fix: fix.into() });
        }
        there
    }

    /// The answer of a read; a read that failed is a finding of its own, and the visit goes on.
    fn told<T>(&mut self, answer: Result<T, impl Into<anyhow::Error>>, what: &str) -> Option<T> {
        match answer {
            Ok(told) => Some(told),
            Err(why) => {
                let why = amend_controller::errors::chain(why.into().as_ref());
                let fix = format!("run this as somebody who may read {what}: kubectl auth can-i get {what} -A");
                self.check(false, Weight::Unknown, format!("cannot read {what}: {why}"), fix);
                None
            }
        }
    }

    /// Whether all kinds are served.
    async fn kinds(&mut self) -> anyhow::Result<bool> {
        let api: Api<CustomResourceDefinition> = Api::all(self.client());
        let mut all = true;
        for wanted in amend_crds::schema::definitions()? {
            let name = wanted.name_any();
            let found = api.get_opt(&name).await.with_context(|| format!("cannot read the CRD {name}"))?;
            let fix = self.helm();
            all &= self.check(found.is_some(), Weight::Missing, format!("the CRD {name}"), fix);
        }
        Ok(all)
    }

    /// Whether the namespace and the account are there.
    async fn installation(&mut self) -> anyhow::Result<bool> {
        let (namespace, helm) = (self.connection.install_namespace.clone(), self.helm());
        let namespaces: Api<Namespace> = Api::all(self.client());
        let found = namespaces.get_opt(&namespace).await.context("cannot read namespaces")?;
        let there = self.check(found.is_some(), Weight::Missing, format!("the namespace {namespace}"), helm.clone());
        let accounts: Api<ServiceAccount> = Api::namespaced(self.client(), &namespace);
        let account = accounts.get_opt(&self.account).await.context("cannot read service accounts")?;
        let what = format!("the service account {namespace}/{}", self.account);
        let installed = there & self.check(account.is_some(), Weight::Missing, what, helm);
        if installed {
            self.controller(&namespace).await;
            self.mounted(&namespace).await;
        }
        Ok(installed)
    }

    async fn controller(&mut self, namespace: &str) {
        let leases: Api<Lease> = Api::namespaced(self.client(), namespace);
        if let Some(lease) = self.told(leases.get_opt("amend-controller").await, "leases") {
            let holder = lease.and_then(|lease| lease.spec).and_then(|spec| spec.holder_identity);
            let leads = holder.is_some_and(|holder| !holder.is_empty());
            let name = self.controller.as_ref().map_or_else(|| "amend".to_owned(), ResourceExt::name_any);
            let fix = format!("kubectl -n {namespace} logs deploy/{name}");
            self.check(leads, Weight::Missing, "a controller that leads", fix);
        }
        let config_maps: Api<ConfigMap> = Api::namespaced(self.client(), namespace);
        if let Some(stop) = self.told(config_maps.get_opt("amend-stop").await, "configmaps") {
            let stop =
                stop.filter(|one| one.data.as_ref().and_then(|data| data.get("stop")).is_none_or(|to| to != "false"));
            let fix = format!("kubectl -n {namespace} delete configmap amend-stop");
            let what = "everything is stopped: ConfigMap amend-stop is there";
            self.check(stop.is_none(), Weight::Missing, what, fix);
        }
    }

    /// The Secrets of alerts, builds, pages and the model, under the names that the Deployment mounts. Without its own each of
    /// them is refused or withheld, and the controller runs on.
    async fn mounted(&mut self, namespace: &str) {
        let Some(deployment) = self.controller.clone() else { return };
        let pod = deployment.spec.template.spec;
        for volume in pod.and_then(|pod| pod.volumes).unwrap_or_default() {
            let key = MOUNTED.iter().find(|(name, _)| *name == volume.name).map(|(_, key)| *key);
            let secret = volume.secret.and_then(|secret| secret.secret_name);
            if let Some((key, secret)) = key.zip(secret) {
                self.secret(namespace, &secret, &[key]).await;
            }
        }
    }

    /// Whether a Secret is there with one of these keys. Who may not read Secrets still gets the rest of the visit.
    async fn secret(&mut self, namespace: &str, name: &str, keys: &[&str]) {
        let secrets: Api<Secret> = Api::namespaced(self.client(), namespace);
        let Some(found) = self.told(secrets.get_opt(name).await, "secrets") else { return };
        let data = found.map(|secret| secret.data.unwrap_or_default());
        let has = data.as_ref().is_some_and(|data| keys.iter().any(|key| data.contains_key(*key)));
        let key = keys.first().copied().unwrap_or("token");
        let what = match data {
            None => format!("the Secret {namespace}/{name}"),
            Some(_) => format!("one of the keys {} in Secret {namespace}/{name}", keys.join(", ")),
        };
        let fix = format!(
            "kubectl create secret generic {name} -n {namespace} --from-literal={key}=VALUE --dry-run=client -o yaml | kubectl apply -f -"
        );
        self.check(has, Weight::Missing, what, fix);
    }

    /// A hold on a namespace keeps everything there from happening.
    async fn hold(&mut self, namespace: &str) {
        let namespaces: Api<Namespace> = Api::all(self.client());
        let Some(found) = self.told(namespaces.get_opt(namespace).await, "namespaces") else { return };
        let reason = found.and_then(|one| one.annotations().get(HOLD_ANNOTATION).cloned());
        let what = format!("namespace {namespace} is on hold: {}", reason.clone().unwrap_or_default());
        let fix = format!("kubectl annotate namespace {namespace} {HOLD_ANNOTATION}-");
        self.check(reason.is_none(), Weight::Gap, what, fix);
    }
}

/// The account that a controller runs as; where none is installed yet, the one that the chart would make.
fn account_of(controller: Option<&Deployment>) -> String {
    let pod = controller.and_then(|deployment| deployment.spec.template.spec.as_ref());
    pod.and_then(|pod| pod.service_account_name.clone()).unwrap_or_else(|| "amend".to_owned())
}
