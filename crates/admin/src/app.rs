//! The routes, their versions and the server.

use std::fmt::Debug;
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
use axum::routing::{MethodRouter, any, get, patch, post, put};
use axum::serve::Listener;
use http::StatusCode;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tower_http::compression::CompressionLayer;

use crate::cluster::{Cluster, Engine};
use crate::error::AdminError;
use crate::observe::Observer;
use crate::query::Sql;
use crate::{
    deployments, invocations, kafka_clusters, limits, observe, openapi, query, services, state,
    subscriptions, system,
};

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
    /// Whether the paths of the web UI are served.
    pub web_ui: bool,
    /// How long requests in progress may take to end at shutdown.
    pub drain: Duration,
}

impl Default for AdminOptions {
    fn default() -> Self {
        Self {
            deployment_routing_headers: Vec::new(),
            concurrent_requests_max: None,
            ingress_endpoint: None,
            web_ui: true,
            drain: Duration::from_secs(5),
        }
    }
}

/// The admin API of one node.
#[derive(Clone)]
pub struct Admin {
    shared: Arc<Shared>,
}

/// What all requests share.
pub(crate) struct Shared {
    pub(crate) options: AdminOptions,
    pub(crate) cluster: Box<dyn Cluster>,
    pub(crate) schema: watch::Receiver<Arc<Schema>>,
    pub(crate) metrics: MetricsText,
    pub(crate) sql: Option<Arc<dyn Sql>>,
    pub(crate) observer: Option<Arc<dyn Observer>>,
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
                sql: None,
                observer: None,
                in_progress: AtomicUsize::new(0),
            }),
        }
    }

    /// With something that runs queries; without, `/query` is not there.
    #[must_use]
    pub fn with_sql(mut self, sql: Arc<dyn Sql>) -> Self {
        // Nothing shares it before it serves.
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.sql = Some(sql);
        }
        self
    }

    /// With something that looks into the cluster; without, what needs it answers 501.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        // Nothing shares it before it serves.
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.observer = Some(observer);
        }
        self
    }

    /// Every route, without a prefix and under those of the versions.
    pub fn router(self) -> Router {
        let shared = self.shared;
        let ui = match shared.options.web_ui {
            true => Router::new()
                .route("/", get(system::to_ui))
                .route("/ui", get(system::to_ui))
                .route("/ui/", get(system::no_ui))
                .route("/ui/{*rest}", get(system::no_ui)),
            false => Router::new(),
        };
        api(ApiVersion::Current)
            .router
            .nest("/v2", api(ApiVersion::V2).router)
            .nest("/v3", api(ApiVersion::Current).router)
            .nest("/v4", api(ApiVersion::Current).router)
            .route("/v1", any(version_1))
            .route("/v1/{*rest}", any(version_1))
            .merge(ui)
            .layer(middleware::from_fn_with_state(shared.clone(), limit))
            .layer(CompressionLayer::new())
            .with_state(shared)
    }

    /// Serves until `shutdown`; then takes no more connections and lets requests in progress end for a while.
    pub async fn serve<L>(self, listener: L, shutdown: CancellationToken)
    where
        L: Listener,
        L::Addr: Debug,
    {
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

/// The routes under one prefix. Every path is described in `openapi/`; a test compares the two.
struct Routes {
    router: Router<Arc<Shared>>,
    paths: Vec<&'static str>,
}

impl Routes {
    fn route(mut self, path: &'static str, methods: MethodRouter<Arc<Shared>>) -> Self {
        self.paths.push(path);
        self.router = self.router.route(path, methods);
        self
    }
}

fn api(version: ApiVersion) -> Routes {
    let put_deployment = match version {
        ApiVersion::V2 => put(deployments::update),
        ApiVersion::Current => put(deployments::put_is_gone),
    };
    let routes = Routes {
        router: Router::new(),
        paths: Vec::new(),
    };
    routes
        .route("/version", get(system::version))
        .route("/health", get(system::health))
        .route("/cluster-health", get(system::cluster_health))
        .route("/metrics", get(system::metrics))
        .route("/openapi", get(openapi::show))
        .route("/api/v1/cluster/stats", get(observe::stats))
        .route(
            "/api/v1/log-filter",
            get(observe::log_filter)
                .put(observe::set_log_filter)
                .delete(observe::reset_log_filter),
        )
        .route("/query", post(query::query))
        .route(
            "/deployments",
            get(deployments::list)
                .post(move |shared, request| deployments::register(shared, version, request)),
        )
        .route(
            "/deployments/{deployment}",
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
        .route("/services/{service}/openapi", get(services::openapi))
        .route(
            "/internal/services/{service}/serdes/{operation}/{serde}",
            post(services::serdes),
        )
        .route("/services/{service}/state", post(state::change))
        .route("/services/{service}/handlers", get(services::handlers))
        .route(
            "/services/{service}/handlers/{handler}",
            get(services::handler),
        )
        .route("/invocations", get(invocations::list))
        .route(
            "/invocations/{invocation_id}",
            get(invocations::get).delete(invocations::delete),
        )
        .route(
            "/invocations/{invocation_id}/cancel",
            patch(invocations::cancel),
        )
        .route(
            "/invocations/{invocation_id}/kill",
            patch(invocations::kill),
        )
        .route(
            "/invocations/{invocation_id}/pause",
            patch(invocations::pause),
        )
        .route(
            "/invocations/{invocation_id}/resume",
            patch(invocations::resume),
        )
        .route(
            "/invocations/{invocation_id}/purge",
            patch(invocations::purge),
        )
        .route(
            "/invocations/{invocation_id}/purge-journal",
            patch(invocations::purge_journal),
        )
        .route(
            "/invocations/{invocation_id}/restart-as-new",
            patch(invocations::restart_as_new),
        )
        .route(
            "/internal/invocations_batch_operations/{operation}",
            post(invocations::batch),
        )
        .route(
            "/kafka-clusters",
            get(kafka_clusters::list).post(kafka_clusters::create),
        )
        .route(
            "/kafka-clusters/{cluster_name}",
            get(kafka_clusters::get)
                .patch(kafka_clusters::update)
                .delete(kafka_clusters::delete),
        )
        .route(
            "/subscriptions",
            get(subscriptions::list).post(subscriptions::create),
        )
        .route(
            "/subscriptions/{subscription}",
            get(subscriptions::get).delete(subscriptions::delete),
        )
        .route("/limits/rules", put(limits::upsert))
        .route("/limits/rules/bulk-delete", post(limits::delete))
        .route("/vqueues/{vqueue_id}/pause", post(limits::pause))
        .route("/vqueues/{vqueue_id}/resume", post(limits::resume))
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
