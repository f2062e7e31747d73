//! KWOK: nodes that are ready and pods that run, without containers.
//!
//! What pods do is written in Stage objects: KWOK's own fast ones, and `tests/env/stages` for what goes
//! wrong (out of memory, crash loops, images that cannot be pulled), driven by annotations of the pod.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams};

use super::control_plane::ControlPlane;
use super::parts::{Binaries, Build, env_folder};
use super::program::Program;
use super::reaper::Run;

/// Room for every story's pods at once, with limits as people write them.
const NODES: [&str; 3] = ["node-a", "node-b", "node-c"];
const NODE_SIZE: NodeSize<'static> = NodeSize { cpu: "64", memory: "256Gi", pods: 1000 };

/// Label and taint of a node that is there for one story.
const RESERVED: &str = "only";

/// What a node has to give.
#[derive(Debug, Clone, Copy)]
pub struct NodeSize<'a> {
    pub cpu: &'a str,
    pub memory: &'a str,
    pub pods: u32,
}

/// KWOK's controller, running.
#[derive(Debug)]
pub struct Kwok {
    program: Program,
    control_plane: Arc<ControlPlane>,
    _folder: tempfile::TempDir,
}

impl Kwok {
    /// Starts it with all stages and three nodes that are ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn start(binaries: &Binaries, control_plane: Arc<ControlPlane>) -> anyhow::Result<Self> {
        let crds = yaml_of(&binaries.path(Build::Kwok, "crds")?)?;
        let stages =
            yaml_of(&binaries.path(Build::Kwok, "stages")?)? + "\n---\n" + &yaml_of(&env_folder().join("stages"))?;
        control_plane.apply("default", &crds).await?;
        control_plane.apply("default", &stages).await?;

        let folder = Run::current()?.folder("kwok")?;
        let program = Program::new("kwok", binaries.path(Build::Kwok, "kwok")?, folder.path())?
            .env("HOME", folder.path())
            .arg(format!("--kubeconfig={}", control_plane.kubeconfig_for_kwok().display()))
            .args([
                "--manage-all-nodes=true",
                "--enable-crds=Stage",
                "--cidr=10.64.0.0/12",
                "--node-lease-duration-seconds=40",
            ]);
        program.start()?;
        let kwok = Self { program, control_plane, _folder: folder };
        for name in NODES {
            kwok.add_node(name, NODE_SIZE, "{}").await?;
        }
        Ok(kwok)
    }

    /// Adds a node that takes only pods which select the label `only: NAME` and tolerate the taint of that name.
    ///
    /// # Errors
    /// When the API server refuses it or it does not become ready.
    pub async fn add_reserved_node(&self, name: &str, size: NodeSize<'_>) -> anyhow::Result<()> {
        let taints = format!("[{{key: {RESERVED}, value: {name}, effect: NoSchedule}}]");
        self.add(name, size, &format!("{{{RESERVED}: {name}}}"), &taints).await
    }

    /// Adds a node and waits until it is ready. `labels` is YAML, `{}` for none.
    ///
    /// # Errors
    /// When the API server refuses it or it does not become ready.
    pub async fn add_node(&self, name: &str, size: NodeSize<'_>, labels: &str) -> anyhow::Result<()> {
        self.add(name, size, labels, "[]").await
    }

    async fn add(&self, name: &str, size: NodeSize<'_>, labels: &str, taints: &str) -> anyhow::Result<()> {
        let NodeSize { cpu, memory, pods } = size;
        let node = format!(
            "{{apiVersion: v1, kind: Node, metadata: {{name: {name}, labels: {labels}, annotations: {{kwok.x-k8s.io/node: fake}}}}, spec: {{taints: {taints}}}}}"
        );
        self.control_plane.apply("", &node).await?;
        let nodes: Api<Node> = Api::all(self.control_plane.client().await?);
        let capacity = serde_json::json!({"cpu": cpu, "memory": memory, "pods": pods.to_string()});
        let status = serde_json::json!({"status": {"capacity": capacity, "allocatable": capacity}});
        nodes.patch_status(name, &kube::api::PatchParams::default(), &kube::api::Patch::Merge(status)).await?;
        self.program
            .ready(|| async {
                let node = nodes.get(name).await?;
                let conditions = node.status.and_then(|status| status.conditions).unwrap_or_default();
                let schedulable = node
                    .spec
                    .is_none_or(|spec| spec.taints.unwrap_or_default().iter().all(|taint| taint.key == RESERVED));
                let ready = schedulable
                    && conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True");
                Ok::<_, kube::Error>(ready.then_some(()))
            })
            .await
    }

    /// Adds or replaces Stage objects, which take effect at once.
    ///
    /// # Errors
    /// When the API server refuses one.
    pub async fn add_stages(&self, yaml: &str) -> anyhow::Result<()> {
        self.control_plane.apply("", yaml).await.map(|_| ())
    }

    /// The pods of a namespace with these labels (`app=cart`).
    ///
    /// # Errors
    /// When the API server does not answer.
    pub async fn pods(&self, namespace: &str, labels: &str) -> anyhow::Result<Vec<PodSeen>> {
        let pods: Api<Pod> = Api::namespaced(self.control_plane.client().await?, namespace);
        let pods = pods.list(&ListParams::default().labels(labels)).await?;
        Ok(pods.items.into_iter().map(PodSeen::from).collect())
    }

    /// The program, for stories that stop it.
    #[must_use]
    pub fn program(&self) -> &Program {
        &self.program
    }
}

/// What a story asks of a pod: its first container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PodSeen {
    pub name: String,
    pub ready: bool,
    pub restarts: i32,
    /// Why it waits now (`CrashLoopBackOff`, `ImagePullBackOff` ...).
    pub waiting: Option<String>,
    /// Why it ended last (`OOMKilled`, `Error` ...).
    pub last_ended: Option<String>,
    pub node: Option<String>,
}

impl From<Pod> for PodSeen {
    fn from(pod: Pod) -> Self {
        let container = pod.status.and_then(|status| status.container_statuses).and_then(|all| all.into_iter().next());
        let state = container.as_ref().and_then(|container| container.state.clone());
        let last = container.as_ref().and_then(|container| container.last_state.clone());
        Self {
            name: pod.metadata.name.unwrap_or_default(),
            ready: container.as_ref().is_some_and(|container| container.ready),
            restarts: container.as_ref().map_or(0, |container| container.restart_count),
            waiting: state.and_then(|state| state.waiting).and_then(|waiting| waiting.reason),
            last_ended: last.and_then(|last| last.terminated).and_then(|terminated| terminated.reason),
            node: pod.spec.and_then(|spec| spec.node_name),
        }
    }
}

/// Every YAML file of a folder as one text, by name.
pub(super) fn yaml_of(folder: &Path) -> anyhow::Result<String> {
    let mut files: Vec<_> =
        fs::read_dir(folder)?.collect::<Result<Vec<_>, _>>()?.into_iter().map(|entry| entry.path()).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "yaml"));
    files.sort();
    let texts = files.iter().map(fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.join("\n---\n"))
}
