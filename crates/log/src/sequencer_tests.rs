#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;

use super::*;
use crate::message::Refusal;
use crate::replica::{Admission, ReplicaLog};
use proptest::prelude::*;

const LOG: PartitionId = PartitionId(7);
const EPOCH: Epoch = Epoch(3);

fn storage(node: NodeId) -> StorageId {
    StorageId(u64::from(node.0) * 10)
}

fn segment(nodes: u32, write_quorum: usize) -> Segment {
    let member = |node| Member {
        node: NodeId(node),
        storage: Some(storage(NodeId(node))),
    };
    Segment::open(
        EPOCH,
        Lsn(5),
        (1..=nodes).map(member).collect(),
        write_quorum,
    )
    .unwrap()
}

fn reply(node: u32, outcome: AppendOutcome) -> (NodeId, AppendReply) {
    let node = NodeId(node);
    let reply = AppendReply {
        partition: LOG,
        epoch: EPOCH,
        storage: storage(node),
        outcome,
    };
    (node, reply)
}

fn stored(node: u32, tail: u64) -> (NodeId, AppendReply) {
    reply(node, AppendOutcome::Stored { tail: Lsn(tail) })
}

fn ack(sequencer: &mut Sequencer, (node, reply): (NodeId, AppendReply)) -> bool {
    sequencer.on_ack(node, reply).unwrap()
}

/// Three replicas, two to commit; published and empty.
fn leader(limits: SequencerLimits) -> Sequencer {
    let mut sequencer = Sequencer::new(LOG, &segment(3, 2), Vec::new(), limits);
    sequencer.poll_send(&mut Vec::new());
    for node in 1..=3 {
        ack(&mut sequencer, stored(node, 5));
    }
    sequencer.on_published();
    sequencer
}

/// What leaves: node, first LSN, records, commit.
fn sent(sequencer: &mut Sequencer) -> Vec<(u32, u64, usize, u64)> {
    let mut out = Vec::new();
    sequencer.poll_send(&mut out);
    out.iter()
        .map(|(node, append)| {
            (
                node.0,
                append.first.0,
                append.records.len(),
                append.committed.0,
            )
        })
        .collect()
}

#[test]
fn a_write_quorum_commits() {
    let mut sequencer = leader(SequencerLimits::default());
    assert_eq!(sequencer.append("a".into()), Lsn(5));
    assert_eq!(sequencer.append("b".into()), Lsn(6));
    assert_eq!(
        sent(&mut sequencer),
        [(1, 5, 2, 5), (2, 5, 2, 5), (3, 5, 2, 5)]
    );
    assert_eq!(sent(&mut sequencer), []);
    assert!(!ack(&mut sequencer, stored(1, 7)));
    assert!(ack(&mut sequencer, stored(2, 6)));
    assert_eq!(sequencer.committed(), Lsn(6));
    assert!(sequencer.owes_commit());
    sequencer.append("c".into());
    assert_eq!(
        sent(&mut sequencer),
        [(1, 7, 1, 6), (2, 7, 1, 6), (3, 7, 1, 6)]
    );
    assert!(!sequencer.owes_commit(), "the record carried it");
    assert!(ack(&mut sequencer, stored(3, 8)));
    assert_eq!(sequencer.committed(), Lsn(7));
    let mut out = Vec::new();
    sequencer.poll_commit(&mut out);
    assert!(
        out.iter()
            .all(|(_, notice)| notice.records.is_empty() && !notice.probe)
    );
    assert_eq!(out.len(), 3);
    assert!(!sequencer.owes_commit());
}

