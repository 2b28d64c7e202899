//! Who leads, and who keeps replicas.

use crate::{ONE_AT_A_TIME, ids, looks, refused, text, texts, under_load, until};

#[tokio::test(flavor = "multi_thread")]
async fn replicas_and_leaders_go_where_they_are_wanted_and_stay_there() {
    let _turn = ONE_AT_A_TIME.lock().await;
    let load = under_load(3, "").await;
    let cluster = &load.cluster;
    let ids = ids(cluster).await;
    let (first, second, third) = (&ids["node1"], &ids["node2"], &ids["node3"]);

    // Two replicas are enough for a write, and a freeze keeps the third from being made again.
    let shown = looks(cluster, &["partitions", "placement", "show"]).await;
    assert_eq!(shown.len(), 6);
    assert!(
        shown.iter().all(|row| texts(&row["replicas"]).len() == 3),
        "{shown:?}"
    );
    let two = format!("node1,{second}");
    let set = [
        "partitions",
        "placement",
        "set",
        "0",
        "--replicas",
        &two,
        "--freeze",
        "audit",
    ];
    refused(cluster, &set, 1, "it was not confirmed").await;
    let mut confirmed = set.to_vec();
    confirmed.push("--yes");
    let placed = cluster.operator(&confirmed).await;
    assert_eq!(placed[0]["frozen"], "audit");
    let show = ["partitions", "placement", "show", "0"];
    let mut both = [first.clone(), second.clone()];
    both.sort();
    until(cluster, &show, "on two nodes", |rows| {
        texts(&rows[0]["replicas"]) == both && texts(&rows[0]["next"]).is_empty()
    })
    .await;
    load.wait_for_progress("with two replicas").await;
    let thawed = cluster
        .operator(&["partitions", "placement", "unfreeze", "0"])
        .await;
    assert!(thawed[0]["frozen"].is_null(), "{thawed:?}");
    until(cluster, &show, "on three nodes again", |rows| {
        texts(&rows[0]["replicas"]).len() == 3 && texts(&rows[0]["next"]).is_empty()
    })
    .await;
    let frozen = cluster
        .operator(&[
            "partitions",
            "placement",
            "freeze",
            "1-2",
            "--reason",
            "moving house",
        ])
        .await;
    assert_eq!(frozen.len(), 2);
    assert!(
        frozen.iter().all(|row| row["frozen"] == "moving house"),
        "{frozen:?}"
    );
    cluster
        .operator(&["partitions", "placement", "unfreeze", "1,2"])
        .await;

    refused(
        cluster,
        &[
            "partitions",
            "placement",
            "set",
            "0",
            "--replicas",
            "N9",
            "--yes",
        ],
        1,
        "there is no node 'N9'",
    )
    .await;
    refused(
        cluster,
        &[
            "partitions",
            "placement",
            "set",
            "99",
            "--replicas",
            &two,
            "--yes",
        ],
        1,
        "partition 99 does not exist",
    )
    .await;
    refused(
        cluster,
        &[
            "partitions",
            "placement",
            "set",
            "0",
            "--replicas",
            "node1",
            "--yes",
        ],
        2,
        "a write takes 2 of them",
    )
    .await;
    refused(
        cluster,
        &["partitions", "placement", "set", "0", "--yes"],
        2,
        "--replicas",
    )
    .await;
    refused(
        cluster,
        &["partitions", "placement", "show", "9"],
        1,
        "partition 9 does not exist",
    )
    .await;
    refused(
        cluster,
        &["partitions", "placement", "freeze", "0"],
        2,
        "--reason",
    )
    .await;

    // Leaders: once, for good, and not at all.
    let leader =
        text(&looks(cluster, &["partitions", "leadership", "show", "3"]).await[0]["leader"]);
    let other = [first, second, third]
        .into_iter()
        .find(|id| **id != leader)
        .unwrap();
    // Else balance may move it back before anybody looks.
    let freeze = [
        "partitions",
        "leadership",
        "freeze",
        "3",
        "--reason",
        "a look at it",
    ];
    cluster.operator(&freeze).await;
    let moved = until(
        cluster,
        &["partitions", "move", "3", "--to", other],
        "moved",
        |_| true,
    )
    .await;
    assert_eq!(
        (&moved[0]["leader"], &moved[0]["partition"]),
        (&other.as_str().into(), &3.into())
    );
    let list = ["partitions", "list"];
    until(cluster, &list, "led by the other", |rows| {
        rows[3]["leader"] == other.as_str() && rows[3]["state"] == "active"
    })
    .await;
    cluster
        .operator(&["partitions", "leadership", "unfreeze", "3"])
        .await;
    let pinned = cluster
        .operator(&["partitions", "leadership", "pin", "3,4", "--node", "node3"])
        .await;
    assert!(
        pinned.iter().all(|row| row["pinned"] == third.as_str()),
        "{pinned:?}"
    );
    until(cluster, &list, "led by whom they are pinned to", |rows| {
        rows[3..5]
            .iter()
            .all(|row| row["leader"] == third.as_str() && row["state"] == "active")
    })
    .await;
    refused(
        cluster,
        &["partitions", "move", "3", "--to", "node1"],
        1,
        "is pinned to",
    )
    .await;
    let unpinned = cluster
        .operator(&["partitions", "leadership", "unpin", "3-4"])
        .await;
    assert!(
        unpinned.iter().all(|row| row["pinned"].is_null()),
        "{unpinned:?}"
    );
    let frozen = cluster
        .operator(&[
            "partitions",
            "leadership",
            "freeze",
            "5",
            "--reason",
            "a look at it",
        ])
        .await;
    assert_eq!(frozen[0]["frozen"], "a look at it");
    let thawed = cluster
        .operator(&["partitions", "leadership", "unfreeze", "5"])
        .await;
    assert!(thawed[0]["frozen"].is_null(), "{thawed:?}");

    refused(
        cluster,
        &["partitions", "move", "3", "--to", "N9"],
        1,
        "there is no node 'N9'",
    )
    .await;
    refused(
        cluster,
        &["partitions", "move", "99", "--to", "node1"],
        1,
        "partition 99 does not exist",
    )
    .await;
    refused(
        cluster,
        &["partitions", "move", "two", "--to", "node1"],
        2,
        "is no partition",
    )
    .await;
    refused(
        cluster,
        &["partitions", "leadership", "pin", "0", "--node", "nobody"],
        1,
        "there is no node 'nobody'",
    )
    .await;
    refused(
        cluster,
        &["partitions", "leadership", "freeze", "3-1", "--reason", "x"],
        2,
        "ends before it begins",
    )
    .await;

    // What is wanted of all partitions is asked for.
    for arguments in [
        &["partitions", "leadership", "pin", "0-5", "--node", "node1"][..],
        &["partitions", "leadership", "freeze", "0-5", "--reason", "x"],
        &["partitions", "placement", "freeze", "0-5", "--reason", "x"],
    ] {
        refused(cluster, arguments, 1, "All 6 partitions of the cluster").await;
    }
    let rules = cluster
        .operator(&["partitions", "leadership", "show"])
        .await;
    assert!(
        rules
            .iter()
            .all(|row| row["pinned"].is_null() && row["frozen"].is_null()),
        "{rules:?}"
    );
    let all = cluster
        .operator(&[
            "--yes",
            "partitions",
            "placement",
            "freeze",
            "0-5",
            "--reason",
            "x",
        ])
        .await;
    assert!(all.iter().all(|row| row["frozen"] == "x"), "{all:?}");
    cluster
        .operator(&["partitions", "placement", "unfreeze", "0-5"])
        .await;

    load.wait_for_progress("after all moves").await;
    load.finish().await;
}
