//! One face for the contexts of all kinds of handlers.
//!
//! What a kind of handler may not do does nothing here: generated programs do not ask for it, and
//! minimised ones may.

use std::time::Duration;

use futures::future::BoxFuture;
use restate_sdk::context::{DurableFuture, InvocationHandle, RequestTarget, SendHandle};
use restate_sdk::prelude::*;
use serde::Serialize;
use serde_json::Value;

use super::terminal;
use crate::program::Ending;

/// Something durable that yields a value.
pub(super) type Durable<'a> =
    std::pin::Pin<Box<dyn DurableFuture<Output = Result<Value, TerminalError>> + Send + 'a>>;
/// A side effect.
pub(super) type Work = Box<dyn FnOnce() -> BoxFuture<'static, HandlerResult<Json<Value>>> + Send>;

pub(super) trait Ops<'a>: Send + Sync {
    fn id(&self) -> &str;
    fn sleep(&'a self, duration: Duration) -> Durable<'a>;
    fn awakeable(&'a self) -> (String, Durable<'a>);
    fn complete_awakeable(&self, id: &str, result: &Result<Value, TerminalError>);
    fn signal(&'a self, name: &str) -> Durable<'a>;
    fn call(&'a self, target: RequestTarget, input: Value, key: Option<String>) -> Durable<'a>;
    fn call_with_handle(
        &'a self,
        target: RequestTarget,
        input: Value,
    ) -> BoxFuture<'a, Result<(InvocationHandle, Durable<'a>), TerminalError>>;
    fn send(&'a self, target: RequestTarget, input: Value, delay: Option<Duration>) -> SendHandle;
    fn run(
        &'a self,
        name: String,
        policy: RunRetryPolicy,
        work: Work,
    ) -> BoxFuture<'a, Result<Value, TerminalError>>;

    fn state(&'a self, _key: &'static str) -> BoxFuture<'a, Result<Option<Value>, TerminalError>> {
        Box::pin(async { Ok(None) })
    }
    fn state_keys(&'a self) -> BoxFuture<'a, Result<Vec<String>, TerminalError>> {
        Box::pin(async { Ok(Vec::new()) })
    }
    fn set_state(&self, _key: &str, _value: Value) {}
    fn clear_state(&self, _key: &str) {}
    fn clear_all_state(&self) {}
    fn promise(&'a self, _key: &'static str) -> BoxFuture<'a, Result<Value, TerminalError>> {
        Box::pin(async { Ok(Value::Null) })
    }
    fn peek(&'a self, _key: &'static str) -> BoxFuture<'a, Result<Option<Value>, TerminalError>> {
        Box::pin(async { Ok(None) })
    }
    fn complete(&self, _key: &str, _ending: &Ending) {}
}

/// What is passed to a handler.
pub(super) fn json(input: &impl Serialize) -> Value {
    serde_json::to_value(input).expect("programs are JSON")
}

/// The result of an invocation.
pub(super) fn attach(handle: &InvocationHandle) -> Durable<'static> {
    Box::pin(handle.attach::<Json<Value>>().map_ok(Json::into_inner))
}

