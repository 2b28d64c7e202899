//! Three log servers in one process: a leader, followers, failures and what becomes of the records.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use abide_log::{
    AppendReply, BoxFuture, ChainStore, ChainStoreError, Conduit, Enrolment, LocalLog, LogChain,
    LogClient, LogReader, Mailbox, ReadError, Record, Sequencer, SequencerLimits, TakeOverError,
    TakeOverRequest, Taken, enrol, take_over,
};
use abide_log_server::{LogServer, LogServerOptions, LogService};
use abide_rpc::{CallError, SendError};
use abide_types::{Epoch, Lsn, NodeId, PartitionId};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

const LOG: PartitionId = PartitionId(3);

/// Delivers in memory; a node that is absent is unreachable.
#[derive(Default)]
struct Net(Mutex<BTreeMap<NodeId, Arc<LogService>>>);

struct Port {
    net: Arc<Net>,
    node: NodeId,
}

impl Port {
    /// The service of `to`, while both ends are there.
    fn service(&self, to: NodeId) -> Option<Arc<LogService>> {
        let services = self.net.0.lock();
        services
            .contains_key(&self.node)
            .then(|| services.get(&to).cloned())?
    }
}

impl Conduit for Port {
    fn send(&self, to: NodeId, payload: Bytes) -> Result<(), SendError> {
        let service = self.service(to).ok_or(SendError::Unreachable)?;
        service.message(self.node, payload);
        Ok(())
    }

    fn call(
        &self,
        to: NodeId,
        payload: Bytes,
        deadline: Duration,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let service = self.service(to);
        Box::pin(async move {
            let service = service.ok_or(CallError::Unreachable)?;
            let (reply, answer) = tokio::sync::oneshot::channel();
            service.call(payload, move |answer| drop(reply.send(answer)));
            drop(service);
            match tokio::time::timeout(deadline, answer).await {
                Ok(Ok(answer)) => answer.map_err(CallError::Refused),
                Ok(Err(_)) => Err(CallError::Broken),
                Err(_) => Err(CallError::TimedOut),
            }
        })
    }
}

/// Chains in memory.
struct Chains(Mutex<(u64, Arc<LogChain>)>, watch::Sender<Arc<LogChain>>);

impl ChainStore for Chains {
    fn load(&self, _: PartitionId) -> BoxFuture<'_, Result<(u64, LogChain), ChainStoreError>> {
        let (version, chain) = self.0.lock().clone();
        Box::pin(async move { Ok((version, (*chain).clone())) })
    }

    fn publish<'a>(
        &'a self,
        _: PartitionId,
        expected: u64,
        chain: &'a LogChain,
    ) -> BoxFuture<'a, Result<u64, ChainStoreError>> {
        Box::pin(async move {
            // What is published is read back, as from the metadata plane.
            let chain = Arc::new(LogChain::from_json(&chain.to_json()).unwrap());
            let mut current = self.0.lock();
            if current.0 != expected {
                return Err(ChainStoreError::Conflict);
            }
            *current = (expected + 1, chain.clone());
            self.1.send_replace(chain);
            Ok(expected + 1)
        })
    }

    fn subscribe(&self, _: PartitionId) -> watch::Receiver<Arc<LogChain>> {
        self.1.subscribe()
    }
}

struct Cluster {
    directory: tempfile::TempDir,
    net: Arc<Net>,
    chains: Chains,
    nodes: BTreeMap<u32, (Arc<LogClient>, Arc<LogServer>)>,
}

impl Cluster {
    fn new() -> Self {
        let mut cluster = Self {
            directory: tempfile::tempdir().unwrap(),
            net: Arc::default(),
            chains: Chains(Mutex::default(), watch::Sender::default()),
            nodes: BTreeMap::new(),
        };
        for node in 1..=3 {
            cluster.start(node);
        }
        cluster
    }

    fn path(&self, node: u32) -> PathBuf {
        self.directory.path().join(node.to_string())
    }

    fn start(&mut self, node: u32) {
        let options = LogServerOptions {
            memory_bytes: 8 << 20,
            journal_file_bytes: 1 << 20,
            recent_bytes_max: 4 << 10,
            fatal: Arc::new(|error| panic!("fatal: {error}")),
            ..Default::default()
        };
        let server = LogServer::open(&self.path(node), options).unwrap();
        let port = Arc::new(Port {
            net: self.net.clone(),
            node: NodeId(node),
        });
        let local: Arc<dyn LocalLog> = server.clone();
        let client = LogClient::new(NodeId(node), port.clone(), Some(local));
        let service = LogService::new(client.clone(), Some(server.clone()), port);
        self.net.0.lock().insert(NodeId(node), service);
        self.nodes.insert(node, (client, server));
    }

