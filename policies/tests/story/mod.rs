//! The checkout story as values: pieces that the other tests change one at a time.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of a test fails the test")]
#![allow(dead_code, reason = "every test file uses its own part")]

use std::collections::BTreeMap;

use amend_diagnosis::diagnosis::{Cause, cause};
use amend_diagnosis::entity::{Entity, EntityKind};
use amend_diagnosis::evidence::Answer::{self, Known};
use amend_diagnosis::signal::Severity;
use amend_policies::gate::blast_radius::{BlastRadiusFacts, Rollout};
use amend_policies::gate::cooldown::CooldownFacts;
use amend_policies::gate::environment::{EnvironmentFacts, Silences};
use amend_policies::gate::fits::pod::PodResources;
use amend_policies::gate::fits::{FitsFacts, NodeRoom, PodChange};
use amend_policies::gate::permission::{AccessReview, PermissionFacts, RenderedChange, accesses_needed};
use amend_policies::gate::rollback::{DryRun, RollbackFacts};
use amend_policies::gate::{GateFacts, IncidentFacts};
use amend_policies::grant::Grant;
use amend_policies::plan::{IncidentRef, Plan, PlanTarget, Repository, SourceFile};
use amend_policies::planning::{NoPlan, Planned, Planning, make_plan};
use amend_policies::policy::{CompiledPolicy, Policy, PolicyRef};
use amend_policies::quantity::Quantity;
use jiff::Timestamp;
use serde_json::{Value, json};

pub const MANIFEST: &str = "\
apiVersion: apps/v1
kind: Deployment
metadata:
  name: checkout
  namespace: shop
  labels: {tier: backend}
spec:
  replicas: 4
  template:
    spec:
      containers:
        - name: app
          image: registry/checkout:1.1 # released on Friday
          resources:
            requests: {memory: 128Mi, cpu: 100m}
            limits:
              memory: 256Mi # tight
";

pub fn now() -> Timestamp {
    "2026-11-21T12:00:00Z".parse().unwrap()
}

pub fn quantity(text: &str) -> Quantity {
    Quantity::parse(text).unwrap()
}

/// A policy spec from YAML.
pub fn policy_of(yaml: &str) -> Policy {
    serde_json::from_value(yaml_value(yaml)).unwrap()
}

pub fn yaml_value(yaml: &str) -> Value {
    serde_saphyr::from_str(yaml).unwrap()
}

pub const POLICY: &str = "
match:
  causes: [container.oom-killed]
  targets: [{ kind: Deployment, selector: { matchLabels: { tier: backend } } }]
  minConfidence: 0.8
autonomy: Propose
serviceAccountName: shop-remediator
gates:
  - blastRadius: { maxUnavailable: 50%, maxDependents: 5 }
  - fits: {}
  - cooldown: { for: 5m, perTarget: { max: 1, in: 30d } }
  - expression: { cel: \"incident.severity != 'info'\", message: info incidents are not remediated }
steps:
  - name: raise-limit
    git: { setResources: { container: app, memory: { factor: 1.5, max: 2Gi } } }
abortWhen:
  - { metric: errorRatio, increase: 15% }
verify: { settle: auto, golden: [errorRatio, latencyP99, saturation, restarts] }
rollback: { when: [Aborted, VerificationFailed], via: RevertPullRequest }
escalate: [{ after: 15m, notify: [oncall] }]
";

pub fn policy() -> CompiledPolicy {
    policy_of(POLICY).compile().unwrap()
}

pub fn policy_ref() -> PolicyRef {
    PolicyRef { namespace: "shop".into(), name: "raise-memory".into(), uid: "p-1".into(), generation: 3 }
}

pub fn oom() -> Cause {
    Cause {
        kind: cause::OOM_KILLED.into(),
        entity: Entity::new(EntityKind::Deployment, "shop", "checkout").with_container("app"),
        change: None,
        confidence: 0.99,
        sentence: "checkout needs more memory than its limit".into(),
        facts_for: Vec::new(),
        facts_against: Vec::new(),
        measures: BTreeMap::from([("memory.peakBytes".into(), (250_u64 << 20).to_string())]),
    }
}

pub fn live() -> Value {
    let mut object = yaml_value(MANIFEST);
    object["metadata"]["uid"] = json!("d-1");
    object["status"] = json!({ "readyReplicas": 2 });
    object
}

pub fn target() -> PlanTarget {
    PlanTarget {
        entity: oom().entity,
        api_version: "apps/v1".into(),
        kind: "Deployment".into(),
        namespace: "shop".into(),
        name: "checkout".into(),
        uid: "d-1".into(),
    }
}

pub fn source(text: &str) -> SourceFile {
    SourceFile::new("apps/shop/checkout.yaml", text)
}

pub fn planning<'a>(policy: &'a CompiledPolicy, cause: &'a Cause, live: &'a Value) -> Planning<'a> {
    Planning {
        policy,
        policy_ref: policy_ref(),
        cause,
        incident: IncidentRef { namespace: "shop".into(), name: "inc-1".into(), uid: "i-1".into() },
        target: target(),
        live,
        repository: Repository {
            git_target: "amend/shop-repo".into(),
            url: "https://git.example/shop".into(),
            branch: "main".into(),
            base: "a".repeat(40),
        },
        revision: 1,
        source: Some(source(MANIFEST)),
        reverted: None,
    }
}

