//! Kafka clusters, the subscriptions of their topics, and every change of them (admin reference, sections 10 and 11).
//!
//! Clusters come from the registry or from a node's configuration file; one of the file hides one of the registry with
//! the same name and cannot be changed here. Start at [`Schema::add_subscription`].

use std::collections::BTreeMap;

use abide_service_protocol::ErrorCode;
use abide_types::{SubscriptionId, Timestamp};

use crate::schema::Schema;

/// The properties of the Kafka client that name brokers; one of them has to be there.
const BROKERS: [&str; 2] = ["bootstrap.servers", "metadata.broker.list"];
/// How the client talks to brokers, and how it tells who it is, under both names.
const PROTOCOL: &str = "security.protocol";
const MECHANISMS: [&str; 2] = ["sasl.mechanism", "sasl.mechanisms"];
/// What has the client load a library, or run a command.
const RUNS_CODE: [&str; 3] = [
    "plugin.library.paths",
    "ssl.engine.location",
    "sasl.kerberos.kinit.cmd",
];
const GROUP_ID: &str = "group.id";
const CLIENT_ID: &str = "client.id";
const CLIENT_ID_DEFAULT: &str = "restate";
/// Properties that name or hold credentials. Beside them, whatever is called a password or secret.
const HIDDEN: [&str; 6] = [
    "sasl.username",
    "sasl.jaas.config",
    "sasl.oauthbearer.config",
    "ssl.key.pem",
    "ssl.key.location",
    "ssl.keystore.location",
];

/// Properties of a Kafka client, by their names in its documentation.
pub type KafkaProperties = BTreeMap<String, String>;

/// Whether a property's value is not to be shown.
pub fn is_secret_property(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    name.contains("password") || name.contains("secret") || HIDDEN.contains(&name.as_str())
}

/// A Kafka cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KafkaCluster {
    /// Its name in the sources of subscriptions.
    pub name: String,
    /// How a client connects to it.
    pub properties: KafkaProperties,
    /// When it was registered; zero for one of the configuration file.
    pub created_at: Timestamp,
}

/// What becomes of the records of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Its id.
    pub id: SubscriptionId,
    /// The Kafka cluster.
    pub cluster: String,
    /// The topic.
    pub topic: String,
    /// The service that is invoked.
    pub service: String,
    /// Its handler.
    pub handler: String,
    /// Properties of the consumer; they come before the cluster's.
    pub options: KafkaProperties,
}

impl Subscription {
    /// `kafka://cluster/topic`.
    pub fn source(&self) -> String {
        format!("kafka://{}/{}", self.cluster, self.topic)
    }

    /// `service://Service/handler`.
    pub fn sink(&self) -> String {
        format!("service://{}/{}", self.service, self.handler)
    }
}

/// What is registered about Kafka.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Kafka {
    pub(crate) clusters: BTreeMap<String, KafkaCluster>,
    pub(crate) subscriptions: BTreeMap<SubscriptionId, Subscription>,
}

/// A property that a Kafka client of this server does not get.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RefusedProperty {
    /// A way to say who one is that this build does not have: it links neither Kerberos nor what asks for tokens.
    #[error(
        "the property '{property}' is '{value}', and this server is built without OAUTHBEARER and GSSAPI for Kafka. With the security.protocol 'sasl_plaintext' or 'sasl_ssl' the sasl.mechanism has to be 'PLAIN', 'SCRAM-SHA-256' or 'SCRAM-SHA-512'."
    )]
    Mechanism {
        /// The property.
        property: &'static str,
        /// What it says.
        value: String,
    },
    /// The client would load a library or run a program.
    #[error(
        "the property '{0}' would have this server run a program of your choice, which is not done for what comes over the network. Leave it out."
    )]
    RunsCode(&'static str),
}

/// Checks that this build can connect like this, and that nothing foreign would run.
fn check_properties(properties: &KafkaProperties) -> Result<(), RefusedProperty> {
    if let Some(property) = RUNS_CODE.iter().find(|it| properties.contains_key(**it)) {
        return Err(RefusedProperty::RunsCode(property));
    }
    let protocol = properties.get(PROTOCOL).map(|it| it.to_lowercase());
    // What else there may be is for the client to tell.
    if !matches!(protocol.as_deref(), Some("sasl_plaintext" | "sasl_ssl")) {
        return Ok(());
    }
    let given = MECHANISMS
        .iter()
        .find_map(|name| Some((*name, properties.get(*name)?.as_str())));
    // Without one it is the client's default.
    match given.unwrap_or((MECHANISMS[0], "GSSAPI")) {
        (_, "PLAIN" | "SCRAM-SHA-256" | "SCRAM-SHA-512") => Ok(()),
        (property, value) => Err(RefusedProperty::Mechanism {
            property,
            value: value.to_owned(),
        }),
    }
}

