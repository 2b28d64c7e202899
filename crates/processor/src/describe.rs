//! What a record of a log says, for people who look into one: [`batch`].
//!
//! What users sent is told by its length only: a log is shown to operators, who need not see payloads.

use abide_service_protocol::MessageType;
use abide_state_machine::proto::{
    AttemptEffects, Command, Invoke, Message, Target, attempt_effect, command::Kind, message,
    signal,
};
use abide_state_machine::{ApplyError, StateMachine, proto};
use abide_types::{InvocationId, Lsn, Timestamp};
use bytes::Bytes;
use serde_json::{Value, json};

use crate::wire::deployment_of;

/// What one record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// When it was proposed, by its leader's clock.
    pub at: Timestamp,
    /// One object a command, with its name as `kind`.
    pub commands: Vec<Value>,
}

/// Reads a record's payload.
///
/// # Errors
/// It does not parse: it is damaged, or of a later version.
pub fn batch(lsn: Lsn, payload: Bytes) -> Result<Described, ApplyError> {
    let batch = StateMachine::decode(lsn, payload)?;
    Ok(Described {
        at: Timestamp(batch.at),
        commands: batch.commands.iter().map(command).collect(),
    })
}

fn command(command: &Command) -> Value {
    match &command.kind {
        Some(Kind::AnnounceLeader(announce)) => json!({
            "kind": "announce-leader",
            "epoch": announce.epoch,
            "node": format!("N{}", announce.node),
            "generation": announce.generation,
            "state_machine": announce.state_machine_version,
        }),
        Some(Kind::Invoke(invoke)) => of_invoke(invoke),
        Some(Kind::AttemptEffects(effects)) => of_effects(effects),
        Some(Kind::FireTimer(timer)) => {
            json!({ "kind": "fire-timer", "key_bytes": timer.key.len() })
        }
        Some(Kind::Signal(signal)) => of_signal(signal),
        Some(Kind::Operate(operate)) => json!({
            "kind": "operate",
            "invocation": invocation(&operate.id),
            "operation": operation(operate.operation()),
        }),
        Some(Kind::Delivery(delivery)) => json!({
            "kind": "delivery",
            "from_partition": delivery.from_partition,
            "position": delivery.position.map(position),
            "message": delivery.message.as_ref().map(of_message),
        }),
        Some(Kind::OutboxAcked(acked)) => json!({
            "kind": "outbox-acked",
            "to_partition": acked.to_partition,
            "messages": acked.positions.len(),
        }),
        Some(Kind::Pause(pause)) => json!({
            "kind": "pause",
            "invocation": invocation(&pause.id),
            "code": pause.failure.as_ref().map(|failure| failure.code),
        }),
        Some(Kind::Fail(fail)) => json!({
            "kind": "fail",
            "invocation": invocation(&fail.id),
            "code": fail.failure.as_ref().map(|failure| failure.code),
        }),
        Some(Kind::Purge(purge)) => json!({ "kind": "purge", "expired": purge.expired.len() }),
        Some(Kind::PauseQueue(pause)) => {
            json!({ "kind": "pause-queue", "paused": pause.paused })
        }
        Some(Kind::MutateState(mutate)) => json!({
            "kind": "mutate-state",
            "service": mutate.service,
            "key": mutate.key,
            "scope": mutate.scope,
            "entries": mutate.entries.len(),
        }),
        Some(Kind::RestartAsNew(restart)) => json!({
            "kind": "restart-as-new",
            "invocation": invocation(&restart.id),
            "new": invocation(&restart.new_id),
            "from": restart.from,
        }),
        Some(Kind::RecordEvent(event)) => json!({
            "kind": "record-event",
            "invocation": invocation(&event.id),
        }),
        None => json!({ "kind": "unknown" }),
    }
}

fn of_invoke(invoke: &Invoke) -> Value {
    json!({
        "kind": "invoke",
        "invocation": invocation(&invoke.id),
        "target": invoke.target.as_ref().map(target),
        "input_bytes": invoke.input.len(),
        "idempotency_key": invoke.idempotency_key,
        "execute_at": (invoke.execute_at > 0).then_some(invoke.execute_at),
        "invoked_by": (!invoke.invoked_by.is_empty()).then(|| invocation(&invoke.invoked_by)),
        "scope": invoke.flow.as_ref().map(|flow| &flow.scope),
        "subscription": invoke.producer.as_ref().map(|producer| &producer.subscription),
    })
}

