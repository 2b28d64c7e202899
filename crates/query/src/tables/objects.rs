//! Tables of objects and workflows: `state`, `sys_promise`, `sys_inbox`, `sys_keyed_service_status`, `sys_locks`.

use std::sync::Arc;

use abide_processor::scan::ScanPage;
use abide_schema::Schema;
use abide_state_machine::keys::{self, Table};
use abide_state_machine::proto::{self as state, outcome::Outcome};
use abide_types::{InvocationId, PartitionKey};
use bytes::Bytes;
use prost::Message as _;

use crate::column::{Cell, Column, Ty};
use crate::lookup::{KeyShape, Lookup};
use crate::provider::{Definition, PartitionTable};
use crate::source::Sources;
use crate::tables::invocations::coded;
use crate::tables::{Tables, damaged};

/// A row whose key begins with an object.
struct Row<V> {
    scope: Option<String>,
    service: String,
    key: String,
    rest: Vec<u8>,
    value: V,
}

impl<V> Row<V> {
    fn partition_key(&self) -> u64 {
        match &self.scope {
            Some(scope) => PartitionKey::of_scope(scope).0,
            None => PartitionKey::of_key(&self.key).0,
        }
    }

    /// The name of a state entry or promise.
    fn name(&self) -> Cell<'_> {
        String::from_utf8_lossy(&self.rest).into_owned().into()
    }

    /// The place in an inbox: the record that put it there.
    fn place(&self) -> Option<u64> {
        let (lsn, _) = self.rest.split_first_chunk::<8>()?;
        Some(u64::from_be_bytes(*lsn))
    }
}

pub(super) fn add(tables: &mut Tables, sources: &Sources) {
    let lookup = |table| Lookup {
        table,
        shape: KeyShape::Object,
        service: Some("service_name"),
        status: None,
        scoped: false,
    };
    let definition = Definition {
        lookup: lookup(Table::State),
        columns: state_columns(),
        read: read_bytes,
        is_view: false,
    };
    tables.insert(
        "state",
        Arc::new(PartitionTable::new(definition, sources.clone())),
    );
    let definition = Definition {
        lookup: lookup(Table::Promise),
        columns: promise_columns(),
        read: read_promises,
        is_view: false,
    };
    tables.insert(
        "sys_promise",
        Arc::new(PartitionTable::new(definition, sources.clone())),
    );
    let definition = Definition {
        lookup: lookup(Table::Inbox),
        columns: inbox_columns(),
        read: read_waiting,
        is_view: false,
    };
    tables.insert(
        "sys_inbox",
        Arc::new(PartitionTable::new(definition, sources.clone())),
    );
    let definition = Definition {
        lookup: lookup(Table::Lock),
        columns: status_columns(),
        read: read_holders,
        is_view: false,
    };
    let table = PartitionTable::new(definition, sources.clone());
    tables.insert("sys_keyed_service_status", Arc::new(table));
    let definition = Definition {
        // The key and the service are in one column.
        lookup: Lookup {
            service: None,
            ..lookup(Table::Lock)
        },
        columns: lock_columns(),
        read: read_holders,
        is_view: false,
    };
    let table = PartitionTable::new(definition, sources.clone());
    tables.insert("sys_locks", Arc::new(table));
}

fn read<V>(
    page: ScanPage,
    value: impl Fn(Bytes) -> Result<V, String>,
) -> Result<Vec<Row<V>>, String> {
    let row = |row: abide_processor::scan::ScanRow| {
        let object = keys::parse_object(&row.key).ok_or_else(|| damaged("key of an object"))?;
        let (scope, service) = keys::scope_and_service(object.service);
        Ok(Row {
            scope: scope.map(str::to_owned),
            service: service.to_owned(),
            key: object.key.to_owned(),
            rest: object.rest.to_vec(),
            value: value(row.value)?,
        })
    };
    page.rows.into_iter().map(row).collect()
}

fn read_bytes(page: ScanPage, _: &Arc<Schema>) -> Result<Vec<Row<Bytes>>, String> {
    read(page, Ok)
}

fn read_promises(page: ScanPage, _: &Arc<Schema>) -> Result<Vec<Row<state::Promise>>, String> {
    read(page, |value| {
        state::Promise::decode(value).map_err(|error| damaged(&format!("promise ({error})")))
    })
}

