//! One name for one thing, whatever each store calls it.

use std::fmt;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::value::{Error as ValueError, StrDeserializer};
use serde::{Deserialize, Serialize};

/// A thing that can break: a workload, one of its containers, a node, a build.
///
/// Pods are not entities of their own in an answer: they are reborn, so they stand for their workload.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Entity {
    /// Cluster name; empty means the cluster that Amend runs in.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cluster: String,
    /// Namespace; empty for cluster-scoped things and for names that no store placed in a namespace.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    pub kind: EntityKind,
    pub name: String,
    /// Container inside the workload, when the fact is about one container only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// What sort of thing an entity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EntityKind {
    Deployment,
    StatefulSet,
    DaemonSet,
    ReplicaSet,
    Job,
    CronJob,
    Pod,
    Service,
    ConfigMap,
    Secret,
    PersistentVolumeClaim,
    Node,
    Namespace,
    Build,
    Release,
    /// A name seen in telemetry that no Kubernetes object answers to (yet).
    Unaligned,
}

impl Entity {
    /// An entity in this cluster, without a container.
    pub fn new(kind: EntityKind, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { cluster: String::new(), namespace: namespace.into(), kind, name: name.into(), container: None }
    }

    /// The same entity, narrowed to one container.
    pub fn with_container(mut self, container: impl Into<String>) -> Self {
        self.container = Some(container.into());
        self
    }

    /// The workload that this entity belongs to: itself without the container.
    pub fn workload(&self) -> Self {
        Self { container: None, ..self.clone() }
    }
}

/// `namespace/Kind/name[container]`, with the cluster in front when it is not this one.
impl fmt::Display for Entity {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.cluster.is_empty() {
            write!(out, "{}:", self.cluster)?;
        }
        if !self.namespace.is_empty() {
            write!(out, "{}/", self.namespace)?;
        }
        write!(out, "{:?}/{}", self.kind, self.name)?;
        match &self.container {
            Some(container) => write!(out, "[{container}]"),
            None => Ok(()),
        }
    }
}

/// Why a text names no entity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not written like namespace/Kind/name[container]")]
pub struct NotAnEntity(String);

/// Reads what [`Entity`]'s `Display` writes.
impl FromStr for Entity {
    type Err = NotAnEntity;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = || NotAnEntity(text.to_owned());
        let (cluster, rest) = text.split_once(':').unwrap_or(("", text));
        let (rest, container) = match rest.strip_suffix(']').and_then(|rest| rest.split_once('[')) {
            Some((rest, container)) => (rest, Some(container.to_owned())),
            None => (rest, None),
        };
        let (namespace, kind, name) = match rest.split('/').collect::<Vec<_>>().as_slice() {
            [namespace, kind, name] => (*namespace, *kind, *name),
            [kind, name] => ("", *kind, *name),
            _ => return Err(wrong()),
        };
        let kind = EntityKind::deserialize(StrDeserializer::<ValueError>::new(kind)).map_err(|_| wrong())?;
        if name.is_empty() {
            return Err(wrong());
        }
        Ok(Self {
            cluster: cluster.to_owned(),
            namespace: namespace.to_owned(),
            kind,
            name: name.to_owned(),
            container,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_read_back_and_anything_else_is_refused() {
        let there = Entity { cluster: "there".to_owned(), ..Entity::new(EntityKind::Pod, "shop", "cart-0") };
        for entity in [
            Entity::new(EntityKind::Deployment, "shop", "checkout").with_container("app"),
            Entity::new(EntityKind::Node, "", "worker-1"),
            there,
        ] {
            assert_eq!(entity.to_string().parse(), Ok(entity));
        }
        for text in ["checkout", "app/checkout", "shop/Deployment/", "a/b/Deployment/c"] {
            assert!(text.parse::<Entity>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_container_is_shown_in_brackets_and_left_out_of_the_workload() {
        let container = Entity::new(EntityKind::Deployment, "shop", "checkout").with_container("app");
        assert_eq!(container.to_string(), "shop/Deployment/checkout[app]");
        assert_eq!(container.workload().to_string(), "shop/Deployment/checkout");
    }
}
