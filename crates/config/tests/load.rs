//! What can be written, what comes of it, and what is said where it cannot be.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::io::Write;
use std::time::Duration;

use abide_config::{
    ByteCount, Config, ConfigError, KafkaClusterConfig, LogFormat, OnMaxAttempts, ignored_variables,
};
use abide_types::Role;

fn load(file: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut path = tempfile::NamedTempFile::new().unwrap();
    path.write_all(file.as_bytes()).unwrap();
    Config::load(Some(path.path()), owned(environment))
}

fn owned(environment: &[(&str, &str)]) -> Vec<(String, String)> {
    environment
        .iter()
        .map(|&(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The error's text without the name of the temporary file.
fn complaint(file: &str, environment: &[(&str, &str)]) -> String {
    let text = load(file, environment).unwrap_err().to_string();
    match text.split_once("/") {
        Some(("", rest)) => match rest.find([':', ' ']) {
            Some(end) => format!("FILE{}", &rest[end..]),
            None => text,
        },
        _ => text,
    }
}

#[test]
fn nothing_given_is_the_defaults_on_this_machine() {
    let config = Config::load(None, []).unwrap();
    assert!(!config.node_name.is_empty());
    let defaults = Config {
        node_name: config.node_name.clone(),
        ..Config::default()
    };
    assert_eq!(config, defaults);
    assert_eq!(config.default_num_partitions, 24);
    assert_eq!(config.node_bind().port(), 5122);
    assert_eq!(config.ingress_bind().port(), 8080);
    assert_eq!(config.admin_bind().port(), 9070);
    assert_eq!(config.ingress_request_bytes_max(), ByteCount::mib(32));
}

#[test]
fn what_is_written_reads_back() {
    let mut config = Config::load(None, []).unwrap();
    config.max_journal_retention = Some(Duration::from_secs(7));
    config.ingress.bind_ip = Some([127, 0, 0, 1].into());
    config.advertised_address = Some("http://here:5122/".to_owned());
    config.default_retry_policy.max_attempts = None;
    config.ingress.kafka_clusters.push(KafkaClusterConfig {
        name: "orders".to_owned(),
        brokers: vec!["broker-1:9092".to_owned(), "broker-2:9092".to_owned()],
        properties: [("sasl.password".to_owned(), "x".to_owned())].into(),
    });
    let headers = &mut config.worker.invoker.additional_request_headers;
    headers.insert("x-cluster".to_owned(), "mine".to_owned());
    assert_eq!(load(&config.to_toml(), &[]).unwrap(), config);
    assert_eq!(config.advertised_host_port(), Some("here:5122"));
}

#[test]
fn the_environment_overrides_the_file() {
    let file = r#"
        cluster-name = "from-file"
        bind-port = 1
        roles = ["worker"]
        log-format = "json"
        rocksdb-total-memory-size = "512MB"
        [worker.invoker]
        inactivity-timeout = "2m"
        abort-timeout = "PT1M"
        [default-retry-policy]
        on-max-attempts = "kill"
        max-attempts = "unlimited"
    "#;
    let config = load(
        file,
        &[
            ("ABIDE_BIND_PORT", "2"),
            ("ABIDE_WORKER__INVOKER__INACTIVITY_TIMEOUT", "1s 500ms"),
            (
                "ABIDE_METADATA_CLIENT__ADDRESSES",
                r#"["http://n1:5122", "n2:5122"]"#,
            ),
            ("ABIDE_AUTO_PROVISION", "false"),
            (
                "ABIDE_WORKER__INVOKER__ADDITIONAL_REQUEST_HEADERS",
                r#"{ x-one = "1" }"#,
            ),
            ("ABIDE_SERVICE_HOST", "10.0.0.1"),
            ("HOME", "/root"),
        ],
    )
    .unwrap();
    assert_eq!(config.cluster_name, "from-file");
    assert_eq!(config.bind_port, 2);
    assert_eq!(config.roles, [Role::Worker]);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.rocksdb_total_memory_size, ByteCount(512_000_000));
    assert_eq!(
        config.default_retry_policy.on_max_attempts,
        OnMaxAttempts::Kill
    );
    assert_eq!(config.default_retry_policy.max_attempts, None);
    let invoker = &config.worker.invoker;
    assert_eq!(invoker.inactivity_timeout, Duration::from_millis(1_500));
    assert_eq!(invoker.abort_timeout, Duration::from_secs(60));
    assert_eq!(invoker.additional_request_headers["x-one"], "1");
    assert_eq!(
        config.metadata_client.addresses,
        ["http://n1:5122", "n2:5122"]
    );
    assert!(!config.auto_provision);
}

#[test]
fn variables_that_name_no_key_are_told() {
    let environment = owned(&[
        ("ABIDE_PORT", "tcp://10.0.0.1:80"),
        ("ABIDE_NODENAME", "n1"),
        ("ABIDE_NODE_NAME", "n1"),
        ("ABIDE_WORKER__CLEANUP_INTERVAL", "1h"),
        ("PATH", "/bin"),
    ]);
    assert_eq!(
        ignored_variables(environment),
        ["ABIDE_NODENAME", "ABIDE_PORT"]
    );
}

#[test]
fn errors_name_the_key_the_value_and_what_would_be_right() {
    type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a str);
    let cases: &[Case<'_>] = &[
        (
            "bind-prot = 1",
            &[],
            "FILE: unknown field `bind-prot`, expected one of `roles`, `node-name`",
        ),
        (
            "[worker.invoker]\nabort-timout = '1s'",
            &[],
            "unknown field `abort-timout`, expected one of `inactivity-timeout`",
        ),
        (
            "[worker]\ncleanup-interval = 'soon'",
            &[],
            "'soon' is not a duration; write it like 10s, 1m, 1s 500ms, 1d or PT1M30S",
        ),
        (
            "bind-port = 70000",
            &[],
            "`bind-port`: 64-bit unsigned integer `70000` is not an unsigned 16 bit",
        ),
        (
            "roles = ['wroker']",
            &[],
            "'wroker' is not a role; the roles are metadata-server",
        ),
        (
            "bind-ip = 'localhost'",
            &[],
            "`bind-ip`: 'localhost' is not an IP address; write it like 0.0.0.0 or ::",
        ),
        (
            "[networking]\nmessage-size-limit = '32 MiX'",
            &[],
            "'32 MiX' is not a size; write it like 32 MiB, 512MB or 4096",
        ),
        ("bind-port = ", &[], "FILE is not TOML: "),
        (
            "",
            &[("ABIDE_BIND_PORT", "many")],
            "ABIDE_BIND_PORT: `bind-port`: ",
        ),
        (
            "",
            &[("ABIDE_WORKER__CLEANUP_INTERVALL", "1h")],
            "ABIDE_WORKER__CLEANUP_INTERVALL: `worker`: unknown field",
        ),
        (
            "",
            &[("ABIDE_ROLES", "[worker")],
            "ABIDE_ROLES: not a list or table in TOML",
        ),
        ("", &[("ABIDE_ROLES", "worker")], "ABIDE_ROLES: "),
        (
            "",
            &[("ABIDE_LOG_FORMAT", "xml")],
            "ABIDE_LOG_FORMAT: `log-format`: 'xml' is not a format; use pretty, compact or json",
        ),
    ];
    for (file, environment, expected) in cases {
        let actual = complaint(file, environment);
        assert!(actual.contains(expected), "{file}{environment:?}: {actual}");
    }
}

#[test]
fn values_out_of_bounds_are_refused() {
    let cases = [
        ("roles = []", "`roles` is empty; give the node at least one"),
        (
            "cluster-name = '../etc'",
            "`cluster-name` is '../etc'; use letters, digits, '-', '_' and '.', not '.' first",
        ),
        (
            "location = 'eu.'",
            "`location` is 'eu.'; write `region` or `region.zone`",
        ),
        (
            "default-num-partitions = 0",
            "`default-num-partitions` is 0; use 1 to 65535",
        ),
        (
            "advertised-address = 'here'",
            "`advertised-address` is 'here'; write host:port, such as 10.0.0.1:5122",
        ),
        (
            "[admin]\nbind-port = 8080",
            "`admin.bind-port` is 8080; `ingress.bind-port` is the same; use another",
        ),
        (
            "[networking]\nfailure-timeout = '200ms'",
            "`networking.failure-timeout` is 200ms; use 300ms or more",
        ),
        (
            "[ingress]\nrequest-size-limit = '64 MiB'",
            "`ingress.request-size-limit` is 64 MiB; nodes carry no more than \
             `networking.message-size-limit`, 32 MiB",
        ),
        (
            "[metadata-server]\nvoters-max = 4",
            "`metadata-server.voters-max` is 4; use an odd number: one more voter survives no more \
             failures",
        ),
        (
            "[default-retry-policy]\nexponentiation-factor = 0.5",
            "`default-retry-policy.exponentiation-factor` is 0.5; use 1.0 or more: pauses do not shrink",
        ),
        (
            "[default-retry-policy]\ninitial-interval = '2m'",
            "`default-retry-policy.initial-interval` is 2m; use at most \
             `default-retry-policy.max-interval`, 1m",
        ),
        (
            "rocksdb-total-memory-size = '1 MiB'",
            "`rocksdb-total-memory-size` is 1 MiB; use 64 MiB or more",
        ),
        (
            "[log-server]\nrocksdb-memory-ratio = 2.0",
            "`log-server.rocksdb-memory-ratio` is 2; use more than 0 and at most 1",
        ),
    ];
    for (file, expected) in cases {
        assert_eq!(complaint(file, &[]), expected, "{file}");
    }
}

#[test]
fn a_missing_file_is_named() {
    let error = Config::load(Some("/nowhere/abide.toml".as_ref()), []).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read the configuration file /nowhere/abide.toml"
    );
}
