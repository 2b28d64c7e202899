//! The chains of all logs, kept as documents of the metadata plane.

use std::collections::HashMap;
use std::sync::Arc;

use abide_log::{BoxFuture, ChainStore, ChainStoreError, LogChain};
use abide_metadata::{CommitError, Metadata, Txn, View, keys};
use abide_types::PartitionId;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Reads and replaces chains, and feeds readers from the node's cache.
pub struct Chains {
    metadata: Metadata,
    followed: Mutex<HashMap<PartitionId, Followed>>,
}

struct Followed {
    version: u64,
    chain: watch::Sender<Arc<LogChain>>,
}

impl Chains {
    /// Over `metadata`. [`Self::follow`] has to run for subscriptions to move.
    pub fn new(metadata: Metadata) -> Arc<Self> {
        Arc::new(Self {
            metadata,
            followed: Mutex::default(),
        })
    }

    /// Passes changes of the cache on to subscribers; ends with the cache.
    pub async fn follow(self: Arc<Self>) {
        let mut views = self.metadata.watch();
        loop {
            let view = views.borrow_and_update().clone();
            for (partition, followed) in &mut *self.followed.lock() {
                Self::update(*partition, followed, &view);
            }
            if views.changed().await.is_err() {
                return;
            }
        }
    }

    fn update(partition: PartitionId, followed: &mut Followed, view: &View) {
        let Some(stored) = view.raw(&keys::log(partition)) else {
            return;
        };
        if stored.version == followed.version {
            return;
        }
        followed.version = stored.version;
        match LogChain::from_json(&stored.value) {
            Ok(chain) => drop(followed.chain.send_replace(Arc::new(chain))),
            Err(error) => {
                tracing::error!(%partition, %error, "log chain not understood; the one before it stays")
            }
        }
    }
}

impl ChainStore for Chains {
    fn load(
        &self,
        partition: PartitionId,
    ) -> BoxFuture<'_, Result<(u64, LogChain), ChainStoreError>> {
        Box::pin(async move {
            let stored = (self.metadata.read(&keys::log(partition)).await)
                .map_err(|error| ChainStoreError::Unavailable(Box::new(error)))?;
            let Some(stored) = stored else {
                return Ok((0, LogChain::default()));
            };
            let chain = LogChain::from_json(&stored.value)
                .map_err(|error| ChainStoreError::Unavailable(Box::new(error)))?;
            Ok((stored.version, chain))
        })
    }

    fn publish<'a>(
        &'a self,
        partition: PartitionId,
        expected: u64,
        chain: &'a LogChain,
    ) -> BoxFuture<'a, Result<u64, ChainStoreError>> {
        Box::pin(async move {
            let key = keys::log(partition);
            let txn = Txn::new().expect(&key, expected).put(&key, chain.to_json());
            self.metadata
                .commit(txn)
                .await
                .map_err(|error| match error {
                    CommitError::Conflict { .. } => ChainStoreError::Conflict,
                    error => ChainStoreError::Unavailable(Box::new(error)),
                })
        })
    }

    fn subscribe(&self, partition: PartitionId) -> watch::Receiver<Arc<LogChain>> {
        let mut followed = self.followed.lock();
        let followed = followed.entry(partition).or_insert_with(|| Followed {
            version: 0,
            chain: watch::Sender::new(Arc::new(LogChain::default())),
        });
        Self::update(partition, followed, &self.metadata.view());
        followed.chain.subscribe()
    }
}
