//! Which subscriptions are read on this node: all of them, as the schema has them now.

use std::collections::HashMap;
use std::sync::Arc;

use abide_processor::Router;
use abide_schema::{KafkaProperties, Schema};
use abide_telemetry::Tracer;
use abide_types::SubscriptionId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::reader::Reader;

/// What an operator can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaOptions {
    /// Bytes of records of one subscription that were read and are not accepted yet.
    pub inflight_bytes_max: usize,
    /// Bytes of records that are sent together; one record may be larger.
    pub batch_bytes_max: usize,
    /// Takes the spans of records.
    pub tracer: Tracer,
}

impl Default for KafkaOptions {
    fn default() -> Self {
        Self {
            inflight_bytes_max: 4 << 20,
            batch_bytes_max: 256 << 10,
            tracer: Tracer::off(),
        }
    }
}

/// Reads the topics of all subscriptions on one node.
pub struct KafkaIngress {
    options: KafkaOptions,
    router: Router,
    schema: watch::Receiver<Arc<Schema>>,
    readers: HashMap<SubscriptionId, Running>,
}

struct Running {
    properties: KafkaProperties,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl KafkaIngress {
    /// `schema` follows the metadata.
    pub fn new(
        options: KafkaOptions,
        router: Router,
        schema: watch::Receiver<Arc<Schema>>,
    ) -> Self {
        Self {
            options,
            router,
            schema,
            readers: HashMap::new(),
        }
    }

    /// Reads until `stop`; then commits what is accepted and leaves the groups.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            self.follow();
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.schema.changed() => if changed.is_err() { break },
            }
        }
        for running in self.readers.values() {
            running.stop.cancel();
        }
        for (_, running) in self.readers.drain() {
            // A reader that panicked has been reported; there is nothing of it to end.
            let _ = running.task.await;
        }
    }

    /// Starts, restarts and stops readers so that they are those of the schema.
    fn follow(&mut self) {
        let schema = self.schema.borrow_and_update().clone();
        self.readers.retain(|id, running| {
            let wanted = schema.subscription(*id).is_some();
            if !wanted {
                running.stop.cancel();
            }
            wanted
        });
        for subscription in schema.subscriptions() {
            let properties = schema.consumer_properties(subscription);
            let running = self.readers.get(&subscription.id);
            if running.map(|running| &running.properties) == properties.as_ref() {
                continue;
            }
            let before = self.readers.remove(&subscription.id);
            if let Some(before) = &before {
                before.stop.cancel();
            }
            let Some(properties) = properties else {
                tracing::warn!(subscription = %subscription.id, cluster = subscription.cluster,
                    "not read: there is no such Kafka cluster");
                continue;
            };
            let reader = Reader {
                subscription: subscription.clone(),
                properties: properties.clone(),
                options: self.options.clone(),
                router: self.router.clone(),
                schema: self.schema.clone(),
            };
            let stop = CancellationToken::new();
            let stopping = stop.clone();
            let task = tokio::spawn(async move {
                // Two clients of one name in a group would take turns.
                if let Some(before) = before {
                    let _ = before.task.await;
                }
                reader.run(stopping).await;
            });
            self.readers.insert(
                subscription.id,
                Running {
                    properties,
                    stop,
                    task,
                },
            );
        }
    }
}
