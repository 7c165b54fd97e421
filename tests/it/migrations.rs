//! Migrations: the same schema on both databases, applied once by however many start at once.

use std::collections::BTreeMap;

use acs_token_vendor::store::{Settings, Store};

use crate::support::{Database, database::on_each_database};

fn store_settings(database: &Database) -> Settings {
    Settings { url: database.url().into(), ..Settings::default() }
}

on_each_database! {
    async fn many_starts_at_once_migrate_once(database) {
        let settings = store_settings(&database);
        let start = async || Store::connect(&settings).await.unwrap().migrate().await.unwrap();
        futures_util::future::join_all((0..8).map(|_| start())).await;
        let twice = "SELECT COUNT(*) - COUNT(DISTINCT version) FROM _sqlx_migrations";
        assert_eq!(database.count(twice).await, 0);
        assert!(Store::connect(&settings).await.unwrap().pending_migrations().await.unwrap().is_empty());
    }

    async fn a_newer_schema_runs_unless_it_says_otherwise(database) {
        let store = Store::connect(&store_settings(&database)).await.unwrap();
        assert_eq!(store.pending_migrations().await.unwrap()[0], 1);
        store.migrate().await.unwrap();
        assert!(store.pending_migrations().await.unwrap().is_empty());
        database.execute("INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
                          SELECT 9999, 'later', success, checksum, 0 FROM _sqlx_migrations WHERE version = 1").await;
        store.migrate().await.unwrap();
        database.execute("UPDATE schema_compatibility SET oldest_known_version = 9999").await;
        let error = store.migrate().await.unwrap_err().to_string();
        assert!(error.contains("knows version 9999"), "{error}");
    }
}

#[test]
fn both_databases_have_the_same_tables_and_columns() {
    let (postgres, sqlite) = (shape("postgres"), shape("sqlite"));
    assert!(postgres.len() >= 9, "{postgres:?}");
    assert_eq!(postgres, sqlite);
}

/// Tables with their columns in order, each with what else its line says but the type.
fn shape(database: &str) -> BTreeMap<String, Vec<String>> {
    let folder = format!("{}/migrations/{database}", env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut table = None;
    for line in files
        .iter()
        .flat_map(|file| std::fs::read_to_string(file).unwrap().lines().map(str::to_owned).collect::<Vec<_>>())
    {
        let words: Vec<_> = line.split_whitespace().collect();
        match words.as_slice() {
            ["DROP", "TABLE", name, ..] => drop(tables.remove(name.trim_end_matches(';'))),
            ["CREATE", "TABLE", name, ..] | ["CREATE", "UNLOGGED", "TABLE", name, ..] => {
                table = Some((*name).to_owned());
            }
            ["ALTER", "TABLE", name, "ADD", "COLUMN", column, _type] => {
                tables.get_mut(*name).unwrap().push((*column).to_owned());
            }
            [");", ..] => table = None,
            ["CREATE", "INDEX" | "UNIQUE", ..] => tables.entry("indexes".into()).or_default().push(words.join(" ")),
            [column, _type, rest @ ..] => {
                if let Some(table) = &table {
                    let in_table = tables.entry(table.clone()).or_default();
                    let is_constraint = ["UNIQUE", "CHECK", "PRIMARY"].iter().any(|word| column.starts_with(word));
                    in_table.push(if is_constraint {
                        words.join(" ")
                    } else {
                        format!("{column} {}", rest.join(" ").trim_matches(','))
                    });
                }
            }
            _ => {}
        }
    }
    tables
}