macro_rules! common {
    () => {
        fn id(&self) -> &str {
            self.invocation_id()
        }
        fn sleep(&'a self, duration: Duration) -> Durable<'a> {
            Box::pin(ContextTimers::sleep(self, duration).map_ok(|()| Value::Null))
        }
        fn awakeable(&'a self) -> (String, Durable<'a>) {
            let (id, awakeable) = ContextAwakeables::awakeable::<Json<Value>>(self);
            (id, Box::pin(awakeable.map_ok(Json::into_inner)))
        }
        fn complete_awakeable(&self, id: &str, result: &Result<Value, TerminalError>) {
            match result {
                Ok(value) => self.resolve_awakeable(id, Json(value.clone())),
                Err(error) => self.reject_awakeable(id, error.clone()),
            }
        }
        fn signal(&'a self, name: &str) -> Durable<'a> {
            Box::pin(ContextSignals::signal::<Json<Value>>(self, name).map_ok(Json::into_inner))
        }
        fn call(&'a self, target: RequestTarget, input: Value, key: Option<String>) -> Durable<'a> {
            let request = self.request::<_, Json<Value>>(target, Json(input));
            let request = match key {
                Some(key) => request.idempotency_key(key),
                None => request,
            };
            Box::pin(request.call().map_ok(Json::into_inner))
        }
        fn call_with_handle(
            &'a self,
            target: RequestTarget,
            input: Value,
        ) -> BoxFuture<'a, Result<(InvocationHandle, Durable<'a>), TerminalError>> {
            let call = self.request::<_, Json<Value>>(target, Json(input)).call();
            Box::pin(async move {
                let handle = call.invocation_handle().await?;
                let call: Durable<'a> = Box::pin(call.map_ok(Json::into_inner));
                Ok((handle, call))
            })
        }
        fn send(
            &'a self,
            target: RequestTarget,
            input: Value,
            delay: Option<Duration>,
        ) -> SendHandle {
            let request = self.request::<_, ()>(target, Json(input));
            match delay {
                Some(delay) => request.send_after(delay),
                None => request.send(),
            }
        }
        fn run(
            &'a self,
            name: String,
            policy: RunRetryPolicy,
            work: Work,
        ) -> BoxFuture<'a, Result<Value, TerminalError>> {
            let run = ContextSideEffects::run(self, work)
                .name(name)
                .retry_policy(policy);
            Box::pin(async move { run.await.map(Json::into_inner) })
        }
    };
}

macro_rules! reads {
    () => {
        fn state(
            &'a self,
            key: &'static str,
        ) -> BoxFuture<'a, Result<Option<Value>, TerminalError>> {
            let value = ContextReadState::get::<Json<Value>>(self, key);
            Box::pin(async move { Ok(value.await?.map(Json::into_inner)) })
        }
        fn state_keys(&'a self) -> BoxFuture<'a, Result<Vec<String>, TerminalError>> {
            Box::pin(self.get_keys())
        }
    };
}

macro_rules! writes {
    () => {
        fn set_state(&self, key: &str, value: Value) {
            ContextWriteState::set(self, key, Json(value));
        }
        fn clear_state(&self, key: &str) {
            ContextWriteState::clear(self, key);
        }
        fn clear_all_state(&self) {
            ContextWriteState::clear_all(self);
        }
    };
}

macro_rules! promises {
    () => {
        fn promise(&'a self, key: &'static str) -> BoxFuture<'a, Result<Value, TerminalError>> {
            let promise = ContextPromises::promise::<Json<Value>>(self, key);
            Box::pin(async move { promise.await.map(Json::into_inner) })
        }
        fn peek(
            &'a self,
            key: &'static str,
        ) -> BoxFuture<'a, Result<Option<Value>, TerminalError>> {
            let promise = ContextPromises::peek_promise::<Json<Value>>(self, key);
            Box::pin(async move { Ok(promise.await?.map(Json::into_inner)) })
        }
        fn complete(&self, key: &str, ending: &Ending) {
            match ending {
                Ending::Value(value) => self.resolve_promise(key, Json(*value)),
                Ending::Failure(failure) => self.reject_promise(key, terminal(failure)),
            }
        }
    };
}

impl<'a> Ops<'a> for Context<'a> {
    common!();
}

impl<'a> Ops<'a> for ObjectContext<'a> {
    common!();
    reads!();
    writes!();
}

impl<'a> Ops<'a> for SharedObjectContext<'a> {
    common!();
    reads!();
}

impl<'a> Ops<'a> for WorkflowContext<'a> {
    common!();
    reads!();
    writes!();
    promises!();
}

impl<'a> Ops<'a> for SharedWorkflowContext<'a> {
    common!();
    reads!();
    promises!();
}
