//! JSON values as YAML: block style, texts quoted as in JSON (which YAML reads alike) unless they are plain words.

use serde_json::Value;

/// One YAML document.
pub(super) fn to_yaml(value: &Value) -> String {
    let mut out = String::new();
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => block(value, 0, &mut out),
        _ => out = scalar(value) + "\n",
    }
    out
}

fn block(value: &Value, depth: usize, out: &mut String) {
    let indent = "  ".repeat(depth);
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                out.push_str(&format!("{indent}{}:", text(name)));
                below(value, depth + 1, out);
            }
        }
        Value::Array(values) => {
            for value in values {
                let mut item = String::new();
                match value {
                    Value::Object(_) | Value::Array(_) if !is_empty(value) => block(value, depth + 1, &mut item),
                    _ => item = format!("{indent}  {}\n", scalar(value)),
                }
                // The item's first line stands behind the dash instead of below it.
                out.push_str(&format!("{indent}- {}", item.trim_start_matches(' ')));
            }
        }
        _ => out.push_str(&format!("{indent}{}\n", scalar(value))),
    }
}

fn below(value: &Value, depth: usize, out: &mut String) {
    match value {
        Value::Object(_) | Value::Array(_) if !is_empty(value) => {
            out.push('\n');
            block(value, depth, out);
        }
        _ => out.push_str(&format!(" {}\n", scalar(value))),
    }
}

fn is_empty(value: &Value) -> bool {
    value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(serde_json::Map::is_empty)
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(value) => text(value),
        _ => value.to_string(),
    }
}

/// A word as it is if nothing else could be read into it; otherwise quoted.
fn text(value: &str) -> String {
    let is_word = value.starts_with(|each: char| each.is_ascii_alphabetic())
        && value.chars().all(|each| each.is_ascii_alphanumeric() || "_-./".contains(each));
    let means_something = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if is_word && !means_something.contains(&value.to_ascii_lowercase().as_str()) {
        value.to_owned()
    } else {
        Value::from(value).to_string()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lists_and_tables_are_nested_by_indent() {
        let value = json!({"items": [{"a": 1, "b": ["x", {"c": null}]}, [], {}], "revision": 7, "time": "1970-01-01T00:00:01Z"});
        let expected = "items:\n  - a: 1\n    b:\n      - x\n      - c: null\n  - []\n  - {}\nrevision: 7\ntime: \
                        \"1970-01-01T00:00:01Z\"\n";
        assert_eq!(to_yaml(&value), expected);
    }

    #[test]
    fn texts_that_look_like_something_else_are_quoted() {
        assert_eq!(to_yaml(&json!(["no", "1", "a: b", "", "ok"])), "- \"no\"\n- \"1\"\n- \"a: b\"\n- \"\"\n- ok\n");
    }
}
