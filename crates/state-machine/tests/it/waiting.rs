//! What has a scope and waits for its turn there is to operators as one that waits for a key.

use crate::harness::World;
use crate::harness::effect::*;
use abide_state_machine::proto::{self as state, Operation, command::Kind};
use abide_state_machine::{Operated, Reply, Restarted};
use bytes::Bytes;

#[test]
fn it_ends_at_once_and_leaves_nothing_behind() {
    for operation in [Operation::Cancel, Operation::Kill] {
        let mut world = World::new(1);
        let id = world.invoke_in_scope("tenant");
        let reply = world.operate_waiting(&id, operation, true);
        assert_eq!(reply, Reply::Operated(Operated::Done));
        let row = world.invocation(&id).expect("until it is cleaned up");
        assert_eq!(row.status(), state::Status::Completed);
        assert_eq!(row.completion_retention_ms, 0);
        assert_eq!(world.rows(abide_state_machine::keys::Table::Invoked), 0);
    }
}

#[test]
fn it_can_neither_be_paused_nor_resumed_nor_restarted() {
    let mut world = World::new(1);
    let id = world.invoke_in_scope("tenant");
    for operation in [Operation::Pause, Operation::Resume] {
        let reply = world.operate_waiting(&id, operation, true);
        assert_eq!(reply, Reply::Operated(Operated::WrongState));
    }
    let new = world.id_beside(&id, 1);
    let restart = state::RestartAsNew {
        id: Bytes::copy_from_slice(&id.to_bytes()),
        new_id: Bytes::copy_from_slice(&new.to_bytes()),
        waits: true,
        ..Default::default()
    };
    let reply = world.command(&id, Kind::RestartAsNew(restart));
    assert_eq!(reply, Reply::Restarted(Restarted::NotStarted));
}

#[test]
fn what_its_journal_says_outweighs_its_leader() {
    let mut world = World::new(1);
    let id = world.invoke_in_scope("tenant");
    world.effects(&id, vec![pin(6), run("one", 1)]);
    let reply = world.operate_waiting(&id, Operation::Cancel, true);
    assert_eq!(reply, Reply::Operated(Operated::Appended));
    world.effects(&id, vec![output("done"), end()]);
}

#[test]
fn without_a_scope_nothing_waits_so() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    let reply = world.operate_waiting(&id, Operation::Cancel, true);
    assert_eq!(reply, Reply::Operated(Operated::Appended));
    world.effects(&id, vec![output("done"), end()]);
}
