//! What a program must come to.
//!
//! Steps that run at the same time share nothing but counters, so they can be computed one after the
//! other. Calls are computed where they are started.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::program::{Ending, Failure, How, Operator, Part, Program, Root, Step, Target, name};

/// A program that a generator would not make: it waits for what never comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hangs;

/// Why a handler ends early.
enum Stop {
    Failed(Failure),
    Hangs,
}

type State = BTreeMap<&'static str, Value>;
type Ended = Result<Value, Failure>;

/// Everything that outlives handlers.
#[derive(Default)]
struct World {
    objects: BTreeMap<u8, State>,
    workflows: BTreeMap<u8, Workflow>,
    counters: BTreeMap<u8, i64>,
}

#[derive(Default)]
struct Workflow {
    has_run: bool,
    state: State,
    promises: BTreeMap<&'static str, Ending>,
}

/// What a program comes to, in the form of [`crate::world::Outcome`].
pub fn outcome(program: &Program) -> Result<Value, Hangs> {
    let mut world = World::default();
    let mut roots = Vec::new();
    for root in &program.roots {
        roots.push(root_outcome(&mut world, root)?);
    }
    let (objects, workflows, counters) = places(program);
    let state = |state: Option<&State>| json!(state.cloned().unwrap_or_default());
    let objects: BTreeMap<String, Value> = objects
        .iter()
        .map(|number| (number.to_string(), state(world.objects.get(number))))
        .collect();
    let workflows: BTreeMap<String, Value> = workflows
        .iter()
        .map(|number| {
            let workflow = world.workflows.get(number);
            (
                number.to_string(),
                state(workflow.map(|workflow| &workflow.state)),
            )
        })
        .collect();
    let counters: BTreeMap<String, i64> = counters
        .iter()
        .map(|number| {
            let count = world.counters.get(number).copied().unwrap_or(0);
            (number.to_string(), count)
        })
        .collect();
    Ok(json!({
        "roots": roots,
        "objects": objects,
        "workflows": workflows,
        "counters": counters,
    }))
}

fn root_outcome(world: &mut World, root: &Root) -> Result<Value, Hangs> {
    let ended = invoke(world, root.target, &root.body)?;
    Ok(match &root.how {
        How::Call | How::Send { .. } => answer(ended),
        How::Repeated(times) => {
            let answers: Vec<Value> = (0..*times).map(|_| answer(ended.clone())).collect();
            Value::Array(answers)
        }
        How::Interrupted { by, .. } => {
            let message = match by {
                Operator::Cancel => "cancelled",
                Operator::Kill => "killed",
            };
            answer(ended.and_then(|_| {
                Err(Failure {
                    code: 409,
                    message: message.to_owned(),
                })
            }))
        }
    })
}

/// What a client is answered.
fn answer(ended: Ended) -> Value {
    match ended {
        Ok(value) => json!({ "status": 200, "body": value }),
        Err(failure) => json!({
            "status": failure.code,
            "body": { "code": failure.code, "message": failure.message, "source": "invocation" },
        }),
    }
}

fn invoke(world: &mut World, target: Target, body: &[Step]) -> Result<Ended, Hangs> {
    if let Target::Workflow(number) = target {
        let workflow = world.workflows.entry(number).or_default();
        if std::mem::replace(&mut workflow.has_run, true) {
            return Ok(Err(Failure {
                code: 409,
                message: "the workflow method was already invoked".to_owned(),
            }));
        }
    }
    let mut out = Vec::new();
    match steps(world, target, body, &mut out) {
        Ok(()) => Ok(Ok(Value::Array(out))),
        Err(Stop::Failed(failure)) => Ok(Err(failure)),
        Err(Stop::Hangs) => Err(Hangs),
    }
}

impl From<Hangs> for Stop {
    fn from(_: Hangs) -> Stop {
        Stop::Hangs
    }
}

fn steps(world: &mut World, me: Target, body: &[Step], out: &mut Vec<Value>) -> Result<(), Stop> {
    for step in body {
        if let Some(value) = one(world, me, step, out)? {
            out.push(value);
        }
    }
    Ok(())
}

