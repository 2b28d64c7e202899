//! Partitions in memory, connected by their outboxes: steps in, a transcript of actions out.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::ControlFlow;

use abide_service_protocol::{MessageType, Notification, RawEntry, proto as wire};
use abide_state_machine::proto::{self as state, attempt_effect, command::Kind};
use abide_state_machine::{Action, Reply, StateMachine, Store, StoreError, keys};
use abide_types::{
    Flow, HandlerKind, InvocationId, InvocationTarget, Lsn, PartitionId, ServiceKind, partition_of,
};
use bytes::Bytes;
use prost::Message as _;

/// A store that is a map.
#[derive(Default, Clone, PartialEq, Debug)]
pub struct MapStore(pub BTreeMap<Bytes, Bytes>);

impl Store for MapStore {
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.0.get(key).cloned())
    }

    fn put(&mut self, key: Bytes, value: Bytes) {
        self.0.insert(key, value);
    }

    fn delete(&mut self, key: Bytes) {
        self.0.remove(&key);
    }

    fn scan(
        &self,
        from: &[u8],
        to: &[u8],
        visit: &mut dyn FnMut(&[u8], &Bytes) -> ControlFlow<()>,
    ) -> Result<(), StoreError> {
        let range = self
            .0
            .range(Bytes::copy_from_slice(from)..Bytes::copy_from_slice(to));
        for (key, value) in range {
            if visit(key, value).is_break() {
                break;
            }
        }
        Ok(())
    }
}

/// Partitions, their logs, and names for the ids that come up.
pub struct World {
    partitions: u16,
    pub stores: Vec<MapStore>,
    next_lsn: Vec<u64>,
    pub now: u64,
    names: BTreeMap<InvocationId, String>,
    incarnations: BTreeMap<InvocationId, u64>,
    undelivered: Vec<(PartitionId, state::Delivery)>,
    timers: BTreeMap<Bytes, PartitionId>,
    pub transcript: String,
    /// Invocations that were started since somebody looked.
    pub started: Vec<InvocationId>,
    /// Every record, for replicas to repeat.
    pub log: Vec<(PartitionId, Lsn, Bytes)>,
    random: u128,
    /// The trace of whoever invokes.
    pub trace: Option<state::TraceContext>,
    /// The span of whatever attempt has effects.
    pub span: u64,
}

pub fn target(service: &str, key: Option<&str>, handler: &str) -> InvocationTarget {
    let handler_kind = match (key, handler) {
        (None, _) => HandlerKind::Plain,
        (_, "run") => HandlerKind::Workflow,
        (_, shared) if shared.starts_with("get") || service.starts_with("Wf") => {
            HandlerKind::Shared
        }
        _ => HandlerKind::Exclusive,
    };
    InvocationTarget {
        service: service.to_owned(),
        key: key.map(str::to_owned),
        handler: handler.to_owned(),
        service_kind: match (key, service.starts_with("Wf")) {
            (None, _) => ServiceKind::Service,
            (_, true) => ServiceKind::Workflow,
            _ => ServiceKind::VirtualObject,
        },
        handler_kind,
    }
}

fn entry(ty: MessageType, message: &impl prost::Message) -> state::Entry {
    state::Entry {
        ty: ty.code().into(),
        payload: message.encode_to_vec().into(),
    }
}

fn command(ty: MessageType, message: &impl prost::Message) -> state::AttemptEffect {
    state::AttemptEffect {
        kind: Some(attempt_effect::Kind::Command(entry(ty, message))),
        ..Default::default()
    }
}

fn value(text: &str) -> Option<wire::Value> {
    Some(wire::Value {
        content: Bytes::copy_from_slice(text.as_bytes()),
    })
}

pub mod effect {
    //! What an attempt may do.
    use super::*;

    pub fn set(key: &str, text: &str) -> state::AttemptEffect {
        let message = wire::SetStateCommand {
            key: Bytes::copy_from_slice(key.as_bytes()),
            value: value(text),
            ..Default::default()
        };
        command(MessageType::SetState, &message)
    }

    pub fn get(key: &str, completion: u32) -> state::AttemptEffect {
        let message = wire::GetLazyStateCommand {
            key: Bytes::copy_from_slice(key.as_bytes()),
            result_completion_id: completion,
            ..Default::default()
        };
        command(MessageType::GetLazyState, &message)
    }

    pub fn run(name: &str, completion: u32) -> state::AttemptEffect {
        let message = wire::RunCommand {
            result_completion_id: completion,
            name: name.to_owned(),
        };
        command(MessageType::Run, &message)
    }

