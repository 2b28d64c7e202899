//! The client that every node has.
//!
//! [`route`] finds the server that can do what is asked, [`operations`] are the things to ask, [`feed`] keeps
//! the cache.

mod feed;
mod operations;
mod route;

use std::sync::Arc;
use std::time::Duration;

use abide_rpc::proto::metadata as pb;
use abide_rpc::proto::metadata::join_refusal::Reason;
use abide_types::{Generation, NodeId, Role};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use self::operations::{Commit, Committed, Join, Read, Remove};
use self::route::{CallError, Route, jittered};
use crate::errors::{CommitError, JoinError, MetadataError, ProvisionError, RemoveError};
use crate::options::{MetadataOptions, NodeDescription, ProvisionSettings};
use crate::server::{Core, ServerStatus, status_from, transaction};
use crate::transport::{Channels, host_and_port, request};
use crate::txn::{Txn, Versioned};
use crate::view::View;

/// How often a node that waits for its cluster says so in the log.
const WAITING_LOGGED_EVERY: Duration = Duration::from_secs(10);

/// Who a node is in its cluster, from this start on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joined {
    /// The node.
    pub node: NodeId,
    /// This start.
    pub generation: Generation,
    /// The cluster.
    pub fingerprint: u64,
}

/// Reads, watches and changes the metadata. Cheap to clone. It talks to the server in this process where
/// there is one, else to others by gRPC; follows hints to the leader; and tries again until a deadline.
#[derive(Clone)]
pub struct Metadata {
    inner: Arc<Inner>,
}

struct Inner {
    route: Arc<Route>,
    feed: JoinHandle<()>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

impl Metadata {
    /// Registers a node that runs no metadata server, trying `options.addresses` until one answers, and
    /// starts its client. Waits for as long as the cluster is not provisioned. The view that comes with it has
    /// the registration, unless it took longer than a request may.
    pub async fn join(
        options: MetadataOptions,
        node: NodeDescription,
    ) -> Result<(Self, Joined), JoinError> {
        options.validate().map_err(JoinError::Invalid)?;
        let channels = Arc::new(Channels::new(&options));
        let route = Route::new(options.clone(), Arc::clone(&channels), 0, None);
        let (joined, version) = join_patiently(&route, join_request(&node, None)).await?;
        let route = Arc::new(Route::new(options, channels, joined.fingerprint, None));
        let metadata = Self::remote(route);
        metadata.wait_for_registration(version).await;
        Ok((metadata, joined))
    }

    /// A client that is no node: for tools.
    pub async fn connect(options: MetadataOptions) -> Result<Self, MetadataError> {
        let channels = Arc::new(Channels::new(&options));
        let mut detail = "no address is configured".to_owned();
        let mut provisioned = true;
        for address in &options.addresses {
            let asked = identify(&channels, address, &options);
            match asked.await {
                Ok(reply) if reply.fingerprint != 0 => {
                    let route = Route::new(options, channels, reply.fingerprint, None);
                    return Ok(Self::remote(Arc::new(route)));
                }
                Ok(_) => provisioned = false,
                Err(error) => detail = error,
            }
        }
        if provisioned {
            Err(MetadataError::Unavailable { detail })
        } else {
            Err(MetadataError::NotProvisioned)
        }
    }

    /// The client beside a server.
    pub(crate) fn local(core: Arc<Core>, fingerprint: u64) -> Self {
        let route = Arc::new(Route::new(
            core.options.clone(),
            Arc::clone(&core.channels),
            fingerprint,
            Some(Arc::clone(&core)),
        ));
        feed::advance(&route, &core);
        let feed = tokio::spawn(feed::from_local(core, Arc::clone(&route)));
        Self {
            inner: Arc::new(Inner { route, feed }),
        }
    }

    /// A node begins with a view that it is in.
    pub(crate) async fn wait_for_registration(&self, version: u64) {
        let timeout = self.inner.route.options.request_timeout;
        if let Err(error) = self.view_at_least(version, timeout).await {
            tracing::warn!(%error, "registered, but that is not to be seen yet");
        }
    }

    fn remote(route: Arc<Route>) -> Self {
        let feed = tokio::spawn(feed::from_remote(Arc::clone(&route)));
        Self {
            inner: Arc::new(Inner { route, feed }),
        }
    }