/// The state that a handler sees, and whether it may write.
fn state_of(world: &mut World, me: Target) -> Option<(&mut State, bool)> {
    match me {
        Target::Service => None,
        Target::Object(number) => Some((world.objects.entry(number).or_default(), true)),
        Target::Shared(number) => Some((world.objects.entry(number).or_default(), false)),
        Target::Workflow(number) => {
            Some((&mut world.workflows.entry(number).or_default().state, true))
        }
        Target::WorkflowShared(number) => {
            Some((&mut world.workflows.entry(number).or_default().state, false))
        }
    }
}

fn promises(world: &mut World, me: Target) -> Option<&mut BTreeMap<&'static str, Ending>> {
    match me {
        Target::Workflow(number) | Target::WorkflowShared(number) => {
            Some(&mut world.workflows.entry(number).or_default().promises)
        }
        _ => None,
    }
}

fn write(world: &mut World, me: Target, change: impl FnOnce(&mut State)) {
    if let Some((state, true)) = state_of(world, me) {
        change(state);
    }
}

fn one(
    world: &mut World,
    me: Target,
    step: &Step,
    out: &mut Vec<Value>,
) -> Result<Option<Value>, Stop> {
    Ok(match step {
        Step::Get(key) => Some(
            state_of(world, me)
                .and_then(|(state, _)| state.get(name(*key)).cloned())
                .unwrap_or(Value::Null),
        ),
        Step::Set(key, value) => {
            write(world, me, |state| {
                state.insert(name(*key), json!(value));
            });
            None
        }
        Step::Append(key, value) => {
            write(world, me, |state| {
                match state.entry(name(*key)).or_insert_with(|| json!([])) {
                    Value::Array(list) => list.push(json!(value)),
                    other => *other = json!([value]),
                }
            });
            None
        }
        Step::Clear(key) => {
            write(world, me, |state| {
                state.remove(name(*key));
            });
            None
        }
        Step::ClearAll => {
            write(world, me, State::clear);
            None
        }
        Step::Keys => Some(match state_of(world, me) {
            Some((state, _)) => json!(state.keys().collect::<Vec<_>>()),
            None => json!([]),
        }),
        Step::Run { value, .. } => Some(json!(value)),
        Step::RunFails { failure, propagate } => Some(settle(Err(failure.clone()), *propagate)?),
        Step::RunGivesUp { .. } => Some(settle(
            Err(Failure {
                code: 500,
                message: "fails on purpose".to_owned(),
            }),
            false,
        )?),
        Step::Sleep(_) => None,
        Step::Start {
            parts,
            meanwhile,
            propagate,
            ..
        } => {
            let mut ended = Vec::new();
            for part in parts {
                ended.push(part_outcome(world, part)?);
            }
            steps(world, me, meanwhile, out)?;
            let told: Result<Vec<Value>, Stop> =
                ended.into_iter().map(|e| settle(e, *propagate)).collect();
            Some(Value::Array(told?))
        }
        Step::Race { part, .. } => {
            let ended = part_outcome(world, part)?;
            Some(json!([0, settle(ended, false)?]))
        }
        Step::Send {
            target,
            body,
            attach,
            ..
        } => {
            let ended = invoke(world, *target, body)?;
            match attach {
                true => Some(settle(ended, false)?),
                false => None,
            }
        }
        // What ends before it begins is forgotten.
        Step::CancelScheduled { .. } => {
            let forgotten = Failure {
                code: 404,
                message: "not found".to_owned(),
            };
            Some(settle(Err(forgotten), false)?)
        }
        Step::Interrupt { target, body, .. } => {
            let ended = invoke(world, *target, body)?;
            Some(settle(ended.and_then(|_| Err(cancelled())), false)?)
        }
        Step::Signal {
            target,
            body,
            ending,
        } => {
            let ended = match invoke(world, *target, body)? {
                Ok(Value::Array(mut out)) => {
                    out.push(settle(result(ending), false)?);
                    Ok(Value::Array(out))
                }
                other => other,
            };
            Some(settle(ended, false)?)
        }
        Step::Repeat {
            target,
            body,
            times,
        } => {
            if *times == 0 {
                return Ok(Some(json!([])));
            }
            let ended = settle(invoke(world, *target, body)?, false)?;
            Some(json!(vec![ended; usize::from(*times)]))
        }
        Step::Dance {
            workflow,
            before,
            promise,
            ending,
            after,
        } => {
            let promises = &mut world.workflows.entry(*workflow).or_default().promises;
            promises
                .entry(name(*promise))
                .or_insert_with(|| ending.clone());
            let mut body = before.clone();
            body.push(Step::Promise(*promise));
            body.extend(after.iter().cloned());
            let ended = invoke(world, Target::Workflow(*workflow), &body)?;
            Some(settle(ended, false)?)
        }
        Step::Promise(key) => match promises(world, me) {
            None => Some(Value::Null),
            Some(promises) => match promises.get(name(*key)) {
                None => return Err(Stop::Hangs),
                Some(ending) => Some(settle(result(ending), true)?),
            },
        },
        Step::Peek(key) => {
            let peeked = promises(world, me).and_then(|promises| promises.get(name(*key)));
            Some(match peeked.map(result) {
                None => json!({ "peeked": null }),
                Some(Ok(value)) => json!({ "peeked": value }),
                Some(Err(failure)) => settle(Err(failure), false)?,
            })
        }
        Step::Complete(key, ending) => {
            if let Some(promises) = promises(world, me) {
                promises.entry(name(*key)).or_insert_with(|| ending.clone());
            }
            None
        }
        Step::Fail(failure) => return Err(Stop::Failed(failure.clone())),
        Step::Flake(_) => None,
        Step::Add {
            counter, amount, ..
        } => {
            *world.counters.entry(*counter).or_default() += amount;
            None
        }
    })
}