pub fn planned() -> Result<Planned, NoPlan> {
    make_plan(&planning(&policy(), &oom(), &live()))
}

pub fn plan() -> Plan {
    planned().unwrap().plan
}

pub fn unknown<T>() -> Answer<T> {
    Answer::unknown("the store did not answer in 5s")
}

/// Facts under which every gate passes.
pub fn facts(plan: &Plan) -> GateFacts {
    let pod = |limit: &str| {
        let resources = json!({ "requests": { "cpu": "100m", "memory": "128Mi" }, "limits": { "memory": limit } });
        PodResources::of(&json!({ "containers": [{ "name": "app", "resources": resources }] }), &[])
    };
    let edits = plan.steps.iter().flat_map(|step| &step.files);
    let rendered = edits.flat_map(|file| {
        file.edits.iter().map(|edit| RenderedChange {
            file: file.path.clone(),
            object: edit.object.clone(),
            field: edit.field.clone(),
            from: edit.from.clone(),
            to: edit.to.clone(),
        })
    });
    GateFacts {
        incident: IncidentFacts { severity: Severity::Critical, opened_at: now(), signals: Vec::new() },
        cause: oom(),
        target: Known(live()),
        permission: PermissionFacts {
            access: Known(
                accesses_needed(plan).into_iter().map(|access| AccessReview { access, allowed: true }).collect(),
            ),
            grants: Known(vec![Grant {
                namespace: "shop".into(),
                paths: vec!["apps/shop/**".into()],
                kinds: vec!["Deployment".into()],
                fields: vec!["spec.template.spec.containers[*].resources".into()],
            }]),
            rendered: Known(rendered.collect()),
        },
        environment: EnvironmentFacts {
            writers: Known(Vec::new()),
            holds: Known(Vec::new()),
            silences: Silences::Asked(Known(Vec::new())),
            suspended: Known(Vec::new()),
            firing: Known(3),
        },
        blast_radius: BlastRadiusFacts {
            rollout: Known(Rollout::of(&live()).unwrap()),
            budgets: Known(Vec::new()),
            dependents: Known(vec![Entity::new(EntityKind::Deployment, "shop", "frontend")]),
            readers: Known(Vec::new()),
            elsewhere: Known(Vec::new()),
        },
        rollback: RollbackFacts { deed: Known(DryRun::Accepted), inverse: Known(DryRun::Accepted) },
        fits: FitsFacts {
            pod: Known(PodChange { before: pod("256Mi"), after: pod("384Mi") }),
            nodes: Known(vec![NodeRoom {
                name: "node-a".into(),
                cpu_allocatable: quantity("4"),
                memory_allocatable: quantity("8Gi"),
                cpu_free: quantity("1"),
                memory_free: quantity("1Gi"),
            }]),
            quotas: Known(Vec::new()),
            limit_ranges: Known(Vec::new()),
        },
        cooldown: CooldownFacts { history: Known(Vec::new()) },
    }
}