    /// Asks the server at `address` to form a cluster; returns the fingerprint. An empty name stands for the
    /// one that the server is configured with.
    pub async fn provision(
        address: &str,
        cluster_name: &str,
        settings: ProvisionSettings,
        options: &MetadataOptions,
    ) -> Result<u64, ProvisionError> {
        use pb::provision_reply::Outcome;
        settings.validate().map_err(ProvisionError::Invalid)?;
        let unavailable = |detail: String| ProvisionError::Unavailable { detail };
        let channels = Channels::new(options);
        let message = pb::ProvisionRequest {
            spec: Some(pb::ProvisionSpec {
                cluster_name: cluster_name.to_owned(),
                partitions: settings.partitions.into(),
                replicas: settings.replication.replicas.into(),
                write_quorum: settings.replication.write_quorum.into(),
                zones: settings.replication.zones.into(),
                regions: settings.replication.regions.into(),
                fingerprint: 0,
                documents: Vec::new(),
            }),
        };
        let mut client = channels
            .metadata(host_and_port(address))
            .await
            .map_err(unavailable)?;
        let timeout = options.request_timeout;
        let asked = client.provision(request(message, 0, timeout));
        let reply = tokio::time::timeout(timeout, asked)
            .await
            .map_err(|_| unavailable(format!("{address} did not answer within {timeout:?}")))?
            .map_err(|status| unavailable(format!("{address}: {}", status.message())))?;
        match reply.into_inner().outcome {
            Some(Outcome::Provisioned(fingerprint)) => Ok(fingerprint),
            Some(Outcome::AlreadyProvisioned(fingerprint)) => {
                Err(ProvisionError::AlreadyProvisioned { fingerprint })
            }
            Some(Outcome::Invalid(detail)) => Err(ProvisionError::Invalid(detail)),
            None => Err(unavailable(format!(
                "{address}: the reply is not understood"
            ))),
        }
    }

    /// The cluster that this client belongs to.
    pub fn fingerprint(&self) -> u64 {
        self.inner.route.fingerprint
    }

    /// The cache, and every change of it.
    pub fn watch(&self) -> watch::Receiver<Arc<View>> {
        self.inner.route.view.subscribe()
    }

    /// The cache as it is now.
    pub fn view(&self) -> Arc<View> {
        self.inner.route.view.borrow().clone()
    }

    /// The cache once it is complete up to `version`: a committed transaction is in the view of the
    /// version that it returned.
    pub async fn view_at_least(
        &self,
        version: u64,
        timeout: Duration,
    ) -> Result<Arc<View>, MetadataError> {
        let mut views = self.watch();
        let reached = views.wait_for(|view| view.version >= version);
        match tokio::time::timeout(timeout, reached).await {
            Ok(Ok(view)) => Ok(Arc::clone(&view)),
            Ok(Err(_)) | Err(_) => Err(MetadataError::Unavailable {
                detail: format!(
                    "the view is at version {}, behind {version}",
                    self.view().version
                ),
            }),
        }
    }

    /// Reads a key linearizably.
    pub async fn read(&self, key: &str) -> Result<Option<Versioned>, MetadataError> {
        let route = &self.inner.route;
        route
            .call(&Read(key), route.options.request_timeout)
            .await
            .map_err(|error| match error {
                CallError::NotDone(detail) | CallError::Unknown(detail) => {
                    MetadataError::Unavailable { detail }
                }
                CallError::Refused { address, detail } => {
                    MetadataError::Refused { address, detail }
                }
            })
    }

    /// Commits a transaction; returns the version that the written keys have now. It takes effect at most
    /// once, however often it was tried.
    pub async fn commit(&self, txn: Txn) -> Result<u64, CommitError> {
        let route = &self.inner.route;
        let commit = Commit(transaction(txn));
        match route.call(&commit, route.options.request_timeout).await {
            Ok(Committed::At(version)) => Ok(version),
            Ok(Committed::Conflict(conflict)) => Err(CommitError::Conflict {
                key: conflict.key,
                expected: conflict.expected,
                actual: conflict.actual,
            }),
            Ok(Committed::Invalid(detail)) => Err(CommitError::Refused { detail }),
            Err(CallError::NotDone(detail)) => Err(CommitError::Unavailable { detail }),
            Err(CallError::Unknown(detail)) => Err(CommitError::Unknown { detail }),
            Err(CallError::Refused { address, detail }) => Err(CommitError::Refused {
                detail: format!("{address}: {detail}"),
            }),
        }
    }

    /// Takes a node out of the metadata plane's voters, then marks it as removed.
    pub async fn remove_node(&self, node: NodeId) -> Result<(), RemoveError> {
        let route = &self.inner.route;
        match route
            .call(&Remove(node), route.options.request_timeout)
            .await
        {
            Ok(Ok(_version)) => Ok(()),
            Ok(Err(detail)) => Err(RemoveError::Refused(detail)),
            Err(CallError::NotDone(detail) | CallError::Unknown(detail)) => {
                Err(RemoveError::Unavailable { detail })
            }
            Err(CallError::Refused { address, detail }) => {
                Err(RemoveError::Refused(format!("{address}: {detail}")))
            }
        }
    }

    /// What every metadata server says of itself; an error stands for one that does not answer.
    pub async fn servers(&self) -> Vec<(NodeId, Result<ServerStatus, MetadataError>)> {
        let view = self.view();
        let asked = view
            .nodes
            .with_role(Role::MetadataServer)
            .map(|(node, entry)| async move { (node, self.status_of(&entry.address).await) });
        futures::future::join_all(asked).await
    }

