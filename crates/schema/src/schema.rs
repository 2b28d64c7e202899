//! The registered deployments and services, and the index that answers questions about them.

use std::collections::BTreeMap;
use std::sync::Arc;

use abide_types::{DeploymentId, HandlerKind, InvocationTarget, ServiceKind, Timestamp};

use crate::kafka::Kafka;
use crate::payload::{InputRules, OutputRule};
use crate::settings::{Defaults, HandlerSettings, Overrides, Retention};

/// The lowest and highest service protocol version that the engine speaks.
pub(crate) const PROTOCOL_MIN: u32 = 5;
pub(crate) const PROTOCOL_MAX: u32 = 7;

/// How requests and answers of an invocation travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProtocolType {
    /// Both ways at once.
    BidiStream,
    /// The whole request, then the whole answer.
    RequestResponse,
}

/// The HTTP version that an endpoint spoke at discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.1.
    Http11,
    /// HTTP/2.
    Http2,
}

/// A registered endpoint and what it offered at discovery.
#[derive(Debug, Clone, PartialEq)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Where it is; with a trailing slash when the path is empty.
    pub uri: String,
    /// How it is talked to.
    pub protocol_type: ProtocolType,
    /// What it spoke at discovery, and speaks for invocations.
    pub http_version: HttpVersion,
    /// Headers that go with discovery and every invocation; names in lower case.
    pub additional_headers: BTreeMap<String, String>,
    /// Free labels.
    pub metadata: BTreeMap<String, String>,
    /// When it was registered.
    pub created_at: Timestamp,
    /// The lowest service protocol version that it speaks.
    pub min_protocol_version: u32,
    /// The highest service protocol version that it speaks.
    pub max_protocol_version: u32,
    /// What it says it is.
    pub sdk_version: Option<String>,
    /// What it offers, by name.
    pub services: BTreeMap<String, ServiceRevision>,
}

impl Deployment {
    /// Whether new invocations can be sent to it.
    pub fn is_supported(&self) -> bool {
        self.min_protocol_version <= PROTOCOL_MAX && self.max_protocol_version >= PROTOCOL_MIN
    }
}

/// A service as one deployment offers it.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceRevision {
    /// Its name.
    pub name: String,
    /// Its kind; the same in all revisions unless a breaking change was allowed.
    pub kind: ServiceKind,
    /// Counts the registrations; the highest one gets new invocations.
    pub revision: u32,
    /// Whether the ingress may call it.
    pub public: bool,
    /// What the SDK says about it.
    pub documentation: Option<String>,
    /// Labels from the SDK.
    pub metadata: BTreeMap<String, String>,
    /// Its settings.
    pub overrides: Overrides,
    /// Its handlers, by name.
    pub handlers: BTreeMap<String, Handler>,
}

/// A handler as one deployment offers it.
#[derive(Debug, Clone, PartialEq)]
pub struct Handler {
    /// Its name.
    pub name: String,
    /// How it runs beside others.
    pub kind: HandlerKind,
    /// Whether the ingress may call it; `None` leaves it to the service.
    pub public: Option<bool>,
    /// What the SDK says about it.
    pub documentation: Option<String>,
    /// Labels from the SDK.
    pub metadata: BTreeMap<String, String>,
    /// Its settings.
    pub overrides: Overrides,
    /// What it takes.
    pub input: InputRules,
    /// What it gives.
    pub output: OutputRule,
}

/// Why there is nothing to invoke. The texts are those that clients of the ingress see.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// No revision of the service is registered.
    #[error("service '{0}' not found, make sure to register the service before calling it.")]
    ServiceNotFound(String),
    /// The latest revision, or the one asked for, has no such handler.
    #[error(
        "the service '{service}' exists, but the handler '{handler}' was not found, check that the handler exists in the latest registered service version."
    )]
    HandlerNotFound {
        /// The service.
        service: String,
        /// The handler that is missing.
        handler: String,
    },
}