fn of_effects(effects: &AttemptEffects) -> Value {
    use attempt_effect::Kind as Effect;
    let entry = |what: &str, entry: &proto::Entry| {
        let name = u16::try_from(entry.ty)
            .ok()
            .and_then(MessageType::from_code)
            .map_or("unknown", MessageType::name);
        json!({ "effect": what, "entry": name, "bytes": entry.payload.len() })
    };
    let told = effects.effects.iter().map(|effect| match &effect.kind {
        Some(Effect::Pinned(pinned)) => json!({
            "effect": "pinned",
            "deployment": deployment_of(pinned).map(|id| id.to_string()),
            "protocol": pinned.protocol,
        }),
        Some(Effect::Command(command)) => entry("command", command),
        Some(Effect::RunProposal(run)) => entry("run-proposal", run),
        Some(Effect::Suspended(_)) => json!({ "effect": "suspended" }),
        Some(Effect::End(_)) => json!({ "effect": "end" }),
        None => json!({ "effect": "unknown" }),
    });
    json!({
        "kind": "attempt-effects",
        "invocation": invocation(&effects.id),
        "effects": told.collect::<Vec<_>>(),
    })
}

fn of_signal(signal: &proto::Signal) -> Value {
    json!({
        "kind": "signal",
        "invocation": invocation(&signal.id),
        "signal": match &signal.signal {
            Some(signal::Signal::Index(index)) => json!(index),
            Some(signal::Signal::Name(name)) => json!(name),
            None => Value::Null,
        },
    })
}

fn of_message(message: &Message) -> Value {
    use message::Kind as Sent;
    match &message.kind {
        Some(Sent::Invoke(invoke)) => of_invoke(invoke),
        Some(Sent::Signal(signal)) => of_signal(signal),
        Some(Sent::Response(response)) => json!({
            "kind": "response",
            "invocation": response.sink.as_ref().map(|sink| invocation(&sink.invocation)),
            "completion": response.sink.as_ref().map(|sink| sink.completion_id),
        }),
        Some(Sent::Attach(attach)) => {
            json!({ "kind": "attach", "invocation": invocation(&attach.id) })
        }
        Some(Sent::Operate(operate)) => json!({
            "kind": "operate",
            "invocation": invocation(&operate.id),
            "operation": operation(operate.operation()),
        }),
        None => json!({ "kind": "unknown" }),
    }
}

fn invocation(id: &[u8]) -> Option<String> {
    InvocationId::from_bytes(id).map(|id| id.to_string())
}

fn position(position: proto::OutboxPosition) -> String {
    format!("{}.{}", position.lsn, position.index)
}

fn target(target: &Target) -> String {
    match &target.key {
        Some(key) => format!("{}/{key}/{}", target.service, target.handler),
        None => format!("{}/{}", target.service, target.handler),
    }
}

const fn operation(operation: proto::Operation) -> &'static str {
    match operation {
        proto::Operation::Cancel => "cancel",
        proto::Operation::Kill => "kill",
        proto::Operation::Resume => "resume",
        proto::Operation::Pause => "pause",
        proto::Operation::Purge => "purge",
        proto::Operation::PurgeJournal => "purge-journal",
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use abide_types::PartitionKey;
    use prost::Message as _;

    use super::*;

    #[test]
    fn a_record_tells_its_commands_and_no_payloads() {
        let id = InvocationId::new(PartitionKey(7), [1; 16]);
        let id = Bytes::copy_from_slice(&id.to_bytes());
        let invoke = Invoke {
            id: id.clone(),
            target: Some(Target {
                service: "Counter".to_owned(),
                key: Some("k".to_owned()),
                handler: "add".to_owned(),
                ..Target::default()
            }),
            input: Bytes::from_static(b"secret"),
            ..Invoke::default()
        };
        let effects = AttemptEffects {
            id,
            effects: vec![proto::AttemptEffect {
                kind: Some(attempt_effect::Kind::Command(proto::Entry {
                    ty: MessageType::Output.code().into(),
                    payload: Bytes::from_static(b"secret"),
                })),
                ..proto::AttemptEffect::default()
            }],
            ..AttemptEffects::default()
        };
        let record = proto::Batch {
            at: 5,
            commands: [Kind::Invoke(invoke), Kind::AttemptEffects(effects)]
                .map(|kind| Command { kind: Some(kind) })
                .to_vec(),
        };
        let told = batch(Lsn(1), record.encode_to_vec().into()).unwrap();
        assert_eq!(told.at, Timestamp(5));
        let [invoke, effects] = &told.commands[..] else {
            panic!("{told:?}")
        };
        assert_eq!(invoke["kind"], "invoke");
        assert_eq!(invoke["target"], "Counter/k/add");
        assert_eq!(invoke["input_bytes"], 6);
        assert!(invoke["invocation"].as_str().unwrap().starts_with("inv_"));
        assert_eq!(effects["effects"][0]["effect"], "command");
        assert_eq!(effects["effects"][0]["bytes"], 6);
        assert!(!format!("{told:?}").contains("secret"));
        assert!(batch(Lsn(1), Bytes::from_static(b"\xff\xff")).is_err());
    }
}
