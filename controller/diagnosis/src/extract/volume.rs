//! Claims that no volume satisfies.

use crate::cluster::{Pod, list, quantity, text};
use crate::scene::Scene;

/// Why the claims of a pending pod stay unbound: class, selector, access mode, size, or a volume that is taken.
pub fn fault_of_claims(scene: &Scene<'_>, pod: &Pod) -> Option<&'static str> {
    let quota = scene.cluster.others("ResourceQuota").iter().any(|quota| quota.to_string().contains("storage"));
    let claims = scene.cluster.others("PersistentVolumeClaim");
    let wanted = claim_names(scene, pod);
    let mine = claims.iter().filter(|claim| {
        let name = text(claim, "/metadata/name");
        text(claim, "/metadata/namespace") == pod.namespace
            && (wanted.is_empty() || wanted.iter().any(|one| one == name))
    });
    let unbound: Vec<_> = mine.filter(|claim| text(claim, "/status/phase") != "Bound").collect();
    let Some(claim) = unbound.first() else {
        return quota.then_some("namespace_storage_quota_exceeded");
    };
    let told = claim.to_string().to_ascii_lowercase();
    if told.contains("storageclass") && told.contains("not found") {
        return Some("pvc_storage_class_mismatch");
    }
    let class = text(claim, "/spec/storageClassName");
    let volumes = scene.cluster.others("PersistentVolume");
    let of_class: Vec<_> = volumes.iter().filter(|volume| text(volume, "/spec/storageClassName") == class).collect();
    let named = text(claim, "/spec/volumeName");
    let taken = |volume: &&serde_json::Value| {
        let holder = text(volume, "/spec/claim").to_owned();
        let holder = if holder.is_empty() { text(volume, "/spec/claimRef/name").to_owned() } else { holder };
        !holder.is_empty() && !holder.ends_with(text(claim, "/metadata/name"))
            || text(volume, "/status/phase") == "Released"
    };
    if told.contains("already bound") || told.contains("bound to a different") {
        return Some("pv_binding_occupied");
    }
    if !named.is_empty()
        && volumes.iter().filter(|volume| text(volume, "/metadata/name") == named).any(|volume| taken(&volume))
    {
        return Some("pv_binding_occupied");
    }
    if claim.pointer("/spec/selector").is_some_and(|selector| !selector.is_null()) {
        return Some("pvc_selector_mismatch");
    }
    if of_class.is_empty() && !volumes.is_empty() && !class.is_empty() {
        return Some("pvc_storage_class_mismatch");
    }
    let modes: Vec<&str> = list(claim, "/spec/accessModes").iter().filter_map(|mode| mode.as_str()).collect();
    let offers = |volume: &serde_json::Value| {
        let listed: Vec<&str> = list(volume, "/spec/accessModes").iter().filter_map(|mode| mode.as_str()).collect();
        let shown = text(volume, "/spec/accessMode");
        modes.iter().all(|mode| listed.contains(mode) || shown.split(',').any(|one| one == short_mode(mode)))
    };
    let free: Vec<_> = of_class.iter().filter(|volume| !taken(volume)).collect();
    if free.is_empty() && !of_class.is_empty() {
        return Some("pv_binding_occupied");
    }
    if !modes.is_empty() && !free.iter().any(|volume| offers(volume)) {
        return Some("pvc_access_mode_mismatch");
    }
    let size = |value: &serde_json::Value, pointer: &str| quantity(text(value, pointer));
    let asked = size(claim, "/spec/resources/requests/storage");
    let largest = free
        .iter()
        .filter_map(|volume| size(volume, "/spec/capacity/storage").or_else(|| size(volume, "/spec/capacityShown")))
        .reduce(f64::max);
    match (asked, largest) {
        (Some(asked), Some(largest)) if asked > largest => Some("pvc_capacity_mismatch"),
        _ if quota => Some("namespace_storage_quota_exceeded"),
        _ => Some("pvc_capacity_mismatch"),
    }
}

fn claim_names(scene: &Scene<'_>, pod: &Pod) -> Vec<String> {
    let template = scene.cluster.workload(&pod.workload).map(|workload| &workload.template);
    let volumes = template.map_or(&[] as &[_], |template| list(template, "/spec/volumes"));
    let own = list(&pod.object, "/spec/volumes");
    let named = volumes.iter().chain(own).map(|volume| text(volume, "/persistentVolumeClaim/claimName").to_owned());
    named.filter(|name| !name.is_empty()).collect()
}

fn short_mode(mode: &str) -> &str {
    match mode {
        "ReadWriteOnce" => "RWO",
        "ReadWriteMany" => "RWX",
        "ReadOnlyMany" => "ROX",
        "ReadWriteOncePod" => "RWOP",
        other => other,
    }
}
