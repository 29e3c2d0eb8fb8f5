//! What the names of a module lead to: the arrows between files.

use std::collections::BTreeSet;

use super::tree::{Alias, Import, Tree};

/// A file takes a name from another.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Arrow {
    pub(super) from: usize,
    /// The file that defines the item.
    pub(super) to: usize,
    pub(super) name: String,
    /// Modules that are named on the way.
    pub(super) through: Vec<usize>,
}

/// All of them, each once, in order.
pub(super) fn arrows(tree: &Tree) -> Vec<Arrow> {
    let mut arrows = BTreeSet::new();
    for (scope, module) in tree.modules.iter().enumerate() {
        let imports = module.imports.iter().map(|import| {
            let to = Names { tree, asked: Vec::new() }.import(scope, import);
            (&import.path, matches!(import.alias, Alias::All), to)
        });
        let paths =
            module.paths.iter().map(|path| (path, false, Names { tree, asked: Vec::new() }.in_code(scope, path)));
        for (path, is_glob, found) in imports.chain(paths) {
            let Some(Found { target, length, through }) = found else { continue };
            let (from, to) = (tree.file_module(scope), tree.file_module(target.module()));
            if from != to {
                let name = if is_glob { "*" } else { path.get(length - 1).map_or("", String::as_str) }.to_owned();
                arrows.insert(Arrow { from, to, name, through });
            }
        }
    }
    arrows.into_iter().collect()
}

#[derive(Clone, Copy)]
enum Target {
    Module(usize),
    /// An item that this module defines, or lets pass from another package.
    Item(usize),
}

impl Target {
    fn module(self) -> usize {
        match self {
            Self::Module(module) | Self::Item(module) => module,
        }
    }
}

struct Found {
    target: Target,
    /// How many segments of the path it took: what follows is within the item.
    length: usize,
    through: Vec<usize>,
}

/// One look-up.
struct Names<'a> {
    tree: &'a Tree,
    /// What is being looked up. Modules may import each other's names in a circle.
    asked: Vec<(usize, String, bool)>,
}

impl Names<'_> {
    fn import(&mut self, scope: usize, import: &Import) -> Option<Found> {
        self.path(scope, &import.path, !matches!(import.alias, Alias::Name(_)))
    }

    /// A path in code. It may begin with a type, whose own import counts.
    fn in_code(&mut self, scope: usize, path: &[String]) -> Option<Found> {
        let first = path.first()?;
        if !is_anchored(first) && !matches!(self.name(scope, first, true)?, Target::Module(_)) {
            return None;
        }
        self.path(scope, path, false)
    }

    /// None: it leads out of the package, or to what is being looked up.
    fn path(&mut self, scope: usize, path: &[String], wants_module: bool) -> Option<Found> {
        let (mut module, mut length) = (scope, 0);
        for segment in path {
            module = match segment.as_str() {
                "crate" => 0,
                "self" => module,
                "super" => self.tree.modules[module].parent?,
                _ => break,
            };
            length += 1;
        }
        let mut through = if length > 0 { vec![module] } else { Vec::new() };
        while let Some(segment) = path.get(length) {
            let wants_module = wants_module || length + 1 < path.len();
            let target = self.name(module, segment, wants_module);
            let is_asked = || self.asked.contains(&(module, segment.clone(), wants_module));
            if target.is_none() && (length == 0 || is_asked()) {
                return None;
            }
            length += 1;
            match target {
                Some(Target::Module(next)) => module = next,
                // What can't be found is made by a macro.
                target => return Some(Found { target: target.unwrap_or(Target::Item(module)), length, through }),
            }
            through.push(module);
        }
        Some(Found { target: Target::Module(module), length, through })
    }

    /// What a module knows by a name. A module and an item may have the same.
    fn name(&mut self, module: usize, name: &str, wants_module: bool) -> Option<Target> {
        let key = (module, name.to_owned(), wants_module);
        if self.asked.contains(&key) {
            return None;
        }
        self.asked.push(key);
        let found = self.candidates(module, name, wants_module);
        self.asked.pop();
        found
    }

    fn candidates(&mut self, module: usize, name: &str, wants_module: bool) -> Option<Target> {
        let tree = self.tree;
        let here = &tree.modules[module];
        let child = here.children.get(name).map(|child| Target::Module(*child));
        if wants_module && child.is_some() {
            return child;
        }
        let imports = || here.imports.iter().filter(|import| !import.is_local);
        let mut item = here.items.contains(name).then_some(Target::Item(module));
        for import in imports() {
            let only_module = match &import.alias {
                Alias::Name(alias) if alias == name => false,
                Alias::Module(alias) if alias == name => true,
                _ => continue,
            };
            match self.path(module, &import.path, wants_module || only_module).map(|found| found.target) {
                Some(found @ Target::Module(_)) if wants_module || item.is_none() => return Some(found),
                found => {
                    let is_foreign = import.path.first().is_some_and(|first| !is_anchored(first));
                    item = item.or(found).or(is_foreign.then_some(Target::Item(module)));
                }
            }
        }
        if item.or(child).is_some() {
            return item.or(child);
        }
        imports().filter(|import| matches!(import.alias, Alias::All)).find_map(|import| {
            let Target::Module(other) = self.path(module, &import.path, true)?.target else { return None };
            self.name(other, name, wants_module)
        })
    }
}

/// Whether a path begins in the package, and not with a name.
fn is_anchored(first: &str) -> bool {
    matches!(first, "crate" | "self" | "super")
}
