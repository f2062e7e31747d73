//! Whether the live object shows what the plan promised.

use serde_json::Value;

use super::{ExpectedField, Plan};
use crate::field::Step;
use crate::policy::quoted;
use crate::quantity::Quantity;

impl Plan {
    /// The expected fields that the live object does not show yet, each as a sentence; empty means applied.
    ///
    /// The other half of "applied" (the applied revision contains the merge) is asked elsewhere.
    pub fn not_yet_applied(&self, live: &Value) -> Vec<String> {
        self.expected.iter().filter_map(|expected| expected.missing_from(live)).collect()
    }
}

impl ExpectedField {
    /// Why the live object does not show this field as expected; `None` when it does.
    ///
    /// Quantities compare by value, since the API server rewrites `1024Mi` to `1Gi`.
    pub fn missing_from(&self, live: &Value) -> Option<String> {
        let found = self.field.find(live).map(|value| match value {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        });
        if found == self.value || self.same_quantity(found.as_deref()) || (is_empty(&found) && is_empty(&self.value)) {
            return None;
        }
        let show = |value: &Option<String>| value.as_deref().map_or("absent".to_owned(), quoted);
        Some(format!("{} is {}, not yet {}", self.field, show(&found), show(&self.value)))
    }

    fn same_quantity(&self, found: Option<&str>) -> bool {
        let amount = |step: &Step| matches!(step, Step::Key(key) if key == "resources" || key == "sizeLimit");
        let in_resources = self.field.steps().iter().any(amount);
        match (in_resources, found.map(Quantity::parse), self.value.as_deref().map(Quantity::parse)) {
            (true, Some(Ok(found)), Some(Ok(wanted))) => found == wanted,
            _ => false,
        }
    }
}

/// The API server leaves empty lists, mappings and nulls out.
fn is_empty(value: &Option<String>) -> bool {
    value.as_deref().is_none_or(|text| matches!(text, "" | "[]" | "{}" | "null" | "~"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quantity_that_the_server_rewrote_counts_as_applied() {
        let live = serde_json::json!({ "resources": { "limits": { "memory": "1Gi" } }, "image": "a:1" });
        let expect = |field: &str, value: Option<&str>| {
            ExpectedField { field: field.parse().unwrap(), value: value.map(str::to_owned) }.missing_from(&live)
        };
        assert_eq!(expect("resources.limits.memory", Some("1024Mi")), None);
        assert_eq!(expect("resources.limits.cpu", None), None);
        assert_eq!(expect("args", Some("[]")), None);
        assert!(expect("image", Some("[]")).is_some());
        assert_eq!(expect("image", Some("a:2")).unwrap(), "image is \"a:1\", not yet \"a:2\"");
        assert_eq!(expect("image", None).unwrap(), "image is \"a:1\", not yet absent");
    }
}
