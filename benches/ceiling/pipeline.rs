//! One prepared statement on a few connections. Many requests are in flight on each connection at once.

use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Context;
use tokio_postgres::{Client, Error, NoTls, Row, Statement, types::ToSql};

pub(crate) type Parameters<'a> = &'a [&'a (dyn ToSql + Sync)];

pub(crate) struct Pipeline {
    connections: Vec<(Client, Statement)>,
    next: AtomicUsize,
}

impl Pipeline {
    pub(crate) async fn open(url: &str, connections: usize, sql: &str) -> anyhow::Result<Self> {
        let mut opened = Vec::new();
        for _ in 0..connections.max(1) {
            let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("cannot connect")?;
            tokio::spawn(connection);
            let statement = client.prepare(sql).await.context("cannot prepare")?;
            opened.push((client, statement));
        }
        Ok(Self { connections: opened, next: AtomicUsize::new(0) })
    }

    pub(crate) async fn read(&self, parameters: Parameters<'_>) -> Result<Option<Row>, Error> {
        let (client, statement) = self.connection();
        client.query_opt(statement, parameters).await
    }

    pub(crate) async fn write(&self, parameters: Parameters<'_>) -> Result<u64, Error> {
        let (client, statement) = self.connection();
        client.execute(statement, parameters).await
    }

    fn connection(&self) -> &(Client, Statement) {
        &self.connections[self.next.fetch_add(1, Ordering::Relaxed) % self.connections.len()]
    }
}
