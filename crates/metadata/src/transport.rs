//! Connections to metadata servers, and the header that says which cluster a call is meant for.

use std::collections::HashMap;
use std::time::Duration;

use abide_rpc::proto::metadata::metadata_client::MetadataClient;
use abide_rpc::proto::metadata::raft_client::RaftClient;
use abide_types::NodeId;
use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::options::MetadataOptions;

/// The header that carries the cluster's fingerprint.
pub(crate) const FINGERPRINT_HEADER: &str = "abide-fingerprint";

/// The header that says which server a call of raft is meant for: an address may have gone to another one.
pub(crate) const TARGET_HEADER: &str = "abide-target";

/// Dead connections are found out by pings, where no refusal tells.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// An address without its scheme and without what follows the port.
pub(crate) fn host_and_port(address: &str) -> &str {
    let rest = address
        .strip_prefix("http://")
        .or_else(|| address.strip_prefix("https://"))
        .unwrap_or(address);
    rest.split('/').next().unwrap_or(rest)
}

/// Connections by address, made when first needed.
pub(crate) struct Channels {
    connect_timeout: Duration,
    message_bytes_max: usize,
    by_address: Mutex<HashMap<String, Connection>>,
}

/// A connection, or the making of one.
enum Connection {
    Made(Channel),
    /// Runs in a task of its own: votes and heartbeats are given up after a fraction of a second, and on a busy
    /// machine none of them would ever live to see its connection if each began a new one.
    Making(Making),
}

type Making = Shared<BoxFuture<'static, Result<Channel, String>>>;

impl Channels {
    pub(crate) fn new(options: &MetadataOptions) -> Self {
        Self {
            connect_timeout: options.connect_timeout,
            message_bytes_max: options.message_bytes_max,
            by_address: Mutex::new(HashMap::new()),
        }
    }

    /// A connection that exists: an error means that nothing was sent.
    pub(crate) async fn connect(&self, address: &str) -> Result<Channel, String> {
        let making = {
            let mut connections = self.by_address.lock();
            match connections.get(address) {
                Some(Connection::Made(channel)) => return Ok(channel.clone()),
                // One that failed while nobody waited for it says nothing of now.
                Some(Connection::Making(making)) if !matches!(making.peek(), Some(Err(_))) => {
                    making.clone()
                }
                _ => {
                    let making = self.make(address)?;
                    let connection = Connection::Making(making.clone());
                    connections.insert(address.to_owned(), connection);
                    making
                }
            }
        };
        let made = making.clone().await;
        let mut connections = self.by_address.lock();
        if let Some(connection) = connections.get_mut(address)
            && matches!(connection, Connection::Making(current) if current.ptr_eq(&making))
        {
            match &made {
                Ok(channel) => *connection = Connection::Made(channel.clone()),
                Err(_) => {
                    connections.remove(address);
                }
            }
        }
        made
    }

    fn make(&self, address: &str) -> Result<Making, String> {
        let endpoint = Endpoint::from_shared(format!("http://{}", host_and_port(address)))
            .map_err(|error| format!("'{address}' is no address: {error}"))?
            .connect_timeout(self.connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true);
        let (address, within) = (address.to_owned(), self.connect_timeout);
        let made = tokio::spawn(async move {
            // The limit of the endpoint covers the connection alone, not the handshake after it.
            tokio::time::timeout(within, endpoint.connect())
                .await
                .map_err(|_| format!("connect to {address}: timed out"))?
                .map_err(|error| format!("connect to {address}: {}", with_sources(&error)))
        });
        let made = async move {
            made.await
                .unwrap_or_else(|error| Err(format!("the connection was given up: {error}")))
        };
        Ok(made.boxed().shared())
    }

    /// Forgets a connection that failed, so that the next call makes a new one.
    pub(crate) fn forget(&self, address: &str) {
        self.by_address.lock().remove(address);
    }

    /// Forgets a connection if this answer shows that it is broken. A peer that is merely late keeps its connection:
    /// a new one would be later still. Keep-alive finds out about those that are dead.
    pub(crate) fn forget_if_broken(&self, address: &str, status: &Status) {
        if !matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled) {
            self.forget(address);
        }
    }

    /// Forgets all connections.
    pub(crate) fn clear(&self) {
        self.by_address.lock().clear();
    }

    pub(crate) async fn metadata(&self, address: &str) -> Result<MetadataClient<Channel>, String> {
        Ok(MetadataClient::new(self.connect(address).await?)
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(self.message_bytes_max))
    }

    pub(crate) async fn raft(&self, address: &str) -> Result<RaftClient<Channel>, String> {
        Ok(RaftClient::new(self.connect(address).await?)
            .max_decoding_message_size(self.message_bytes_max)
            .max_encoding_message_size(self.message_bytes_max))
    }
}

/// An error and its causes on one line.
pub(crate) fn with_sources(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

/// A request that carries the fingerprint; 0 carries none.
pub(crate) fn request<T>(message: T, fingerprint: u64, timeout: Duration) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(timeout);
    if fingerprint != 0 {
        let value = format!("{fingerprint:016x}");
        if let Ok(value) = value.parse() {
            request.metadata_mut().insert(FINGERPRINT_HEADER, value);
        }
    }
    request
}

