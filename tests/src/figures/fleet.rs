//! Teams whose services have just been released one after the other, all with too little memory: namespaces, manifests in Git, Flux's objects,
//! pods that are killed over and over. On the sandbox's API server and forge, and on its Prometheus where a figure needs one.

use std::collections::BTreeMap;

use amend_policies::library::LIBRARY;
use amend_sandbox::SandboxClock;
use amend_sandbox::apiserver::store::How;
use amend_sandbox::apiserver::{ApiServer, apply};
use amend_sandbox::cluster::Cluster;
use amend_sandbox::forge::Forge;
use amend_sandbox::git::{Author, Repo};
use amend_sandbox::model::Model;
use amend_sandbox::model::graph::{Service, ServiceGraph, Version};
use amend_sandbox::scenario::CLUSTER;
use anyhow::Context;
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::stores::{self, Stores};

/// How long everything was well, and how long it has been broken when the clock begins to flow: five lives of a pod.
const WELL: SignedDuration = SignedDuration::from_secs(60);
const BROKEN: SignedDuration = SignedDuration::from_secs(90);

/// Time between two services of a namespace: what one applied revision rolls out together is one problem, and these are to be many.
const APART: SignedDuration = SignedDuration::from_secs(35);

/// Steps of the past: a pod lives for about two of them.
const STEP: SignedDuration = SignedDuration::from_secs(5);

const ROBOT: &str = "amend";
const ROBOT_TOKEN: &str = "figures-robot-token";

/// Rights as wide as the figures need; the chart's own are what the live stories test.
const RIGHTS: &str = "
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: figures-controller }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: cluster-admin }
subjects: [{ kind: ServiceAccount, name: amend, namespace: amend-system }]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRole
metadata: { name: figures-remediator }
rules:
  - { apiGroups: [apps], resources: [deployments], verbs: [get, list, watch, update, patch] }
  - { apiGroups: [amend.dev], resources: [gittargets], verbs: [get, propose, merge] }
---
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata: { name: figures-remediators }
roleRef: { apiGroup: rbac.authorization.k8s.io, kind: ClusterRole, name: figures-remediator }
subjects: [{ kind: Group, apiGroup: rbac.authorization.k8s.io, name: \"system:serviceaccounts\" }]
";

/// How many of what; each team has a repository of its own.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    pub teams: usize,
    /// Of each team.
    pub namespaces: usize,
    /// Of each namespace.
    pub services: usize,
}

/// A service by its namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub namespace: String,
    pub service: String,
}

/// The fleet; it ends when it is dropped.
#[derive(Debug)]
pub struct Fleet {
    pub api: ApiServer,
    pub forge: Forge,
    size: Size,
    controller_token: String,
    stores: Option<Stores>,
}

impl Fleet {
    /// Makes the fleet, without telemetry stores; its clock then flows as the wall's does.
    ///
    /// # Errors
    /// When a server does not start or refuses an object.
    pub async fn start(size: Size) -> anyhow::Result<Self> {
        Self::made(size, false).await
    }

    /// The same with a Prometheus that sees the pods killed, and an Alertmanager: no cure is proposed for what may be over.
    ///
    /// # Errors
    /// When a server does not start or refuses an object.
    pub async fn observed(size: Size) -> anyhow::Result<Self> {
        Self::made(size, true).await
    }

