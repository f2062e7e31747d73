//! Images that cannot be pulled, and what the registry lets on.

use amend_diagnosis::diagnosis::cause;
use amend_diagnosis::evidence::Observations;
use serde_json::json;

use crate::live::*;

/// `checkout` whose new pod does not get its image.
fn pulls(image: &str, message: &str) -> Observations {
    let mut world = world();
    let spec = json!({"containers": [{"name": "app", "image": image}]});
    let waits = json!({"name": "app", "ready": false, "restartCount": 0, "image": image,
        "state": {"waiting": {"reason": "ErrImagePull", "message": message}}});
    let mut made = lives("checkout", "new", 3_550, &spec, json!([waits]), 3_550);
    made["status"]["phase"] = json!("Pending");
    put(&mut world, [deployed("checkout", spec), made]);
    world.symptoms = vec![alert("RolloutStuck", "checkout")];
    world
}

const DENIED: &str = "failed to pull and unpack image \"docker.io/library/ngnix:1\": failed to resolve reference: pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed";

#[test]
fn a_registry_that_hides_what_it_does_not_have_names_neither_fault() {
    let world = pulls("ngnix:1", DENIED);
    let found = of_kind(&world, cause::IMAGE_PULL).expect("the image is not there");
    assert_eq!(found.measures.get("fault"), None, "{found:#?}");
    assert!(found.facts_for[0].sentence.contains("does not say which"), "{found:#?}");
    let mut named = world.clone();
    let lost = "Unable to retrieve some image pull secrets (registry); attempting to pull the image may not succeed.";
    tell(&mut named, 4_000, "Pod/checkout-new-x", "FailedToRetrieveImagePullSecret", lost);
    assert_eq!(fault(&named, cause::IMAGE_PULL).as_deref(), Some("missing_image_pull_secret"));
    let mut elsewhere = world;
    let spec = json!({"containers": [{"name": "app", "image": "ngnix:0"}]});
    put(&mut elsewhere, [lives("cart", "old", 0, &spec, json!([up("app")]), 10)]);
    assert_eq!(fault(&elsewhere, cause::IMAGE_PULL).as_deref(), Some("missing_image_pull_secret"));
}

#[test]
fn a_registry_that_wants_a_login_and_one_without_the_tag_are_told_apart() {
    let told = |message: &str| fault(&pulls("private.example:5000/team/app:2", message), cause::IMAGE_PULL);
    assert_eq!(told("unauthorized: authentication required").as_deref(), Some("missing_image_pull_secret"));
    assert_eq!(told("manifest unknown").as_deref(), Some("incorrect_image_reference"));
}
