//! Runs queries: on threads of their own, a bounded number at a time, in bounded memory and time.

use std::path::PathBuf;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use datafusion::catalog::{
    CatalogProvider, MemoryCatalogProvider, MemoryCatalogProviderList, MemorySchemaProvider,
    SchemaProvider as _,
};
use datafusion::common::config::Dialect;
use datafusion::common::{DataFusionError, Result as SqlResult};
use datafusion::execution::context::{SQLOptions, SessionContext};
use datafusion::execution::disk_manager::{DiskManagerBuilder, DiskManagerMode};
use datafusion::execution::memory_pool::GreedyMemoryPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::execution::{SessionState, SessionStateBuilder};
use datafusion::logical_expr::LogicalPlan;
use datafusion::prelude::SessionConfig;
use datafusion::sql::parser::Statement;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::dialect::PostgreSqlDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};
use futures::StreamExt as _;
use tokio::runtime::Runtime;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use crate::error::QueryError;
use crate::functions;
use crate::output::{Answer, Encoder, Format};
use crate::source::Sources;
use crate::tables;

const CATALOG: &str = "restate";
const SCHEMA: &str = "public";

/// Planning walks expressions by recursion, one frame for each operator of a chain.
const STACK_BYTES: usize = 128 << 20;
/// The longest text. Lists of many ids fit.
const TEXT_BYTES_MAX: usize = 256 << 10;
/// The most operators of one text: what the stack holds, with a margin for builds that do not optimise.
const OPERATORS_MAX: usize = 2_000;
/// Batches that wait for the client.
const BATCHES_AHEAD: usize = 2;

/// Limits of queries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueryOptions {
    /// Memory of all queries together. One that would need more fails.
    pub memory_bytes: usize,
    /// Threads that run queries, and partitions that one query reads at a time.
    pub parallelism: usize,
    /// Where sorts that are too large for memory go; without, they fail.
    pub spill_dir: Option<PathBuf>,
    /// A query that takes longer is ended.
    pub timeout: Duration,
    /// Queries at a time; more are refused.
    pub concurrent_max: usize,
}

impl Default for QueryOptions {
    fn default() -> Self {
        Self {
            memory_bytes: 1 << 30,
            parallelism: 2,
            spill_dir: None,
            timeout: Duration::from_secs(60),
            concurrent_max: 32,
        }
    }
}

/// Runs queries. Cheap until the first one comes.
pub struct QueryEngine {
    options: QueryOptions,
    sources: Sources,
    places: Arc<Semaphore>,
    core: OnceLock<Result<Core, String>>,
}

/// What the first query makes.
struct Core {
    /// Left to end by itself: what it runs may be in the middle of a read.
    runtime: Option<Runtime>,
    state: SessionState,
}

impl Drop for Core {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl QueryEngine {
    /// An engine over these sources.
    pub fn new(options: QueryOptions, sources: Sources) -> Self {
        Self {
            places: Arc::new(Semaphore::new(options.concurrent_max.max(1))),
            options,
            sources,
            core: OnceLock::new(),
        }
    }

    /// Runs a query. Returns when its first rows are there, or that there are none.
    ///
    /// # Errors
    /// It cannot be run; or it fails before its first rows.
    pub async fn query(&self, text: String, format: Format) -> Result<Answer, QueryError> {
        let place = self.places.clone().try_acquire_owned();
        let place = place.map_err(|_| QueryError::Overloaded(self.options.concurrent_max))?;
        check_size(&text)?;
        let core = self.core.get_or_init(|| self.start());
        let core = (core.as_ref()).map_err(|reason| QueryError::Unavailable(reason.clone()))?;
        let Some(runtime) = &core.runtime else {
            return Err(QueryError::Unavailable("it is ending".to_owned()));
        };
        let (sender, mut pieces) = mpsc::channel(BATCHES_AHEAD);
        let (planned, plan) = oneshot::channel();
        let timeout = self.options.timeout;
        let run = Run {
            state: core.state.clone(),
            text,
            format,
            sender,
        };
        runtime.spawn(run.within(timeout, planned, place));
        match plan.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return Err(error),
            Err(_) => return Err(QueryError::Failed("the query panicked".to_owned())),
        }
        // A query that fails at once does so before its answer has begun.
        let first = pieces.recv().await.transpose()?;
        Ok(Answer::new(first, pieces))
    }

