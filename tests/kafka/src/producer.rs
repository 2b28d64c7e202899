//! Writes records, each once, whatever happens to the broker meanwhile.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord};

/// A record to be written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Record<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Its partition; `None` lets the key decide.
    pub partition: Option<i32>,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value; `None` is a tombstone.
    pub value: Option<&'a [u8]>,
    /// The headers.
    pub headers: &'a [(&'a str, &'a str)],
}

/// Writes records.
#[derive(Clone)]
pub struct Producer {
    client: FutureProducer,
}

impl Producer {
    /// Writes to the broker at `address`.
    pub fn new(address: &str) -> Producer {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", address)
            .set("enable.idempotence", "true")
            .set("linger.ms", "2")
            .set("reconnect.backoff.max.ms", "500")
            .set("message.timeout.ms", "120000");
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        Producer {
            client: config.create().unwrap(),
        }
    }

    /// Writes a record and returns its partition and offset.
    pub async fn write(&self, record: Record<'_>) -> (i32, i64) {
        let headers = record.headers.iter();
        let headers = headers.fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header {
                key,
                value: Some(*value),
            })
        });
        let written = FutureRecord::<[u8], [u8]> {
            topic: record.topic,
            partition: record.partition,
            payload: record.value,
            key: record.key,
            timestamp: None,
            headers: Some(headers),
        };
        let delivered = self.client.send(written, Duration::from_secs(120)).await;
        let delivery = delivered.unwrap_or_else(|(error, _)| panic!("not written: {error}"));
        (delivery.partition, delivery.offset)
    }
}
