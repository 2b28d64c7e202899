//! `sys_journal` and `sys_journal_events`.

use std::collections::HashMap;
use std::sync::Arc;

use abide_processor::scan::{ScanPage, ScanRow};
use abide_schema::Schema;
use abide_service_protocol::{
    MessageType, Notification, NotificationId, NotificationResult, RawEntry,
};
use abide_state_machine::keys::{self, Table};
use abide_state_machine::proto as state;
use abide_types::InvocationId;
use prost::Message as _;

use crate::column::{Cell, Column, Ty};
use crate::json::{self, Callee};
use crate::lookup::{KeyShape, Lookup};
use crate::provider::{Definition, PartitionTable};
use crate::source::Sources;
use crate::tables::{Tables, damaged};

/// The journal format of every protocol version that is spoken.
const JOURNAL_VERSION: u32 = 2;

struct Entry {
    id: InvocationId,
    index: u32,
    at: u64,
    entry: RawEntry,
    callee: Callee,
    schema: Arc<Schema>,
}

struct Event {
    id: InvocationId,
    event: state::JournalEvent,
}

pub(super) fn add(tables: &mut Tables, sources: &Sources) {
    let lookup = |table| Lookup {
        table,
        shape: KeyShape::Id {
            id: "id",
            object_key: None,
            queue: None,
        },
        service: None,
        status: None,
        scoped: false,
    };
    let definition = Definition {
        lookup: lookup(Table::Journal),
        columns: sys_journal(),
        read: read_entries,
        is_view: false,
    };
    let table = PartitionTable::new(definition, sources.clone());
    tables.insert("sys_journal", Arc::new(table));
    let definition = Definition {
        lookup: lookup(Table::Event),
        columns: sys_journal_events(),
        read: read_events,
        is_view: false,
    };
    let table = PartitionTable::new(definition, sources.clone());
    tables.insert("sys_journal_events", Arc::new(table));
}

fn key_of(row: &ScanRow) -> Result<(InvocationId, u32), String> {
    keys::parse_journal(&row.key).ok_or_else(|| damaged("key of a journal entry"))
}

/// A call's entry does not say the callee's id; the notification behind it does, on the same page as a rule.
fn read_entries(page: ScanPage, schema: &Arc<Schema>) -> Result<Vec<Entry>, String> {
    let mut entries = Vec::with_capacity(page.rows.len());
    let mut callees: HashMap<(InvocationId, u32), String> = HashMap::new();
    for row in page.rows {
        let (id, index) = key_of(&row)?;
        let stored = state::JournalEntry::decode(row.value)
            .map_err(|error| damaged(&format!("entry {index} of {id} ({error})")))?;
        let entry = RawEntry {
            ty: u16::try_from(stored.ty).unwrap_or(u16::MAX),
            payload: stored.payload,
        };
        if entry.message_type() == Some(MessageType::CallInvocationIdCompletion)
            && let Ok(Notification {
                id: NotificationId::Completion(completion),
                result: NotificationResult::InvocationId(callee),
                ..
            }) = Notification::decode(&entry)
        {
            callees.insert((id, completion), callee);
        }
        entries.push(Entry {
            id,
            index,
            at: stored.at,
            entry,
            callee: Callee::default(),
            schema: schema.clone(),
        });
    }
    if !callees.is_empty() {
        for entry in &mut entries {
            if let Some(completion) = json::callee_completion(&entry.entry) {
                entry.callee.invocation_id = callees.remove(&(entry.id, completion));
            }
        }
    }
    Ok(entries)
}

fn read_events(page: ScanPage, _: &Arc<Schema>) -> Result<Vec<Event>, String> {
    page.rows
        .into_iter()
        .map(|row| {
            let (id, number) = key_of(&row)?;
            let event = state::JournalEvent::decode(row.value)
                .map_err(|error| damaged(&format!("event {number} of {id} ({error})")))?;
            Ok(Event { id, event })
        })
        .collect()
}

fn sys_journal() -> Vec<Column<Entry>> {
    vec![
        Column::new("partition_key", Ty::U64, |row| {
            row.id.partition_key().0.into()
        }),
        Column::new("id", Ty::Text, |row| row.id.to_string().into()),
        Column::new("index", Ty::U32, |row| row.index.into()),
        Column::new("entry_type", Ty::Text, |row| {
            json::entry_type(&row.entry).into()
        }),
        Column::new("name", Ty::Text, |row| match row.entry.is_command() {
            true => row.entry.command_name().into(),
            false => Cell::Null,
        }),
        Column::null("completed", Ty::Bool),
        Column::null("invoked_id", Ty::Text),
        Column::new("invoked_target", Ty::Text, |row| {
            json::invoked_target(&row.entry, &row.schema).into()
        }),
        Column::null("sleep_wakeup_at", Ty::Time),
        Column::null("promise_name", Ty::Text),
        Column::new("raw", Ty::Bytes, |row| row.entry.payload.as_ref().into()),
        Column::new("raw_length", Ty::U64, |row| {
            (row.entry.payload.len() as u64).into()
        }),
        Column::new("version", Ty::U32, |_| JOURNAL_VERSION.into()),
        Column::new("entry_json", Ty::Text, |row| {
            json::entry(&row.entry, &row.schema, &row.callee).into()
        }),
        Column::new("entry_lite_json", Ty::Text, |row| {
            json::lite(&row.entry, &row.schema, &row.callee).into()
        }),
        Column::new("appended_at", Ty::Time, |row| row.at.into()),
    ]
}

fn sys_journal_events() -> Vec<Column<Event>> {
    vec![
        Column::new("partition_key", Ty::U64, |row| {
            row.id.partition_key().0.into()
        }),
        Column::new("id", Ty::Text, |row| row.id.to_string().into()),
        Column::new("after_journal_entry_index", Ty::U32, |row| {
            row.event.after_index.into()
        }),
        Column::new("appended_at", Ty::Time, |row| row.event.at.into()),
        Column::new("event_type", Ty::Text, |row| {
            json::event(&row.event).0.into()
        }),
        Column::new("event_json", Ty::Text, |row| {
            json::event(&row.event).1.into()
        }),
    ]
}