    /// The node and all that it had in memory are gone when this returns.
    async fn kill(&mut self, node: u32) {
        let service = self.net.0.lock().remove(&NodeId(node));
        let (client, server) = self.nodes.remove(&node).unwrap();
        let gone = Arc::downgrade(&server);
        drop((service, client, server));
        while gone.strong_count() > 0 {
            tokio::task::yield_now().await;
        }
    }

    fn client(&self, node: u32) -> &Arc<LogClient> {
        &self.nodes[&node].0
    }

    async fn try_lead(&self, node: u32, epoch: u64) -> Result<Leader, TakeOverError> {
        let nodes = (1..=3).map(NodeId).collect();
        let mut request = TakeOverRequest::new(LOG, Epoch(epoch), nodes, 2);
        request.deadline = Duration::from_secs(5);
        request.limits = SequencerLimits {
            window_bytes_max: 2000,
            ..SequencerLimits::default()
        };
        let client = self.client(node).clone();
        let taken = take_over(&client, &self.chains, request).await?;
        Ok(Leader::new(client, taken))
    }

    async fn lead(&self, node: u32, epoch: u64) -> Leader {
        self.try_lead(node, epoch).await.unwrap()
    }

    fn reader(&self, node: u32) -> LogReader {
        LogReader::new(self.client(node).clone(), LOG, self.chains.subscribe(LOG))
    }
}

struct Leader {
    client: Arc<LogClient>,
    chain: LogChain,
    suffix: Vec<Record>,
    sequencer: Sequencer,
    mailbox: Arc<Mailbox>,
    replies: Vec<(NodeId, AppendReply)>,
}

impl Leader {
    fn new(client: Arc<LogClient>, taken: Taken) -> Self {
        Self {
            client,
            chain: taken.chain,
            suffix: taken.suffix,
            sequencer: taken.sequencer,
            mailbox: taken.mailbox,
            replies: Vec::new(),
        }
    }

    fn append(&mut self, count: u64) {
        for _ in 0..count {
            let lsn = self.sequencer.next();
            let payload = format!("{}/{lsn} {}", self.sequencer.epoch(), "x".repeat(100));
            self.sequencer.append(payload.into());
        }
    }

    /// One turn of a leader's loop. False when a higher epoch was met.
    async fn turn(&mut self) -> bool {
        let mut out = Vec::new();
        self.client.send(&mut self.sequencer, &mut out);
        let mut reads = Vec::new();
        self.sequencer.poll_reads(&mut reads);
        for read in reads {
            let segment = self.chain.last().unwrap();
            let (client, from, end) = (&self.client, read.from, read.end);
            match LogReader::read_own(client, LOG, segment, from, end, 2000).await {
                Ok(records) => self.sequencer.on_read(read.node, records),
                Err(ReadError::Trimmed { first, .. }) => self.sequencer.on_trimmed(first),
                Err(_) => self.sequencer.on_read_failed(read.node),
            }
        }
        self.client.send(&mut self.sequencer, &mut out);
        let tick = Duration::from_millis(20);
        match tokio::time::timeout(tick, self.mailbox.take(&mut self.replies)).await {
            Ok(()) => {
                for (node, reply) in self.replies.drain(..) {
                    if self.sequencer.on_ack(node, reply).is_err() {
                        return false;
                    }
                }
            }
            Err(_) => self.sequencer.tick(),
        }
        true
    }

    async fn commit(&mut self) {
        while self.sequencer.committed() < self.sequencer.next() {
            assert!(self.turn().await, "still in office");
        }
        let mut out = Vec::new();
        self.client.send_commit(&mut self.sequencer, &mut out);
    }

    async fn settle(&mut self) {
        while !self.sequencer.is_settled() {
            assert!(self.turn().await, "still in office");
        }
        let mut out = Vec::new();
        self.client.send_commit(&mut self.sequencer, &mut out);
    }
}

/// Reads `[1, end)` and checks that it is dense; returns who wrote which stretch.
async fn read_all(reader: &mut LogReader, end: u64) -> Vec<(String, u64)> {
    let mut next = Lsn(1);
    let mut stretches: Vec<(String, u64)> = Vec::new();
    while next < Lsn(end) {
        let read = reader.read(next, 3000);
        let records = tokio::time::timeout(Duration::from_secs(10), read)
            .await
            .unwrap()
            .unwrap();
        for record in records {
            assert_eq!(record.lsn(), next);
            next = next.next();
            let payload = String::from_utf8(record.into_payload().to_vec()).unwrap();
            let (writer, rest) = payload.split_once('/').unwrap();
            assert!(rest.starts_with(&next.previous().to_string()));
            match stretches.last_mut() {
                Some((last, count)) if last == writer => *count += 1,
                _ => stretches.push((writer.to_owned(), 1)),
            }
        }
    }
    assert_eq!(next, Lsn(end));
    stretches
}