    pub fn pin(protocol: u32) -> state::AttemptEffect {
        state::AttemptEffect {
            kind: Some(attempt_effect::Kind::Pinned(state::Pinned {
                deployment: Bytes::from_static(&[7; 16]),
                protocol,
            })),
            ..Default::default()
        }
    }

    pub fn sleep(until: u64, completion: u32) -> state::AttemptEffect {
        let message = wire::SleepCommand {
            wake_up_time: until,
            result_completion_id: completion,
            ..Default::default()
        };
        command(MessageType::Sleep, &message)
    }

    pub fn call(
        service: &str,
        key: Option<&str>,
        handler: &str,
        completion: u32,
    ) -> state::AttemptEffect {
        let message = wire::CallCommand {
            service_name: service.to_owned(),
            handler_name: handler.to_owned(),
            key: key.unwrap_or_default().to_owned(),
            invocation_id_notification_idx: completion,
            result_completion_id: completion + 1,
            ..Default::default()
        };
        state::AttemptEffect {
            callee: Some(state::Callee {
                target: Some(state::Target::from(&target(service, key, handler))),
                completion_retention_ms: 1000,
                journal_retention_ms: 1000,
            }),
            ..command(MessageType::Call, &message)
        }
    }

    pub fn send(
        service: &str,
        key: Option<&str>,
        handler: &str,
        at: u64,
        completion: u32,
    ) -> state::AttemptEffect {
        let message = wire::OneWayCallCommand {
            service_name: service.to_owned(),
            handler_name: handler.to_owned(),
            key: key.unwrap_or_default().to_owned(),
            invoke_time: at,
            invocation_id_notification_idx: completion,
            ..Default::default()
        };
        state::AttemptEffect {
            callee: Some(state::Callee {
                target: Some(state::Target::from(&target(service, key, handler))),
                completion_retention_ms: 1000,
                journal_retention_ms: 1000,
            }),
            ..command(MessageType::OneWayCall, &message)
        }
    }

    pub fn get_promise(name: &str, completion: u32) -> state::AttemptEffect {
        let message = wire::GetPromiseCommand {
            key: name.to_owned(),
            result_completion_id: completion,
            ..Default::default()
        };
        command(MessageType::GetPromise, &message)
    }

    pub fn complete_promise(name: &str, text: &str, completion: u32) -> state::AttemptEffect {
        let message = wire::CompletePromiseCommand {
            key: name.to_owned(),
            result_completion_id: completion,
            completion: Some(wire::complete_promise_command::Completion::CompletionValue(
                value(text).unwrap_or_default(),
            )),
            ..Default::default()
        };
        command(MessageType::CompletePromise, &message)
    }

    pub fn ran(completion: u32, text: &str) -> state::AttemptEffect {
        let outcome =
            abide_service_protocol::Outcome::Value(Bytes::copy_from_slice(text.as_bytes()));
        let entry = Notification::run(completion, outcome).into_entry();
        state::AttemptEffect {
            kind: Some(attempt_effect::Kind::RunProposal(state::Entry {
                ty: entry.ty.into(),
                payload: entry.payload,
            })),
            ..Default::default()
        }
    }

    pub fn output(text: &str) -> state::AttemptEffect {
        let message = wire::OutputCommand {
            result: Some(wire::output_command::Result::Value(
                value(text).unwrap_or_default(),
            )),
            ..Default::default()
        };
        command(MessageType::Output, &message)
    }

    pub fn suspend(completions: &[u32]) -> state::AttemptEffect {
        let ids = completions
            .iter()
            .map(|id| abide_service_protocol::NotificationId::Completion(*id))
            .chain([abide_service_protocol::NotificationId::CANCEL]);
        let awaiting =
            abide_service_protocol::Await::any_of(ids).map(|awaiting| awaiting.into_bytes());
        state::AttemptEffect {
            kind: Some(attempt_effect::Kind::Suspended(
                awaiting.unwrap_or_default(),
            )),
            ..Default::default()
        }
    }

    pub fn end() -> state::AttemptEffect {
        state::AttemptEffect {
            kind: Some(attempt_effect::Kind::End(state::Empty {})),
            ..Default::default()
        }
    }
}

impl World {
    pub fn new(partitions: u16) -> Self {
        Self {
            partitions,
            stores: vec![MapStore::default(); usize::from(partitions)],
            next_lsn: vec![1; usize::from(partitions)],
            now: 1_000,
            names: BTreeMap::new(),
            incarnations: BTreeMap::new(),
            undelivered: Vec::new(),
            timers: BTreeMap::new(),
            transcript: String::new(),
            started: Vec::new(),
            log: Vec::new(),
            random: 0,
            trace: None,
            span: 0,
        }
    }

