//! Access and token reviews: kinds that are asked and answered, never stored.

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::Shared;
use super::fields::seconds;
use super::rbac::{self, Deed, Identity};
use super::status::Refusal;
use super::store::Store;

/// Answers a review of this plural.
pub fn answer(shared: &Shared, plural: &str, mut review: Value, who: &Identity) -> Result<Value, Refusal> {
    let spec = review["spec"].clone();
    review["status"] = match plural {
        "selfsubjectaccessreviews" => verdict(&shared.store, who, &Deed::of_review(&spec)),
        "subjectaccessreviews" | "localsubjectaccessreviews" => {
            let user = spec["user"].as_str().unwrap_or_default();
            let groups: Vec<String> = spec["groups"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|group| group.as_str().map(str::to_owned))
                .collect();
            if user.is_empty() && groups.is_empty() {
                return Err(Refusal::bad_request("at least one of user or groups must be specified"));
            }
            verdict(&shared.store, &Identity { user: user.to_owned(), groups }, &Deed::of_review(&spec))
        }
        "selfsubjectrulesreviews" => json!({
            "resourceRules": rbac::rules_for(&shared.store, who, spec["namespace"].as_str().unwrap_or_default()),
            "nonResourceRules": [], "incomplete": false,
        }),
        "selfsubjectreviews" => json!({ "userInfo": who.user_info() }),
        "tokenreviews" => match shared.tokens.identity(spec["token"].as_str().unwrap_or_default()) {
            Some(identity) => json!({ "authenticated": true, "user": identity.user_info() }),
            None => json!({ "authenticated": false, "error": "invalid bearer token" }),
        },
        _ => return Err(Refusal::no_such_resource()),
    };
    Ok(review)
}

fn verdict(store: &Store, who: &Identity, deed: &Deed) -> Value {
    match rbac::allowed(store, who, deed) {
        Some(reason) => json!({ "allowed": true, "reason": reason }),
        None => json!({ "allowed": false }),
    }
}

/// Answers a `TokenRequest` for a service account.
pub fn token_request(shared: &Shared, namespace: &str, name: &str, mut request: Value) -> Result<Value, Refusal> {
    if shared.store.get("serviceaccounts", namespace, name).is_none() {
        return Err(Refusal::not_found("serviceaccounts", name));
    }
    let lifetime = request["spec"]["expirationSeconds"].as_i64().unwrap_or(3600);
    let expires = shared.store.clock().now().checked_add(SignedDuration::from_secs(lifetime));
    request["apiVersion"] = json!("authentication.k8s.io/v1");
    request["kind"] = json!("TokenRequest");
    request["status"] = json!({
        "token": shared.tokens.issue(Identity::service_account(namespace, name)),
        "expirationTimestamp": expires.map(seconds).unwrap_or_default(),
    });
    Ok(request)
}
