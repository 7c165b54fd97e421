//! A TCP proxy in front of a server: it can cut its connections, refuse new ones, or go silent.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::AbortHandle,
};

/// What the proxy does with connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Forward,
    /// New connections are closed at once.
    Refuse,
    /// Connections stay open and new ones are accepted, but no byte is forwarded, as in a network partition.
    Silent,
}

pub struct Proxy {
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    /// The mode of new connections is the last; those before it are of connections that were muted.
    modes: Arc<Mutex<Vec<watch::Sender<Mode>>>>,
}

impl Proxy {
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::<Mutex<Vec<AbortHandle>>>::default();
        let modes = Arc::new(Mutex::new(vec![watch::Sender::new(Mode::Forward)]));
        let (all, current) = (Arc::clone(&connections), Arc::clone(&modes));
        tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { continue };
                let mode = current.lock().unwrap().last().unwrap().subscribe();
                if *mode.borrow() == Mode::Refuse {
                    continue;
                }
                let connection = tokio::spawn(connect(near, target.clone(), mode));
                let mut all = all.lock().unwrap();
                all.retain(|connection| !connection.is_finished());
                all.push(connection.abort_handle());
            }
        });
        Self { address, connections, modes }
    }

    /// Cuts every connection at once, whatever is being sent over it.
    pub fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }

    /// Changes what happens to open and to new connections.
    pub fn set(&self, mode: Mode) {
        self.modes.lock().unwrap().last().unwrap().send_replace(mode);
    }

    /// Makes every open connection silent for good, while new ones work: what a server that lost its state leaves behind.
    pub fn mute(&self) {
        self.set(Mode::Silent);
        self.modes.lock().unwrap().push(watch::Sender::new(Mode::Forward));
    }
}

async fn connect(near: TcpStream, target: String, mut mode: watch::Receiver<Mode>) {
    let _ = mode.wait_for(|mode| *mode != Mode::Silent).await;
    let Ok(far) = TcpStream::connect(target).await else { return };
    let (near_reader, near_writer) = near.into_split();
    let (far_reader, far_writer) = far.into_split();
    tokio::join!(forward(near_reader, far_writer, mode.clone()), forward(far_reader, near_writer, mode));
}

async fn forward(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut mode: watch::Receiver<Mode>) {
    let mut buffer = [0; 16 * 1024];
    loop {
        let length = from.read(&mut buffer).await.unwrap_or_default();
        let _ = mode.wait_for(|mode| *mode != Mode::Silent).await;
        if length == 0 || to.write_all(&buffer[..length]).await.is_err() {
            let _ = to.shutdown().await;
            return;
        }
    }
}
