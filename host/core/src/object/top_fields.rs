//! The top-level fields of an object.

use serde_json::value::RawValue;

/// The top-level fields of an object besides `apiVersion`, `kind` and `metadata`, as JSON text, ordered by name: `spec`,
/// `status`, `data`, …
///
/// There are one to three, of a hundred thousand objects: a node of a map would have room for eleven in each.
#[derive(Clone, Debug, Default)]
pub struct TopFields(Box<[(Box<str>, Box<RawValue>)]>);

impl TopFields {
    /// One of them.
    pub fn get(&self, name: &str) -> Option<&RawValue> {
        let at = self.0.binary_search_by(|(other, _)| (**other).cmp(name)).ok()?;
        self.0.get(at).map(|(_, raw)| &**raw)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &RawValue)> {
        self.0.iter().map(|(name, raw)| (&**name, &**raw))
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Drops those that are not to be kept.
    pub fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        if self.0.iter().any(|(name, _)| !keep(name)) {
            let kept = std::mem::take(&mut self.0).into_iter().filter(|(name, _)| keep(name));
            self.0 = kept.collect();
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Of several of the same name the last counts, as in JSON.
impl FromIterator<(String, Box<RawValue>)> for TopFields {
    fn from_iter<I: IntoIterator<Item = (String, Box<RawValue>)>>(fields: I) -> Self {
        let mut sorted: Vec<(Box<str>, Box<RawValue>)> = Vec::new();
        for (name, raw) in fields {
            match sorted.binary_search_by(|(other, _)| (**other).cmp(&name)) {
                Ok(at) => sorted[at].1 = raw,
                Err(at) => sorted.insert(at, (name.into(), raw)),
            }
        }
        Self(sorted.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_name_and_the_last_of_a_name_counts() {
        let raw = |text: &str| RawValue::from_string(text.to_owned()).unwrap();
        let fields = [("status", "1"), ("data", "2"), ("spec", "3"), ("data", "4")];
        let fields: TopFields = fields.into_iter().map(|(name, text)| (name.to_owned(), raw(text))).collect();
        let all: Vec<_> = fields.iter().map(|(name, raw)| (name, raw.get())).collect();
        assert_eq!(all, [("data", "4"), ("spec", "3"), ("status", "1")]);
        assert_eq!(fields.get("spec").map(RawValue::get), Some("3"));
        assert!(fields.get("metadata").is_none());
        assert_eq!((fields.len(), fields.is_empty()), (3, false));
    }
}
