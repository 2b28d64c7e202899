//! State that operators change.

use crate::harness::World;
use crate::harness::effect::*;
use abide_state_machine::keys::Table;
use abide_state_machine::proto::{self as state, Operation, ServiceKind, command::Kind};
use abide_types::InvocationId;
use bytes::Bytes;

fn mutate(
    world: &mut World,
    beside: &InvocationId,
    kind: ServiceKind,
    entries: &[(&str, &str)],
    version: Option<String>,
) {
    let row = world.invocation(beside).expect("it is there");
    let target = row.target.expect("it has one");
    let mutation = state::MutateState {
        service: target.service,
        key: target.key.unwrap_or_default(),
        scope: None,
        entries: entries
            .iter()
            .map(|(key, value)| state::StateEntry {
                key: (*key).to_owned(),
                value: Bytes::copy_from_slice(value.as_bytes()),
            })
            .collect(),
        version,
        service_kind: kind as i32,
    };
    world.command(beside, Kind::MutateState(mutation));
}

fn pairs(entries: &[(&str, &str)]) -> Vec<(String, String)> {
    let text = |text: &str| text.to_owned();
    entries
        .iter()
        .map(|(key, value)| (text(key), text(value)))
        .collect()
}

#[test]
fn the_whole_state_of_a_free_key_is_replaced_at_once() {
    let mut world = World::new(1);
    let id = world.invoke("Obj", Some("k"), "add");
    world.effects(&id, vec![set("a", "1"), set("b", "2"), output(""), end()]);
    let object = ServiceKind::VirtualObject;
    mutate(&mut world, &id, object, &[("b", "3"), ("c", "")], None);
    assert_eq!(world.state("Obj", "k"), pairs(&[("b", "3"), ("c", "")]));
    mutate(&mut world, &id, object, &[], None);
    assert_eq!(world.rows(Table::State), 0);
}

#[test]
fn a_change_waits_its_turn_behind_who_holds_the_key() {
    let mut world = World::new(1);
    let first = world.invoke("Obj", Some("k"), "add");
    world.effects(&first, vec![set("n", "1")]);
    let object = ServiceKind::VirtualObject;
    mutate(&mut world, &first, object, &[("n", "10")], None);
    let second = world.invoke("Obj", Some("k"), "add");
    mutate(&mut world, &first, object, &[("n", "20")], None);
    mutate(&mut world, &first, object, &[("n", "30")], None);
    assert_eq!(world.state("Obj", "k"), pairs(&[("n", "1")]));
    world.effects(&first, vec![set("n", "2"), output(""), end()]);
    assert_eq!(world.state("Obj", "k"), pairs(&[("n", "10")]));
    world.effects(&second, vec![set("n", "11"), output(""), end()]);
    assert_eq!(world.state("Obj", "k"), pairs(&[("n", "30")]));
    assert_eq!(world.rows(Table::Inbox) + world.rows(Table::Lock), 0);
}

#[test]
fn a_killed_holder_lets_changes_through_as_well() {
    let mut world = World::new(1);
    let first = world.invoke("Obj", Some("k"), "add");
    mutate(
        &mut world,
        &first,
        ServiceKind::VirtualObject,
        &[("n", "10")],
        None,
    );
    world.operate(&first, Operation::Kill);
    assert_eq!(world.state("Obj", "k"), pairs(&[("n", "10")]));
}

#[test]
fn a_change_of_another_version_is_dropped() {
    let mut world = World::new(1);
    let id = world.invoke("Obj", Some("k"), "add");
    world.effects(&id, vec![set("name", "bob"), output(""), end()]);
    let object = ServiceKind::VirtualObject;
    let stale = Some("47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU".to_owned());
    mutate(&mut world, &id, object, &[("name", "eve")], stale);
    assert_eq!(world.state("Obj", "k"), pairs(&[("name", "bob")]));
    let current = Some("tDqA04Lj3_qJ-PgNPTecXDGZgpwy6jm2Ni2BYqJIthM".to_owned());
    mutate(&mut world, &id, object, &[("name", "eve")], current);
    assert_eq!(world.state("Obj", "k"), pairs(&[("name", "eve")]));
}

#[test]
fn a_change_of_a_workflow_waits_for_its_run() {
    let mut world = World::new(1);
    let run = world.invoke("Wf", Some("k"), "run");
    world.effects(&run, vec![set("phase", "a")]);
    let workflow = ServiceKind::Workflow;
    mutate(&mut world, &run, workflow, &[("phase", "b")], None);
    assert_eq!(world.state("Wf", "k"), pairs(&[("phase", "a")]));
    world.effects(&run, vec![output(""), end()]);
    assert_eq!(world.state("Wf", "k"), pairs(&[("phase", "b")]));
    mutate(&mut world, &run, workflow, &[("phase", "c")], None);
    assert_eq!(world.state("Wf", "k"), pairs(&[("phase", "c")]));
    assert_eq!(world.rows(Table::Inbox), 0);
}
