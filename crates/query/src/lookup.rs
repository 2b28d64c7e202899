//! Which rows of which partitions a query can want, read off its filters.
//!
//! What is found is a superset: the filters are applied to the rows as well.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use abide_schema::Schema;
use abide_state_machine::keys::{self, Table};
use abide_state_machine::proto::Status;
use abide_types::{InvocationId, PartitionId, PartitionKey, QueueId, ServiceKind, partition_of};
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// How a table's keys begin, and the columns that say so.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KeyShape {
    /// With an invocation's id. The key of an object, a queue and a scope say which partition keys its ids begin with.
    Id {
        /// The column of the id.
        id: &'static str,
        /// The column of the object's key, if there is one.
        object_key: Option<&'static str>,
        /// The column of the queue, if there is one. Nothing but what has a scope is in one.
        queue: Option<&'static str>,
    },
    /// With an object's key and its service, before which its scope stands, if it has one.
    Object,
}

/// The columns of one table that decide on where to look.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lookup {
    pub(crate) table: Table,
    pub(crate) shape: KeyShape,
    /// The column of the service's name.
    pub(crate) service: Option<&'static str>,
    /// The column of the state of an invocation, and the stored states of each of its values.
    pub(crate) status: Option<fn(&str) -> &'static [Status]>,
    /// Whether only invocations with a scope are in the table.
    pub(crate) scoped: bool,
}

/// Rows of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Part {
    pub(crate) partition: PartitionId,
    /// Only invocations with a scope.
    pub(crate) scoped: bool,
}

/// What to ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wanted {
    /// The ranges of keys in each partition, apart from each other.
    pub(crate) ranges: BTreeMap<Part, Vec<Range<Bytes>>>,
    pub(crate) services: Vec<String>,
    pub(crate) statuses: Vec<Status>,
}

const STATUSES: [Status; 6] = [
    Status::Scheduled,
    Status::Inboxed,
    Status::Invoked,
    Status::Suspended,
    Status::Paused,
    Status::Completed,
];

impl Part {
    fn all_of(partition: PartitionId) -> Self {
        let scoped = false;
        Self { partition, scoped }
    }

    fn scoped(self) -> Self {
        Self {
            scoped: true,
            ..self
        }
    }
}

impl Lookup {
    /// Reads the filters, all of which have to hold.
    pub(crate) fn wanted(
        &self,
        filters: &[Expr],
        partitions: u16,
        registry: &Schema,
    ) -> Result<Wanted> {
        let texts = |column: &str| {
            let values = values_of(filters, column)?;
            Some(values.iter().filter_map(text).collect::<BTreeSet<String>>())
        };
        let services = self.service.and_then(texts);
        let may_have_scope =
            !is_null(filters, "scope") && may_have_scope(services.as_ref(), registry);
        let place = Place {
            partitions,
            keys: values_of(filters, "partition_key")
                .map(|values| values.iter().filter_map(number).collect()),
        };
        let mut wanted = match self.shape {
            KeyShape::Id {
                id,
                object_key,
                queue,
            } => {
                let objects = object_key.and_then(texts);
                let scopes = texts("scope");
                if let Some(ids) = texts(id) {
                    self.of_ids(&place, &ids)?
                } else if let Some(queues) = queue.and_then(texts) {
                    let queues = queues.iter().filter_map(|queue| queue.parse().ok());
                    self.of_keys(&place, queues.map(|queue: QueueId| queue.partition_key))
                } else if let Some(scopes) = scopes {
                    self.of_keys(
                        &place,
                        scopes.iter().map(|name| PartitionKey::of_scope(name)),
                    )
                } else if let Some(objects) = objects {
                    let keys = objects.iter().map(|key| PartitionKey::of_key(key));
                    match may_have_scope {
                        true => self.of_keys_and_scopes(&place, keys.collect()),
                        false => self.of_keys(&place, keys),
                    }
                } else if let Some(keys) = &place.keys {
                    self.of_keys(&place, keys.iter().copied().map(PartitionKey))
                } else {
                    self.everything(place.all())
                }
            }
            KeyShape::Object => match (texts("scope"), texts("service_key")) {
                (Some(scopes), Some(objects)) => {
                    let mut found = Found::default();
                    for scope in &scopes {
                        for object in &objects {
                            let prefix = keys::objects_of(self.table, object);
                            found.add(&place, PartitionKey::of_scope(scope), prefix);
                        }
                    }
                    found.wanted()
                }
                (Some(scopes), None) => {
                    let of = scopes.iter().map(|scope| PartitionKey::of_scope(scope));
                    let of = of.filter(|key| place.allows(*key));
                    self.everything(of.map(|key| place.partition(key)).collect())
                }
                // Nobody knows in which scopes there is an object with this key.
                (None, Some(objects)) if may_have_scope => {
                    let mut found = Found::default();
                    for partition in place.all() {
                        for object in &objects {
                            found.put(partition, keys::objects_of(self.table, object));
                        }
                    }
                    found.wanted()
                }
                (None, Some(objects)) => {
                    let mut found = Found::default();
                    for object in &objects {
                        let key = PartitionKey::of_key(object);
                        match &services {
                            Some(services) => {
                                for service in services {
                                    let prefix = keys::object_of(self.table, service, object);
                                    found.add(&place, key, prefix);
                                }
                            }
                            None => found.add(&place, key, keys::objects_of(self.table, object)),
                        }
                    }
                    found.wanted()
                }
                (None, None) => self.everything(place.all()),
            },
        };
        if self.scoped {
            let ranges = std::mem::take(&mut wanted.ranges).into_iter();
            wanted.ranges = ranges
                .map(|(part, ranges)| (part.scoped(), ranges))
                .collect();
        }
        if let Some(services) = services {
            if services.is_empty() {
                wanted.ranges.clear();
            }
            wanted.services = services.into_iter().collect();
        }
        if let Some(status_of) = self.status
            && let Some(statuses) = statuses(filters, status_of)
        {
            if statuses.is_empty() {
                wanted.ranges.clear();
            }
            wanted.statuses = statuses;
        }
        Ok(wanted)
    }

