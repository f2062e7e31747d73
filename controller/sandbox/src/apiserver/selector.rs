//! Label and field selectors.

use serde_json::Value;

use super::status::Refusal;

/// Which objects of a list or watch are wanted.
#[derive(Clone, Debug, Default)]
pub struct Selector {
    labels: Vec<LabelRule>,
    fields: Vec<FieldRule>,
}

#[derive(Clone, Debug)]
enum LabelRule {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    Absent(String),
}

#[derive(Clone, Debug)]
struct FieldRule {
    path: Vec<String>,
    value: String,
    wanted: bool,
}

impl Selector {
    /// Reads `labelSelector` and `fieldSelector` as they stand in a query string.
    ///
    /// Fields: `metadata.name`, `metadata.namespace`, `spec.nodeName`, `status.phase`, `type`, `reason` and
    /// `involvedObject.*`; any other field is refused, as the real server does.
    pub fn parse(labels: Option<&str>, fields: Option<&str>) -> Result<Self, Refusal> {
        let mut selector = Self::default();
        for rule in split_rules(labels.unwrap_or_default()) {
            selector.labels.push(label_rule(&rule)?);
        }
        for rule in fields.unwrap_or_default().split(',').map(str::trim).filter(|rule| !rule.is_empty()) {
            selector.fields.push(field_rule(rule)?);
        }
        Ok(selector)
    }

    /// Whether the object is selected.
    pub fn matches(&self, object: &Value) -> bool {
        let labels = &object["metadata"]["labels"];
        let label = |key: &str| labels.get(key).and_then(Value::as_str);
        self.labels.iter().all(|rule| match rule {
            LabelRule::In(key, values) => label(key).is_some_and(|value| values.iter().any(|v| v == value)),
            LabelRule::NotIn(key, values) => label(key).is_none_or(|value| !values.iter().any(|v| v == value)),
            LabelRule::Exists(key) => label(key).is_some(),
            LabelRule::Absent(key) => label(key).is_none(),
        }) && self.fields.iter().all(|rule| {
            let mut at = object;
            for part in &rule.path {
                at = &at[part];
            }
            (at.as_str().unwrap_or_default() == rule.value) == rule.wanted
        })
    }
}

/// Whether labels answer a `LabelSelector` object (`matchLabels`, `matchExpressions`).
pub fn label_selector_matches(selector: &Value, object: &Value) -> bool {
    let labels = &object["metadata"]["labels"];
    let simple = selector["matchLabels"]
        .as_object()
        .is_none_or(|wanted| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)));
    let expressions = selector["matchExpressions"].as_array().is_none_or(|rules| {
        rules.iter().all(|rule| {
            let label = labels.get(rule["key"].as_str().unwrap_or_default());
            let among = || rule["values"].as_array().is_some_and(|values| label.is_some_and(|l| values.contains(l)));
            match rule["operator"].as_str() {
                Some("In") => among(),
                Some("NotIn") => !among(),
                Some("Exists") => label.is_some(),
                Some("DoesNotExist") => label.is_none(),
                _ => false,
            }
        })
    });
    simple && expressions
}

fn split_rules(text: &str) -> Vec<String> {
    let (mut rules, mut rule, mut depth) = (Vec::new(), String::new(), 0_i32);
    for character in text.chars() {
        match character {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if character == ',' && depth == 0 {
            rules.push(std::mem::take(&mut rule));
        } else {
            rule.push(character);
        }
    }
    rules.push(rule);
    rules.retain(|rule| !rule.trim().is_empty());
    rules
}

fn label_rule(rule: &str) -> Result<LabelRule, Refusal> {
    let rule = rule.trim();
    let set = |list: &str| -> Vec<String> {
        list.trim()
            .trim_start_matches('(')
            .trim_end_matches(')')
            .split(',')
            .map(|value| value.trim().to_owned())
            .collect()
    };
    if let Some((key, list)) = rule.split_once(" notin ") {
        return Ok(LabelRule::NotIn(key.trim().to_owned(), set(list)));
    }
    if let Some((key, list)) = rule.split_once(" in ") {
        return Ok(LabelRule::In(key.trim().to_owned(), set(list)));
    }
    if let Some((key, value)) = rule.split_once("!=") {
        return Ok(LabelRule::NotIn(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    if let Some((key, value)) = rule.split_once("==").or_else(|| rule.split_once('=')) {
        return Ok(LabelRule::In(key.trim().to_owned(), vec![value.trim().to_owned()]));
    }
    if rule.contains(char::is_whitespace) {
        return Err(Refusal::bad_request(format!("unable to parse label requirement: {rule}")));
    }
    Ok(match rule.strip_prefix('!') {
        Some(key) => LabelRule::Absent(key.trim().to_owned()),
        None => LabelRule::Exists(rule.to_owned()),
    })
}

fn field_rule(rule: &str) -> Result<FieldRule, Refusal> {
    let (path, value, wanted) = if let Some((path, value)) = rule.split_once("!=") {
        (path, value, false)
    } else if let Some((path, value)) = rule.split_once("==").or_else(|| rule.split_once('=')) {
        (path, value, true)
    } else {
        return Err(Refusal::bad_request(format!("invalid field selector: {rule}")));
    };
    let path = path.trim();
    let known =
        matches!(path, "metadata.name" | "metadata.namespace" | "spec.nodeName" | "status.phase" | "type" | "reason")
            || path.starts_with("involvedObject.")
            || path.starts_with("regarding.");
    if !known {
        return Err(Refusal::bad_request(format!("field label not supported: {path}")));
    }
    let path = path.replacen("regarding.", "involvedObject.", 1);
    Ok(FieldRule { path: path.split('.').map(str::to_owned).collect(), value: value.trim().to_owned(), wanted })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn selects(labels: &str, fields: &str) -> bool {
        let pod = json!({ "metadata": { "name": "a", "namespace": "shop", "labels": { "app": "cart", "tier": "backend" } },
            "spec": { "nodeName": "n1" } });
        Selector::parse(Some(labels), Some(fields)).unwrap().matches(&pod)
    }

    #[test]
    fn label_rules_of_every_form_are_understood() {
        assert!(selects("app=cart,tier in (backend, edge)", ""));
        assert!(selects("app==cart,!gone,tier", ""));
        assert!(selects("tier notin (edge),other!=x", ""));
        assert!(!selects("app!=cart", ""));
    }

    #[test]
    fn field_rules_select_by_name_and_node_and_refuse_unknown_fields() {
        assert!(selects("", "metadata.name=a,spec.nodeName=n1"));
        assert!(!selects("", "metadata.name!=a"));
        assert!(Selector::parse(None, Some("spec.color=red")).is_err());
    }
}
