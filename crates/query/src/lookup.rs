//! Which rows of which partitions a query can want, read off its filters.
//!
//! What is found is a superset: the filters are applied to the rows as well.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use abide_state_machine::keys::{self, Table};
use abide_state_machine::proto::Status;
use abide_types::{InvocationId, PartitionId, PartitionKey, partition_of};
use bytes::Bytes;
use datafusion::common::{DataFusionError, Result, ScalarValue};
use datafusion::logical_expr::{BinaryExpr, Expr, Operator};

/// How a table's keys begin, and the columns that say so.
#[derive(Debug, Clone, Copy)]
pub(crate) enum KeyShape {
    /// With an invocation's id. The key of an object says which partition keys its ids begin with.
    Id {
        /// The column of the object's key, if there is one.
        object_key: Option<&'static str>,
    },
    /// With an object's key and its service.
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
    pub(crate) status: Option<fn(&str) -> Option<Status>>,
}

/// What to ask for.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Wanted {
    /// The ranges of keys in each partition.
    pub(crate) ranges: BTreeMap<PartitionId, Vec<Range<Bytes>>>,
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

impl Lookup {
    /// Reads the filters, all of which have to hold.
    pub(crate) fn wanted(&self, filters: &[Expr], partitions: u16) -> Result<Wanted> {
        let texts = |column: &str| {
            let values = values_of(filters, column)?;
            Some(values.iter().filter_map(text).collect::<BTreeSet<String>>())
        };
        let mut wanted = Wanted {
            ranges: self.ranges(filters, partitions, &texts)?,
            ..Wanted::default()
        };
        if let Some(services) = self.service.and_then(texts) {
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

    fn ranges(
        &self,
        filters: &[Expr],
        partitions: u16,
        texts: &dyn Fn(&str) -> Option<BTreeSet<String>>,
    ) -> Result<BTreeMap<PartitionId, Vec<Range<Bytes>>>> {
        let partition = |key: PartitionKey| partition_of(key, partitions);
        let keys: Option<BTreeSet<u64>> = values_of(filters, "partition_key")
            .map(|values| values.iter().filter_map(number).collect());
        let keys_allow = |key: PartitionKey| keys.as_ref().is_none_or(|keys| keys.contains(&key.0));
        let mut found: BTreeMap<PartitionId, Vec<Range<Bytes>>> = BTreeMap::new();
        let mut add = |key: PartitionKey, prefix: Bytes| {
            if keys_allow(key) {
                let end = keys::prefix_end(&prefix);
                found.entry(partition(key)).or_default().push(prefix..end);
            }
        };
        match self.shape {
            KeyShape::Id { object_key } => {
                if let Some(ids) = texts("id") {
                    for id in ids {
                        let id: InvocationId = id.parse().map_err(|_| {
                            DataFusionError::External("non valid invocation id".into())
                        })?;
                        add(id.partition_key(), keys::rows_of(self.table, &id));
                    }
                } else if let Some(objects) = object_key.and_then(texts) {
                    let keys: BTreeSet<_> = objects
                        .iter()
                        .map(|key| PartitionKey::of_key(key))
                        .collect();
                    for key in keys {
                        add(key, keys::ids_of(self.table, key));
                    }
                } else if let Some(keys) = &keys {
                    for key in keys.iter().copied().map(PartitionKey) {
                        add(key, keys::ids_of(self.table, key));
                    }
                } else {
                    return Ok(self.everything((0..partitions).map(PartitionId)));
                }
            }
            KeyShape::Object => {
                if let Some(objects) = texts("service_key") {
                    let services = self.service.and_then(texts);
                    for object in objects {
                        let key = PartitionKey::of_key(&object);
                        match &services {
                            Some(services) => {
                                for service in services {
                                    add(key, keys::object_of(self.table, service, &object));
                                }
                            }
                            None => add(key, keys::objects_of(self.table, &object)),
                        }
                    }
                } else if let Some(keys) = &keys {
                    let of: BTreeSet<_> = keys
                        .iter()
                        .map(|key| partition(PartitionKey(*key)))
                        .collect();
                    return Ok(self.everything(of));
                } else {
                    return Ok(self.everything((0..partitions).map(PartitionId)));
                }
            }
        }
        for ranges in found.values_mut() {
            ranges.sort_by(|one, other| one.start.cmp(&other.start));
        }
        Ok(found)
    }

    fn everything(
        &self,
        partitions: impl IntoIterator<Item = PartitionId>,
    ) -> BTreeMap<PartitionId, Vec<Range<Bytes>>> {
        let all = keys::table_start(self.table)..keys::table_end(self.table);
        let ranges = |partition| (partition, vec![all.clone()]);
        partitions.into_iter().map(ranges).collect()
    }
}

/// The stored states that the filters on `status` leave; `None` if they leave all, or cannot be read.
fn statuses(filters: &[Expr], status_of: fn(&str) -> Option<Status>) -> Option<Vec<Status>> {
    let mut left: Vec<Status> = STATUSES.to_vec();
    if let Some(values) = values_of(filters, "status") {
        let wanted: BTreeSet<i32> = (values.iter().filter_map(text))
            .filter_map(|name| status_of(&name))
            .map(|status| status as i32)
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
            && let Some(status) = text(value).and_then(|name| status_of(&name))
            && status != Status::Invoked
        {
            left.retain(|one| *one != status);
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
