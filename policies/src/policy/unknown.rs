//! Typos and wrong types, found by walking the generated schema.
//!
//! The API server prunes unknown fields, so a typo could silently remove a bound; policy specs therefore preserve them,
//! and this walk names each one with the nearest known field.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Policy, PolicyProblem, quoted};

/// A field that no policy has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UnknownField {
    /// Where, as in `gates[0].blastRadius.maxUnavailible`.
    pub path: String,
    /// The known field at this place that is spelled most alike, when one is near.
    pub nearest: Option<String>,
    /// Every field that may stand at this place.
    pub known: Vec<String>,
}

impl UnknownField {
    /// As a problem with its sentence.
    pub fn problem(&self) -> PolicyProblem {
        let name = self.path.rsplit('.').next().unwrap_or(&self.path);
        let sentence = match &self.nearest {
            _ if matches!(name, "true" | "false") => {
                format!(
                    "unknown field {}: YAML reads the keys on, off, yes and no as true or false; put it in quotes or use another",
                    quoted(name)
                )
            }
            Some(nearest) => format!("unknown field {}: did you mean {nearest}?", quoted(name)),
            None if self.known.is_empty() => format!("unknown field {}: remove it", quoted(name)),
            None => format!("unknown field {}: remove it; there are {}", quoted(name), self.known.join(", ")),
        };
        PolicyProblem { path: self.path.clone(), sentence }
    }
}

/// Every field of a raw policy spec that the schema does not know, in the order of the paths.
pub fn unknown_fields(raw: &Value) -> Vec<UnknownField> {
    walk(&schema(), raw).unknown
}

/// Everything that the schema has against a raw policy spec: unknown fields, wrong types, wrong words, missing fields.
///
/// Empty means that `raw` can be read as a [`Policy`]; what the texts say is for [`Policy::compile`].
pub fn problems_in(raw: &Value) -> Vec<PolicyProblem> {
    problems_against(&schema(), raw)
}

/// The same for any other schema, such as the one in a CRD.
pub fn problems_against(schema: &Value, raw: &Value) -> Vec<PolicyProblem> {
    let walked = walk(schema, raw);
    let mut problems = walked.wrong;
    problems.extend(walked.unknown.iter().map(UnknownField::problem));
    problems.sort();
    problems
}

/// The schema of a policy as JSON.
fn schema() -> Value {
    schemars::schema_for!(Policy).to_value()
}

#[derive(Default)]
struct Walked {
    unknown: Vec<UnknownField>,
    wrong: Vec<PolicyProblem>,
}

fn walk(root: &Value, raw: &Value) -> Walked {
    let mut walked = Walked::default();
    visit(raw, root, root, "", &mut walked);
    walked.unknown.sort_by(|left, right| left.path.cmp(&right.path));
    walked
}

