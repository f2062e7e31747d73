//! The stories: which release breaks the shop, in which way, and what would cure it.
//!
//! A scenario is data: behaviour of image versions, commits that release them, alert rules, routing. What the world then does
//! follows from the manifests alone.

pub mod shop;

use serde::{Deserialize, Serialize};

use crate::model::graph::{Need, Oversized, ServiceGraph, Surge, Version};
use crate::telemetry::alertmanager::Routing;
use crate::telemetry::rules::AlertRule;

/// Objects that every world begins with: namespaces, accounts, rights.
pub const CLUSTER: &str = include_str!("cluster.yaml");

const ALERTS: &str = include_str!("alerts.yaml");

/// A replacement of text in one file.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Edit {
    /// Path in the repository.
    pub path: String,
    /// Text that is there once.
    pub from: String,
    /// Text that takes its place.
    pub to: String,
}

/// A commit by a person.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Release {
    /// Commit message.
    pub message: String,
    /// Login of the author.
    pub author: String,
    /// What it changes.
    pub edits: Vec<Edit>,
}

/// One story.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// `oom`, `bad-release`, `bad-config`, `bad-fix`, `no-data`, `placebo` or `flood`.
    pub name: String,
    /// Seed of all chance.
    pub seed: u64,
    /// How the application behaves.
    pub graph: ServiceGraph,
    /// Commits that [`crate::World::trigger`] pushes together; the first one is the guilty one.
    pub releases: Vec<Release>,
    /// The service whose release is guilty.
    pub guilty: String,
    /// Alert rules of the Prometheus.
    pub rules: Vec<AlertRule>,
    /// Grouping of the Alertmanager.
    pub routing: Routing,
}

/// Names of all scenarios.
pub const NAMES: [&str; 7] = ["oom", "bad-release", "bad-config", "bad-fix", "no-data", "placebo", "flood"];