/// Says which server a call is meant for.
pub(crate) fn meant_for<T>(mut request: Request<T>, target: NodeId) -> Request<T> {
    let value = tonic::metadata::MetadataValue::from(target.0);
    request.metadata_mut().insert(TARGET_HEADER, value);
    request
}

/// Refuses a call that is meant for another server than `own`. Older versions do not say.
#[allow(
    clippy::result_large_err,
    reason = "tonic's handlers answer with a Status"
)]
pub(crate) fn check_target<T>(request: &Request<T>, own: Option<NodeId>) -> Result<(), Status> {
    let Some(said) = request.metadata().get(TARGET_HEADER) else {
        return Ok(());
    };
    let target = said.to_str().ok().and_then(|text| text.parse().ok());
    if target.map(NodeId) == own {
        return Ok(());
    }
    Err(Status::failed_precondition(format!(
        "the call is meant for the server {said:?}, this is {own:?}"
    )))
}

/// Whether a call without a fingerprint is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fingerprint {
    Required,
    /// The caller may not know it yet. If it says one, that must be right.
    Optional,
}

/// Refuses a call that is meant for another cluster than `own`; 0 stands for no cluster.
#[allow(
    clippy::result_large_err,
    reason = "tonic's handlers answer with a Status"
)]
pub(crate) fn check_fingerprint<T>(
    request: &Request<T>,
    own: u64,
    fingerprint: Fingerprint,
) -> Result<(), Status> {
    let said = match request.metadata().get(FINGERPRINT_HEADER) {
        None if fingerprint == Fingerprint::Optional => return Ok(()),
        None => {
            return Err(Status::failed_precondition(format!(
                "the call carries no cluster fingerprint in '{FINGERPRINT_HEADER}'"
            )));
        }
        Some(value) => value
            .to_str()
            .ok()
            .and_then(|text| u64::from_str_radix(text, 16).ok())
            .ok_or_else(|| {
                Status::invalid_argument(format!(
                    "'{FINGERPRINT_HEADER}' is not sixteen hexadecimal digits"
                ))
            })?,
    };
    if own == 0 {
        return Err(Status::unavailable(
            "this node is not a member of a cluster yet",
        ));
    }
    if said != own {
        return Err(Status::failed_precondition(format!(
            "the call is meant for the cluster {said:016x}, this is {own:016x}"
        )));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn addresses_may_have_a_scheme() {
        assert_eq!(host_and_port("n1:5122"), "n1:5122");
        assert_eq!(host_and_port("http://n1:5122/"), "n1:5122");
    }

    #[tokio::test]
    async fn a_caller_that_goes_away_leaves_the_connection_in_the_making() {
        // Takes connections, and says nothing until it is told to.
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let channels = Channels::new(&MetadataOptions::default());
        let impatient = channels.connect(&address).now_or_never();
        assert!(impatient.is_none(), "the first look finds no connection");
        let making = match channels.by_address.lock().get(&address) {
            Some(Connection::Making(making)) => making.clone(),
            _ => panic!("the connection is in the making"),
        };
        let accepted = listener.accept().await.unwrap();
        assert!(channels.connect(&address).await.is_ok());
        assert!(
            making.peek().is_some(),
            "it is the one that was begun first"
        );
        drop(accepted);
        let late = Status::deadline_exceeded("late");
        channels.forget_if_broken(&address, &late);
        assert!(channels.by_address.lock().contains_key(&address));
        channels.forget_if_broken(&address, &Status::unavailable("broken"));
        assert!(!channels.by_address.lock().contains_key(&address));
    }

    #[tokio::test]
    async fn a_failed_connection_is_tried_again() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = free.local_addr().unwrap().to_string();
        drop(free);
        let channels = Channels::new(&MetadataOptions::default());
        let refused = channels.connect(&address).await.unwrap_err();
        assert!(refused.contains(&address), "{refused}");
        let listener = tokio::net::TcpListener::bind(&address).await.unwrap();
        let (connected, _accepted) = tokio::join!(channels.connect(&address), listener.accept());
        assert!(connected.is_ok(), "{connected:?}");
    }

    #[test]
    fn a_call_for_another_server_is_refused() {
        let check = |target: Option<u32>, own| {
            let request = request((), 7, Duration::from_secs(1));
            let request = match target {
                Some(target) => meant_for(request, NodeId(target)),
                None => request,
            };
            check_target(&request, own).is_ok()
        };
        assert!(check(Some(3), Some(NodeId(3))));
        assert!(!check(Some(3), Some(NodeId(1))));
        assert!(!check(Some(3), None));
        assert!(check(None, Some(NodeId(1))), "of an older version");
    }

    #[test]
    fn a_foreign_fingerprint_is_refused() {
        let check = |own, said, mode| {
            check_fingerprint(&request((), said, Duration::from_secs(1)), own, mode)
                .map_err(|status| status.code())
        };
        use tonic::Code;
        assert_eq!(check(7, 7, Fingerprint::Required), Ok(()));
        assert_eq!(check(7, 0, Fingerprint::Optional), Ok(()));
        assert_eq!(
            check(7, 0, Fingerprint::Required),
            Err(Code::FailedPrecondition)
        );
        assert_eq!(
            check(7, 8, Fingerprint::Optional),
            Err(Code::FailedPrecondition)
        );
        assert_eq!(check(0, 8, Fingerprint::Required), Err(Code::Unavailable));
    }
}
