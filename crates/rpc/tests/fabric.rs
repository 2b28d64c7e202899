//! Fabrics on ephemeral ports that talk, part and meet again.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abide_rpc::{
    CallError, Fabric, FabricOptions, Handler, Identity, Peer, PeerState, Reply, SendError,
    Service, Sniffed, sniff,
};
use abide_types::{Generation, NodeId};
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(10);
const CLUSTER: u64 = 0xfeed;

/// Gives up loudly instead of hanging.
async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(PATIENCE, what)
        .await
        .expect("nothing happened for too long")
}

/// Answers `echo…` with itself, keeps `hold…` waiting, refuses `no…`, drops `drop…`; tells of messages.
struct Recorder {
    messages: mpsc::UnboundedSender<(NodeId, Bytes)>,
    held: Mutex<Vec<Reply>>,
}

impl Handler for Recorder {
    fn on_message(&self, from: NodeId, payload: Bytes) {
        let _ = self.messages.send((from, payload));
    }

    fn on_call(&self, _from: NodeId, payload: Bytes, reply: Reply) {
        if payload.starts_with(b"hold") {
            let _ = self.messages.send((NodeId(0), payload));
            self.held.lock().push(reply);
        } else if payload.starts_with(b"no") {
            reply.refuse("not today");
        } else if !payload.starts_with(b"drop") {
            reply.send(payload);
        }
    }
}

/// One process as far as the fabric is concerned.
struct Node {
    fabric: Arc<Fabric>,
    address: String,
    messages: mpsc::UnboundedReceiver<(NodeId, Bytes)>,
    listening: JoinHandle<()>,
}

fn options() -> FabricOptions {
    FabricOptions {
        heartbeat_interval: Duration::from_millis(20),
        silence_timeout: Duration::from_secs(2),
        ..FabricOptions::default()
    }
}

fn identity(node: u32, generation: u32) -> Identity {
    Identity {
        fingerprint: CLUSTER,
        node: NodeId(node),
        generation: Generation(generation),
    }
}

impl Node {
    async fn start(node: u32, generation: u32) -> Self {
        Self::start_with(identity(node, generation), options(), "127.0.0.1:0").await
    }

    async fn start_with(identity: Identity, options: FabricOptions, bind: &str) -> Self {
        let listener = TcpListener::bind(bind).await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let fabric = Fabric::new(identity, options);
        let (sender, messages) = mpsc::unbounded_channel();
        fabric.register(
            Service::Log,
            Arc::new(Recorder {
                messages: sender,
                held: Mutex::default(),
            }),
        );
        let accepting = Arc::clone(&fabric);
        let listening = tokio::spawn(async move {
            // Dropped with the listener, as a process takes its connections along.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let fabric = Arc::clone(&accepting);
                connections.spawn(async move {
                    if let Ok(Sniffed::Fabric(stream)) = sniff(stream, PATIENCE).await {
                        fabric.accept(stream).await;
                    }
                });
            }
        });
        Self {
            fabric,
            address,
            messages,
            listening,
        }
    }

    /// Ends as a killed process does: the port closes with all connections.
    async fn kill(self) -> String {
        self.listening.abort();
        let _ = self.listening.await;
        self.fabric.close();
        self.address
    }

    fn meet(&self, others: &[(u32, u32, &str)]) {
        let peers = others.iter().map(|&(node, generation, address)| {
            let peer = Peer {
                address: address.to_owned(),
                generation: Generation(generation),
            };
            (NodeId(node), peer)
        });
        self.fabric.set_peers(peers.collect::<BTreeMap<_, _>>());
    }

    async fn until(&self, node: u32, wanted: impl Fn(&PeerState) -> bool) -> PeerState {
        let mut peers = self.fabric.peers();
        let states = soon(peers.wait_for(|states| states.get(&NodeId(node)).is_some_and(&wanted)))
            .await
            .unwrap();
        states[&NodeId(node)].clone()
    }

    async fn connected(&self, node: u32) -> PeerState {
        self.until(node, |state| state.connected).await
    }

    async fn next(&mut self) -> (NodeId, Bytes) {
        soon(self.messages.recv()).await.unwrap()
    }

    fn send(&self, to: u32, payload: impl Into<Bytes>) -> Result<(), SendError> {
        self.fabric.send(NodeId(to), Service::Log, payload.into())
    }

    async fn call(&self, to: u32, payload: &'static str) -> Result<Bytes, CallError> {
        let payload = Bytes::from_static(payload.as_bytes());
        self.fabric
            .call(NodeId(to), Service::Log, payload, PATIENCE)
            .await
    }
}

