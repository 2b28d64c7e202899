//! The routes, their versions and the server.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use abide_invoker::Invoker;
use abide_metadata::Metadata;
use abide_processor::Router as Partitions;
use abide_schema::Schema;
use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, patch, post, put};
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::cluster::{Cluster, Engine};
use crate::error::AdminError;
use crate::{deployments, invocations, services, system};

/// Writes all metrics of the node as Prometheus text.
pub type MetricsText = Arc<dyn Fn() -> String + Send + Sync>;

/// What an operator can set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AdminOptions {
    /// Headers whose values tell deployments at one address apart; names in lower case.
    pub deployment_routing_headers: Vec<String>,
    /// Requests at a time; more are refused with 429. `None` is without limit.
    pub concurrent_requests_max: Option<NonZeroUsize>,
    /// The URL of the ingress that tools are told.
    pub ingress_endpoint: Option<String>,
    /// How long requests in progress may take to end at shutdown.
    pub drain: Duration,
}

impl Default for AdminOptions {
    fn default() -> Self {
        Self {
            deployment_routing_headers: Vec::new(),
            concurrent_requests_max: None,
            ingress_endpoint: None,
            drain: Duration::from_secs(5),
        }
    }
}

/// The admin API of one node.
pub struct Admin {
    shared: Arc<Shared>,
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) options: AdminOptions,
    pub(crate) cluster: Box<dyn Cluster>,
    pub(crate) schema: watch::Receiver<Arc<Schema>>,
    pub(crate) metrics: MetricsText,
    in_progress: AtomicUsize,
}

impl Shared {
    pub(crate) fn schema(&self) -> Arc<Schema> {
        self.schema.borrow().clone()
    }
}

/// The semantics that a client has asked for by the prefix of the path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApiVersion {
    V2,
    /// `/v3`, `/v4` and no prefix at all.
    Current,
}

impl Admin {
    /// An API over the node's parts. `schema` follows the metadata; `metrics` is what `/metrics` shows.
    pub fn new(
        options: AdminOptions,
        metadata: Metadata,
        partitions: Partitions,
        invoker: Arc<Invoker>,
        schema: watch::Receiver<Arc<Schema>>,
        metrics: MetricsText,
    ) -> Self {
        let engine = Engine {
            metadata,
            partitions,
            invoker,
        };
        Self::over(options, Box::new(engine), schema, metrics)
    }

    pub(crate) fn over(
        options: AdminOptions,
        cluster: Box<dyn Cluster>,
        schema: watch::Receiver<Arc<Schema>>,
        metrics: MetricsText,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                options,
                cluster,
                schema,
                metrics,
                in_progress: AtomicUsize::new(0),
            }),
        }
    }

    /// Every route, without a prefix and under those of the versions.
    pub fn router(self) -> Router {
        let shared = self.shared;
        api(ApiVersion::Current)
            .nest("/v2", api(ApiVersion::V2))
            .nest("/v3", api(ApiVersion::Current))
            .nest("/v4", api(ApiVersion::Current))
            .route("/v1/{*rest}", any(version_1))
            .layer(middleware::from_fn_with_state(shared.clone(), limit))
            .with_state(shared)
    }

    /// Serves until `shutdown`; then takes no more connections and lets requests in progress end for a while.
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let drain = self.shared.options.drain;
        let stopping = shutdown.clone();
        let serving = axum::serve(listener, self.router())
            .with_graceful_shutdown(async move { stopping.cancelled().await });
        tokio::select! {
            result = async { serving.await } => if let Err(error) = result {
                tracing::error!(%error, "admin server ended");
            },
            () = async { shutdown.cancelled().await; tokio::time::sleep(drain).await } => {
                tracing::info!("dropping what has not ended");
            }
        }
    }
}

fn api(version: ApiVersion) -> Router<Arc<Shared>> {
    let put_deployment = match version {
        ApiVersion::V2 => put(deployments::update),
        ApiVersion::Current => put(deployments::put_is_gone),
    };
    Router::new()
        .route("/version", get(system::version))
        .route("/health", get(system::health))
        .route("/cluster-health", get(system::cluster_health))
        .route("/metrics", get(system::metrics))
        .route("/query", post(system::not_there_yet))
        .route(
            "/deployments",
            get(deployments::list)
                .post(move |shared, request| deployments::register(shared, version, request)),
        )
        .route(
            "/deployments/{id}",
            put_deployment
                .get(deployments::get)
                .patch(deployments::update)
                .delete(deployments::delete),
        )
        .route("/services", get(services::list))
        .route(
            "/services/{service}",
            get(services::get).patch(services::update),
        )
        .route("/services/{service}/openapi", get(system::not_there_yet))
        .route("/services/{service}/state", post(system::not_there_yet))
        .route("/services/{service}/handlers", get(services::handlers))
        .route(
            "/services/{service}/handlers/{handler}",
            get(services::handler),
        )
        .route("/invocations", get(invocations::list))
        .route(
            "/invocations/{id}",
            get(invocations::get).delete(invocations::delete),
        )
        .route("/invocations/{id}/cancel", patch(invocations::cancel))
        .route("/invocations/{id}/kill", patch(invocations::kill))
        .route("/invocations/{id}/pause", patch(invocations::pause))
        .route("/invocations/{id}/resume", patch(invocations::resume))
        .route("/invocations/{id}/purge", patch(invocations::purge))
        .route(
            "/invocations/{id}/purge-journal",
            patch(invocations::purge_journal),
        )
        .route(
            "/invocations/{id}/restart-as-new",
            patch(system::not_there_yet),
        )
        .route(
            "/internal/invocations_batch_operations/{operation}",
            post(invocations::batch),
        )
        .route(
            "/kafka-clusters",
            get(system::no_kafka_clusters).post(system::not_there_yet),
        )
        .route("/kafka-clusters/{name}", any(system::not_there_yet))
        .route(
            "/subscriptions",
            get(system::no_subscriptions).post(system::not_there_yet),
        )
        .route("/subscriptions/{id}", any(system::not_there_yet))
        .route("/limits/rules", put(system::not_there_yet))
        .route("/limits/rules/bulk-delete", post(system::not_there_yet))
}

async fn version_1() -> (StatusCode, &'static str) {
    let text = "Unsupported Admin API version V1. This server supports versions between V2 and V4.";
    (StatusCode::BAD_REQUEST, text)
}

/// One of the requests in progress, until it is dropped.
struct Place<'a>(&'a AtomicUsize);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn limit(State(shared): State<Arc<Shared>>, request: Request, next: Next) -> Response {
    let before = shared.in_progress.fetch_add(1, Ordering::Relaxed);
    let _place = Place(&shared.in_progress);
    match shared.options.concurrent_requests_max {
        Some(most) if before >= most.get() => AdminError::TooManyRequests.into_response(),
        _ => next.run(request).await,
    }
}

#[cfg(test)]
mod tests;