fn read_holders(page: ScanPage, _: &Arc<Schema>) -> Result<Vec<Row<InvocationId>>, String> {
    read(page, |value| {
        InvocationId::from_bytes(&value).ok_or_else(|| damaged("invocation id"))
    })
}

/// What waits are invocations, and changes of state, which are longer than an id.
fn read_waiting(
    mut page: ScanPage,
    schema: &Arc<Schema>,
) -> Result<Vec<Row<InvocationId>>, String> {
    page.rows
        .retain(|row| row.value.len() == InvocationId::LENGTH);
    read_holders(page, schema)
}

fn partition_key<V>() -> Column<Row<V>> {
    Column::new("partition_key", Ty::U64, |row| row.partition_key().into())
}

fn object<V>() -> [Column<Row<V>>; 2] {
    [
        Column::new("service_name", Ty::Text, |row| (&row.service).into()),
        Column::new("service_key", Ty::Text, |row| (&row.key).into()),
    ]
}

fn scoped_object<V>() -> Vec<Column<Row<V>>> {
    let scope = Column::new("scope", Ty::Text, |row: &Row<V>| row.scope.as_ref().into());
    let mut columns = vec![partition_key(), scope];
    columns.extend(object());
    columns.push(Column::new("key", Ty::Text, |row| row.name()));
    columns
}

fn utf8(bytes: &[u8]) -> Cell<'_> {
    std::str::from_utf8(bytes).ok().into()
}

fn state_columns() -> Vec<Column<Row<Bytes>>> {
    let mut columns = scoped_object();
    columns.extend([
        Column::new("key_length", Ty::U64, |row: &Row<Bytes>| {
            (row.rest.len() as u64).into()
        }),
        Column::new("value_utf8", Ty::Text, |row| utf8(&row.value)),
        Column::new("value", Ty::Bytes, |row| row.value.as_ref().into()),
        Column::new("value_length", Ty::U64, |row| {
            (row.value.len() as u64).into()
        }),
    ]);
    columns
}

fn outcome(promise: &state::Promise) -> Option<&Outcome> {
    promise.outcome.as_ref()?.outcome.as_ref()
}

fn success(promise: &state::Promise) -> Option<&[u8]> {
    match outcome(promise) {
        Some(Outcome::Success(value)) => Some(value),
        _ => None,
    }
}

fn promise_columns() -> Vec<Column<Row<state::Promise>>> {
    let mut columns = scoped_object();
    columns.extend([
        Column::new("completed", Ty::Bool, |row: &Row<state::Promise>| {
            row.value.outcome.is_some().into()
        }),
        Column::new("completion_success_value", Ty::Bytes, |row| {
            success(&row.value).into()
        }),
        Column::new("completion_success_value_utf8", Ty::Text, |row| {
            success(&row.value).map_or(Cell::Null, utf8)
        }),
        Column::new("completion_failure", Ty::Text, |row| {
            match outcome(&row.value) {
                Some(Outcome::Failure(failure)) => coded(failure).into(),
                _ => Cell::Null,
            }
        }),
    ]);
    columns
}

fn inbox_columns() -> Vec<Column<Row<InvocationId>>> {
    let mut columns = vec![partition_key()];
    columns.extend(object());
    columns.extend([
        Column::new("id", Ty::Text, |row: &Row<InvocationId>| {
            row.value.to_string().into()
        }),
        Column::new("sequence_number", Ty::U64, |row| row.place().into()),
        Column::null("created_at", Ty::Time),
    ]);
    columns
}

fn status_columns() -> Vec<Column<Row<InvocationId>>> {
    let mut columns = vec![partition_key()];
    columns.extend(object());
    columns.push(Column::new(
        "invocation_id",
        Ty::Text,
        |row: &Row<InvocationId>| row.value.to_string().into(),
    ));
    columns
}

fn lock_columns() -> Vec<Column<Row<InvocationId>>> {
    vec![
        partition_key(),
        Column::new("scope", Ty::Text, |row: &Row<InvocationId>| {
            row.scope.as_ref().into()
        }),
        Column::new("lock_name", Ty::Text, |row| {
            format!("{}/{}", row.service, row.key).into()
        }),
        // The lock does not say, and `running_at` of its holder does.
        Column::null("acquired_at", Ty::Time),
        Column::new("acquired_by", Ty::Text, |row| row.value.to_string().into()),
    ]
}
