//! Which source file uses items of which other one, read from the syntax of a crate.

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    Item, UseTree, Visibility,
    buffer::{Cursor, TokenBuffer},
    visit::{self, Visit},
};

type Path = Vec<String>;

/// The modules of a crate by their paths, such as `http::routes`; the root has an empty one.
pub struct Modules {
    /// The crate's own name, by which its binary and its tests know it.
    name: String,
    modules: BTreeMap<String, Module>,
}

/// The edges of a graph: from, to, and a name that was used.
pub type Edges = BTreeMap<(String, String), String>;

#[derive(Default)]
struct Module {
    file: String,
    items: BTreeSet<String>,
    /// Names that `use` declarations bring into scope, with their paths.
    imports: BTreeMap<String, Path>,
    globs: Vec<Path>,
    /// Paths in code and in private `use` declarations. A re-export alone uses nothing.
    used: BTreeSet<Path>,
    /// What types have: methods, constants, variants and fields.
    members: BTreeMap<String, BTreeSet<String>>,
}

/// Where a path leads.
enum Target {
    Module(String),
    /// The module that defines the item.
    Item(String),
    Elsewhere,
}

impl Modules {
    /// Reads a crate from its files: their names from its root on, such as `http/routes.rs`, and their texts.
    pub fn read<'a>(name: &str, files: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let read = |(file, text): (&str, &str)| {
            let path = file.trim_end_matches(".rs").replace('/', "::");
            let path = if path == "lib" { String::new() } else { path };
            let mut module = Module { file: file.to_owned(), ..Module::default() };
            module.visit_file(&syn::parse_file(text).unwrap_or_else(|error| panic!("{file}: {error}")));
            (path, module)
        };
        Self { name: name.to_owned(), modules: files.into_iter().map(read).collect() }
    }

    /// The uses of items between files.
    pub fn edges(&self) -> Edges {
        let mut edges = Edges::new();
        for (at, module) in &self.modules {
            for path in &module.used {
                if let Target::Item(to) = self.resolve(at, path, 0)
                    && to != *at
                {
                    let ends = (module.file.clone(), self.modules[&to].file.clone());
                    edges.entry(ends).or_insert_with(|| path.join("::"));
                }
            }
        }
        edges
    }

    /// Whether there is an item of this name in a module of that name, or a member in a type.
    pub fn has(&self, owner: &str, name: &str) -> bool {
        self.modules.iter().any(|(path, module)| {
            let is_owner = path.rsplit("::").next() == Some(owner);
            let child = format!("{path}::{name}");
            let in_module = module.items.contains(name) || module.imports.contains_key(name);
            is_owner && (in_module || self.modules.contains_key(&child))
                || module.members.get(owner).is_some_and(|members| members.contains(name))
        })
    }

    fn resolve(&self, at: &str, path: &[String], depth: usize) -> Target {
        let (Some((first, rest)), true) = (path.split_first(), depth < 10) else { return Target::Elsewhere };
        match first.as_str() {
            "crate" => self.walk("", rest, depth),
            "self" | "super" => self.walk(at, path, depth),
            name if name == self.name => self.walk("", rest, depth),
            name => {
                let module = &self.modules[at];
                let known = module.items.contains(name) || module.imports.contains_key(name);
                if known || self.child(at, name).is_some() {
                    return self.walk(at, path, depth);
                }
                self.in_globs(module, at, path, depth).unwrap_or(Target::Elsewhere)
            }
        }
    }

    /// Follows a path from a module on.
    fn walk(&self, at: &str, path: &[String], depth: usize) -> Target {
        let Some((name, rest)) = path.split_first() else { return Target::Module(at.to_owned()) };
        let module = &self.modules[at];
        match name.as_str() {
            "self" => self.walk(at, rest, depth),
            "super" => self.walk(at.rsplit_once("::").map_or("", |(parent, _)| parent), rest, depth),
            name if module.items.contains(name) => Target::Item(at.to_owned()),
            name => {
                if let Some(import) = module.imports.get(name) {
                    let whole: Path = import.iter().chain(rest).cloned().collect();
                    return self.resolve(at, &whole, depth + 1);
                }
                match self.child(at, name) {
                    Some(child) => self.walk(&child, rest, depth),
                    None => self.in_globs(module, at, path, depth).unwrap_or_else(|| Target::Item(at.to_owned())),
                }
            }
        }
    }

    fn in_globs(&self, module: &Module, at: &str, path: &[String], depth: usize) -> Option<Target> {
        module.globs.iter().find_map(|glob| match self.resolve(at, glob, depth + 1) {
            Target::Module(of) if self.modules[&of].items.contains(&path[0]) => Some(Target::Item(of)),
            _ => None,
        })
    }

    fn child(&self, at: &str, name: &str) -> Option<String> {
        let path = if at.is_empty() { name.to_owned() } else { format!("{at}::{name}") };
        self.modules.contains_key(&path).then_some(path)
    }
}

impl Module {
    fn import(&mut self, tree: &UseTree, mut path: Path, is_private: bool) {
        let (name, bound) = match tree {
            UseTree::Path(inner) => {
                path.push(inner.ident.to_string());
                return self.import(&inner.tree, path, is_private);
            }
            UseTree::Group(group) => {
                return group.items.iter().for_each(|tree| self.import(tree, path.clone(), is_private));
            }
            UseTree::Glob(_) => return self.globs.push(path),
            UseTree::Name(inner) => (inner.ident.to_string(), inner.ident.to_string()),
            UseTree::Rename(inner) => (inner.ident.to_string(), inner.rename.to_string()),
        };
        let bound = if bound == "self" { path.last().cloned().unwrap_or_default() } else { bound };
        if name != "self" {
            path.push(name);
        }
        if is_private {
            self.used.insert(path.clone());
        }
        // `use {name}` repeats a name of this module.
        if path.len() > 1 {
            self.imports.insert(bound, path);
        }
    }

