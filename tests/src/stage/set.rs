//! Setting a stage, and what people do on it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use amend_crds::{GitTarget, RemediationPolicy, TelemetrySource};
use amend_sandbox::model::graph::ServiceGraph;
use anyhow::{Context, bail};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use serde_json::{Value, json};

use super::scenery::{FOLDER, Scenery, manifest};
use super::world::{RELEASE_NAMESPACE, World};
use super::{SAMPLE_EVERY, SOON};
use crate::bench::{Bench, Follow, GiteaUser, MergeStyle, Part, PullRequest, Repo, until};
use crate::workload::Workload;

/// How long a pod may take to be scheduled and run, and everything applied to be taken in.
const READY_WITHIN: Duration = Duration::from_secs(120);

/// How old the manifests are: older than anything that a diagnosis suspects.
const AGE: SignedDuration = SignedDuration::from_hours(3 * 24);

/// A shop that runs, watched by Amend, with Gitea, Flux and stores around it. Dropping it ends the shop's traffic.
pub struct Stage {
    pub(super) namespace: String,
    pub(super) world: Arc<World>,
    /// Reads and writes as an administrator, on the runtime of this story.
    pub(super) client: kube::Client,
    robot: GiteaUser,
    workload: Workload,
    traces: Arc<Bench>,
}

impl fmt::Debug for Stage {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Stage").field("namespace", &self.namespace).finish_non_exhaustive()
    }
}

impl Stage {
    /// Sets the scenery: the shop runs, its past is known, Amend has taken in sources, target and policies.
    ///
    /// # Errors
    /// When a part refuses something or does not become ready: with its words.
    pub async fn set(world: Arc<World>, scenery: Scenery) -> anyhow::Result<Self> {
        let stage = Self::bare(world, &scenery).await?;
        for file in stage.files(&scenery).values() {
            stage.apply(file).await?;
        }
        stage.ready().await?;
        Ok(stage)
    }

    /// Sets the shop with its repository, past, traffic and alert rules; Amend runs and knows nothing of it.
    ///
    /// # Errors
    /// When a part refuses something or does not become ready: with its words.
    pub async fn bare(world: Arc<World>, scenery: &Scenery) -> anyhow::Result<Self> {
        let namespace = scenery.namespace.as_str();
        let bench = Arc::clone(world.bench());
        world.control_plane().create_namespace(namespace).await?;
        let (robot, traces, ()) = tokio::try_join!(
            plant(&bench, scenery),
            // Names of services carry no namespace in Jaeger, so each shop has one of its own.
            Bench::start(&[Part::Jaeger]),
            world.serve(namespace),
        )?;
        let client = world.control_plane().client().await?;
        available(&client, namespace, &scenery.kinds()).await?;
        let workload = Workload::start(&bench, &traces, namespace, scenery.graph.clone()).await?;
        let services = scenery.graph.services.len();
        until("traces of every service", READY_WITHIN, || async {
            let known = traces.jaeger().services().await?;
            Ok::<_, anyhow::Error>((known.len() >= services).then_some(()))
        })
        .await?;

        bench.prometheus().add_rules(namespace, &scenery.rules).await?;
        let namespace = namespace.to_owned();
        Ok(Self { namespace, world, client, robot, workload, traces })
    }

    /// A person releases a new image of a service: one commit that changes one tag. Returns its id.
    ///
    /// # Errors
    /// When the manifest does not hold the old tag or Gitea refuses.
    pub async fn release(&self, service: &str, from: &str, to: &str) -> anyhow::Result<String> {
        let image = |tag: &str| format!("/{service}:{tag}");
        self.edit(&manifest(service), &image(from), &image(to), &format!("{service}: release {to}")).await
    }

    /// A person replaces a text that is once in a file of the repository, again when somebody else pushed meanwhile. Returns the
    /// commit's id.
    ///
    /// # Errors
    /// When the file does not hold the text or Gitea refuses.
    pub async fn edit(&self, path: &str, from: &str, to: &str, message: &str) -> anyhow::Result<String> {
        let repo = self.repo();
        let text = repo.file("main", path).await?;
        if text.matches(from).count() != 1 {
            bail!("{path} does not hold {from:?} once:\n{text}");
        }
        until(&format!("a push to {path}"), SOON, || async {
            let text = repo.file("main", path).await?;
            repo.commit("main", message, &[(path, &text.replacen(from, to, 1))]).await.map(Some)
        })
        .await
    }

    /// A reviewer reads before pressing merge: waits until an alert on a service has fired for this many seconds.
    ///
    /// # Errors
    /// When it does not fire for so long in time.
    pub async fn has_fired(&self, alert: &str, service: &str, seconds: u32) -> anyhow::Result<()> {
        let namespace = &self.namespace;
        // Prometheus looks every second.
        let looks = format!(
            "count_over_time(ALERTS{{namespace=\"{namespace}\", alertname=\"{alert}\", service=\"{service}\", alertstate=\"firing\"}}[10m])"
        );
        until(&format!("{alert} on {service} to have fired for {seconds} s"), READY_WITHIN, || async {
            let fired = self.world.bench().prometheus().value(&looks).await?;
            Ok::<_, anyhow::Error>(fired.filter(|fired| *fired >= f64::from(seconds)).map(|_| ()))
        })
        .await
    }

