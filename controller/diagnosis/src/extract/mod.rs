//! Evidence extractors, one file each: they see the scene and return findings, and know nothing of each other.

mod config;
mod crash;
mod dependency;
mod image;
mod memory;
mod node;
mod release;
mod scheduling;

use crate::finding::Finding;
use crate::scene::Scene;

/// All evidence of a scene.
pub fn findings(scene: &Scene<'_>) -> Vec<Finding> {
    let extractors: [fn(&Scene<'_>) -> Vec<Finding>; 8] = [
        memory::findings,
        image::findings,
        config::findings,
        scheduling::findings,
        node::findings,
        crash::findings,
        release::findings,
        dependency::findings,
    ];
    extractors.iter().flat_map(|extract| extract(scene)).collect()
}