#[test]
fn nothing_is_committed_before_the_segment_is_published() {
    let record = |lsn| Record::new(LOG, EPOCH, Lsn(lsn), "x".into());
    let suffix = vec![record(5), record(6)];
    let mut sequencer = Sequencer::new(LOG, &segment(3, 2), suffix, SequencerLimits::default());
    assert_eq!(
        sent(&mut sequencer),
        [(1, 5, 2, 5), (2, 5, 2, 5), (3, 5, 2, 5)]
    );
    assert!(!ack(&mut sequencer, stored(1, 7)));
    assert!(!sequencer.is_safe_to_publish());
    assert!(!ack(&mut sequencer, stored(2, 7)));
    assert!(sequencer.is_safe_to_publish());
    assert_eq!(sequencer.committed(), Lsn(5));
    sequencer.on_published();
    assert_eq!(sequencer.committed(), Lsn(7));
}

#[test]
fn a_fence_deposes() {
    let mut sequencer = leader(SequencerLimits::default());
    let fenced = |promised| reply(2, AppendOutcome::Fenced { promised });
    let (node, lower) = fenced(Epoch(2));
    assert!(
        sequencer.on_ack(node, lower).is_ok(),
        "no promise below the own epoch deposes"
    );
    let (node, higher) = fenced(Epoch(9));
    let deposed = sequencer.on_ack(node, higher).unwrap_err();
    assert_eq!(deposed.to_string(), "log 7 was fenced by e9");
}

#[test]
fn gaps_and_reconnections_start_the_stream_over() {
    let mut sequencer = leader(SequencerLimits::default());
    for _ in 0..4 {
        sequencer.append("x".into());
        sent(&mut sequencer);
    }
    let gap = |tail| reply(2, AppendOutcome::Gap { tail: Lsn(tail) });
    ack(&mut sequencer, gap(6));
    assert_eq!(sent(&mut sequencer), [(2, 6, 3, 5)]);
    ack(&mut sequencer, gap(6));
    assert_eq!(sent(&mut sequencer), [], "the same loss once");
    sequencer.on_disconnected(NodeId(3));
    sequencer.append("y".into());
    assert_eq!(
        sent(&mut sequencer),
        [(1, 9, 1, 6), (2, 9, 1, 6)].map(|(n, f, c, _)| (n, f, c, 5))
    );
    sequencer.on_connected(NodeId(3));
    assert_eq!(sent(&mut sequencer), [(3, 5, 5, 5)]);
    ack(
        &mut sequencer,
        reply(1, AppendOutcome::Refused(Refusal::DiskFull)),
    );
    sequencer.append("z".into());
    assert_eq!(sent(&mut sequencer), [(2, 10, 1, 5), (3, 10, 1, 5)]);
    sequencer.tick();
    assert!(
        sent(&mut sequencer).contains(&(1, 5, 6, 5)),
        "asked again after a tick"
    );
}

#[test]
fn losses_that_nobody_noticed_are_found_by_a_probe() {
    let mut sequencer = leader(SequencerLimits::default());
    sequencer.append("x".into());
    sent(&mut sequencer);
    ack(&mut sequencer, stored(1, 6));
    ack(&mut sequencer, stored(2, 6));
    assert!(!sequencer.is_settled());
    sequencer.tick();
    let mut out = Vec::new();
    sequencer.poll_send(&mut out);
    assert_eq!(out.len(), 1);
    assert!(out[0].0 == NodeId(3) && out[0].1.probe && out[0].1.first == Lsn(6));
    ack(
        &mut sequencer,
        reply(3, AppendOutcome::Gap { tail: Lsn(5) }),
    );
    assert_eq!(sent(&mut sequencer), [(3, 5, 1, 6)]);
    ack(&mut sequencer, stored(3, 6));
    assert!(sequencer.is_settled());
}