/// Why a Kafka cluster cannot be changed. The texts are those that clients of the admin API see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KafkaClusterError {
    /// There is one of this name.
    #[error("kafka cluster '{0}' already exists in schema registry")]
    Exists(String),
    /// The configuration file has one of this name.
    #[error(
        "kafka cluster '{0}' conflicts with static configuration. Cluster names in schema registry cannot override statically configured clusters."
    )]
    Hidden(String),
    /// It comes from the configuration file.
    #[error(
        "kafka cluster '{0}' cannot be updated, because it was defined in the restate configuration file. Update the configuration file directly, or remove the configuration file"
    )]
    Configured(String),
    /// Nothing says where its brokers are.
    #[error(
        "kafka cluster '{0}' properties must contain either 'bootstrap.servers' or 'metadata.broker.list'"
    )]
    NoBrokers(String),
    /// A property is refused.
    #[error("kafka cluster '{cluster}': {reason}")]
    Unsupported {
        /// The cluster.
        cluster: String,
        /// What it cannot do.
        reason: RefusedProperty,
    },
    /// There is none of this name to change.
    #[error("not found in the schema registry: kafka cluster '{0}'")]
    NotFound(String),
    /// There is none of this name to remove.
    #[error("not found in the schema registry: kafka cluster named '{0}'")]
    NothingToRemove(String),
    /// A subscription reads from it.
    #[error(
        "Removing the kafka cluster '{cluster}' leads to subscription '{subscription}' being orphan. Remove the subscription first, or use the 'force' flag."
    )]
    InUse {
        /// The cluster.
        cluster: String,
        /// The first subscription that reads from it.
        subscription: SubscriptionId,
    },
}

/// Why there is no such subscription. The texts are those that clients of the admin API see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SubscriptionError {
    /// Its source names an unknown cluster.
    #[error("Kafka cluster '{name}' not found. Available clusters: {known:?}")]
    ClusterNotFound {
        /// The name.
        name: String,
        /// Those that there are.
        known: Vec<String>,
    },
    /// Its sink names an unknown handler.
    #[error("invalid sink URI '{0}': cannot find service/handler specified in the sink URI.")]
    HandlerNotFound(String),
    /// With its options, this build cannot connect.
    #[error(transparent)]
    Unsupported(RefusedProperty),
    /// There is none with this id to remove.
    #[error("not found in the schema registry: subscription with id '{0}'")]
    NothingToRemove(SubscriptionId),
}

impl SubscriptionError {
    /// The documented code, where there is one.
    pub const fn code(&self) -> Option<ErrorCode> {
        match self {
            Self::HandlerNotFound(_) => Some(ErrorCode::Meta0009),
            Self::ClusterNotFound { .. } | Self::Unsupported(_) | Self::NothingToRemove(_) => None,
        }
    }
}

impl Schema {
    /// A Kafka cluster.
    pub fn kafka_cluster(&self, name: &str) -> Option<&KafkaCluster> {
        let configured = &self.defaults().kafka_clusters;
        configured
            .get(name)
            .or_else(|| self.kafka().clusters.get(name))
    }

    /// The Kafka clusters of the registry, by name, then those of the configuration file.
    pub fn kafka_clusters(&self) -> impl Iterator<Item = &KafkaCluster> {
        let configured = &self.defaults().kafka_clusters;
        let registered = self.kafka().clusters.values();
        registered
            .filter(|cluster| !configured.contains_key(&cluster.name))
            .chain(configured.values())
    }

    /// Whether a Kafka cluster comes from the configuration file.
    pub fn is_configured_kafka_cluster(&self, name: &str) -> bool {
        self.defaults().kafka_clusters.contains_key(name)
    }

    /// A subscription.
    pub fn subscription(&self, id: SubscriptionId) -> Option<&Subscription> {
        self.kafka().subscriptions.get(&id)
    }

