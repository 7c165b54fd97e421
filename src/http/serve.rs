//! Connections: taken up to a number, and closed when their client keeps them waiting.
//!
//! A client may take its time between two requests, but not in the middle of one: the head must come within a deadline,
//! and so must each step of taking an answer. Bodies have a deadline of their own, where they are read.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{Router, body::Body, extract::ConnectInfo, http::Request, response::Response};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::Sleep,
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

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
    let graceful = GracefulShutdown::new();
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
        let phase = Arc::new(Phase::default());
        let (io, router) = (TokioIo::new(Watched::new(stream, Arc::clone(&phase), patience.head)), router.clone());
        let service = service_fn(move |request| answer(router.clone(), request, address, Arc::clone(&phase)));
        let connection = graceful.watch(server.serve_connection(io, service));
        tokio::spawn(async move {
            // How a connection ends is its client's business; what matters was logged with its requests.
            let _ = connection.await;
            drop(place);
        });
    }
    graceful.shutdown().await;
}

type Accepted = (TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit);

async fn accept(listener: &TcpListener, room: &Arc<Semaphore>) -> io::Result<Accepted> {
    let place = Arc::clone(room).acquire_owned().await.map_err(io::Error::other)?;
    let (stream, address) = listener.accept().await?;
    // Answers are written whole, so there is nothing that waiting could join them with.
    stream.set_nodelay(true)?;
    Ok((stream, address, place))
}

async fn answer(
    router: Router,
    request: Request<Incoming>,
    address: SocketAddr,
    phase: Arc<Phase>,
) -> Result<Response, Infallible> {
    phase.set(Phase::BUSY);
    let mut request = request.map(Body::new);
    request.extensions_mut().insert(ConnectInfo(address));
    let response = router.oneshot(request).await;
    phase.set(Phase::IDLE);
    response
}

/// Where a connection is between two requests.
#[derive(Debug, Default)]
struct Phase(AtomicU8);

impl Phase {
    /// Waiting for the first byte of a request.
    const IDLE: u8 = 0;
    /// Waiting for the rest of a head.
    const HEAD: u8 = 1;
    /// A request is being answered.
    const BUSY: u8 = 2;

    fn set(&self, phase: u8) {
        self.0.store(phase, Ordering::Relaxed);
    }

    fn is(&self, phase: u8) -> bool {
        self.0.load(Ordering::Relaxed) == phase
    }
}

/// A connection whose client must not keep it waiting in the middle of something.
struct Watched {
    stream: TcpStream,
    phase: Arc<Phase>,
    patience: Duration,
    /// Armed while the client is waited for; a connection that flows never has one.
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    fn new(stream: TcpStream, phase: Arc<Phase>, patience: Duration) -> Self {
        Self { stream, phase, patience, reading: None, writing: None }
    }

    fn poll_writing<T>(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        let polled = write(Pin::new(&mut self.stream), cx);
        if polled.is_ready() {
            self.writing = None;
            return polled;
        }
        ready!(wait(&mut self.writing, self.patience, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

fn wait(timer: &mut Option<Pin<Box<Sleep>>>, patience: Duration, cx: &mut Context<'_>) -> Poll<()> {
    timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(patience))).as_mut().poll(cx)
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if polled.is_ready() {
            if buffer.filled().len() > before && self.phase.is(Phase::IDLE) {
                self.phase.set(Phase::HEAD);
                self.reading = None;
            }
            return polled;
        }
        if !self.phase.is(Phase::HEAD) {
            self.reading = None;
            return Poll::Pending;
        }
        let this = &mut *self;
        ready!(wait(&mut this.reading, this.patience, cx));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |stream, cx| stream.poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.poll_writing(cx, |stream, cx| stream.poll_write_vectored(cx, slices))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writing(cx, AsyncWrite::poll_flush)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.poll_writing(cx, AsyncWrite::poll_shutdown)
    }
}