async fn pair() -> (Node, Node) {
    let one = Node::start(1, 1).await;
    let two = Node::start(2, 1).await;
    one.meet(&[(2, 1, &two.address)]);
    two.meet(&[(1, 1, &one.address)]);
    one.connected(2).await;
    two.connected(1).await;
    (one, two)
}

#[tokio::test]
async fn messages_arrive_in_order_whatever_their_size() {
    let (one, mut two) = pair().await;
    for number in 0..3_000_usize {
        let mut payload = number.to_be_bytes().to_vec();
        // Some are copied into the buffer, some queued by reference, some larger than a read.
        payload.resize(
            8 + (number * 7919) % if number % 100 == 0 { 300_000 } else { 3_000 },
            7,
        );
        one.send(2, payload).unwrap();
    }
    for number in 0..3_000_usize {
        let (from, payload) = two.next().await;
        assert_eq!(from, NodeId(1));
        assert_eq!(payload[..8], number.to_be_bytes());
        assert!(payload[8..].iter().all(|&byte| byte == 7));
    }
}

#[tokio::test]
async fn three_nodes_reach_each_other_and_themselves() {
    let mut nodes = [
        Node::start(1, 1).await,
        Node::start(2, 1).await,
        Node::start(3, 1).await,
    ];
    let addresses: Vec<_> = nodes.iter().map(|node| node.address.clone()).collect();
    let everybody: Vec<_> = (1..)
        .zip(&addresses)
        .map(|(id, a)| (id, 1, &a[..]))
        .collect();
    for node in &nodes {
        node.meet(&everybody);
    }
    for from in 1..=3 {
        for to in 1..=3 {
            let node = &nodes[from as usize - 1];
            if from != to {
                node.connected(to).await;
            }
            node.send(to, format!("{from} to {to}")).unwrap();
            assert_eq!(node.call(to, "echo").await.unwrap(), "echo");
        }
        assert_eq!(nodes[from as usize - 1].fabric.peers().borrow().len(), 2);
    }
    for to in 1..=3_u32 {
        let node = &mut nodes[to as usize - 1];
        let mut texts = Vec::new();
        for _ in 0..3 {
            let (from, payload) = node.next().await;
            assert_eq!(payload, format!("{} to {to}", from.0));
            texts.push(from);
        }
        texts.sort();
        assert_eq!(texts, [NodeId(1), NodeId(2), NodeId(3)]);
    }
}

#[tokio::test]
async fn many_calls_at_once_get_their_own_answers() {
    let (one, _two) = pair().await;
    let mut calls = JoinSet::new();
    for number in 0..1_000 {
        let fabric = Arc::clone(&one.fabric);
        calls.spawn(async move {
            let payload = Bytes::from(format!("echo {number}"));
            let answer = fabric
                .call(NodeId(2), Service::Log, payload.clone(), PATIENCE)
                .await;
            assert_eq!(answer.unwrap(), payload);
        });
    }
    for done in calls.join_all().await {
        let () = done;
    }
}

#[tokio::test]
async fn calls_fail_with_what_the_caller_may_conclude() {
    let (one, two) = pair().await;
    for (me, name) in [(&one, "over the wire"), (&two, "to itself")] {
        assert_eq!(
            me.call(2, "no").await,
            Err(CallError::Refused("not today".into())),
            "{name}"
        );
        assert_eq!(me.call(2, "drop").await, Err(CallError::Broken), "{name}");
        let hold = Bytes::from_static(b"hold");
        let short = Duration::from_millis(20);
        let late = me.fabric.call(NodeId(2), Service::Log, hold, short).await;
        assert_eq!(late, Err(CallError::TimedOut), "{name}");
        let nobody = me
            .fabric
            .call(NodeId(2), Service::Cluster, Bytes::new(), PATIENCE)
            .await;
        assert!(matches!(nobody, Err(CallError::Refused(_))), "{name}");
    }
    assert_eq!(one.call(9, "echo").await, Err(CallError::Unreachable));
    assert_eq!(one.send(9, "to nobody"), Err(SendError::Unreachable));
    assert_eq!(
        one.call(2, "echo").await.unwrap(),
        "echo",
        "still connected"
    );
}

