//! One event, two forms: core `Event` and `events.k8s.io` `Event`. Stored as core, served as either.

use serde_json::{Map, Value, json};

const PAIRS: &[(&str, &str)] = &[
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

/// The `events.k8s.io/v1` form of a core event.
pub fn to_events_v1(core: &Value) -> Value {
    let mut event = renamed(core, |(from, to)| (from, to));
    event["apiVersion"] = json!("events.k8s.io/v1");
    event
}

/// The core form of an `events.k8s.io/v1` event.
pub fn to_core(event: &Value) -> Value {
    let mut core = renamed(event, |(from, to)| (to, from));
    core["apiVersion"] = json!("v1");
    if !core["involvedObject"].is_object() {
        core["involvedObject"] = json!({});
    }
    core
}

fn renamed(object: &Value, direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) -> Value {
    let mut result = Map::new();
    for (name, value) in object.as_object().into_iter().flatten() {
        let pair = PAIRS.iter().map(|pair| direction(*pair)).find(|(from, _)| from == name);
        result.insert(pair.map_or_else(|| name.clone(), |(_, to)| to.to_owned()), value.clone());
    }
    Value::Object(result)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_survives_the_way_there_and_back() {
        let core = json!({ "apiVersion": "v1", "kind": "Event", "involvedObject": { "name": "a" }, "message": "m", "count": 2, "reason": "R" });
        let v1 = to_events_v1(&core);
        assert_eq!((v1["regarding"]["name"].as_str(), v1["note"].as_str()), (Some("a"), Some("m")));
        assert_eq!(to_core(&v1), core);
    }
}
