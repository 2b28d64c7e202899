//! The one port for nodes and operators' tools: fabric connections, gRPC, health and metrics.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use abide_rpc::{Fabric, Sniffed, sniff};
use axum::Router;
use axum::body::Body;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long a connection may take to show what it speaks, and a request to send its headers.
const FIRST_BYTES_WITHIN: Duration = Duration::from_secs(10);
/// How long a connection of the fabric waits for this node to join. Less than who dials waits for an answer.
const JOINED_WITHIN: Duration = Duration::from_millis(800);
/// Connections at a time; more wait to be accepted.
const CONNECTIONS_MAX: usize = 4096;
/// Pause after the system refused to accept a connection, for want of file handles as a rule.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Serves the port until it is stopped.
pub(crate) struct NodePort {
    /// gRPC, `/health` and `/metrics`.
    pub(crate) router: Router,
    /// Set when the node has joined its cluster. Connections that come before that wait a while, since the others
    /// hear of the node when it joins and dial it at once.
    pub(crate) fabric: watch::Receiver<Option<Arc<Fabric>>>,
    pub(crate) stop: CancellationToken,
}

impl NodePort {
    pub(crate) async fn serve(self, listener: TcpListener) {
        let connections = TaskTracker::new();
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let port = Arc::new(self);
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
                break;
            };
            let accepted = tokio::select! {
                () = port.stop.cancelled() => break,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, _)) => {
                    let port = Arc::clone(&port);
                    connections.spawn(async move {
                        let stop = port.stop.clone();
                        tokio::select! {
                            () = stop.cancelled() => {}
                            () = port.connection(stream) => {}
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection at the node port");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.close();
        connections.wait().await;
    }

    async fn connection(&self, stream: TcpStream) {
        // Without it answers wait for acks; a connection on which it cannot be set is about to fail anyway.
        let _ = stream.set_nodelay(true);
        let from = stream.peer_addr().ok();
        match sniff(stream, FIRST_BYTES_WITHIN).await {
            Ok(Sniffed::Fabric(stream)) => {
                let mut slot = self.fabric.clone();
                let joined = timeout(JOINED_WITHIN, slot.wait_for(Option::is_some)).await;
                let fabric = joined.ok().and_then(|joined| joined.ok()?.clone());
                if let Some(fabric) = fabric {
                    fabric.accept(stream).await;
                }
            }
            Ok(Sniffed::Http(stream)) => {
                let service = TowerToHyperService::new(self.router.clone());
                let mut server = auto::Builder::new(TokioExecutor::new());
                server
                    .http1()
                    .timer(TokioTimer::new())
                    .header_read_timeout(FIRST_BYTES_WITHIN);
                server
                    .http2()
                    .timer(TokioTimer::new())
                    .keep_alive_interval(Some(FIRST_BYTES_WITHIN))
                    .adaptive_window(true);
                let served = server.serve_connection(TokioIo::new(stream), service).await;
                if let Err(error) = served {
                    tracing::debug!(?from, %error, "connection at the node port");
                }
            }
            Err(error) => tracing::debug!(?from, %error, "connection at the node port"),
        }
    }
}

/// What nothing else answers: the error that gRPC has for that, or 404.
pub(crate) async fn not_found(
    request: http::Request<Body>,
) -> Result<http::Response<Body>, Infallible> {
    let grpc = request
        .headers()
        .get(http::header::CONTENT_TYPE)
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    let response = if grpc {
        tonic::Status::unimplemented("this node does not serve that").into_http()
    } else {
        let mut response = http::Response::new(Body::from("not found\n"));
        *response.status_mut() = http::StatusCode::NOT_FOUND;
        response
    };
    Ok(response)
}
