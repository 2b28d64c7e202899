//! Journal entries as JSON.

use abide_schema::Schema;
use abide_service_protocol::{MessageClass, MessageType, RawEntry, proto as sdk};
use abide_types::{HandlerKind, ServiceKind};
use bytes::Bytes;
use prost::Message;

use super::{Object, object, put_list, put_text};

/// What a call's entry does not say itself.
#[derive(Debug, Default)]
pub(crate) struct Callee {
    /// From the notification behind it.
    pub(crate) invocation_id: Option<String>,
}

/// The type's name without what makes it a notification.
pub(crate) fn type_name(code: u32) -> Option<&'static str> {
    let ty = MessageType::from_code(u16::try_from(code).ok()?)?;
    Some(short_name(ty))
}

fn short_name(ty: MessageType) -> &'static str {
    let name = ty.name();
    name.strip_suffix("Completion").unwrap_or(name)
}

/// `Command: Run`, `Notification: Run`.
pub(crate) fn entry_type(entry: &RawEntry) -> String {
    let class = match MessageClass::of(entry.ty) {
        MessageClass::Notification => "Notification",
        MessageClass::Command | MessageClass::CustomCommand | MessageClass::Control => "Command",
    };
    match entry.message_type() {
        Some(ty) => format!("{class}: {}", short_name(ty)),
        None => format!("{class}: {:#06x}", entry.ty),
    }
}

/// Where a call goes.
struct Call {
    service: String,
    key: String,
    handler: String,
    parameter: Bytes,
    headers: Vec<sdk::Header>,
    idempotency_key: Option<String>,
    scope: Option<String>,
    /// Of a one-way call.
    invoke_time: Option<u64>,
    invocation_id_completion: u32,
    result_completion: Option<u32>,
    name: String,
}

impl Call {
    fn read(entry: &RawEntry) -> Option<Self> {
        match entry.message_type()? {
            MessageType::Call => {
                let call = sdk::CallCommand::decode(entry.payload.clone()).ok()?;
                Some(Self {
                    service: call.service_name,
                    key: call.key,
                    handler: call.handler_name,
                    parameter: call.parameter,
                    headers: call.headers,
                    idempotency_key: call.idempotency_key,
                    scope: call.scope,
                    invoke_time: None,
                    invocation_id_completion: call.invocation_id_notification_idx,
                    result_completion: Some(call.result_completion_id),
                    name: call.name,
                })
            }
            MessageType::OneWayCall => {
                let call = sdk::OneWayCallCommand::decode(entry.payload.clone()).ok()?;
                Some(Self {
                    service: call.service_name,
                    key: call.key,
                    handler: call.handler_name,
                    parameter: call.parameter,
                    headers: call.headers,
                    idempotency_key: call.idempotency_key,
                    scope: call.scope,
                    invoke_time: Some(call.invoke_time),
                    invocation_id_completion: call.invocation_id_notification_idx,
                    result_completion: None,
                    name: call.name,
                })
            }
            _ => None,
        }
    }

    /// The kinds as registered now; an unknown service is keyed if the call has a key.
    fn kinds(&self, schema: &Schema) -> (ServiceKind, HandlerKind) {
        match schema.resolve(&self.service, &self.handler) {
            Ok(handler) => (handler.service_kind, handler.handler_kind),
            Err(_) if self.key.is_empty() => (ServiceKind::Service, HandlerKind::Plain),
            Err(_) => (ServiceKind::VirtualObject, HandlerKind::Exclusive),
        }
    }

    fn target(&self, out: &mut Object<'_>, schema: &Schema) {
        let (service, handler) = self.kinds(schema);
        let name = match service {
            ServiceKind::Service => "Service",
            ServiceKind::VirtualObject => "VirtualObject",
            ServiceKind::Workflow => "Workflow",
        };
        out.object("invocation_target", |target| {
            target.object(name, |target| {
                target.text("name", &self.service);
                if service.is_keyed() {
                    target.text("key", &self.key);
                }
                target.text("handler", &self.handler);
                match handler {
                    HandlerKind::Plain => {}
                    HandlerKind::Exclusive => {
                        target.text("handler_ty", "Exclusive");
                    }
                    HandlerKind::Shared => {
                        target.text("handler_ty", "Shared");
                    }
                    HandlerKind::Workflow => {
                        target.text("handler_ty", "Workflow");
                    }
                }
                match &self.scope {
                    Some(scope) => target.text("scope", scope),
                    None => target.raw("scope", "null"),
                };
            });
        });
    }

