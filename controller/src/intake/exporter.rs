//! Alerts that an exporter raises about others: whom they are about.

use std::collections::BTreeMap;

use amend_diagnosis::entity::EntityKind;

/// Who tells about things other than itself, by the names that its charts give to its job, Service, pod and container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exporter {
    KubeStateMetrics,
    /// Runs on the node that it tells about.
    Node,
}

impl Exporter {
    pub(super) fn named(name: &str) -> Option<Self> {
        match () {
            () if name.contains("kube-state-metrics") => Some(Self::KubeStateMetrics),
            () if name.contains("node-exporter") => Some(Self::Node),
            () => None,
        }
    }

    pub(super) fn of(labels: &BTreeMap<String, String>) -> Option<Self> {
        ["job", "container", "pod", "service"].iter().find_map(|label| Self::named(labels.get(*label)?))
    }

    /// The thing without a pod that an alert of this exporter is about.
    pub(super) fn told_about(
        self,
        label: &impl Fn(&str) -> Option<String>,
        namespace: &str,
    ) -> Option<(EntityKind, String, String)> {
        let node = || Some((EntityKind::Node, String::new(), label("node").or_else(|| label("nodename"))?));
        match self {
            // The workload that an autoscaler scales is often called as it is; else the diagnosis knows its target.
            Self::KubeStateMetrics => label("horizontalpodautoscaler")
                .map(|name| (EntityKind::Unaligned, namespace.to_owned(), name))
                .or_else(node)
                .or_else(|| {
                    label("resourcequota").map(|_| (EntityKind::Namespace, String::new(), namespace.to_owned()))
                }),
            Self::Node => node().or_else(|| {
                let instance = label("instance")?;
                let host = instance.rsplit_once(':').map_or(instance.as_str(), |(host, _)| host);
                let host = host.trim_matches(['[', ']']).to_owned();
                // Whose address it is, the cluster tells when the alert is looked into.
                let kind = match host.parse::<std::net::IpAddr>() {
                    Ok(_) => EntityKind::Unaligned,
                    Err(_) => EntityKind::Node,
                };
                Some((kind, String::new(), host))
            }),
        }
    }
}
