//! What is expected of every SDK in every setting.
//!
//! A case is an async function over a [`World`]; it uses keys of its own, so that cases run side by side.
//! Those that break the cluster or the services are marked [`Case::alone`]. A case says itself where it
//! does not apply, with the reason.

mod basics;
mod calls;
mod cancellation;
mod clients;
mod combinators;
mod failures;
mod faults;
mod fuzz;
mod ingress;
mod lifecycle;
mod signals;
mod state;
mod timers;
mod workflows;

use std::pin::Pin;
use std::sync::Arc;

use crate::{Language, Setting, World};

/// A case's future.
pub(crate) type Running = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One thing that users expect.
#[derive(Clone)]
pub struct Case {
    /// `area: behaviour`.
    pub name: &'static str,
    pub(crate) run: fn(Arc<World>) -> Running,
    pub(crate) applies: fn(Language, Setting) -> Result<(), &'static str>,
    /// Whether no other case may run beside it.
    pub(crate) alone: bool,
}

/// Stands in the report when a node ended or panicked without a case that noticed.
pub(crate) const HEALTH: Case = Case {
    name: "cluster: no node ended or panicked",
    run: |_| Box::pin(async {}),
    applies: |_, _| Ok(()),
    alone: true,
};

impl Case {
    fn alone(mut self) -> Case {
        self.alone = true;
        self
    }

    fn only(mut self, applies: fn(Language, Setting) -> Result<(), &'static str>) -> Case {
        self.applies = applies;
        self
    }
}

/// A case from an async function over `Arc<World>`.
macro_rules! case {
    ($name:literal, $function:path) => {
        $crate::cases::Case {
            name: $name,
            run: |world| Box::pin(async move { $function(&world).await }),
            applies: |_, _| Ok(()),
            alone: false,
        }
    };
}
pub(crate) use case;

/// Signals that handlers name and send to each other.
fn has_signals(language: Language, _: Setting) -> Result<(), &'static str> {
    match language {
        Language::Java => Err("the SDK has no signals by name"),
        _ => Ok(()),
    }
}

/// Every case.
pub fn all() -> Vec<Case> {
    [
        basics::cases(),
        state::cases(),
        calls::cases(),
        timers::cases(),
        failures::cases(),
        combinators::cases(),
        signals::cases(),
        workflows::cases(),
        cancellation::cases(),
        ingress::cases(),
        clients::cases(),
        lifecycle::cases(),
        fuzz::cases(),
        faults::cases(),
    ]
    .concat()
}