fn part_outcome(world: &mut World, part: &Part) -> Result<Ended, Hangs> {
    match part {
        Part::Call { target, body } => invoke(world, *target, body),
        Part::Sleep(_) => Ok(Ok(Value::Null)),
        // Over HTTP a rejection is a text, and its code is always the same.
        Part::Awakeable {
            inside: false,
            ending: Ending::Failure(failure),
        } => Ok(Err(Failure {
            code: 500,
            message: failure.message.clone(),
        })),
        Part::Awakeable { ending, .. } => Ok(result(ending)),
    }
}

fn result(ending: &Ending) -> Ended {
    match ending {
        Ending::Value(value) => Ok(json!(value)),
        Ending::Failure(failure) => Err(failure.clone()),
    }
}

fn cancelled() -> Failure {
    Failure {
        code: 409,
        message: "cancelled".to_owned(),
    }
}

fn settle(ended: Ended, propagate: bool) -> Result<Value, Stop> {
    match ended {
        Ok(value) => Ok(value),
        Err(failure) if propagate => Err(Stop::Failed(failure)),
        Err(failure) => Ok(json!({ "failed": failure })),
    }
}

/// The objects, workflows and counters that a program names.
pub fn places(program: &Program) -> (BTreeSet<u8>, BTreeSet<u8>, BTreeSet<u8>) {
    let mut places = Places::default();
    for root in &program.roots {
        places.target(root.target);
        places.steps(&root.body);
    }
    (places.objects, places.workflows, places.counters)
}

#[derive(Default)]
struct Places {
    objects: BTreeSet<u8>,
    workflows: BTreeSet<u8>,
    counters: BTreeSet<u8>,
}

impl Places {
    fn target(&mut self, target: Target) {
        match target {
            Target::Service => {}
            Target::Object(number) | Target::Shared(number) => {
                self.objects.insert(number);
            }
            Target::Workflow(number) | Target::WorkflowShared(number) => {
                self.workflows.insert(number);
            }
        }
    }

    fn part(&mut self, part: &Part) {
        if let Part::Call { target, body } = part {
            self.target(*target);
            self.steps(body);
        }
    }

    fn steps(&mut self, steps: &[Step]) {
        for step in steps {
            match step {
                Step::Start {
                    parts, meanwhile, ..
                } => {
                    parts.iter().for_each(|part| self.part(part));
                    self.steps(meanwhile);
                }
                Step::Race { part, .. } => self.part(part),
                Step::Send { target, body, .. }
                | Step::CancelScheduled { target, body }
                | Step::Interrupt { target, body, .. }
                | Step::Signal { target, body, .. }
                | Step::Repeat { target, body, .. } => {
                    self.target(*target);
                    self.steps(body);
                }
                Step::Dance {
                    workflow,
                    before,
                    after,
                    ..
                } => {
                    self.workflows.insert(*workflow);
                    self.steps(before);
                    self.steps(after);
                }
                Step::Add { counter, .. } => {
                    self.counters.insert(*counter);
                }
                _ => {}
            }
        }
    }
}