    /// A reviewer presses merge; returns when the forge has done it.
    ///
    /// # Errors
    /// When Gitea does not merge in time: with its words.
    pub async fn merge(&self, pull_request: &PullRequest, style: MergeStyle) -> anyhow::Result<()> {
        let repo = self.repo();
        // Gitea computes whether a pull request can be merged after it was opened, and says "try again later" until then.
        until("Gitea to merge", SOON, || async {
            let now = repo.pull_request(pull_request.number).await?;
            if !now.merged {
                repo.merge(&now, style).await?;
            }
            Ok::<_, anyhow::Error>(Some(()))
        })
        .await
    }

    /// From now on the shop behaves otherwise, for a reason that no object shows.
    pub fn becomes(&self, change: impl FnOnce(&mut ServiceGraph)) {
        self.workload.becomes(change);
    }

    /// Waits until Flux has applied the head of `main`.
    ///
    /// # Errors
    /// When it is not applied in time: with Flux's words.
    pub async fn applied(&self) -> anyhow::Result<()> {
        let head = self.repo().head("main").await?;
        self.world.bench().flux().wait_applied(&self.namespace, "shop", &head).await
    }

    /// Applies YAML as an administrator, in the namespace of the story where it names none.
    ///
    /// # Errors
    /// When the API server refuses it.
    pub async fn apply(&self, yaml: &str) -> anyhow::Result<()> {
        self.world.control_plane().apply(&self.namespace, yaml).await.map(|_| ())
    }

    /// The world that it stands in.
    #[must_use]
    pub fn world(&self) -> &World {
        &self.world
    }

    /// The namespace of the story.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The administrator's client.
    #[must_use]
    pub fn client(&self) -> &kube::Client {
        &self.client
    }

    /// The repository of the shop.
    #[must_use]
    pub fn repo(&self) -> Repo<'_> {
        self.world.bench().gitea().repo(&self.namespace, "shop")
    }

    /// The forge account that Amend uses.
    #[must_use]
    pub fn robot(&self) -> &GiteaUser {
        &self.robot
    }

    /// The bench with the Jaeger of this shop.
    #[must_use]
    pub fn traces(&self) -> &Bench {
        &self.traces
    }

    /// A workload as it is in the cluster.
    ///
    /// # Errors
    /// When there is none.
    pub async fn deployment(&self, name: &str) -> anyhow::Result<Value> {
        self.workload("Deployment", name).await
    }

    /// The same of any kind of workload of Kubernetes' own.
    ///
    /// # Errors
    /// When there is none.
    pub async fn workload(&self, kind: &str, name: &str) -> anyhow::Result<Value> {
        Ok(serde_json::to_value(workloads(&self.client, &self.namespace, kind).get(name).await?)?)
    }

    /// What a platform team applies, as YAML files by name: where to ask, what may be changed, who answers what.
    #[must_use]
    pub fn files(&self, scenery: &Scenery) -> BTreeMap<&'static str, String> {
        let namespace = self.namespace.as_str();
        let bench = self.world.bench();
        let source = |name: &str, kind: &str, url: &str| {
            json!({"apiVersion": "amend.dev/v1alpha1", "kind": "TelemetrySource", "metadata": {"name": name, "namespace": namespace},
                   "spec": {"kind": kind, "url": url, "sampleEvery": SAMPLE_EVERY}})
        };
        let sources = [
            source("prometheus", "Prometheus", bench.prometheus().url()),
            source("alertmanager", "Alertmanager", &bench.alertmanager().url()),
            source("loki", "Loki", bench.loki().url()),
            source("jaeger", "Jaeger", self.traces.jaeger().url()),
        ];
        let secret = format!("{namespace}-git");
        let forge = scenery.git_through.as_deref().unwrap_or(bench.gitea().url());
        let granted = [&scenery.kinds()[..], &["ConfigMap"]].concat();
        let usual = ["spec.template.spec.containers[*].resources", "spec.template.spec.containers[*].image", "data"];
        let fields = [&usual[..], &scenery.granted].concat();
        let target = [
            json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": RELEASE_NAMESPACE},
                   "stringData": {"username": self.robot.name, "password": self.robot.token}}),
            json!({"apiVersion": "amend.dev/v1alpha1", "kind": "GitTarget", "metadata": {"name": namespace, "namespace": RELEASE_NAMESPACE},
            "spec": {
                "url": git_url(forge, namespace), "branch": "main", "forge": {"kind": "Gitea", "url": forge},
                "secretRef": {"name": secret}, "allowedNamespaces": [namespace],
                "grants": [{
                    "namespace": namespace, "paths": [format!("{FOLDER}/**")], "kinds": granted, "fields": fields,
                }],
            }}),
        ];
        [("telemetry-source.yaml", &sources[..]), ("git-target.yaml", &target), ("policy.yaml", &scenery.policies)]
            .into_iter()
            .map(|(name, objects)| (name, yaml(objects)))
            .collect()
    }

    async fn ready(&self) -> anyhow::Result<()> {
        let waited = until("Amend to take in what was applied", READY_WITHIN, || async {
            let waiting = self.not_ready().await?;
            match waiting.is_empty() {
                true => Ok(Some(())),
                false => Err(anyhow::anyhow!("{}", waiting.join("; "))),
            }
        });
        waited.await.with_context(|| self.world.amend().program().log_end())
    }

    /// What Amend has not taken in, with its reason.
    async fn not_ready(&self) -> anyhow::Result<Vec<String>> {
        self.world.amend().restart_if_ended()?;
        let all = ListParams::default();
        let client = || self.client.clone();
        let mut waiting = Vec::new();
        let mut look = |name: String, wanted: &str, conditions: &[Condition]| {
            let found = conditions.iter().find(|one| one.type_ == wanted);
            if found.is_none_or(|one| one.status != "True") {
                waiting.push(format!("{name}: {}", found.map_or("not looked at", |one| one.message.as_str())));
            }
        };
        for one in Api::<TelemetrySource>::namespaced(client(), &self.namespace).list(&all).await? {
            look(one.name_any(), "Ready", one.status.as_ref().map_or(&[], |status| &status.conditions));
        }
        let target = Api::<GitTarget>::namespaced(client(), RELEASE_NAMESPACE).get(&self.namespace).await?;
        look(target.name_any(), "Ready", target.status.as_ref().map_or(&[], |status| &status.conditions));
        for one in Api::<RemediationPolicy>::namespaced(client(), &self.namespace).list(&all).await? {
            look(one.name_any(), "Accepted", one.status.as_ref().map_or(&[], |status| &status.conditions));
        }
        Ok(waiting)
    }
}

