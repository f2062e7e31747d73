//! The sandbox that the verbs are tried on, and running them.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use amend_sandbox::{SandboxClock, Scenario, World};
use jiff::Timestamp;
use serde_json::Value;

/// One world for all tests: they read, or write objects of their own.
pub struct Stage {
    pub world: World,
    kubeconfig: PathBuf,
    _folder: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

pub fn stage() -> &'static Stage {
    static STAGE: OnceLock<Stage> = OnceLock::new();
    STAGE.get_or_init(|| {
        let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
        let crds = amend_crds::schema::files().expect("the CRDs can be made");
        let crds: Vec<String> = crds.into_iter().map(|(_, text)| text).collect();
        let now: Timestamp = "2026-03-02T09:00:00Z".parse().expect("a time");
        let clock = SandboxClock::scaled(now, 1.0);
        let world = runtime.block_on(World::start(Scenario::oom(), clock, &crds)).expect("the sandbox starts");
        let folder = tempfile::tempdir().expect("a folder");
        let kubeconfig = folder.path().join("kubeconfig");
        std::fs::write(&kubeconfig, &world.endpoints().admin_kubeconfig).expect("a kubeconfig");
        world.apply_yaml(OBJECTS).expect("objects are taken");
        Stage { world, kubeconfig, _folder: folder, _runtime: runtime }
    })
}

/// Two policies and a source whose Secret is missing.
pub const OBJECTS: &str = r#"
apiVersion: amend.dev/v1alpha1
kind: RemediationPolicy
metadata: { name: raise-memory, namespace: shop }
spec:
  match:
    causes: [container.oom-killed]
    targets: [{ kind: Deployment, selector: { matchLabels: { tier: backend } } }]
  autonomy: Act
  serviceAccountName: amend-remediator
  steps: [{ name: raise, git: { setResources: { memory: { factor: 1.5, max: 2Gi } } } }]
---
apiVersion: amend.dev/v1alpha1
kind: RemediationPolicy
metadata: { name: of-nobody, namespace: shop }
spec:
  match:
    causes: [container.oom-killed]
    targets: [{ kind: StatefulSet, selector: { matchLabels: { tier: moon } } }]
  serviceAccountName: nobody
  steps: [{ name: raise, git: { setResources: { memory: { factor: 1.5, max: 2Gi } } } }]
---
apiVersion: amend.dev/v1alpha1
kind: TelemetrySource
metadata: { name: prometheus, namespace: amend-system }
spec: { kind: Prometheus, url: "http://127.0.0.1:1", secretRef: { name: not-there }, allowedNamespaces: [shop] }
"#;

/// Runs `amend` with these words.
pub fn amend(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_amend"))
        .args(words)
        .env("KUBECONFIG", &stage().kubeconfig)
        .env_remove("RUST_LOG")
        .output()
        .expect("amend runs")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

pub fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| unreadable(&format!("{error}: {} {}", text(&output.stdout), text(&output.stderr))))
}

#[expect(clippy::panic, reason = "a helper of a test fails the test")]
pub fn unreadable(what: &str) -> ! {
    panic!("{what}")
}
