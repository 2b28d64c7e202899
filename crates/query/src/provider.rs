//! Tables as the SQL engine sees them.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;

use abide_processor::scan::{ScanPage, ScanRequest};
use abide_schema::Schema;
use abide_types::PartitionId;
use async_trait::async_trait;
use datafusion::arrow::array::RecordBatch;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::{PartitionStream, StreamingTableExec};
use futures::future::BoxFuture;
use futures::stream;

use crate::column::{Column, batch, schema_of};
use crate::lookup::{Lookup, Part, Wanted};
use crate::source::{Partitions, Sources};

/// Rows that are asked for at a time.
pub(crate) const PAGE_ROWS: usize = 1024;
/// Bytes that are asked for at a time, about.
pub(crate) const PAGE_BYTES: usize = 1 << 20;
/// Ranges that are asked for at a time.
const PAGE_RANGES: usize = 256;

/// Turns stored rows into those of a table.
pub(crate) type ReadRows<R> = fn(ScanPage, &Arc<Schema>) -> Result<Vec<R>, String>;

/// What is special about a table over partitions.
pub(crate) struct Definition<R: 'static> {
    pub(crate) lookup: Lookup,
    pub(crate) columns: Vec<Column<R>>,
    pub(crate) read: ReadRows<R>,
    pub(crate) is_view: bool,
}

/// A table whose rows lie in partitions.
pub(crate) struct PartitionTable<R: 'static> {
    schema: SchemaRef,
    definition: Arc<Definition<R>>,
    sources: Sources,
}

impl<R> PartitionTable<R> {
    pub(crate) fn new(definition: Definition<R>, sources: Sources) -> Self {
        Self {
            schema: schema_of(&definition.columns),
            definition: Arc::new(definition),
            sources,
        }
    }
}

impl<R> fmt::Debug for PartitionTable<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PartitionTable({:?})", self.definition.lookup.table)
    }
}

#[async_trait]
impl<R: Send + Sync + 'static> TableProvider for PartitionTable<R> {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        match self.definition.is_view {
            true => TableType::View,
            false => TableType::Base,
        }
    }

    fn supports_filters_pushdown(
        &self,
        filters: &[&Expr],
    ) -> Result<Vec<TableProviderFilterPushDown>> {
        // They narrow down what is read, and are applied to what comes.
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let count = self.sources.partitions.count();
        let registry = self.sources.schema();
        let wanted = self.definition.lookup.wanted(filters, count, &registry)?;
        let projection = projection
            .cloned()
            .unwrap_or_else(|| (0..self.definition.columns.len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        let columns = &self.definition.columns;
        let attempts = projection.iter().any(|index| columns[*index].live);
        let streams = state.config().target_partitions().max(1);
        let shares = shares(&wanted, attempts, streams);
        let stream = |share| {
            Arc::new(Share {
                schema: schema.clone(),
                projection: projection.clone(),
                definition: self.definition.clone(),
                sources: self.sources.clone(),
                requests: share,
                limit,
            }) as Arc<dyn PartitionStream>
        };
        let streams = shares.into_iter().map(stream).collect();
        let plan = StreamingTableExec::try_new(schema.clone(), streams, None, [], false, limit)?;
        Ok(Arc::new(plan))
    }
}

type Requests = VecDeque<(PartitionId, ScanRequest)>;

/// The requests, divided among `streams` at most. There is at least one stream.
fn shares(wanted: &Wanted, attempts: bool, streams: usize) -> Vec<Requests> {
    let request = |part: &Part, ranges: &[_]| ScanRequest {
        ranges: ranges.to_vec(),
        attempts,
        services: wanted.services.clone(),
        statuses: wanted.statuses.clone(),
        scoped: part.scoped,
        rows_max: PAGE_ROWS,
        bytes_max: PAGE_BYTES,
    };
    let requests = wanted.ranges.iter().flat_map(|(part, ranges)| {
        ranges
            .chunks(PAGE_RANGES)
            .map(|ranges| (part.partition, request(part, ranges)))
    });
    let streams = streams.min(wanted.ranges.len()).max(1);
    let mut shares = vec![Requests::new(); streams];
    for (index, request) in requests.enumerate() {
        shares[index % streams].push_back(request);
    }
    shares
}

/// What one stream of a scan reads, one partition after the other.
struct Share<R: 'static> {
    schema: SchemaRef,
    projection: Vec<usize>,
    definition: Arc<Definition<R>>,
    sources: Sources,
    requests: Requests,
    limit: Option<usize>,
}