#[tokio::test]
async fn a_killed_peer_fails_calls_at_once_and_is_known_to_be_gone() {
    let (one, mut two) = pair().await;
    let fabric = Arc::clone(&one.fabric);
    let call = tokio::spawn(async move {
        fabric
            .call(
                NodeId(2),
                Service::Log,
                Bytes::from_static(b"hold"),
                PATIENCE,
            )
            .await
    });
    two.next().await;
    let killed = Instant::now();
    two.kill().await;
    assert_eq!(soon(call).await.unwrap(), Err(CallError::Broken));
    let state = one.until(2, |state| state.refused).await;
    assert!(!state.connected);
    assert!(state.last_heard.is_some());
    assert!(killed.elapsed() < Duration::from_secs(1), "not by silence");
    assert_eq!(one.send(2, "late"), Err(SendError::Unreachable));
}

#[tokio::test]
async fn a_restarted_peer_is_found_again_under_its_new_generation() {
    let (one, two) = pair().await;
    let address = two.kill().await;
    one.until(2, |state| state.refused).await;
    let mut two = Node::start_with(identity(2, 2), options(), &address).await;
    let state = one.connected(2).await;
    assert_eq!(state.generation, Generation(2), "before metadata tells");
    one.send(2, "welcome").unwrap();
    assert_eq!(two.next().await.1, "welcome");

    // Metadata telling of the generation that is connected already changes nothing.
    let before = one.fabric.peers().borrow().clone();
    one.meet(&[(2, 2, &two.address)]);
    assert_eq!(*one.fabric.peers().borrow(), before);
    one.send(2, "again").unwrap();
    assert_eq!(two.next().await.1, "again");
}

#[tokio::test]
async fn a_risen_generation_drops_the_connection_to_the_one_before() {
    let (mut one, two) = pair().await;
    two.send(1, "believed").unwrap();
    assert_eq!(one.next().await.1, "believed");
    one.meet(&[(2, 2, &two.address)]);
    let state = one.until(2, |state| state.problem.is_some()).await;
    assert!(!state.connected);
    assert_eq!(
        state.problem.as_deref(),
        Some("generation 1 answered where 2 is known")
    );
    // The old one's own connection goes as well, and it cannot come back.
    let state = two
        .until(1, |state| {
            state
                .problem
                .as_deref()
                .is_some_and(|p| p.contains("superseded"))
        })
        .await;
    assert_eq!(
        state.problem.as_deref(),
        Some("rejected: generation 1 of N2 is superseded by 2")
    );
    assert_eq!(two.send(1, "not believed"), Err(SendError::Unreachable));
    assert!(one.messages.try_recv().is_err());
}

#[tokio::test]
async fn another_cluster_and_another_node_are_refused() {
    let stranger = Identity {
        fingerprint: 0xbad,
        ..identity(2, 1)
    };
    let two = Node::start_with(stranger, options(), "127.0.0.1:0").await;
    let one = Node::start(1, 1).await;
    one.meet(&[(2, 1, &two.address)]);
    let state = one.until(2, |state| state.problem.is_some()).await;
    assert_eq!(
        state.problem.as_deref(),
        Some("rejected: the node belongs to another cluster: its fingerprint is 000000000000feed")
    );
    assert!(!state.refused, "the port answers");

    let three = Node::start(3, 1).await;
    one.meet(&[(2, 1, &three.address)]);
    let state = one.until(2, |state| state.problem.is_some()).await;
    assert!(state.problem.unwrap().ends_with("is N3, not N2"));
}

#[tokio::test]
async fn a_removed_peer_is_let_go() {
    let (one, two) = pair().await;
    one.meet(&[]);
    assert!(one.fabric.peers().borrow().is_empty());
    assert_eq!(one.send(2, "gone"), Err(SendError::Unreachable));
    let state = two.until(1, |state| !state.connected).await;
    assert_eq!(state.generation, Generation(1));
}

