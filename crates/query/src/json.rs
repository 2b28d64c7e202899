//! JSON inside columns: journal entries, events and what invocations wait for.
//!
//! Written by hand rather than through a tree of values, since payloads are shown as arrays of numbers and a tree takes
//! thirty times their bytes.

use std::fmt::Write as _;

use abide_service_protocol::proto as sdk;
use abide_state_machine::proto as state;
use bytes::Bytes;
use prost::Message as _;

mod entry;

pub(crate) use entry::{Callee, callee_completion, entry, entry_type, invoked_target, lite};

/// How deep a tree of futures is shown.
const FUTURE_DEPTH_MAX: usize = 32;

/// Writes one JSON object.
pub(crate) struct Object<'a> {
    out: &'a mut String,
    is_first: bool,
}

impl<'a> Object<'a> {
    pub(crate) fn new(out: &'a mut String) -> Self {
        out.push('{');
        Self {
            out,
            is_first: true,
        }
    }

    /// Begins a member; its value has to be written next.
    pub(crate) fn member(&mut self, name: &str) -> &mut String {
        if !std::mem::take(&mut self.is_first) {
            self.out.push(',');
        }
        put_text(self.out, name);
        self.out.push(':');
        self.out
    }

    pub(crate) fn text(&mut self, name: &str, value: &str) -> &mut Self {
        put_text(self.member(name), value);
        self
    }

    pub(crate) fn number(&mut self, name: &str, value: impl Into<u64>) -> &mut Self {
        put_number(self.member(name), value.into());
        self
    }

    pub(crate) fn bytes(&mut self, name: &str, value: &[u8]) -> &mut Self {
        put_bytes(self.member(name), value);
        self
    }

    pub(crate) fn raw(&mut self, name: &str, value: &str) -> &mut Self {
        self.member(name).push_str(value);
        self
    }

    pub(crate) fn object(&mut self, name: &str, write: impl FnOnce(&mut Object<'_>)) -> &mut Self {
        let mut object = Object::new(self.member(name));
        write(&mut object);
        object.end();
        self
    }

    pub(crate) fn end(self) {
        self.out.push('}');
    }
}

/// One object as text.
pub(crate) fn object(write: impl FnOnce(&mut Object<'_>)) -> String {
    let mut out = String::new();
    let mut object = Object::new(&mut out);
    write(&mut object);
    object.end();
    out
}

pub(crate) fn put_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => {
                // Writing to a string does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn put_number(out: &mut String, number: u64) {
    let _ = write!(out, "{number}");
}

pub(crate) fn put_bytes(out: &mut String, bytes: &[u8]) {
    put_list(out, bytes, |out, byte| put_number(out, u64::from(*byte)));
}

pub(crate) fn put_list<T>(
    out: &mut String,
    items: impl IntoIterator<Item = T>,
    mut put: impl FnMut(&mut String, T),
) {
    out.push('[');
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        put(out, item);
    }
    out.push(']');
}

/// What a suspended invocation waits for.
#[derive(Debug, Default)]
pub(crate) struct Waits {
    pub(crate) completions: Vec<u32>,
    pub(crate) signals: Vec<u32>,
    pub(crate) tree: String,
}

impl Waits {
    /// Reads the stored form.
    pub(crate) fn read(awaiting: &Bytes) -> Option<Self> {
        if awaiting.is_empty() {
            return None;
        }
        let mut waits = Self::default();
        let mut tree = String::new();
        waits.walk(awaiting.clone(), FUTURE_DEPTH_MAX, &mut tree)?;
        waits.tree = tree;
        Some(waits)
    }

    fn walk(&mut self, bytes: Bytes, depth_left: usize, out: &mut String) -> Option<()> {
        let future = sdk::Future::decode(bytes).ok()?;
        let name = match future.combinator_type {
            1 => "FirstCompleted",
            2 => "AllCompleted",
            3 => "FirstSucceededOrAllFailed",
            4 => "AllSucceededOrFirstFailed",
            _ => "Unknown",
        };
        let mut object = Object::new(out);
        let list = object.member(name);
        list.push('[');
        let mut is_first = true;
        let mut separate = |list: &mut String| {
            if !std::mem::take(&mut is_first) {
                list.push(',');
            }
        };
        for id in &future.waiting_completions {
            separate(list);
            let _ = write!(list, "{{\"Single\":{{\"CompletionId\":{id}}}}}");
        }
        for index in &future.waiting_signals {
            separate(list);
            let _ = write!(list, "{{\"Single\":{{\"SignalIndex\":{index}}}}}");
        }
        for name in &future.waiting_named_signals {
            separate(list);
            list.push_str("{\"Single\":{\"SignalName\":");
            put_text(list, name);
            list.push_str("}}");
        }
        self.completions.extend(future.waiting_completions);
        self.signals.extend(future.waiting_signals);
        for nested in future.nested_futures {
            separate(list);
            match depth_left.checked_sub(1) {
                Some(depth_left) => self.walk(nested, depth_left, list)?,
                // What is nested deeper is not shown.
                None => list.push_str("{\"Unknown\":[]}"),
            }
        }
        list.push(']');
        object.end();
        Some(())
    }
}

/// The type and JSON of an event.
pub(crate) fn event(event: &state::JournalEvent) -> (&'static str, String) {
    use state::journal_event::Kind;
    match &event.kind {
        Some(Kind::TransientError(failure)) => (
            "TransientError",
            object(|event| {
                event.text("ty", "TransientError");
                put_failure(event, failure);
            }),
        ),
        Some(Kind::Paused(failure)) => (
            "Paused",
            object(|event| {
                event.text("ty", "Paused");
                if failure.failure.is_some() {
                    event.object("last_failure", |object| put_failure(object, failure));
                }
            }),
        ),
        Some(Kind::Suspended(awaiting)) => (
            "Suspended",
            object(|event| {
                event.text("ty", "Suspended");
                if let Some(waits) = Waits::read(awaiting) {
                    event.raw("awaiting_on", &waits.tree);
                }
            }),
        ),
        None => ("Unknown", "{\"ty\":\"Unknown\"}".to_owned()),
    }
}

fn put_failure(out: &mut Object<'_>, failure: &state::AttemptFailure) {
    let error = failure.failure.clone().unwrap_or_default();
    out.number("error_code", error.code);
    out.text("error_message", &error.message);
    if let Some(stacktrace) = error.stacktrace.as_deref().filter(|text| !text.is_empty()) {
        out.text("error_stacktrace", stacktrace);
    }
    if !failure.documented_code.is_empty() {
        out.text("restate_doc_error_code", &failure.documented_code);
    }
    if let Some(related) = &failure.related_command {
        if let Some(index) = related.index {
            out.number("related_command_index", index);
        }
        if !related.name.is_empty() {
            out.text("related_command_name", &related.name);
        }
        if let Some(name) = related.ty.and_then(entry::type_name) {
            out.text("related_command_type", name);
        }
    }
}

/// The name of a command's type code.
pub(crate) fn command_type(code: u32) -> Option<&'static str> {
    entry::type_name(code)
}
