//! Names of hosts, with each address once.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

/// Hands the names of an address that is given again to where it was given first: the kubelet writes a line for each, and in a
/// line all names are alike. Left as they are: those of a name that another address has in between, where the order counts.
pub(super) fn distinct(aliases: &[Value]) -> Vec<Value> {
    let mut distinct: Vec<Value> = Vec::with_capacity(aliases.len());
    // Of each address where it was given first, there and here.
    let mut first: HashMap<&str, (usize, usize)> = HashMap::new();
    // Of each name the last alias that has it.
    let mut last: HashMap<&str, (usize, &str)> = HashMap::new();
    let mut seen: HashSet<(&str, &str)> = HashSet::new();
    for (at, alias) in aliases.iter().enumerate() {
        let Some((ip, names)) = parts(alias) else {
            distinct.push(alias.clone());
            continue;
        };
        let stands_between =
            |name: &&str, begin| last.get(name).is_some_and(|(other, address)| *other > begin && *address != ip);
        let line = first.get(ip).filter(|(_, begin)| !names.iter().any(|name| stands_between(name, *begin)));
        let begin = line.map_or(at, |(_, begin)| *begin);
        if let Some((line, _)) = line {
            let new = names.iter().filter(|name| seen.insert((ip, **name))).map(|name| json!(name));
            if let Some(hostnames) = distinct[*line]["hostnames"].as_array_mut() {
                hostnames.extend(new);
            }
        } else {
            first.entry(ip).or_insert((distinct.len(), at));
            seen.extend(names.iter().map(|name| (ip, *name)));
            distinct.push(alias.clone());
        }
        for name in names {
            let last = last.entry(name).or_insert((begin, ip));
            *last = (*last).max((begin, ip));
        }
    }
    distinct
}

/// None for what holds more than address and names, or something else.
fn parts(alias: &Value) -> Option<(&str, Vec<&str>)> {
    let (ip, names) = (alias.get("ip")?.as_str()?, alias.get("hostnames")?.as_array()?);
    let names: Option<Vec<_>> = names.iter().map(Value::as_str).collect();
    (alias.as_object()?.len() == 2).then_some((ip, names?))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn aliases(aliases: &[(&str, &[&str])]) -> Value {
        aliases.iter().map(|(ip, names)| json!({"ip": ip, "hostnames": names})).collect()
    }

    fn of(given: &[(&str, &[&str])]) -> Value {
        distinct(aliases(given).as_array().unwrap()).into()
    }

    #[test]
    fn names_of_an_address_that_is_given_again_are_added_to_the_first() {
        let given = [("10.0.0.5", ["nfs1"].as_slice()), ("10.0.0.6", &["x"]), ("10.0.0.5", &["nfs2", "nfs1"])];
        assert_eq!(of(&given), aliases(&[("10.0.0.5", &["nfs1", "nfs2"]), ("10.0.0.6", &["x"])]));
        let twice = [("::1", ["a"].as_slice()), ("::1", &["a"]), ("::1", &[])];
        assert_eq!(of(&twice), aliases(&[("::1", &["a"])]));
    }

    /// The first line that has a name counts.
    #[test]
    fn a_name_does_not_overtake_that_of_another_address() {
        let given = [("1.1.1.1", ["a"].as_slice()), ("2.2.2.2", &["b"]), ("1.1.1.1", &["b"])];
        assert_eq!(of(&given), aliases(&given), "to be refused, not to be changed");
        let before = [("2.2.2.2", ["b"].as_slice()), ("1.1.1.1", &["a"]), ("1.1.1.1", &["b"])];
        assert_eq!(of(&before), aliases(&[("2.2.2.2", &["b"]), ("1.1.1.1", &["a", "b"])]));
    }

    #[test]
    fn what_is_no_alias_is_left_to_the_server() {
        for odd in [json!([null, null]), json!([{"ip": "a"}, {"ip": "a"}]), json!([{"hostnames": ["x"]}, "x"])] {
            assert_eq!(Value::from(distinct(odd.as_array().unwrap())), odd);
        }
        let newer = json!([{"ip": "a", "hostnames": []}, {"ip": "a", "hostnames": [], "newer": 1}]);
        assert_eq!(Value::from(distinct(newer.as_array().unwrap())), newer);
    }

    /// The addresses of each name, in the order of the kubelet's lines.
    fn addresses(aliases: &[Value]) -> BTreeMap<String, Vec<String>> {
        let mut addresses: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (ip, names) in aliases.iter().filter_map(parts) {
            for name in names {
                let known = addresses.entry(name.to_owned()).or_default();
                if !known.iter().any(|known| known == ip) {
                    known.push(ip.to_owned());
                }
            }
        }
        addresses
    }

    proptest! {
        #[test]
        fn each_name_has_its_addresses_in_their_order(
            given in prop::collection::vec(("[12]", prop::collection::vec("[a-c]", 0..3)), 0..8)
        ) {
            let given: Vec<_> = given.iter().map(|(ip, names)| json!({"ip": ip, "hostnames": names})).collect();
            let once = distinct(&given);
            prop_assert_eq!(addresses(&once), addresses(&given));
            prop_assert_eq!(distinct(&once), once);
        }
    }
}