    fn request(&self, out: &mut Object<'_>, schema: &Schema, callee: &Callee) {
        if let Some(id) = &callee.invocation_id {
            out.text("invocation_id", id);
        }
        self.target(out, schema);
        // The span of a callee is made when it starts.
        out.raw(
            "span_context",
            "{\"span_context\":{\"trace_id\":[0,0,0,0,0,0,0,0,0,0,0,0,0,0,0,0],\
             \"span_id\":[0,0,0,0,0,0,0,0],\"trace_flags\":0,\"is_remote\":false,\"trace_state\":\"\"},\"cause\":null}",
        );
        out.bytes("parameter", &self.parameter);
        put_headers(out, &self.headers);
        match &self.idempotency_key {
            Some(key) => out.text("idempotency_key", key),
            None => out.raw("idempotency_key", "null"),
        };
        let retention = schema
            .resolve(&self.service, &self.handler)
            .map(|handler| handler.retention(self.idempotency_key.is_some()));
        if let Ok(retention) = retention {
            for (name, duration) in [
                ("completion_retention_duration", retention.completion),
                ("journal_retention_duration", retention.journal),
            ] {
                out.object(name, |out| {
                    out.number("secs", duration.as_secs())
                        .number("nanos", duration.subsec_nanos());
                });
            }
        }
    }

    fn ids(&self, out: &mut Object<'_>) {
        if let Some(time) = self.invoke_time {
            out.number("invoke_time", time);
        }
        out.number("invocation_id_completion_id", self.invocation_id_completion);
        if let Some(id) = self.result_completion {
            out.number("result_completion_id", id);
        }
    }
}

/// The notification that tells the callee's id, of a call.
pub(crate) fn callee_completion(entry: &RawEntry) -> Option<u32> {
    Call::read(entry).map(|call| call.invocation_id_completion)
}

/// `Service/handler` or `Service/key/handler` of a call.
pub(crate) fn invoked_target(entry: &RawEntry, schema: &Schema) -> Option<String> {
    let call = Call::read(entry)?;
    let Call {
        service,
        key,
        handler,
        ..
    } = &call;
    Some(match call.kinds(schema).0.is_keyed() {
        true => format!("{service}/{key}/{handler}"),
        false => format!("{service}/{handler}"),
    })
}

fn put_headers(out: &mut Object<'_>, headers: &[sdk::Header]) {
    put_list(out.member("headers"), headers, |out, header| {
        let mut object = Object::new(out);
        object
            .text("name", &header.key)
            .text("value", &header.value);
        object.end();
    });
}

/// A result, whole or only its kind.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Detail {
    Whole,
    Kind,
}

fn put_success(out: &mut Object<'_>, name: &str, value: &[u8], detail: Detail) {
    match detail {
        Detail::Whole => {
            out.object(name, |out| {
                out.bytes("Success", value);
            });
        }
        Detail::Kind => {
            out.text(name, "Success");
        }
    }
}

fn put_failure(out: &mut Object<'_>, name: &str, failure: &sdk::Failure, detail: Detail) {
    if detail == Detail::Kind {
        out.text(name, "Failure");
        return;
    }
    out.object(name, |out| {
        out.object("Failure", |out| {
            out.number("code", failure.code)
                .text("message", &failure.message);
            if !failure.metadata.is_empty() {
                put_list(out.member("metadata"), &failure.metadata, |out, pair| {
                    let mut object = Object::new(out);
                    object.text("key", &pair.key).text("value", &pair.value);
                    object.end();
                });
            }
        });
    });
}