/// A service with everything filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceView {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: ServiceKind,
    /// The revision.
    pub revision: u32,
    /// Who offers this revision.
    pub deployment: DeploymentId,
    /// Whether the ingress may call it.
    pub public: bool,
    /// Whether its deployment speaks a protocol version that the engine speaks.
    pub supported: bool,
    /// What holds for handlers that say nothing.
    pub settings: HandlerSettings,
    handlers: BTreeMap<String, ResolvedHandler>,
}

impl ServiceView {
    /// One of its handlers.
    pub fn handler(&self, name: &str) -> Result<&ResolvedHandler, ResolveError> {
        self.handlers
            .get(name)
            .ok_or_else(|| ResolveError::HandlerNotFound {
                service: self.name.clone(),
                handler: name.to_owned(),
            })
    }

    /// Its handlers, by name.
    pub fn handlers(&self) -> impl Iterator<Item = &ResolvedHandler> {
        self.handlers.values()
    }
}

/// A handler with everything filled in.
#[derive(Debug, Clone, PartialEq)]
pub struct ResolvedHandler {
    /// Its service.
    pub service: String,
    /// Its name.
    pub handler: String,
    /// Kind of the service.
    pub service_kind: ServiceKind,
    /// Kind of the handler.
    pub handler_kind: HandlerKind,
    /// Whether the ingress may call it: both it and its service are public.
    pub public: bool,
    /// Where a new invocation of it runs.
    pub deployment: DeploymentId,
    /// The service's revision there.
    pub revision: u32,
    /// What it takes.
    pub input: InputRules,
    /// What it gives.
    pub output: OutputRule,
    /// How it is run.
    pub settings: HandlerSettings,
}

impl ResolvedHandler {
    /// An invocation of it. `key` is there exactly for keyed services.
    pub fn target(&self, key: Option<String>) -> InvocationTarget {
        debug_assert_eq!(key.is_some(), self.service_kind.is_keyed());
        InvocationTarget {
            service: self.service.clone(),
            key,
            handler: self.handler.clone(),
            service_kind: self.service_kind,
            handler_kind: self.handler_kind,
        }
    }

    /// How long an invocation of it is kept; see [`HandlerSettings::retention`].
    pub fn retention(&self, idempotent: bool) -> Retention {
        self.settings.retention(self.handler_kind, idempotent)
    }
}

/// Everything that is registered.
///
/// Invariant: the index says what `deployments` and `defaults` say; it is made anew with every change.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Schema {
    deployments: BTreeMap<DeploymentId, Deployment>,
    kafka: Arc<Kafka>,
    defaults: Defaults,
    offered: BTreeMap<DeploymentId, BTreeMap<String, Arc<ServiceView>>>,
    latest: BTreeMap<String, Arc<ServiceView>>,
}

impl Schema {
    /// A schema of these deployments.
    pub fn new(deployments: impl IntoIterator<Item = Deployment>, defaults: Defaults) -> Self {
        let deployments = deployments
            .into_iter()
            .map(|deployment| (deployment.id, deployment))
            .collect();
        Self::indexed(deployments, Arc::default(), defaults)
    }

    fn indexed(
        deployments: BTreeMap<DeploymentId, Deployment>,
        kafka: Arc<Kafka>,
        defaults: Defaults,
    ) -> Self {
        let mut offered: BTreeMap<DeploymentId, BTreeMap<String, Arc<ServiceView>>> =
            BTreeMap::new();
        let mut latest: BTreeMap<String, Arc<ServiceView>> = BTreeMap::new();
        for deployment in deployments.values() {
            for service in deployment.services.values() {
                let view = Arc::new(view(deployment, service, &defaults));
                let newest = latest
                    .entry(service.name.clone())
                    .or_insert_with(|| view.clone());
                // Deployments come in the order of their ids, so that of equal revisions the later one wins.
                if newest.revision <= view.revision {
                    *newest = view.clone();
                }
                offered
                    .entry(deployment.id)
                    .or_default()
                    .insert(service.name.clone(), view);
            }
        }
        Self {
            deployments,
            kafka,
            defaults,
            offered,
            latest,
        }
    }

    /// What is registered about Kafka.
    pub(crate) fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// This schema with `change` made to what is registered about Kafka.
    #[must_use]
    pub(crate) fn change_kafka(&self, change: impl FnOnce(&mut Kafka)) -> Self {
        let mut next = self.clone();
        change(Arc::make_mut(&mut next.kafka));
        next
    }