    fn name(&mut self, id: &InvocationId) -> String {
        let next = format!("inv{}", self.names.len() + 1);
        self.names.entry(*id).or_insert(next).clone()
    }

    pub fn partition(&self, id: &InvocationId) -> PartitionId {
        partition_of(id.partition_key(), self.partitions)
    }

    /// Applies one command as a record of its own; writes its actions down.
    pub fn apply(&mut self, partition: PartitionId, kind: Kind) -> Reply {
        let index = usize::from(partition.0);
        let lsn = Lsn(self.next_lsn[index]);
        self.next_lsn[index] += 1;
        let batch = state::Batch {
            at: self.now,
            commands: vec![state::Command { kind: Some(kind) }],
        };
        // What goes over the log has to survive the way.
        let payload = Bytes::from(batch.encode_to_vec());
        self.log.push((partition, lsn, payload.clone()));
        let batch = StateMachine::decode(lsn, payload).expect("decodes");
        let machine = StateMachine::new(partition, self.partitions);
        let applied = machine
            .apply(&mut self.stores[index], lsn, batch)
            .expect("applies");
        for action in applied.actions {
            self.write_down(partition, action);
        }
        applied.replies.into_iter().next().unwrap_or(Reply::None)
    }

    fn write_down(&mut self, partition: PartitionId, action: Action) {
        let line = match action {
            Action::PauseQueue { queue, paused } => {
                format!("{} {queue}", if paused { "pause" } else { "resume" })
            }
            Action::Start {
                id, incarnation, ..
            } => {
                self.incarnations.insert(id, incarnation);
                self.started.push(id);
                format!("start {}", self.name(&id))
            }
            Action::Notify { id, index, entry } => {
                let name = MessageType::from_code(entry.ty).map_or("?", |ty| ty.name());
                let shown = match Notification::decode(&entry) {
                    Ok(notification) => self.show(&notification),
                    Err(_) => "?".to_owned(),
                };
                format!("notify {} #{index} {name} {shown}", self.name(&id))
            }
            Action::CommandAck { id, command_index } => {
                format!("ack {} {command_index}", self.name(&id))
            }
            Action::Created { id, trace, .. } => {
                let linked = match trace.linked.as_str() {
                    "" => String::new(),
                    linked => format!(" linked to {linked}"),
                };
                format!(
                    "trace {} below {}{linked}",
                    self.name(&id),
                    trace.traceparent
                )
            }
            Action::Stop { id } => format!("stop {}", self.name(&id)),
            Action::RetryNow { id } => format!("retry {}", self.name(&id)),
            Action::Completed { id, outcome, .. } => {
                format!("completed {} {}", self.name(&id), show_outcome(&outcome))
            }
            Action::ArmTimer { key, due } => {
                self.timers.insert(key, partition);
                format!("timer at {}", due.0)
            }
            Action::DisarmTimer { key, due } => {
                self.timers.remove(&key);
                format!("no timer at {}", due.0)
            }
            Action::Send {
                to,
                position,
                message,
            } => {
                self.undelivered.push((
                    to,
                    state::Delivery {
                        from_partition: partition.0.into(),
                        position: Some(position.into()),
                        message: Some(message),
                    },
                ));
                return;
            }
            Action::AckDelivery { to, position } => {
                let acked = Kind::OutboxAcked(state::OutboxAcked {
                    to_partition: partition.0.into(),
                    positions: vec![position.into()],
                });
                self.apply(to, acked);
                return;
            }
        };
        writeln!(self.transcript, "{line}").expect("a string takes everything");
    }

    fn show(&mut self, notification: &Notification) -> String {
        use abide_service_protocol::NotificationResult;
        let result = match &notification.result {
            NotificationResult::Void => "void".to_owned(),
            NotificationResult::Value(value) => String::from_utf8_lossy(value).into_owned(),
            NotificationResult::Failure(failure) => failure.to_string(),
            NotificationResult::InvocationId(id) => match id.parse() {
                Ok(id) => self.name(&id),
                Err(_) => id.clone(),
            },
            NotificationResult::StateKeys(keys) => format!("{keys:?}"),
        };
        format!("({}) {result}", notification.id)
    }

