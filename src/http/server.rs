//! The HTTP/1 server of a listener: a bounded number of connections, timeouts, and a graceful shutdown.
//!
//! TLS and HTTP/2 are left to a reverse proxy.

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::ConnectInfo};
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// The limits of a listener's connections.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ServerSettings {
    /// How many connections are open at once; more wait in the backlog of the operating system.
    pub(crate) max_connections: usize,
    /// How long a connection may wait for the complete head of its next request.
    pub(crate) idle_timeout: Duration,
    /// How long a write of a response may make no progress.
    pub(crate) write_timeout: Duration,
}

impl Default for ServerSettings {
    fn default() -> Self {
        Self { max_connections: 16_384, idle_timeout: Duration::from_secs(75), write_timeout: Duration::from_secs(10) }
    }
}

/// The maximum size of a request's head: four times the longest sign-in tokens seen.
const MAX_HEAD_BYTES: usize = 64 * 1024;
/// The pause after a failed accept, which is usually a lack of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves a router until `stop` is cancelled, then waits for the requests that have begun.
pub(crate) async fn serve(listener: TcpListener, router: Router, settings: ServerSettings, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(settings.max_connections));
    let connections = GracefulShutdown::new();
    let mut http = http1::Builder::new();
    // hyper starts this timer when it begins to wait for a request, so it bounds idle time and head together.
    http.timer(TokioTimer::new()).header_read_timeout(settings.idle_timeout).max_buf_size(MAX_HEAD_BYTES);
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = accept(&listener, &permits) => accepted,
        };
        let (stream, address, permit) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let mut stream = TimeoutStream::new(stream);
        stream.set_write_timeout(Some(settings.write_timeout));
        let router = router.clone();
        let service = service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(address));
            router.clone().oneshot(request.map(Body::new))
        });
        let connection = http.serve_connection(TokioIo::new(Box::pin(stream)), service);
        let connection = connections.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!(error = &error as &dyn std::error::Error, "connection closed");
            }
            drop(permit);
        });
    }
    connections.shutdown().await;
}

type Accepted = (TcpStream, SocketAddr, OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, permits: &Arc<Semaphore>) -> io::Result<Accepted> {
    let permit = Arc::clone(permits).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    // hyper writes whole responses, so Nagle's algorithm would only delay them.
    stream.set_nodelay(true)?;
    Ok((stream, address, permit))
}
