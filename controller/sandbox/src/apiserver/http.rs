//! The HTTP face of the API server.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::response::Response;
use http::{HeaderMap, Method, StatusCode, header};
use serde_json::{Value, json};

use super::paging::Page;
use super::patch::{self, Patch};
use super::rbac::{self, Deed, Identity};
use super::request::{Target, query};
use super::resource::Resource;
use super::selector::Selector;
use super::status::Refusal;
use super::store::How;
use super::{AuditEntry, Shared, event, review, watching};

/// The largest request body, as in the real server (etcd's limit and some room).
const BODY_LIMIT: usize = 3 * 1024 * 1024;

pub fn router(shared: Shared) -> Router {
    Router::new().fallback(handle).with_state(shared)
}

struct Call {
    who: Identity,
    sender: String,
    method: Method,
    path: String,
    query: BTreeMap<String, String>,
    headers: HeaderMap,
    body: Bytes,
}

impl Call {
    fn flag(&self, name: &str) -> bool {
        self.query.get(name).is_some_and(|value| matches!(value.as_str(), "true" | "1"))
    }

    fn header(&self, name: header::HeaderName) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }

    fn manager(&self) -> String {
        if let Some(manager) = self.query.get("fieldManager").filter(|manager| !manager.is_empty()) {
            return manager.clone();
        }
        let agent = self.header(header::USER_AGENT).split('/').next().unwrap_or_default();
        if agent.is_empty() { "unknown".to_owned() } else { agent.to_owned() }
    }

    fn verb(&self, target: &Target) -> &'static str {
        match self.method.as_str() {
            "GET" | "HEAD" if self.flag("watch") => "watch",
            "GET" | "HEAD" if target.name.is_empty() => "list",
            "GET" | "HEAD" => "get",
            "POST" => "create",
            "PUT" => "update",
            "PATCH" => "patch",
            "DELETE" if target.name.is_empty() => "deletecollection",
            _ => "delete",
        }
    }
}

async fn handle(State(shared): State<Shared>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let body = match axum::body::to_bytes(body, BODY_LIMIT).await {
        Ok(body) => body,
        Err(_) => {
            return refused(&Refusal {
                code: 413,
                reason: "RequestEntityTooLarge",
                message: "limit is 3145728".into(),
                details: None,
            });
        }
    };
    let (sender, who) = match identify(&shared, &parts.headers) {
        Ok(found) => found,
        Err(refusal) => return refused(&refusal),
    };
    let call = Call {
        sender: sender.user.clone(),
        who,
        method: parts.method,
        path: parts.uri.path().to_owned(),
        query: query(parts.uri.query()),
        headers: parts.headers,
        body,
    };
    let (label, answer) = dispatch(&shared, &call);
    let response = answer.unwrap_or_else(|refusal| refused(&refusal));
    if let Some((verb, target)) = label {
        shared.note(AuditEntry {
            impersonated: (call.who.user != call.sender).then(|| call.who.user.clone()),
            user: call.sender,
            verb: verb.to_owned(),
            resource: target.label(),
            namespace: target.namespace,
            name: target.name,
            code: response.status().as_u16(),
        });
    }
    response
}

fn identify(shared: &Shared, headers: &HeaderMap) -> Result<(Identity, Identity), Refusal> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let token = text("authorization").and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
    let sender = shared.tokens.identity(token).ok_or_else(Refusal::unauthorized)?;
    let Some(user) = text("impersonate-user") else {
        return Ok((sender.clone(), sender));
    };
    let mut who = Identity::implied_by(user);
    let mut deeds = vec![match user.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
        Some((namespace, name)) => impersonation("serviceaccounts", namespace, name),
        None => impersonation("users", "", user),
    }];
    let groups: Vec<&str> =
        headers.get_all("impersonate-group").iter().filter_map(|value| value.to_str().ok()).collect();
    if !groups.is_empty() {
        deeds.extend(groups.iter().map(|group| impersonation("groups", "", group)));
        who.groups = groups.iter().map(|group| (*group).to_owned()).collect();
        if !groups.contains(&"system:authenticated") {
            who.groups.push("system:authenticated".into());
        }
    }
    for deed in deeds {
        if rbac::allowed(&shared.store, &sender, &deed).is_none() {
            return Err(Refusal::forbidden(&deed.resource, &deed.name, deed.refusal(&sender.user)));
        }
    }
    Ok((sender, who))
}

