//! Rows of scoped invocations, and the queues that they wait in.

use super::*;

fn flow() -> Flow {
    Flow {
        scope: "tenant".to_owned(),
        limit_key: Some("a".to_owned()),
    }
}

pub(super) fn queue() -> QueueId {
    flow().queue("Greeter")
}

/// With a scope: one invocation that runs, one that waits and one that has ended, and a workflow's state.
fn scoped() -> Rows {
    let mut rows = rows();
    let greet = target("Greeter", None, "greet");
    let mut put = |number: u128, status: Status, change: &dyn Fn(&mut state::Invocation)| {
        let id = greet.scoped_id(Some("tenant"), None, number);
        let mut row = state::Invocation {
            target: Some((&greet).into()),
            status: status as i32,
            incarnation: number as u64,
            created_at: CREATED + number as u64,
            modified_at: CREATED + 500,
            completion_retention_ms: YEARS_MS,
            flow: Some(Box::new(flow().into())),
            ..Default::default()
        };
        change(&mut row);
        rows.put(
            id.partition_key(),
            keys::invocation(&id),
            row.encode_to_vec(),
        );
        id
    };
    let running = put(101, Status::Invoked, &|row| row.running_at = CREATED + 200);
    // Invoked from the beginning, and not attempted yet.
    let waiting = put(102, Status::Invoked, &|row| row.running_at = CREATED + 102);
    put(103, Status::Completed, &|row| {
        row.running_at = CREATED + 300;
        row.completed_at = CREATED + 400;
        row.outcome = Some(state::Outcome::failed(409, "canceled"));
    });
    rows.attempt(
        running,
        AttemptInfo {
            in_flight: true,
            started: 2,
            ..AttemptInfo::default()
        },
    );
    rows.attempt(waiting, AttemptInfo::default());
    let flow = state::Flow::from(flow());
    let service = keys::service_in(Some(&flow), "Signup");
    rows.put(
        PartitionKey::of_scope("tenant"),
        keys::state(&service, "w", b"n"),
        &b"1"[..],
    );
    rows.put(
        PartitionKey::of_key("w"),
        keys::state("Signup", "w", b"n"),
        &b"2"[..],
    );
    rows
}

#[tokio::test]
async fn queues_show_what_waits_and_runs_in_them() {
    let sql = over(scoped(), QueryOptions::default());
    let queue = queue();
    let rows = sql
        .rows(&format!(
            "select stage, status, sequence_number, num_attempts, run_at from sys_vqueues where id = '{queue}' order by sequence_number"
        ))
        .await;
    assert_eq!(
        rows,
        [
            json!({"stage": "running", "status": "started", "sequence_number": 101, "num_attempts": 2}),
            json!({"stage": "inbox", "status": "new", "sequence_number": 102, "num_attempts": 0, "run_at": "2026-11-18T11:06:40.102Z"}),
            json!({"stage": "finished", "status": "cancelled", "sequence_number": 103, "num_attempts": 1}),
        ]
    );
    let rows = sql
        .rows("select id, is_active, queue_is_paused, service_name, scope, limit_key, num_inbox, num_running, num_finished from sys_vqueue_meta")
        .await;
    let expected = json!({
        "id": queue.to_string(), "is_active": true, "queue_is_paused": false, "service_name": "Greeter", "scope": "tenant",
        "limit_key": "a", "num_inbox": 1, "num_running": 1, "num_finished": 1,
    });
    assert_eq!(rows, [expected]);
    let waiting = sql
        .rows(&format!(
            "select created_at, inboxed_at, running_at from sys_invocation where vqueue_id = '{queue}' and status = 'pending'"
        ))
        .await;
    let since = "2026-11-18T11:06:40.102Z";
    assert_eq!(waiting, [json!({"created_at": since, "inboxed_at": since})]);
    let text = format!("select count(*) from sys_invocation where vqueue_id = '{queue}'");
    assert_eq!(sql.count(&text).await, 3);
    let rows = sql
        .rows("select lock_name, acquired_by from sys_locks")
        .await;
    let holder = id_of(&target("Counter", Some("k1"), "add"), 3);
    assert_eq!(
        rows,
        [json!({"lock_name": "Counter/k1", "acquired_by": holder.to_string()})]
    );
}

#[tokio::test]
async fn a_key_finds_rows_in_every_scope() {
    let sql = over(scoped(), QueryOptions::default());
    for (filters, values) in [
        ("service_key = 'w'", "12"),
        ("service_key = 'w' and service_name = 'Signup'", "12"),
        ("service_key = 'w' and scope = 'tenant'", "1"),
        ("service_key = 'w' and scope is null", "2"),
        ("service_key = 'w' and scope = 'other'", ""),
        ("scope = 'tenant'", "1"),
    ] {
        let text = format!("select value_utf8 as v from state where {filters} order by value_utf8");
        let rows = sql.rows(&text).await;
        let found: String = rows.iter().filter_map(|row| row["v"].as_str()).collect();
        assert_eq!(found, values, "{filters}");
    }
}

#[tokio::test]
async fn what_leaders_can_leave_out_is_told_to_them() {
    let sql = sql();
    sql.partitions("select id from sys_invocation where status in ('running','ready') and target_service_name = 'Counter'").await;
    let asked = sql.rows.asked.lock().unwrap();
    assert!(
        asked
            .iter()
            .all(|(_, request)| request.statuses == [Status::Invoked]
                && request.services == ["Counter"]
                && request.attempts)
    );
}
