//! Evidence extractors, one file each: they see the scene and return findings, and know nothing of each other.

mod addresses;
mod alerts;
mod autoscaler;
mod bursts;
mod chain;
mod commits;
mod config;
mod crash;
mod dependency;
mod dns;
mod edge_losses;
mod eviction;
mod fullness;
mod image;
mod jobs;
mod log_state;
mod lost_calls;
mod mass;
mod memory;
mod metrics;
mod network_policy;
mod node;
mod operation;
mod peers;
mod pressure;
mod probe;
mod quota;
mod release;
mod rollout;
mod routing;
mod scheduling;
mod shared_node;
mod sick_pod;
mod silent;
mod stuck;
mod taught;
mod templates;
mod traces;
mod unanswered;
mod unreached;
mod version;
mod volume;

pub use alerts::AGREEING;
pub use commits::is_source;
pub use metrics::{gauge, is_edge, of_node};
pub use rollout::watched;

use crate::finding::Finding;
use crate::scene::Scene;

/// All evidence of a scene.
pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let extractors: [fn(&Scene<'_>) -> Vec<Finding>; 38] = [
        memory::findings,
        image::findings,
        config::findings,
        scheduling::findings,
        quota::findings,
        probe::findings,
        routing::findings,
        peers::findings,
        log_state::findings,
        node::findings,
        crash::findings,
        release::findings,
        dependency::findings,
        fullness::findings,
        metrics::findings,
        mass::findings,
        chain::findings,
        bursts::findings,
        silent::findings,
        commits::findings,
        alerts::findings,
        traces::findings,
        unanswered::findings,
        lost_calls::findings,
        edge_losses::findings,
        rollout::findings,
        taught::findings,
        sick_pod::findings,
        operation::findings,
        version::findings,
        pressure::findings,
        network_policy::findings,
        dns::findings,
        autoscaler::findings,
        stuck::findings,
        eviction::findings,
        jobs::findings,
        templates::findings,
    ];
    let mut found: Vec<Finding> = extractors.iter().flat_map(|extract| extract(scene)).collect();
    // What several of them have in common is seen last.
    found.extend(shared_node::findings(scene, &found));
    found
}
