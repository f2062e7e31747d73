//! Whether the live object, or the file in Git, shows what the plan was made from or what it promised.

use serde_json::Value;

use super::{ExpectedField, FieldEdit, Plan};
use crate::field::{FieldPath, Step};
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
        if is_same(&self.field, found.as_deref(), self.value.as_deref()) {
            return None;
        }
        let show = |value: &Option<String>| value.as_deref().map_or("absent".to_owned(), quoted);
        Some(format!("{} is {}, not yet {}", self.field, show(&found), show(&self.value)))
    }
}

/// What stands at the place of an edit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stands {
    /// What the plan was made from.
    AsBefore,
    /// What the plan wants there.
    AsPlanned,
    /// Neither: somebody decided otherwise.
    Otherwise,
}

impl FieldEdit {
    /// How the value that stands at this place now compares with the plan. Quantities compare by value.
    pub fn stands(&self, now: Option<&str>) -> Stands {
        if is_same(&self.field, now, self.from.as_deref()) {
            Stands::AsBefore
        } else if is_same(&self.field, now, self.to.as_deref()) {
            Stands::AsPlanned
        } else {
            Stands::Otherwise
        }
    }
}

fn is_same(field: &FieldPath, found: Option<&str>, wanted: Option<&str>) -> bool {
    found == wanted || is_same_quantity(field, found, wanted) || (is_empty(found) && is_empty(wanted))
}

fn is_same_quantity(field: &FieldPath, found: Option<&str>, wanted: Option<&str>) -> bool {
    let amount = |step: &Step| matches!(step, Step::Key(key) if key == "resources" || key == "sizeLimit");
    match (field.steps().iter().any(amount), found.map(Quantity::parse), wanted.map(Quantity::parse)) {
        (true, Some(Ok(found)), Some(Ok(wanted))) => found == wanted,
        _ => false,
    }
}

/// The API server leaves empty lists, mappings and nulls out.
fn is_empty(value: Option<&str>) -> bool {
    value.is_none_or(|text| matches!(text, "" | "[]" | "{}" | "null" | "~"))
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

    #[test]
    fn a_place_stands_as_before_as_planned_or_otherwise() {
        let object = crate::plan::ObjectRef {
            api_version: "apps/v1".into(),
            kind: "Deployment".into(),
            namespace: "shop".into(),
            name: "cart".into(),
        };
        let field: FieldPath = "spec.template.spec.containers[app].resources.limits.memory".parse().unwrap();
        let edit = FieldEdit { object, field, from: Some("512Mi".into()), to: Some("1Gi".into()), line: 9 };
        assert_eq!(edit.stands(Some("512Mi")), Stands::AsBefore);
        assert_eq!(edit.stands(Some("1024Mi")), Stands::AsPlanned, "the same amount, written otherwise");
        assert_eq!(edit.stands(Some("2Gi")), Stands::Otherwise);
        assert_eq!(edit.stands(None), Stands::Otherwise);
        let added = FieldEdit { from: None, ..edit };
        assert_eq!(added.stands(None), Stands::AsBefore);
    }
}
