//! The house's rules that the compiler does not keep: who may know whom, how files begin, how long they are.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Which rooms a room may name. Arrows go down only; what is not here is forbidden.
const MAY_USE: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("cli", &["acs", "api", "app", "auth", "client", "config", "dev", "domain", "http", "shutdown", "telemetry"]),
    ("dev", &["app", "auth", "config", "domain", "encryption", "http", "shutdown", "telemetry"]),
    ("app", &["acs", "auth", "config", "domain", "http", "jobs", "metrics", "service", "shutdown", "store"]),
    ("config", &["acs", "auth", "domain", "http", "jobs", "limit", "service", "shutdown", "store", "telemetry"]),
    ("client", &["api", "domain"]),
    ("http", &["acs", "api", "auth", "domain", "limit", "metrics", "service", "store", "tokens", "users", "jobs"]),
    ("api", &["domain"]),
    ("tokens", &["acs", "auth", "domain", "encryption", "jobs", "service", "store", "users"]),
    ("users", &["auth", "domain", "jobs", "service", "store", "tokens"]),
    ("jobs", &["acs", "domain", "service", "store"]),
    ("service", &["acs", "domain", "encryption", "metrics", "store", "tokens", "users"]),
    ("auth", &["domain"]),
    ("store", &["acs", "domain"]),
    ("acs", &["domain", "limit", "metrics", "store"]),
    ("domain", &[]),
    ("limit", &[]),
    ("metrics", &[]),
    ("encryption", &[]),
    ("shutdown", &[]),
    ("telemetry", &[]),
];

/// Which rooms may know a library.
const KNOWN_ONLY_BY: &[(&str, &[&str])] = &[
    ("axum", &["http", "dev", "emulator", "app", "cli"]),
    ("sqlx", &["store"]),
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

/// The room of a source file: `src/http/token.rs` and `src/http.rs` are both of `http`.
fn room(file: &Path) -> String {
    let inside = file.strip_prefix(root().join("src")).unwrap();
    inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

/// Source code without comments and without its tests.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap();
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    text.lines().filter(|line| !line.trim_start().starts_with("//")).collect::<Vec<_>>().join("\n")
}

/// The rooms that code names: `crate::room` and, in the lists that rustfmt breaks over lines, `crate::{ room …`.
fn named_rooms(code: &str, rooms: &BTreeSet<&str>) -> BTreeSet<String> {
    let mut named = BTreeSet::new();
    for rest in code.split("crate::").skip(1).chain(code.split("acs_token_vendor::").skip(1)) {
        if let Some(list) = rest.strip_prefix('{') {
            let mut depth = 1;
            let mut word = String::new();
            let mut expecting = true;
            for c in list.chars() {
                match c {
                    '{' => depth += 1,
                    '}' => depth -= 1,
                    ',' if depth == 1 => expecting = true,
                    _ => {}
                }
                if depth == 0 {
                    break;
                }
                if depth == 1 && expecting && (c.is_alphanumeric() || c == '_') {
                    word.push(c);
                } else if !word.is_empty() {
                    named.insert(std::mem::take(&mut word));
                    expecting = false;
                }
            }
            if !word.is_empty() {
                named.insert(word);
            }
        } else {
            named.insert(rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect());
        }
    }
    named.retain(|name| rooms.contains(name.as_str()));
    named
}

#[test]
fn arrows_go_down_only() {
    let allowed: BTreeMap<_, BTreeSet<_>> =
        MAY_USE.iter().map(|(room, uses)| (*room, uses.iter().copied().collect())).collect();
    let rooms = allowed.keys().copied().collect();
    for file in rust_files(&root().join("src")) {
        let room = room(&file);
        if room == "lib" {
            continue;
        }
        let uses = allowed.get(room.as_str()).unwrap_or_else(|| panic!("`{room}` has no line in the table"));
        for named in named_rooms(&code(&file), &rooms) {
            assert!(
                named == room || uses.contains(named.as_str()),
                "{}: `{room}` must not know `{named}`",
                file.display()
            );
        }
    }
}

#[test]
fn the_table_is_read_from_code_that_it_can_refuse() {
    let rooms = ["store", "http", "domain"].into();
    let names = |code| named_rooms(code, &rooms).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(names("use crate::store::Store;"), "store");
    assert_eq!(names("use crate::{\n    domain::{clock::Clock, user},\n    http,\n};"), "domain http");
    assert_eq!(names("use crate::{domain::store};"), "domain");
    assert_eq!(names("let x = crate::http::f();"), "http");
}

#[test]
fn libraries_stay_in_their_rooms() {
    for file in rust_files(&root().join("src")) {
        let (room, code) = (room(&file), code(&file));
        for (library, rooms) in KNOWN_ONLY_BY {
            let knows = code.contains(&format!("{library}::"));
            assert!(!knows || rooms.contains(&room.as_str()), "{}: `{room}` must not know {library}", file.display());
        }
    }
}

#[test]
fn files_open_with_their_purpose_and_stay_short() {
    let files = rust_files(&root().join("src")).into_iter().chain(rust_files(&root().join("tests")));
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} does not open with its purpose", file.display());
        let lines = text.lines().count();
        assert!(lines <= 400, "{} has {lines} lines", file.display());
        assert!(!file.ends_with("mod.rs"), "{}", file.display());
    }
}

#[test]
fn documents_name_only_what_exists() {
    for document in ["ARCHITECTURE.md", "README.md", "CONTRIBUTING.md"] {
        let text = fs::read_to_string(root().join(document)).unwrap();
        let mut seen = 0;
        for word in text.split('`').skip(1).step_by(2) {
            let is_path =
                ["src/", "tests/", "migrations/", "docs/", "scripts/"].iter().any(|start| word.starts_with(start));
            if is_path && !word.contains(['{', '*', ' ']) {
                seen += 1;
                assert!(root().join(word).exists(), "{document} names `{word}`, which does not exist");
            }
        }
        assert!(seen > 0 || document != "ARCHITECTURE.md");
    }
    let lines = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap().lines().count();
    assert!(lines < 150, "ARCHITECTURE.md has {lines} lines");
}