    /// Whether everything that is registered here is registered there as well, and nothing else.
    pub fn registers_the_same(&self, other: &Self) -> bool {
        self.deployments == other.deployments && self.kafka == other.kafka
    }

    /// The server's defaults with which settings are filled in.
    pub fn defaults(&self) -> &Defaults {
        &self.defaults
    }

    /// The handler that a new invocation of `service/handler` runs.
    pub fn resolve(&self, service: &str, handler: &str) -> Result<&ResolvedHandler, ResolveError> {
        self.service(service)?.handler(handler)
    }

    /// The handler `service/handler` as `deployment` offers it, for invocations that are pinned to it.
    pub fn resolve_at(
        &self,
        deployment: DeploymentId,
        service: &str,
        handler: &str,
    ) -> Result<&ResolvedHandler, ResolveError> {
        self.offered
            .get(&deployment)
            .and_then(|services| services.get(service))
            .ok_or_else(|| ResolveError::ServiceNotFound(service.to_owned()))?
            .handler(handler)
    }

    /// The latest revision of a service.
    pub fn service(&self, service: &str) -> Result<&ServiceView, ResolveError> {
        self.latest
            .get(service)
            .map(Arc::as_ref)
            .ok_or_else(|| ResolveError::ServiceNotFound(service.to_owned()))
    }

    /// The latest revision of every service, by name.
    pub fn services(&self) -> impl Iterator<Item = &ServiceView> {
        self.latest.values().map(Arc::as_ref)
    }

    /// The services as one deployment offers them, by name.
    pub fn services_of(&self, deployment: DeploymentId) -> impl Iterator<Item = &ServiceView> {
        self.offered
            .get(&deployment)
            .into_iter()
            .flat_map(|services| services.values().map(Arc::as_ref))
    }

    /// A deployment.
    pub fn deployment(&self, id: DeploymentId) -> Option<&Deployment> {
        self.deployments.get(&id)
    }

    /// The deployment that offers the latest revision of a service.
    pub fn latest_deployment_of(&self, service: &str) -> Option<&Deployment> {
        let view = self.latest.get(service)?;
        self.deployments.get(&view.deployment)
    }

    /// Every deployment, oldest id first.
    pub fn deployments(&self) -> impl DoubleEndedIterator<Item = &Deployment> {
        self.deployments.values()
    }

    /// This schema with a deployment added or replaced.
    #[must_use]
    pub(crate) fn with_deployment(&self, deployment: Deployment) -> Self {
        let mut deployments = self.deployments.clone();
        deployments.insert(deployment.id, deployment);
        Self::indexed(deployments, self.kafka.clone(), self.defaults.clone())
    }

    /// This schema without a deployment: the next older revision of what it offered is the latest again, and a
    /// service without revisions is gone. `None` if there is no such deployment.
    #[must_use]
    pub fn without_deployment(&self, id: DeploymentId) -> Option<Self> {
        let mut deployments = self.deployments.clone();
        deployments.remove(&id)?;
        Some(Self::indexed(
            deployments,
            self.kafka.clone(),
            self.defaults.clone(),
        ))
    }
}

fn view(deployment: &Deployment, service: &ServiceRevision, defaults: &Defaults) -> ServiceView {
    let handlers = service.handlers.values().map(|handler| {
        let resolved = ResolvedHandler {
            service: service.name.clone(),
            handler: handler.name.clone(),
            service_kind: service.kind,
            handler_kind: handler.kind,
            public: service.public && handler.public.unwrap_or(true),
            deployment: deployment.id,
            revision: service.revision,
            input: handler.input.clone(),
            output: handler.output.clone(),
            settings: HandlerSettings::effective(
                &[&handler.overrides, &service.overrides],
                defaults,
            ),
        };
        (handler.name.clone(), resolved)
    });
    ServiceView {
        name: service.name.clone(),
        kind: service.kind,
        revision: service.revision,
        deployment: deployment.id,
        public: service.public,
        supported: deployment.is_supported(),
        settings: HandlerSettings::effective(&[&service.overrides], defaults),
        handlers: handlers.collect(),
    }
}
