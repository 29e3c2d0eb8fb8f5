//! How deep JSON nests: told without decoding it.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// How deep an object may nest, itself included: everybody who decodes one has a limit, serde_json 128.
pub const DEEPEST: usize = 100;

/// Steps of a path that are told: enough to find the place.
const STEPS: usize = 8;

/// Whether well-formed JSON nests deeper than `limit`.
pub fn nests_deeper(json: &str, limit: usize) -> bool {
    let (mut depth, mut in_text, mut escaped) = (0_usize, false, false);
    json.bytes().any(|byte| {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => depth += 1,
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth > limit
    })
}

/// The beginning of the path to what nests deeper than `limit` below a field, for a person.
pub(super) fn path_to_deepest(field: &str, mut json: &RawValue, limit: usize) -> String {
    let mut path = field.to_owned();
    for step in 1..=STEPS {
        let Some(limit) = limit.checked_sub(step) else { return path };
        let is_too_deep = |raw: &&RawValue| nests_deeper(raw.get(), limit);
        let entries = serde_json::from_str::<BTreeMap<String, &RawValue>>(json.get());
        let entry = entries.ok().and_then(|entries| entries.into_iter().find(|(_, raw)| is_too_deep(raw)));
        let items = serde_json::from_str::<Vec<&RawValue>>(json.get());
        let item = items.ok().and_then(|items| items.into_iter().enumerate().find(|(_, raw)| is_too_deep(raw)));
        json = match (entry, item) {
            (Some((name, below)), _) => {
                path.push('.');
                path.push_str(&name);
                below
            }
            (None, Some((index, below))) => {
                path.push_str(&format!("[{index}]"));
                below
            }
            (None, None) => return path,
        };
    }
    path.push('…');
    path
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn brackets_in_texts_are_no_nesting() {
        let text = format!(r#"{{"a": "{}\"[", "b": ["\\"]}}"#, "[".repeat(200));
        assert!(serde_json::from_str::<Value>(&text).is_ok() && !nests_deeper(&text, 2) && nests_deeper(&text, 1));
    }

    #[test]
    fn the_path_leads_to_what_is_too_deep() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let shallow = raw(r#"{"fine": [1], "odd": [{"x": [[]]}]}"#);
        assert_eq!(path_to_deepest("spec", &shallow, 4), "spec.odd[0].x[0]");
        assert_eq!(path_to_deepest("spec", &shallow, 3), "spec.odd[0].x");
        let deep = raw(&format!("{}1{}", r#"{"a":"#.repeat(50_000), "}".repeat(50_000)));
        assert_eq!(path_to_deepest("spec", &deep, 99), format!("spec{}…", ".a".repeat(STEPS)));
    }
}