    fn tokens(&mut self, mut cursor: Cursor<'_>) {
        while !cursor.eof() {
            if let Some((ident, mut next)) = cursor.ident() {
                let mut path = vec![ident.to_string()];
                while let Some((ident, after)) = colons(next).and_then(Cursor::ident) {
                    path.push(ident.to_string());
                    next = after;
                }
                self.used.insert(path);
                cursor = next;
            } else if let Some((inside, .., next)) = cursor.any_group() {
                self.tokens(inside);
                cursor = next;
            } else {
                let Some((_, next)) = cursor.token_tree() else { return };
                cursor = next;
            }
        }
    }

    fn member(&mut self, owner: &str, name: &syn::Ident) {
        self.members.entry(owner.to_owned()).or_default().insert(name.to_string());
    }
}

fn colons(cursor: Cursor<'_>) -> Option<Cursor<'_>> {
    let (first, next) = cursor.punct()?;
    let (second, next) = next.punct()?;
    (first.as_char() == ':' && second.as_char() == ':').then_some(next)
}

fn is_test(attributes: &[syn::Attribute]) -> bool {
    let is_cfg_test = |attribute: &syn::Attribute| {
        attribute.path().is_ident("cfg") && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"))
    };
    attributes.iter().any(is_cfg_test)
}

impl<'ast> Visit<'ast> for Module {
    fn visit_item(&mut self, item: &'ast Item) {
        let (attributes, name) = match item {
            Item::Const(item) => (&item.attrs, Some(&item.ident)),
            Item::Enum(item) => (&item.attrs, Some(&item.ident)),
            Item::Fn(item) => (&item.attrs, Some(&item.sig.ident)),
            Item::Macro(item) => (&item.attrs, item.ident.as_ref()),
            Item::Static(item) => (&item.attrs, Some(&item.ident)),
            Item::Struct(item) => (&item.attrs, Some(&item.ident)),
            Item::Trait(item) => (&item.attrs, Some(&item.ident)),
            Item::Type(item) => (&item.attrs, Some(&item.ident)),
            // A module in a file of its own is only declared here.
            Item::Mod(item) => (&item.attrs, item.content.as_ref().map(|_| &item.ident)),
            Item::Impl(item) => (&item.attrs, None),
            Item::Use(item) => (&item.attrs, None),
            _ => return,
        };
        if is_test(attributes) {
            return;
        }
        self.items.extend(name.map(ToString::to_string));
        visit::visit_item(self, item);
    }

    fn visit_item_use(&mut self, item: &'ast syn::ItemUse) {
        self.import(&item.tree, Path::new(), matches!(item.vis, Visibility::Inherited));
    }

    fn visit_item_enum(&mut self, item: &'ast syn::ItemEnum) {
        item.variants.iter().for_each(|variant| self.member(&item.ident.to_string(), &variant.ident));
        visit::visit_item_enum(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast syn::ItemStruct) {
        let names = item.fields.iter().filter_map(|field| field.ident.as_ref());
        names.for_each(|name| self.member(&item.ident.to_string(), name));
        visit::visit_item_struct(self, item);
    }

    fn visit_item_impl(&mut self, item: &'ast syn::ItemImpl) {
        if let syn::Type::Path(of) = &*item.self_ty
            && let Some(owner) = of.path.segments.last()
        {
            for inner in &item.items {
                match inner {
                    syn::ImplItem::Fn(method) => self.member(&owner.ident.to_string(), &method.sig.ident),
                    syn::ImplItem::Const(constant) => self.member(&owner.ident.to_string(), &constant.ident),
                    _ => {}
                }
            }
        }
        visit::visit_item_impl(self, item);
    }

    /// `pub(in crate::http)` uses nothing of `http`.
    fn visit_visibility(&mut self, _: &'ast Visibility) {}

    fn visit_path(&mut self, path: &'ast syn::Path) {
        self.used.insert(path.segments.iter().map(|segment| segment.ident.to_string()).collect());
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, item: &'ast syn::Macro) {
        self.tokens(TokenBuffer::new2(item.tokens.clone()).begin());
        visit::visit_macro(self, item);
    }
}

/// The groups of two or more that use each other in a circle.
pub fn circles(edges: &Edges) -> Vec<BTreeSet<String>> {
    let mut direct: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (from, to) in edges.keys() {
        direct.entry(from).or_default().insert(to);
    }
    let mut reach: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for from in direct.keys() {
        let (mut seen, mut open) = (BTreeSet::new(), vec![*from]);
        while let Some(node) = open.pop() {
            let next = direct.get(node).into_iter().flatten().copied();
            open.extend(next.filter(|next| seen.insert(*next)));
        }
        reach.insert(from, seen);
    }
    let mut circles = BTreeSet::new();
    for (node, reached) in &reach {
        let back = |other: &&&str| reach.get(**other).is_some_and(|from| from.contains(node));
        let circle: BTreeSet<_> = reached.iter().filter(back).map(|name| (*name).to_owned()).collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles.into_iter().collect()
}