fn put_key(out: &mut Object<'_>, key: &[u8]) {
    out.text("key", &String::from_utf8_lossy(key));
}

/// The entry with its payloads; `None` if it cannot be read.
pub(crate) fn entry(entry: &RawEntry, schema: &Schema, callee: &Callee) -> Option<String> {
    write(entry, schema, callee, Detail::Whole)
}

/// The entry without its payloads.
pub(crate) fn lite(entry: &RawEntry, schema: &Schema, callee: &Callee) -> Option<String> {
    write(entry, schema, callee, Detail::Kind)
}

fn write(raw: &RawEntry, schema: &Schema, callee: &Callee, detail: Detail) -> Option<String> {
    let ty = raw.message_type()?;
    match ty.class() {
        MessageClass::Command => {
            let body = command(ty, raw, schema, callee, detail)?;
            Some(object(|out| {
                out.object("Command", |out| {
                    out.raw(short_name(ty), &body);
                });
            }))
        }
        MessageClass::Notification => {
            let message = sdk::Notification::decode(raw.payload.clone()).ok()?;
            Some(object(|out| {
                out.object("Notification", |out| match detail {
                    Detail::Whole => notification(ty, &message, out),
                    Detail::Kind => lite_notification(ty, &message, out),
                });
            }))
        }
        MessageClass::Control | MessageClass::CustomCommand => None,
    }
}

fn read<M: Message + Default>(raw: &RawEntry) -> Option<M> {
    M::decode(raw.payload.clone()).ok()
}

