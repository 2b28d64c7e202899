//! Where invocations stand in the traces of who called them.

use crate::harness::World;
use crate::harness::effect::*;
use abide_state_machine::proto as state;

const CLIENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn traced(world: &World, line: &str) -> Vec<String> {
    (world.transcript.lines())
        .filter(|text| text.contains("trace "))
        .map(|text| text.trim().to_owned())
        .filter(|text| text.contains(line))
        .collect()
}

#[test]
fn a_call_joins_the_trace_below_the_attempt_and_a_send_begins_its_own() {
    let mut world = World::new(1);
    world.trace = Some(state::TraceContext {
        traceparent: CLIENT.to_owned(),
        tracestate: "a=b".to_owned(),
        linked: String::new(),
    });
    let caller = world.invoke("Svc", None, "go");
    assert_eq!(
        world.invocation(&caller).unwrap().trace,
        world.trace.clone().map(Box::new)
    );
    assert_eq!(traced(&world, CLIENT).len(), 1);
    world.span = 0x1234;
    world.take_transcript();
    world.effects(
        &caller,
        vec![
            call("Svc", None, "called", 1),
            send("Svc", None, "sent", 0, 3),
        ],
    );
    let attempt = "00-0af7651916cd43dd8448eb211c80319c-0000000000001234-01";
    let starts = traced(&world, "below");
    assert_eq!(starts.len(), 2, "{}", world.transcript);
    assert!(
        starts[0].ends_with(&format!("below {attempt}")),
        "{}",
        starts[0]
    );
    let ending = format!("-0000000000000000-01 linked to {attempt}");
    assert!(starts[1].ends_with(&ending), "{}", starts[1]);
    assert!(!starts[1].contains("below 00-0af7651916cd43dd8448eb211c80319c"));
}

#[test]
fn without_a_trace_there_is_none() {
    let mut world = World::new(1);
    let caller = world.invoke("Svc", None, "go");
    world.span = 7;
    world.effects(&caller, vec![call("Svc", None, "called", 1)]);
    assert_eq!(traced(&world, ""), Vec::<String>::new());
    assert_eq!(world.invocation(&caller).unwrap().trace, None);
}
