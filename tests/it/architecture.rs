//! Rules of the source code that the compiler does not check: which part may use which, no circles, heads and lengths of
//! files, and documents that name only what exists.

mod graph;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use graph::{Edges, Modules, circles};

/// Which parts of `src` a part uses. A part is a folder with its parent file, or a file. The table must be exact.
const USES: &[(&str, &str)] = &[
    ("acs", "domain metrics store"),
    ("api", "domain"),
    ("app", "acs auth config domain http jobs metrics shutdown store tokens users"),
    ("auth", "domain"),
    ("cli", "acs api app auth client config dev domain http shutdown telemetry"),
    ("client", "api"),
    ("config", "acs auth domain http jobs limit shutdown store telemetry tokens users"),
    ("dev", "app auth config domain encryption http shutdown telemetry"),
    ("error", "acs domain store"),
    ("http", "acs api auth domain error jobs limit metrics store tokens users"),
    ("jobs", "acs domain error metrics store"),
    ("main", "cli"),
    ("store", "domain"),
    ("tokens", "acs auth domain encryption error jobs metrics store"),
    ("users", "acs auth domain error jobs store tokens"),
];

/// Which parts may use a library.
const KNOWN_ONLY_BY: &[(&str, &[&str])] = &[
    ("axum", &["http", "dev", "app", "cli"]),
    ("sqlx", &["store"]),
    ("deadpool", &["store"]),
    ("jsonwebtoken", &["auth", "dev"]),
    ("hmac", &["acs"]),
    ("chacha20poly1305", &["encryption"]),
    ("governor", &["limit"]),
    ("hyper", &["http"]),
    ("prometheus_client", &["metrics"]),
    ("clap", &["cli", "dev", "main"]),
    ("anyhow", &["app", "cli", "client", "dev"]),
    ("std::env", &["config"]),
];

/// The crates with the folders of their sources.
const CRATES: &[(&str, &str)] = &[("acs_token_vendor", "src"), ("acs_emulator", "crates/acs-emulator/src")];

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The files of a folder by their names in it, with their texts.
fn sources(folder: &str) -> BTreeMap<String, String> {
    let folder = root().join(folder);
    let name = |file: &PathBuf| file.strip_prefix(&folder).unwrap().to_str().unwrap().to_owned();
    rust_files(&folder).iter().map(|file| (name(file), fs::read_to_string(file).unwrap())).collect()
}

fn modules(name: &str, folder: &str) -> Modules {
    Modules::read(name, sources(folder).iter().map(|(file, text)| (file.as_str(), text.as_str())))
}

/// The part that a file belongs to: `http/token.rs` and `http.rs` are both of `http`.
fn part(file: &str) -> &str {
    file.split('/').next().unwrap().trim_end_matches(".rs")
}