fn command(
    ty: MessageType,
    raw: &RawEntry,
    schema: &Schema,
    callee: &Callee,
    detail: Detail,
) -> Option<String> {
    let whole = detail == Detail::Whole;
    // Users' names stand in short forms too, where there are any.
    let named = |out: &mut Object<'_>, name: &str| {
        if whole || !name.is_empty() {
            out.text("name", name);
        }
    };
    let mut text = String::new();
    let mut out = Object::new(&mut text);
    match ty {
        MessageType::Input => {
            let message: sdk::InputCommand = read(raw)?;
            if whole {
                put_headers(&mut out, &message.headers);
                out.bytes("payload", &message.value.unwrap_or_default().content);
            }
            named(&mut out, &message.name);
        }
        MessageType::Output => {
            use sdk::output_command::Result;
            let message: sdk::OutputCommand = read(raw)?;
            match &message.result {
                Some(Result::Value(value)) => {
                    put_success(&mut out, "result", &value.content, detail);
                }
                Some(Result::Failure(failure)) => put_failure(&mut out, "result", failure, detail),
                None => {}
            }
            named(&mut out, &message.name);
        }
        MessageType::GetLazyState => {
            let message: sdk::GetLazyStateCommand = read(raw)?;
            put_key(&mut out, &message.key);
            out.number("completion_id", message.result_completion_id);
            named(&mut out, &message.name);
        }
        MessageType::SetState => {
            let message: sdk::SetStateCommand = read(raw)?;
            put_key(&mut out, &message.key);
            if whole {
                out.bytes("value", &message.value.unwrap_or_default().content);
            }
            named(&mut out, &message.name);
        }
        MessageType::ClearState => {
            let message: sdk::ClearStateCommand = read(raw)?;
            put_key(&mut out, &message.key);
            named(&mut out, &message.name);
        }
        MessageType::ClearAllState => {
            let message: sdk::ClearAllStateCommand = read(raw)?;
            named(&mut out, &message.name);
        }
        MessageType::GetLazyStateKeys => {
            let message: sdk::GetLazyStateKeysCommand = read(raw)?;
            out.number("completion_id", message.result_completion_id);
            named(&mut out, &message.name);
        }
        MessageType::GetEagerState => {
            use sdk::get_eager_state_command::Result;
            let message: sdk::GetEagerStateCommand = read(raw)?;
            put_key(&mut out, &message.key);
            match &message.result {
                Some(Result::Value(value)) => {
                    put_success(&mut out, "result", &value.content, detail);
                }
                Some(Result::Void(_)) | None => {
                    out.text("result", "Void");
                }
            }
            named(&mut out, &message.name);
        }
        MessageType::GetEagerStateKeys => {
            let message: sdk::GetEagerStateKeysCommand = read(raw)?;
            if whole {
                put_state_keys(&mut out, &message.value.unwrap_or_default());
            }
            named(&mut out, &message.name);
        }
        MessageType::GetPromise | MessageType::PeekPromise => {
            // The two are alike.
            let message: sdk::GetPromiseCommand = read(raw)?;
            out.text("key", &message.key)
                .number("completion_id", message.result_completion_id);
            named(&mut out, &message.name);
        }
        MessageType::CompletePromise => {
            use sdk::complete_promise_command::Completion;
            let message: sdk::CompletePromiseCommand = read(raw)?;
            out.text("key", &message.key);
            match &message.completion {
                Some(Completion::CompletionValue(value)) if whole => {
                    put_success(&mut out, "value", &value.content, detail);
                }
                Some(Completion::CompletionFailure(failure)) if whole => {
                    put_failure(&mut out, "value", failure, detail);
                }
                _ => {}
            }
            out.number("completion_id", message.result_completion_id);
            named(&mut out, &message.name);
        }
        MessageType::Sleep => {
            let message: sdk::SleepCommand = read(raw)?;
            out.number("wake_up_time", message.wake_up_time)
                .number("completion_id", message.result_completion_id);
            named(&mut out, &message.name);
        }
        MessageType::Call | MessageType::OneWayCall => {
            let call = Call::read(raw)?;
            if whole {
                out.object("request", |out| call.request(out, schema, callee));
            } else {
                if let Some(id) = &callee.invocation_id {
                    out.text("invocation_id", id);
                }
                call.target(&mut out, schema);
            }
            call.ids(&mut out);
            named(&mut out, &call.name);
        }
        MessageType::SendSignal => send_signal(&read(raw)?, &mut out, detail),
        MessageType::Run => {
            let message: sdk::RunCommand = read(raw)?;
            out.number("completion_id", message.result_completion_id)
                .text("name", &message.name);
        }
        MessageType::AttachInvocation => {
            use sdk::attach_invocation_command::Target;
            let message: sdk::AttachInvocationCommand = read(raw)?;
            out.object("target", |out| match &message.target {
                Some(Target::InvocationId(id)) => {
                    out.text("InvocationId", id);
                }
                Some(Target::IdempotentRequestTarget(target)) => idempotent(out, target),
                Some(Target::WorkflowTarget(target)) => workflow(out, target),
                None => {}
            });
            out.number("completion_id", message.result_completion_id);
            named(&mut out, &message.name);
        }
        MessageType::GetInvocationOutput => {
            use sdk::get_invocation_output_command::Target;
            let message: sdk::GetInvocationOutputCommand = read(raw)?;
            out.object("target", |out| match &message.target {
                Some(Target::InvocationId(id)) => {
                    out.text("InvocationId", id);
                }
                Some(Target::IdempotentRequestTarget(target)) => idempotent(out, target),
                Some(Target::WorkflowTarget(target)) => workflow(out, target),
                None => {}
            });
            out.number("completion_id", message.result_completion_id);
            named(&mut out, &message.name);
        }
        MessageType::CompleteAwakeable => {
            use sdk::complete_awakeable_command::Result;
            let message: sdk::CompleteAwakeableCommand = read(raw)?;
            out.text("id", &message.awakeable_id);
            match &message.result {
                Some(Result::Value(value)) => {
                    put_success(&mut out, "result", &value.content, detail);
                }
                Some(Result::Failure(failure)) => put_failure(&mut out, "result", failure, detail),
                None => {}
            }
            named(&mut out, &message.name);
        }
        _ => return None,
    }
    out.end();
    Some(text)
}

