use abide_metadata::{
    JoinError, Metadata, MetadataServer, NodeState, ProvisionError, ProvisionSettings, Replication,
    StartError,
};
use abide_rpc::proto::metadata as pb;
use abide_rpc::proto::metadata::metadata_client::MetadataClient;
use abide_rpc::proto::metadata::raft_client::RaftClient;
use abide_types::{Generation, NodeId, Role};
use tempfile::TempDir;

use crate::cluster::{Node, addresses, describe, options, port, ports, soon, three};

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn three_nodes_form_a_cluster_by_themselves() {
    let three = three().await;
    let fingerprint = three.joined[0].fingerprint;
    assert_ne!(fingerprint, 0);
    let mut ids: Vec<u32> = three.joined.iter().map(|joined| joined.node.0).collect();
    assert_eq!(ids[0], 1, "who provisions is the first");
    ids.sort();
    assert_eq!(ids, [1, 2, 3]);
    for joined in &three.joined {
        assert_eq!(joined.fingerprint, fingerprint);
        assert_eq!(joined.generation, Generation(1));
    }
    let view = three.clients[0].view();
    let cluster = view.cluster.as_ref().unwrap();
    assert_eq!(cluster.fingerprint, fingerprint);
    assert_eq!((cluster.name.as_str(), cluster.partitions), ("test", 24));
    let (_, n1) = view.nodes.by_name("n1").unwrap();
    assert_eq!(n1.address, three.nodes[0].address);
    assert_eq!(n1.state, NodeState::Active);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_wait_until_the_operator_provisions() {
    let ports = ports::<2>().await;
    let seeds = addresses(&ports);
    let directories = [TempDir::new().unwrap(), TempDir::new().unwrap()];
    let mut nodes = Vec::new();
    for ((name, port), directory) in ["n1", "n2"].into_iter().zip(ports).zip(&directories) {
        nodes.push(Node::start(name, directory.path(), port, options(&seeds)).await);
    }
    let joining = futures::future::join(nodes[0].join(), nodes[1].join());
    let provisioning = async {
        let settings = ProvisionSettings {
            partitions: 8,
            replication: "2".parse().unwrap(),
        };
        let wrong = Metadata::provision(&seeds[1], "other", settings, &options(&seeds)).await;
        assert!(
            matches!(wrong, Err(ProvisionError::Invalid(_))),
            "{wrong:?}"
        );
        let address = format!("http://{}/", seeds[1]);
        let settings_of_tool = options(&seeds);
        let asked = Metadata::provision(&address, "test", settings, &settings_of_tool);
        soon("provisioning", asked).await.unwrap()
    };
    let (((first, n1), (_, n2)), fingerprint) = tokio::join!(joining, provisioning);
    assert_eq!((n1.node, n2.node), (NodeId(2), NodeId(1)));
    assert_eq!(n1.generation, Generation(1));
    assert_eq!(n2.generation, Generation(1));
    assert_eq!(n1.fingerprint, fingerprint);
    let cluster = first.view().cluster.clone().unwrap();
    assert_eq!(cluster.partitions, 8);
    let replication = Replication {
        replicas: 3,
        write_quorum: 2,
        ..Replication::default()
    };
    assert_eq!(cluster.replication, replication);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_second_provisioning_is_refused() {
    let three = three().await;
    let known = three.joined[0].fingerprint;
    let settings = ProvisionSettings::default();
    let expect_refusal = |result: Result<u64, ProvisionError>| match result {
        Err(ProvisionError::AlreadyProvisioned { fingerprint }) => assert_eq!(fingerprint, known),
        other => panic!("{other:?}"),
    };
    expect_refusal(three.nodes[0].server.provision(settings).await);
    let settings_of_tool = options(&[]);
    for address in &three.addresses {
        let asked = Metadata::provision(address, "test", settings, &settings_of_tool);
        expect_refusal(soon("provisioning", asked).await);
    }
    // A fresh node that knows of the cluster refuses as well, and joins it although it would provision.
    let directory = TempDir::new().unwrap();
    let mut options = options(&three.addresses);
    options.auto_provision = Some(settings);
    let fresh = Node::start("n4", directory.path(), port().await, options).await;
    expect_refusal(fresh.server.provision(settings).await);
    let (_, joined) = fresh.join().await;
    assert_eq!((joined.fingerprint, joined.node), (known, NodeId(4)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn calls_for_another_cluster_are_refused() {
    let three = three().await;
    let url = format!("http://{}", three.addresses[0]);
    let mut raft = RaftClient::connect(url.clone()).await.unwrap();
    let mut metadata = MetadataClient::connect(url).await.unwrap();
    let foreign = three.joined[0].fingerprint ^ 1;
    for said in [None, Some(format!("{foreign:016x}"))] {
        macro_rules! refused {
            ($client:ident, $method:ident, $message:expr) => {
                let mut request = tonic::Request::new($message);
                if let Some(said) = &said {
                    request
                        .metadata_mut()
                        .insert("abide-fingerprint", said.parse().unwrap());
                }
                let status = $client.$method(request).await.unwrap_err();
                assert_eq!(status.code(), tonic::Code::FailedPrecondition, "{status}");
            };
        }
        refused!(raft, append, pb::AppendRequest::default());
        refused!(raft, vote, pb::VoteRequest::default());
        refused!(raft, pre_vote, pb::VoteRequest::default());
        refused!(raft, transfer, pb::TransferRequest::default());
        refused!(metadata, read, pb::ReadRequest::default());
        refused!(metadata, commit, pb::CommitRequest::default());
        refused!(metadata, watch, pb::WatchRequest::default());
        refused!(metadata, remove, pb::RemoveRequest::default());
        let from = Some(pb::ServerAddress {
            node: 2,
            generation: 99,
            address: "127.0.0.1:1".into(),
        });
        refused!(metadata, identify, pb::IdentifyRequest { from, member: 0 });
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_clusters_do_not_merge() {
    let one = three().await;
    let directory = TempDir::new().unwrap();
    let alone = port().await;
    let mut settings = options(&[]);
    settings.auto_provision = Some(ProvisionSettings::default());
    let other = Node::start("n9", directory.path(), alone, settings).await;
    let (_, joined) = other.join().await;
    assert_ne!(joined.fingerprint, one.joined[0].fingerprint);
    // As a tool of one cluster that asks the other.
    let client = Metadata::connect(options(&one.addresses)).await.unwrap();
    assert_eq!(client.fingerprint(), one.joined[0].fingerprint);
    other.shutdown().await;
    // The same directory, now pointed at the first cluster.
    let moved = Node::start(
        "n9",
        directory.path(),
        port().await,
        options(&one.addresses),
    )
    .await;
    let (view, joined) = moved.join().await;
    assert_ne!(joined.fingerprint, one.joined[0].fingerprint);
    assert_eq!(view.view().nodes.members().count(), 1);
    assert_eq!(one.clients[0].view().nodes.members().count(), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nodes_of_another_cluster_name_and_lost_directories_are_refused() {
    let mut three = three().await;
    let mut stray = describe("w1", "127.0.0.1:9", &[Role::Worker]);
    stray.cluster_name = "prod".into();
    let refused = soon("join", Metadata::join(options(&three.addresses), stray)).await;
    assert!(matches!(refused, Err(JoinError::OtherCluster { .. })));

    let lost = three.nodes.remove(2);
    lost.shutdown().await;
    let empty = TempDir::new().unwrap();
    let seeds = three.addresses.clone();
    let node = Node::start("n3", empty.path(), port().await, options(&seeds)).await;
    let refused = soon("join", node.server.join()).await;
    let Err(JoinError::NameTaken { node: taken, .. }) = refused else {
        panic!("joined");
    };
    assert_eq!(taken, three.joined[2].node);

    let renamed = MetadataServer::start(
        three.directories[2].path(),
        describe("n33", "127.0.0.1:9", &[Role::MetadataServer]),
        options(&seeds),
    )
    .await;
    assert!(matches!(renamed, Err(StartError::OtherNode { .. })));
}
