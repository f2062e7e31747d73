//! The shop: ten services, their manifests as people keep them in Git, and how they behave when all is well.

use std::collections::BTreeMap;

use crate::model::graph::{Call, Service, ServiceGraph, Version};

/// The repository with the manifests.
pub const REPOSITORY: &str = "platform/shop";

/// Folder of the manifests in it.
pub const FOLDER: &str = "apps/shop";

macro_rules! manifests {
    ($($name:literal),+ $(,)?) => { &[$(($name, include_str!(concat!("shop/", $name, ".yaml")))),+] };
}

const MANIFESTS: &[(&str, &str)] = manifests!(
    "ads",
    "budget",
    "cart",
    "catalog",
    "checkout",
    "config",
    "currency",
    "email",
    "frontend",
    "namespace",
    "payment",
    "recommendation",
    "shipping",
);

/// Every file of the repository.
pub fn files() -> BTreeMap<String, Option<String>> {
    let mut files: BTreeMap<String, Option<String>> =
        MANIFESTS.iter().map(|(name, text)| (format!("{FOLDER}/{name}.yaml"), Some((*text).to_owned()))).collect();
    let readme = "# Shop\n\nManifests of the shop. `main` is what runs: Flux applies `apps/shop` to the cluster.\nOne file per service; owners are in the comments.\n";
    files.insert("README.md".into(), Some(readme.into()));
    files
}

/// Name, requests per second from outside, latency in ms, memory in MiB, route, calls per request.
type Row = (&'static str, f64, f64, f64, &'static str, &'static [(&'static str, f64)]);

/// Services, calls and usual behaviour.
pub fn graph(seed: u64) -> ServiceGraph {
    let rows: &[Row] = &[
        (
            "frontend",
            40.0,
            9.0,
            130.0,
            "GET /",
            &[
                ("catalog", 1.0),
                ("cart", 0.6),
                ("currency", 0.8),
                ("recommendation", 0.4),
                ("ads", 0.5),
                ("checkout", 0.35),
            ],
        ),
        ("catalog", 0.0, 12.0, 110.0, "GET /products", &[]),
        ("cart", 0.0, 6.0, 95.0, "GET /cart", &[]),
        (
            "checkout",
            0.0,
            22.0,
            165.0,
            "POST /checkout",
            &[("cart", 1.0), ("currency", 1.0), ("shipping", 1.0), ("payment", 1.0), ("email", 1.0)],
        ),
        ("payment", 0.0, 38.0, 105.0, "POST /charge", &[]),
        ("shipping", 0.0, 14.0, 70.0, "POST /quote", &[]),
        ("currency", 0.0, 3.0, 55.0, "GET /rates", &[]),
        ("recommendation", 0.0, 18.0, 150.0, "GET /recommendations", &[("catalog", 1.0)]),
        ("email", 0.0, 25.0, 60.0, "POST /send", &[]),
        ("ads", 0.0, 7.0, 65.0, "GET /banner", &[]),
    ];
    let services = rows
        .iter()
        .map(|(name, rate, latency_ms, memory_mib, route, calls)| {
            let service = Service {
                rate: *rate,
                latency_ms: *latency_ms,
                calls: calls
                    .iter()
                    .map(|(to, per_request)| Call { to: (*to).into(), per_request: *per_request, lost: 0.0 })
                    .collect(),
                route: (*route).into(),
                usual: Version { memory_mib: *memory_mib, ..Version::default() },
                ..Service::default()
            };
            ((*name).to_owned(), service)
        })
        .collect();
    // Kubernetes waits up to 300 s between restarts; a story that is told in a minute waits up to 40.
    ServiceGraph { seed, services, max_backoff_seconds: 40.0 }
}
