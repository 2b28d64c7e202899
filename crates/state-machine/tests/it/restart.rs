//! Starting over, and going on elsewhere.

use crate::harness::World;
use crate::harness::effect::*;
use abide_state_machine::proto::{self as state, Operation, command::Kind};
use abide_state_machine::{Operated, Reply, Restarted};
use abide_types::InvocationId;
use bytes::Bytes;

fn restart(world: &mut World, id: &InvocationId, number: u8, from: u32) -> Restarted {
    let new = world.id_beside(id, number);
    let restart = state::RestartAsNew {
        id: Bytes::copy_from_slice(&id.to_bytes()),
        new_id: Bytes::copy_from_slice(&new.to_bytes()),
        from,
        deployment: world.invocation(id).and_then(|row| row.pinned),
        waits: false,
    };
    match world.command(id, Kind::RestartAsNew(restart)) {
        Reply::Restarted(restarted) => restarted,
        other => panic!("{other:?}"),
    }
}

fn resume_at(world: &mut World, id: &InvocationId, deployment: Bytes) -> Reply {
    let resume = state::Operate {
        id: Bytes::copy_from_slice(&id.to_bytes()),
        operation: Operation::Resume as i32,
        deployment: Some(Box::new(state::Pinned {
            deployment,
            protocol: 6,
        })),
        ..Default::default()
    };
    world.command(id, Kind::Operate(resume))
}

/// Input, run "one" with its completion, a sleep with its completion, output.
fn completed(world: &mut World) -> InvocationId {
    let id = world.invoke("Svc", None, "go");
    world.effects(&id, vec![pin(6), run("one", 1), sleep(1_500, 2)]);
    world.effects(&id, vec![ran(1, "x")]);
    world.pass_time(1_500);
    world.effects(&id, vec![output("done"), end()]);
    id
}

#[test]
fn from_the_input_it_runs_like_a_new_one() {
    let mut world = World::new(1);
    let id = completed(&mut world);
    assert_eq!(restart(&mut world, &id, 1, 0), Restarted::Done);
    let new = world.id_beside(&id, 1);
    assert_eq!(world.journal(&new), ["Input"]);
    assert!(world.started.contains(&new));
    let row = world.invocation(&new).expect("it is there");
    assert_eq!(row.restarted_from[..], id.to_bytes());
    assert_eq!(row.completion_retention_ms, 1000);
    world.effects(&new, vec![output("again"), end()]);
}

#[test]
fn a_prefix_brings_the_completions_of_its_commands_and_nothing_else() {
    let mut world = World::new(1);
    let id = completed(&mut world);
    let whole = world.journal(&id);
    assert_eq!(
        whole,
        [
            "Input",
            "Run",
            "Sleep",
            "RunCompletion",
            "SleepCompletion",
            "Output"
        ]
    );
    assert_eq!(restart(&mut world, &id, 1, 1), Restarted::Done);
    let new = world.id_beside(&id, 1);
    assert_eq!(world.journal(&new), ["Input", "Run", "RunCompletion"]);
    let row = world.invocation(&new).expect("it is there");
    assert_eq!(row.command_count, 2);
    let old = world.invocation(&id).expect("it is there");
    assert_eq!(row.random_seed, old.random_seed);
    assert_eq!(row.pinned, old.pinned);
    assert_eq!(restart(&mut world, &id, 2, 5), Restarted::Done);
    let copy = world.id_beside(&id, 2);
    assert_eq!(world.journal(&copy), whole);
    world.effects(&copy, vec![end()]);
    let copy = world.invocation(&copy).expect("it is there");
    let outcome = copy.outcome.and_then(|outcome| outcome.outcome);
    assert_eq!(
        outcome,
        Some(state::outcome::Outcome::Success(Bytes::from_static(
            b"done"
        )))
    );
}

#[test]
fn what_cannot_be_restarted_says_why() {
    let mut world = World::new(1);
    let id = completed(&mut world);
    assert_eq!(restart(&mut world, &id, 1, 6), Restarted::Incomplete);
    let unknown = InvocationId::new(id.partition_key(), [9; 16]);
    assert_eq!(restart(&mut world, &unknown, 1, 0), Restarted::NotFound);
    world.operate(&id, Operation::PurgeJournal);
    assert_eq!(restart(&mut world, &id, 1, 0), Restarted::NoInput);

    let running = world.invoke("Svc", None, "go");
    assert_eq!(restart(&mut world, &running, 1, 0), Restarted::StillRunning);
    world.effects(&running, vec![pin(6), sleep(9_000, 1)]);
    world.operate(&running, Operation::Kill);
    assert_eq!(restart(&mut world, &running, 1, 1), Restarted::Incomplete);
    assert_eq!(restart(&mut world, &running, 1, 0), Restarted::Done);

    let unbound = world.invoke("Svc", None, "go");
    world.operate(&unbound, Operation::Kill);
    assert_eq!(restart(&mut world, &unbound, 2, 1), Restarted::Unsupported);

    world.invoke("Obj", Some("k"), "add");
    let waiting = world.invoke("Obj", Some("k"), "add");
    assert_eq!(restart(&mut world, &waiting, 3, 0), Restarted::NotStarted);

    let run = world.invoke("Wf", Some("w"), "run");
    world.effects(&run, vec![output(""), end()]);
    assert_eq!(restart(&mut world, &run, 4, 0), Restarted::Unsupported);
}

#[test]
fn a_repeated_restart_makes_one_invocation_and_an_object_waits_for_its_key() {
    let mut world = World::new(1);
    let id = world.invoke("Obj", Some("k"), "add");
    world.effects(&id, vec![output(""), end()]);
    let holder = world.invoke("Obj", Some("k"), "add");
    assert_eq!(restart(&mut world, &id, 1, 0), Restarted::Done);
    assert_eq!(restart(&mut world, &id, 1, 0), Restarted::Done);
    let new = world.id_beside(&id, 1);
    let status = |world: &World| world.invocation(&new).map(|row| row.status());
    assert_eq!(status(&world), Some(state::Status::Inboxed));
    world.effects(&holder, vec![output(""), end()]);
    assert_eq!(status(&world), Some(state::Status::Invoked));
}

#[test]
fn only_what_does_not_run_goes_on_at_another_deployment() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    world.effects(&id, vec![pin(6), sleep(9_000, 1)]);
    let other = Bytes::from_static(&[8; 16]);
    let refused = Reply::Operated(Operated::CannotMove);
    assert_eq!(resume_at(&mut world, &id, other.clone()), refused);
    world.effects(&id, vec![suspend(&[1])]);
    let done = Reply::Operated(Operated::Done);
    assert_eq!(resume_at(&mut world, &id, other.clone()), done);
    let row = world.invocation(&id).expect("it is there");
    assert_eq!(row.pinned.map(|pinned| pinned.deployment), Some(other));
    world.operate(&id, Operation::Pause);
    assert_eq!(resume_at(&mut world, &id, Bytes::new()), done);
    let row = world.invocation(&id).expect("it is there");
    assert_eq!(row.pinned.map(|pinned| pinned.deployment.len()), Some(16));
}
