//! How deep JSON nests: told without decoding it.

/// How deep an object may nest, itself included: everybody who decodes one has a limit, serde_json 128.
pub const DEEPEST: usize = 100;

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

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn brackets_in_texts_are_no_nesting() {
        let text = format!(r#"{{"a": "{}\"[", "b": ["\\"]}}"#, "[".repeat(200));
        assert!(serde_json::from_str::<Value>(&text).is_ok() && !nests_deeper(&text, 2) && nests_deeper(&text, 1));
    }
}
