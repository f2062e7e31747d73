//! Failed CI runs for the dashboard, read with the reader's own rights.

use amend_crds::Build;
use jiff::Timestamp;
use kube::ResourceExt;
use kube::api::Api;

use super::{listed, view_error};
use crate::dashboard::views::{BuildRow, BuildView, Reader, ViewError};

pub(super) async fn rows(reader: &Reader, namespace: Option<&str>) -> Result<Vec<BuildRow>, ViewError> {
    Ok(listed(reader, namespace).await?.iter().map(row).collect())
}

pub(super) async fn one(reader: &Reader, namespace: &str, name: &str) -> Result<BuildView, ViewError> {
    let builds: Api<Build> = Api::namespaced(reader.client.clone(), namespace);
    Ok(view(&builds.get(name).await.map_err(view_error)?))
}

fn row(build: &Build) -> BuildRow {
    let status = build.status.clone().unwrap_or_default();
    let spec = &build.spec;
    BuildRow {
        namespace: build.namespace().unwrap_or_default(),
        name: build.name_any(),
        repository: spec.repository.clone(),
        commit: spec.commit.clone(),
        branch: spec.branch.clone(),
        workflow: spec.workflow.clone(),
        job: spec.job.clone(),
        run_id: spec.run_id.clone(),
        attempt: spec.attempt,
        phase: format!("{:?}", status.phase),
        class: status.class,
        because: if status.reason.is_empty() { status.because } else { status.reason },
        reported_at: build.metadata.creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0),
    }
}

fn view(build: &Build) -> BuildView {
    let status = build.status.clone().unwrap_or_default();
    BuildView {
        row: row(build),
        forge: format!("{:?}", build.spec.forge),
        result: build.spec.result.clone(),
        url: build.spec.url.clone(),
        lines: status.failing_lines.into_iter().map(|line| (line.number, line.text)).collect(),
        diagnosed_at: status.diagnosed_at,
        deliveries: status.deliveries,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_is_shown_with_the_line_that_decided_and_one_without_a_log_with_what_is_missing() {
        let object = |status: serde_json::Value| -> Build {
            serde_json::from_value(serde_json::json!({
                "apiVersion": "amend.dev/v1alpha1", "kind": "Build", "metadata": {"name": "bld-1", "namespace": "shop"},
                "spec": {"forge": "Gitea", "repository": "shop/shop", "commit": "0123456789abcdef", "runId": "7", "attempt": 1, "result": "failure"},
                "status": status,
            }))
            .unwrap()
        };
        let line = serde_json::json!({"number": 412, "text": "error[E0425]: cannot find value `total`"});
        let told = view(&object(serde_json::json!({"phase": "Diagnosed", "because": "seen", "class": "code",
            "reason": "line 412: the compiler refused the code", "failingLines": [line], "deliveries": 2})));
        assert_eq!(
            (told.row.class.as_deref(), told.row.because.as_str()),
            (Some("code"), "line 412: the compiler refused the code")
        );
        assert_eq!(told.lines, [(412, "error[E0425]: cannot find value `total`".to_owned())]);
        let lost =
            view(&object(serde_json::json!({"phase": "Abstained", "because": "log not available: no GitTarget"})));
        assert_eq!((lost.row.class, lost.row.because.as_str()), (None, "log not available: no GitTarget"));
    }
}
