//! Which fields of the documents hold what we need: asked of the store, unless the mapping declares them.
//!
//! A question about a field that no index has is answered with nothing found, by both servers, and a field whose text is cut
//! into words matches parts of names. So the fields are looked at before the first question, with the field capabilities
//! API (<https://docs.opensearch.org/latest/api-reference/search-apis/field-caps/>).

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::mapping::LogFields;
use crate::source::SourceError;

/// What shippers call the pod and its namespace, tried in turn: the Elastic Common Schema (Filebeat, Elastic Agent), Fluent Bit
/// and Fluentd, the OpenTelemetry Collector's mapping for Elasticsearch, and its one for OpenSearch.
const SHAPES: [(&str, &str); 5] = [
    ("kubernetes.namespace", "kubernetes.pod.name"),
    ("kubernetes.namespace_name", "kubernetes.pod_name"),
    ("resource.attributes.k8s.namespace.name", "resource.attributes.k8s.pod.name"),
    ("resource.k8s.namespace.name", "resource.k8s.pod.name"),
    ("k8s.namespace.name", "k8s.pod.name"),
];

const TIMES: [&str; 2] = ["@timestamp", "time"];
const MESSAGES: [&str; 5] = ["message", "log", "body.text", "body_text", "body"];
const LEVELS: [&str; 6] = ["log.level", "severity_text", "severity.text", "level", "severity", "loglevel"];
const TRACES: [&str; 4] = ["trace.id", "trace_id", "traceId", "traceid"];
const SPANS: [&str; 4] = ["span.id", "span_id", "spanId", "spanid"];

/// Types that hold a text as one: a name matches the whole of it.
const WHOLE: [&str; 3] = ["keyword", "constant_keyword", "wildcard"];

/// The fields of one store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fields {
    pub time: String,
    pub message: String,
    /// `None`: the mapping says that there is none.
    pub namespace: Option<String>,
    pub pod: String,
    pub level: Option<String>,
    pub trace: Option<String>,
    pub span: Option<String>,
}

/// An answer of the field capabilities API: by field and type.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Capabilities {
    #[serde(default)]
    indices: Vec<serde_json::Value>,
    #[serde(default)]
    fields: BTreeMap<String, BTreeMap<String, serde::de::IgnoredAny>>,
}

/// The names to ask about, comma-separated.
pub(super) fn candidates(declared: &LogFields) -> String {
    let lists = [TIMES.as_slice(), &MESSAGES, &LEVELS, &TRACES, &SPANS];
    let own = [&declared.time, &declared.message, &declared.namespace, &declared.pod, &declared.level]
        .into_iter()
        .chain([&declared.trace, &declared.span])
        .flatten()
        .map(String::as_str)
        .filter(|name| !name.is_empty());
    let known = lists.into_iter().flatten().copied().chain(SHAPES.into_iter().flat_map(|(one, other)| [one, other]));
    let names: std::collections::BTreeSet<&str> = known.chain(own).collect();
    let with_whole = names.into_iter().flat_map(|name| [name.to_owned(), format!("{name}.keyword")]);
    with_whole.collect::<Vec<_>>().join(",")
}

impl Capabilities {
    /// The fields to ask about.
    ///
    /// # Errors
    /// No index matches, or nothing holds the time, the message, the pod or its namespace.
    pub fn fields(&self, declared: &LogFields) -> Result<Fields, SourceError> {
        let index = &declared.index;
        if self.indices.is_empty() {
            return Err(SourceError::Unmapped { what: format!("no index matches {index}"), key: "index" });
        }
        let missing = |what: &str, looked: &[&str], key: &'static str| SourceError::Unmapped {
            what: format!("no field of {index} holds {what} (looked at {})", looked.join(", ")),
            key,
        };
        let (namespace, pod) = self.identity(declared)?;
        let one = |own: &Option<String>, known: &[&str]| match own {
            Some(own) => self.has(own).then(|| own.clone()),
            None => known.iter().find(|name| self.has(name)).map(|name| (*name).to_owned()),
        };
        let looked = |own: &Option<String>, known: &[&'static str]| match own {
            Some(own) => vec![own.clone()],
            None => known.iter().map(|name| (*name).to_owned()).collect(),
        };
        let wanted = |own: &Option<String>, known: &[&'static str], what: &str, key: &'static str| {
            let names = looked(own, known);
            one(own, known).ok_or_else(|| missing(what, &names.iter().map(String::as_str).collect::<Vec<_>>(), key))
        };
        Ok(Fields {
            time: wanted(&declared.time, &TIMES, "the time", "timeField")?,
            message: wanted(&declared.message, &MESSAGES, "the message", "messageField")?,
            namespace,
            pod,
            level: one(&declared.level, &LEVELS),
            trace: one(&declared.trace, &TRACES),
            span: one(&declared.span, &SPANS),
        })
    }

