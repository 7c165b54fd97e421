//! Migrations: the same schema on both databases, applied once however many processes start together.

use std::collections::BTreeSet;

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

#[tokio::test]
async fn both_databases_have_the_same_schema() {
    let Some(postgres) = Database::postgres().await else { return };
    let sqlite = Database::sqlite();
    for database in [&postgres, &sqlite] {
        Store::connect(&store_settings(database)).await.unwrap().migrate().await.unwrap();
    }
    let columns = "SELECT table_name || '.' || column_name || ' ' || data_type || ' ' ||
                          CASE is_nullable WHEN 'NO' THEN 'not null' ELSE 'null' END || ' ' ||
                          COALESCE((SELECT 'key ' || k.ordinal_position FROM information_schema.key_column_usage k
                                    JOIN information_schema.table_constraints t USING (constraint_schema, constraint_name)
                                    WHERE t.constraint_type = 'PRIMARY KEY' AND k.table_name = c.table_name
                                      AND k.column_name = c.column_name), '')
                   FROM information_schema.columns c
                   WHERE table_schema = 'public' AND table_name NOT LIKE '\\_sqlx%'";
    // SQLite reports the columns of a primary key as nullable unless they say otherwise.
    let pragma = "SELECT t.name || '.' || c.name || ' ' || c.type || ' ' ||
                         CASE WHEN c.\"notnull\" = 1 OR c.pk > 0 THEN 'not null' ELSE 'null' END || ' ' ||
                         CASE WHEN c.pk > 0 THEN 'key ' || c.pk ELSE '' END
                  FROM sqlite_schema t JOIN pragma_table_info(t.name) c
                  WHERE t.type = 'table' AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\'";
    let columns: Vec<_> = postgres.texts(columns).await.iter().map(|column| with_type(column)).collect();
    let pragma = sqlite.texts(pragma).await;
    assert!(columns.len() > 60, "{columns:?}");
    assert_same(columns, pragma);

    // Each with its columns in order, whether it is unique, and whether it has a condition.
    let indexes = "SELECT i.relname || ' on ' || t.relname || ' (' ||
                          (SELECT string_agg(a.attname, ',' ORDER BY k.position)
                           FROM unnest(x.indkey) WITH ORDINALITY k (number, position)
                           JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = k.number) || ') ' ||
                          CASE WHEN x.indisunique THEN 'unique' ELSE '' END ||
                          CASE WHEN x.indpred IS NULL THEN '' ELSE ' partial' END
                   FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid JOIN pg_class t ON t.oid = x.indrelid
                   WHERE t.relnamespace = 'public'::regnamespace AND NOT x.indisprimary AND t.relname NOT LIKE '\\_sqlx%'";
    let pragma = "SELECT i.name || ' on ' || t.name || ' (' ||
                         (SELECT group_concat(name) FROM (SELECT name FROM pragma_index_info(i.name) ORDER BY seqno)) || ') ' ||
                         CASE WHEN i.\"unique\" THEN 'unique' ELSE '' END || CASE WHEN i.partial THEN ' partial' ELSE '' END
                  FROM sqlite_schema t JOIN pragma_index_list(t.name) i
                  WHERE t.type = 'table' AND t.name NOT LIKE '\\_sqlx%' ESCAPE '\\' AND i.origin <> 'pk'";
    let (indexes, pragma) = (postgres.texts(indexes).await, sqlite.texts(pragma).await);
    assert!(indexes.len() > 10, "{indexes:?}");
    assert_same(indexes.iter().map(|index| named(index)).collect(), pragma.iter().map(|index| named(index)).collect());
}

fn assert_same(postgres: Vec<String>, sqlite: Vec<String>) {
    let (postgres, sqlite) = (BTreeSet::from_iter(postgres), BTreeSet::from_iter(sqlite));
    let only = |a: &BTreeSet<String>, b: &BTreeSet<String>| a.difference(b).cloned().collect::<Vec<_>>();
    let (only_postgres, only_sqlite) = (only(&postgres, &sqlite), only(&sqlite, &postgres));
    assert!(postgres == sqlite, "only on Postgres: {only_postgres:#?}\nonly on SQLite: {only_sqlite:#?}");
}

/// A column of Postgres as SQLite describes it.
fn with_type(column: &str) -> String {
    let types = [
        (" timestamp with time zone ", " TEXT "),
        (" bigint ", " INTEGER "),
        (" text ", " TEXT "),
        (" jsonb ", " TEXT "),
        (" uuid ", " BLOB "),
        (" bytea ", " BLOB "),
        (" ARRAY ", " TEXT "),
    ];
    let known = types.iter().find(|(postgres, _)| column.contains(postgres));
    let (postgres, sqlite) = known.unwrap_or_else(|| panic!("unknown type: {column}"));
    column.replacen(postgres, sqlite, 1)
}

/// An index without the name that a `UNIQUE` of a table gives it.
fn named(index: &str) -> String {
    match index.split_once(" on ") {
        Some((name, rest)) if name.starts_with("sqlite_autoindex") || name.ends_with("_key") => format!("on {rest}"),
        _ => index.to_owned(),
    }
}
