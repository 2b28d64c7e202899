//! What records do, as transcripts.

use crate::harness::effect::*;
use crate::harness::{World, target};
use abide_state_machine::keys::Table;
use abide_state_machine::proto as state;
use abide_state_machine::{Invoked, Operated, Reply};
use expect_test::{Expect, expect};

fn check(world: &mut World, expected: Expect) {
    expected.assert_eq(&world.take_transcript());
}

#[test]
fn a_service_runs_its_steps_and_answers() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    world.effects(&id, vec![ran(1, "one")]);
    world.effects(&id, vec![ran(2, "two"), output("done"), end()]);
    check(
        &mut world,
        expect![[r#"
        start inv1
        notify inv1 #1 RunCompletion (completion 1) one
        notify inv1 #2 RunCompletion (completion 2) two
        completed inv1 done
    "#]],
    );
    assert_eq!(world.rows(Table::Invoked), 0);
}

#[test]
fn a_repeated_request_joins_the_first_and_another_one_is_told_so() {
    let mut world = World::new(1);
    let svc = target("Svc", None, "go");
    let (id, _) = world.invoke_as(&svc, 7, 0, 1000);
    let (_, again) = world.invoke_as(&svc, 7, 0, 1000);
    assert_eq!(
        again,
        Reply::Invoked(Invoked {
            new: true,
            execute_at: None,
            finished: None
        })
    );
    world.effects(&id, vec![output("done"), end()]);
    let (_, late) = world.invoke_as(&svc, 7, 0, 1000);
    let Reply::Invoked(late) = late else {
        panic!("{late:?}")
    };
    assert!(late.new && late.finished.is_some());
    check(
        &mut world,
        expect![[r#"
        start inv1
        completed inv1 done
    "#]],
    );
}

#[test]
fn exclusive_handlers_of_a_key_run_one_after_the_other() {
    let mut world = World::new(1);
    let first = world.invoke("Obj", Some("k"), "add");
    let second = world.invoke("Obj", Some("k"), "add");
    let third = world.invoke("Obj", Some("k"), "add");
    world.invoke("Obj", Some("k"), "get");
    world.invoke("Obj", Some("other"), "add");
    world.effects(&first, vec![set("n", "1"), get("n", 1), output("1"), end()]);
    assert_eq!(
        world.operate(&third, state::Operation::Cancel),
        Reply::Operated(Operated::Done)
    );
    world.effects(&second, vec![get("n", 1), output("2"), end()]);
    check(
        &mut world,
        expect![[r#"
        start inv1
        start inv4
        start inv5
        notify inv1 #3 GetLazyStateCompletion (completion 1) 1
        start inv2
        completed inv1 1
        completed inv3 [409] canceled
        notify inv2 #2 GetLazyStateCompletion (completion 1) 1
        completed inv2 2
    "#]],
    );
    assert_eq!(world.rows(Table::Inbox), 0);
    assert_eq!(world.rows(Table::Lock), 1);
}

#[test]
fn a_suspended_caller_wakes_with_the_result_of_another_partition_once() {
    let mut world = World::new(64);
    let caller = world.invoke("Svc", None, "go");
    world.effects(
        &caller,
        vec![call("Obj", Some("k"), "add", 1), suspend(&[2])],
    );
    world.deliver(3);
    let callee = world.id("inv2");
    assert_ne!(world.partition(&caller), world.partition(&callee));
    world.effects(&callee, vec![output("sum"), end()]);
    world.deliver(3);
    world.effects(&caller, vec![output("done"), end()]);
    check(
        &mut world,
        expect![[r#"
        start inv1
        notify inv1 #2 CallInvocationIdCompletion (completion 1) inv2
        stop inv1
        start inv2
        completed inv2 sum
        start inv1
        completed inv1 done
    "#]],
    );
    assert_eq!(world.rows(Table::Outbox), 0, "acks empty the outboxes");
}

#[test]
fn a_suspension_behind_its_completion_starts_again_at_once() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    world.effects(&id, vec![ran(1, "x"), suspend(&[1])]);
    check(
        &mut world,
        expect![[r#"
        start inv1
        notify inv1 #1 RunCompletion (completion 1) x
        start inv1
    "#]],
    );
}

#[test]
fn sleeps_wake_and_delayed_sends_start_in_their_time() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    world.effects(
        &id,
        vec![
            sleep(2_000, 1),
            send("Svc", None, "later", 3_000, 2),
            suspend(&[1]),
        ],
    );
    world.pass_time(1_999);
    world.pass_time(2_000);
    world.effects(&id, vec![output("ok"), end()]);
    world.pass_time(3_000);
    check(
        &mut world,
        expect![[r#"
        start inv1
        timer at 2000
        notify inv1 #3 CallInvocationIdCompletion (completion 2) inv2
        stop inv1
        timer at 3000
        start inv1
        completed inv1 ok
        start inv2
    "#]],
    );
    assert_eq!(world.rows(Table::Timer), 0);
}

#[test]
fn a_timer_of_an_invocation_that_has_ended_does_nothing() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    world.effects(&id, vec![sleep(2_000, 1)]);
    world.operate(&id, state::Operation::Kill);
    world.pass_time(2_000);
    check(
        &mut world,
        expect![[r#"
        start inv1
        timer at 2000
        completed inv1 [409] killed
    "#]],
    );
}

#[test]
fn workflows_run_once_and_promises_wake_their_waiters() {
    let mut world = World::new(1);
    let run = world.invoke("Wf", Some("w"), "run");
    world.effects(&run, vec![get_promise("p", 1), suspend(&[1])]);
    let (_, again) = world.invoke_as(&target("Wf", Some("w"), "run"), 99, 0, 1000);
    let Reply::Invoked(again) = again else {
        panic!("{again:?}")
    };
    assert!(!again.new);
    let shared = world.invoke("Wf", Some("w"), "signal");
    world.effects(
        &shared,
        vec![
            complete_promise("p", "go", 1),
            complete_promise("p", "no", 2),
            output(""),
            end(),
        ],
    );
    world.effects(&run, vec![output("signed"), end()]);
    check(
        &mut world,
        expect![[r#"
        start inv1
        stop inv1
        start inv2
        notify inv2 #2 CompletePromiseCompletion (completion 1) void
        notify inv2 #4 CompletePromiseCompletion (completion 2) [409] promise was already completed
        completed inv2 
        start inv1
        completed inv1 signed
    "#]],
    );
}

#[test]
fn cancel_tells_a_running_handler_and_wakes_a_suspended_one() {
    let mut world = World::new(1);
    let running = world.invoke("Svc", None, "go");
    let suspended = world.invoke("Svc", None, "go");
    world.effects(&suspended, vec![sleep(9_000, 1), suspend(&[1])]);
    for id in [&running, &suspended] {
        assert_eq!(
            world.operate(id, state::Operation::Cancel),
            Reply::Operated(Operated::Appended)
        );
    }
    check(
        &mut world,
        expect![[r#"
        start inv1
        start inv2
        timer at 9000
        stop inv2
        notify inv1 #1 Signal (signal 1) void
        start inv2
    "#]],
    );
}

#[test]
fn kill_ends_callees_wherever_they_are() {
    let mut world = World::new(64);
    let caller = world.invoke("Svc", None, "go");
    world.effects(
        &caller,
        vec![
            call("Obj", Some("k"), "add", 1),
            send("Svc", None, "later", 9_000, 3),
            call("Obj", Some("other"), "add", 4),
        ],
    );
    world.deliver(1);
    world.operate(&caller, state::Operation::Kill);
    world.deliver(2);
    check(
        &mut world,
        expect![[r#"
        start inv1
        notify inv1 #2 CallInvocationIdCompletion (completion 1) inv2
        notify inv1 #4 CallInvocationIdCompletion (completion 3) inv3
        notify inv1 #6 CallInvocationIdCompletion (completion 4) inv4
        timer at 9000
        start inv2
        start inv4
        completed inv1 [409] killed
        no timer at 9000
        completed inv3 [409] killed
        completed inv2 [409] killed
        completed inv4 [409] killed
    "#]],
    );
}

#[test]
fn what_a_superseded_attempt_says_changes_nothing() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    world.operate(&id, state::Operation::Pause);
    let before = world.stores[0].clone();
    world.effects(&id, vec![ran(1, "late"), output("late"), end()]);
    assert_eq!(before, world.stores[0]);
    world.operate(&id, state::Operation::Resume);
    world.effects(&id, vec![output("ok"), end()]);
    check(
        &mut world,
        expect![[r#"
        start inv1
        stop inv1
        start inv1
        completed inv1 ok
    "#]],
    );
}

#[test]
fn purge_leaves_no_row() {
    let mut world = World::new(1);
    let run = world.invoke("Wf", Some("w"), "run");
    world.effects(
        &run,
        vec![set("s", "1"), get_promise("p", 1), output(""), end()],
    );
    assert_eq!(
        world.operate(&run, state::Operation::Purge),
        Reply::Operated(Operated::Done)
    );
    assert!(world.stores[0].0.is_empty(), "{:?}", world.stores[0]);
}

#[test]
fn commands_that_make_no_sense_change_nothing() {
    use state::command::Kind;
    let mut world = World::new(1);
    let partition = abide_types::PartitionId(0);
    for kind in [
        Kind::Invoke(state::Invoke::default()),
        Kind::AttemptEffects(state::AttemptEffects::default()),
        Kind::FireTimer(state::FireTimer {
            key: bytes::Bytes::from_static(b"rubbish"),
        }),
        Kind::Signal(state::Signal::default()),
        Kind::Operate(state::Operate::default()),
        Kind::OutboxAcked(state::OutboxAcked {
            to_partition: 1 << 20,
            positions: vec![state::OutboxPosition::default()],
        }),
        Kind::Delivery(state::Delivery {
            from_partition: 1 << 20,
            ..Default::default()
        }),
        Kind::Pause(state::Pause::default()),
        Kind::Fail(state::Fail::default()),
        Kind::Purge(state::Purge {
            expired: vec![state::Expired::default()],
        }),
    ] {
        world.apply(partition, kind);
    }
    assert!(world.stores[0].0.is_empty());
    assert_eq!(world.take_transcript(), "");
}

#[test]
fn a_producers_position_is_taken_once_and_never_after_a_later_one() {
    let mut world = World::new(1);
    let mut take = |producer: &str, position: u64, random: u128| {
        let reply = world.produce(&target("Obj", Some("k"), "get"), producer, position, random);
        let Reply::Invoked(invoked) = reply else {
            panic!("{reply:?}")
        };
        invoked.new
    };
    assert!(take("topic/0", 1, 1));
    // The same record, read again by another consumer that made up another id.
    assert!(!take("topic/0", 1, 2));
    assert!(take("topic/0", 5, 3), "offsets have gaps");
    assert!(!take("topic/0", 4, 4), "what comes late was taken before");
    assert!(take("topic/1", 4, 5), "every producer has its own mark");
    check(
        &mut world,
        expect![[r#"
        start inv1
        start inv3
        start inv5
    "#]],
    );
    assert_eq!(world.rows(Table::Producer), 2);
    assert_eq!(world.rows(Table::Invocation), 3);
}

#[test]
fn a_position_is_taken_even_if_its_workflow_ran_before() {
    let mut world = World::new(1);
    let run = target("Flow", Some("w"), "run");
    let replies = [
        world.produce(&run, "topic/0", 1, 1),
        world.produce(&run, "topic/0", 2, 2),
        world.produce(&run, "topic/0", 2, 3),
    ];
    let new: Vec<_> = replies
        .iter()
        .map(|reply| matches!(reply, Reply::Invoked(invoked) if invoked.new))
        .collect();
    assert_eq!(new, [true, false, false]);
    assert_eq!(world.rows(Table::Invocation), 1);
}
