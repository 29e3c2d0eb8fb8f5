use std::collections::BTreeMap;

use dask_wasm_operator_test_properties::cases;
use proptest::prelude::*;

use super::*;

type Environment = BTreeMap<String, Vec<u8>>;

/// What the kubelet makes of a list of variables: `makeEnvironmentVariables` of pkg/kubelet/kubelet_pods.go, and `Expand` of
/// third_party/forked/golang/expansion, which took the first byte of a character for one until Kubernetes 1.35 or so. `sources`
/// has what the others are, by the name of their key; `before` what is there already, from `envFrom` and the Services of the
/// namespace.
fn kubelet(variables: &[Value], sources: &BTreeMap<&str, &str>, before: &Environment, is_old: bool) -> Environment {
    let mut environment = before.clone();
    for variable in variables {
        let name = variable["name"].as_str().unwrap().to_owned();
        let value = variable.get("value").and_then(Value::as_str).unwrap_or_default();
        let source = &variable["valueFrom"]["configMapKeyRef"];
        let value = if value.is_empty() && !source.is_null() {
            match sources.get(source["key"].as_str().unwrap()) {
                Some(value) => value.as_bytes().to_vec(),
                None if source["optional"] == json!(true) => continue,
                None => b"the container does not start".to_vec(),
            }
        } else {
            expand(value.as_bytes(), &environment, is_old)
        };
        environment.insert(name, value);
    }
    environment
}

fn expand(input: &[u8], environment: &Environment, is_old: bool) -> Vec<u8> {
    let (mut output, mut checkpoint, mut cursor) = (Vec::new(), 0, 0);
    while cursor < input.len() {
        if input[cursor] == b'$' && cursor + 1 < input.len() {
            output.extend(&input[checkpoint..cursor]);
            let rest = &input[cursor + 1..];
            let advance = match rest[0] {
                b'$' => {
                    output.push(b'$');
                    1
                }
                b'(' => match rest.iter().position(|byte| *byte == b')') {
                    Some(end) => {
                        let name = std::str::from_utf8(&rest[1..end]).unwrap();
                        match environment.get(name) {
                            Some(value) => output.extend(value),
                            None => output.extend(format!("$({name})").as_bytes()),
                        }
                        end + 1
                    }
                    None => {
                        output.extend(b"$(");
                        1
                    }
                },
                byte => {
                    output.push(b'$');
                    output.extend(if is_old { char::from(byte).to_string().into_bytes() } else { vec![byte] });
                    1
                }
            };
            cursor += advance;
            checkpoint = cursor + 1;
        }
        cursor += 1;
    }
    output.extend(&input[checkpoint.min(input.len())..]);
    output
}

fn of(variables: &Value) -> Value {
    distinct(variables.as_array().unwrap()).into()
}

fn variable(name: &str, value: &str) -> Value {
    json!({"name": name, "value": value})
}

fn from_key(name: &str, key: &str, optional: bool) -> Value {
    json!({"name": name, "valueFrom": {"configMapKeyRef": {"name": "c", "key": key, "optional": optional}}})
}

fn from_pod(name: &str) -> Value {
    json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
}

#[test]
fn the_last_of_a_name_counts() {
    let [a, b, c] = [variable("A", "1"), variable("B", "2"), variable("A", "3")];
    assert_eq!(of(&json!([a, b, c])), json!([b, c]));
    assert_eq!(of(&json!([a, from_pod("A"), b])), json!([from_pod("A"), b]));
    assert_eq!(of(&json!([a, c, a])), json!([a]));
    assert_eq!(of(&json!([{"value": "of no name"}, {}, b])), json!([{"value": "of no name"}, {}, b]), "as they are");
}

#[test]
fn a_value_that_others_refer_to_is_written_to_them() {
    let url = |host: &str| variable("URL", &format!("http://{host}/$(NAME)"));
    let [host, other] = [variable("HOST", "h"), variable("HOST", "h2")];
    assert_eq!(of(&json!([host, url("$(HOST)"), other])), json!([url("h"), other]));
    let path = [variable("PATH", "/bin"), variable("PATH", "/opt:$(PATH)"), variable("PATH", "/usr:$(PATH)")];
    assert_eq!(of(&json!(path)), json!([variable("PATH", "/usr:/opt:/bin")]));
    let after = [variable("A", "1"), variable("A", "2"), variable("B", "$(A)")];
    assert_eq!(of(&json!(after)), json!([after[1], after[2]]));
}

