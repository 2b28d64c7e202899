//! Programs out of a seed.
//!
//! What makes outcomes certain is ownership: a handler may touch the objects and workflows it was
//! given. It lends some to what it starts, and has them back when it has waited for that; what it
//! only sends to, it gives away. Counters belong to all, since additions commute.

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};

use crate::program::{
    Ending, Failure, How, Never, Operator, Part, Program, Root, Step, Target, Wait,
};

/// Steps of one program, over all its handlers, at the most; about.
const STEPS: u32 = 40;
const DEPTH: u32 = 4;
const COUNTERS: u8 = 3;

/// The program of a seed.
pub fn program(seed: u64) -> Program {
    let mut generator = Generator {
        random: StdRng::seed_from_u64(seed),
        steps_left: STEPS,
        next_key: 0,
        kills: false,
    };
    let roots = generator.random.random_range(1..=3);
    Program {
        roots: (0..roots).map(|_| generator.root()).collect(),
    }
}

struct Generator {
    random: StdRng,
    steps_left: u32,
    next_key: u8,
    /// Whether the root is killed at its end. What it only sent to is killed with it, done or not.
    kills: bool,
}

/// What a handler may do.
struct Scope {
    /// Objects that it may call, none of which a handler above it holds.
    objects: Vec<u8>,
    me: Target,
    depth: u32,
    /// Promises that were certainly completed.
    completed: Vec<u8>,
    /// Whether it removed a state entry: the SDK goes on listing that to the same handler.
    has_cleared: bool,
    /// Whether it may fail; one that is to wait at its end does better not to.
    may_fail: bool,
}

impl Generator {
    fn root(&mut self) -> Root {
        let how = match self.random.random_range(0..10) {
            0 | 1 => How::Repeated(self.random.random_range(2..=3)),
            2 | 3 => How::Send {
                delay_ms: *self.pick(&[0, 0, 20, 80]),
            },
            4 | 5 => How::Interrupted {
                never: self.never(),
                by: *self.pick(&[Operator::Cancel, Operator::Kill]),
            },
            _ => How::Call,
        };
        self.kills = matches!(
            how,
            How::Interrupted {
                by: Operator::Kill,
                ..
            }
        );
        let mut scope = self.scope(Target::Service, Vec::new(), 0);
        let (target, body) = self.callee(&mut scope);
        let how = match (how, target) {
            (How::Repeated(_), Target::Workflow(_)) => How::Call,
            (how, _) => how,
        };
        Root { target, body, how }
    }

    fn scope(&mut self, me: Target, objects: Vec<u8>, depth: u32) -> Scope {
        Scope {
            objects,
            me,
            depth,
            completed: Vec::new(),
            has_cleared: false,
            may_fail: self.chance(30),
        }
    }

    fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        items.choose(&mut self.random).expect("there is one")
    }

    fn fresh(&mut self) -> u8 {
        self.next_key = self.next_key.saturating_add(1);
        self.next_key
    }

    fn value(&mut self) -> i64 {
        self.random.random_range(0..100)
    }

    fn failure(&mut self) -> Failure {
        Failure {
            code: *self.pick(&[400, 404, 409, 418, 500, 503]),
            message: (*self.pick(&["no", "not now", "ünsinnig \"quoted\"", ""])).to_owned(),
        }
    }

    fn ending(&mut self) -> Ending {
        if self.chance(70) {
            Ending::Value(self.value())
        } else {
            Ending::Failure(self.failure())
        }
    }

    fn never(&mut self) -> Never {
        *self.pick(&[Never::Awakeable, Never::Sleep, Never::Call, Never::Signal])
    }

    /// Somebody to call, with something to do. The callee has what it holds until it was waited for.
    fn callee(&mut self, scope: &mut Scope) -> (Target, Vec<Step>) {
        let target = match self.random.random_range(0..10) {
            0..=2 => Target::Service,
            3..=6 => Target::Object(self.own_object(scope)),
            7 => Target::Shared(self.own_object(scope)),
            _ => Target::Workflow(self.fresh()),
        };
        let mut inner = std::mem::take(&mut scope.objects);
        if let Target::Object(mine) | Target::Shared(mine) = target {
            inner.retain(|object| *object != mine);
        }
        let mut inner = self.scope(target, inner, scope.depth + 1);
        let body = self.body(&mut inner);
        scope.objects = inner.objects;
        if let Target::Object(mine) | Target::Shared(mine) = target {
            scope.objects.push(mine);
        }
        (target, body)
    }

    /// An object of the scope's, or a new one that is its from now on.
    fn own_object(&mut self, scope: &mut Scope) -> u8 {
        if scope.objects.is_empty() || self.chance(40) {
            let object = self.fresh();
            scope.objects.push(object);
            return object;
        }
        *self.pick(&scope.objects)
    }

    fn body(&mut self, scope: &mut Scope) -> Vec<Step> {
        let wanted = self.random.random_range(1..=6);
        let mut steps = Vec::new();
        for _ in 0..wanted {
            if self.steps_left == 0 {
                break;
            }
            self.steps_left -= 1;
            self.steps(scope, &mut steps);
        }
        steps
    }

    fn steps(&mut self, scope: &mut Scope, steps: &mut Vec<Step>) {
        let leaf = scope.depth >= DEPTH || self.steps_left < 3;
        if leaf || self.chance(55) {
            steps.push(self.simple(scope));
            return;
        }
        match self.random.random_range(0..20) {
            0..=6 => steps.push(self.start(scope)),
            7 => steps.push(Step::Race {
                part: self.part(scope),
                never: (0..self.random.random_range(1..=2))
                    .map(|_| self.never())
                    .collect(),
            }),
            8 | 9 => {
                let (target, body) = self.callee(scope);
                steps.push(Step::Send {
                    target,
                    body,
                    delay_ms: *self.pick(&[0, 0, 15, 60]),
                    attach: true,
                });
            }
            10 if !self.kills => {
                // What is sent may run at any time, so it takes nothing that others have.
                let mut away = self.scope(Target::Service, Vec::new(), scope.depth);
                let (target, body) = self.callee(&mut away);
                steps.push(Step::Send {
                    target,
                    body,
                    delay_ms: *self.pick(&[0, 0, 15, 60]),
                    attach: false,
                });
            }
            10 | 11 => self.queue(scope, steps),
            12 => {
                let (target, body) = self.callee(scope);
                steps.push(Step::CancelScheduled { target, body });
            }
            13 | 14 => {
                let (target, body) = self.callee(scope);
                steps.push(Step::Interrupt {
                    target,
                    body,
                    never: self.never(),
                });
            }
            15 => {
                let (target, body) = self.callee(scope);
                steps.push(Step::Signal {
                    target,
                    body,
                    ending: self.ending(),
                });
            }
            16 | 17 => {
                let (target, body) = self.callee(scope);
                if matches!(target, Target::Workflow(_)) {
                    return self.dance(scope, steps);
                }
                steps.push(Step::Repeat {
                    target,
                    body,
                    times: self.random.random_range(2..=3),
                });
            }
            _ => self.dance(scope, steps),
        }
    }

    /// One-way calls that an object has to do in their order.
    fn queue(&mut self, scope: &mut Scope, steps: &mut Vec<Step>) {
        let target = Target::Object(self.own_object(scope));
        for value in 0..self.random.random_range(2..=5) {
            let mut body = vec![Step::Append(9, value)];
            if self.chance(20) {
                body.insert(0, Step::Sleep(5));
            }
            steps.push(Step::Send {
                target,
                body,
                delay_ms: 0,
                attach: false,
            });
        }
        steps.push(Step::Start {
            parts: vec![Part::Call {
                target,
                body: vec![Step::Get(9)],
            }],
            meanwhile: Vec::new(),
            wait: Wait::Forwards,
            propagate: false,
        });
    }

    fn dance(&mut self, scope: &mut Scope, steps: &mut Vec<Step>) {
        let workflow = self.fresh();
        let objects = std::mem::take(&mut scope.objects);
        let mut inner = self.scope(Target::Workflow(workflow), objects, scope.depth + 1);
        let before = self.body(&mut inner);
        let after = self.body(&mut inner);
        scope.objects = inner.objects;
        steps.push(Step::Dance {
            workflow,
            before,
            promise: 9,
            ending: self.ending(),
            after,
        });
        if self.chance(30) {
            // A workflow runs once.
            steps.push(Step::Start {
                parts: vec![Part::Call {
                    target: Target::Workflow(workflow),
                    body: vec![Step::Set(0, 1)],
                }],
                meanwhile: Vec::new(),
                wait: Wait::Forwards,
                propagate: false,
            });
        }
    }

    fn start(&mut self, scope: &mut Scope) -> Step {
        let mut all = std::mem::take(&mut scope.objects);
        let mut back = Vec::new();
        let parts = (0..self.random.random_range(1..=3))
            .map(|_| {
                let lent = (0..all.len())
                    .filter(|_| self.random.random_bool(0.4))
                    .count();
                let objects = all.split_off(all.len() - lent);
                let mut branch = self.scope(Target::Service, objects, scope.depth);
                let part = self.part(&mut branch);
                back.append(&mut branch.objects);
                part
            })
            .collect();
        scope.objects = all;
        let meanwhile = if self.chance(50) && self.steps_left > 0 {
            self.steps_left -= 1;
            let mut steps = Vec::new();
            self.steps(scope, &mut steps);
            steps
        } else {
            Vec::new()
        };
        scope.objects.append(&mut back);
        Step::Start {
            parts,
            meanwhile,
            wait: *self.pick(&[Wait::Forwards, Wait::Backwards, Wait::AsTheyCome]),
            propagate: scope.may_fail && self.chance(50),
        }
    }

    fn part(&mut self, scope: &mut Scope) -> Part {
        match self.random.random_range(0..10) {
            0 => Part::Sleep(self.random.random_range(0..30)),
            1..=3 => Part::Awakeable {
                inside: self.chance(60),
                ending: self.ending(),
            },
            _ => {
                let (target, body) = self.callee(scope);
                Part::Call { target, body }
            }
        }
    }

    fn simple(&mut self, scope: &mut Scope) -> Step {
        let reads = !matches!(scope.me, Target::Service);
        let writes = matches!(scope.me, Target::Object(_) | Target::Workflow(_));
        let promises = matches!(scope.me, Target::Workflow(_));
        loop {
            let key = self.random.random_range(0..4);
            return match self.random.random_range(0..24) {
                0..=2 if reads => Step::Get(key),
                3..=6 if writes => Step::Set(key, self.value()),
                7 if writes => Step::Append(8, self.value()),
                8 if writes => {
                    scope.has_cleared = true;
                    Step::Clear(key)
                }
                9 if writes && self.chance(30) => Step::ClearAll,
                10 if reads && !scope.has_cleared => Step::Keys,
                11 | 12 => Step::Run {
                    value: self.value(),
                    fails: *self.pick(&[0, 0, 0, 1, 2]),
                },
                13 => Step::RunFails {
                    failure: self.failure(),
                    propagate: scope.may_fail && self.chance(30),
                },
                14 if self.chance(40) => Step::RunGivesUp {
                    attempts: self.random.random_range(1..=3),
                },
                15 => Step::Sleep(self.random.random_range(0..30)),
                16 if scope.may_fail && self.chance(50) => Step::Fail(self.failure()),
                17 if self.chance(40) => Step::Flake(1),
                18 | 19 if promises => {
                    scope.completed.push(key);
                    Step::Complete(key, self.ending())
                }
                20 if promises => Step::Peek(key),
                21 if promises && scope.completed.contains(&key) => Step::Promise(key),
                22 | 23 => Step::Add {
                    counter: 200 + self.random.random_range(0..COUNTERS),
                    amount: self.random.random_range(1..10),
                    call: self.kills || self.chance(50),
                },
                _ => continue,
            };
        }
    }
}
