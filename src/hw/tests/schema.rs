//! Our JSON against our schema: the reports of all recordings, and reports that must not pass.

#![allow(clippy::unwrap_used, reason = "a failed unwrap in a test helper is a failed test")]

mod support;

use serde_json::Value;
use support::{names, report};

fn schema() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/devices.schema.json");
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

/// The first violation, by the keywords our schema uses; any other keyword is one.
fn violation(root: &Value, schema: &Value, value: &Value, place: &str) -> Option<String> {
    match schema {
        Value::Bool(true) => None,
        Value::Bool(false) => Some(format!("{place} must not be")),
        other => {
            let rules = other.as_object().unwrap();
            let broken = |(keyword, rule): (&String, &Value)| match keyword.as_str() {
                "items" | "properties" | "additionalProperties" => {
                    inside(root, schema, keyword, value, place)
                }
                _ => itself(root, keyword, rule, value, place),
            };
            rules.iter().find_map(broken)
        }
    }
}

/// What a keyword demands of a value itself.
fn itself(root: &Value, keyword: &str, rule: &Value, value: &Value, place: &str) -> Option<String> {
    let fits = match keyword {
        "$schema" | "$defs" | "title" | "description" | "default" | "format" => true,
        "$ref" => {
            let target = root.pointer(rule.as_str().unwrap().strip_prefix('#').unwrap()).unwrap();
            return violation(root, target, value, place);
        }
        "type" => match rule {
            Value::Array(names) => names.iter().any(|name| is_of_type(value, name.as_str().unwrap())),
            name => is_of_type(value, name.as_str().unwrap()),
        },
        "const" => rule == value,
        "enum" => rule.as_array().unwrap().contains(value),
        "minimum" => !value.is_number() || value.as_f64() >= rule.as_f64(),
        "maximum" => !value.is_number() || value.as_f64() <= rule.as_f64(),
        "anyOf" | "oneOf" => {
            rule.as_array().unwrap().iter().any(|one| violation(root, one, value, place).is_none())
        }
        "required" => value.as_object().is_none_or(|fields| {
            rule.as_array().unwrap().iter().all(|name| fields.contains_key(name.as_str().unwrap()))
        }),
        _ => false,
    };
    (!fits).then(|| format!("{place} does not meet {keyword} {rule}"))
}

/// What a keyword demands of the parts of a value.
fn inside(root: &Value, schema: &Value, keyword: &str, value: &Value, place: &str) -> Option<String> {
    let rule = &schema[keyword];
    let part =
        |name: &str, rule: &Value, value: &Value| violation(root, rule, value, &format!("{place}/{name}"));
    if keyword == "items" {
        let items = value.as_array()?;
        return items.iter().enumerate().find_map(|(at, item)| part(&at.to_string(), rule, item));
    }
    let named = |name: &String| schema.get("properties").and_then(|known| known.get(name));
    value.as_object()?.iter().find_map(|(name, value)| match named(name) {
        Some(rule) if keyword == "properties" => part(name, rule, value),
        None if keyword == "additionalProperties" => part(name, rule, value),
        _ => None,
    })
}

fn is_of_type(value: &Value, name: &str) -> bool {
    match name {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_u64() || value.is_i64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => false,
    }
}

fn check(value: &Value) -> Option<String> {
    let schema = schema();
    violation(&schema, &schema, value, "")
}

#[test]
fn every_report_fits_the_schema() {
    for name in names() {
        let value: Value = serde_json::from_str(&report(&name).to_json().unwrap()).unwrap();
        assert_eq!(check(&value), None, "{name}");
    }
}

#[test]
fn the_schema_refuses_what_is_wrong() {
    let good: Value = serde_json::from_str(&report("nvidia-h100x8").to_json().unwrap()).unwrap();
    type Change = fn(&mut Value);
    let changes: [Change; 6] = [
        |value| drop(value.as_object_mut().unwrap().remove("cpu")),
        |value| value["devices"][0]["kind"] = "toaster".into(),
        |value| value["devices"][0]["memory_bytes"] = "many".into(),
        |value| value["devices"][0]["surprise"] = 1.into(),
        |value| value["machine"]["links"][0]["gbs"] = Value::Null,
        |value| value["machine"]["devices"][1]["dense"]["fp16"]["value"] = "fast".into(),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut bad = good.clone();
        change(&mut bad);
        assert!(check(&bad).is_some(), "change {number}");
    }
}
