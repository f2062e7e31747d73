//! What the author of a source or a target really wrote.
//!
//! Our types drop fields that they do not know, and a field that is spelled wrongly may have been a bound (`tennant`). The
//! CRDs of these kinds keep such fields, and an object with one is refused until it is mended.

use amend_policies::policy::{cleaned, problems_against};
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use schemars::JsonSchema;

/// Names this many fields at most: whoever has more wrong has written another kind of object.
const NAMED_MAX: usize = 5;

/// Letters of a place that are shown: deeper than any field of ours.
pub const PATH_MAX: usize = 160;

/// Why an object is not used as it is written.
#[derive(Debug, thiserror::Error)]
pub enum WrittenProblem {
    #[error("{0}")]
    UnknownFields(String),
    #[error("cannot read the object as it was written")]
    Unreadable(#[source] Box<kube::Error>),
}

/// Refuses an object whose spec has fields that `Spec` does not know.
pub async fn only_known_fields<K, Spec>(client: Client, object: &K) -> Result<(), WrittenProblem>
where
    K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    Spec: JsonSchema,
{
    let resource = ApiResource::erase::<K>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(client, &object.namespace().unwrap_or_default(), &resource);
    let written = api.get(&object.name_any()).await.map_err(|error| WrittenProblem::Unreadable(Box::new(error)))?;
    let problems = problems_against(&schemars::schema_for!(Spec).to_value(), &written.data["spec"]);
    if problems.is_empty() {
        return Ok(());
    }
    let said = problems.iter().take(NAMED_MAX);
    let mut said: Vec<String> =
        said.map(|problem| format!("spec.{}: {}", cleaned(&problem.path, PATH_MAX), problem.sentence)).collect();
    if problems.len() > NAMED_MAX {
        said.push(format!("and {} more", problems.len() - NAMED_MAX));
    }
    Err(WrittenProblem::UnknownFields(said.join("; ")))
}