impl Scenario {
    /// The scenario of this name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            "oom" => Some(Self::oom()),
            "bad-release" => Some(Self::bad_release()),
            "bad-config" => Some(Self::bad_config()),
            "bad-fix" => Some(Self::bad_fix()),
            "no-data" => Some(Self { name: "no-data".into(), ..Self::oom() }),
            "placebo" => Some(Self::placebo()),
            "flood" => Some(Self::flood()),
            _ => None,
        }
    }

    fn base(name: &str, guilty: &str) -> Self {
        Self {
            name: name.into(),
            seed: 7,
            graph: shop::graph(7),
            releases: Vec::new(),
            guilty: guilty.into(),
            rules: serde_saphyr::from_str(ALERTS).unwrap_or_default(),
            routing: Routing::default(),
        }
    }

    fn behaves(&mut self, service: &str, tag: &str, version: impl FnOnce(Version) -> Version) {
        if let Some(service) = self.graph.services.get_mut(service) {
            let usual = service.usual.clone();
            service.versions.insert(tag.into(), version(usual));
        }
    }

    /// The release `v1.9.0` of `checkout` needs 310 MiB where 256 MiB are allowed. Every pod is OOM-killed about a minute
    /// after it starts, over and over; `checkout` fails a fifth or more of its requests, `frontend` answers 5xx for
    /// one in ten. A limit of 384 MiB (factor 1.5) or more in `apps/shop/checkout.yaml` heals it; so does the old image.
    ///
    /// Expected: alerts `ContainerOOMKilled` (checkout), `HighErrorRatio` (checkout, frontend), one incident, one line changed, `Succeeded`.
    pub fn oom() -> Self {
        let mut scenario = Self::base("oom", "checkout");
        scenario.behaves("checkout", "v1.9.0", |usual| Version {
            memory_mib: 310.0,
            warm_up_seconds: 80.0,
            error_message: "cannot allocate memory for order batch".into(),
            ..usual
        });
        scenario.releases = vec![release_of_checkout()];
        scenario
    }

    /// The release `v3.2.0` of `payment` fails a third of its requests and takes three times as long; `v2.3.2` of
    /// `catalog`, committed at the same time and applied by Flux in the same revision, is innocent. Memory has nothing to do with it: only the
    /// old `payment` image heals it.
    ///
    /// Expected: `HighErrorRatio` (payment, checkout, perhaps frontend); the revert of the payment commit alone; `Succeeded`.
    pub fn bad_release() -> Self {
        let mut scenario = Self::base("bad-release", "payment");
        scenario.behaves("payment", "v3.2.0", |usual| Version {
            error_ratio: 0.35,
            latency_factor: 3.0,
            error_message: "card processor answered: unknown field 'amount_minor'".into(),
            ..usual
        });
        scenario.releases = vec![
            release(
                "payment",
                "v3.1.4",
                "v3.2.0",
                "omar",
                "payment: release v3.2.0\n\nNew request format of the card processor.",
            ),
            release("catalog", "v2.3.1", "v2.3.2", "mia", "catalog: release v2.3.2\n\nFaster search."),
        ];
        scenario
    }

    /// A commit moves the ConfigMap of the shop to another address of the card processor, which answers `payment` with an error
    /// for half of its requests; no image and no Deployment changes. `payment` reads the map from a folder, so it takes the old
    /// address up without a restart.
    ///
    /// Expected: `HighErrorRatio` (payment, checkout, perhaps frontend); the revert of that commit in `config.yaml`; `Succeeded`
    /// two minutes after Flux has applied it at the earliest, since a kubelet may show the old folder as long.
    pub fn bad_config() -> Self {
        let mut scenario = Self::base("bad-config", "payment");
        let (right, wrong) = ("https://cards.example/v2", "https://cards.example/v3");
        if let Some(payment) = scenario.graph.services.get_mut("payment") {
            payment.usual.needs = vec![Need {
                config_map: "shop-config".into(),
                key: "processor-url".into(),
                one_of: vec![right.into()],
                error_ratio: 0.5,
            }];
            payment.usual.error_message = "card processor answered 404 to POST /v3/charges".into();
        }
        scenario.releases = vec![Release {
            message: "config: the card processor has a new address".into(),
            author: "omar".into(),
            edits: vec![Edit { path: format!("{}/config.yaml", shop::FOLDER), from: right.into(), to: wrong.into() }],
        }];
        scenario
    }

    /// As `oom`, but this release sizes its heap by the limit: with more than 300 MiB it is no longer killed, yet spends its time
    /// collecting garbage, fails three quarters of its requests and takes six times as long. A raise to 384 MiB is
    /// therefore measurably worse than before; taking the raise back heals that harm (the OOM kills are back, fewer
    /// requests fail). Only the old image would cure it.
    ///
    /// Expected: raise merged, harm measured, revert of the raise merged, `RolledBack`.
    pub fn bad_fix() -> Self {
        let mut scenario = Self::oom();
        scenario.name = "bad-fix".into();
        scenario.behaves("checkout", "v1.9.0", |usual| Version {
            memory_mib: 310.0,
            warm_up_seconds: 80.0,
            oversized: Some(Oversized { above_mib: 300.0, error_ratio: 0.75, latency_factor: 6.0 }),
            error_message: "request timed out while collecting garbage".into(),
            ..usual
        });
        scenario
    }

    /// The release `v1.9.0` of `checkout` is well for eight minutes after each start, then needs 900 MiB at once and is killed. A
    /// raise by half restarts the pods, and the restart alone makes all symptoms go away, for eight minutes: longer
    /// than any naive settle time. Then the kills are back. (Eight minutes, three times: 24 min of virtual time tell.)
    ///
    /// Expected: the merged raise never ends `Succeeded`.
    pub fn placebo() -> Self {
        let mut scenario = Self::base("placebo", "checkout");
        scenario.behaves("checkout", "v1.9.0", |usual| Version {
            surge: Some(Surge { after_seconds: 480.0, jitter: 0.05, memory_mib: 900.0 }),
            error_message: "cannot allocate memory for order batch".into(),
            ..usual
        });
        scenario.releases = vec![release_of_checkout()];
        scenario
    }

    /// The bad `payment` release again, with an alert per pod and route: 2 pods x 250 routes = 500 alerts within seconds,
    /// each in a webhook of its own, besides the usual ones.
    ///
    /// Expected: one incident, one pull request.
    pub fn flood() -> Self {
        let mut scenario = Self { name: "flood".into(), ..Self::bad_release() };
        scenario.releases.truncate(1);
        if let Some(payment) = scenario.graph.services.get_mut("payment") {
            payment.routes = 250;
        }
        scenario.rules.push(AlertRule {
            alert: "RouteErrorRatio".into(),
            expr: "http_route_error_ratio > 0.05".into(),
            hold: "30s".into(),
            labels: [("severity".to_owned(), "warning".to_owned())].into(),
            annotations: [("summary".to_owned(), "{{ $labels.route }} of {{ $labels.service }} fails".to_owned())]
                .into(),
        });
        scenario.routing.group_by = vec!["...".into()];
        scenario
    }
}

fn release(service: &str, from: &str, to: &str, author: &str, message: &str) -> Release {
    let image = |tag: &str| format!("registry.shop.example/{service}:{tag}");
    Release {
        message: message.into(),
        author: author.into(),
        edits: vec![Edit { path: format!("{}/{service}.yaml", shop::FOLDER), from: image(from), to: image(to) }],
    }
}

/// The release of which some stories say that it needs more memory.
fn release_of_checkout() -> Release {
    let message = "checkout: release v1.9.0\n\nBatch orders before they go to shipping.";
    release("checkout", "v1.8.2", "v1.9.0", "lena", message)
}

/// A harmless release in the middle of the back-filled history, so that Flux has more than one revision to tell of.
pub fn earlier_release() -> Release {
    release("catalog", "v2.3.0", "v2.3.1", "mia", "catalog: release v2.3.1\n\nTypo in the size chart.")
}
