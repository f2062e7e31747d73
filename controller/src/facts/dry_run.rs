//! The change and its way back, sent to the API server as dry runs in the name of the policy's account.

use amend_diagnosis::evidence::Answer;
use amend_policies::gate::rollback::{DryRun, RollbackFacts};
use amend_policies::plan::Plan;
use kube::Client;
use kube::api::{Api, ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams, PostParams};
use serde_json::Value;

use crate::contents::Contents;
use crate::shell::Shell;

/// Tries both directions. The inverse must also give the files at the plan's base back byte for byte.
pub async fn both(shell: &Shell, plan: &Plan, contents: &Contents) -> RollbackFacts {
    let client = match shell.clients.impersonating(&super::access::remediator(plan)).await {
        Ok(client) => client,
        Err(error) => {
            let why = format!("no client for the policy's account: {error}");
            return RollbackFacts { deed: Answer::unknown(why.clone()), inverse: Answer::unknown(why) };
        }
    };
    let deed = all(&client, contents.objects_after(&plan.target.namespace)).await;
    let inverse = match contents.undone_differs() {
        Some(path) => Answer::Known(DryRun::Refused {
            because: format!("undoing the change does not give {path} back byte for byte"),
        }),
        None => all(&client, contents.objects_before(&plan.target.namespace)).await,
    };
    RollbackFacts { deed, inverse }
}

async fn all(client: &Client, objects: Result<Vec<Value>, String>) -> Answer<DryRun> {
    let objects = match objects {
        Ok(objects) => objects,
        Err(why) => return Answer::unknown(why),
    };
    for object in objects {
        match one(client, &object).await {
            Ok(()) => {}
            Err(kube::Error::Api(status)) if is_refusal(status.code) => {
                return Answer::Known(DryRun::Refused { because: status.message.clone() });
            }
            Err(error) => {
                return Answer::unknown(format!("the dry run got no answer: {}", crate::errors::chain(&error)));
            }
        }
    }
    Answer::Known(DryRun::Accepted)
}

/// Whether a code says no to the object; 408 and 429 only say not now.
fn is_refusal(code: u16) -> bool {
    (400..500).contains(&code) && code != 408 && code != 429
}

/// A merge patch of the manifest onto the live object, or its creation where there is none: what a GitOps controller will do, as
/// far as validation and admission are concerned.
async fn one(client: &Client, object: &Value) -> Result<(), kube::Error> {
    let (api_version, kind) =
        (object["apiVersion"].as_str().unwrap_or_default(), object["kind"].as_str().unwrap_or_default());
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let params = PatchParams { dry_run: true, ..PatchParams::default() };
    match api.patch(name, &params, &Patch::Merge(object)).await {
        Err(kube::Error::Api(status)) if status.code == 404 => {
            let absent: DynamicObject = serde_json::from_value(object.clone()).map_err(kube::Error::SerdeError)?;
            api.create(&PostParams { dry_run: true, ..PostParams::default() }, &absent).await.map(|_| ())
        }
        patched => patched.map(|_| ()),
    }
}
