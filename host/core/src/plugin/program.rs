//! What a plugin runs.

/// What a plugin runs, as its source hands it over. All of it counts for its digest, which is what a DaskPlugin promises
/// (`spec.source.sha256`), a mounted handler is told by, and its random numbers come from.
///
/// Whatever else than a component a plugin may come to consist of is another field here: a script and the component that runs
/// it (docs/adr/0016).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// The component: parts that are joined in this order, and are together plain or packed by gzip or zstd.
    pub component: Vec<Vec<u8>>,
}

impl Program {
    /// A component in one piece.
    pub fn of_component(bytes: impl Into<Vec<u8>>) -> Self {
        Self { component: vec![bytes.into()] }
    }

    /// The parts of the component.
    pub fn parts(&self) -> Vec<&[u8]> {
        self.component.iter().map(Vec::as_slice).collect()
    }
}
