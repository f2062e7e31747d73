//! One text for one value: what digests are taken over.

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// JSON without spaces and with keys in byte order, whatever order maps have in memory.
///
/// Numbers are written as `serde_json` writes them; no hashed type here holds a float.
pub fn canonical_json(value: &impl Serialize) -> String {
    // A value that cannot become JSON would be a map with keys that are not strings; no type in this room has one.
    let tree = serde_json::to_value(value).unwrap_or(Value::Null);
    let mut text = String::new();
    write(&tree, &mut text);
    text
}

/// SHA-256 over [`canonical_json`], in hex.
pub fn digest(value: &impl Serialize) -> String {
    hex::encode(Sha256::digest(canonical_json(value)))
}

fn write(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let mut keys: Vec<_> = map.keys().collect();
            keys.sort();
            text.push('{');
            for (position, key) in keys.into_iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                text.push_str(&Value::String(key.clone()).to_string());
                text.push(':');
                write(&map[key], text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (position, item) in items.iter().enumerate() {
                if position > 0 {
                    text.push(',');
                }
                write(item, text);
            }
            text.push(']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => text.push_str(&value.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_in_order_and_nothing_else_is_added() {
        let value = serde_json::json!({ "b": [1, { "d": null, "c": "\u{7f}\"" }], "a": true });
        assert_eq!(canonical_json(&value), "{\"a\":true,\"b\":[1,{\"c\":\"\u{7f}\\\"\",\"d\":null}]}");
    }
}
