//! What the schema of a well-formed object cannot say.

use std::collections::BTreeMap;

use amend_crds::gittarget::Grant;
use amend_crds::telemetrysource::SourceLimits;
use amend_crds::{GitTargetSpec, TelemetrySourceSpec};
use amend_gitops::access::GitAccess;
use amend_policies::duration;
use amend_policies::lint::Finding;
use amend_policies::policy::{nearest, quoted};
use amend_telemetry::mapping::{KEYS, Mapping, MappingError};
use serde_json::Value;

use super::{error, fields, warning};

/// Kinds that changes are mostly about. A grant may name others; one that is almost one of these is a slip.
pub(super) const KINDS: [&str; 9] = [
    "ConfigMap",
    "CronJob",
    "DaemonSet",
    "Deployment",
    "HorizontalPodAutoscaler",
    "Ingress",
    "Job",
    "Service",
    "StatefulSet",
];

/// Everything that is wrong with the spec of a kind.
pub(super) fn meaning(kind: &str, spec: &Value) -> Vec<Finding> {
    match kind {
        "TelemetrySource" => {
            serde_json::from_value(spec.clone()).map(|spec: TelemetrySourceSpec| source(&spec)).unwrap_or_default()
        }
        "GitTarget" => {
            serde_json::from_value(spec.clone()).map(|spec: GitTargetSpec| target(&spec)).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

fn source(source: &TelemetrySourceSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (key, value) in &source.mapping {
        // One by one, so that each is told.
        if let Err(why) = Mapping::declared(&BTreeMap::from([(key.clone(), value.clone())])) {
            findings.push(error(&format!("mapping.{key}"), of_mapping(key, &why)));
        }
    }
    if let Err(why) = http(&source.url, "http://prometheus.monitoring:9090") {
        findings.push(error("url", why));
    }
    let SourceLimits { timeout, .. } = &source.limits;
    for (path, text) in [("sampleEvery", &source.sample_every), ("limits.timeout", timeout)] {
        if let Some(Err(why)) = text.as_deref().map(duration::parse) {
            findings.push(error(path, why));
        }
    }
    findings.extend(no_namespaces(&source.allowed_namespaces));
    findings
}

fn target(target: &GitTargetSpec) -> Vec<Finding> {
    let mut findings = Vec::new();
    match http(&target.url, "https://git.example.com/shop/platform.git") {
        Err(why) => findings.push(error("url", why)),
        Ok(()) => {
            if let Err(why) = GitAccess::new(&target.url, &target.branch) {
                findings.push(error("url", why.to_string()));
            }
        }
    }
    if target.grants.is_empty() {
        let sentence = "nothing may be changed; add grants: [{ namespace, paths, kinds, fields }]";
        findings.push(warning("grants", sentence.to_owned()));
    }
    for (position, grant) in target.grants.iter().enumerate() {
        let at = |place: &str| format!("grants[{position}].{place}");
        findings.extend(grant.problems().into_iter().map(|(place, sentence)| error(&at(&place), sentence)));
        let of_nothing = slips(grant).into_iter().chain(fields::of_nothing(grant));
        findings.extend(of_nothing.map(|(place, sentence)| warning(&at(&place), sentence)));
        if !target.allowed_namespaces.iter().any(|allowed| *allowed == grant.namespace || allowed == "*") {
            let sentence = format!(
                "is granted something but is not in allowedNamespaces; add {} there unless this object lives in it",
                quoted(&grant.namespace)
            );
            findings.push(warning(&at("namespace"), sentence));
        }
    }
    findings.extend(no_namespaces(&target.allowed_namespaces));
    findings
}

/// Kinds that no object has, as far as a slip of the pen explains them.
fn slips(grant: &Grant) -> Vec<(String, String)> {
    let kinds = grant.kinds.iter().enumerate().filter(|(_, kind)| !KINDS.contains(&kind.as_str()));
    kinds
        .filter_map(|(position, kind)| {
            let near = nearest(kind, KINDS.into_iter())?;
            Some((
                format!("kinds[{position}]"),
                format!("no object has the kind {}: did you mean {near}?", quoted(kind)),
            ))
        })
        .collect()
}

/// Entries that no namespace can have as its name (RFC 1123 label).
fn no_namespaces(allowed: &[String]) -> Vec<Finding> {
    let fits = |name: &str| {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        name.chars().all(|c| plain(c) || c == '-') && name.starts_with(plain) && name.ends_with(plain)
    };
    let wrong = allowed.iter().enumerate().filter(|(_, name)| *name != "*" && !fits(name));
    wrong
        .map(|(position, name)| {
            let sentence = format!("{} cannot be a namespace: small letters, digits and - only", quoted(name));
            error(&format!("allowedNamespaces[{position}]"), sentence)
        })
        .collect()
}

fn of_mapping(key: &str, why: &MappingError) -> String {
    let near = matches!(why, MappingError::UnknownKey { .. }).then(|| nearest(key, KEYS.into_iter())).flatten();
    near.map_or_else(
        || why.to_string(),
        |near| format!("mapping key {} is not known: did you mean {near}?", quoted(key)),
    )
}

/// An http(s) URL without user info; `such` shows how one is written.
fn http(text: &str, such: &str) -> Result<(), String> {
    match url::Url::parse(text) {
        Ok(url) if !matches!(url.scheme(), "http" | "https") => {
            Err(format!("{} is not http or https: write it like {such}", quoted(text)))
        }
        Ok(url) if !url.username().is_empty() || url.password().is_some() => {
            Err("user names and passwords belong in a Secret: name it in secretRef".to_owned())
        }
        Ok(_) => Ok(()),
        Err(_) => Err(format!("{} is not an http or https URL: write it like {such}", quoted(text))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(findings: Vec<Finding>) -> Vec<String> {
        findings.into_iter().map(|one| format!("{}: {}", one.path, one.sentence)).collect()
    }

    #[test]
    fn what_the_controller_would_refuse_in_a_source_is_refused_here() {
        let spec = json!({"kind": "Prometheus", "url": "prometheus:9090", "sampleEvery": "30sec",
            "limits": {"timeout": "10"}, "allowedNamespaces": ["shop", "*", "Shop_1"]});
        let told = told(meaning("TelemetrySource", &spec));
        let expected = [
            "url: \"prometheus:9090\" is not http or https: write it like http://prometheus.monitoring:9090",
            "sampleEvery: \"30sec\" is not a duration",
            "limits.timeout: \"10\" is not a duration",
            "allowedNamespaces[2]: \"Shop_1\" cannot be a namespace",
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{told}");
        }
    }

    #[test]
    fn a_target_that_can_match_nothing_is_told_so() {
        let spec = json!({"url": "git@git.example.com:shop/platform.git", "branch": "main", "forge": {"kind": "Gitea"},
            "secretRef": {"name": "git"}, "allowedNamespaces": ["shop"], "grants": [{"namespace": "shop",
            "paths": ["apps/**"], "kinds": ["Deployments", "Rollout"], "fields": ["spec.template.[*"]}]});
        let told = told(meaning("GitTarget", &spec));
        let expected = [
            "url: \"git@git.example.com:shop/platform.git\" is not an http or https URL: write it like https://",
            "grants[0].fields[0]: \"spec.template.[*\" is not a field",
            "grants[0].kinds[0]: no object has the kind \"Deployments\": did you mean Deployment?",
        ];
        assert_eq!(told.len(), expected.len(), "{told:?}");
        for (told, expected) in told.iter().zip(expected) {
            assert!(told.starts_with(expected), "{told}");
        }
    }
}
