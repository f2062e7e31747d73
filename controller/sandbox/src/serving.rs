//! HTTP servers on free loopback ports that end with their handle.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// A server that runs until it is dropped, and can be cut off from its clients.
#[derive(Debug)]
pub struct Serving {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    severed: Arc<tokio::sync::watch::Sender<u64>>,
    task: JoinHandle<()>,
}

impl Serving {
    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Drops every connection and refuses new ones, as a dead server does, until [`Serving::mend`].
    pub fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        self.severed.send_modify(|count| *count += 1);
    }

    /// Serves again.
    pub fn mend(&self) {
        self.cut.store(false, Ordering::SeqCst);
    }

    /// Whether it is cut off.
    pub fn is_cut(&self) -> bool {
        self.cut.load(Ordering::SeqCst)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.severed.send_modify(|count| *count += 1);
        self.task.abort();
    }
}

/// Serves a router on a free port of 127.0.0.1.
pub async fn serve(router: Router) -> std::io::Result<Serving> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let cut = Arc::new(AtomicBool::new(false));
    let severed = Arc::new(tokio::sync::watch::Sender::new(0));
    let task = tokio::spawn(accept(listener, router, cut.clone(), severed.clone()));
    Ok(Serving { address, cut, severed, task })
}

async fn accept(
    listener: TcpListener,
    router: Router,
    cut: Arc<AtomicBool>,
    severed: Arc<tokio::sync::watch::Sender<u64>>,
) {
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        if cut.load(Ordering::SeqCst) {
            continue;
        }
        // Small answers must not wait for Nagle; a failure costs speed only.
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let mut ended = severed.subscribe();
        tokio::spawn(async move {
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            tokio::select! {
                // A client that goes away mid-answer is no error of ours.
                _ = connection => {}
                _ = ended.changed() => {}
            }
        });
    }
}
