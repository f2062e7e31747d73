//! ConfigMaps of a plan: what they must show, and whether the target's pods have taken it up.

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;

use super::{Configuration, ExpectedField, LiveChange, Plan};
use crate::field::Step;

/// How long a kubelet may take to show a changed ConfigMap in a mounted folder: its sync period and the age of its cache, a minute
/// each by default.
///
/// <https://kubernetes.io/docs/concepts/configuration/configmap/#mounted-configmaps-are-updated-automatically>
pub const MOUNTED_WITHIN: SignedDuration = SignedDuration::from_mins(2);

impl Plan {
    /// What a ConfigMap of the plan must show once the change is applied.
    pub fn expected_of(&self, configuration: &Configuration) -> Vec<ExpectedField> {
        self.fields_of(configuration, LiveChange::expected)
    }

    /// What it showed before, and shows again once the change is taken back.
    pub fn before_of(&self, configuration: &Configuration) -> Vec<ExpectedField> {
        self.fields_of(configuration, LiveChange::before)
    }

    fn fields_of(
        &self,
        configuration: &Configuration,
        field: impl Fn(&LiveChange) -> ExpectedField,
    ) -> Vec<ExpectedField> {
        let of_it = self.live_changes().into_iter().filter(|change| change.is_of(&configuration.object));
        of_it.map(|change| field(&change)).collect()
    }
}

/// The first field that a live ConfigMap does not show as wanted. One that is not there shows nothing.
///
/// A key with an empty text is not a key that is missing: a container that names the latter does not start.
pub fn first_missing(fields: &[ExpectedField], live: Option<&Value>) -> Option<String> {
    fields.iter().find_map(|wanted| {
        let found = live.and_then(|live| wanted.field.find(live)).and_then(Value::as_str);
        let exact = matches!(wanted.field.steps(), [Step::Key(_), Step::Key(_)]);
        let missing = wanted.missing_from(live.unwrap_or(&Value::Null));
        match exact && found != wanted.value.as_deref() {
            true => Some(missing.unwrap_or_else(|| format!("{} is not yet as planned", wanted.field))),
            false => missing,
        }
    })
}

impl Configuration {
    /// Why the target's pods do not run with the live ConfigMap yet; `None` when they do. A clause that says what to do.
    ///
    /// Applying a ConfigMap restarts nothing. Containers that read it when they start must have started since it changed; in a
    /// mounted folder the kubelet shows it within [`MOUNTED_WITHIN`].
    ///
    /// # Errors
    /// Why it cannot be told.
    pub fn not_taken_up(&self, live: &Value, pods: &[Value], now: Timestamp) -> Result<Option<String>, String> {
        let changed = changed_at(live).ok_or_else(|| format!("{} does not say when it changed", self.object))?;
        if self.at_start.is_empty() {
            let shown = changed.saturating_add(MOUNTED_WITHIN).unwrap_or(Timestamp::MAX);
            return Ok((now < shown)
                .then(|| format!("{} is mounted, and kubelets may show it as it was until {shown:.0}", self.object)));
        }
        let old = pods.iter().filter(|pod| self.started_before(pod, changed)).count();
        Ok((old > 0).then(|| {
            format!(
                "{} is read only when containers start, and {old} of {} pods have not started {} since it changed at {changed:.0}; \
                 a restart of the workload lets them",
                self.object,
                pods.len(),
                self.at_start.join(", ")
            )
        }))
    }

    /// Whether a pod runs a container that read the ConfigMap before it changed, or has not started it yet.
    fn started_before(&self, pod: &Value, changed: Timestamp) -> bool {
        let statuses =
            |list: &str| pod.pointer(&format!("/status/{list}")).and_then(Value::as_array).into_iter().flatten();
        self.at_start.iter().any(|name| {
            let mut own = statuses("containerStatuses").chain(statuses("initContainerStatuses"));
            let status = own.find(|status| status["name"] == name.as_str());
            let started = status.and_then(|status| {
                let state = &status["state"];
                let at = state["running"]["startedAt"].as_str().or(state["terminated"]["startedAt"].as_str());
                at?.parse::<Timestamp>().ok()
            });
            started.is_none_or(|started| started < changed)
        })
    }
}

/// When what an object holds was changed last, by whomever.
///
/// A field manager's time is that of its last change of a field
/// (<https://kubernetes.io/docs/reference/kubernetes-api/common-definitions/object-meta/>).
fn changed_at(live: &Value) -> Option<Timestamp> {
    let entries = live.pointer("/metadata/managedFields").and_then(Value::as_array)?;
    entries.iter().filter_map(|entry| entry["time"].as_str()?.parse::<Timestamp>().ok()).max()
}