#[tokio::test]
async fn a_peer_that_does_not_read_fills_its_queue_and_no_more() {
    let narrow = FabricOptions {
        queue_bytes_max: 1024 * 1024,
        silence_timeout: Duration::from_secs(60),
        ..options()
    };
    let one = Node::start_with(identity(1, 1), narrow, "127.0.0.1:0").await;
    // Shakes hands as node 2 and then reads nothing.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    one.meet(&[(2, 1, &listener.local_addr().unwrap().to_string())]);
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut hello = [0; 8 + 14 + 18];
    stream.read_exact(&mut hello).await.unwrap();
    let mut answer = hello[8..].to_vec();
    answer[14 + 13] = 2;
    stream.write_all(&answer).await.unwrap();
    one.connected(2).await;

    let payload = Bytes::from(vec![0; 64 * 1024]);
    let mut sent = 0;
    let full = loop {
        match one.send(2, payload.clone()) {
            Ok(()) => sent += 1,
            Err(error) => break error,
        }
        tokio::task::yield_now().await;
        assert!(sent < 10_000, "never full");
    };
    assert_eq!(full, SendError::Full);
    let call = one
        .fabric
        .call(NodeId(2), Service::Log, payload.clone(), PATIENCE);
    assert_eq!(call.await, Err(CallError::Full));

    // It takes messages again as soon as the other reads.
    let reading = tokio::spawn(async move {
        let mut sink = tokio::io::sink();
        tokio::io::copy(&mut stream, &mut sink).await
    });
    soon(async {
        while one.send(2, payload.clone()).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    reading.abort();
}

#[tokio::test]
async fn a_payload_over_the_limit_is_refused_at_both_ends() {
    let small = FabricOptions {
        payload_bytes_max: 1_000,
        ..options()
    };
    let one = Node::start(1, 1).await;
    let mut two = Node::start_with(identity(2, 1), small, "127.0.0.1:0").await;
    one.meet(&[(2, 1, &two.address)]);
    two.meet(&[(1, 1, &one.address)]);
    two.connected(1).await;
    one.connected(2).await;
    assert_eq!(
        two.send(1, vec![0; 1_001]),
        Err(SendError::TooLarge {
            bytes: 1_001,
            bytes_max: 1_000
        })
    );
    one.send(2, vec![0; 1_000]).unwrap();
    assert_eq!(two.next().await.1.len(), 1_000);
    // The receiving end does not trust the sender: the connection ends.
    one.send(2, vec![0; 1_001]).unwrap();
    one.until(2, |state| state.problem.is_some()).await;
    assert!(two.messages.try_recv().is_err());
}

#[tokio::test]
async fn a_silent_connection_is_closed_and_a_quiet_one_kept() {
    let quick = FabricOptions {
        silence_timeout: Duration::from_millis(100),
        ..options()
    };
    let one = Node::start_with(identity(1, 1), quick.clone(), "127.0.0.1:0").await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    one.meet(&[(2, 1, &listener.local_addr().unwrap().to_string())]);
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut hello = [0; 8 + 14 + 18];
    stream.read_exact(&mut hello).await.unwrap();
    let mut answer = hello[8..].to_vec();
    answer[14 + 13] = 2;
    stream.write_all(&answer).await.unwrap();
    one.connected(2).await;
    let state = one.until(2, |state| !state.connected).await;
    assert_eq!(state.problem.as_deref(), Some("closed here"));

    let (three, four) = (
        Node::start_with(identity(3, 1), quick.clone(), "127.0.0.1:0").await,
        Node::start_with(identity(4, 1), quick, "127.0.0.1:0").await,
    );
    three.meet(&[(4, 1, &four.address)]);
    three.connected(4).await;
    // Only pings keep both ends of this one alive; five timeouts pass.
    let mut peers = three.fabric.peers();
    peers.mark_unchanged();
    let change = timeout(Duration::from_millis(500), peers.changed()).await;
    assert!(change.is_err(), "{:?}", peers.borrow());
    let heard = three.fabric.last_heard(NodeId(4)).unwrap();
    assert!(heard.elapsed() < Duration::from_millis(400));
    assert!(four.fabric.last_heard(NodeId(3)).is_some(), "by its pings");
}

#[tokio::test]
async fn garbage_ends_the_connection_and_nothing_else() {
    let (one, two) = pair().await;
    let hello = |fingerprint: u64, node: u32| {
        let mut bytes = b"ABIDEFB1".to_vec();
        bytes.extend([0, 0, 0, 18, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
        bytes.extend(fingerprint.to_be_bytes());
        bytes.extend(node.to_be_bytes());
        bytes.extend(1_u32.to_be_bytes());
        bytes
    };
    let cases: [(&str, Vec<u8>); 7] = [
        ("nothing behind the preface", b"ABIDEFB1".to_vec()),
        ("a hostile length", [&b"ABIDEFB1"[..], &[0xff; 14]].concat()),
        (
            "a hostile length in a hello",
            [&b"ABIDEFB1"[..], &[0xff, 0xff, 0xff, 0xff, 7, 0], &[0; 8]].concat(),
        ),
        (
            "a short hello",
            [&b"ABIDEFB1"[..], &[0, 0, 0, 2, 7, 0], &[0; 10]].concat(),
        ),
        ("our own id", hello(CLUSTER, 1)),
        (
            "an unknown frame behind a good hello",
            [hello(CLUSTER, 7), vec![0; 14]].concat(),
        ),
        (
            "a frame that is too large behind a good hello",
            [
                hello(CLUSTER, 7),
                vec![0xff, 0xff, 0xff, 0xff, 1, 1],
                vec![0; 8],
            ]
            .concat(),
        ),
    ];
    for (name, bytes) in cases {
        let mut stream = TcpStream::connect(&one.address).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        // A reset is an end as well: the other side may not have read all of it.
        let _ = soon(stream.read_to_end(&mut rest)).await;
        assert_eq!(two.call(1, "echo").await.unwrap(), "echo", "after {name}");
    }
}

#[tokio::test]
async fn answers_that_nobody_reads_do_not_pile_up() {
    let narrow = FabricOptions {
        queue_bytes_max: 256 * 1024,
        ..options()
    };
    let one = Node::start_with(identity(1, 1), narrow, "127.0.0.1:0").await;
    let mut stream = TcpStream::connect(&one.address).await.unwrap();
    let mut hello = b"ABIDEFB1".to_vec();
    hello.extend([0, 0, 0, 18, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    hello.extend(CLUSTER.to_be_bytes());
    hello.extend([0, 0, 0, 7, 0, 0, 0, 1]);
    stream.write_all(&hello).await.unwrap();
    // Echoes of 64 KiB, asked for and never read: the connection is ended from the other side.
    let mut call = vec![0, 1, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0, 0, 9];
    call.resize(14 + 0x1_0000, b'e');
    let refused = soon(async {
        loop {
            if stream.write_all(&call).await.is_err() {
                return true;
            }
        }
    })
    .await;
    assert!(refused);
}

#[tokio::test]
async fn a_node_that_dials_anew_replaces_its_own_connection() {
    let (one, mut two) = pair().await;
    // Another connection in the name of node 1, as after a network that lost the first one.
    let mut again = TcpStream::connect(&two.address).await.unwrap();
    let mut hello = b"ABIDEFB1".to_vec();
    hello.extend([0, 0, 0, 18, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    hello.extend(CLUSTER.to_be_bytes());
    hello.extend([0, 0, 0, 1, 0, 0, 0, 1]);
    hello.extend([0, 0, 0, 3, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]);
    hello.extend(b"new");
    again.write_all(&hello).await.unwrap();
    one.until(2, |state| !state.connected).await;
    assert_eq!(two.next().await, (NodeId(1), Bytes::from_static(b"new")));
}

#[tokio::test]
async fn a_closed_fabric_sends_and_answers_nothing() {
    let (one, two) = pair().await;
    one.fabric.close();
    assert_eq!(one.send(2, "late"), Err(SendError::Unreachable));
    two.until(1, |state| !state.connected).await;
}