/// The text of a file without comments and without its tests.
fn code(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// Says for each circle which of its files use which, by which name.
fn describe(circles: &[BTreeSet<String>], edges: &Edges) -> String {
    let mut text = String::new();
    for circle in circles {
        let inside = edges.iter().filter(|((from, to), _)| circle.contains(from) && circle.contains(to));
        let lines: Vec<_> = inside.map(|((from, to), name)| format!("  {from} uses {to}: {name}\n")).collect();
        text +=
            &["a circle of ", &circle.iter().cloned().collect::<Vec<_>>().join(", "), "\n", &lines.concat()].concat();
    }
    text
}

#[test]
fn files_use_each_other_in_no_circle() {
    let mut found = String::new();
    for (name, folder) in CRATES {
        let edges = modules(name, folder).edges();
        assert!(edges.len() > 10, "the files of {folder} use each other");
        found += &describe(&circles(&edges), &edges);
    }
    assert!(found.is_empty(), "{found}");
}

#[test]
fn parts_use_each_other_in_no_circle() {
    let named = |((from, to), name): ((String, String), String)| {
        let ends = (part(&from).to_owned(), part(&to).to_owned());
        (ends.0 != ends.1).then(|| (ends, format!("{name} in {from}")))
    };
    let edges: Edges = modules("acs_token_vendor", "src").edges().into_iter().filter_map(named).collect();
    let found = describe(&circles(&edges), &edges);
    assert!(found.is_empty(), "{found}");
}

#[test]
fn parts_use_what_the_table_says() {
    let mut actual: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut examples = BTreeMap::new();
    for ((from, to), name) in modules("acs_token_vendor", "src").edges() {
        let ends = (part(&from).to_owned(), part(&to).to_owned());
        if ends.0 != ends.1 {
            actual.entry(ends.0.clone()).or_default().insert(ends.1.clone());
            examples.entry(ends).or_insert(format!("{from} uses {name}"));
        }
    }
    let table: BTreeMap<String, BTreeSet<String>> = USES
        .iter()
        .map(|(user, used)| ((*user).to_owned(), used.split_whitespace().map(str::to_owned).collect()))
        .collect();
    let none = BTreeSet::new();
    let mut wrong = Vec::new();
    for user in actual.keys().chain(table.keys()).collect::<BTreeSet<_>>() {
        let (uses, may_use) = (actual.get(user).unwrap_or(&none), table.get(user).unwrap_or(&none));
        for used in uses.difference(may_use) {
            wrong.push(format!("`{user}` must not use `{used}`: {}", examples[&(user.clone(), used.clone())]));
        }
        wrong.extend(may_use.difference(uses).map(|used| format!("`{user}` does not use `{used}` any more")));
    }
    let rows = actual.iter().map(|(user, uses)| {
        format!("    (\"{user}\", \"{}\"),\n", uses.iter().map(String::as_str).collect::<Vec<_>>().join(" "))
    });
    assert!(wrong.is_empty(), "{}\nThe code's own table:\n{}", wrong.join("\n"), rows.collect::<String>());
}

#[test]
fn the_finder_sees_circles_between_files_and_with_a_parent() {
    let files = [
        ("lib.rs", "pub mod a; pub mod b; pub mod c;"),
        ("a.rs", "use crate::b::Thing; pub struct A; macro_rules! make { ($x:expr) => { $x } } use {make};"),
        ("b.rs", "mod inner; pub use inner::Thing; pub fn f() { crate::c::g() }"),
        ("b/inner.rs", "use super::super::a as first; pub struct Thing(first::A);"),
        ("c.rs", "mod leaf; pub fn g() { leaf::h(format!(\"{}\", leaf::K)) } pub struct Shared;"),
        ("c/leaf.rs", "use super::Shared; pub const K: u8 = 1; pub fn h(_: String) -> Shared { Shared }"),
        ("d.rs", "#[cfg(test)] mod tests { use crate::e::E; } pub(in crate::e) struct D; // crate::e"),
        ("e.rs", "pub struct E; fn f() { let _ = \"crate::b::f\"; crate::d::D; }"),
    ];
    let found = circles(&Modules::read("example", files).edges());
    let names: Vec<_> = found.iter().map(|circle| circle.iter().cloned().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(names, ["a.rs b/inner.rs", "c.rs c/leaf.rs"]);
}

#[test]
fn libraries_are_used_by_their_parts_only() {
    for (file, text) in sources("src") {
        let code = code(&text);
        for (library, parts) in KNOWN_ONLY_BY {
            let is_used = code.contains(&format!("{library}::"));
            assert!(!is_used || parts.contains(&part(&file)), "{file} must not use {library}");
        }
    }
}

/// Poolers lend a server connection to one transaction after another: what one leaves behind reaches the next.
#[test]
fn pooled_connections_carry_no_session_state() {
    for (file, text) in sources("src/store") {
        let code = code(&text);
        assert!(!code.contains(".persistent(false)"), "{file} has unnamed statements");
        for (number, line) in code.lines().enumerate() {
            // Of a statement, not of an `UPDATE`.
            let set = line.split(['"', ';']).map(str::trim_start).find(|text| {
                ["SET ", "RESET ", "LISTEN ", "CREATE TEMP"].iter().any(|word| text.starts_with(word))
                    && !text.starts_with("SET LOCAL ")
                    && !text.contains(" = $")
                    && !text.contains(" = excluded.")
            });
            assert_eq!(set, None, "{file}:{number}");
            let locks = line.contains("pg_advisory_lock") || line.contains("pg_try_advisory_lock");
            assert!(!locks, "{file}:{number} takes a lock of the session");
        }
    }
}

#[test]
fn files_open_with_their_purpose_and_stay_short() {
    for folder in ["src", "tests", "crates", "benches"] {
        for file in rust_files(&root().join(folder)) {
            let text = fs::read_to_string(&file).unwrap();
            assert!(text.starts_with("//! "), "{} does not open with its purpose", file.display());
            let lines = text.lines().count();
            assert!(lines <= 400, "{} has {lines} lines", file.display());
            assert!(!file.ends_with("mod.rs"), "{}", file.display());
        }
    }
}

#[test]
fn documents_name_only_what_exists() {
    let crates: Vec<_> = CRATES.iter().map(|(name, folder)| modules(name, folder)).collect();
    let (mut paths, mut symbols, mut wrong) = (0, 0, Vec::new());
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        for word in text.split('`').skip(1).step_by(2) {
            if is_path(word) {
                paths += 1;
                if !root().join(word).exists() {
                    wrong.push(format!("{document} names `{word}`, which does not exist"));
                }
            } else if let Some((owner, name)) = symbol(word) {
                symbols += 1;
                if !crates.iter().any(|modules| modules.has(owner, name)) {
                    wrong.push(format!("{document} names `{word}`, which is not in the code"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(paths > 10 && symbols > 0, "{paths} paths and {symbols} symbols were found");
    let lines = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap().lines().count();
    assert!(lines < 150, "ARCHITECTURE.md has {lines} lines");
}

fn is_path(word: &str) -> bool {
    let folders = ["src/", "tests/", "migrations/", "docs/", "scripts/", "crates/", "deploy/", "benches/"];
    folders.iter().any(|start| word.starts_with(start)) && !word.contains(['{', '*', ' '])
}

/// The last two names of a path such as `store::Reader` or `Store::find_user`.
fn symbol(word: &str) -> Option<(&str, &str)> {
    let word = word.trim_end_matches("()");
    let is_name = |name: &str| !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    let names: Vec<_> = word.split("::").collect();
    let is_foreign = ["std", "tokio", "clippy", "sqlx"].contains(&names[0]);
    match names.as_slice() {
        [.., owner, name] if !is_foreign && names.iter().all(|name| is_name(name)) => Some((owner, name)),
        _ => None,
    }
}
