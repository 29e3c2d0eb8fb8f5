//! Parts of a set of fields, by the path as `FieldsV1` writes it: `f:spec`, `f:ports`, `k:{"port":80,"protocol":"TCP"}`.

use serde_json::{Map, Value};

/// Takes a part out of a set of fields, and what is empty without it: an empty entry would stand for the field as a whole.
pub fn take_part(fields: &mut Map<String, Value>, path: &[impl AsRef<str>]) -> Option<Value> {
    let (first, rest) = path.split_first()?;
    let name = first.as_ref();
    if rest.is_empty() {
        return fields.remove(name);
    }
    let below = fields.get_mut(name)?.as_object_mut()?;
    let part = take_part(below, rest);
    if part.is_some() && below.is_empty() {
        fields.remove(name);
    }
    part
}

/// Adds a part to a set of fields, with what of it is there already.
pub fn add_part(fields: &mut Map<String, Value>, path: &[impl AsRef<str>], part: Value) {
    let Some((first, rest)) = path.split_first() else { return };
    let below = fields.entry(first.as_ref()).or_insert_with(|| Value::Object(Map::new()));
    match (below, part) {
        (Value::Object(below), part) if !rest.is_empty() => add_part(below, rest, part),
        (Value::Object(below), Value::Object(part)) => {
            part.into_iter().for_each(|(name, part)| add_part(below, &[name], part));
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn set() -> Map<String, Value> {
        let set = json!({"f:spec": {"f:type": {}, "f:ports": {"k:{\"port\":1}": {".": {}, "f:port": {}}}}, "f:a": {"f:b": {}}});
        set.as_object().unwrap().clone()
    }

    #[test]
    fn a_part_goes_with_what_is_empty_without_it() {
        let mut fields = set();
        let item = take_part(&mut fields, &["f:spec", "f:ports", "k:{\"port\":1}"]);
        assert_eq!(item, Some(json!({".": {}, "f:port": {}})));
        assert_eq!(Value::from(fields.clone()), json!({"f:spec": {"f:type": {}}, "f:a": {"f:b": {}}}));
        assert_eq!(take_part(&mut fields, &["f:a", "f:b"]), Some(json!({})));
        assert_eq!(Value::from(fields), json!({"f:spec": {"f:type": {}}}));
    }

    #[test]
    fn what_is_not_there_is_not_taken() {
        for path in [&["f:spec", "f:none"][..], &["f:none", "f:a"], &["f:spec", "f:type", "f:deep"], &[]] {
            let mut fields = set();
            assert_eq!(take_part(&mut fields, path), None);
            assert_eq!(fields, set());
        }
    }

    #[test]
    fn what_is_taken_and_added_is_as_before() {
        for path in [&["f:spec", "f:ports", "k:{\"port\":1}"][..], &["f:a"], &["f:a", "f:b"], &["f:spec"]] {
            let mut fields = set();
            let part = take_part(&mut fields, path).unwrap();
            add_part(&mut fields, path, part.clone());
            assert_eq!(fields, set());
            add_part(&mut fields, path, part);
            assert_eq!(fields, set(), "a second time");
        }
    }
}