#[test]
fn one_dollar_of_two_is_none_of_a_reference() {
    let given = [variable("A", "a$$(B)$"), variable("C", "$$(A) $$$(A)(A) $(A"), variable("A", "2")];
    assert_eq!(of(&json!(given)), json!([variable("C", "$$(A) $$a$$(B)$$(A) $(A"), variable("A", "2")]));
}

#[test]
fn what_is_not_known_here_gets_a_name_of_its_own() {
    let address = |ip: &str| variable("ADDRESS", &format!("tcp://$({ip}):8786"));
    let given = json!([from_pod("IP"), address("IP"), variable("IP", "none"), variable("X", "$(IP__1)")]);
    let expected = json!([from_pod("IP__2"), address("IP__2"), variable("IP", "none"), variable("X", "$(IP__1)")]);
    assert_eq!(of(&given), expected);
    let of_another = [variable("A", "$(SERVICE_HOST)"), variable("A", "x$(A)")];
    assert_eq!(of(&json!(of_another)), json!([variable("A__1", "$(SERVICE_HOST)"), variable("A", "x$(A__1)")]));
}

#[test]
fn what_may_have_no_value_keeps_what_was_there_before_it() {
    for odd in [
        json!([variable("A", "default"), from_key("A", "k", true)]),
        json!([from_key("A", "k", true), variable("B", "$(A)"), variable("A", "2")]),
        json!([variable("A", "default"), {"name": "A", "valueFrom": {"newerRef": {}}}]),
    ] {
        assert_eq!(of(&odd), odd, "to be refused, not to be changed");
    }
    let replaced = [from_key("A", "k", true), variable("B", "b"), variable("A", "2")];
    assert_eq!(of(&json!(replaced)), json!([replaced[1], replaced[2]]));
    let certain = [variable("A", "default"), from_key("A", "k", false)];
    assert_eq!(of(&json!(certain)), json!([certain[1]]));
}

#[test]
fn values_that_refer_to_each_other_do_not_grow_without_end() {
    let doubled = (0..60).map(|_| variable("A", "$(A)$(A)"));
    let given: Vec<_> = [variable("A", "12345678")].into_iter().chain(doubled).collect();
    let distinct = distinct(&given);
    assert!(Value::from(distinct).to_string().len() < 2 * WRITTEN_BYTES);
    let hungry = [variable("A", &"a".repeat(1000)), variable("B", &"$(A)".repeat(100_000)), variable("A", "")];
    assert_eq!(super::distinct(&hungry)[0]["name"], "A__1");
    let unclosed = [variable("A", &"$(".repeat(500_000)), variable("A", &"$(A".repeat(500_000))];
    assert_eq!(super::distinct(&unclosed), [unclosed[1].clone()]);
}

/// Lists in which few names meet each other in every way.
fn lists() -> impl Strategy<Value = Vec<Value>> {
    let name = prop::sample::select(vec!["A", "B", "C", "A__1"]);
    let piece =
        prop::sample::select(vec!["$(A)", "$(B)", "$(C)", "$(D)", "$(A__1)", "$$", "$", "(", ")", "x", "é", "A"]);
    let text = prop::collection::vec(piece, 0..5).prop_map(|pieces| pieces.concat());
    let variable = (name, text, prop::sample::select(vec!["", "", "", "there", "absent", "certain"])).prop_map(
        |(name, text, key)| match key {
            "" => variable(name, &text),
            key => from_key(name, key, key != "certain"),
        },
    );
    prop::collection::vec(variable, 0..8)
}

proptest! {
    #![proptest_config(cases(4_000))]

    /// Whatever there is before, and whatever the sources are: no variable but those under new names is another.
    #[test]
    fn it_means_the_same_for_the_kubelet(given in lists(), has_before in any::<bool>(), is_old in any::<bool>()) {
        let distinct = distinct(&given);
        let sources = BTreeMap::from([("there", "from $(A)"), ("certain", "é$$")]);
        let before = if has_before { vec![("A", "1"), ("D", "$(B)")] } else { vec![] };
        let before = before.into_iter().map(|(name, value)| (name.to_owned(), value.as_bytes().to_vec())).collect();
        let mut expected = kubelet(&given, &sources, &before, is_old);
        let mut actual = kubelet(&distinct, &sources, &before, is_old);
        let own = |name: &str| given.iter().any(|variable| variable["name"] == name) || before.contains_key(name);
        actual.retain(|name, _| own(name));
        expected.retain(|name, _| own(name));
        prop_assert_eq!(actual, expected);
        let mut names: Vec<_> = distinct.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        let has_optional = given.iter().any(may_be_absent);
        prop_assert!(names.len() == count || has_optional, "{:?}", distinct);
        prop_assert!(has_optional || super::distinct(&distinct) == distinct);
    }
}