    /// Delivers the first waiting message for one of the partitions, `times` over; false when none waits.
    pub fn deliver_one(&mut self, choice: usize, times: usize) -> bool {
        let waiting: std::collections::BTreeSet<_> = self
            .undelivered
            .iter()
            .map(|(to, delivery)| (*to, delivery.from_partition))
            .collect();
        let Some(link) = waiting.iter().nth(choice % waiting.len().max(1)) else {
            return false;
        };
        let first = self
            .undelivered
            .iter()
            .position(|(to, delivery)| (*to, delivery.from_partition) == *link);
        let (to, delivery) = self.undelivered.remove(first.expect("it was there"));
        for _ in 0..times {
            self.apply(to, Kind::Delivery(delivery.clone()));
        }
        true
    }

    /// Delivers what waits in outboxes, `times` over.
    pub fn deliver(&mut self, times: usize) {
        while !self.undelivered.is_empty() {
            let (to, delivery) = self.undelivered.remove(0);
            for _ in 0..times {
                self.apply(to, Kind::Delivery(delivery.clone()));
            }
        }
    }

    /// A new request of a client.
    pub fn invoke(&mut self, service: &str, key: Option<&str>, handler: &str) -> InvocationId {
        self.random += 1;
        let random = self.random;
        self.invoke_as(&target(service, key, handler), random, 0, 1000)
            .0
    }

    pub fn invoke_as(
        &mut self,
        target: &InvocationTarget,
        random: u128,
        execute_at: u64,
        retention: u64,
    ) -> (InvocationId, Reply) {
        let id = target.invocation_id(None, random);
        self.name(&id);
        let invoke = state::Invoke {
            id: Bytes::copy_from_slice(&id.to_bytes()),
            target: Some(state::Target::from(target)),
            input: RawEntry::input(Vec::new(), Bytes::from_static(b"in")).payload,
            execute_at,
            completion_retention_ms: retention,
            journal_retention_ms: retention,
            request_id: Bytes::copy_from_slice(&random.to_be_bytes()),
            trace: self.trace.clone().map(Box::new),
            ..Default::default()
        };
        let reply = self.apply(self.partition(&id), Kind::Invoke(invoke));
        (id, reply)
    }

    /// An invocation of a plain service with a scope.
    pub fn invoke_in_scope(&mut self, scope: &str) -> InvocationId {
        self.random += 1;
        let target = target("Svc", None, "go");
        let id = target.scoped_id(Some(scope), None, self.random);
        self.name(&id);
        let flow = Flow {
            scope: scope.to_owned(),
            limit_key: None,
        };
        let invoke = state::Invoke {
            id: Bytes::copy_from_slice(&id.to_bytes()),
            target: Some(state::Target::from(&target)),
            input: RawEntry::input(Vec::new(), Bytes::from_static(b"in")).payload,
            completion_retention_ms: 1000,
            journal_retention_ms: 1000,
            request_id: Bytes::copy_from_slice(&self.random.to_be_bytes()),
            flow: Some(Box::new(flow.into())),
            ..Default::default()
        };
        self.apply(self.partition(&id), Kind::Invoke(invoke));
        id
    }

    /// A record of a source outside the cluster.
    pub fn produce(
        &mut self,
        target: &InvocationTarget,
        producer: &str,
        position: u64,
        random: u128,
    ) -> Reply {
        let id = target.invocation_id(None, random);
        self.name(&id);
        let invoke = state::Invoke {
            id: Bytes::copy_from_slice(&id.to_bytes()),
            target: Some(state::Target::from(target)),
            input: RawEntry::input(Vec::new(), Bytes::from_static(b"in")).payload,
            producer: Some(Box::new(state::Producer {
                id: Bytes::copy_from_slice(producer.as_bytes()),
                position,
                subscription: "sub_1".to_owned(),
            })),
            ..Default::default()
        };
        self.apply(self.partition(&id), Kind::Invoke(invoke))
    }

    /// What an attempt of the invocation's present incarnation did.
    pub fn effects(&mut self, id: &InvocationId, effects: Vec<state::AttemptEffect>) {
        let incarnation = self.incarnations.get(id).copied().unwrap_or(0);
        let command = Kind::AttemptEffects(state::AttemptEffects {
            id: Bytes::copy_from_slice(&id.to_bytes()),
            incarnation,
            effects,
            span: self.span,
        });
        self.apply(self.partition(id), command);
    }

    /// Applies a command about an invocation where that is.
    pub fn command(&mut self, id: &InvocationId, kind: Kind) -> Reply {
        self.apply(self.partition(id), kind)
    }

    /// The stored row of an invocation.
    pub fn invocation(&self, id: &InvocationId) -> Option<state::Invocation> {
        let store = &self.stores[usize::from(self.partition(id).0)];
        let row = store.get(&keys::invocation(id)).expect("a map answers")?;
        Some(state::Invocation::decode(row).expect("rows decode"))
    }

