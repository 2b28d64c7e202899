//! How long an invocation is remembered, and when it got where.

use crate::harness::effect::*;
use crate::harness::{World, target};
use abide_state_machine::keys::Table;
use abide_state_machine::proto::{Operation, Status};
use abide_state_machine::{Operated, Reply, is_forgotten};
use abide_types::Timestamp;
use expect_test::expect;

#[test]
fn a_workflow_may_run_again_after_its_retention_without_its_old_state() {
    let mut world = World::new(1);
    let run = world.invoke("Wf", Some("k"), "run");
    world.effects(
        &run,
        vec![
            set("a", "1"),
            complete_promise("p", "v", 1),
            output("one"),
            end(),
        ],
    );
    let wf = target("Wf", Some("k"), "run");
    world.now += 999;
    let (_, Reply::Invoked(early)) = world.invoke_as(&wf, 50, 0, 1000) else {
        panic!("an invoke is answered as one");
    };
    assert!(!early.new && early.finished.is_some());
    world.now += 1;
    let (id, Reply::Invoked(late)) = world.invoke_as(&wf, 51, 0, 1000) else {
        panic!("an invoke is answered as one");
    };
    assert!(late.new && late.finished.is_none());
    assert_eq!(id, run);
    assert_eq!(world.rows(Table::State) + world.rows(Table::Promise), 0);
    expect![[r#"
        start inv1
        notify inv1 #3 CompletePromiseCompletion (completion 1) void
        completed inv1 one
        start inv1
    "#]]
    .assert_eq(&world.take_transcript());
}

#[test]
fn the_same_request_finds_its_answer_even_when_nothing_is_retained() {
    let mut world = World::new(1);
    let svc = target("Svc", None, "go");
    let (id, _) = world.invoke_as(&svc, 5, 0, 0);
    world.effects(&id, vec![output("done"), end()]);
    let row = world.invocation(&id).expect("kept for repetitions");
    assert!(is_forgotten(&row, Timestamp(world.now)));
    let (_, Reply::Invoked(again)) = world.invoke_as(&svc, 5, 0, 0) else {
        panic!("an invoke is answered as one");
    };
    assert!(again.new && again.finished.is_some());
    let gone = Reply::Operated(Operated::NotFound);
    assert_eq!(world.operate(&id, Operation::Kill), gone);
}

#[test]
fn what_ends_before_it_began_is_gone_for_everybody() {
    let mut world = World::new(1);
    let svc = target("Svc", None, "go");
    let (later, _) = world.invoke_as(&svc, 5, 9_000, 1000);
    let done = Reply::Operated(Operated::Done);
    assert_eq!(world.operate(&later, Operation::Cancel), done);
    let gone = Reply::Operated(Operated::NotFound);
    assert_eq!(world.operate(&later, Operation::Cancel), gone);
    let holder = world.invoke("Obj", Some("k"), "add");
    let waiting = world.invoke("Obj", Some("k"), "add");
    assert_eq!(world.operate(&waiting, Operation::Kill), done);
    assert_eq!(world.operate(&waiting, Operation::Purge), gone);
    assert_eq!(world.journal(&waiting), [""; 0]);
    assert_eq!(world.operate(&holder, Operation::Kill), done);
    let again = Reply::Operated(Operated::AlreadyCompleted);
    assert_eq!(world.operate(&holder, Operation::Kill), again);
}

#[test]
fn rows_say_when_an_invocation_first_got_where_and_who_called_it() {
    let mut world = World::new(1);
    let (later, _) = world.invoke_as(&target("Obj", Some("k"), "add"), 5, 3_000, 1000);
    let holder = world.invoke("Obj", Some("k"), "add");
    world.pass_time(3_000);
    world.now = 4_000;
    world.effects(&holder, vec![output(""), end()]);
    let row = world.invocation(&later).expect("it is there");
    assert_eq!(
        (row.scheduled_at, row.inboxed_at, row.running_at),
        (1_000, 3_000, 4_000)
    );
    assert_eq!(row.status(), Status::Invoked);
    world.effects(&later, vec![call("Svc", None, "go", 1)]);
    let callee = world.id("inv3");
    let callee = world.invocation(&callee).expect("it is there");
    let caller = callee.invoked_by_target.expect("a service called it");
    assert_eq!(
        (caller.service.as_str(), caller.handler.as_str()),
        ("Obj", "add")
    );
}
