//! Items of lists by the keys that tell them apart, as in `k:{"containerPort":8786,"protocol":"TCP"}`, or by their value. Keys
//! are decoded once and items are found by them, so that of a list of thousands each takes no longer than of a short one.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::{Map, Value};

type Names = BTreeSet<String>;

/// Places in a list, in order, by the values of some keys; these by their names.
type Places = BTreeMap<Names, HashMap<String, Vec<usize>>>;

fn names(keys: &Map<String, Value>) -> Names {
    keys.keys().cloned().collect()
}

/// Those of the names that an item has.
fn present(names: &Names, item: &Value) -> Names {
    names.iter().filter(|name| item.get(name.as_str()).is_some()).cloned().collect()
}

/// The values of these keys.
fn text<'a>(names: &Names, value: impl Fn(&str) -> Option<&'a Value>) -> String {
    names.iter().filter_map(|name| value(name)).map(|value| format!("{value}\0")).collect()
}

/// Items of a list. One that lacks a key has it by default, whatever it is.
pub(super) struct Items<'a> {
    items: &'a [Value],
    /// By the names of all keys.
    places: BTreeMap<Names, Places>,
    values: Option<HashMap<String, usize>>,
}

impl<'a> Items<'a> {
    pub(super) fn of(list: &'a Value) -> Self {
        let items = list.as_array().map(Vec::as_slice).unwrap_or_default();
        Self { items, places: BTreeMap::new(), values: None }
    }

    /// The first item that may have these keys.
    pub(super) fn with_keys(&mut self, keys: &Map<String, Value>) -> Option<&'a Value> {
        let items = self.items;
        let places = self.places.entry(names(keys)).or_insert_with_key(|all| {
            let mut places = Places::new();
            for (place, item) in items.iter().enumerate() {
                let present = present(all, item);
                let text = text(&present, |name| item.get(name));
                places.entry(present).or_default().entry(text).or_default().push(place);
            }
            places
        });
        let found = places.iter().filter_map(|(present, by_text)| by_text.get(&text(present, |name| keys.get(name))));
        found.filter_map(|places| places.first()).min().and_then(|place| items.get(*place))
    }

    /// The item of this value.
    pub(super) fn with_value(&mut self, value: &Value) -> Option<&'a Value> {
        let items = self.items;
        let places = self
            .values
            .get_or_insert_with(|| items.iter().enumerate().map(|(place, item)| (item.to_string(), place)).collect());
        places.get(&value.to_string()).and_then(|place| items.get(*place))
    }
}

/// What a manager holds of the items of a list.
pub(super) struct HeldItems<'a> {
    keyed: Vec<(Map<String, Value>, &'a Value)>,
    /// By the names of all keys of an entry; then by those of them that an item has.
    places: BTreeMap<Names, Places>,
    values: BTreeSet<String>,
}

impl<'a> HeldItems<'a> {
    pub(super) fn of(held: &'a Map<String, Value>) -> Self {
        let (mut keyed, mut values) = (Vec::new(), BTreeSet::new());
        for (path, below) in held {
            match path.split_once(':') {
                Some(("k", keys)) => keyed.extend(serde_json::from_str(keys).ok().map(|keys| (keys, below))),
                Some(("v", value)) => {
                    values.extend(serde_json::from_str(value).ok().map(|value: Value| value.to_string()))
                }
                _ => {}
            }
        }
        let places = keyed.iter().map(|(keys, _)| (names(keys), Places::new())).collect();
        Self { keyed, places, values }
    }

    pub(super) fn has_value(&self, value: &Value) -> bool {
        self.values.contains(&value.to_string())
    }

    /// What is held below the entries whose keys an item may have.
    pub(super) fn may_be(&mut self, item: &Value) -> Vec<&'a Value> {
        let places = self.find(item, |_, _| true);
        places.into_iter().filter_map(|place| self.keyed.get(place)).map(|(_, below)| *below).collect()
    }

    /// The entry whose keys an item has, and what is held below it.
    pub(super) fn of_item(&mut self, item: &Value) -> Option<(&Map<String, Value>, &'a Value)> {
        let places = self.find(item, |all, present| all.len() == present.len());
        places.first().and_then(|place| self.keyed.get(*place)).map(|(keys, below)| (keys, *below))
    }

    /// The places of entries of which an item has these of all keys.
    fn find(&mut self, item: &Value, counts: impl Fn(&Names, &Names) -> bool) -> Vec<usize> {
        let (mut found, keyed) = (Vec::new(), &self.keyed);
        for (all, places) in &mut self.places {
            let present = present(all, item);
            if !counts(all, &present) {
                continue;
            }
            let of_item = text(&present, |name| item.get(name));
            let by_text = places.entry(present).or_insert_with_key(|present| {
                let mut by_text: HashMap<String, Vec<usize>> = HashMap::new();
                for (place, (keys, _)) in keyed.iter().enumerate().filter(|(_, (keys, _))| names(keys) == *all) {
                    by_text.entry(text(present, |name| keys.get(name))).or_default().push(place);
                }
                by_text
            });
            found.extend(by_text.get(&of_item).into_iter().flatten().copied());
        }
        found.sort_unstable();
        found
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn items_are_found_by_their_keys_and_those_that_lack_one_have_it_by_default() {
        let list = json!([{"port": 1, "protocol": "UDP"}, {"port": 1}, {"port": 2, "protocol": "TCP"}, "x", 7]);
        let mut items = Items::of(&list);
        let mut find = |keys| items.with_keys(&map(keys)).cloned();
        assert_eq!(find(json!({"port": 1, "protocol": "TCP"})), Some(json!({"port": 1})));
        assert_eq!(find(json!({"port": 1, "protocol": "UDP"})), Some(json!({"port": 1, "protocol": "UDP"})));
        assert_eq!(find(json!({"port": 2})), Some(json!({"port": 2, "protocol": "TCP"})));
        assert_eq!(items.with_value(&json!(7)), Some(&json!(7)));
        assert_eq!(items.with_value(&json!("7")), None);
        let list = json!([{"port": 1}]);
        assert_eq!(Items::of(&list).with_keys(&map(json!({"port": 2}))), None);
        assert_eq!(Items::of(&json!("no list")).with_keys(&Map::new()), None);
    }

    #[test]
    fn entries_are_found_by_the_items_that_may_be_theirs_or_are() {
        let held = map(json!({
            "k:{\"port\":1,\"protocol\":\"TCP\"}": 1, "k:{\"port\":1,\"protocol\":\"UDP\"}": 2, "k:{\"name\":\"a\"}": 3,
            "k:broken": 4, "v:\"x\"": 5, ".": 6,
        }));
        let mut items = HeldItems::of(&held);
        assert_eq!(items.may_be(&json!({"port": 1, "name": "b"})), [&json!(1), &json!(2)]);
        assert_eq!(items.may_be(&json!({"port": 2, "name": "a"})), [&json!(3)]);
        assert_eq!(
            items.of_item(&json!({"port": 1, "protocol": "UDP", "x": 1})).map(|(_, below)| below),
            Some(&json!(2))
        );
        assert_eq!(items.of_item(&json!({"port": 1})), None);
        assert!(items.has_value(&json!("x")) && !items.has_value(&json!("y")));
    }
}
