//! What the policy's account may do, asked of the API server right now.

use amend_diagnosis::evidence::Answer;
use amend_policies::gate::permission::{Access, AccessReview, accesses_needed};
use amend_policies::plan::Plan;
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Client;
use kube::api::{Api, PostParams};

use crate::clients::Remediator;
use crate::shell::Shell;

/// One review per access that the plan needs; all or nothing.
pub async fn reviews(shell: &Shell, plan: &Plan) -> Answer<Vec<AccessReview>> {
    let remediator = remediator(plan);
    let mut reviews = Vec::new();
    for access in accesses_needed(plan) {
        match allowed(shell.clients.reader(), &remediator, &access).await {
            Ok(allowed) => reviews.push(AccessReview { access, allowed }),
            Err(error) => {
                return Answer::unknown(format!(
                    "the API server did not answer an access review: {}",
                    crate::errors::chain(&error)
                ));
            }
        }
    }
    Answer::Known(reviews)
}

/// The account that a plan acts as.
pub fn remediator(plan: &Plan) -> Remediator {
    Remediator { namespace: plan.policy.namespace.clone(), account: plan.service_account_name.clone() }
}

/// Whether an account may do something. It must carry the account's groups: without them RBAC denies falsely.
async fn allowed(client: Client, remediator: &Remediator, access: &Access) -> Result<bool, kube::Error> {
    let review = SubjectAccessReview {
        spec: SubjectAccessReviewSpec {
            user: Some(remediator.user()),
            groups: Some(remediator.groups()),
            resource_attributes: Some(ResourceAttributes {
                verb: Some(access.verb.clone()),
                group: Some(access.group.clone()),
                resource: Some(access.resource.clone()),
                namespace: Some(access.namespace.clone()),
                name: Some(access.name.clone()),
                ..ResourceAttributes::default()
            }),
            ..SubjectAccessReviewSpec::default()
        },
        ..SubjectAccessReview::default()
    };
    let api: Api<SubjectAccessReview> = Api::all(client);
    let answer = api.create(&PostParams::default(), &review).await?;
    let status = answer.status.unwrap_or_default();
    Ok(status.allowed && !status.denied.unwrap_or(false))
}