    fn start(&self) -> Result<Core, String> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("query")
            .worker_threads(self.options.parallelism.max(1))
            .thread_stack_size(STACK_BYTES)
            .enable_all()
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Core {
            runtime: Some(runtime),
            state: self.state().map_err(|error| error.to_string())?,
        })
    }

    fn state(&self) -> SqlResult<SessionState> {
        let schema = MemorySchemaProvider::new();
        for (name, table) in tables::all(&self.sources) {
            schema.register_table(name.to_owned(), table)?;
        }
        let catalog = MemoryCatalogProvider::new();
        catalog.register_schema(SCHEMA, Arc::new(schema))?;
        let catalogs = MemoryCatalogProviderList::new();
        use datafusion::catalog::CatalogProviderList as _;
        catalogs.register_catalog(CATALOG.to_owned(), Arc::new(catalog));
        let mut config = SessionConfig::new()
            .with_default_catalog_and_schema(CATALOG, SCHEMA)
            .with_create_default_catalog_and_schema(false)
            .with_information_schema(true)
            .with_target_partitions(self.options.parallelism.max(1));
        config.options_mut().sql_parser.dialect = Dialect::PostgreSQL;
        let disk = match &self.options.spill_dir {
            Some(dir) => DiskManagerMode::Directories(vec![dir.clone()]),
            None => DiskManagerMode::Disabled,
        };
        let runtime = RuntimeEnvBuilder::new()
            .with_memory_pool(Arc::new(GreedyMemoryPool::new(self.options.memory_bytes)))
            .with_disk_manager_builder(DiskManagerBuilder::default().with_mode(disk))
            .build_arc()?;
        let mut state = SessionStateBuilder::new()
            .with_config(config)
            .with_runtime_env(runtime)
            .with_catalog_list(Arc::new(catalogs))
            .with_default_features()
            .build();
        functions::register(&mut state)?;
        Ok(state)
    }
}

/// One query.
struct Run {
    state: SessionState,
    text: String,
    format: Format,
    sender: mpsc::Sender<Result<Bytes, QueryError>>,
}

impl Run {
    async fn within(
        self,
        timeout: Duration,
        planned: oneshot::Sender<Result<(), QueryError>>,
        place: OwnedSemaphorePermit,
    ) {
        let deadline = Instant::now() + timeout;
        let sender = self.sender.clone();
        let mut planned = Some(planned);
        let run = self.run(&mut planned);
        let end = tokio::select! {
            end = tokio::time::timeout_at(deadline, run) => end,
            // Nobody wants the rest.
            () = sender.closed() => return,
        };
        let error = match end {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error,
            Err(_) => QueryError::TimedOut(timeout),
        };
        tracing::debug!(%error, "a query failed");
        match planned.take() {
            Some(planned) => drop(planned.send(Err(error))),
            // A client that has gone needs no answer.
            None => drop(sender.send(Err(error)).await),
        }
        drop(place);
    }

