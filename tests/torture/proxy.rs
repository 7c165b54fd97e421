//! A TCP proxy whose connections can be cut, and which can refuse new ones for a while.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::AbortHandle,
};

pub struct Proxy {
    pub address: SocketAddr,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
    refuses: Arc<AtomicBool>,
}

impl Proxy {
    pub async fn start(target: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (connections, refuses) =
            (Arc::new(Mutex::new(Vec::<AbortHandle>::new())), Arc::new(AtomicBool::new(false)));
        let (all, is_shut) = (Arc::clone(&connections), Arc::clone(&refuses));
        tokio::spawn(async move {
            loop {
                let Ok((mut near, _)) = listener.accept().await else { continue };
                if is_shut.load(Ordering::Relaxed) {
                    continue;
                }
                let target = target.clone();
                let connection = tokio::spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(target).await {
                        let _ = copy_bidirectional(&mut near, &mut far).await;
                    }
                });
                let mut all = all.lock().unwrap();
                all.retain(|connection| !connection.is_finished());
                all.push(connection.abort_handle());
            }
        });
        Self { address, connections, refuses }
    }

    /// Cuts every connection at once, in the middle of whatever goes over it.
    pub fn cut(&self) {
        for connection in self.connections.lock().unwrap().drain(..) {
            connection.abort();
        }
    }

    /// Lets no new connection through, or again.
    pub fn refuse(&self, refuses: bool) {
        self.refuses.store(refuses, Ordering::Relaxed);
    }
}