    async fn made(size: Size, observed: bool) -> anyhow::Result<Self> {
        let releases = i32::try_from(size.services)?;
        let past = WELL.saturating_add(APART * releases).saturating_add(BROKEN);
        let begin = Timestamp::now().checked_sub(past)?;
        let clock = SandboxClock::stepped(begin);
        let api = ApiServer::start(clock.clone()).await?;
        for (_, crd) in amend_crds::schema::files().map_err(|error| anyhow::anyhow!("cannot make the CRDs: {error}"))? {
            api.apply_yaml(&crd, "helm").map_err(refused)?;
        }
        api.apply_yaml(CLUSTER, "kubectl").map_err(refused)?;
        api.apply_yaml(RIGHTS, "kubectl").map_err(refused)?;
        let forge = Forge::start(clock.clone()).await?;
        forge.add_account(ROBOT, ROBOT_TOKEN, true);
        let controller_token =
            api.tokens().issue(amend_sandbox::apiserver::rbac::Identity::service_account("amend-system", "amend"));
        let mut fleet = Self { api, forge, size, controller_token, stores: None };
        let mut telemetry = match observed {
            true => Some(stores::started(clock.clone()).await?),
            false => None,
        };
        fleet.make_nodes()?;
        let mut repositories = BTreeMap::new();
        for team in 0..size.teams {
            let (url, repo) = fleet.plant(team, begin)?;
            repositories.insert(url, repo);
        }
        let mut model = Model::new(graph(size.services), begin);
        model.set_quiet(true);
        let mut cluster = Cluster::new(fleet.api.store().clone(), repositories.clone());
        let mut run = |span: SignedDuration| {
            let end = clock.now().saturating_add(span).unwrap_or(Timestamp::MAX);
            while clock.now() < end {
                clock.advance(STEP);
                let step = cluster.step(clock.now(), &mut model);
                if let Some(telemetry) = &mut telemetry {
                    telemetry.step(clock.now(), &model, step.logs, step.spans);
                }
            }
        };
        run(WELL);
        for number in 0..size.services {
            for (url, repo) in &repositories {
                release(repo, &service(number), clock.now()).with_context(|| format!("cannot release in {url}"))?;
            }
            run(APART);
        }
        run(BROKEN);
        clock.flow(1.0);
        fleet.stores = telemetry.map(|telemetry| Stores::kept_up(telemetry, model, clock));
        Ok(fleet)
    }

    /// Lets every namespace be answered: targets for the teams' repositories and the library's policy.
    ///
    /// # Errors
    /// When an object is refused.
    pub fn allow(&self) -> anyhow::Result<()> {
        let policy = LIBRARY.iter().find(|one| one.name == "raise-memory-after-oom").context("no such policy")?;
        let policy: Value = serde_saphyr::from_str(policy.yaml)?;
        for source in self.stores.iter().flat_map(|stores| stores.sources(&self.namespaces())) {
            self.put(source)?;
        }
        for team in 0..self.size.teams {
            let namespaces: Vec<String> = (0..self.size.namespaces).map(|number| namespace(team, number)).collect();
            let secret = format!("{}-git", name(team));
            self.put(
                json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret, "namespace": "amend-system"},
                            "stringData": {"username": ROBOT, "password": ROBOT_TOKEN}}),
            )?;
            let grants: Vec<Value> = namespaces
                .iter()
                .map(|namespace| {
                    json!({"namespace": namespace, "paths": [format!("apps/{namespace}/**")], "kinds": ["Deployment"],
                           "fields": ["spec.template.spec.containers[*].resources"]})
                })
                .collect();
            self.put(json!({"apiVersion": "amend.dev/v1alpha1", "kind": "GitTarget",
                "metadata": {"name": name(team), "namespace": "amend-system"},
                "spec": {"url": self.forge.clone_url(&repository(team)), "branch": "main", "forge": {"kind": "Gitea"},
                         "secretRef": {"name": secret}, "allowedNamespaces": namespaces, "grants": grants,
                         "newPullRequestsPerDay": 1000}}))?;
            for namespace in namespaces {
                let mut policy = policy.clone();
                policy["metadata"]["namespace"] = json!(namespace);
                self.put(policy)?;
            }
        }
        Ok(())
    }

    /// Every service, one namespace after the other.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let services = self.size.services;
        let of = |namespace: String| {
            (0..services).map(move |number| Place { namespace: namespace.clone(), service: service(number) })
        };
        self.namespaces().into_iter().flat_map(of).collect()
    }

    fn namespaces(&self) -> Vec<String> {
        let Size { teams, namespaces, .. } = self.size;
        (0..teams).flat_map(|team| (0..namespaces).map(move |number| namespace(team, number))).collect()
    }

    /// Pull requests of all repositories.
    #[must_use]
    pub fn pull_requests(&self) -> usize {
        (0..self.size.teams).map(|team| self.forge.pulls(&repository(team)).len()).sum()
    }

    /// What the controller connects with.
    #[must_use]
    pub fn controller_kubeconfig(&self) -> String {
        self.api.kubeconfig(&self.controller_token)
    }

    fn put(&self, object: Value) -> anyhow::Result<()> {
        apply(self.api.store(), &object, "kubectl").map_err(refused).map(|_| ())
    }

    /// Ten nodes, however large they must be for it.
    fn make_nodes(&self) -> anyhow::Result<()> {
        for number in 0..10 {
            let name = format!("node-{number}");
            let amounts = json!({"cpu": "4000", "memory": "16Ti", "pods": "4000"});
            let node = json!({"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {},
                "status": {"capacity": amounts, "allocatable": amounts,
                    "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "kubelet is ready"}]}});
            self.api.store().create("nodes", node, How::by("kubelet")).map_err(refused)?;
        }
        Ok(())
    }

    /// A team's repository and namespaces, followed by Flux. Gives the clone URL.
    fn plant(&self, team: usize, begin: Timestamp) -> anyhow::Result<(String, Repo)> {
        let repository = repository(team);
        let repo = self.forge.create_repository(&repository).map_err(|error| anyhow::anyhow!("{}", error.message))?;
        let url = self.forge.clone_url(&repository);
        self.put(json!({"apiVersion": "source.toolkit.fluxcd.io/v1", "kind": "GitRepository",
            "metadata": {"name": name(team), "namespace": "flux-system"},
            "spec": {"url": url, "interval": "5s", "ref": {"branch": "main"}}}))?;
        let mut files = BTreeMap::new();
        for number in 0..self.size.namespaces {
            let namespace = namespace(team, number);
            self.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}))?;
            self.put(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "amend-remediator", "namespace": namespace}}))?;
            self.put(json!({"apiVersion": "kustomize.toolkit.fluxcd.io/v1", "kind": "Kustomization",
                "metadata": {"name": namespace, "namespace": "flux-system"},
                "spec": {"interval": "5m", "path": format!("./apps/{namespace}"), "prune": true,
                         "sourceRef": {"kind": "GitRepository", "name": name(team)}}}))?;
            for number in 0..self.size.services {
                let service = service(number);
                files.insert(format!("apps/{namespace}/{service}.yaml"), Some(manifest(&namespace, &service)));
            }
        }
        let author = Author { name: "lena", email: "lena@shop.example" };
        let long_ago = begin.checked_sub(SignedDuration::from_hours(72))?;
        repo.commit("main", &files, "manifests of all services", &author, long_ago)?;
        Ok((url, repo))
    }
}