    async fn run(
        self,
        planned: &mut Option<oneshot::Sender<Result<(), QueryError>>>,
    ) -> Result<(), QueryError> {
        let failed = |error: DataFusionError| QueryError::failed(&error);
        let context = SessionContext::new_with_state(self.state);
        let plan = plan(&context, &self.text).await?;
        let frame = context.execute_logical_plan(plan).await.map_err(failed)?;
        let mut batches = frame.execute_stream().await.map_err(failed)?;
        let mut encoder =
            Encoder::new(self.format, &batches.schema()).map_err(|error| failed(error.into()))?;
        if let Some(planned) = planned.take() {
            // The asker waits for it.
            let _ = planned.send(Ok(()));
        }
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(failed)?;
            let piece = encoder
                .write(&batch)
                .map_err(|error| failed(error.into()))?;
            if !piece.is_empty() && self.sender.send(Ok(piece)).await.is_err() {
                return Ok(());
            }
        }
        let last = encoder.finish().map_err(|error| failed(error.into()))?;
        // As above.
        let _ = self.sender.send(Ok(last)).await;
        Ok(())
    }
}

/// What is refused before anything of it is looked at: what would take too much of the stack.
fn check_size(text: &str) -> Result<(), QueryError> {
    if text.len() > TEXT_BYTES_MAX {
        let (length, max) = (text.len(), TEXT_BYTES_MAX);
        return Err(QueryError::Refused(format!(
            "the text has {length} bytes, and {max} are allowed"
        )));
    }
    // A text that cannot be read is for the parser to tell.
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize();
    let operators = tokens.iter().flatten().filter(|token| is_operator(token));
    match operators.count() {
        count if count > OPERATORS_MAX => Err(QueryError::Refused(format!(
            "the text has {count} operators, and {OPERATORS_MAX} are allowed; IN takes a list of any length"
        ))),
        _ => Ok(()),
    }
}

/// All but what lists of values are made of.
fn is_operator(token: &Token) -> bool {
    match token {
        Token::Word(word) => {
            use datafusion::sql::sqlparser::keywords::Keyword;
            word.quote_style.is_none()
                && matches!(
                    word.keyword,
                    Keyword::AND
                        | Keyword::OR
                        | Keyword::NOT
                        | Keyword::LIKE
                        | Keyword::ILIKE
                        | Keyword::IS
                        | Keyword::UNION
                        | Keyword::EXCEPT
                        | Keyword::INTERSECT
                        | Keyword::JOIN
                        | Keyword::SELECT
                        | Keyword::CASE
                        | Keyword::WHEN
                        | Keyword::AT
                        | Keyword::COLLATE
                )
        }
        Token::Number(..)
        | Token::SingleQuotedString(_)
        | Token::Whitespace(_)
        | Token::Comma
        | Token::SemiColon
        | Token::EOF
        | Token::Period
        | Token::RParen => false,
        _ => true,
    }
}

async fn plan(context: &SessionContext, text: &str) -> Result<LogicalPlan, QueryError> {
    let refused = |error: DataFusionError| QueryError::refused(&error);
    let state = context.state();
    let dialect = state.config_options().sql_parser.dialect;
    let statement = match state.sql_to_statement(text, &dialect) {
        Ok(statement) => statement,
        // Several statements are an answer of the engine rather than of the parser.
        Err(error @ DataFusionError::NotImplemented(_)) => return Err(QueryError::failed(&error)),
        Err(error) => return Err(refused(error)),
    };
    let changes = changes(&statement);
    let plan = state.statement_to_plan(statement).await;
    let plan = plan.map_err(|error| match changes {
        true => QueryError::refused(&error),
        false => QueryError::failed(&error),
    })?;
    let read_only = SQLOptions::new()
        .with_allow_ddl(false)
        .with_allow_dml(false);
    read_only.verify_plan(&plan).map_err(refused)?;
    Ok(plan)
}

/// Whether the statement is one that is refused, whatever else is wrong with it.
fn changes(statement: &Statement) -> bool {
    match statement {
        Statement::Statement(statement) => matches!(
            **statement,
            ast::Statement::Insert(_)
                | ast::Statement::Update { .. }
                | ast::Statement::Delete(_)
                | ast::Statement::Truncate { .. }
        ),
        Statement::CreateExternalTable(_) => true,
        _ => false,
    }
}
