//! What is registered: deployments, the services they offer, how their handlers are to be run, and what invokes them
//! besides requests.
//!
//! [`Schema`] is a value. It is read from and written to one JSON document of the metadata plane, every change is
//! a pure function from one schema to the next, and the hot paths ask it for a [`ResolvedHandler`], whose settings
//! have the server's defaults filled in. Start at [`Schema::resolve`].

mod document;
pub mod duration;
mod kafka;
mod limits;
mod notes;
mod payload;
mod register;
mod schema;
mod settings;

pub use document::DocumentError;
pub use kafka::{
    KafkaCluster, KafkaClusterError, KafkaProperties, Subscription, SubscriptionError,
    is_secret_property,
};
pub use limits::{
    Pattern, PatternError, Precondition, PreconditionFailed, Rule, RuleBook, RuleBookError,
    RuleChange,
};
pub use notes::Note;
pub use payload::{
    ContentTypeRule, ContentTypeRuleError, InputError, InputRule, InputRules, OutputRule,
};
pub use register::{
    Discovered, RegisterError, RegisterOptions, Registered, ServiceChanges, UpdateDeploymentError,
    UpdateServiceError, register, update_deployment, update_service,
};
pub use schema::{
    Deployment, Handler, HttpVersion, ProtocolType, ResolveError, ResolvedHandler, Schema,
    ServiceRevision, ServiceView,
};
pub use settings::{
    Defaults, HandlerSettings, OnMaxAttempts, Overrides, Retention, RetryOverrides, RetryPolicy,
};
