//! Signals from outside.

use crate::harness::World;
use crate::harness::effect::*;
use abide_state_machine::proto::{self as state, command::Kind};
use abide_types::InvocationId;
use bytes::Bytes;

fn signal(world: &mut World, id: &InvocationId, index: u32, request: &'static [u8]) {
    let signal = state::Signal {
        id: Bytes::copy_from_slice(&id.to_bytes()),
        signal: Some(state::signal::Signal::Index(index)),
        outcome: None,
        request_id: Bytes::from_static(request),
    };
    world.command(id, Kind::Signal(signal));
}

#[test]
fn one_request_makes_one_entry_and_two_requests_make_two() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    signal(&mut world, &id, 17, b"one");
    signal(&mut world, &id, 17, b"one");
    assert_eq!(world.journal(&id), ["Input", "Signal"]);
    signal(&mut world, &id, 17, b"two");
    signal(&mut world, &id, 18, b"one");
    assert_eq!(world.journal(&id), ["Input", "Signal", "Signal"]);
}

#[test]
fn what_is_remembered_of_requests_is_bounded() {
    let mut world = World::new(1);
    let id = world.invoke("Svc", None, "go");
    for number in 0..20u8 {
        let request: &'static [u8] = Box::leak(Box::new([number; 4]));
        signal(&mut world, &id, 17, request);
    }
    let row = world.invocation(&id).expect("it is there");
    assert!(row.recent_requests.len() <= 8);
    assert_eq!(row.journal_length, 21);
    world.effects(&id, vec![output(""), end()]);
}
