//! The language of the random programs.
//!
//! A program is a set of requests, each with a list of steps that the handler it reaches executes.
//! A step that calls another handler holds that handler's steps, so a program is a tree, and taking
//! anything out of it leaves a program. What runs at the same time is in one [`Step::Start`], and the
//! generator sees to it that such branches share nothing but counters. Therefore a program has one
//! outcome, however the engine orders things, and [`crate::model`] computes it.

use serde::{Deserialize, Serialize};

/// Requests that a client makes at the same time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Program {
    /// The requests.
    pub roots: Vec<Root>,
}

/// One request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Root {
    /// Who is asked.
    pub target: Target,
    /// What is done there.
    pub body: Vec<Step>,
    /// How it is asked.
    pub how: How,
}

/// How a client makes its request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum How {
    /// A call.
    Call,
    /// So many calls at the same time under one idempotency key.
    Repeated(u8),
    /// A send, then an attach.
    Send {
        /// After so long.
        delay_ms: u64,
    },
    /// The handler does its steps and then waits for ever; the client interrupts it there.
    Interrupted {
        /// What the handler waits for.
        never: Never,
        /// What the client does about it.
        by: Operator,
    },
}

/// What the admin API does to an invocation.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Operator {
    /// Asks it to end.
    Cancel,
    /// Ends it.
    Kill,
}

/// A handler. Numbers are keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// Of a plain service.
    Service,
    /// The exclusive handler of an object.
    Object(u8),
    /// The shared handler of an object.
    Shared(u8),
    /// A workflow's run.
    Workflow(u8),
    /// The shared handler of a workflow.
    WorkflowShared(u8),
}

/// A terminal error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Its code.
    pub code: u16,
    /// Its message.
    pub message: String,
}

/// What something that is waited for ends with.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ending {
    /// A value.
    Value(i64),
    /// A terminal error.
    Failure(Failure),
}

/// One thing that a handler does. Each adds its result to the handler's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Step {
    /// Reads a state entry.
    Get(u8),
    /// Writes one.
    Set(u8, i64),
    /// Appends to one that is a list.
    Append(u8, i64),
    /// Removes one.
    Clear(u8),
    /// Removes all.
    ClearAll,
    /// Lists the keys.
    Keys,
    /// A side effect that fails so often before it has a value.
    Run {
        /// The value.
        value: i64,
        /// How often it fails first.
        fails: u8,
    },
    /// A side effect with a terminal error.
    RunFails {
        /// The error.
        failure: Failure,
        /// Whether the handler fails with it.
        propagate: bool,
    },
    /// A side effect that always fails and may be tried so often.
    RunGivesUp {
        /// How often.
        attempts: u8,
    },
    /// Rests.
    Sleep(u64),
    /// Starts all parts, does what comes meanwhile, and waits for all.
    Start {
        /// What is started.
        parts: Vec<Part>,
        /// What is done before waiting.
        meanwhile: Vec<Step>,
        /// In which order the parts are waited for.
        wait: Wait,
        /// Whether the handler fails with a part's error, after it waited for all.
        propagate: bool,
    },
    /// Waits for the part or for what never comes.
    Race {
        /// What comes.
        part: Part,
        /// What does not.
        never: Vec<Never>,
    },
    /// A one-way call.
    Send {
        /// To whom.
        target: Target,
        /// What is done there.
        body: Vec<Step>,
        /// After so long.
        delay_ms: u64,
        /// Whether its result is waited for, by attaching to it.
        attach: bool,
    },
    /// A one-way call in an hour, which is cancelled at once.
    CancelScheduled {
        /// To whom.
        target: Target,
        /// What would be done there.
        body: Vec<Step>,
    },
    /// A call to a handler that does its steps and waits for ever, and is interrupted there.
    Interrupt {
        /// Who is called.
        target: Target,
        /// What is done there first.
        body: Vec<Step>,
        /// What it then waits for.
        never: Never,
    },
    /// A call to a handler that does its steps and waits for a signal, which it gets.
    Signal {
        /// Who is called.
        target: Target,
        /// What is done there first.
        body: Vec<Step>,
        /// What the signal says.
        ending: Ending,
    },
    /// Calls under one idempotency key, at the same time.
    Repeat {
        /// Who is called.
        target: Target,
        /// What is done there, once.
        body: Vec<Step>,
        /// How many calls.
        times: u8,
    },
    /// Starts a workflow whose run waits for a promise, and completes that through the shared handler.
    Dance {
        /// The workflow.
        workflow: u8,
        /// What the run does first.
        before: Vec<Step>,
        /// The promise.
        promise: u8,
        /// How it is completed.
        ending: Ending,
        /// What the run does when it has the promise's value.
        after: Vec<Step>,
    },
    /// Waits for a promise.
    Promise(u8),
    /// Looks at a promise.
    Peek(u8),
    /// Completes a promise.
    Complete(u8, Ending),
    /// Fails.
    Fail(Failure),
    /// Fails in a way that is tried again, so often.
    Flake(u8),
    /// Adds to a counter that all share.
    Add {
        /// The counter.
        counter: u8,
        /// How much.
        amount: i64,
        /// Whether by a call, else by a send.
        call: bool,
    },
}

/// What a handler starts and waits for later.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// A call.
    Call {
        /// To whom.
        target: Target,
        /// What is done there.
        body: Vec<Step>,
    },
    /// A rest.
    Sleep(u64),
    /// An awakeable that another handler, or the client, completes.
    Awakeable {
        /// Whether a handler does.
        inside: bool,
        /// How it ends.
        ending: Ending,
    },
}

/// In which order parts are waited for.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Wait {
    /// As they were started.
    Forwards,
    /// The last first.
    Backwards,
    /// As they complete.
    AsTheyCome,
}

/// Something that does not happen.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Never {
    /// An awakeable that nobody completes.
    Awakeable,
    /// An hour's sleep.
    Sleep,
    /// A call to a handler that waits for what never comes.
    Call,
    /// A signal that nobody sends.
    Signal,
}

/// What a handler is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Input {
    /// The run of the program, which is part of every key.
    pub run: String,
    /// This invocation's place in the program.
    pub label: String,
    /// What to do.
    pub body: Vec<Step>,
    /// What to do then.
    pub finale: Finale,
}

/// What a handler does after its steps.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Finale {
    /// Answers.
    Answer,
    /// Says so to the client and waits for what never comes.
    AnnounceAndWait(Never),
    /// Completes an awakeable and waits for what never comes.
    TellAndWait(String, Never),
    /// Completes an awakeable, waits for the signal and answers with it.
    TellAndListen(String),
    /// Waits for what never comes.
    Wait(Never),
    /// Completes an awakeable and answers.
    Complete(String, Ending),
}

/// State keys and promises have names of a fixed set.
pub const NAMES: [&str; 10] = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j"];

/// The name of a state entry or promise.
pub fn name(number: u8) -> &'static str {
    NAMES[usize::from(number) % NAMES.len()]
}

/// The key of an object or workflow in one run of a program.
pub fn key(run: &str, number: u8) -> String {
    format!("{run}-{number}")
}