    fn of_ids(&self, place: &Place, ids: &BTreeSet<String>) -> Result<Wanted> {
        let mut found = Found::default();
        for id in ids {
            let id: InvocationId = id
                .parse()
                .map_err(|_| DataFusionError::External("non valid invocation id".into()))?;
            found.add(place, id.partition_key(), keys::rows_of(self.table, &id));
        }
        Ok(found.wanted())
    }

    fn of_keys(&self, place: &Place, of: impl Iterator<Item = PartitionKey>) -> Wanted {
        let mut found = Found::default();
        for key in of {
            found.add(place, key, keys::ids_of(self.table, key));
        }
        found.wanted()
    }

    /// What begins with the keys, and whatever has a scope: what these are keys of is not known.
    fn of_keys_and_scopes(&self, place: &Place, of: BTreeSet<PartitionKey>) -> Wanted {
        let mut wanted = self.of_keys(place, of.into_iter());
        let end = keys::table_end(self.table);
        for partition in place.all() {
            let part = Part::all_of(partition);
            let mut from = keys::table_start(self.table);
            let mut between = Vec::new();
            for range in wanted.ranges.get(&part).into_iter().flatten() {
                between.push(from..range.start.clone());
                from = range.end.clone();
            }
            between.push(from..end.clone());
            wanted.ranges.insert(part.scoped(), between);
        }
        wanted
    }

    fn everything(&self, partitions: BTreeSet<PartitionId>) -> Wanted {
        let all = keys::table_start(self.table)..keys::table_end(self.table);
        let ranges = |partition| (Part::all_of(partition), vec![all.clone()]);
        Wanted {
            ranges: partitions.into_iter().map(ranges).collect(),
            ..Wanted::default()
        }
    }
}

/// The partitions, and which partition keys the filters allow.
struct Place {
    partitions: u16,
    keys: Option<BTreeSet<u64>>,
}

impl Place {
    fn partition(&self, key: PartitionKey) -> PartitionId {
        partition_of(key, self.partitions)
    }

    fn allows(&self, key: PartitionKey) -> bool {
        (self.keys.as_ref()).is_none_or(|keys| keys.contains(&key.0))
    }

    /// The partitions that can have rows at all.
    fn all(&self) -> BTreeSet<PartitionId> {
        match &self.keys {
            Some(keys) => (keys.iter().copied())
                .map(|key| self.partition(PartitionKey(key)))
                .collect(),
            None => (0..self.partitions).map(PartitionId).collect(),
        }
    }
}

/// Prefixes of keys, by partition, each of them once.
#[derive(Default)]
struct Found(BTreeMap<PartitionId, BTreeSet<Bytes>>);

impl Found {
    fn add(&mut self, place: &Place, key: PartitionKey, prefix: Bytes) {
        if place.allows(key) {
            self.put(place.partition(key), prefix);
        }
    }