fn tail(cluster: &Cluster, node: u32) -> Vec<(u64, u64)> {
    let tail = cluster.nodes[&node].1.tail(LOG);
    tail.segments
        .iter()
        .map(|segment| (segment.epoch.0, segment.tail.0))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_reads_what_is_committed_while_it_is_written() {
    let cluster = Cluster::new();
    let mut leader = cluster.lead(1, 1).await;
    let mut follower = cluster.reader(2);
    let reading = tokio::spawn(async move { read_all(&mut follower, 301).await });
    for _ in 0..30 {
        leader.append(10);
        leader.commit().await;
    }
    assert_eq!(reading.await.unwrap(), [("e1".to_owned(), 300)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replica_that_was_away_catches_up_from_memory_and_disk() {
    let mut cluster = Cluster::new();
    let mut leader = cluster.lead(1, 1).await;
    leader.append(20);
    leader.settle().await;
    cluster.kill(3).await;
    // Far more than the window and the recent records hold.
    for _ in 0..20 {
        leader.append(20);
        leader.commit().await;
    }
    assert_eq!(tail(&cluster, 2), [(1, 421)]);
    cluster.start(3);
    assert_eq!(tail(&cluster, 3), [(1, 21)]);
    leader.sequencer.on_connected(NodeId(3));
    leader.append(1);
    leader.settle().await;
    assert_eq!(tail(&cluster, 3), [(1, 422)]);
    // It is worth a quorum together with the leader's own.
    cluster.kill(2).await;
    leader.append(5);
    leader.commit().await;
    assert_eq!(
        read_all(&mut cluster.reader(3), 427).await,
        [("e1".to_owned(), 426)]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_moves_and_the_deposed_finds_out() {
    let mut cluster = Cluster::new();
    let mut first = cluster.lead(1, 1).await;
    first.append(10);
    first.commit().await;
    let mut second = cluster.lead(2, 2).await;
    assert_eq!(second.sequencer.committed(), Lsn(11));
    second.append(5);
    second.commit().await;
    // The first still believes in itself, until it writes.
    first.append(1);
    while first.turn().await {}
    assert!(matches!(
        cluster.try_lead(1, 2).await,
        Err(TakeOverError::Refused(_))
    ));
    drop(second);
    cluster.kill(2).await;
    let mut third = cluster.lead(3, 3).await;
    third.append(5);
    third.commit().await;
    cluster.start(2);
    third.sequencer.on_connected(NodeId(2));
    third.settle().await;
    for node in 1..=3 {
        let read = read_all(&mut cluster.reader(node), 21).await;
        let written = [("e1", 10), ("e2", 5), ("e3", 5)];
        assert_eq!(
            read,
            written.map(|(writer, count)| (writer.to_owned(), count))
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_committed_is_handed_over_or_lost_but_never_both() {
    let mut cluster = Cluster::new();
    let mut first = cluster.lead(1, 1).await;
    first.append(10);
    first.settle().await;
    // Only the leader's own log server gets these.
    cluster.kill(2).await;
    cluster.kill(3).await;
    first.append(3);
    first.turn().await;
    first.turn().await;
    assert_eq!(first.sequencer.committed(), Lsn(11));
    cluster.start(2);
    cluster.start(3);
    let mut second = cluster.lead(1, 2).await;
    second.commit().await;
    // The replica that has them was among the first to answer the fence, or it was not.
    let tail = second.sequencer.committed();
    assert!(tail == Lsn(11) || tail == Lsn(14), "{tail}");
    assert_eq!(second.suffix.last().unwrap().lsn().next(), tail);
    let read = read_all(&mut cluster.reader(3), tail.0).await;
    assert_eq!(read, [("e1".to_owned(), tail.0 - 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_nodes_restart() {
    let mut cluster = Cluster::new();
    let mut first = cluster.lead(1, 1).await;
    first.append(200);
    first.commit().await;
    drop(first);
    for node in 1..=3 {
        cluster.kill(node).await;
    }
    for node in 1..=3 {
        cluster.start(node);
    }
    let mut second = cluster.lead(3, 2).await;
    assert_eq!(second.sequencer.committed(), Lsn(201));
    second.append(1);
    second.commit().await;
    let read = read_all(&mut cluster.reader(1), 202).await;
    assert_eq!(read.iter().map(|(_, count)| count).sum::<u64>(), 201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_replica_counts_again_once_it_is_enrolled() {
    let mut cluster = Cluster::new();
    let mut leader = cluster.lead(1, 1).await;
    leader.append(50);
    leader.settle().await;
    cluster.kill(3).await;
    std::fs::remove_dir_all(cluster.path(3)).unwrap();
    cluster.start(3);
    // It does not count as an answer: with node 2 gone there is no quorum for a fence.
    let second = cluster.nodes.remove(&2).unwrap();
    let service = cluster.net.0.lock().remove(&NodeId(2)).unwrap();
    let refused = {
        let nodes = (1..=3).map(NodeId).collect();
        let mut request = TakeOverRequest::new(LOG, Epoch(2), nodes, 2);
        request.deadline = Duration::from_millis(300);
        take_over(cluster.client(3), &cluster.chains, request).await
    };
    let refused = refused.err().unwrap().to_string();
    assert!(refused.contains("answers to its fence"), "{refused}");
    cluster.nodes.insert(2, second);
    cluster.net.0.lock().insert(NodeId(2), service);
    // The next leader's segment takes it in as it is.
    drop(leader);
    let mut leader = cluster.lead(1, 3).await;
    leader.append(10);
    leader.settle().await;
    // Wiped once more, under a leader in office: it is filled up and enrolled.
    cluster.kill(3).await;
    std::fs::remove_dir_all(cluster.path(3)).unwrap();
    cluster.start(3);
    leader.sequencer.on_connected(NodeId(3));
    leader.append(1);
    leader.settle().await;
    let (node, storage) = leader.sequencer.enrollable().unwrap();
    assert_eq!(node, NodeId(3));
    let enrolled = enrol(&cluster.chains, LOG, Epoch(3), node, storage).await;
    assert_eq!(enrolled, Enrolment::Enrolled);
    leader.sequencer.on_enrolled(node, storage);
    assert_eq!(leader.sequencer.enrollable(), None);
    cluster.kill(2).await;
    leader.append(1);
    leader.commit().await;
    assert_eq!(leader.sequencer.committed(), Lsn(63));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_corrupt_record_is_read_from_another_replica() {
    let mut cluster = Cluster::new();
    let mut first = cluster.lead(1, 1).await;
    first.append(30);
    first.settle().await;
    // A closed segment, so that node 2 serves its readers from disk.
    let mut second = cluster.lead(1, 2).await;
    second.append(1);
    second.settle().await;
    cluster.kill(2).await;
    {
        let db = rocksdb::DB::open_default(cluster.path(2).join("db")).unwrap();
        let mut key = vec![6, 0, 3];
        key.extend(1_u64.to_be_bytes());
        key.extend(17_u64.to_be_bytes());
        let mut value = db.get(&key).unwrap().unwrap();
        *value.last_mut().unwrap() ^= 1;
        db.put(&key, &value).unwrap();
        db.flush().unwrap();
    }
    cluster.start(2);
    second.sequencer.on_connected(NodeId(2));
    second.settle().await;
    let read = read_all(&mut cluster.reader(2), 32).await;
    assert_eq!(read, [("e1".to_owned(), 30), ("e2".to_owned(), 1)]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trimmed_records_are_told_apart_from_missing_ones() {
    let mut cluster = Cluster::new();
    let mut leader = cluster.lead(1, 1).await;
    leader.append(50);
    leader.settle().await;
    cluster.kill(3).await;
    leader.append(50);
    leader.commit().await;
    let wait = Duration::from_secs(1);
    for node in 1..=2 {
        let point = cluster
            .client(1)
            .trim(NodeId(node), LOG, Lsn(80), wait)
            .await
            .unwrap();
        assert_eq!(point, Lsn(80));
    }
    let refused = cluster.reader(1).read(Lsn(79), 1000).await.unwrap_err();
    assert_eq!(refused.to_string(), "log 3 begins at 80");
    // The one that was away is told to jump over what nobody has any more.
    cluster.start(3);
    leader.sequencer.on_connected(NodeId(3));
    leader.append(1);
    leader.settle().await;
    assert_eq!(tail(&cluster, 3), [(1, 102)]);
    let records = cluster.reader(3).read(Lsn(80), 1 << 20).await.unwrap();
    assert_eq!(records[0].lsn(), Lsn(80));
    // A takeover of a trimmed log.
    let next = cluster.lead(2, 2).await;
    assert_eq!(next.sequencer.committed(), Lsn(102));
}
