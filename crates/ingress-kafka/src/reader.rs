//! Reads one subscription's topic on this node, for as long as it is subscribed.
//!
//! A session is the life of one Kafka client: it joins the group, reads what it is assigned, delivers it, and stores the
//! offsets of what is accepted. What does not pass by itself ends the session, and another one begins after a pause.
//! One task owns everything here. Start at [`Reader::run`].
//!
//! What is on its way when a session or an assignment ends may yet be accepted; whoever reads on sends it again, and the
//! receiver knows it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use abide_processor::Router;
use abide_processor::api::{Ingested, Produced, Producer};
use abide_schema::{KafkaProperties, Schema, Subscription};
use abide_types::PartitionId;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer as _;
use rdkafka::error::KafkaResult;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::client::{self, Consumer, Told};
use crate::metrics::Metrics;
use crate::record::{Record, producer};
use crate::source::{Batch, Source};
use crate::subscriptions::KafkaOptions;
use crate::trace;

/// Pause before the first and the longest pause between tries: of a session, of a delivery, of a record that cannot be
/// made an invocation.
const RETRY_AFTER: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// Records that are taken from the client before they are sent.
const RECORDS_A_ROUND_MAX: usize = 256;
/// The client takes a reader that asks for nothing for dead. One that has had no room for so long asks for events only.
const FULL_FOR: Duration = Duration::from_secs(3);
/// How long a broker may take to say where a partition begins.
const WATERMARKS_WITHIN: Duration = Duration::from_secs(5);
/// How long the client may take to commit and to leave its group, at the end.
const CLOSED_WITHIN: Duration = Duration::from_secs(5);

/// Reads for one subscription.
pub(crate) struct Reader {
    pub(crate) subscription: Subscription,
    /// Of the client: the cluster's and the subscription's.
    pub(crate) properties: KafkaProperties,
    pub(crate) options: KafkaOptions,
    pub(crate) router: Router,
    pub(crate) schema: watch::Receiver<Arc<Schema>>,
}

impl Reader {
    /// Reads until `stop`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let id = self.subscription.id;
        let mut pause = RETRY_AFTER.0;
        while !stop.is_cancelled() {
            let (ended, progress) = self.session(&stop).await;
            let Err(error) = ended else { return };
            if progress {
                pause = RETRY_AFTER.0;
            }
            tracing::warn!(subscription = %id, topic = self.subscription.topic, %error, again_in = ?pause,
                "reading ended");
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(RETRY_AFTER.1),
            }
        }
    }

    /// One client's life. Also whether anything was accepted in it.
    async fn session(&mut self, stop: &CancellationToken) -> (KafkaResult<()>, bool) {
        let (sender, told) = mpsc::unbounded_channel();
        let connected = client::connect(
            self.subscription.id.to_string(),
            self.subscription.topic.clone(),
            &self.properties,
            sender,
        );
        let consumer = match connected {
            Ok(consumer) => Arc::new(consumer),
            Err(error) => return (Err(error), false),
        };
        let mut session = Session {
            reader: self,
            consumer: Arc::clone(&consumer),
            readings: BTreeMap::new(),
            assignments: 0,
            on_its_way: FuturesUnordered::new(),
            bytes: 0,
            full: Full::No,
            begins: FuturesUnordered::new(),
            progress: false,
        };
        let ended = session.run(told, stop).await;
        let progress = session.progress;
        drop(session);
        close(consumer).await;
        (ended, progress)
    }
}

/// Commits what is stored and leaves the group. The client does that with its thread, which may take as long as the
/// brokers do; nobody has to wait for that.
async fn close(consumer: Arc<Consumer>) {
    let (sender, closed) = oneshot::channel();
    let thread = std::thread::Builder::new().name("kafka-close".to_owned());
    let spawned = thread.spawn(move || {
        drop(consumer);
        let _ = sender.send(());
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "a Kafka client was closed in place");
        return;
    }
    let _ = tokio::time::timeout(CLOSED_WITHIN, closed).await;
}

/// One partition of the topic, while it is assigned to this client.
struct Reading {
    /// Tells this assignment from others of the same partition.
    assignment: u64,
    producer: Producer,
    source: Source<Produced>,
    /// The lowest offset that may come.
    next: i64,
    /// What cannot be made an invocation, and what came behind it.
    held: VecDeque<Record>,
    retry: Option<Retry>,
    told_of_repetitions: bool,
    metrics: Metrics,
}

/// When a record that was refused is looked at again.
struct Retry {
    at: Instant,
    pause: Duration,
}

/// A batch that was accepted.
struct Delivered {
    partition: i32,
    assignment: u64,
    batch: Batch<Produced>,
    ingested: Ingested,
}

