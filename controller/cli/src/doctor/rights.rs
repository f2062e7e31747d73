//! The rights of the controller and of remediators, asked of the API server.

use amend_crds::GROUP;
use anyhow::Context;
use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};

use super::{Visit, Weight};

/// Questions under way at once.
const AT_ONCE: usize = 8;

/// One rule: group, resources, verbs.
type Rule = (&'static str, &'static [&'static str], &'static [&'static str]);

const READ: &[&str] = &["get", "list"];
const FOLLOW: &[&str] = &["get", "list", "watch"];

/// What the controller needs in the whole cluster; the chart's ClusterRole, rule by rule (`charts/amend/templates/rbac.yaml`).
const IN_THE_CLUSTER: [Rule; 19] = [
    (
        "",
        &[
            "pods",
            "services",
            "configmaps",
            "persistentvolumeclaims",
            "persistentvolumes",
            "resourcequotas",
            "limitranges",
            "nodes",
            "namespaces",
        ],
        READ,
    ),
    ("", &["events"], &["get", "list", "watch", "create", "patch"]),
    ("events.k8s.io", &["events"], &["create", "patch"]),
    ("apps", &["deployments", "statefulsets", "daemonsets", "replicasets"], FOLLOW),
    ("batch", &["jobs", "cronjobs"], READ),
    ("policy", &["poddisruptionbudgets"], READ),
    ("autoscaling", &["horizontalpodautoscalers"], READ),
    ("autoscaling.k8s.io", &["verticalpodautoscalers"], READ),
    ("keda.sh", &["scaledobjects"], READ),
    ("networking.k8s.io", &["networkpolicies"], READ),
    ("discovery.k8s.io", &["endpointslices"], READ),
    ("storage.k8s.io", &["storageclasses"], READ),
    ("kustomize.toolkit.fluxcd.io", &["kustomizations"], READ),
    ("source.toolkit.fluxcd.io", &["gitrepositories"], READ),
    (GROUP, &["incidents", "builds", "remediations"], &["get", "list", "watch", "create", "update"]),
    (GROUP, &["remediationpolicies", "approvals", "telemetrysources", "gittargets"], FOLLOW),
    (
        GROUP,
        &[
            "incidents/status",
            "builds/status",
            "remediations/status",
            "remediationpolicies/status",
            "approvals/status",
            "telemetrysources/status",
            "gittargets/status",
        ],
        &["get", "update", "patch"],
    ),
    ("authorization.k8s.io", &["subjectaccessreviews"], &["create"]),
    ("authentication.k8s.io", &["tokenreviews"], &["create"]),
];

/// What it needs in its own namespace besides.
const AT_HOME: [Rule; 3] = [
    ("", &["secrets"], &["get", "create"]),
    ("", &["configmaps"], &["create"]),
    ("coordination.k8s.io", &["leases"], &["get", "list", "watch", "create", "update", "patch"]),
];

/// Who is asked about.
#[derive(Clone, Debug)]
pub struct Account {
    pub namespace: String,
    pub name: String,
}

/// What it should be allowed; `namespace` empty: in the whole cluster, `name` empty: any.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub group: &'a str,
    /// `deployments` or `incidents/status`.
    pub resource: &'a str,
    pub verbs: &'a [&'a str],
    pub namespace: &'a str,
    pub name: &'a str,
}

impl Visit<'_> {
    /// Every right of the controller itself.
    pub(super) async fn rights(&mut self) -> anyhow::Result<()> {
        let home = self.connection.install_namespace.clone();
        let account = self.controllers_account();
        let everywhere = IN_THE_CLUSTER.iter().map(|rule| (rule, ""));
        for ((group, resources, verbs), namespace) in everywhere.chain(AT_HOME.iter().map(|rule| (rule, home.as_str())))
        {
            for resource in *resources {
                self.may(&account, Wanted { group, resource, verbs, namespace, name: "" }).await?;
            }
        }
        let head = Wanted {
            group: "",
            resource: "configmaps",
            verbs: &["get", "update"],
            namespace: &home,
            name: "amend-record-head",
        };
        self.may(&account, head).await
    }

    pub(super) fn controllers_account(&self) -> Account {
        Account { namespace: self.connection.install_namespace.clone(), name: self.account.clone() }
    }

    /// Asks whether a service account may do something; what it may not is one finding with the commands that grant it.
    pub(super) async fn may(&mut self, account: &Account, wanted: Wanted<'_>) -> anyhow::Result<()> {
        let reviews: Api<SubjectAccessReview> = Api::all(self.client());
        let answers: Vec<(&str, bool)> = futures::stream::iter(wanted.verbs.iter().copied())
            .map(|verb| {
                let reviews = reviews.clone();
                async move {
                    let review = review(account, &wanted, verb);
                    let answer = reviews.create(&PostParams::default(), &review).await;
                    let answer = answer.context("cannot ask the API server who may do what")?;
                    anyhow::Ok((verb, answer.status.is_some_and(|status| status.allowed)))
                }
            })
            .buffered(AT_ONCE)
            .try_collect()
            .await?;
        let denied: Vec<&str> = answers.iter().filter(|(_, allowed)| !allowed).map(|(verb, _)| *verb).collect();
        self.looked_at += answers.len().saturating_sub(1);
        let (what, fix) = words(account, &wanted, &denied);
        self.check(denied.is_empty(), Weight::Missing, what, fix);
        Ok(())
    }
}

