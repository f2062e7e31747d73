//! Reads of the cluster: objects as they are, events, and who is responsible for what.
//!
//! Everything is bounded and comes back as JSON, since the pure rooms look at fields and not at client types.
//! A kind that cannot be read is an `Unknown` with its reason, never an empty list.

use amend_diagnosis::evidence::{Answer, Asked, ObjectEvent, Window};
use jiff::{SignedDuration, Timestamp};
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, ListParams};
use kube::{Client, ResourceExt};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Objects that one page of a list brings: what the API server itself suggests for long lists.
const PAGE: u32 = 500;

/// Most objects of one kind that one look at a namespace takes in, page by page: some 50 MB of pods, and ten questions.
///
/// Of a kind with more nothing is known: a part of the pods would look like all of them.
const OBJECTS_MAX: usize = 5_000;

/// Events older than this say nothing about a problem that has just begun.
pub const EVENTS_FOR: SignedDuration = SignedDuration::from_hours(2);

/// A kind that we read: group, version, kind, plural, and whether it lives in namespaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Read {
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
}

/// What a look at a namespace reads; the chart's ClusterRole lists the same (`charts/amend/templates/rbac.yaml`).
pub const NAMESPACED: [Read; 18] = [
    read("apps", "v1", "Deployment", "deployments"),
    read("apps", "v1", "StatefulSet", "statefulsets"),
    read("apps", "v1", "DaemonSet", "daemonsets"),
    read("apps", "v1", "ReplicaSet", "replicasets"),
    read("batch", "v1", "Job", "jobs"),
    read("batch", "v1", "CronJob", "cronjobs"),
    read("", "v1", "Pod", "pods"),
    read("", "v1", "Service", "services"),
    read("", "v1", "ConfigMap", "configmaps"),
    read("", "v1", "PersistentVolumeClaim", "persistentvolumeclaims"),
    read("", "v1", "ResourceQuota", "resourcequotas"),
    read("", "v1", "LimitRange", "limitranges"),
    read("policy", "v1", "PodDisruptionBudget", "poddisruptionbudgets"),
    read("autoscaling", "v2", "HorizontalPodAutoscaler", "horizontalpodautoscalers"),
    read("networking.k8s.io", "v1", "NetworkPolicy", "networkpolicies"),
    read("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices"),
    read("autoscaling.k8s.io", "v1", "VerticalPodAutoscaler", "verticalpodautoscalers"),
    read("keda.sh", "v1alpha1", "ScaledObject", "scaledobjects"),
];

/// Read without a namespace.
pub const NODE: Read = read("", "v1", "Node", "nodes");
pub const NAMESPACE: Read = read("", "v1", "Namespace", "namespaces");
pub const VOLUME: Read = read("", "v1", "PersistentVolume", "persistentvolumes");
pub const STORAGE_CLASS: Read = read("storage.k8s.io", "v1", "StorageClass", "storageclasses");
pub const KUSTOMIZATION: Read = read("kustomize.toolkit.fluxcd.io", "v1", "Kustomization", "kustomizations");
pub const GIT_REPOSITORY: Read = read("source.toolkit.fluxcd.io", "v1", "GitRepository", "gitrepositories");

const fn read(group: &'static str, version: &'static str, kind: &'static str, plural: &'static str) -> Read {
    Read { group, version, kind, plural }
}

impl Read {
    /// `apps/v1` or `v1`.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.to_owned() } else { format!("{}/{}", self.group, self.version) }
    }

    fn resource(&self) -> ApiResource {
        ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(self.group, self.version, self.kind), self.plural)
    }

    /// The reader for a kind named in an object, when it is one that we read.
    pub fn of(api_version: &str, kind: &str) -> Option<Self> {
        NAMESPACED
            .into_iter()
            .chain([NODE, NAMESPACE, KUSTOMIZATION, GIT_REPOSITORY])
            .find(|read| read.kind == kind && read.api_version() == api_version)
    }

    /// The reader for a workload kind.
    pub fn of_kind(kind: &str) -> Option<Self> {
        NAMESPACED.into_iter().chain([NODE, NAMESPACE]).find(|read| read.kind == kind)
    }
}

