//! The command line. What is given here wins over environment and file.

use std::error::Error;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use abide_config::{Config, LogFormat, parse_duration};
use abide_types::{ReplicationWish, Role};
use clap::{ArgAction, Parser, ValueEnum};

/// Runs one node of an Abide cluster.
#[derive(Debug, Parser)]
#[command(name = "abide-server", version)]
pub(crate) struct Arguments {
    /// TOML file with the configuration.
    #[arg(short = 'c', long, value_name = "FILE", env = CONFIG_VARIABLE)]
    config_file: Option<PathBuf>,
    /// Print the effective configuration and exit.
    #[arg(long)]
    pub(crate) dump_config: bool,
    /// The settings of a production cluster: never form a cluster unasked.
    #[arg(long)]
    production: bool,
    /// Name of this node, unique in its cluster and permanent.
    #[arg(long, value_name = "NAME")]
    node_name: Option<String>,
    /// Name of the cluster to form or join.
    #[arg(long, value_name = "NAME")]
    cluster_name: Option<String>,
    /// What this node does, comma separated.
    #[arg(long, value_name = "ROLES", value_delimiter = ',')]
    roles: Option<Vec<Role>>,
    /// `region` or `region.zone`, to spread replicas.
    #[arg(long)]
    location: Option<String>,
    /// Where the data of nodes is kept.
    #[arg(long, value_name = "DIRECTORY")]
    base_dir: Option<PathBuf>,
    /// Address to listen on, for all ports that have none of their own.
    #[arg(long, value_name = "IP")]
    bind_ip: Option<IpAddr>,
    /// The node port.
    #[arg(long, value_name = "PORT")]
    bind_port: Option<u16>,
    /// Address and port of the node port, instead of the two above.
    #[arg(long, value_name = "IP:PORT")]
    bind_address: Option<SocketAddr>,
    /// `host:port` at which other nodes reach the node port.
    #[arg(long, value_name = "ADDRESS")]
    advertised_address: Option<String>,
    /// Whether to form a cluster if there is none; for one node at most.
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true", action = ArgAction::Set)]
    auto_provision: Option<bool>,
    /// Partitions of a cluster that this node forms.
    #[arg(long, value_name = "COUNT")]
    default_num_partitions: Option<u16>,
    /// Copies on disk that acknowledge a write, in a cluster that this node forms; or like `{zone: 2, node: 3}`.
    #[arg(long, value_name = "REPLICATION")]
    default_replication: Option<ReplicationWish>,
    /// Node ports of nodes with the metadata role, comma separated.
    #[arg(
        long,
        value_name = "ADDRESSES",
        value_delimiter = ',',
        alias = "metadata-store-address"
    )]
    metadata_addresses: Option<Vec<String>>,
    /// What is logged, in the syntax of RUST_LOG.
    #[arg(long, value_name = "FILTER")]
    log_filter: Option<String>,
    /// How it is written.
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<Format>,
    /// Log without colours.
    #[arg(long)]
    log_disable_ansi_codes: bool,
    /// How long a stop may take.
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    shutdown_timeout: Option<Duration>,
}

/// Names the file; not a setting itself.
const CONFIG_VARIABLE: &str = "ABIDE_CONFIG";

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Format {
    Pretty,
    Compact,
    Json,
}

impl Arguments {
    /// The configuration from all sources.
    pub(crate) fn config(&self) -> Result<Config, Box<dyn Error>> {
        let mut config = Config::load(self.config_file.as_deref(), environment())?;
        self.apply(&mut config);
        config.validate()?;
        Ok(config)
    }

    fn apply(&self, config: &mut Config) {
        fn set<T: Clone>(field: &mut T, value: Option<&T>) {
            if let Some(value) = value {
                field.clone_from(value);
            }
        }
        if self.production {
            config.auto_provision = false;
        }
        set(&mut config.node_name, self.node_name.as_ref());
        set(&mut config.cluster_name, self.cluster_name.as_ref());
        set(&mut config.roles, self.roles.as_ref());
        set(&mut config.location, self.location.as_ref());
        set(&mut config.base_dir, self.base_dir.as_ref());
        set(&mut config.bind_ip, self.bind_ip.as_ref());
        set(&mut config.bind_port, self.bind_port.as_ref());
        if self.bind_address.is_some() {
            config.bind_address = self.bind_address;
        }
        if self.advertised_address.is_some() {
            config
                .advertised_address
                .clone_from(&self.advertised_address);
        }
        set(&mut config.auto_provision, self.auto_provision.as_ref());
        set(
            &mut config.default_num_partitions,
            self.default_num_partitions.as_ref(),
        );
        set(
            &mut config.default_replication,
            self.default_replication.as_ref(),
        );
        set(
            &mut config.metadata_client.addresses,
            self.metadata_addresses.as_ref(),
        );
        set(&mut config.log_filter, self.log_filter.as_ref());
        if let Some(format) = self.log_format {
            config.log_format = match format {
                Format::Pretty => LogFormat::Pretty,
                Format::Compact => LogFormat::Compact,
                Format::Json => LogFormat::Json,
            };
        }
        config.log_disable_ansi_codes |= self.log_disable_ansi_codes;
        set(&mut config.shutdown_timeout, self.shutdown_timeout.as_ref());
    }
}

/// Variables that look like settings and are none.
pub(crate) fn ignored_variables() -> Vec<String> {
    abide_config::ignored_variables(environment())
}

/// What is not text cannot be a setting.
fn environment() -> impl Iterator<Item = (String, String)> {
    let all = std::env::vars_os();
    all.filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name != CONFIG_VARIABLE)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_wins_over_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("node.toml");
        std::fs::write(
            &file,
            "node-name = \"a\"\ncluster-name = \"c\"\nbind-port = 7001\n",
        )
        .unwrap();
        let file = file.to_str().unwrap();
        let arguments = Arguments::parse_from([
            "abide-server",
            "--config-file",
            file,
            "--node-name=b",
            "--roles=worker,log-server",
            "--auto-provision",
            "false",
            "--shutdown-timeout=10s",
        ]);
        let config = arguments.config().unwrap();
        assert_eq!(
            (config.node_name.as_str(), config.cluster_name.as_str()),
            ("b", "c")
        );
        assert_eq!((config.bind_port, config.auto_provision), (7001, false));
        assert_eq!(config.roles, [Role::Worker, Role::LogServer]);
        assert_eq!(config.shutdown_timeout, Duration::from_secs(10));
    }

    #[test]
    fn an_unknown_role_is_refused_with_those_that_exist() {
        let error = Arguments::try_parse_from(["abide-server", "--roles=cook"]).unwrap_err();
        assert!(error.to_string().contains("metadata-server"), "{error}");
    }
}