fn review(account: &Account, wanted: &Wanted<'_>, verb: &str) -> SubjectAccessReview {
    let (resource, subresource) = match wanted.resource.split_once('/') {
        Some((resource, subresource)) => (resource, Some(subresource.to_owned())),
        None => (wanted.resource, None),
    };
    let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(format!("system:serviceaccount:{}:{}", account.namespace, account.name)),
            // Without its groups an account is denied what its groups may.
            groups: Some(vec![
                "system:serviceaccounts".into(),
                format!("system:serviceaccounts:{}", account.namespace),
                "system:authenticated".into(),
            ]),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(verb.into()),
                group: Some(wanted.group.into()),
                resource: Some(resource.into()),
                subresource,
                namespace: given(wanted.namespace),
                name: given(wanted.name),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    }
}

/// What is said about rights that are missing, and the commands that grant them.
fn words(account: &Account, wanted: &Wanted<'_>, denied: &[&str]) -> (String, String) {
    let Wanted { group, resource, namespace, name, .. } = wanted;
    let (plural, subresource) = resource.split_once('/').unwrap_or((resource, ""));
    let dot = if group.is_empty() { "" } else { "." };
    let slash = if subresource.is_empty() { "" } else { "/" };
    let dotted = format!("{plural}{dot}{group}{slash}{subresource}");
    let Account { namespace: home, name: who } = account;
    let place = if namespace.is_empty() { "the whole cluster" } else { namespace };
    let which = if name.is_empty() { String::new() } else { format!(" {name}") };
    let what = format!("{home}/{who} may not {} {dotted}{which} in {place}", denied.join(", "));
    let (kind, at) = match namespace.is_empty() {
        true => ("clusterrole", String::new()),
        false => ("role", format!(" -n {namespace}")),
    };
    let role = format!("{who}-{}-{}", denied.join("-"), resource.replace('/', "-"));
    let only = if name.is_empty() { String::new() } else { format!(" --resource-name={name}") };
    let fix = format!(
        "kubectl create {kind} {role}{at} --verb={} --resource={dotted}{only} && \
         kubectl create {kind}binding {role}{at} --{kind}={role} --serviceaccount={home}:{who}",
        denied.join(",")
    );
    (what, fix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_right_is_named_with_the_commands_that_grant_it() {
        let account = Account { namespace: "shop".into(), name: "amend-remediator".into() };
        let verbs = &["propose"][..];
        let wanted =
            Wanted { group: GROUP, resource: "gittargets", verbs, namespace: "amend-system", name: "platform" };
        let (what, fix) = words(&account, &wanted, verbs);
        assert_eq!(what, "shop/amend-remediator may not propose gittargets.amend.dev platform in amend-system");
        assert_eq!(
            fix,
            "kubectl create role amend-remediator-propose-gittargets -n amend-system --verb=propose --resource=gittargets.amend.dev \
             --resource-name=platform && kubectl create rolebinding amend-remediator-propose-gittargets -n amend-system \
             --role=amend-remediator-propose-gittargets --serviceaccount=shop:amend-remediator"
        );
        let status = Wanted { group: GROUP, resource: "incidents/status", verbs: &["update"], namespace: "", name: "" };
        let (what, fix) = words(&account, &status, &["update"]);
        assert!(what.ends_with("may not update incidents.amend.dev/status in the whole cluster"), "{what}");
        assert!(
            fix.starts_with("kubectl create clusterrole amend-remediator-update-incidents-status --verb=update"),
            "{fix}"
        );
    }
}