#[test]
fn a_replica_below_the_window_is_fed_from_a_log_server() {
    let mut sequencer = leader(SequencerLimits::default());
    sequencer.on_disconnected(NodeId(3));
    for _ in 0..10 {
        sequencer.append("x".into());
    }
    sent(&mut sequencer);
    ack(&mut sequencer, stored(1, 15));
    ack(&mut sequencer, stored(2, 15));
    assert!(
        sequencer.record(Lsn(14)).is_none(),
        "nobody connected waits for it"
    );
    sequencer.on_connected(NodeId(3));
    assert_eq!(sent(&mut sequencer), [(3, 5, 0, 15)], "only a probe");
    let mut reads = Vec::new();
    sequencer.poll_reads(&mut reads);
    let lacking = CatchUp {
        node: NodeId(3),
        from: Lsn(5),
        end: Lsn(15),
    };
    assert_eq!(reads, [lacking]);
    let record = |lsn| Record::new(LOG, EPOCH, Lsn(lsn), "x".into());
    sequencer.on_read(NodeId(3), (5..9).map(record).collect());
    assert_eq!(sent(&mut sequencer), [(3, 5, 4, 15)]);
    reads.clear();
    sequencer.poll_reads(&mut reads);
    assert_eq!(reads, [], "the ack is the pace");
    ack(&mut sequencer, stored(3, 9));
    sequencer.poll_reads(&mut reads);
    assert_eq!(reads.len(), 1);
    // What it lacks was trimmed meanwhile: it is told so, and jumps.
    sequencer.on_trimmed(Lsn(12));
    let mut out = Vec::new();
    sequencer.poll_send(&mut out);
    assert_eq!(out.len(), 1);
    let (first, trimmed) = (out[0].1.first, out[0].1.trimmed);
    assert_eq!((first, trimmed, out[0].1.probe), (Lsn(12), Lsn(12), true));
    ack(&mut sequencer, stored(3, 12));
    reads.clear();
    sequencer.poll_reads(&mut reads);
    assert_eq!((reads[0].from, reads[0].end), (Lsn(12), Lsn(15)));
    sequencer.on_read(NodeId(3), (12..15).map(record).collect());
    assert_eq!(sent(&mut sequencer), [(3, 12, 3, 15)]);
    ack(&mut sequencer, stored(3, 15));
    assert!(sequencer.is_settled());
}

#[test]
fn another_disk_does_not_count_until_it_is_enrolled() {
    let mut sequencer = leader(SequencerLimits::default());
    sequencer.on_disconnected(NodeId(2));
    let lsn = sequencer.append("x".into());
    sent(&mut sequencer);
    let (node, mut other) = stored(3, 6);
    other.storage = StorageId(999);
    assert!(!sequencer.on_ack(node, other).unwrap());
    ack(&mut sequencer, stored(1, 6));
    assert_eq!(
        sequencer.committed(),
        lsn,
        "one voter and one stranger are no quorum"
    );
    assert_eq!(sequencer.enrollable(), Some((node, StorageId(999))));
    assert!(sequencer.on_enrolled(node, StorageId(999)));
    assert_eq!(sequencer.committed(), lsn.next());
}

#[derive(Debug, Clone)]
enum Event {
    Append,
    Send,
    Deliver(usize, bool),
    Answer(usize, bool),
    Disconnect(u32),
    Connect(u32),
    Tick,
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => Just(Event::Append),
        4 => Just(Event::Send),
        8 => (any::<usize>(), any::<bool>()).prop_map(|(which, again)| Event::Deliver(which, again)),
        8 => (any::<usize>(), any::<bool>()).prop_map(|(which, again)| Event::Answer(which, again)),
        1 => (1u32..=3).prop_map(Event::Disconnect),
        1 => (1u32..=3).prop_map(Event::Connect),
        1 => Just(Event::Tick),
    ]
}

/// Replicas as log servers keep them, and a network that loses, repeats and reorders.
struct World {
    sequencer: Sequencer,
    replicas: BTreeMap<NodeId, ReplicaLog>,
    appends: Vec<(NodeId, AppendRequest)>,
    replies: Vec<(NodeId, AppendReply)>,
}

impl World {
    fn deliver(&mut self, node: NodeId, append: &AppendRequest) {
        let log = self.replicas.get_mut(&node).unwrap();
        let (base, first) = (append.base, append.first);
        let outcome = match log.append(EPOCH, base, first, append.records.len(), append.committed) {
            Admission::Answer(outcome) => outcome,
            Admission::Store { tail, .. } => AppendOutcome::Stored { tail },
        };
        self.replies.push(reply(node.0, outcome));
    }

