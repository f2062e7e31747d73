//! Label selectors of the Kubernetes API.
//!
//! Source: `LabelSelector` of `k8s.io/apimachinery` (`matchLabels` and `matchExpressions`, all of which must hold).

use std::collections::BTreeMap;

use serde_json::Value;

use crate::cluster::{list, text};

/// Whether a selector selects these labels; an empty one selects everything. `None` for an operator that we do not know.
pub fn selects(selector: &Value, labels: &BTreeMap<String, String>) -> Option<bool> {
    let wanted = selector["matchLabels"].as_object().into_iter().flatten();
    let mut holds = wanted.into_iter().all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str());
    for expression in list(selector, "/matchExpressions") {
        let found = labels.get(text(expression, "/key"));
        let listed = |label: &String| list(expression, "/values").iter().any(|value| value.as_str() == Some(label));
        holds &= match text(expression, "/operator") {
            "In" => found.is_some_and(listed),
            "NotIn" => !found.is_some_and(listed),
            "Exists" => found.is_some(),
            "DoesNotExist" => found.is_none(),
            _ => return None,
        };
    }
    Some(holds)
}

/// Whether a selector asks for nothing.
pub fn is_empty(selector: &Value) -> bool {
    selector["matchLabels"].as_object().is_none_or(serde_json::Map::is_empty)
        && list(selector, "/matchExpressions").is_empty()
}

/// The label keys that a selector asks for.
pub fn keys(selector: &Value) -> impl Iterator<Item = &str> {
    let labels = selector["matchLabels"].as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    labels.chain(list(selector, "/matchExpressions").iter().map(|expression| text(expression, "/key")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_part_of_a_selector_must_hold() {
        let labels = BTreeMap::from([("app".to_owned(), "db".to_owned()), ("tier".to_owned(), "back".to_owned())]);
        let expression = |key: &str, operator: &str, values: Value| json!({"matchExpressions": [{"key": key, "operator": operator, "values": values}]});
        let told = |selector: Value| selects(&selector, &labels);
        assert_eq!(told(json!({})), Some(true));
        assert_eq!(told(json!({"matchLabels": {"app": "db"}})), Some(true));
        assert_eq!(told(json!({"matchLabels": {"app": "db", "zone": "a"}})), Some(false));
        assert_eq!(told(expression("tier", "In", json!(["back", "front"]))), Some(true));
        assert_eq!(told(expression("tier", "NotIn", json!(["back"]))), Some(false));
        assert_eq!(told(expression("zone", "NotIn", json!(["a"]))), Some(true), "a label that is not there");
        assert_eq!(told(expression("zone", "DoesNotExist", json!([]))), Some(true));
        assert_eq!(told(expression("zone", "Exists", json!([]))), Some(false));
        assert_eq!(told(expression("zone", "Gt", json!(["1"]))), None);
    }
}
