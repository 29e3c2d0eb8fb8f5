//! The modules of a package: what each defines, and what it names. Nothing is resolved here.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, bail};
use syn::{
    Attribute, Block, Ident, ItemFn, ItemMacro, ItemMod, ItemUse, Meta, Token, UseTree, Visibility,
    ext::IdentExt as _,
    punctuated::Punctuated,
    visit_mut::{self, VisitMut},
};

/// The modules below one root, which is the first of them.
pub(super) struct Tree {
    pub(super) modules: Vec<Module>,
}

/// A module: a file, or a part of one in braces.
#[derive(Default)]
pub(super) struct Module {
    /// The file it is in.
    pub(super) file: String,
    pub(super) parent: Option<usize>,
    /// Whether it is in braces, in the file of its parent.
    in_braces: bool,
    pub(super) children: BTreeMap<String, usize>,
    /// Names of what it defines itself, but for modules.
    pub(super) items: BTreeSet<String>,
    pub(super) imports: Vec<Import>,
    /// Paths in its code, of two segments at least.
    pub(super) paths: BTreeSet<Vec<String>>,
}

/// One name of a `use`.
pub(super) struct Import {
    pub(super) path: Vec<String>,
    pub(super) alias: Alias,
    /// Written within a function: a name for nobody else.
    pub(super) is_local: bool,
}

/// By which name an import is known.
pub(super) enum Alias {
    Name(String),
    /// The path is that of a module, whatever else has its name: `path::{self}`.
    Module(String),
    /// `path::*`
    All,
}

impl Tree {
    /// Reads the file `root` and those that it and they declare.
    pub(super) fn read(root: &str, sources: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let mut tree = Self { modules: Vec::new() };
        let root = Declared { parent: None, name: String::new(), files: vec![root.to_owned()], owns_directory: true };
        let mut queue = vec![root];
        while let Some(declared) = queue.pop() {
            let there = declared.files.iter().find_map(|file| sources.get_key_value(file));
            let Some((file, text)) = there else { bail!("there is none of {}", declared.files.join(", ")) };
            let mut syntax = syn::parse_file(text).with_context(|| format!("parsing {file}"))?;
            if is_for_tests(&syntax.attrs) {
                continue;
            }
            let directory = if declared.owns_directory || is_named(file, "mod.rs") {
                directory(file).to_owned()
            } else {
                file.trim_end_matches(".rs").to_owned()
            };
            let module = Module { file: file.clone(), parent: declared.parent, ..Module::default() };
            let current = tree.add(declared.name, module);
            let mut reader = Reader { tree: &mut tree, current, directory, bodies: 0, declared: Vec::new() };
            reader.visit_file_mut(&mut syntax);
            queue.append(&mut reader.declared);
        }
        Ok(tree)
    }

    fn add(&mut self, name: String, module: Module) -> usize {
        let index = self.modules.len();
        if let Some(parent) = module.parent {
            self.modules[parent].children.insert(name, index);
        }
        self.modules.push(module);
        index
    }

    /// The module of a path like `dask::job`.
    pub(super) fn find(&self, path: &str) -> Option<usize> {
        path.split("::").try_fold(0, |module, name| self.modules[module].children.get(name).copied())
    }

    pub(super) fn file(&self, module: usize) -> &str {
        &self.modules[module].file
    }

    /// The module that is the whole file of this one.
    pub(super) fn file_module(&self, mut module: usize) -> usize {
        while let Module { in_braces: true, parent: Some(parent), .. } = &self.modules[module] {
            module = *parent;
        }
        module
    }

    /// The modules that are files, from the root down to this one.
    pub(super) fn files_above(&self, module: usize) -> Vec<usize> {
        let mut above = vec![self.file_module(module)];
        while let Some(parent) = above.last().and_then(|last| self.modules[*last].parent) {
            above.push(self.file_module(parent));
        }
        above.reverse();
        above
    }
}