    /// Every subscription, oldest id first.
    pub fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        self.kafka().subscriptions.values()
    }

    /// The properties of a subscription's consumer: its cluster's, and its own before them. `None` if there is no such
    /// cluster any more.
    pub fn consumer_properties(&self, subscription: &Subscription) -> Option<KafkaProperties> {
        let mut properties = self
            .kafka_cluster(&subscription.cluster)?
            .properties
            .clone();
        properties.extend(subscription.options.clone());
        Some(properties)
    }

    /// This schema with another Kafka cluster.
    pub fn add_kafka_cluster(&self, cluster: KafkaCluster) -> Result<Self, KafkaClusterError> {
        if self.is_configured_kafka_cluster(&cluster.name) {
            return Err(KafkaClusterError::Hidden(cluster.name));
        }
        if self.kafka().clusters.contains_key(&cluster.name) {
            return Err(KafkaClusterError::Exists(cluster.name));
        }
        check(&cluster.name, &cluster.properties)?;
        Ok(self.change_kafka(|kafka| {
            kafka.clusters.insert(cluster.name.clone(), cluster);
        }))
    }

    /// This schema with other properties of a Kafka cluster.
    pub fn update_kafka_cluster(
        &self,
        name: &str,
        properties: KafkaProperties,
    ) -> Result<Self, KafkaClusterError> {
        if self.is_configured_kafka_cluster(name) {
            return Err(KafkaClusterError::Configured(name.to_owned()));
        }
        let known = self.kafka().clusters.get(name).cloned();
        let mut cluster = known.ok_or_else(|| KafkaClusterError::NotFound(name.to_owned()))?;
        check(name, &properties)?;
        cluster.properties = properties;
        Ok(self.change_kafka(|kafka| {
            kafka.clusters.insert(name.to_owned(), cluster);
        }))
    }

    /// This schema without a Kafka cluster. With `force` its subscriptions stay and read nothing until it is back.
    pub fn remove_kafka_cluster(&self, name: &str, force: bool) -> Result<Self, KafkaClusterError> {
        if self.is_configured_kafka_cluster(name) {
            return Err(KafkaClusterError::Configured(name.to_owned()));
        }
        if !self.kafka().clusters.contains_key(name) {
            return Err(KafkaClusterError::NothingToRemove(name.to_owned()));
        }
        let user = self.subscriptions().find(|user| user.cluster == name);
        if let (Some(user), false) = (user, force) {
            return Err(KafkaClusterError::InUse {
                cluster: name.to_owned(),
                subscription: user.id,
            });
        }
        Ok(self.change_kafka(|kafka| {
            kafka.clusters.remove(name);
        }))
    }

    /// This schema with another subscription, whose options get the group and the client's name if they have none.
    pub fn add_subscription(
        &self,
        mut subscription: Subscription,
    ) -> Result<Self, SubscriptionError> {
        let Some(cluster) = self.kafka_cluster(&subscription.cluster) else {
            let known = self.kafka_clusters().map(|known| known.name.clone());
            return Err(SubscriptionError::ClusterNotFound {
                known: known.collect(),
                name: subscription.cluster,
            });
        };
        if self
            .resolve(&subscription.service, &subscription.handler)
            .is_err()
        {
            return Err(SubscriptionError::HandlerNotFound(subscription.sink()));
        }
        // Its options come before the cluster's; those of a cluster of the file are seen here first.
        let mut both = cluster.properties.clone();
        both.extend(subscription.options.clone());
        check_properties(&both).map_err(SubscriptionError::Unsupported)?;
        let options = &mut subscription.options;
        options
            .entry(GROUP_ID.to_owned())
            .or_insert_with(|| subscription.id.to_string());
        if !cluster.properties.contains_key(CLIENT_ID) {
            options
                .entry(CLIENT_ID.to_owned())
                .or_insert_with(|| CLIENT_ID_DEFAULT.to_owned());
        }
        Ok(self.change_kafka(|kafka| {
            kafka.subscriptions.insert(subscription.id, subscription);
        }))
    }

    /// This schema without a subscription.
    pub fn remove_subscription(&self, id: SubscriptionId) -> Result<Self, SubscriptionError> {
        if self.subscription(id).is_none() {
            return Err(SubscriptionError::NothingToRemove(id));
        }
        Ok(self.change_kafka(|kafka| {
            kafka.subscriptions.remove(&id);
        }))
    }
}

fn check(name: &str, properties: &KafkaProperties) -> Result<(), KafkaClusterError> {
    check_brokers(name, properties)?;
    check_properties(properties).map_err(|reason| KafkaClusterError::Unsupported {
        cluster: name.to_owned(),
        reason,
    })
}

fn check_brokers(name: &str, properties: &KafkaProperties) -> Result<(), KafkaClusterError> {
    if BROKERS
        .iter()
        .any(|brokers| properties.contains_key(*brokers))
    {
        return Ok(());
    }
    Err(KafkaClusterError::NoBrokers(name.to_owned()))
}

#[cfg(test)]
#[path = "kafka_tests.rs"]
mod tests;
