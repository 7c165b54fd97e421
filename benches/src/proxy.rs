//! A proxy in front of Postgres that counts round trips.
//!
//! Postgres ends its answer to each simple query and to each `Sync` with one `ReadyForQuery`, so these are counted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use anyhow::{Context, anyhow};
use reqwest::Url;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

pub struct Proxy {
    /// The URL of the database through the proxy.
    pub url: String,
    round_trips: Arc<AtomicU64>,
}

impl Proxy {
    pub async fn start(database: &str) -> anyhow::Result<Self> {
        let mut url: Url = database.parse().context("not a URL")?;
        let server = format!("{}:{}", url.host_str().context("no host")?, url.port().unwrap_or(5432));
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        url.set_host(Some("127.0.0.1"))?;
        url.set_port(Some(address.port())).map_err(|()| anyhow!("cannot replace the port"))?;
        // The answer to a request for TLS is the only one that is not a message.
        url.query_pairs_mut().append_pair("sslmode", "disable");
        let round_trips = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&round_trips);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (server, counter) = (server.clone(), Arc::clone(&counter));
                // A connection that breaks is closed on both sides; the service reports it.
                tokio::spawn(async move { relay(client, &server, &counter).await });
            }
        });
        Ok(Self { url: url.into(), round_trips })
    }

    /// Returns the number of round trips so far.
    pub fn round_trips(&self) -> u64 {
        self.round_trips.load(Ordering::Relaxed)
    }
}

async fn relay(mut client: TcpStream, server: &str, counter: &AtomicU64) -> std::io::Result<()> {
    let mut server = TcpStream::connect(server).await?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let answers = async {
        let mut messages = Messages::default();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let length = from_server.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            counter.fetch_add(messages.count_ready(&buffer[..length]), Ordering::Relaxed);
            to_client.write_all(&buffer[..length]).await?;
        }
    };
    tokio::select! {
        copied = tokio::io::copy(&mut from_client, &mut to_server) => copied.map(drop),
        answered = answers => answered,
    }
}

/// Finds the messages in a stream of bytes: one byte for the kind, four for the length, then the rest.
#[derive(Default)]
struct Messages {
    head: Vec<u8>,
    rest: usize,
}

impl Messages {
    /// Returns how many `ReadyForQuery` begin in these bytes.
    fn count_ready(&mut self, mut bytes: &[u8]) -> u64 {
        let mut ready = 0;
        while let Some((&first, after)) = bytes.split_first() {
            if self.rest > 0 {
                let skipped = self.rest.min(bytes.len());
                self.rest -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            self.head.push(first);
            bytes = after;
            if let [kind, a, b, c, d] = self.head[..] {
                ready += u64::from(kind == b'Z');
                self.rest = usize::try_from(u32::from_be_bytes([a, b, c, d])).unwrap_or(0).saturating_sub(4);
                self.head.clear();
            }
        }
        ready
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_found_however_the_stream_is_cut() {
        // DataRow whose content looks like a ReadyForQuery, ReadyForQuery, an empty message, ReadyForQuery.
        let stream = b"D\0\0\0\x0aZ\0\0\0\x05IZ\0\0\0\x05I2\0\0\0\x04Z\0\0\0\x05T";
        for size in 1..=stream.len() {
            let mut messages = Messages::default();
            let ready: u64 = stream.chunks(size).map(|chunk| messages.count_ready(chunk)).sum();
            assert_eq!(ready, 2, "in pieces of {size} bytes");
        }
    }
}