    fn take<T: Clone>(from: &mut Vec<T>, which: usize, again: bool) -> Option<T> {
        let index = which.checked_rem(from.len())?;
        match again {
            true => Some(from[index].clone()),
            false => Some(from.swap_remove(index)),
        }
    }

    fn step(&mut self, event: Event) {
        match event {
            Event::Append => {
                self.sequencer.append("payload".into());
            }
            Event::Send => {
                self.sequencer.poll_send(&mut self.appends);
                self.sequencer.poll_commit(&mut self.appends);
                let mut reads = Vec::new();
                self.sequencer.poll_reads(&mut reads);
                for read in reads {
                    let lsns = read.from.0..read.end.0.min(read.from.0 + 3);
                    let record = |lsn| Record::new(LOG, EPOCH, Lsn(lsn), "payload".into());
                    self.sequencer
                        .on_read(read.node, lsns.map(record).collect());
                }
            }
            Event::Deliver(which, again) => {
                if let Some((node, append)) = Self::take(&mut self.appends, which, again) {
                    self.deliver(node, &append);
                }
            }
            Event::Answer(which, again) => {
                if let Some((node, reply)) = Self::take(&mut self.replies, which, again) {
                    self.sequencer.on_ack(node, reply).unwrap();
                }
            }
            Event::Disconnect(node) => {
                self.appends.retain(|(to, _)| to.0 != node);
                self.sequencer.on_disconnected(NodeId(node));
            }
            Event::Connect(node) => self.sequencer.on_connected(NodeId(node)),
            Event::Tick => self.sequencer.tick(),
        }
    }

    /// What is said to be committed is on two of three disks.
    fn check(&self) {
        let tails = self.replicas.values().filter_map(|log| log.tail(EPOCH));
        let mut tails: Vec<Lsn> = tails.collect();
        let safe = quorum_tail(&mut tails, 2).unwrap_or(Lsn(5));
        assert!(self.sequencer.committed() <= safe);
        let mut lsn = self.sequencer.committed();
        while lsn < self.sequencer.next() {
            assert!(
                self.sequencer.record(lsn).is_some(),
                "uncommitted records stay in memory"
            );
            lsn = lsn.next();
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn commits_are_safe_and_everything_heals(events in prop::collection::vec(event(), 0..200), flight in 100usize..1000) {
        let limits = SequencerLimits { flight_bytes_max: flight, append_bytes_max: flight / 2, window_bytes_max: 300 };
        let mut world = World {
            sequencer: leader(limits),
            replicas: (1..=3).map(|node| (NodeId(node), ReplicaLog::default())).collect(),
            appends: Vec::new(),
            replies: Vec::new(),
        };
        for replica in world.replicas.values_mut() {
            replica.append(EPOCH, Lsn(5), Lsn(5), 0, Lsn(5));
        }
        for event in events {
            world.step(event);
            world.check();
        }
        // Nothing is lost from here on: everybody gets everything.
        for node in 1..=3 {
            world.step(Event::Connect(node));
        }
        for _ in 0..2000 {
            if world.sequencer.is_settled() && world.appends.is_empty() && world.replies.is_empty() {
                break;
            }
            world.step(Event::Send);
            for (node, append) in std::mem::take(&mut world.appends) {
                world.deliver(node, &append);
            }
            for (node, reply) in std::mem::take(&mut world.replies) {
                world.sequencer.on_ack(node, reply).unwrap();
            }
            world.step(Event::Tick);
            world.check();
        }
        prop_assert!(world.sequencer.is_settled());
        prop_assert_eq!(world.sequencer.committed(), world.sequencer.next());
        for replica in world.replicas.values() {
            prop_assert_eq!(replica.tail(EPOCH), Some(world.sequencer.next()));
        }
    }
}