    /// Namespace and pod, as fields that match as a whole.
    fn identity(&self, declared: &LogFields) -> Result<(Option<String>, String), SourceError> {
        let index = &declared.index;
        let shape = SHAPES.into_iter().find(|(namespace, pod)| {
            let covered = |own: &Option<String>, known: &str| own.is_some() || self.whole(known).is_some();
            covered(&declared.namespace, namespace) && covered(&declared.pod, pod)
        });
        let find = |own: &Option<String>, known: Option<&str>, what: &str, key: &'static str| {
            let name = own.as_deref().or(known);
            if let Some(found) = name.and_then(|name| self.whole(name)) {
                return Ok(found);
            }
            let what = match name.filter(|name| self.has(name)) {
                Some(name) => format!("{name} of {index} is cut into words and matches no name as a whole"),
                None => format!("no field of {index} holds {what} as a keyword"),
            };
            Err(SourceError::Unmapped { what, key })
        };
        let pod = find(&declared.pod, shape.map(|(_, pod)| pod), "the pod's name", "podField")?;
        if declared.namespace.as_deref() == Some("") {
            return Ok((None, pod));
        }
        let namespace =
            find(&declared.namespace, shape.map(|(namespace, _)| namespace), "the pod's namespace", "namespaceField")?;
        Ok((Some(namespace), pod))
    }

    fn has(&self, name: &str) -> bool {
        self.fields
            .get(name)
            .is_some_and(|types| types.keys().any(|kind| !matches!(kind.as_str(), "object" | "unmapped")))
    }

    /// The field, or its own keyword, when every index that has it holds it as one text.
    fn whole(&self, name: &str) -> Option<String> {
        let keyword = format!("{name}.keyword");
        [name, &keyword]
            .into_iter()
            .find(|name| {
                let types = self.fields.get(*name).into_iter().flat_map(BTreeMap::keys);
                let mut held = types.filter(|kind| *kind != "unmapped").peekable();
                held.peek().is_some() && held.all(|kind| WHOLE.contains(&kind.as_str()))
            })
            .map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn capabilities(fields: &[(&str, &[&str])]) -> Capabilities {
        let types = |kinds: &[&str]| {
            kinds.iter().map(|kind| ((*kind).to_owned(), json!({}))).collect::<serde_json::Map<_, _>>()
        };
        let fields: serde_json::Map<_, _> =
            fields.iter().map(|(name, kinds)| ((*name).to_owned(), types(kinds).into())).collect();
        serde_json::from_value(json!({"indices": ["a"], "fields": fields})).unwrap()
    }

    fn refused(found: &Capabilities, declared: &LogFields) -> String {
        found.fields(declared).unwrap_err().to_string()
    }

    const DYNAMIC: [(&str, &[&str]); 7] = [
        ("@timestamp", &["date"]),
        ("log", &["text"]),
        ("kubernetes.pod_name", &["text"]),
        ("kubernetes.pod_name.keyword", &["keyword"]),
        ("kubernetes.namespace_name", &["text"]),
        ("kubernetes.namespace_name.keyword", &["keyword", "unmapped"]),
        ("trace_id", &["text"]),
    ];

    #[test]
    fn fluent_bit_s_names_are_found_with_the_keywords_of_a_dynamic_mapping() {
        let found = capabilities(&DYNAMIC).fields(&LogFields::default()).unwrap();
        assert_eq!(found.pod, "kubernetes.pod_name.keyword");
        assert_eq!(found.namespace.as_deref(), Some("kubernetes.namespace_name.keyword"));
        assert_eq!((found.message.as_str(), found.trace.as_deref(), found.level), ("log", Some("trace_id"), None));
    }

    #[test]
    fn what_is_declared_counts_and_must_be_there() {
        let found = capabilities(&DYNAMIC);
        let mut declared = LogFields { namespace: Some(String::new()), ..LogFields::default() };
        assert_eq!(found.fields(&declared).unwrap().namespace, None);
        declared.message = Some("msg".into());
        assert!(refused(&found, &declared).contains("holds the message (looked at msg)"));
        let declared = LogFields { pod: Some("trace_id".into()), ..LogFields::default() };
        assert!(refused(&found, &declared).contains("trace_id of logs-*,filebeat-*,logstash-* is cut into words"));
    }

    #[test]
    fn what_no_index_has_is_no_empty_answer() {
        let none: Capabilities = serde_json::from_value(json!({"indices": [], "fields": {}})).unwrap();
        assert!(refused(&none, &LogFields::default()).contains("no index matches logs-*"));
        let without = capabilities(&DYNAMIC[..2]);
        assert!(refused(&without, &LogFields::default()).contains("holds the pod's name as a keyword"));
    }

    #[test]
    fn a_field_that_is_a_keyword_in_one_index_only_is_not_taken() {
        let mut fields = DYNAMIC.to_vec();
        fields[3] = ("kubernetes.pod_name.keyword", &["keyword", "text"]);
        assert!(refused(&capabilities(&fields), &LogFields::default()).contains("as a keyword"));
    }
}
