//! Which fields of a spec the API server knows.
//!
//! A field that it does not know it drops when an object is created, and refuses when one is applied. What Dask's objects hold
//! for pods and Services is kept in them whatever it is, so what the server does not know is taken out before it is applied.
//! The schema is the server's own: a field that is newer than this program arrives.

use std::{
    collections::{BTreeMap, HashMap},
    fmt::{self, Write as _},
};

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Where an OpenAPI document has the schemas that others refer to.
const DEFINITIONS: &str = "#/components/schemas/";

/// More than the schema of a pod needs by far; what is beyond is not looked into.
const MOST_NODES: usize = 50_000;

/// As many paths are named to a person, and so much of each.
const NAMED: usize = 5;
const PATH_BYTES: usize = 100;

/// What the API server knows of the specs that are handed through from Dask's objects. None: that is not known, and everything
/// is left to the server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownFields {
    /// Of a pod's spec.
    pub pod: Option<Schema>,
    /// Of a Service's spec.
    pub service: Option<Schema>,
}

/// A schema of an OpenAPI document, as far as it says which fields there are.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OpenApi {
    #[serde(rename = "$ref")]
    reference: Option<String>,
    all_of: Vec<OpenApi>,
    properties: BTreeMap<String, OpenApi>,
    items: Option<Box<OpenApi>>,
    #[serde(deserialize_with = "schema_or_bool")]
    additional_properties: Option<Box<OpenApi>>,
    #[serde(rename = "x-kubernetes-preserve-unknown-fields")]
    keeps_unknown: bool,
}

/// `true` stands for a schema that says nothing.
fn schema_or_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Box<OpenApi>>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Values {
        Allowed(bool),
        Like(Box<OpenApi>),
    }
    Ok(match Values::deserialize(deserializer)? {
        Values::Allowed(allowed) => allowed.then(Box::default),
        Values::Like(schema) => Some(schema),
    })
}

/// Which fields a value may have, and the values below it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Unchecked")]
pub struct Schema {
    /// The first is [`ANYTHING`]. They refer to each other, in circles if they like.
    nodes: Vec<Node>,
    root: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Node {
    /// It is not known what there may be, or there is nothing below.
    Anything,
    /// An object with these fields.
    Fields(BTreeMap<Box<str>, usize>),
    /// An object with any keys.
    Values(usize),
    Items(usize),
}

const ANYTHING: usize = 0;

/// A schema that was read: its nodes may refer to such that are not there.
#[derive(Deserialize)]
struct Unchecked {
    nodes: Vec<Node>,
    root: usize,
}

impl TryFrom<Unchecked> for Schema {
    type Error = String;

    fn try_from(Unchecked { nodes, root }: Unchecked) -> Result<Self, String> {
        let below = nodes.iter().flat_map(|node| match node {
            Node::Anything => Vec::new(),
            Node::Fields(fields) => fields.values().copied().collect(),
            Node::Values(at) | Node::Items(at) => vec![*at],
        });
        match below.chain([root]).find(|at| *at >= nodes.len()) {
            Some(at) => Err(format!("a schema of {} nodes refers to its node {at}", nodes.len())),
            None => Ok(Self { nodes, root }),
        }
    }
}

impl Schema {
    /// From a schema, and the definitions that it refers to by name.
    pub fn new(root: OpenApi, definition: impl Fn(&str) -> Option<OpenApi>) -> Self {
        let mut builder = Builder { nodes: vec![Node::Anything], named: HashMap::new(), open: Vec::new() };
        let root = builder.place(root, &definition);
        while let Some((at, schema)) = builder.open.pop() {
            builder.nodes[at] = builder.node(schema, &definition);
        }
        Self { nodes: builder.nodes, root }
    }

    /// Takes out of a value what the schema does not know.
    pub fn prune(&self, value: &mut Value) -> Pruned {
        let mut pruned = Pruned::default();
        self.prune_below(self.root, value, None, &mut pruned);
        pruned
    }