/// What a look found: objects, events, and the questions behind them.
#[derive(Clone, Debug, Default)]
pub struct Look {
    pub objects: Vec<Value>,
    /// Empty also where they could not be read: [`Look::gaps`] says so.
    pub events: Vec<ObjectEvent>,
    pub asked: Vec<Asked>,
}

impl Look {
    /// Why something is missing, joined; `None` when every read was answered.
    pub fn gaps(&self) -> Option<String> {
        let gaps: Vec<String> = self
            .asked
            .iter()
            .filter_map(|asked| asked.unknown.as_ref().map(|why| format!("{}: {why}", asked.query)))
            .collect();
        (!gaps.is_empty()).then(|| gaps.join("; "))
    }

    /// Why events are missing; `None` when all were read.
    pub fn unread_events(&self) -> Option<String> {
        self.asked.iter().find(|asked| asked.id == "cluster-events").and_then(|asked| asked.unknown.clone())
    }

    /// Why a kind, named as in its path, was not read; `None` when it was.
    pub fn unread(&self, plural: &str) -> Option<String> {
        let of_it = |asked: &&Asked| asked.query.rsplit('/').next() == Some(plural);
        self.asked.iter().find(of_it).and_then(|asked| asked.unknown.clone())
    }

    /// Objects of a kind.
    pub fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> + 'a {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// One object by kind and name.
    pub fn find(&self, kind: &str, name: &str) -> Option<&Value> {
        self.objects.iter().find(|object| object["kind"] == kind && object["metadata"]["name"] == name)
    }
}

/// Reads one namespace and the nodes.
pub async fn look(client: &Client, namespace: &str, now: Timestamp) -> Look {
    let window = Window { from: now - EVENTS_FOR, to: now };
    let reads = NAMESPACED.iter().map(|read| list(client, *read, Some(namespace), window));
    let (mut answers, nodes, events) = futures::join!(
        futures::future::join_all(reads),
        list(client, NODE, None, window),
        events(client, namespace, window)
    );
    answers.push(nodes);
    let mut found = Look::default();
    for (answer, asked) in answers {
        if let Answer::Known(objects) = answer {
            found.objects.extend(objects);
        }
        found.asked.push(asked);
    }
    let (answer, asked) = events;
    if let Answer::Known(events) = answer {
        found.events = events;
    }
    found.asked.push(asked);
    found
}

/// Lists one kind, page by page, without the objects' managed fields.
pub async fn list(client: &Client, read: Read, namespace: Option<&str>, window: Window) -> (Answer<Vec<Value>>, Asked) {
    list_labelled(client, read, namespace, "", window).await
}

/// The same of objects with a label only; an empty selector asks for all.
pub async fn list_labelled(
    client: &Client,
    read: Read,
    namespace: Option<&str>,
    selector: &str,
    window: Window,
) -> (Answer<Vec<Value>>, Asked) {
    let resource = read.resource();
    let (api, path): (Api<DynamicObject>, String) = match namespace {
        Some(namespace) => (
            Api::namespaced_with(client.clone(), namespace, &resource),
            format!("{}/namespaces/{namespace}/{}", read.api_version(), read.plural),
        ),
        None => (Api::all_with(client.clone(), &resource), format!("{}/{}", read.api_version(), read.plural)),
    };
    let answer = match pages(&api, selector).await {
        Ok(Pages { whole: false, .. }) => {
            Answer::unknown(format!("more than {OBJECTS_MAX} {}; only a smaller scope can be judged", read.plural))
        }
        Ok(Pages { items, .. }) => Answer::Known(items.into_iter().map(|item| as_value(item, read)).collect()),
        // An optional API that is not installed has no objects: that is known.
        Err(error) if is_absent(&error) => Answer::Known(Vec::new()),
        Err(error) => Answer::unknown(reason(&error, read)),
    };
    let asked = asked(format!("cluster-{}", read.plural), path, window, &answer);
    (answer, asked)
}

/// What a list brought, and whether that is all.
struct Pages<K> {
    items: Vec<K>,
    whole: bool,
}