fn visit(value: &Value, schema: &Value, root: &Value, path: &str, walked: &mut Walked) {
    let schema = resolved(schema, root);
    let mut wrong = |sentence: String| walked.wrong.push(PolicyProblem { path: path.to_owned(), sentence });
    if let Some(words) = words_allowed(schema) {
        match value.as_str() {
            Some(word) if words.iter().any(|allowed| allowed == word) => {}
            Some(word) => {
                let near = nearest(word, words.iter().map(String::as_str));
                let hint = near.map(|near| format!(": did you mean {near}?")).unwrap_or_default();
                wrong(format!("{} is not one of {}{hint}", quoted(word), words.join(", ")));
            }
            None => wrong(format!("must be one of {}", words.join(", "))),
        }
        return;
    }
    let types = types_allowed(schema);
    let kind = kind_of(value);
    let fits = types.iter().any(|wanted| *wanted == kind || (*wanted == "number" && kind == "integer"));
    if !types.is_empty() && !fits {
        let sentence = match (types[0], kind) {
            ("string", "integer" | "number" | "boolean") => "must be text: put it in quotes, with its unit".to_owned(),
            (wanted, "null") => format!("is empty: give it a value ({}) or remove it", in_words(wanted)),
            (wanted, got) => format!("must be {}, not {}", in_words(wanted), in_words(got)),
        };
        wrong(sentence);
        return;
    }
    if kind == "integer" && value.as_i64().is_none_or(|number| number < 0 || number > i64::from(i32::MAX)) {
        wrong("must be a whole number from 0 to 2147483647".to_owned());
    }
    match value {
        Value::Object(fields) => visit_fields(fields, schema, root, path, walked),
        Value::Array(items) => {
            if let Some(inner) = schema.get("items") {
                for (position, item) in items.iter().enumerate() {
                    visit(item, inner, root, &format!("{path}[{position}]"), walked);
                }
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn visit_fields(
    fields: &serde_json::Map<String, Value>,
    schema: &Value,
    root: &Value,
    path: &str,
    walked: &mut Walked,
) {
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    let empty = serde_json::Map::new();
    let known = schema.get("properties").and_then(Value::as_object).unwrap_or(&empty);
    let anything = schema.get("additionalProperties").filter(|more| more.is_object());
    for (name, value) in fields {
        match (known.get(name), anything) {
            (Some(inner), _) | (None, Some(inner)) => visit(value, inner, root, &join(name), walked),
            (None, None) => walked.unknown.push(UnknownField {
                path: join(name),
                nearest: nearest(name, known.keys().map(String::as_str)),
                known: known.keys().cloned().collect(),
            }),
        }
    }
    for name in schema.get("required").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            walked.wrong.push(PolicyProblem { path: join(name), sentence: "is missing".into() });
        }
    }
}

/// Follows `$ref`, and `anyOf` with null (how schemars writes an optional type).
fn resolved<'a>(schema: &'a Value, root: &'a Value) -> &'a Value {
    if let Some(name) = schema.get("$ref").and_then(Value::as_str) {
        let target = name.strip_prefix('#').and_then(|pointer| root.pointer(pointer));
        return target.map_or(schema, |target| resolved(target, root));
    }
    let options = schema.get("anyOf").and_then(Value::as_array);
    let option = options.and_then(|all| all.iter().find(|one| one.get("type").is_none_or(|kind| kind != "null")));
    option.map_or(schema, |option| resolved(option, root))
}

/// The words of an enum: plain (`enum`) or documented (`oneOf` of `const`).
fn words_allowed(schema: &Value) -> Option<Vec<String>> {
    let words = |list: &Value| -> Vec<String> {
        list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
    };
    if let Some(list) = schema.get("enum") {
        return Some(words(list));
    }
    let variants = schema.get("oneOf")?.as_array()?;
    let mut all = Vec::new();
    for variant in variants {
        match (variant.get("const").and_then(Value::as_str), variant.get("enum")) {
            (Some(word), _) => all.push(word.to_owned()),
            (None, Some(list)) => all.extend(words(list)),
            (None, None) => {}
        }
    }
    (!all.is_empty()).then_some(all)
}

/// The JSON types a schema allows, without null.
fn types_allowed(schema: &Value) -> Vec<&str> {
    match schema.get("type") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).filter(|kind| *kind != "null").collect(),
        _ => Vec::new(),
    }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn in_words(kind: &str) -> &str {
    match kind {
        "string" => "text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a mapping",
        other => other,
    }
}

/// The known name spelled most alike; none when more than a third of the letters differ.
pub fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let name: String = name.chars().take(64).collect::<String>().to_lowercase();
    let mut ranked: Vec<_> = known.map(|one| (distance(&name, &one.to_lowercase()), one)).collect();
    ranked.sort();
    let (edits, best) = ranked.first()?;
    (*edits * 3 <= best.chars().count().max(3)).then(|| (*best).to_owned())
}

/// Damerau-Levenshtein distance (optimal string alignment): a swap of neighbours counts as one edit.
fn distance(left: &str, right: &str) -> usize {
    let (left, right): (Vec<char>, Vec<char>) = (left.chars().collect(), right.chars().collect());
    let mut rows = vec![vec![0; right.len() + 1]; left.len() + 1];
    for (position, row) in rows.iter_mut().enumerate() {
        row[0] = position;
    }
    for (position, cell) in rows[0].iter_mut().enumerate() {
        *cell = position;
    }
    for i in 1..=left.len() {
        for j in 1..=right.len() {
            let differs = usize::from(left[i - 1] != right[j - 1]);
            let mut least = (rows[i - 1][j] + 1).min(rows[i][j - 1] + 1).min(rows[i - 1][j - 1] + differs);
            if i > 1 && j > 1 && left[i - 1] == right[j - 2] && left[i - 2] == right[j - 1] {
                least = least.min(rows[i - 2][j - 2] + 1);
            }
            rows[i][j] = least;
        }
    }
    rows[left.len()][right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unknown(raw: Value) -> Vec<(String, Option<String>)> {
        unknown_fields(&raw).into_iter().map(|field| (field.path, field.nearest)).collect()
    }

    #[test]
    fn a_typo_is_named_with_the_nearest_known_field() {
        let raw = serde_json::json!({
            "suspnd": true,
            "gates": [{ "blastRadius": { "maxUnavailible": "50%" } }, { "blastRaduis": {} }],
            "steps": [{ "name": "a", "git": { "setResources": { "memroy": {} } } }],
            "zzz": 1,
        });
        assert_eq!(
            unknown(raw),
            [
                ("gates[0].blastRadius.maxUnavailible".into(), Some("maxUnavailable".into())),
                ("gates[1].blastRaduis".into(), Some("blastRadius".into())),
                ("steps[0].git.setResources.memroy".into(), Some("memory".into())),
                ("suspnd".into(), Some("suspend".into())),
                ("zzz".into(), None),
            ]
        );
    }

    #[test]
    fn labels_may_have_any_name() {
        let target = serde_json::json!({ "kind": "Deployment", "selector": { "matchLabels": { "tier": "backend" } } });
        assert_eq!(unknown(serde_json::json!({ "match": { "targets": [target] } })), []);
    }
}