fn idempotent(out: &mut Object<'_>, target: &sdk::IdempotentRequestTarget) {
    out.object("IdempotentRequest", |out| {
        out.text("service_name", &target.service_name);
        match &target.service_key {
            Some(key) => out.text("service_key", key),
            None => out.raw("service_key", "null"),
        };
        out.text("service_handler", &target.handler_name)
            .text("idempotency_key", &target.idempotency_key);
    });
}

fn workflow(out: &mut Object<'_>, target: &sdk::WorkflowTarget) {
    out.object("Workflow", |out| {
        out.text("service_name", &target.workflow_name)
            .text("key", &target.workflow_key);
    });
}

fn send_signal(message: &sdk::SendSignalCommand, out: &mut Object<'_>, detail: Detail) {
    use sdk::send_signal_command::{Result, SignalId};
    out.text("target_invocation_id", &message.target_invocation_id);
    out.object("signal_id", |out| match &message.signal_id {
        Some(SignalId::Idx(index)) => {
            out.number("Index", *index);
        }
        Some(SignalId::Name(name)) => {
            out.text("Name", name);
        }
        None => {}
    });
    match &message.result {
        Some(Result::Void(_)) | None => {
            out.text("result", "Void");
        }
        Some(Result::Value(value)) => put_success(out, "result", &value.content, detail),
        Some(Result::Failure(failure)) => put_failure(out, "result", failure, detail),
    }
    if detail == Detail::Whole || !message.entry_name.is_empty() {
        out.text("name", &message.entry_name);
    }
}

fn put_state_keys(out: &mut Object<'_>, keys: &sdk::StateKeys) {
    put_list(out.member("state_keys"), &keys.keys, |out, key| {
        put_text(out, &String::from_utf8_lossy(key));
    });
}

fn notification(ty: MessageType, message: &sdk::Notification, out: &mut Object<'_>) {
    use sdk::notification::{Id, Result};
    let result = |out: &mut Object<'_>| match &message.result {
        Some(Result::Void(_)) if ty == MessageType::SleepCompletion => {}
        Some(Result::Void(_)) | None => {
            out.text("result", "Void");
        }
        Some(Result::Value(value)) => put_success(out, "result", &value.content, Detail::Whole),
        Some(Result::Failure(failure)) => put_failure(out, "result", failure, Detail::Whole),
        Some(Result::InvocationId(id)) => {
            out.text("invocation_id", id);
        }
        Some(Result::StateKeys(keys)) => put_state_keys(out, keys),
    };
    match &message.id {
        Some(Id::CompletionId(id)) => {
            out.object("Completion", |out| {
                out.object(short_name(ty), |out| {
                    out.number("completion_id", *id);
                    result(out);
                });
            });
        }
        Some(Id::SignalId(index)) => {
            out.object("Signal", |out| {
                out.object("id", |out| {
                    out.number("Index", *index);
                });
                result(out);
            });
        }
        Some(Id::SignalName(name)) => {
            out.object("Signal", |out| {
                out.object("id", |out| {
                    out.text("Name", name);
                });
                result(out);
            });
        }
        None => {}
    }
}

fn lite_notification(ty: MessageType, message: &sdk::Notification, out: &mut Object<'_>) {
    use sdk::notification::{Id, Result};
    match &message.id {
        Some(Id::CompletionId(id)) => {
            out.object("ty", |out| {
                out.text("Completion", short_name(ty));
            });
            out.object("id", |out| {
                out.number("CompletionId", *id);
            });
        }
        Some(Id::SignalId(index)) => {
            out.text("ty", "Signal");
            out.object("id", |out| {
                out.number("SignalIndex", *index);
            });
        }
        Some(Id::SignalName(name)) => {
            out.text("ty", "Signal");
            out.object("id", |out| {
                out.text("SignalName", name);
            });
        }
        None => {}
    }
    let kind = match &message.result {
        Some(Result::Void(_)) | None => "Void",
        Some(Result::Value(_)) => "Success",
        Some(Result::Failure(_)) => "Failure",
        Some(Result::InvocationId(_)) => "InvocationId",
        Some(Result::StateKeys(_)) => "StateKeys",
    };
    out.text("result", kind);
}

#[cfg(test)]
mod tests;