    fn prune_below(&self, at: usize, value: &mut Value, path: Option<&Path<'_>>, pruned: &mut Pruned) {
        match (&self.nodes[at], value) {
            (Node::Fields(known), Value::Object(fields)) => fields.retain(|name, value| {
                let path = Path { above: path, step: Step::Name(name) };
                match known.get(name.as_str()) {
                    Some(below) => self.prune_below(*below, value, Some(&path), pruned),
                    None => pruned.note(&path),
                }
                known.contains_key(name.as_str())
            }),
            (Node::Values(below), Value::Object(values)) => values.iter_mut().for_each(|(name, value)| {
                self.prune_below(*below, value, Some(&Path { above: path, step: Step::Name(name) }), pruned);
            }),
            (Node::Items(below), Value::Array(items)) => items.iter_mut().enumerate().for_each(|(index, item)| {
                self.prune_below(*below, item, Some(&Path { above: path, step: Step::Index(index) }), pruned);
            }),
            // What is of another type than the schema wants is the server's to refuse.
            _ => {}
        }
    }
}

struct Builder {
    nodes: Vec<Node>,
    named: HashMap<String, usize>,
    /// Nodes that are still to be made.
    open: Vec<(usize, OpenApi)>,
}

impl Builder {
    fn node(&mut self, schema: OpenApi, definition: &dyn Fn(&str) -> Option<OpenApi>) -> Node {
        let OpenApi { properties, items, additional_properties, keeps_unknown, .. } = schema.only();
        match (properties.is_empty(), items, additional_properties) {
            _ if keeps_unknown => Node::Anything,
            (false, None, None) => {
                let place = |(name, schema): (String, _)| (name.into_boxed_str(), self.place(schema, definition));
                Node::Fields(properties.into_iter().map(place).collect())
            }
            (true, Some(items), None) => Node::Items(self.place(*items, definition)),
            (true, None, Some(values)) => Node::Values(self.place(*values, definition)),
            _ => Node::Anything,
        }
    }

    /// Where the node of a schema is, or will be.
    fn place(&mut self, schema: OpenApi, definition: &dyn Fn(&str) -> Option<OpenApi>) -> usize {
        let schema = schema.only();
        let name =
            schema.reference.as_deref().map(|reference| reference.strip_prefix(DEFINITIONS).unwrap_or(reference));
        if let Some(at) = name.and_then(|name| self.named.get(name)) {
            return *at;
        }
        if self.nodes.len() >= MOST_NODES || name.is_none() && schema.says_nothing() {
            return ANYTHING;
        }
        let at = self.nodes.len();
        self.nodes.push(Node::Anything);
        if let Some(name) = name {
            self.named.insert(name.to_owned(), at);
            self.open.extend(definition(name).map(|schema| (at, schema)));
        } else {
            self.open.push((at, schema));
        }
        at
    }
}

impl OpenApi {
    /// Kubernetes wraps a reference that has a default or a description of its own.
    fn only(mut self) -> Self {
        while self.all_of.len() == 1 {
            self = self.all_of.remove(0);
        }
        self
    }

    fn says_nothing(&self) -> bool {
        self.properties.is_empty() && self.items.is_none() && self.additional_properties.is_none()
    }
}

/// Where in a value.
struct Path<'a> {
    above: Option<&'a Path<'a>>,
    step: Step<'a>,
}

enum Step<'a> {
    Name(&'a str),
    Index(usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(above) = self.above {
            above.fmt(f)?;
        }
        match self.step {
            Step::Index(index) => write!(f, "[{index}]"),
            Step::Name(name) if is_plain(name) => write!(f, ".{name}"),
            Step::Name(name) => {
                let end = name.floor_char_boundary(PATH_BYTES);
                write!(f, "[\"{}\"]", name[..end].escape_debug())
            }
        }
    }
}

/// Whether a name can stand in a path as it is.
fn is_plain(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-$".contains(&byte);
    !name.is_empty() && name.len() <= PATH_BYTES && name.bytes().all(is_plain)
}

/// The fields that were taken out of a value: paths from its root, `.containers[0].imagePullSecrets`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// The first of them.
    paths: Vec<String>,
    more: usize,
}

impl Pruned {
    /// Whether nothing was taken out.
    pub fn is_empty(&self) -> bool {
        self.paths.is_empty()
    }

    fn note(&mut self, path: &Path<'_>) {
        if self.paths.len() == NAMED {
            self.more += 1;
            return;
        }
        let mut text = path.to_string();
        if text.len() > PATH_BYTES {
            text.truncate(text.floor_char_boundary(PATH_BYTES));
            text.push('…');
        }
        self.paths.push(text);
    }

    /// Names the fields, within the section of an object that the value stands in.
    pub fn within(&self, section: &str) -> String {
        let mut text = String::new();
        for (index, path) in self.paths.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            let _ = write!(text, "{comma}{section}{path}");
        }
        if self.more > 0 {
            let _ = write!(text, " and {} more", self.more);
        }
        text
    }

    /// How many fields.
    pub fn count(&self) -> usize {
        self.paths.len() + self.more
    }
}

#[cfg(test)]
mod tests;