/// Whether there is room for more records.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Full {
    No,
    /// There has been none since; the client is not asked.
    Since(Instant),
    /// For long: the client is asked, but fetches nothing.
    Paused,
}

type OnItsWay = Pin<Box<dyn Future<Output = Delivered> + Send>>;
/// Where a partition of the topic begins now.
type Begins = Pin<Box<dyn Future<Output = (i32, Option<i64>)> + Send>>;

struct Session<'a> {
    reader: &'a mut Reader,
    consumer: Arc<Consumer>,
    readings: BTreeMap<i32, Reading>,
    assignments: u64,
    on_its_way: FuturesUnordered<OnItsWay>,
    /// Of all records that were read and are not accepted.
    bytes: usize,
    full: Full,
    begins: FuturesUnordered<Begins>,
    progress: bool,
}

impl Session<'_> {
    async fn run(
        &mut self,
        mut told: mpsc::UnboundedReceiver<Told>,
        stop: &CancellationToken,
    ) -> KafkaResult<()> {
        let consumer = Arc::clone(&self.consumer);
        consumer.subscribe(&[&self.reader.subscription.topic])?;
        let mut stream = consumer.stream();
        loop {
            let full_for = match self.full {
                Full::Since(since) => Some(since + FULL_FOR),
                Full::No | Full::Paused => None,
            };
            let retry = self.next_retry();
            tokio::select! {
                biased;
                () = stop.cancelled() => return Ok(()),
                Some(told) = told.recv() => self.on_told(told)?,
                Some(delivered) = self.on_its_way.next(), if !self.on_its_way.is_empty() => {
                    self.on_delivered(delivered)?;
                }
                changed = self.reader.schema.changed() => {
                    if changed.is_err() {
                        return Ok(());
                    }
                    self.look_again(None)?;
                }
                () = sleep_until(retry.unwrap_or_else(Instant::now)), if retry.is_some() => {
                    self.look_again(Some(Instant::now()))?;
                }
                Some((partition, first)) = self.begins.next(), if !self.begins.is_empty() => {
                    self.on_begins(partition, first)?;
                }
                () = sleep_until(full_for.unwrap_or_else(Instant::now)), if full_for.is_some() => {
                    self.pause_all()?;
                }
                Some(message) = stream.next(), if full_for.is_none() => {
                    let mut touched = BTreeSet::new();
                    self.on_message(message, &mut touched)?;
                    for _ in 1..RECORDS_A_ROUND_MAX {
                        if self.full != Full::No {
                            break;
                        }
                        let Some(Some(message)) = stream.next().now_or_never() else { break };
                        self.on_message(message, &mut touched)?;
                    }
                    for (partition, to) in touched {
                        self.send(partition, to);
                    }
                }
            }
        }
    }

    fn on_told(&mut self, told: Told) -> KafkaResult<()> {
        let id = self.reader.subscription.id;
        match told {
            Told::Assigned(partitions) => {
                tracing::info!(subscription = %id, ?partitions, "reads");
                for partition in partitions {
                    self.assign(partition);
                }
                if self.full == Full::Paused {
                    return self.pause_all();
                }
            }
            Told::Revoked(partitions) => {
                tracing::info!(subscription = %id, ?partitions, "reads no more");
                for partition in partitions {
                    self.forget(partition);
                }
            }
            Told::Lag(behind) => {
                for (partition, records) in behind {
                    if let Some(reading) = self.readings.get(&partition) {
                        reading.metrics.lag(records);
                    }
                }
            }
        }
        Ok(())
    }

    /// What of a partition is not on its way is left to whoever reads it next.
    fn forget(&mut self, partition: i32) {
        if let Some(reading) = self.readings.remove(&partition) {
            let held: usize = reading.held.iter().map(Record::bytes).sum();
            self.bytes -= held + reading.source.waiting_bytes();
        }
    }

    fn assign(&mut self, partition: i32) -> &mut Reading {
        let subscription = &self.reader.subscription;
        let group = self.reader.properties.get("group.id");
        let group = group.map_or("", String::as_str);
        self.assignments += 1;
        let reading = Reading {
            assignment: self.assignments,
            producer: Producer {
                id: producer(subscription, group, partition),
                subscription: subscription.id,
            },
            source: Source::default(),
            next: 0,
            held: VecDeque::new(),
            retry: None,
            told_of_repetitions: false,
            metrics: Metrics::new(subscription, partition),
        };
        self.readings.entry(partition).or_insert(reading)
    }

    /// Takes a record in. Also notes which lane has something to send.
    fn on_message(
        &mut self,
        message: KafkaResult<rdkafka::message::BorrowedMessage<'_>>,
        touched: &mut BTreeSet<(i32, PartitionId)>,
    ) -> KafkaResult<()> {
        let record = match message {
            Ok(message) => Record::from(&message),
            Err(error) if client::is_passing(&error) => {
                tracing::debug!(subscription = %self.reader.subscription.id, %error, "waits for a broker");
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        let partition = record.partition;
        let known = self.readings.get(&partition);
        if known.is_some_and(|reading| record.offset < reading.next) {
            tracing::warn!(subscription = %self.reader.subscription.id, topic = self.reader.subscription.topic,
                partition, offset = record.offset, "offsets went back; what was taken before is not taken again");
            self.forget(partition);
        }
        if !self.readings.contains_key(&partition) {
            self.assign(partition);
        }
        self.bytes += record.bytes();
        if self.full == Full::No && self.bytes >= self.reader.options.inflight_bytes_max {
            self.full = Full::Since(Instant::now());
        }
        if let Some(reading) = self.readings.get_mut(&partition) {
            reading.next = record.offset + 1;
            reading.held.push_back(record);
            if reading.retry.is_none() {
                self.take_held(partition, touched)?;
            }
        }
        Ok(())
    }

    /// Makes invocations of what is held, up to the first record of which none can be made: everything behind it in
    /// its partition waits with it.
    fn take_held(
        &mut self,
        partition: i32,
        touched: &mut BTreeSet<(i32, PartitionId)>,
    ) -> KafkaResult<()> {
        let Some(reading) = self.readings.get_mut(&partition) else {
            return Ok(());
        };
        let subscription = &self.reader.subscription;
        let schema = self.reader.schema.borrow().clone();
        while let Some(record) = reading.held.front() {
            match record.invocation(subscription, &reading.producer.id, &schema) {
                Ok(mut produced) => {
                    let tracer = &self.reader.options.tracer;
                    if tracer.is_on() {
                        trace::read(
                            tracer,
                            subscription,
                            &reading.producer.id,
                            record,
                            &mut produced,
                        );
                    }
                    let to = self.reader.router.partition_of(&produced.invocation.id);
                    reading
                        .source
                        .push(record.offset, to, record.bytes(), produced);
                    touched.insert((partition, to));
                    reading.held.pop_front();
                }
                Err(refused) => {
                    let pause = (reading.retry.take())
                        .map_or(RETRY_AFTER.0, |retry| (retry.pause * 2).min(RETRY_AFTER.1));
                    tracing::warn!(subscription = %subscription.id, topic = subscription.topic, partition,
                        offset = record.offset, error = %refused, again_in = ?pause,
                        "a record cannot be made an invocation; its partition waits for it");
                    reading.metrics.blocked.set(1.0);
                    let at = Instant::now() + pause;
                    reading.retry = Some(Retry { at, pause });
                    // What is fetched behind it would only take room.
                    let one = list(&subscription.topic, [partition]);
                    return self.consumer.pause(&one);
                }
            }
        }
        if reading.retry.take().is_some() {
            reading.metrics.blocked.set(0.0);
            if self.full != Full::Paused {
                let one = list(&subscription.topic, [partition]);
                return self.consumer.resume(&one);
            }
        }
        Ok(())
    }

    fn next_retry(&self) -> Option<Instant> {
        let retries = self
            .readings
            .values()
            .filter_map(|reading| reading.retry.as_ref());
        retries.map(|retry| retry.at).min()
    }

    /// Looks at refused records again: at all of them, or at those that are due.
    fn look_again(&mut self, due: Option<Instant>) -> KafkaResult<()> {
        let refused: Vec<i32> = self
            .readings
            .iter()
            .filter(|(_, reading)| {
                let retry = reading.retry.as_ref();
                retry.is_some_and(|retry| due.is_none_or(|now| retry.at <= now))
            })
            .map(|(partition, _)| *partition)
            .collect();
        for partition in refused {
            let mut touched = BTreeSet::new();
            self.take_held(partition, &mut touched)?;
            for (partition, to) in touched {
                self.send(partition, to);
            }
            self.ask_where_it_begins(partition);
        }
        Ok(())
    }

    /// A record that cannot be taken may be gone from the topic meanwhile: deleting it there is how an operator gets
    /// past it.
    fn ask_where_it_begins(&mut self, partition: i32) {
        let waits_long = self.readings.get(&partition).is_some_and(|reading| {
            let retry = reading.retry.as_ref();
            retry.is_some_and(|retry| retry.pause * 4 > RETRY_AFTER.1)
        });
        if !waits_long {
            return;
        }
        let consumer = Arc::clone(&self.consumer);
        let topic = self.reader.subscription.topic.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let found = consumer.fetch_watermarks(&topic, partition, WATERMARKS_WITHIN);
            found.ok().map(|(first, _)| first)
        });
        self.begins.push(Box::pin(
            async move { (partition, asked.await.ok().flatten()) },
        ));
    }

    fn on_begins(&mut self, partition: i32, first: Option<i64>) -> KafkaResult<()> {
        let (Some(first), Some(reading)) = (first, self.readings.get_mut(&partition)) else {
            return Ok(());
        };
        let mut is_gone = false;
        while let Some(record) = reading.held.pop_front_if(|record| record.offset < first) {
            tracing::warn!(subscription = %self.reader.subscription.id, partition, offset = record.offset,
                "a record that could not be made an invocation was deleted from its topic");
            self.bytes -= record.bytes();
            is_gone = true;
        }
        if is_gone {
            self.look_again(None)
        } else {
            Ok(())
        }
    }

    /// Sends the next batch of a lane, if it may.
    fn send(&mut self, partition: i32, to: PartitionId) {
        let Some(reading) = self.readings.get_mut(&partition) else {
            return;
        };
        let bytes_max = self.reader.options.batch_bytes_max;
        let Some(batch) = reading.source.next_batch(to, bytes_max) else {
            return;
        };
        let (router, producer) = (self.reader.router.clone(), reading.producer.clone());
        let assignment = reading.assignment;
        self.on_its_way.push(Box::pin(async move {
            let ingested = deliver(&router, &producer, &batch).await;
            Delivered {
                partition,
                assignment,
                batch,
                ingested,
            }
        }));
    }

    fn on_delivered(&mut self, delivered: Delivered) -> KafkaResult<()> {
        let Delivered {
            partition,
            assignment,
            batch,
            ingested,
        } = delivered;
        self.progress = true;
        self.bytes -= batch.bytes;
        // The assignment may have ended, and another one begun, while the batch was on its way.
        let reading = self.readings.get_mut(&partition);
        if let Some(reading) = reading.filter(|reading| reading.assignment == assignment) {
            reading.metrics.taken.increment(batch.offsets.len() as u64);
            reading.metrics.repetitions.increment(ingested.known.into());
            if ingested.known > 0 && !reading.told_of_repetitions {
                reading.told_of_repetitions = true;
                tracing::info!(subscription = %self.reader.subscription.id, partition,
                    "records that were taken before are passed over");
            }
            if let Some(offset) = reading.source.accepted(batch.to, &batch.offsets) {
                let topic = &self.reader.subscription.topic;
                // Fails when the partition was just taken away, of which the client tells next.
                if let Err(error) = self.consumer.store_offset(topic, partition, offset) {
                    tracing::debug!(subscription = %self.reader.subscription.id, partition, offset, %error,
                        "offset not stored");
                }
            }
            self.send(partition, batch.to);
        }
        if self.full != Full::No && self.bytes < self.reader.options.inflight_bytes_max {
            return self.make_room();
        }
        Ok(())
    }

    fn make_room(&mut self) -> KafkaResult<()> {
        if self.full == Full::Paused {
            let going_on = self
                .readings
                .iter()
                .filter(|(_, reading)| reading.retry.is_none());
            let going_on = going_on.map(|(partition, _)| *partition);
            let going_on = list(&self.reader.subscription.topic, going_on);
            self.consumer.resume(&going_on)?;
        }
        self.full = Full::No;
        Ok(())
    }

    fn pause_all(&mut self) -> KafkaResult<()> {
        tracing::warn!(subscription = %self.reader.subscription.id, bytes = self.bytes,
            "records wait for partitions of the cluster; reading pauses");
        let all = list(
            &self.reader.subscription.topic,
            self.readings.keys().copied(),
        );
        self.full = Full::Paused;
        self.consumer.pause(&all)
    }
}

fn list(topic: &str, partitions: impl IntoIterator<Item = i32>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(topic, partition);
    }
    list
}

/// Sends a batch until it is accepted; what is sent twice is taken once.
async fn deliver(router: &Router, producer: &Producer, batch: &Batch<Produced>) -> Ingested {
    let mut pause = RETRY_AFTER.0;
    loop {
        match router
            .ingest(batch.to, producer, batch.messages.clone())
            .await
        {
            Ok(ingested) => return ingested,
            Err(error) => {
                tracing::warn!(subscription = %producer.subscription, %error, again_in = ?pause,
                    "records are not accepted");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(RETRY_AFTER.1);
            }
        }
    }
}
