//! What an invocation is aimed at.

use std::fmt;

use crate::ids::InvocationId;
use crate::partitioning::{PartitionKey, named_uuid};

/// How a service treats keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ServiceKind {
    /// No key, no state.
    Service,
    /// State per key; one exclusive handler at a time.
    VirtualObject,
    /// One `run` per key, with promises.
    Workflow,
}

impl ServiceKind {
    /// Whether its invocations carry a key.
    pub const fn is_keyed(self) -> bool {
        !matches!(self, Self::Service)
    }
}

/// How one handler runs beside the others of its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HandlerKind {
    /// A handler of a plain service.
    Plain,
    /// Of an object: one at a time, in order of arrival, may write state.
    Exclusive,
    /// Of an object or workflow: any number at a time, reads state.
    Shared,
    /// The `run` of a workflow: once per key.
    Workflow,
}

impl HandlerKind {
    /// Whether the handler may change the state of its key.
    pub const fn writes_state(self) -> bool {
        matches!(self, Self::Exclusive | Self::Workflow)
    }
}

/// Service, key and handler of an invocation.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InvocationTarget {
    /// Name of the service.
    pub service: String,
    /// Key of the object or workflow; `None` exactly for plain services.
    pub key: Option<String>,
    /// Name of the handler.
    pub handler: String,
    /// Kind of the service.
    pub service_kind: ServiceKind,
    /// Kind of the handler.
    pub handler_kind: HandlerKind,
}

impl InvocationTarget {
    /// The id of an invocation of this target. Workflow runs and idempotent calls are named by what they
    /// are, so that a repetition meets the first; `random` makes up the rest: its first eight bytes choose
    /// the bucket of a plain service, and the whole is the uuid.
    pub fn invocation_id(&self, idempotency_key: Option<&str>, random: u128) -> InvocationId {
        self.scoped_id(None, idempotency_key, random)
    }

    /// As [`Self::invocation_id`], within a scope: the same target and key are another invocation in each, and all
    /// of a scope are in one partition, which therefore can count them.
    pub fn scoped_id(
        &self,
        scope: Option<&str>,
        idempotency_key: Option<&str>,
        random: u128,
    ) -> InvocationId {
        let key = self.key.as_deref();
        let uuid = if self.handler_kind == HandlerKind::Workflow {
            let parts = [Some("wf"), scope, Some(&self.service), key.or(Some(""))];
            named_uuid(parts)
        } else if let Some(idempotency_key) = idempotency_key {
            let parts = [Some("ik"), scope, Some(&self.service), key];
            let rest = [Some(self.handler.as_str()), Some(idempotency_key)];
            named_uuid(parts.into_iter().chain(rest))
        } else {
            random.to_be_bytes()
        };
        let partition_key = match (scope, key, idempotency_key) {
            (Some(scope), ..) => PartitionKey::of_scope(scope),
            (None, Some(key), _) => PartitionKey::of_key(key),
            (None, None, Some(key)) => PartitionKey::of_idempotency_key(&self.service, key),
            (None, None, None) => PartitionKey::of_bucket(&self.service, random as u64),
        };
        InvocationId::new(partition_key, uuid)
    }
}

impl fmt::Display for InvocationTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.key {
            Some(key) => write!(f, "{}/{}/{}", self.service, key, self.handler),
            None => write!(f, "{}/{}", self.service, self.handler),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(
        service: &str,
        key: Option<&str>,
        handler: &str,
        kind: HandlerKind,
    ) -> InvocationTarget {
        InvocationTarget {
            service: service.into(),
            key: key.map(Into::into),
            handler: handler.into(),
            service_kind: match (key, kind) {
                (None, _) => ServiceKind::Service,
                (_, HandlerKind::Workflow) => ServiceKind::Workflow,
                _ => ServiceKind::VirtualObject,
            },
            handler_kind: kind,
        }
    }

    #[test]
    fn named_invocations_have_the_ids_of_the_reference() {
        let workflow = target("wf", Some("w1"), "run", HandlerKind::Workflow);
        assert_eq!(
            workflow.invocation_id(None, 7).to_string(),
            "inv_12kpUQONmeFb3IK6RCJLdYH3vHXJkyyray"
        );
        let service = target("greeter", None, "greet", HandlerKind::Plain);
        assert_eq!(
            service.invocation_id(Some("k10"), 7).to_string(),
            "inv_1lmfX5cbbSnS2DgKYygpElnlIRLYeqD5aQ"
        );
        let scoped = target("Callee", None, "echo", HandlerKind::Plain);
        assert_eq!(
            scoped.scoped_id(Some("tenA"), Some("q1"), 7).to_string(),
            "inv_148CuKhhIMaj4sk2S8oZNbd6PR2JINOV9N"
        );
        let scoped = target("Wf", Some("wk"), "run", HandlerKind::Workflow);
        assert_eq!(
            scoped.scoped_id(Some("tenA"), None, 7).to_string(),
            "inv_148CuKhhIMaj0S2V0zH4gCUtpBWNlh9TLG"
        );
        let object = target("counter", Some("k1"), "add", HandlerKind::Exclusive);
        assert_eq!(
            object.invocation_id(Some("k10"), 7).to_string(),
            "inv_1foAirY4KKzi2z575de9oJaWADn6BWZ4Kk"
        );
    }
}
