//! Variables of a container with each name once, and the same meaning.
//!
//! The kubelet goes through the list from its beginning: `$(NAME)` in a value is what the name stands for so far, `$$` is one
//! `$`, and the last of a name counts. So an entry that a later one replaces is left out, and its value is written to where
//! others refer to it; where its value is not known here, it gets a name of its own instead.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
    ops::Range,
};

use serde_json::{Value, json};

/// So much may be written to where others refer to it, in all: values that refer to each other can grow without end.
const WRITTEN_BYTES: usize = 64 * 1024;

/// The variables with each name once. Entries of one name stay where one of them may turn out to have no value and would so
/// leave the name with that of another.
pub(super) fn distinct(variables: &[Value]) -> Vec<Value> {
    let entries = Entries::of(variables);
    // What is written in the place of a reference, for names that stand for something else later.
    let mut names = HashMap::new();
    let mut fresh = Fresh::new(&entries);
    let mut budget = WRITTEN_BYTES;
    let mut distinct = Vec::with_capacity(variables.len());
    for (at, variable) in variables.iter().enumerate() {
        let entry = &entries.0[at];
        let mut variable = variable.clone();
        let text = entry.text.map(|text| rewritten(text, &names));
        if let Some(Cow::Owned(text)) = &text {
            variable["value"] = json!(text);
        }
        let Some(name) = entry.name.filter(|_| entry.is_replaced) else {
            if let Some(name) = entry.name {
                names.remove(name);
            }
            distinct.push(variable);
            continue;
        };
        if entry.references == 0 {
            continue;
        }
        let literal = text.and_then(|text| literal(&text)).map(|literal| literal.replace('$', "$$"));
        let written = literal.as_ref().and_then(|literal| literal.len().checked_mul(entry.references));
        if let (Some(literal), Some(left)) = (literal, written.and_then(|written| budget.checked_sub(written))) {
            budget = left;
            names.insert(name, literal);
        } else {
            let other = fresh.name(name);
            names.insert(name, format!("$({other})"));
            variable["name"] = json!(other);
            distinct.push(variable);
        }
    }
    distinct
}

/// What is known of each variable.
struct Entries<'a>(Vec<Entry<'a>>);

struct Entry<'a> {
    /// None: it is no variable.
    name: Option<&'a str>,
    /// None: the value comes from elsewhere.
    text: Option<&'a str>,
    /// Whether there is one of its name before it.
    is_second: bool,
    /// Whether a later one of its name takes its place.
    is_replaced: bool,
    /// How often others refer to it that count themselves.
    references: usize,
}

impl<'a> Entries<'a> {
    fn of(variables: &'a [Value]) -> Self {
        let mut entries: Vec<Entry<'a>> = Vec::with_capacity(variables.len());
        let mut latest: HashMap<&str, usize> = HashMap::new();
        let mut targets: Vec<Vec<usize>> = Vec::with_capacity(variables.len());
        for variable in variables {
            let name = variable.get("name").and_then(Value::as_str);
            let text = text_of(variable);
            let referred = text.into_iter().flat_map(references);
            let referred = referred.filter_map(|(_, name)| latest.get(name).copied());
            // One without a value is what its name stood for before.
            let before = name.and_then(|name| latest.get(name).copied());
            targets.push(referred.chain(before.filter(|_| may_be_absent(variable))).collect());
            latest.extend(name.map(|name| (name, entries.len())));
            if let Some(before) = before {
                entries[before].is_replaced = true;
            }
            entries.push(Entry { name, text, is_second: before.is_some(), is_replaced: false, references: 0 });
        }
        // All references are to entries before. Those of an entry that goes are none.
        for (at, targets) in targets.into_iter().enumerate().rev() {
            if !entries[at].is_replaced || entries[at].references > 0 {
                targets.into_iter().for_each(|target| entries[target].references += 1);
            }
        }
        // Where one that may have no value is looked at, so may be the one before it: that takes both.
        let is_looked_through = |(entry, variable): &(&Entry<'a>, &Value)| {
            let is_looked_at = if entry.is_replaced { entry.references > 0 } else { entry.is_second };
            is_looked_at && may_be_absent(variable)
        };
        let looked_through = entries.iter().zip(variables).filter(is_looked_through);
        let inseparable: HashSet<&str> = looked_through.filter_map(|(entry, _)| entry.name).collect();
        for entry in &mut entries {
            entry.is_replaced &= entry.name.is_some_and(|name| !inseparable.contains(name));
        }
        Self(entries)
    }
}

