//! Claims that no volume satisfies.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::cluster::{Pod, list, quantity, text};
use crate::scene::Scene;

/// Why the claims of a pending pod stay unbound: class, selector, access mode, size, or a volume that is taken.
pub fn fault_of_claims(scene: &Scene<'_>, pod: &Pod) -> Option<&'static str> {
    let quota = storage_is_used_up(scene, &pod.namespace);
    let claims = scene.cluster.others("PersistentVolumeClaim");
    let wanted = claim_names(scene, pod);
    let mine = claims.iter().filter(|claim| {
        let name = text(claim, "/metadata/name");
        text(claim, "/metadata/namespace") == pod.namespace
            && (wanted.is_empty() || wanted.iter().any(|one| one == name))
    });
    let (unbound, bound): (Vec<_>, Vec<_>) = mine.partition(|claim| text(claim, "/status/phase") != "Bound");
    let Some(claim) = unbound.first() else {
        // A claim that is not even there was refused; one that is bound was not.
        let refused = wanted.is_empty() || bound.len() < wanted.len();
        return (quota && refused).then_some("namespace_storage_quota_exceeded");
    };
    let told = claim.to_string().to_ascii_lowercase();
    if told.contains("storageclass") && told.contains("not found") {
        return Some("pvc_storage_class_mismatch");
    }
    let class = text(claim, "/spec/storageClassName");
    if let Some(fault) = told_by_events(scene, claim) {
        return Some(fault);
    }
    let volumes = scene.cluster.others("PersistentVolume");
    if claim.pointer("/spec/selector").is_some_and(|selector| !selector.is_null()) {
        return Some("pvc_selector_mismatch");
    }
    // Where no volume was listed nothing is known of what they offer, and where they are made on demand none has to fit.
    if !scene.cluster.kinds.contains("PersistentVolume") || made_on_demand(scene, class) {
        return None;
    }
    let of_class: Vec<_> = volumes.iter().filter(|volume| text(volume, "/spec/storageClassName") == class).collect();
    let named = text(claim, "/spec/volumeName");
    let taken = |volume: &&Value| {
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
    if of_class.is_empty() && !volumes.is_empty() && !class.is_empty() {
        return Some("pvc_storage_class_mismatch");
    }
    let modes: Vec<&str> = list(claim, "/spec/accessModes").iter().filter_map(|mode| mode.as_str()).collect();
    let offers = |volume: &Value| {
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
    let size = |value: &Value, pointer: &str| quantity(text(value, pointer));
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

/// What the binder or the provisioner said about a claim.
///
/// Source: the reasons `FailedBinding`, `ProvisioningFailed` and `VolumeMismatch` of the PersistentVolume controller.
fn told_by_events(scene: &Scene<'_>, claim: &Value) -> Option<&'static str> {
    const SIGNS: [(&[&str], &str); 8] = [
        (&["exceeded quota"], "namespace_storage_quota_exceeded"),
        (&["already bound to a different claim"], "pv_binding_occupied"),
        (&["storageclass", "not found"], "pvc_storage_class_mismatch"),
        (&["storageclassname does not match"], "pvc_storage_class_mismatch"),
        (&["access mode"], "pvc_access_mode_mismatch"),
        (&["incompatible accessmode"], "pvc_access_mode_mismatch"),
        (&["too small"], "pvc_capacity_mismatch"),
        (&["not enough free space"], "pvc_capacity_mismatch"),
    ];
    let object = format!("PersistentVolumeClaim/{}", text(claim, "/metadata/name"));
    let events = scene.observations.events.known().into_iter().flatten();
    let mut mine: Vec<_> = events
        .filter(|event| event.object == object && event.namespace == text(claim, "/metadata/namespace"))
        .filter(|event| ["ProvisioningFailed", "FailedBinding", "VolumeMismatch"].contains(&event.reason.as_str()))
        .collect();
    mine.sort_by(|a, b| (a.at, &a.message).cmp(&(b.at, &b.message)));
    let lower = mine.last()?.message.to_ascii_lowercase();
    // A claim that names no class is given the default one, where there is one.
    if lower.contains("no storage class is set") {
        return claim.pointer("/spec/storageClassName").is_none().then_some("pvc_storage_class_mismatch");
    }
    SIGNS.iter().find(|(words, _)| words.iter().all(|word| lower.contains(word))).map(|(_, fault)| *fault)
}

/// Whether a storage class makes its volumes itself: then no volume that is there has to fit.
fn made_on_demand(scene: &Scene<'_>, class: &str) -> bool {
    let mut classes = scene.cluster.others("StorageClass").iter().filter(|one| text(one, "/metadata/name") == class);
    classes.any(|one| !text(one, "/provisioner").is_empty() && !text(one, "/provisioner").ends_with("no-provisioner"))
}

/// Whether the namespace may have no storage left: a quota of it is used up, or nobody told how much of it is used.
fn storage_is_used_up(scene: &Scene<'_>, namespace: &str) -> bool {
    let here = |quota: &&Value| ["", namespace].contains(&text(quota, "/metadata/namespace"));
    scene.cluster.others("ResourceQuota").iter().filter(here).any(|quota| {
        let Some(hard) = quota.pointer("/status/hard").and_then(Value::as_object) else {
            return quota.to_string().contains("storage");
        };
        let stored = hard.iter().filter(|(key, _)| key.contains("storage") || *key == "persistentvolumeclaims");
        stored.into_iter().any(|(key, most)| {
            let used = quota["status"]["used"][key].as_str().and_then(quantity);
            used.zip(most.as_str().and_then(quantity)).is_some_and(|(used, most)| used >= most)
        })
    })
}

fn claim_names(scene: &Scene<'_>, pod: &Pod) -> Vec<String> {
    let template = scene.cluster.workload(&pod.workload).map(|workload| &workload.template);
    let volumes = template.map_or(&[] as &[_], |template| list(template, "/spec/volumes"));
    let own = list(&pod.object, "/spec/volumes");
    let named = volumes.iter().chain(own).map(|volume| text(volume, "/persistentVolumeClaim/claimName").to_owned());
    named.filter(|name| !name.is_empty()).collect::<BTreeSet<String>>().into_iter().collect()
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