/// Documents of one file.
fn yaml(objects: &[Value]) -> String {
    // A value of JSON is always a value of YAML.
    objects.iter().filter_map(|object| serde_saphyr::to_string(object).ok()).collect::<Vec<_>>().join("---\n")
}

fn git_url(forge: &str, namespace: &str) -> String {
    format!("{forge}/{namespace}/shop.git")
}

/// The repository with the robot that may write it, followed by Flux.
async fn plant(bench: &Bench, scenery: &Scenery) -> anyhow::Result<GiteaUser> {
    let namespace = scenery.namespace.as_str();
    let gitea = bench.gitea();
    gitea.create_org(namespace).await?;
    let files: Vec<(&str, &str)> = scenery.files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let repo = gitea.create_repo(namespace, "shop", &[]).await?;
    // Manifests that came today would be a release to suspect; what Flux applies first is then a commit that touches none.
    repo.commit_dated("main", "shop: manifests", &files, Timestamp::now() - AGE).await?;
    repo.commit_dated("main", "who to ask", &[("OWNERS.md", "#team-shop\n")], Timestamp::now() - AGE).await?;
    let robot = gitea.create_user(&format!("{namespace}-amend")).await?;
    repo.add_collaborator(&robot.name, "write").await?;
    let url = git_url(scenery.git_through.as_deref().unwrap_or(gitea.url()), namespace);
    let path = format!("./{FOLDER}");
    let admin = gitea.admin();
    let follow = Follow {
        name: "shop",
        namespace,
        url: &url,
        branch: "main",
        path: &path,
        user: &admin.name,
        password: &admin.token,
    };
    bench.flux().follow(&follow).await?;
    Ok(robot)
}

async fn available(client: &kube::Client, namespace: &str, kinds: &[&str]) -> anyhow::Result<()> {
    until("every pod of the shop to run", READY_WITHIN, || async {
        let mut all = Vec::new();
        for kind in kinds {
            all.extend(workloads(client, namespace, kind).list(&ListParams::default()).await?.items);
        }
        let runs = |one: &DynamicObject| {
            let wanted = one.data["spec"]["replicas"].as_u64();
            wanted.is_some() && one.data["status"]["availableReplicas"].as_u64() == wanted
        };
        Ok::<_, kube::Error>((!all.is_empty() && all.iter().all(runs)).then_some(()))
    })
    .await
}

fn workloads(client: &kube::Client, namespace: &str, kind: &str) -> Api<DynamicObject> {
    let kind = ApiResource::from_gvk(&GroupVersionKind::gvk("apps", "v1", kind));
    Api::namespaced_with(client.clone(), namespace, &kind)
}
