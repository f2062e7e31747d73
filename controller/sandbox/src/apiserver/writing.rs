//! The rules of every write: optimistic concurrency, dry runs, generations, ownership of fields, finalizers.

use std::sync::Arc;

use serde_json::{Value, json};

use super::admission::{admit, check_identity, differs_beyond, finalizers, identify, keep_server_fields, uid};
use super::builtin;
use super::fields::{self, Writer};
use super::patch::Patch;
use super::status::Refusal;
use super::store::{ChangeKind, How, Store, name_of};

impl Store {
    /// Creates an object.
    pub fn create(&self, resource: &str, object: Value, how: How<'_>) -> Result<Arc<Value>, Refusal> {
        self.create_claiming(resource, object, how, None)
    }

    fn create_claiming(
        &self,
        resource: &str,
        mut object: Value,
        how: How<'_>,
        claims: Option<&fields::FieldSet>,
    ) -> Result<Arc<Value>, Refusal> {
        let created = {
            let mut state = self.lock();
            let resource = state.registry.get(resource).ok_or_else(Refusal::no_such_resource)?;
            let now = self.clock().now();
            identify(&mut state, &resource, &mut object)?;
            let key = name_of(&object);
            if state.objects.get(&resource.key()).is_some_and(|objects| objects.contains_key(&key)) {
                return Err(Refusal::already_exists(&resource.key(), &key.1));
            }
            if resource.namespaced && !state.namespace_exists(&key.0) {
                return Err(Refusal::not_found("namespaces", &key.0));
            }
            if resource.status
                && resource.schema.is_some()
                && let Some(fields) = object.as_object_mut()
            {
                fields.remove("status");
            }
            admit(&resource, &mut object)?;
            let metadata = &mut object["metadata"];
            state.born += 1;
            metadata["uid"] = json!(uid(state.born));
            metadata["creationTimestamp"] = json!(fields::seconds(now));
            metadata["generation"] = json!(1);
            let writer = Writer { manager: how.manager, status: how.status, apply: claims.is_some() };
            fields::record(None, &mut object, writer, claims, now);
            if how.dry_run {
                object["metadata"]["resourceVersion"] = json!(state.version.to_string());
                return Ok(Arc::new(object));
            }
            state.commit(&resource, ChangeKind::Added, object, None)
        };
        self.announce();
        Ok(created)
    }

    /// Replaces an object (or, through `how.status`, its status); 409 when it changed since it was read.
    pub fn replace(&self, resource: &str, object: Value, how: How<'_>) -> Result<Arc<Value>, Refusal> {
        let (namespace, name) = name_of(&object);
        self.write(resource, &namespace, &name, how, None, |_| Ok(object.clone()))
    }

    /// Changes what is there; the closure may be called for one consistent state only.
    pub fn modify(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        how: How<'_>,
        change: impl FnOnce(&mut Value),
    ) -> Result<Arc<Value>, Refusal> {
        self.write(resource, namespace, name, how, None, |live| {
            let mut object = live.clone();
            change(&mut object);
            Ok(object)
        })
    }

    /// Patches an object; a server-side apply creates it when it is missing.
    pub fn patch(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        patch: &Patch,
        how: How<'_>,
    ) -> Result<(bool, Arc<Value>), Refusal> {
        let claims = patch.claims();
        if let Patch::Apply { object, .. } = patch
            && self.get(resource, namespace, name).is_none()
            && !how.status
        {
            let mut object = object.clone();
            object["metadata"]["name"] = json!(name);
            if !namespace.is_empty() {
                object["metadata"]["namespace"] = json!(namespace);
            }
            return self.create_claiming(resource, object, how, claims.as_ref()).map(|object| (true, object));
        }
        self.write(resource, namespace, name, how, claims.as_ref(), |live| patch.applied(live, how.manager))
            .map(|object| (false, object))
    }

    fn write(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        how: How<'_>,
        claims: Option<&fields::FieldSet>,
        change: impl FnOnce(&Value) -> Result<Value, Refusal>,
    ) -> Result<Arc<Value>, Refusal> {
        let written = {
            let mut state = self.lock();
            let resource = state.registry.get(resource).ok_or_else(Refusal::no_such_resource)?;
            let live = state.live(&resource, namespace, name)?;
            let mut object = change(&live)?;
            check_identity(&resource, &live, &object)?;
            keep_server_fields(&resource, &live, &mut object, how.status);
            admit(&resource, &mut object)?;
            builtin::refuse_immutable(&resource, &live, &object)?;
            let spec_changed = differs_beyond(&live, &object, &["metadata", "status"]);
            let generation = live["metadata"]["generation"].as_i64().unwrap_or(1);
            object["metadata"]["generation"] = json!(generation + i64::from(spec_changed));
            object["metadata"]["resourceVersion"] = live["metadata"]["resourceVersion"].clone();
            // Writing what is there already is no write; only an apply may still claim fields by it.
            if claims.is_none() && object == *live {
                return Ok(live);
            }
            let writer = Writer { manager: how.manager, status: how.status, apply: claims.is_some() };
            fields::record(Some(&live), &mut object, writer, claims, self.clock().now());
            if object == *live || how.dry_run {
                return Ok(Arc::new(object));
            }
            let gone = object["metadata"]["deletionTimestamp"].is_string() && finalizers(&object) == 0;
            if gone {
                state.remove(&resource, &name_of(&live))
            } else {
                state.commit(&resource, ChangeKind::Modified, object, Some(live))
            }
        };
        self.announce();
        Ok(written)
    }

    /// Deletes an object: at once, or marked while finalizers hold it. Dependents go with it unless orphaned.
    pub fn delete(
        &self,
        resource: &str,
        namespace: &str,
        name: &str,
        preconditions: &Value,
        orphan: bool,
        dry_run: bool,
    ) -> Result<Arc<Value>, Refusal> {
        let deleted = {
            let mut state = self.lock();
            let resource = state.registry.get(resource).ok_or_else(Refusal::no_such_resource)?;
            let live = state.live(&resource, namespace, name)?;
            for field in ["uid", "resourceVersion"] {
                let wanted = &preconditions[field];
                if wanted.is_string() && *wanted != live["metadata"][field] {
                    let why = format!("the {field} in the precondition ({wanted}) does not match the object's");
                    return Err(Refusal::conflict(&resource.key(), name, &why));
                }
            }
            if dry_run {
                return Ok(live);
            }
            if orphan {
                state.orphan(live["metadata"]["uid"].as_str().unwrap_or_default());
            }
            if finalizers(&live) == 0 {
                state.remove(&resource, &name_of(&live))
            } else if live["metadata"]["deletionTimestamp"].is_string() {
                live
            } else {
                let mut object = (*live).clone();
                object["metadata"]["deletionTimestamp"] = json!(fields::seconds(self.clock().now()));
                object["metadata"]["deletionGracePeriodSeconds"] = json!(0);
                let generation = live["metadata"]["generation"].as_i64().unwrap_or(1);
                object["metadata"]["generation"] = json!(generation + 1);
                state.commit(&resource, ChangeKind::Modified, object, Some(live))
            }
        };
        self.announce();
        Ok(deleted)
    }
}