    fn put(&mut self, partition: PartitionId, prefix: Bytes) {
        self.0.entry(partition).or_default().insert(prefix);
    }

    fn wanted(self) -> Wanted {
        let range = |prefix: Bytes| {
            let end = keys::prefix_end(&prefix);
            prefix..end
        };
        let ranges = |(partition, prefixes): (PartitionId, BTreeSet<Bytes>)| {
            (
                Part::all_of(partition),
                prefixes.into_iter().map(range).collect(),
            )
        };
        Wanted {
            ranges: self.0.into_iter().map(ranges).collect(),
            ..Wanted::default()
        }
    }
}

/// Whether one of the services, or of all that there are, may have keys with a scope: only workflows have, and who is
/// not registered any more may have been one.
fn may_have_scope(services: Option<&BTreeSet<String>>, registry: &Schema) -> bool {
    let is_workflow = |name: &String| {
        (registry.service(name)).map_or(true, |service| service.kind == ServiceKind::Workflow)
    };
    services.is_none_or(|names| names.iter().any(is_workflow))
}

fn is_null(filters: &[Expr], name: &str) -> bool {
    let is_null = |filter: &Expr| matches!(filter, Expr::IsNull(of) if is_column(of, name));
    filters.iter().any(is_null)
}

/// The stored states that the filters on `status` leave; `None` if they leave all, or cannot be read.
fn statuses(filters: &[Expr], statuses_of: fn(&str) -> &'static [Status]) -> Option<Vec<Status>> {
    let mut left: Vec<Status> = STATUSES.to_vec();
    if let Some(values) = values_of(filters, "status") {
        let wanted: BTreeSet<i32> = (values.iter().filter_map(text))
            .flat_map(|name| statuses_of(&name))
            .map(|status| *status as i32)
            .collect();
        left.retain(|status| wanted.contains(&(*status as i32)));
    }
    for filter in filters {
        // Where one stored state has several names, not being one of them says nothing.
        if let Expr::BinaryExpr(BinaryExpr {
            left: column,
            op: Operator::NotEq,
            right,
        }) = filter
            && is_column(column, "status")
            && let Expr::Literal(value, _) = &**right
            && let Some(name) = text(value)
        {
            let excluded = statuses_of(&name);
            left.retain(|one| *one == Status::Invoked || !excluded.contains(one));
        }
    }
    (left.len() < STATUSES.len()).then_some(left)
}

/// The values that `column` can have if all of `filters` hold; `None` if they do not say.
fn values_of(filters: &[Expr], column: &str) -> Option<Vec<ScalarValue>> {
    filters
        .iter()
        .filter_map(|filter| values(filter, column))
        .min_by_key(Vec::len)
}

fn values(filter: &Expr, column: &str) -> Option<Vec<ScalarValue>> {
    match filter {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => match op {
            Operator::Eq => match (&**left, &**right) {
                (of, Expr::Literal(value, _)) | (Expr::Literal(value, _), of)
                    if is_column(of, column) =>
                {
                    Some(vec![value.clone()])
                }
                _ => None,
            },
            // Short lists are written like this.
            Operator::Or => {
                let mut either = values(left, column)?;
                either.extend(values(right, column)?);
                Some(either)
            }
            Operator::And => match (values(left, column), values(right, column)) {
                (Some(one), Some(other)) if other.len() < one.len() => Some(other),
                (one, other) => one.or(other),
            },
            _ => None,
        },
        Expr::InList(list) if !list.negated && is_column(&list.expr, column) => {
            let literal = |expr: &Expr| match expr {
                Expr::Literal(value, _) => Some(value.clone()),
                _ => None,
            };
            list.list.iter().map(literal).collect()
        }
        _ => None,
    }
}

fn is_column(expr: &Expr, name: &str) -> bool {
    match expr {
        Expr::Column(column) => column.name == name,
        // A comparison of text in another encoding.
        Expr::Cast(cast) => is_column(&cast.expr, name),
        _ => false,
    }
}

fn text(value: &ScalarValue) -> Option<String> {
    match value {
        ScalarValue::Utf8(text) | ScalarValue::LargeUtf8(text) | ScalarValue::Utf8View(text) => {
            text.clone()
        }
        _ => None,
    }
}

fn number(value: &ScalarValue) -> Option<u64> {
    match value {
        ScalarValue::UInt64(number) => *number,
        ScalarValue::Int64(number) => number.and_then(|number| u64::try_from(number).ok()),
        _ => None,
    }
}