    /// The types of an invocation's entries.
    pub fn journal(&self, id: &InvocationId) -> Vec<&'static str> {
        let store = &self.stores[usize::from(self.partition(id).0)];
        let length = self.invocation(id).map_or(0, |row| row.journal_length);
        let entries = abide_state_machine::read_journal(store, id, length).expect("a map answers");
        let name = |entry: RawEntry| MessageType::from_code(entry.ty).map_or("?", |ty| ty.name());
        entries.into_iter().map(name).collect()
    }

    /// The events of an invocation, one a line.
    pub fn events(&self, id: &InvocationId) -> String {
        use state::journal_event::Kind;
        let store = &self.stores[usize::from(self.partition(id).0)];
        let prefix = keys::events_of(id);
        let mut lines = String::new();
        let show = |failure: &state::AttemptFailure| {
            let failure_text = failure.failure.as_ref().map_or_else(
                || "no failure".to_owned(),
                |failure| format!("[{}] {}", failure.code, failure.message),
            );
            format!("{failure_text} {}", failure.documented_code)
        };
        for (_, row) in store.0.range(prefix.clone()..keys::prefix_end(&prefix)) {
            let event = state::JournalEvent::decode(row.clone()).expect("rows decode");
            let text = match event.kind {
                Some(Kind::TransientError(failure)) => format!("failed {}", show(&failure)),
                Some(Kind::Paused(failure)) => format!("paused {}", show(&failure)),
                Some(Kind::Suspended(_)) => "suspended".to_owned(),
                None => "nothing".to_owned(),
            };
            writeln!(lines, "#{} {}", event.after_index, text.trim_end())
                .expect("a string takes everything");
        }
        lines
    }

    /// The state of a key.
    pub fn state(&self, service: &str, key: &str) -> Vec<(String, String)> {
        let prefix = keys::state_of(service, key);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let rows = self.stores.iter().flat_map(|store| {
            store
                .0
                .range(prefix.clone()..keys::prefix_end(&prefix))
                .map(|(key, value)| (text(&key[prefix.len()..]), text(value)))
        });
        rows.collect()
    }

    pub fn incarnation(&self, id: &InvocationId) -> u64 {
        self.incarnations.get(id).copied().unwrap_or(0)
    }

    /// An id of the same partition key for a restart.
    pub fn id_beside(&mut self, id: &InvocationId, number: u8) -> InvocationId {
        let beside = InvocationId::new(id.partition_key(), [number; 16]);
        self.name(&beside);
        beside
    }

    pub fn operate(&mut self, id: &InvocationId, operation: state::Operation) -> Reply {
        self.operate_waiting(id, operation, false)
    }

    /// As the leader proposes it who knows whether the invocation waits for its turn in its scope.
    pub fn operate_waiting(
        &mut self,
        id: &InvocationId,
        operation: state::Operation,
        waits: bool,
    ) -> Reply {
        let command = Kind::Operate(state::Operate {
            id: Bytes::copy_from_slice(&id.to_bytes()),
            operation: operation as i32,
            waits,
            ..Default::default()
        });
        self.apply(self.partition(id), command)
    }

    /// Fires every timer that is due at `now`.
    pub fn pass_time(&mut self, now: u64) {
        self.now = now;
        let due: Vec<_> = self
            .timers
            .iter()
            .filter(|(key, _)| keys::parse_timer(key).is_some_and(|timer| timer.due.0 <= now))
            .map(|(key, partition)| (key.clone(), *partition))
            .collect();
        for (key, partition) in due {
            self.timers.remove(&key);
            self.apply(partition, Kind::FireTimer(state::FireTimer { key }));
        }
    }

    /// The id that was given a name in the transcript.
    pub fn id(&self, name: &str) -> InvocationId {
        let found = self.names.iter().find(|(_, known)| *known == name);
        *found.expect("a known name").0
    }

    pub fn rows(&self, table: keys::Table) -> usize {
        let from = keys::table_start(table);
        let to = keys::table_end(table);
        self.stores
            .iter()
            .map(|store| store.0.range(from.clone()..to.clone()).count())
            .sum()
    }

    pub fn take_transcript(&mut self) -> String {
        std::mem::take(&mut self.transcript)
    }
}

fn show_outcome(outcome: &state::Outcome) -> String {
    match &outcome.outcome {
        Some(state::outcome::Outcome::Success(value)) => {
            String::from_utf8_lossy(value).into_owned()
        }
        Some(state::outcome::Outcome::Failure(failure)) => {
            format!("[{}] {}", failure.code, failure.message)
        }
        None => "nothing".to_owned(),
    }
}