fn impersonation(resource: &str, namespace: &str, name: &str) -> Deed {
    Deed {
        verb: "impersonate".into(),
        resource: resource.into(),
        namespace: namespace.into(),
        name: name.into(),
        ..Deed::default()
    }
}

type Labelled = (Option<(&'static str, Target)>, Result<Response, Refusal>);

fn dispatch(shared: &Shared, call: &Call) -> Labelled {
    if let Some(answer) = discovery(shared, call) {
        return (None, answer);
    }
    let Some(target) = Target::parse(&call.path, &shared.store.registry()) else {
        return (None, Err(Refusal::no_such_resource()));
    };
    let verb = call.verb(&target);
    let deed = target.deed(verb);
    if rbac::allowed(&shared.store, &call.who, &deed).is_none() {
        let refusal = Refusal::forbidden(&target.label(), &target.name, deed.refusal(&call.who.user));
        return (Some((verb, target)), Err(refusal));
    }
    let answer = serve(shared, call, &target, verb);
    (Some((verb, target)), answer)
}

fn discovery(shared: &Shared, call: &Call) -> Option<Result<Response, Refusal>> {
    let registry = shared.store.registry();
    let parts: Vec<&str> = call.path.trim_matches('/').split('/').collect();
    let found = match parts.as_slice() {
        ["version"] => Some(json!({
            "major": "1", "minor": "36", "gitVersion": "v1.36.3+sandbox", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "", "goVersion": "", "compiler": "rustc", "platform": "sandbox",
        })),
        ["healthz" | "livez" | "readyz", ..] => return Some(Ok(plain("ok"))),
        ["api"] => Some(json!({ "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [] })),
        ["apis"] => Some(registry.group_list()),
        ["api", version] => registry.resource_list("", version),
        ["apis", group] => registry.one_group(group),
        ["apis", group, version] => registry.resource_list(group, version),
        _ => return None,
    };
    Some(found.map(|value| answer(StatusCode::OK, &value)).ok_or_else(Refusal::no_such_resource))
}

fn serve(shared: &Shared, call: &Call, target: &Target, verb: &str) -> Result<Response, Refusal> {
    let Some(resource) = &target.resource else {
        if verb != "create" {
            return Err(Refusal::method_not_allowed());
        }
        let review = review::answer(shared, &target.plural, patch::parse(&call.body)?, &call.who)?;
        return Ok(answer(StatusCode::CREATED, &review));
    };
    let shape = Shape::of(call, resource);
    // Both event APIs look at the same objects, kept in the core form.
    let key = if resource.plural == "events" { "events".to_owned() } else { resource.key() };
    let manager = call.manager();
    let how = How {
        manager: &manager,
        status: target.subresource == "status",
        dry_run: call.query.get("dryRun").is_some_and(|value| value == "All"),
    };
    match (target.subresource.as_str(), verb) {
        ("", _) => {}
        ("status", "get" | "update" | "patch") if resource.status => {}
        ("token", "create") if resource.plural == "serviceaccounts" => {
            let token = review::token_request(shared, &target.namespace, &target.name, patch::parse(&call.body)?)?;
            return Ok(answer(StatusCode::CREATED, &token));
        }
        _ => return Err(Refusal::no_such_resource()),
    }
    let namespace = (resource.namespaced && !target.namespace.is_empty()).then_some(target.namespace.as_str());
    match verb {
        "get" => {
            let found = shared.store.get(&key, &target.namespace, &target.name);
            let object = found.ok_or_else(|| Refusal::not_found(&resource.key(), &target.name))?;
            Ok(answer(StatusCode::OK, &shape.of_one(&object)))
        }
        "list" => {
            let (version, objects) = shared.store.list_selected(&key, namespace, &selector(call)?);
            let asked = |name: &str| call.query.get(name).map_or("", String::as_str);
            let page = Page::of(version, objects, asked("limit"), asked("continue"))?;
            let items: Vec<Value> = page.objects.iter().map(|object| shape.of_one(object)).collect();
            let mut list = shape.of_list(page.version, items);
            if let Some((token, left)) = page.next {
                list["metadata"]["continue"] = json!(token);
                list["metadata"]["remainingItemCount"] = json!(left);
            }
            Ok(answer(StatusCode::OK, &list))
        }
        "watch" => watch(shared, call, target, key, namespace, shape),
        "create" => {
            let mut object = shape.stored(patch::parse(&call.body)?);
            if resource.namespaced {
                let sent = object["metadata"]["namespace"].as_str().unwrap_or_default();
                if !sent.is_empty() && sent != target.namespace {
                    return Err(Refusal::bad_request(
                        "the namespace of the provided object does not match the namespace sent on the request",
                    ));
                }
                object["metadata"]["namespace"] = json!(target.namespace);
            }
            let created = shared.store.create(&key, object, how)?;
            Ok(answer(StatusCode::CREATED, &shape.of_one(&created)))
        }
        "update" => {
            let mut object = shape.stored(patch::parse(&call.body)?);
            if resource.namespaced {
                object["metadata"]["namespace"] = json!(target.namespace);
            }
            if object["metadata"]["name"] != target.name {
                return Err(Refusal::bad_request("the name of the object does not match the name on the URL"));
            }
            let written = shared.store.replace(&key, object, how)?;
            Ok(answer(StatusCode::OK, &shape.of_one(&written)))
        }
        "patch" => {
            let patch = Patch::read(call.header(header::CONTENT_TYPE), &call.body, call.flag("force"))?;
            if matches!(patch, Patch::Apply { .. }) && !call.query.contains_key("fieldManager") {
                return Err(Refusal::bad_request(
                    "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
                ));
            }
            let patch = shape.stored_patch(patch);
            let (created, object) = shared.store.patch(&key, &target.namespace, &target.name, &patch, how)?;
            let code = if created { StatusCode::CREATED } else { StatusCode::OK };
            Ok(answer(code, &shape.of_one(&object)))
        }
        _ => delete(shared, call, target, &key, namespace, &shape, how.dry_run),
    }
}

fn selector(call: &Call) -> Result<Selector, Refusal> {
    Selector::parse(
        call.query.get("labelSelector").map(String::as_str),
        call.query.get("fieldSelector").map(String::as_str),
    )
}

fn watch(
    shared: &Shared,
    call: &Call,
    target: &Target,
    key: String,
    namespace: Option<&str>,
    shape: Shape,
) -> Result<Response, Refusal> {
    let mut selector = selector(call)?;
    if !target.name.is_empty() {
        selector = Selector::parse(None, Some(&format!("metadata.name={}", target.name)))?;
    }
    let since = match call.query.get("resourceVersion").map(String::as_str) {
        None | Some("") => None,
        Some(text) => {
            Some(text.parse().map_err(|_| Refusal::bad_request(format!("invalid resource version {text:?}")))?)
        }
    };
    let seconds = call.query.get("timeoutSeconds").and_then(|text| text.parse().ok()).unwrap_or(1800_u64);
    let body = watching::body(
        shared.store.clone(),
        watching::Wanted {
            resource: key,
            namespace: namespace.map(str::to_owned),
            selector,
            since,
            bookmarks: call.flag("allowWatchBookmarks"),
            initial_events: call.flag("sendInitialEvents"),
            timeout: Duration::from_secs(seconds),
            shape: Box::new(move |object| shape.of_one(object)),
        },
    )?;
    Ok(response(StatusCode::OK, "application/json", body))
}

fn delete(
    shared: &Shared,
    call: &Call,
    target: &Target,
    key: &str,
    namespace: Option<&str>,
    shape: &Shape,
    dry_run: bool,
) -> Result<Response, Refusal> {
    let options = if call.body.is_empty() { json!({}) } else { patch::parse(&call.body)? };
    let dry_run = dry_run || options["dryRun"].as_array().is_some_and(|all| !all.is_empty());
    let policy = call.query.get("propagationPolicy").map(String::as_str).or(options["propagationPolicy"].as_str());
    let orphan = policy == Some("Orphan");
    if !target.name.is_empty() {
        let deleted =
            shared.store.delete(key, &target.namespace, &target.name, &options["preconditions"], orphan, dry_run)?;
        return Ok(answer(StatusCode::OK, &shape.of_one(&deleted)));
    }
    let (version, objects) = shared.store.list_selected(key, namespace, &selector(call)?);
    let mut deleted = Vec::new();
    for object in objects {
        let (namespace, name) = super::store::name_of(&object);
        // One that went away meanwhile is deleted all the same.
        if shared.store.delete(key, &namespace, &name, &Value::Null, orphan, dry_run).is_ok() {
            deleted.push(shape.of_one(&object));
        }
    }
    Ok(answer(StatusCode::OK, &shape.of_list(version, deleted)))
}

/// In which form objects go over the wire.
struct Shape {
    resource: Arc<Resource>,
    events_v1: bool,
    metadata_only: bool,
}

impl Shape {
    fn of(call: &Call, resource: &Arc<Resource>) -> Self {
        Self {
            events_v1: resource.group == "events.k8s.io",
            metadata_only: call.header(header::ACCEPT).contains("as=PartialObjectMetadata"),
            resource: resource.clone(),
        }
    }

    fn of_one(&self, object: &Value) -> Value {
        if self.metadata_only {
            return json!({ "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"] });
        }
        if self.events_v1 { event::to_events_v1(object) } else { object.clone() }
    }

    fn of_list(&self, version: u64, items: Vec<Value>) -> Value {
        let (api_version, kind) = if self.metadata_only {
            ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned())
        } else {
            (self.resource.api_version(), format!("{}List", self.resource.kind))
        };
        json!({ "apiVersion": api_version, "kind": kind, "metadata": { "resourceVersion": version.to_string() }, "items": items })
    }

    fn stored(&self, object: Value) -> Value {
        if self.events_v1 { event::to_core(&object) } else { object }
    }

    fn stored_patch(&self, patch: Patch) -> Patch {
        match patch {
            Patch::Merge(object) if self.events_v1 => Patch::Merge(renamed(&object)),
            Patch::Strategic(object) if self.events_v1 => Patch::Strategic(renamed(&object)),
            Patch::Apply { object, force } if self.events_v1 => Patch::Apply { object: event::to_core(&object), force },
            other => other,
        }
    }
}

/// A partial event in the core form, with nothing added.
fn renamed(object: &Value) -> Value {
    let mut core = event::to_core(object);
    if object.get("regarding").is_none()
        && let Some(fields) = core.as_object_mut()
    {
        fields.remove("involvedObject");
    }
    core
}

fn response(code: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = code;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(content_type));
    response
}

fn answer(code: StatusCode, value: &Value) -> Response {
    response(code, "application/json", Body::from(value.to_string()))
}

fn plain(text: &'static str) -> Response {
    response(StatusCode::OK, "text/plain", Body::from(text))
}

fn refused(refusal: &Refusal) -> Response {
    let code = StatusCode::from_u16(refusal.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    answer(code, &refusal.status())
}