impl<R> fmt::Debug for Share<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} partitions", self.requests.len())
    }
}

impl<R: Send + Sync + 'static> PartitionStream for Share<R> {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let reader = Reader {
            schema: self.schema.clone(),
            projection: self.projection.clone(),
            definition: self.definition.clone(),
            partitions: self.sources.partitions.clone(),
            registry: self.sources.schema(),
            requests: self.requests.clone(),
            rows_left: self.limit.unwrap_or(usize::MAX),
            memory: MemoryConsumer::new("page").register(context.memory_pool()),
        };
        let batches = stream::try_unfold(reader, |mut reader| async move {
            let batch = reader.next().await?;
            Ok(batch.map(|batch| (batch, reader)))
        });
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}

struct Reader<R: 'static> {
    schema: SchemaRef,
    projection: Vec<usize>,
    definition: Arc<Definition<R>>,
    partitions: Arc<dyn Partitions>,
    registry: Arc<Schema>,
    requests: Requests,
    rows_left: usize,
    /// What the last page takes.
    memory: MemoryReservation,
}

impl<R> Reader<R> {
    async fn next(&mut self) -> Result<Option<RecordBatch>> {
        while self.rows_left > 0
            && let Some((partition, mut request)) = self.requests.pop_front()
        {
            request.rows_max = request.rows_max.min(self.rows_left);
            let page = self.partitions.scan(partition, request.clone()).await;
            let page = page.map_err(|error| DataFusionError::External(Box::new(error)))?;
            if let Some(next) = &page.next {
                request.go_on(next);
                self.requests.push_front((partition, request));
            }
            if page.rows.is_empty() {
                continue;
            }
            let rows = (self.definition.read)(page, &self.registry);
            let mut rows = rows.map_err(|error| DataFusionError::External(error.into()))?;
            rows.truncate(self.rows_left);
            self.rows_left -= rows.len();
            let columns = &self.definition.columns;
            let batch = batch(&self.schema, columns, &self.projection, &rows)?;
            self.memory.try_resize(batch.get_array_memory_size())?;
            return Ok(Some(batch));
        }
        Ok(None)
    }
}

/// Gives all rows of a table.
pub(crate) type AllRows<R> =
    Box<dyn Fn(Sources) -> BoxFuture<'static, Result<Vec<R>, String>> + Send + Sync>;

/// A table whose rows this node has, or asks for, all at once.
pub(crate) struct LocalTable<R: 'static> {
    schema: SchemaRef,
    columns: Arc<Vec<Column<R>>>,
    rows: Arc<AllRows<R>>,
    sources: Sources,
}

impl<R> LocalTable<R> {
    pub(crate) fn new(columns: Vec<Column<R>>, rows: AllRows<R>, sources: Sources) -> Self {
        Self {
            schema: schema_of(&columns),
            columns: Arc::new(columns),
            rows: Arc::new(rows),
            sources,
        }
    }
}

impl<R> fmt::Debug for LocalTable<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LocalTable")
    }
}

#[async_trait]
impl<R: Send + Sync + 'static> TableProvider for LocalTable<R> {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        _: &dyn Session,
        projection: Option<&Vec<usize>>,
        _: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let projection = projection
            .cloned()
            .unwrap_or_else(|| (0..self.columns.len()).collect());
        let schema = Arc::new(self.schema.project(&projection)?);
        let all = Arc::new(All {
            schema: schema.clone(),
            projection,
            columns: self.columns.clone(),
            rows: self.rows.clone(),
            sources: self.sources.clone(),
        }) as Arc<dyn PartitionStream>;
        let plan = StreamingTableExec::try_new(schema, vec![all], None, [], false, limit)?;
        Ok(Arc::new(plan))
    }
}

struct All<R: 'static> {
    schema: SchemaRef,
    projection: Vec<usize>,
    columns: Arc<Vec<Column<R>>>,
    rows: Arc<AllRows<R>>,
    sources: Sources,
}

impl<R> fmt::Debug for All<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("all")
    }
}

impl<R: Send + Sync + 'static> PartitionStream for All<R> {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        let rows = (self.rows)(self.sources.clone());
        let (schema, projection) = (self.schema.clone(), self.projection.clone());
        let columns = self.columns.clone();
        let batch = async move {
            let rows = rows.await;
            let rows = rows.map_err(|error| DataFusionError::External(error.into()))?;
            Ok(batch(&schema, &columns, &projection, &rows)?)
        };
        let batches = stream::once(batch);
        Box::pin(RecordBatchStreamAdapter::new(self.schema.clone(), batches))
    }
}