/// A list up to its bound. A list that is too old to be continued is an error, as any other.
///
/// <https://kubernetes.io/docs/reference/using-api/api-concepts/#retrieving-large-results-sets-in-chunks>
async fn pages<K>(api: &Api<K>, selector: &str) -> Result<Pages<K>, kube::Error>
where
    K: Clone + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let mut items = Vec::new();
    let mut asking = ListParams::default().labels(selector).limit(PAGE);
    loop {
        let page = api.list(&asking).await?;
        items.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            None => return Ok(Pages { items, whole: true }),
            Some(_) if items.len() >= OBJECTS_MAX => return Ok(Pages { items, whole: false }),
            Some(token) => asking = asking.continue_token(&token),
        }
    }
}

/// One object with its managed fields; `Known(None)` when it is not there.
pub async fn get(client: &Client, read: Read, namespace: &str, name: &str) -> Answer<Option<Value>> {
    let resource = read.resource();
    let api: Api<DynamicObject> = if namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), namespace, &resource)
    };
    match api.get_opt(name).await {
        Ok(Some(object)) => Answer::Known(Some(whole(object, read))),
        Ok(None) => Answer::Known(None),
        Err(error) => Answer::unknown(reason(&error, read)),
    }
}

/// Events of one namespace.
pub async fn events(client: &Client, namespace: &str, window: Window) -> (Answer<Vec<ObjectEvent>>, Asked) {
    let api: Api<k8s_openapi::api::core::v1::Event> = Api::namespaced(client.clone(), namespace);
    let (answer, cut) = match pages(&api, "").await {
        Ok(Pages { items, whole }) => {
            let seen = items.iter().filter_map(|event| object_event(event, window)).collect::<Vec<_>>();
            // In the order of their names, which says nothing of their time: what is cut off may be the newest.
            let cut = format!("more than {OBJECTS_MAX} events; those of names further on were not read");
            (Answer::Known(seen), (!whole).then_some(cut))
        }
        Err(error) => (Answer::unknown(reason(&error, read("", "v1", "Event", "events"))), None),
    };
    let digestible =
        answer.as_ref().map(|events| events.iter().map(|event| Value::from(format!("{event:?}"))).collect::<Vec<_>>());
    let mut asked =
        asked("cluster-events".to_owned(), format!("v1/namespaces/{namespace}/events"), window, &digestible);
    asked.unknown = asked.unknown.or(cut);
    (answer, asked)
}

/// The flattened event, when it was seen inside the window.
pub fn object_event(event: &k8s_openapi::api::core::v1::Event, window: Window) -> Option<ObjectEvent> {
    let last_in_series = event.series.as_ref().and_then(|series| series.last_observed_time.as_ref()).map(|time| time.0);
    let at = last_in_series
        .or(event.last_timestamp.as_ref().map(|time| time.0))
        .or(event.event_time.as_ref().map(|time| time.0))
        .or(event.metadata.creation_timestamp.as_ref().map(|time| time.0))?;
    if at < window.from {
        return None;
    }
    let count = event.series.as_ref().and_then(|series| series.count).or(event.count).unwrap_or(1);
    Some(ObjectEvent {
        at,
        object: format!(
            "{}/{}",
            event.involved_object.kind.as_deref().unwrap_or_default(),
            event.involved_object.name.as_deref().unwrap_or_default()
        ),
        namespace: event.involved_object.namespace.clone().unwrap_or_default(),
        reason: event.reason.clone().unwrap_or_default(),
        message: event.message.clone().unwrap_or_default(),
        count: u32::try_from(count).unwrap_or(1),
    })
}

fn as_value(mut object: DynamicObject, read: Read) -> Value {
    keep_times(&mut object, read);
    // Values of ConfigMaps may be secrets by mistake: only their keys are evidence.
    if read.kind == "ConfigMap"
        && let Some(data) = object.data.get_mut("data").and_then(Value::as_object_mut)
    {
        data.values_mut().for_each(|value| *value = Value::from(""));
    }
    whole(object, read)
}

