//! Forming a cluster, exactly once.

use std::collections::BTreeMap;
use std::sync::Arc;

use abide_rpc::proto::metadata as pb;
use abide_types::{Generation, NodeId};
use openraft::EmptyNode;
use openraft::async_runtime::WatchReceiver;
use rand::Rng as _;

use super::announce::{identify, others};
use super::core::Core;
use super::leader::{Proposed, transaction};
use crate::documents::{
    ClusterDocument, Document as _, NodeEntry, NodeState, Nodes, Replication, Supports,
};
use crate::errors::ProvisionError;
use crate::options::ProvisionSettings;
use crate::transport::host_and_port;
use crate::txn::Txn;

/// The node that forms a cluster is its first.
const FIRST: NodeId = NodeId(1);

impl Core {
    /// Forms a cluster with this server as its first member.
    pub(crate) async fn provision(
        self: &Arc<Self>,
        settings: ProvisionSettings,
        documents: Vec<pb::FirstDocument>,
    ) -> Result<u64, ProvisionError> {
        settings.validate().map_err(ProvisionError::Invalid)?;
        let _becoming = self.becoming.lock().await;
        let already = |fingerprint| ProvisionError::AlreadyProvisioned { fingerprint };
        let mut identity = self.identity();
        if identity.node != 0 {
            return Err(already(identity.fingerprint));
        }
        if let Some(fingerprint) = self.cluster_at_addresses().await {
            return Err(already(fingerprint));
        }
        let fingerprint = rand::rng().random_range(1..=u64::MAX);
        identity.node = FIRST.0;
        identity.fingerprint = fingerprint;
        identity.provisioning = Some(pb::ProvisionSpec {
            cluster_name: self.description.cluster_name.clone(),
            partitions: settings.partitions.into(),
            replicas: settings.replication.replicas.into(),
            write_quorum: settings.replication.write_quorum.into(),
            zones: settings.replication.zones.into(),
            regions: settings.replication.regions.into(),
            fingerprint,
            documents,
        });
        // From here on this directory belongs to the new cluster, whatever happens: a restart goes on where
        // this was interrupted.
        self.become_member(identity).await?;
        self.start_raft().await?;
        self.finish_provisioning().await?;
        Ok(fingerprint)
    }

    /// The fingerprint of a cluster that a node at the configured addresses belongs to.
    pub(crate) async fn cluster_at_addresses(&self) -> Option<u64> {
        let asked = others(self).into_iter().map(|address| async move {
            let reply = identify(self, &address, None).await.ok()?;
            (reply.fingerprint != 0).then_some(reply.fingerprint)
        });
        futures::future::join_all(asked)
            .await
            .into_iter()
            .flatten()
            .next()
    }

    /// Does what is left of a provisioning that this directory began.
    pub(crate) async fn finish_provisioning(self: &Arc<Self>) -> Result<(), ProvisionError> {
        let mut identity = self.identity();
        let (Some(spec), Some(raft)) = (identity.provisioning.clone(), self.raft()) else {
            return Ok(());
        };
        let unavailable = |detail: String| ProvisionError::Unavailable { detail };
        let first = BTreeMap::from([(u64::from(FIRST.0), EmptyNode {})]);
        if !raft
            .is_initialized()
            .await
            .map_err(|error| unavailable(error.to_string()))?
        {
            raft.initialize(first)
                .await
                .map_err(|error| unavailable(error.to_string()))?;
        }
        let txn = transaction(first_documents(self, &spec));
        let committed = async {
            let mut metrics = raft.server_metrics();
            loop {
                match self.propose(txn.clone()).await {
                    // A conflict means that it was done before.
                    Proposed::Committed(_) | Proposed::Conflict(_) => return Ok(()),
                    Proposed::Undecided => {}
                    Proposed::NotLeader(_) => {
                        // Becoming a leader shows here; that its first entry is committed does not always.
                        let changed =
                            tokio::time::timeout(self.options.retry_pause_max, metrics.changed());
                        if let Ok(Err(_)) = changed.await {
                            return Err(unavailable("raft stopped".into()));
                        }
                        metrics.borrow_watched();
                    }
                }
            }
        };
        tokio::time::timeout(self.options.request_timeout, committed)
            .await
            .unwrap_or_else(|_| {
                Err(unavailable("the first server did not become leader".into()))
            })?;
        identity = self.identity();
        identity.provisioning = None;
        self.become_member(identity).await?;
        tracing::info!(
            cluster = spec.cluster_name,
            fingerprint = format!("{:016x}", spec.fingerprint),
            "provisioned"
        );
        Ok(())
    }
}

fn first_documents(core: &Core, spec: &pb::ProvisionSpec) -> Txn {
    let small = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
    let cluster = ClusterDocument {
        version: 0,
        name: spec.cluster_name.clone(),
        fingerprint: spec.fingerprint,
        partitions: u16::try_from(spec.partitions).unwrap_or(u16::MAX),
        replication: Replication {
            replicas: small(spec.replicas),
            write_quorum: small(spec.write_quorum),
            zones: small(spec.zones),
            regions: small(spec.regions),
        },
        ..ClusterDocument::default()
    };
    let description = &core.description;
    let mut nodes = Nodes {
        next_id: FIRST.0 + 1,
        ..Nodes::default()
    };
    nodes.nodes.insert(
        FIRST,
        NodeEntry {
            name: description.name.clone(),
            // Registering the start, which follows, makes it the first.
            generation: Generation(0),
            address: host_and_port(&description.address).to_owned(),
            ingress_address: description.ingress_address.clone(),
            admin_address: description.admin_address.clone(),
            roles: description.roles.clone(),
            location: description.location.clone(),
            state: NodeState::Active,
            directory: core.identity().directory,
            never_votes: false,
            supports: Supports::default(),
        },
    );
    let first = Txn::new()
        .expect(ClusterDocument::KEY, 0)
        .replace(&nodes)
        .put(ClusterDocument::KEY, cluster.to_bytes());
    (spec.documents.iter()).fold(first, |txn, document| {
        txn.put(&document.key, document.value.clone())
    })
}