/// The value that is given as a text.
fn text_of(variable: &Value) -> Option<&str> {
    let text = variable.get("value").and_then(Value::as_str).unwrap_or_default();
    let has_source = variable.get("valueFrom").is_some_and(|source| !source.is_null());
    (!text.is_empty() || !has_source).then_some(text)
}

/// Whether a variable may turn out not to be set, which leaves its name as it was: an optional source, or one that is newer
/// than this program.
fn may_be_absent(variable: &Value) -> bool {
    if text_of(variable).is_some() {
        return false;
    }
    let source = &variable["valueFrom"];
    let is_given = |source: &Value| !source.is_null();
    let is_certain = ["fieldRef", "resourceFieldRef"].iter().any(|kind| is_given(&source[kind]))
        || ["configMapKeyRef", "secretKeyRef", "fileKeyRef"]
            .iter()
            .any(|kind| is_given(&source[kind]) && source[kind]["optional"] != json!(true));
    !is_certain
}

/// Names that no variable has and that none refers to.
struct Fresh<'a> {
    taken: HashSet<&'a str>,
    next: HashMap<&'a str, usize>,
}

impl<'a> Fresh<'a> {
    fn new(entries: &Entries<'a>) -> Self {
        let names = entries.0.iter().filter_map(|entry| entry.name);
        let referred = entries.0.iter().filter_map(|entry| entry.text).flat_map(references).map(|(_, name)| name);
        Self { taken: names.chain(referred).collect(), next: HashMap::new() }
    }

    fn name(&mut self, name: &'a str) -> String {
        let next = self.next.entry(name).or_default();
        loop {
            *next += 1;
            let fresh = format!("{name}__{next}");
            if !self.taken.contains(fresh.as_str()) {
                return fresh;
            }
        }
    }
}

/// A value in which references to some names are replaced.
fn rewritten<'a>(text: &'a str, names: &HashMap<&str, String>) -> Cow<'a, str> {
    let mut result = String::new();
    let mut copied = 0;
    for (range, name) in references(text) {
        if let Some(replacement) = names.get(name) {
            result.push_str(&text[copied..range.start]);
            result.push_str(replacement);
            copied = range.end;
        }
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    result.push_str(&text[copied..]);
    Cow::Owned(result)
}

/// What the kubelet makes of a value; none if that depends on other variables, or on its version.
fn literal(text: &str) -> Option<String> {
    let mut result = String::with_capacity(text.len());
    let mut copied = 0;
    for part in parts(text) {
        match part {
            Part::Escape(range) => {
                result.push_str(&text[copied..range.start]);
                copied = range.start + 1;
            }
            Part::Reference(..) | Part::Mangled => return None,
        }
    }
    // Of an escape the second `$` is copied, with what follows.
    result.push_str(&text[copied..]);
    Some(result)
}

/// The references of a value: `$(NAME)` and the name.
fn references(text: &str) -> impl Iterator<Item = (Range<usize>, &str)> {
    parts(text).filter_map(|part| match part {
        Part::Reference(range, name) => Some((range, name)),
        Part::Escape(_) | Part::Mangled => None,
    })
}

/// What of a value is not as it stands there.
enum Part<'a> {
    /// `$$`, which is `$`.
    Escape(Range<usize>),
    Reference(Range<usize>, &'a str),
    /// A `$` before a character of more than one byte: of these older kubelets take the first for a character.
    Mangled,
}

/// Reads a value as Kubernetes' `expansion.Expand` does.
fn parts(text: &str) -> impl Iterator<Item = Part<'_>> {
    let mut at = 0;
    let last_end = text.rfind(')').unwrap_or(0);
    std::iter::from_fn(move || {
        loop {
            let start = at + text.get(at..)?.find('$')?;
            at = start + 2;
            match text.as_bytes().get(start + 1)? {
                b'$' => return Some(Part::Escape(start..at)),
                // One that does not end stands for itself.
                b'(' if at <= last_end => {
                    let name = text[at..].split(')').next()?;
                    at += name.len() + 1;
                    return Some(Part::Reference(start..at, name));
                }
                byte if byte.is_ascii() => {}
                _ => {
                    at = start + 1;
                    return Some(Part::Mangled);
                }
            }
        }
    })
}

#[cfg(test)]
mod tests;