/// One commit for each namespace that changes the tag of one service.
fn release(repo: &Repo, service: &str, now: Timestamp) -> anyhow::Result<()> {
    let author = Author { name: "omar", email: "omar@shop.example" };
    let own = format!("/{service}.yaml");
    for (path, text) in repo.files("main", "apps")?.into_iter().filter(|(path, _)| path.ends_with(&own)) {
        let folder = path.rsplit_once('/').map_or_else(String::new, |(folder, _)| folder.to_owned());
        let changes = BTreeMap::from([(path, Some(text.replace(":v1.8.2", ":v1.9.0")))]);
        repo.commit("main", &changes, &format!("{folder}: release {service} v1.9.0"), &author, now)?;
    }
    Ok(())
}

fn refused(refusal: amend_sandbox::apiserver::status::Refusal) -> anyhow::Error {
    anyhow::anyhow!("the sandbox's API server refuses an object: {}", refusal.message)
}

/// `v1.9.0` of every service needs more than its limit and is killed a few seconds after each start.
fn graph(services: usize) -> ServiceGraph {
    let usual = Version { start_seconds: 1.0, ..Version::default() };
    let hungry = Version { memory_mib: 310.0, warm_up_seconds: 6.0, ..usual.clone() };
    let one = Service {
        rate: 1.0,
        latency_ms: 5.0,
        route: "GET /".to_owned(),
        usual,
        versions: BTreeMap::from([("v1.9.0".to_owned(), hungry)]),
        ..Service::default()
    };
    let services = (0..services).map(|number| (service(number), one.clone())).collect();
    ServiceGraph { seed: 7, services, max_backoff_seconds: 5.0 }
}

fn name(team: usize) -> String {
    format!("team-{team:02}")
}

fn repository(team: usize) -> String {
    format!("{}/apps", name(team))
}

fn namespace(team: usize, number: usize) -> String {
    format!("t{team:02}-n{number:02}")
}

fn service(number: usize) -> String {
    format!("svc-{number}")
}

fn manifest(namespace: &str, service: &str) -> String {
    format!(
        "# {service} of {namespace}; owners: #team-{namespace}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {service}
  namespace: {namespace}
  labels: {{ app: {service}, tier: backend }}
spec:
  replicas: 1
  selector:
    matchLabels: {{ app: {service} }}
  template:
    metadata:
      labels: {{ app: {service}, tier: backend }}
    spec:
      containers:
        - name: app
          image: registry.example.com/{service}:v1.8.2
          resources:
            requests:
              cpu: 50m
              memory: 192Mi
            limits:
              memory: 256Mi  # measured in the spring load test
"
    )
}