/// A module whose file has still to be read.
struct Declared {
    parent: Option<usize>,
    name: String,
    /// One of these is its file.
    files: Vec<String>,
    /// Whether files of its modules are beside its own, whatever that is called.
    owns_directory: bool,
}

/// Goes through one file. syn's other visitor would do, but it is a feature that nobody else asks syn for.
struct Reader<'a> {
    tree: &'a mut Tree,
    current: usize,
    /// Where files of modules are that are declared here.
    directory: String,
    /// How many blocks of code are open.
    bodies: usize,
    declared: Vec<Declared>,
}

impl Reader<'_> {
    fn module(&mut self) -> &mut Module {
        &mut self.tree.modules[self.current]
    }

    fn define(&mut self, ident: &Ident) {
        if self.bodies == 0 {
            let name = name(ident);
            self.module().items.insert(name);
        }
    }

    fn import(&mut self, tree: &UseTree, path: &[String]) {
        let below = |ident: &Ident| [path, &[name(ident)]].concat();
        let is_self = |ident: &Ident| ident == "self" && !path.is_empty();
        let (path, alias) = match tree {
            UseTree::Path(tree) => return self.import(&tree.tree, &below(&tree.ident)),
            UseTree::Group(group) => return group.items.iter().for_each(|tree| self.import(tree, path)),
            UseTree::Name(tree) if is_self(&tree.ident) => {
                (path.to_vec(), Alias::Module(path.last().cloned().unwrap_or_default()))
            }
            UseTree::Rename(tree) if is_self(&tree.ident) => (path.to_vec(), Alias::Module(name(&tree.rename))),
            UseTree::Name(tree) => (below(&tree.ident), Alias::Name(name(&tree.ident))),
            UseTree::Rename(tree) => (below(&tree.ident), Alias::Name(name(&tree.rename))),
            UseTree::Glob(_) => (path.to_vec(), Alias::All),
        };
        let is_local = self.bodies > 0;
        self.module().imports.push(Import { path, alias, is_local });
    }
}

/// Methods of the visitor that pass by what is for tests, and note the names of items.
macro_rules! pass_by_tests {
    ($($method:ident($node:ident) $(defines $field:ident)?;)*) => {
        $(fn $method(&mut self, node: &mut syn::$node) {
            if !is_for_tests(&node.attrs) {
                $(self.define(&node.$field);)?
                visit_mut::$method(self, node);
            }
        })*
    };
}