/// Managed fields are long. Of a NetworkPolicy their times stay: nothing else tells when its rules were last written.
fn keep_times(object: &mut DynamicObject, read: Read) {
    let fields = object.managed_fields_mut();
    match read.kind {
        "NetworkPolicy" => {
            fields.retain(|entry| entry.subresource.is_none());
            fields.iter_mut().for_each(|entry| entry.fields_v1 = None);
        }
        _ => fields.clear(),
    }
}

fn whole(object: DynamicObject, read: Read) -> Value {
    let mut value = serde_json::to_value(&object).unwrap_or_default();
    if let Some(map) = value.as_object_mut() {
        map.insert("apiVersion".to_owned(), Value::from(read.api_version()));
        map.insert("kind".to_owned(), Value::from(read.kind));
    }
    value
}

fn asked<T: serde::Serialize>(id: String, query: String, window: Window, answer: &Answer<Vec<T>>) -> Asked {
    let (digest, unknown) = match answer {
        Answer::Known(values) => (hex::encode(Sha256::digest(serde_json::to_vec(values).unwrap_or_default())), None),
        Answer::Unknown { why } => (String::new(), Some(why.clone())),
    };
    Asked { id, source: "cluster".to_owned(), query, window, digest, unknown }
}

fn is_absent(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.code == 404)
}

/// What went wrong with a read, and what to do about it.
fn reason(error: &kube::Error, read: Read) -> String {
    match error {
        kube::Error::Api(status) if status.code == 403 => {
            format!(
                "not allowed to read {} (grant `get, list` on {} in group \"{}\")",
                read.plural, read.plural, read.group
            )
        }
        kube::Error::Api(status) => format!("the API server answered {}: {}", status.code, status.message),
        other => format!("the API server did not answer: {other}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{Request, Response};
    use kube::client::Body;

    /// An API server with so many Pods and Events, that gives out pages as it is asked to.
    fn holding(count: usize) -> Client {
        let answer = move |request: Request<Body>| async move {
            let query = request.uri().query().unwrap_or_default().to_owned();
            let of = |key: &str| -> Option<usize> {
                query.split('&').find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))?.parse().ok()
            };
            let (from, limit) = (of("continue").unwrap_or(0), of("limit").unwrap_or(count));
            let to = (from + limit).min(count);
            let items: Vec<Value> = (from..to)
                .map(|index| {
                    let name = format!("one-{index}");
                    serde_json::json!({
                        "metadata": {"name": name, "namespace": "shop"},
                        "involvedObject": {"kind": "Pod", "name": name, "namespace": "shop"},
                        "lastTimestamp": "2026-01-01T00:00:00Z",
                    })
                })
                .collect();
            let token = if to < count { to.to_string() } else { String::new() };
            let list = serde_json::json!({
                "kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1", "continue": token}, "items": items,
            });
            Ok::<_, std::convert::Infallible>(Response::new(Body::from(list.to_string().into_bytes())))
        };
        Client::new(tower::util::service_fn(answer), "shop")
    }

    fn window() -> Window {
        let to: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        Window { from: to - EVENTS_FOR, to }
    }

    const PODS: Read = read("", "v1", "Pod", "pods");

    #[tokio::test]
    async fn a_long_list_is_read_page_by_page() {
        let (answer, asked) = list(&holding(1_234), PODS, Some("shop"), window()).await;
        assert_eq!((answer.known().map(Vec::len), asked.unknown), (Some(1_234), None));
    }

    #[tokio::test]
    async fn a_list_without_end_is_unknown_and_not_a_part_of_itself() {
        let (answer, asked) = list(&holding(OBJECTS_MAX + 1), PODS, Some("shop"), window()).await;
        assert_eq!(answer.known(), None);
        assert!(asked.unknown.unwrap().contains("more than 5000 pods"));
    }

    #[tokio::test]
    async fn events_that_are_cut_off_are_told() {
        let (all, asked) = events(&holding(1_234), "shop", window()).await;
        assert_eq!((all.known().map(Vec::len), asked.unknown), (Some(1_234), None));
        let (some, asked) = events(&holding(OBJECTS_MAX + 1), "shop", window()).await;
        assert_eq!(some.known().map(Vec::len), Some(OBJECTS_MAX), "what was read is evidence all the same");
        assert!(asked.unknown.unwrap().contains("more than 5000 events"));
    }
}
