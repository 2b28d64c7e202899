//! What is kept beside a journal.

use crate::harness::World;
use crate::harness::effect::*;
use abide_state_machine::EVENTS_MAX;
use abide_state_machine::keys::Table;
use abide_state_machine::proto::{self as state, command::Kind, journal_event};
use abide_types::InvocationId;
use bytes::Bytes;
use expect_test::expect;

fn failure(message: &str) -> state::AttemptFailure {
    state::AttemptFailure {
        failure: Some(state::Failure {
            code: 500,
            message: message.to_owned(),
            ..Default::default()
        }),
        documented_code: "RT0007".to_owned(),
        ..Default::default()
    }
}

fn fail(world: &mut World, id: &InvocationId, message: &str) {
    let record = state::RecordEvent {
        id: Bytes::copy_from_slice(&id.to_bytes()),
        incarnation: world.incarnation(id),
        event: Some(state::JournalEvent {
            kind: Some(journal_event::Kind::TransientError(failure(message))),
            ..Default::default()
        }),
    };
    world.command(id, Kind::RecordEvent(record));
}

fn pause(world: &mut World, id: &InvocationId, message: &str) {
    let pause = state::Pause {
        id: Bytes::copy_from_slice(&id.to_bytes()),
        incarnation: world.incarnation(id),
        failure: None,
        last_failure: Some(failure(message)),
    };
    world.command(id, Kind::Pause(pause));
}

#[test]
fn repeats_of_a_failure_are_one_event_and_a_pause_says_why() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    world.effects(&id, vec![ran(1, "x")]);
    for _ in 0..3 {
        fail(&mut world, &id, "boom");
    }
    fail(&mut world, &id, "bang");
    fail(&mut world, &id, "boom");
    pause(&mut world, &id, "boom");
    world.operate(&id, state::Operation::Resume);
    fail(&mut world, &id, "boom");
    expect![[r#"
        #1 failed [500] boom RT0007
        #1 failed [500] bang RT0007
        #1 failed [500] boom RT0007
        #1 paused [500] boom RT0007
        #1 failed [500] boom RT0007
    "#]]
    .assert_eq(&world.events(&id));
}

#[test]
fn why_it_is_paused_is_kept_until_it_runs_again() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    pause(&mut world, &id, "boom");
    let row = world.invocation(&id).expect("it is there");
    assert_eq!(row.last_failure.as_deref(), Some(&failure("boom")));
    world.operate(&id, state::Operation::Resume);
    let row = world.invocation(&id).expect("it is there");
    assert_eq!(row.last_failure, None);
}

#[test]
fn an_operators_pause_is_an_event_without_a_failure() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    world.operate(&id, state::Operation::Pause);
    world.operate(&id, state::Operation::Pause);
    expect![[r#"
        #0 paused no failure
    "#]]
    .assert_eq(&world.events(&id));
}

#[test]
fn suspensions_are_events_from_protocol_7_on() {
    for (protocol, events) in [(6, 0), (7, 1)] {
        let mut world = World::new(1);
        let id = world.invoke("Svc", None, "go");
        world.effects(&id, vec![pin(protocol), sleep(9_000, 1), suspend(&[1])]);
        assert_eq!(world.rows(Table::Event), events, "protocol {protocol}");
    }
}

#[test]
fn events_are_bounded_and_go_with_the_journal() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    for number in 0..EVENTS_MAX + 10 {
        fail(&mut world, &id, &format!("boom {number}"));
    }
    assert_eq!(world.rows(Table::Event), EVENTS_MAX as usize);
    world.effects(&id, vec![output("done"), end()]);
    world.operate(&id, state::Operation::PurgeJournal);
    assert_eq!(world.rows(Table::Event), 0);
}

#[test]
fn a_failure_of_an_invocation_that_runs_no_more_is_no_event() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    world.effects(&id, vec![output("done"), end()]);
    fail(&mut world, &id, "late");
    assert_eq!(world.rows(Table::Event), 0);
}