impl VisitMut for Reader<'_> {
    pass_by_tests! {
        visit_item_const_mut(ItemConst) defines ident;
        visit_item_enum_mut(ItemEnum) defines ident;
        visit_item_static_mut(ItemStatic) defines ident;
        visit_item_struct_mut(ItemStruct) defines ident;
        visit_item_trait_mut(ItemTrait) defines ident;
        visit_item_trait_alias_mut(ItemTraitAlias) defines ident;
        visit_item_type_mut(ItemType) defines ident;
        visit_item_union_mut(ItemUnion) defines ident;
        visit_item_foreign_mod_mut(ItemForeignMod);
        visit_item_impl_mut(ItemImpl);
        visit_impl_item_const_mut(ImplItemConst);
        visit_impl_item_fn_mut(ImplItemFn);
        visit_impl_item_macro_mut(ImplItemMacro);
        visit_impl_item_type_mut(ImplItemType);
        visit_trait_item_const_mut(TraitItemConst);
        visit_trait_item_fn_mut(TraitItemFn);
        visit_trait_item_macro_mut(TraitItemMacro);
        visit_trait_item_type_mut(TraitItemType);
        visit_field_mut(Field);
        visit_field_value_mut(FieldValue);
        visit_variant_mut(Variant);
        visit_arm_mut(Arm);
        visit_local_mut(Local);
        visit_stmt_macro_mut(StmtMacro);
        visit_expr_block_mut(ExprBlock);
    }

    fn visit_item_fn_mut(&mut self, node: &mut ItemFn) {
        if !is_for_tests(&node.attrs) {
            self.define(&node.sig.ident);
            visit_mut::visit_item_fn_mut(self, node);
        }
    }

    fn visit_item_macro_mut(&mut self, node: &mut ItemMacro) {
        if !is_for_tests(&node.attrs) {
            node.ident.iter().for_each(|ident| self.define(ident));
            visit_mut::visit_item_macro_mut(self, node);
        }
    }

    fn visit_item_use_mut(&mut self, node: &mut ItemUse) {
        if !is_for_tests(&node.attrs) && node.leading_colon.is_none() {
            self.import(&node.tree, &[]);
        }
    }

    fn visit_item_mod_mut(&mut self, node: &mut ItemMod) {
        // A module within a function sees no more than the function, in practice, and nobody sees it.
        if is_for_tests(&node.attrs) || self.bodies > 0 {
            return;
        }
        let name = name(&node.ident);
        let module = Module { file: self.module().file.clone(), parent: Some(self.current), ..Module::default() };
        let inner = join(&self.directory, &name);
        if let Some((_, items)) = &mut node.content {
            let index = self.tree.add(name, Module { in_braces: true, ..module });
            let (outer, outer_directory) = (self.current, std::mem::replace(&mut self.directory, inner));
            self.current = index;
            items.iter_mut().for_each(|item| self.visit_item_mut(item));
            (self.current, self.directory) = (outer, outer_directory);
            return;
        }
        let explicit = node.attrs.iter().find_map(explicit_path);
        let owns_directory = explicit.is_some();
        let files = match explicit {
            Some(path) => vec![join(directory(&module.file), &path)],
            None => vec![format!("{inner}.rs"), join(&inner, "mod.rs")],
        };
        self.declared.push(Declared { parent: module.parent, name, files, owns_directory });
    }

    fn visit_block_mut(&mut self, node: &mut Block) {
        self.bodies += 1;
        visit_mut::visit_block_mut(self, node);
        self.bodies -= 1;
    }

    fn visit_path_mut(&mut self, node: &mut syn::Path) {
        if node.leading_colon.is_none() && node.segments.len() > 1 {
            let path = node.segments.iter().map(|segment| name(&segment.ident)).collect();
            self.module().paths.insert(path);
        }
        visit_mut::visit_path_mut(self, node);
    }

    // `pub(in super::super)` imports nothing, and neither do the names of attributes.
    fn visit_visibility_mut(&mut self, _: &mut Visibility) {}
    fn visit_attribute_mut(&mut self, _: &mut Attribute) {}
}

/// Without the `r#` of a keyword.
fn name(ident: &Ident) -> String {
    ident.unraw().to_string()
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    let condition = |attribute: &Attribute| attribute.path().is_ident("cfg").then(|| attribute.parse_args::<Meta>());
    attributes.iter().filter_map(condition).any(|condition| condition.is_ok_and(|condition| needs_test(&condition)))
}

fn needs_test(condition: &Meta) -> bool {
    match condition {
        Meta::Path(path) => path.is_ident("test"),
        Meta::List(list) if list.path.is_ident("all") => list
            .parse_args_with(Punctuated::<Meta, Token![,]>::parse_terminated)
            .is_ok_and(|conditions| conditions.iter().any(needs_test)),
        _ => false,
    }
}

/// The value of `#[path = "…"]`.
fn explicit_path(attribute: &Attribute) -> Option<String> {
    let Meta::NameValue(pair) = &attribute.meta else { return None };
    match &pair.value {
        syn::Expr::Lit(syn::ExprLit { lit: syn::Lit::Str(text), .. }) if pair.path.is_ident("path") => {
            Some(text.value())
        }
        _ => None,
    }
}

fn directory(file: &str) -> &str {
    file.rsplit_once('/').map_or("", |(directory, _)| directory)
}

fn is_named(file: &str, name: &str) -> bool {
    file.rsplit('/').next() == Some(name)
}

fn join(directory: &str, name: &str) -> String {
    if directory.is_empty() { name.to_owned() } else { format!("{directory}/{name}") }
}
