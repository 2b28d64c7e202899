//! Nodes under the steady load of [`crate::drill`], for tests that break them, add some or take some away.

use std::time::{Duration, Instant};

use crate::cluster::{Cluster, Options};
use crate::drill::{self, Clients, Ledger};

/// Longer than silence is taken for death.
pub const LONGER_THAN_THE_FAILURE_TIMEOUT: Duration = Duration::from_secs(6);

/// Generous, since tests share few cores.
const PROGRESS_WITHIN: Duration = Duration::from_secs(120);
const CONVERGED_WITHIN: Duration = Duration::from_secs(120);
const KNOWN_WITHIN: Duration = Duration::from_secs(20);

/// How much the clients do.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Clients call through so many nodes, the first ones; through all if it is `None`.
    pub ingresses: Option<usize>,
    /// Clients at each of them.
    pub clients: usize,
    /// Between two calls of a client.
    pub pause: Duration,
    /// So many further operations are progress.
    pub progress: usize,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            ingresses: None,
            clients: 4,
            pause: Duration::from_millis(20),
            progress: 100,
        }
    }
}

/// A cluster, its clients and their books.
pub struct UnderLoad {
    /// The nodes.
    pub cluster: Cluster,
    /// Clients at every node.
    pub clients: Clients,
    /// What the handlers' steps really did.
    pub ledger: Ledger,
    /// An object's partition, whose leader tests go for.
    pub partition: u64,
    /// The longest wait of all rounds at a node that was not broken.
    longest: Duration,
    /// What counts as progress.
    progress: usize,
}

impl UnderLoad {
    /// Starts three nodes and the load.
    pub async fn start(options: Options) -> UnderLoad {
        Self::of(Cluster::prepare(3, options)).await
    }

    /// Starts the nodes of a cluster that was prepared, and the load.
    pub async fn of(cluster: Cluster) -> UnderLoad {
        Self::with(cluster, Load::default()).await
    }

    /// The same with another load than the usual one.
    pub async fn with(mut cluster: Cluster, load: Load) -> UnderLoad {
        let ingresses = load.ingresses.unwrap_or(cluster.len());
        let ledger = Ledger::default();
        let host = cluster.test_host();
        let uri = drill::serve_at(ledger.clone(), &host)
            .await
            .expect("serve the drill's handlers");
        for node in 0..cluster.len() {
            cluster.start_node(node);
        }
        cluster.wait_until_serving().await;
        cluster.register(&uri).await;
        for node in 0..ingresses {
            wait_until_known(&cluster, node).await;
        }
        let url = format!("{}/DrillCounter/marked/add/send", cluster.ingress(0));
        let accepted = cluster.api().post_empty(&url).await.expect_success();
        let invocation = accepted["invocationId"]
            .as_str()
            .expect("an invocation's id");
        let partition = cluster.partition_of(invocation).await;
        cluster.wait_until_serving().await;
        let urls = (0..ingresses).map(|node| cluster.ingress(node)).collect();
        let clients = Clients::start(urls, load.clients, load.pause);
        let under_load = UnderLoad {
            cluster,
            clients,
            ledger,
            partition,
            longest: Duration::ZERO,
            progress: load.progress,
        };
        under_load.wait_for_progress("the load begins").await;
        under_load.clients.take_longest_wait();
        under_load
    }

    /// Waits until a good number of further operations were acknowledged.
    pub async fn wait_for_progress(&self, when: &str) {
        let goal = self.clients.acknowledged() + self.progress;
        let in_time = tokio::time::timeout(PROGRESS_WITHIN, async {
            while self.clients.acknowledged() < goal {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(
            in_time.await.is_ok(),
            "{when}: no progress within {PROGRESS_WITHIN:?}"
        );
    }

    /// `kill -9`, and a start after a while.
    pub async fn kill_and_restart(&mut self, what: &str, victims: &[usize]) {
        for victim in victims {
            self.clients.expect_down(*victim);
        }
        for victim in victims {
            self.cluster.kill(*victim);
        }
        if victims.len() < self.cluster.len() {
            self.wait_for_progress(what).await;
        }
        for victim in victims {
            self.cluster.start_node(*victim);
        }
        for victim in victims {
            self.cluster.wait_until_node_serves(*victim).await;
            self.clients.expect_up(*victim);
        }
        self.wait_for_progress(&format!("{what}, restarted")).await;
        self.print_longest_wait(what);
        self.cluster.assert_healthy();
    }

    /// Waits until all nodes see each other, and every partition is led and followed without a lag.
    pub async fn wait_until_converged(&self) {
        let deadline = Instant::now() + CONVERGED_WITHIN;
        loop {
            let wrong = self.not_converged().await;
            let Err(wrong) = wrong else {
                return;
            };
            assert!(Instant::now() < deadline, "not converged: {wrong}");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    async fn not_converged(&self) -> Result<(), String> {
        let nodes = self.cluster.try_operator(&["nodes", "list"]).await?;
        if let Some(row) = nodes.iter().find(|row| row["liveness"] != "alive") {
            return Err(row.to_string());
        }
        let partitions = self.cluster.try_operator(&["partitions", "list"]).await?;
        if let Some(row) = partitions.iter().find(|row| row["leader"].is_null()) {
            return Err(row.to_string());
        }
        let replicas = (self.cluster)
            .try_operator(&["partitions", "list", "--replicas"])
            .await?;
        match replicas.iter().find(|row| row["state"] != "active") {
            Some(row) => Err(row.to_string()),
            None => Ok(()),
        }
    }

    /// Prints how long a client of a node that was not broken waited at most since the last time.
    pub fn print_longest_wait(&mut self, what: &str) {
        let (longest, operation) = self.clients.take_longest_wait();
        self.longest = self.longest.max(longest);
        println!("{what}: longest wait at a surviving node {longest:?} ({operation})");
    }

    /// Ends the load and checks the books, and that every node is well.
    pub async fn finish(self) {
        let mut cluster = self.audit().await;
        cluster.assert_healthy();
    }

    /// Ends the load and checks the books of a cluster of which nodes may have ended.
    pub async fn audit(mut self) -> Cluster {
        self.print_longest_wait("at the end");
        println!(
            "longest wait at a surviving node, of all rounds: {:?}",
            self.longest
        );
        self.clients.stop_and_audit(&self.ledger).await;
        self.cluster
    }
}

/// Waits until a node has heard of the drill's handlers.
pub async fn wait_until_known(cluster: &Cluster, node: usize) {
    let deadline = Instant::now() + KNOWN_WITHIN;
    let url = format!("{}/DrillCounter/unused/get", cluster.ingress(node));
    loop {
        let answer = cluster.api().post_empty(&url).await;
        if answer.status.is_success() {
            return;
        }
        assert!(Instant::now() < deadline, "node {node}: {}", answer.text());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
