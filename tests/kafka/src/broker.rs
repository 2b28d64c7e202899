//! A Kafka broker in KRaft mode, alone in its cluster.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use abide_test_cluster::{Process, free_port};
use rdkafka::ClientConfig;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::topic_partition_list::Offset;
use tempfile::TempDir;

/// Any will do: it has a folder of its own.
const CLUSTER_ID: &str = "4L6g3nShT-eMCtK--X86sw";
/// How long a broker may take until it answers; generous, since tests share few cores.
const ANSWERS_WITHIN: Duration = Duration::from_secs(180);

/// Who may come through the door with a lock.
pub const USER: &str = "alice";
/// Her password.
pub const PASSWORD: &str = "a secret of alice";

/// A broker. Dropping it kills it and removes its data.
pub struct Broker {
    port: u16,
    secure_port: u16,
    certificate: String,
    process: Option<Process>,
    folder: TempDir,
}

impl Broker {
    /// Starts a broker and waits until it answers.
    pub async fn start() -> Broker {
        let folder = folder();
        let (port, secure_port, controller) = (free_port(), free_port(), free_port());
        let certified = rcgen::generate_simple_self_signed(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = certified.cert.pem();
        let keys = certified.signing_key.serialize_pem() + &certificate;
        fs::write(folder.path().join("keys.pem"), keys).unwrap();
        let data = folder.path().join("data");
        let config = format!(
            "process.roles=broker,controller\n\
             node.id=1\n\
             controller.quorum.voters=1@127.0.0.1:{controller}\n\
             listeners=PLAINTEXT://127.0.0.1:{port},SECURE://127.0.0.1:{secure_port},CONTROLLER://127.0.0.1:{controller}\n\
             advertised.listeners=PLAINTEXT://127.0.0.1:{port},SECURE://127.0.0.1:{secure_port}\n\
             controller.listener.names=CONTROLLER\n\
             listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SECURE:SASL_SSL\n\
             sasl.enabled.mechanisms=SCRAM-SHA-512\n\
             listener.name.secure.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;\n\
             ssl.keystore.type=PEM\n\
             ssl.keystore.location=keys.pem\n\
             log.dirs={data}\n\
             offsets.topic.replication.factor=1\n\
             offsets.topic.num.partitions=2\n\
             transaction.state.log.replication.factor=1\n\
             transaction.state.log.min.isr=1\n\
             group.initial.rebalance.delay.ms=0\n\
             auto.create.topics.enable=false\n",
            data = data.display(),
        );
        fs::write(folder.path().join("server.properties"), config).unwrap();
        let formatted = java(folder.path(), "kafka.tools.StorageTool")
            .args(["format", "-t", CLUSTER_ID, "-c", "server.properties"])
            .arg("--add-scram")
            .arg(format!("SCRAM-SHA-512=[name={USER},password={PASSWORD}]"))
            .output()
            .expect("run java");
        assert!(
            formatted.status.success(),
            "the broker's folder cannot be formatted:\n{}",
            String::from_utf8_lossy(&formatted.stderr)
        );
        let mut broker = Broker {
            port,
            secure_port,
            certificate,
            process: None,
            folder,
        };
        broker.start_again();
        broker.wait_until_it_answers().await;
        broker
    }

    /// `host:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of the door that takes TLS, and SCRAM-SHA-512 with [`USER`] and [`PASSWORD`].
    pub fn secure_address(&self) -> String {
        format!("127.0.0.1:{}", self.secure_port)
    }

    /// What it shows there, in PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Starts the broker on the data it has. Does not wait until it answers.
    pub fn start_again(&mut self) {
        let folder = self.folder.path();
        let mut command = java(folder, "kafka.Kafka");
        command.arg("server.properties");
        let process = Process::start("the broker", &mut command, &folder.join("broker.log"));
        self.process = Some(process.expect("run java"));
    }

    /// Waits until the broker answers.
    pub async fn wait_until_it_answers(&mut self) {
        let deadline = Instant::now() + ANSWERS_WITHIN;
        while self
            .admin()
            .inner()
            .fetch_metadata(None, Duration::from_secs(2))
            .is_err()
        {
            assert!(Instant::now() < deadline, "the broker does not answer");
            let process = self.process.as_mut().expect("it was started");
            assert!(process.is_running(), "the broker ended");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Creates a topic.
    pub async fn create_topic(&self, name: &str, partitions: i32) {
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        let created = self
            .admin()
            .create_topics([&topic], &AdminOptions::new())
            .await;
        for result in created.unwrap() {
            result.unwrap_or_else(|(topic, error)| panic!("{topic}: {error}"));
        }
    }

    /// Deletes the records of a partition up to `offset`, which is the first that stays.
    pub async fn delete_records(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .unwrap();
        let deleted = self
            .admin()
            .delete_records(&list, &AdminOptions::new())
            .await;
        deleted.unwrap();
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.address());
        config.set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config.create().unwrap()
    }
}

/// In memory where that is possible: a broker writes what it must not lose with one sync after the other, and
/// `kill -9` loses nothing of it there either.
fn folder() -> TempDir {
    let in_memory = tempfile::tempdir_in("/dev/shm");
    in_memory.or_else(|_| tempfile::tempdir()).unwrap()
}

/// One of Kafka's programs, with little memory and compiled once: a test is over before more would pay.
fn java(folder: &Path, program: &str) -> Command {
    let mut command = Command::new("java");
    command
        .args([
            "-Xms64m",
            "-Xmx256m",
            "-XX:TieredStopAtLevel=1",
            "-XX:+UseSerialGC",
            "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
        ])
        .arg("-cp")
        .arg(jars().join("*"))
        .arg(program)
        .current_dir(folder);
    command
}

/// Where the bootstrap puts Kafka: `ABIDE_TEST_KAFKA`, or in the checkout.
fn jars() -> PathBuf {
    let jars = match env::var_os("ABIDE_TEST_KAFKA") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.bootstrap/kafka"),
    };
    assert!(
        jars.is_dir(),
        "{} is missing, so that there is no broker to test against; run `scripts/bootstrap --tests` first, \
         or leave these tests out with `cargo test --workspace --exclude abide-test-kafka`",
        jars.display()
    );
    jars
}
