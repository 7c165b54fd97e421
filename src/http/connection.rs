//! One connection: closed when its client keeps it waiting in the middle of something, and at rest when nothing comes.
//!
//! A client may take its time between two requests, but not in the middle of one: the head must come within a deadline,
//! and so must each step of taking an answer. Bodies have a deadline of their own, where they are read.
//! A connection at rest gives its buffers back, some 16 KiB, and keeps little more than its socket.

use std::{
    convert::Infallible,
    future::poll_fn,
    io,
    net::SocketAddr,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU32, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes, HttpBody},
    extract::ConnectInfo,
    http::Request,
    response::Response,
};
use futures_util::StreamExt;
use hyper::{
    body::Incoming,
    server::conn::http1::{Builder, Connection, Parts},
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use super::server::Patience;

/// How often an idle connection is looked after; it rests when nothing has come between two looks.
const LOOK: Duration = Duration::from_millis(250);

/// Serves one connection to its end.
pub(super) async fn run(
    server: &Builder,
    stream: TcpStream,
    address: SocketAddr,
    router: Router,
    patience: Patience,
    close: &CancellationToken,
) {
    let phase = Arc::new(Phase::default());
    let mut io = Watched::new(stream, Arc::clone(&phase), patience.head);
    let mut service = {
        let phase = Arc::clone(&phase);
        service_fn(move |request| Box::pin(answer(router.clone(), request, address, Arc::clone(&phase))))
    };
    loop {
        let connection = server.serve_connection(TokioIo::new(io), service);
        // In a box of its own, which a connection at rest does not need.
        let Some(parts) = Box::pin(serve_until_idle(connection, &phase, close)).await else { return };
        (io, service) = (parts.io.into_inner(), parts.service);
        io.unread = parts.read_buf;
        if io.unread.is_empty() {
            let woken = tokio::select! {
                () = close.cancelled() => return,
                woken = timeout(patience.idle, io.stream.readable()) => woken,
            };
            if !matches!(woken, Ok(Ok(()))) {
                return;
            }
        }
    }
}

/// Serves until nothing comes any more; `None` when the connection has ended.
///
/// How a connection ends is its client's business; what matters was logged with its requests.
async fn serve_until_idle<S>(
    mut connection: Connection<TokioIo<Watched>, S>,
    phase: &Phase,
    close: &CancellationToken,
) -> Option<Parts<TokioIo<Watched>, S>>
where
    S: HttpService<Incoming, ResBody = Body, Error = Infallible> + Unpin,
    S::Future: Unpin,
{
    let mut closing = pin!(close.cancelled());
    let mut idle_before = None;
    loop {
        let look = tokio::time::sleep(LOOK);
        tokio::select! {
            _ = poll_fn(|cx| connection.poll_without_shutdown(cx)) => return None,
            () = &mut closing => {
                Pin::new(&mut connection).graceful_shutdown();
                let _ = connection.await;
                return None;
            }
            () = look => {
                let idle_now = phase.idle();
                if idle_now.is_some() && idle_now == idle_before {
                    break;
                }
                idle_before = idle_now;
            }
        }
    }
    // Nothing is under way, so what it takes to shut down is to stop: the socket stays as it is.
    Pin::new(&mut connection).graceful_shutdown();
    poll_fn(|cx| connection.poll_without_shutdown(cx)).await.ok()?;
    Some(connection.into_parts())
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
    let response = router.oneshot(request).await?;
    let under_way = UnderWay(phase);
    if response.body().size_hint().exact().is_some() {
        return Ok(response);
    }
    // A stream, which the rest of the request may still be read for.
    let held = move |bytes| {
        let _ = &under_way;
        bytes
    };
    Ok(response.map(|body| Body::from_stream(body.into_data_stream().map(held))))
}

/// A request that is being answered, until the answer has been given or nobody wants it any more.
struct UnderWay(Arc<Phase>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
        self.0.set(Phase::IDLE);
    }
}

/// Where a connection is between two requests.
#[derive(Debug, Default)]
struct Phase {
    now: AtomicU8,
    /// How many requests were answered.
    answered: AtomicU32,
}

impl Phase {
    /// Waiting for the first byte of a request.
    const IDLE: u8 = 0;
    /// Waiting for the rest of a head.
    const HEAD: u8 = 1;
    /// A request is being answered.
    const BUSY: u8 = 2;

    fn set(&self, phase: u8) {
        self.now.store(phase, Ordering::Relaxed);
    }

    fn is(&self, phase: u8) -> bool {
        self.now.load(Ordering::Relaxed) == phase
    }

    /// After how many requests the connection is idle, if it is.
    fn idle(&self) -> Option<u32> {
        self.is(Self::IDLE).then(|| self.answered.load(Ordering::Relaxed))
    }
}

/// A connection whose client must not keep it waiting in the middle of something.
struct Watched {
    stream: TcpStream,
    /// What was read before and belongs to the next request.
    unread: Bytes,
    phase: Arc<Phase>,
    patience: Duration,
    /// Armed while the client is waited for; a connection that flows never has one.
    reading: Option<Pin<Box<Sleep>>>,
    writing: Option<Pin<Box<Sleep>>>,
}

impl Watched {
    fn new(stream: TcpStream, phase: Arc<Phase>, patience: Duration) -> Self {
        Self { stream, unread: Bytes::new(), phase, patience, reading: None, writing: None }
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
        let polled = if self.unread.is_empty() {
            Pin::new(&mut self.stream).poll_read(cx, buffer)
        } else {
            let length = self.unread.len().min(buffer.remaining());
            buffer.put_slice(&self.unread.split_to(length));
            Poll::Ready(Ok(()))
        };
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
