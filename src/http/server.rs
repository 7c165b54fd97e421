//! The listener: connections are taken up to a number, and run to their end.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::TokioTimer;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::connection;

/// What clients are granted.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// How many connections are held at once; more have to wait until one ends.
    pub connections: usize,
    /// How long the head of a request may take from its first byte on, and each step of taking an answer.
    pub head: Duration,
    /// How long a connection may lie idle.
    pub idle: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { connections: 16_384, head: Duration::from_secs(10), idle: Duration::from_secs(75) }
    }
}

/// The most that the head of a request may have: four times the longest logins seen, and a bound for memory.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// How long a listener rests that got no connection, for want of descriptors.
const REST: Duration = Duration::from_millis(100);

/// Serves a router until its token is cancelled, then lets requests that were taken run to their end.
pub async fn serve(listener: TcpListener, router: Router, patience: Patience, close: CancellationToken) {
    let room = Arc::new(Semaphore::new(patience.connections));
    let connections = TaskTracker::new();
    let mut server = http1::Builder::new();
    server.timer(TokioTimer::new()).header_read_timeout(patience.idle).max_buf_size(MAX_HEAD_BYTES);
    loop {
        let accepted = tokio::select! {
            () = close.cancelled() => break,
            accepted = accept(&listener, &room) => accepted,
        };
        let (stream, address, place) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "no connection can be taken");
                tokio::time::sleep(REST).await;
                continue;
            }
        };
        let (server, router, close) = (server.clone(), router.clone(), close.clone());
        connections.spawn(async move {
            connection::run(&server, stream, address, router, patience, &close).await;
            drop(place);
        });
    }
    connections.close();
    connections.wait().await;
}

type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<Accepted> {
    let place = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    // Answers are written whole, so there is nothing that waiting could join them with.
    stream.set_nodelay(true)?;
    Ok((stream, address, place))
}