    async fn status_of(&self, address: &str) -> Result<ServerStatus, MetadataError> {
        let route = &self.inner.route;
        let timeout = route.options.attempt_timeout;
        let unavailable = |detail: String| MetadataError::Unavailable { detail };
        let asked = async {
            let mut client = route
                .channels
                .metadata(host_and_port(address))
                .await
                .map_err(unavailable)?;
            let message = pb::StatusRequest {};
            let reply = client
                .status(request(message, route.fingerprint, timeout))
                .await
                .map_err(|status| match status.code() {
                    tonic::Code::FailedPrecondition => MetadataError::Refused {
                        address: address.to_owned(),
                        detail: status.message().to_owned(),
                    },
                    _ => unavailable(format!("{address}: {}", status.message())),
                })?;
            Ok(status_from(reply.get_ref()))
        };
        tokio::time::timeout(timeout, asked)
            .await
            .unwrap_or_else(|_| {
                Err(unavailable(format!(
                    "{address} did not answer within {timeout:?}"
                )))
            })
    }

    /// Why the node should start again, once the cluster was recovered without this client: it has another
    /// fingerprint since. Stays `None` beside a server, which notices by itself.
    pub fn superseded(&self) -> watch::Receiver<Option<String>> {
        self.inner.route.superseded.subscribe()
    }

    /// Stops feeding the cache, of clones too. What is asked later is still asked.
    pub fn close(&self) {
        self.inner.feed.abort();
    }
}

async fn identify(
    channels: &Channels,
    address: &str,
    options: &MetadataOptions,
) -> Result<pb::IdentifyReply, String> {
    let timeout = options.attempt_timeout;
    let asked = async {
        let mut client = channels.metadata(host_and_port(address)).await?;
        client
            .identify(request(pb::IdentifyRequest::default(), 0, timeout))
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| format!("{address}: {}", status.message()))
    };
    tokio::time::timeout(timeout, asked)
        .await
        .unwrap_or_else(|_| Err(format!("{address} did not answer within {timeout:?}")))
}

fn join_request(node: &NodeDescription, identity: Option<&pb::IdentityRecord>) -> pb::JoinRequest {
    pb::JoinRequest {
        cluster_name: node.cluster_name.clone(),
        name: node.name.clone(),
        address: host_and_port(&node.address).to_owned(),
        ingress_address: node.ingress_address.clone().unwrap_or_default(),
        admin_address: node.admin_address.clone().unwrap_or_default(),
        roles: node.roles.iter().map(ToString::to_string).collect(),
        location: node.location.clone(),
        node: identity.map_or(0, |identity| identity.node),
        directory: identity.map_or(0, |identity| identity.directory),
        generation_min: identity.map_or(0, |identity| identity.generation),
    }
}

/// Registers a start, trying until somebody can.
async fn join_patiently(route: &Route, join: pb::JoinRequest) -> Result<(Joined, u64), JoinError> {
    let name = join.name.clone();
    let join = Join(join);
    loop {
        match route.call(&join, WAITING_LOGGED_EVERY).await {
            Ok(Ok(joined)) => return Ok(joined),
            Ok(Err(refusal)) => return Err(refused(refusal, name)),
            Err(CallError::Refused { address, detail }) => {
                return Err(JoinError::Refused { address, detail });
            }
            Err(CallError::NotDone(detail) | CallError::Unknown(detail)) => {
                tracing::warn!(detail, "waiting for the cluster");
                tokio::time::sleep(jittered(route.options.retry_pause_max)).await;
            }
        }
    }
}

fn refused(refusal: pb::JoinRefusal, name: String) -> JoinError {
    let node = NodeId(refusal.node);
    match refusal.reason() {
        Reason::OtherCluster => JoinError::OtherCluster {
            detail: refusal.detail,
        },
        Reason::NameTaken => JoinError::NameTaken { name, node },
        Reason::Removed => JoinError::Removed { node },
        Reason::Invalid | Reason::Unknown => JoinError::Invalid(refusal.detail),
    }
}

/// Registers a start of the node beside a server: also when somebody provisions that server meanwhile, and
/// not beyond its shutdown.
pub(crate) async fn join_until_stopped(core: &Arc<Core>) -> Result<(Joined, u64), JoinError> {
    let mut stopping = core.stopping();
    let mut identities = core.identity_changes();
    loop {
        let identity = identities.borrow_and_update().clone();
        if identity.provisioning.is_some() {
            // A provisioning that was interrupted, or one that runs: either way it has to be done first.
            let _becoming = core.becoming.lock().await;
            if let Err(error) = core.finish_provisioning().await {
                tracing::warn!(%error, "provisioning takes longer");
                continue;
            }
        }
        let identity = identities.borrow_and_update().clone();
        let local = (identity.node != 0).then(|| Arc::clone(core));
        let route = Route::new(
            core.options.clone(),
            Arc::clone(&core.channels),
            identity.fingerprint,
            local,
        );
        tokio::select! {
            joined = join_patiently(&route, join_request(&core.description, Some(&identity))) => {
                return joined;
            }
            _ = identities.changed() => {}
            _ = stopping.wait_for(|stopping| *stopping) => return Err(JoinError::Stopped),
        }
    }
}
