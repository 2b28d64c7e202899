//! Queries over partitions in memory: what tools ask, what is asked of partitions for it, and what is refused.

#![allow(clippy::unwrap_used, reason = "tests")]

mod scoped;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use abide_processor::scan::{AttemptInfo, ScanError, ScanPage, ScanRequest, ScanRow};
use abide_query::{Format, Nothing, Partitions, QueryEngine, QueryError, QueryOptions, Sources};
use abide_schema::{
    Defaults, Deployment, HttpVersion, Overrides, ProtocolType, Schema, ServiceRevision,
};
use abide_service_protocol::{Notification, Outcome, RawEntry};
use abide_state_machine::keys;
use abide_state_machine::proto::{self as state, Status};
use abide_types::{
    DeploymentId, Flow, HandlerKind, InvocationId, InvocationTarget, Lsn, PartitionId,
    PartitionKey, QueueId, ServiceKind, Timestamp, partition_of,
};
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::arrow::array::{Array as _, Int64Array};
use datafusion::arrow::ipc::reader::StreamReader;
use prost::Message as _;
use serde_json::{Value, json};
use tokio::sync::watch;

const PARTITIONS: u16 = 8;
/// Long before any test, and kept for long after.
const CREATED: u64 = 1_795_000_000_000;
const YEARS_MS: u64 = 100 * 365 * 86_400_000;

/// Partitions in memory, which remember what was asked of them.
#[derive(Default)]
struct Rows {
    rows: BTreeMap<(u16, Bytes), (Bytes, Option<AttemptInfo>)>,
    asked: Mutex<Vec<(u16, ScanRequest)>>,
    /// Answers wait for this.
    slow: Option<Duration>,
}

#[async_trait]
impl Partitions for Rows {
    fn count(&self) -> u16 {
        PARTITIONS
    }

    async fn scan(&self, id: PartitionId, request: ScanRequest) -> Result<ScanPage, ScanError> {
        self.asked.lock().unwrap().push((id.0, request.clone()));
        if let Some(slow) = self.slow {
            tokio::time::sleep(slow).await;
        }
        let mut page = ScanPage::default();
        for range in &request.ranges {
            let of = (id.0, range.start.clone())..(id.0, range.end.clone());
            for ((_, key), (value, attempt)) in self.rows.range(of) {
                // Short pages, so that every scan has to go on.
                if page.rows.len() == request.rows_max.min(2) {
                    page.next = Some(key.clone());
                    return Ok(page);
                }
                page.rows.push(ScanRow {
                    key: key.clone(),
                    value: value.clone(),
                    attempt: attempt.clone().filter(|_| request.attempts),
                });
            }
        }
        Ok(page)
    }
}

fn target(service: &str, key: Option<&str>, handler: &str) -> InvocationTarget {
    InvocationTarget {
        service: service.to_owned(),
        key: key.map(str::to_owned),
        handler: handler.to_owned(),
        service_kind: match key {
            Some(_) => ServiceKind::VirtualObject,
            None => ServiceKind::Service,
        },
        handler_kind: match key {
            Some(_) => HandlerKind::Exclusive,
            None => HandlerKind::Plain,
        },
    }
}

fn id_of(target: &InvocationTarget, number: u128) -> InvocationId {
    target.invocation_id(None, number)
}

impl Rows {
    fn put(&mut self, key: PartitionKey, row: Bytes, value: impl Into<Bytes>) {
        let partition = partition_of(key, PARTITIONS);
        self.rows.insert((partition.0, row), (value.into(), None));
    }

    fn invocation(
        &mut self,
        number: u128,
        target: &InvocationTarget,
        status: Status,
        change: impl FnOnce(&mut state::Invocation),
    ) -> InvocationId {
        let id = id_of(target, number);
        let at = CREATED + number as u64 * 1000;
        let mut row = state::Invocation {
            target: Some(target.into()),
            status: status as i32,
            created_at: at,
            modified_at: at + 5,
            journal_length: 1,
            command_count: 1,
            completion_retention_ms: YEARS_MS,
            journal_retention_ms: 86_400_000,
            ..Default::default()
        };
        change(&mut row);
        self.put(
            id.partition_key(),
            keys::invocation(&id),
            row.encode_to_vec(),
        );
        id
    }

    fn attempt(&mut self, id: InvocationId, attempt: AttemptInfo) {
        let partition = partition_of(id.partition_key(), PARTITIONS);
        let row = self.rows.get_mut(&(partition.0, keys::invocation(&id)));
        row.unwrap().1 = Some(attempt);
    }

    fn entry(&mut self, id: InvocationId, index: u32, entry: RawEntry) {
        let stored = state::JournalEntry {
            ty: entry.ty.into(),
            payload: entry.payload,
            at: CREATED,
        };
        self.put(
            id.partition_key(),
            keys::journal(&id, index),
            stored.encode_to_vec(),
        );
    }
}

/// One invocation in each state, an object with state, and a journal.
fn rows() -> Rows {
    let mut rows = Rows::default();
    let greet = target("Greeter", None, "greet");
    let add = target("Counter", Some("k1"), "add");
    let done = rows.invocation(1, &greet, Status::Completed, |row| {
        row.completed_at = CREATED + 10;
        row.outcome = Some(state::Outcome {
            outcome: Some(state::outcome::Outcome::Success(Bytes::from_static(b"1"))),
        });
    });
    rows.invocation(2, &greet, Status::Completed, |row| {
        row.completed_at = CREATED + 10;
        row.outcome = Some(state::Outcome::failed(409, "killed"));
    });
    let running = rows.invocation(3, &add, Status::Invoked, |row| {
        row.invoked_by = Bytes::copy_from_slice(&done.to_bytes());
        row.invoked_by_target = Some(Box::new((&greet).into()));
        row.pinned = Some(state::Pinned {
            deployment: Bytes::copy_from_slice(&7u128.to_be_bytes()),
            protocol: 6,
        });
    });
    rows.attempt(
        running,
        AttemptInfo {
            in_flight: true,
            started: 1,
            ..AttemptInfo::default()
        },
    );
    rows.invocation(4, &add, Status::Inboxed, |row| {
        row.inboxed_at = CREATED;
        row.journal_length = 0;
    });
    let failing = rows.invocation(
        5,
        &target("Counter", Some("k2"), "add"),
        Status::Invoked,
        |_| (),
    );
    rows.attempt(
        failing,
        AttemptInfo {
            started: 3,
            failure: Some(state::AttemptFailure {
                failure: Some(state::Failure {
                    code: 500,
                    message: "temporary".to_owned(),
                    stacktrace: Some("at line 1".to_owned()),
                    ..Default::default()
                }),
                documented_code: "RT0007".to_owned(),
                related_command: Some(state::RelatedCommand {
                    index: Some(1),
                    name: "flaky run".to_owned(),
                    ty: Some(0x0411),
                }),
            }),
            ..AttemptInfo::default()
        },
    );
    rows.invocation(6, &greet, Status::Scheduled, |row| {
        row.execute_at = CREATED + 1_000_000;
        row.scheduled_at = CREATED;
    });
    rows.invocation(7, &greet, Status::Suspended, |row| {
        let any = abide_service_protocol::Await::any_of([
            abide_service_protocol::NotificationId::Completion(1),
            abide_service_protocol::NotificationId::Signal(1),
        ]);
        row.awaiting = any.unwrap().into_bytes();
    });
    rows.invocation(8, &greet, Status::Paused, |row| {
        row.last_failure = Some(Box::new(state::AttemptFailure {
            failure: Some(state::Failure {
                code: 500,
                message: "gave up".to_owned(),
                ..Default::default()
            }),
            ..Default::default()
        }));
    });
    rows.entry(done, 0, RawEntry::input(vec![], Bytes::from_static(b"1")));
    rows.entry(
        done,
        1,
        Notification::run(3, Outcome::Value(Bytes::from_static(b"2"))).into_entry(),
    );
    let event = state::JournalEvent {
        at: CREATED,
        after_index: 1,
        kind: Some(state::journal_event::Kind::Paused(
            state::AttemptFailure::default(),
        )),
    };
    rows.put(
        done.partition_key(),
        keys::event(&done, 0),
        event.encode_to_vec(),
    );
    for (key, name, value) in [
        ("k1", "count", &b"6"[..]),
        ("k1", "raw", &[255, 254]),
        ("k2", "count", b"1"),
    ] {
        rows.put(
            PartitionKey::of_key(key),
            keys::state("Counter", key, name.as_bytes()),
            value.to_vec(),
        );
    }
    let waiting = id_of(&add, 4);
    rows.put(
        PartitionKey::of_key("k1"),
        keys::inbox("Counter", "k1", Lsn(9), 0),
        waiting.to_bytes().to_vec(),
    );
    rows.put(
        PartitionKey::of_key("k1"),
        keys::lock("Counter", "k1"),
        running.to_bytes().to_vec(),
    );
    let promise = state::Promise {
        outcome: Some(state::Outcome::failed(500, "bad")),
        ..Default::default()
    };
    rows.put(
        PartitionKey::of_key("w"),
        keys::promise("Signup", "w", "done"),
        promise.encode_to_vec(),
    );
    rows
}

/// A deployment with an object; nobody knows what `Signup` was.
fn registry() -> Schema {
    let counter = ServiceRevision {
        name: "Counter".to_owned(),
        kind: ServiceKind::VirtualObject,
        revision: 1,
        public: true,
        documentation: None,
        metadata: BTreeMap::new(),
        overrides: Overrides::default(),
        handlers: BTreeMap::new(),
    };
    let deployment = Deployment {
        id: DeploymentId(9),
        uri: "http://endpoint/".to_owned(),
        protocol_type: ProtocolType::BidiStream,
        http_version: HttpVersion::Http2,
        additional_headers: BTreeMap::new(),
        metadata: BTreeMap::new(),
        created_at: Timestamp(CREATED),
        min_protocol_version: 5,
        max_protocol_version: 6,
        sdk_version: None,
        services: BTreeMap::from([(counter.name.clone(), counter)]),
    };
    Schema::new([deployment], Defaults::default())
}

struct Sql {
    rows: Arc<Rows>,
    engine: QueryEngine,
    _schema: watch::Sender<Arc<Schema>>,
}

fn sql() -> Sql {
    over(rows(), QueryOptions::default())
}

fn over(rows: Rows, options: QueryOptions) -> Sql {
    let rows = Arc::new(rows);
    let (sender, schema) = watch::channel(Arc::new(registry()));
    let sources = Sources {
        partitions: rows.clone(),
        schema,
        cluster: Arc::new(Nothing),
        flow_control: Arc::new(Nothing),
    };
    Sql {
        rows,
        engine: QueryEngine::new(options, sources),
        _schema: sender,
    }
}

impl Sql {
    async fn bytes(&self, text: &str, format: Format) -> Result<Vec<u8>, QueryError> {
        let mut answer = self.engine.query(text.to_owned(), format).await?;
        let mut bytes = Vec::new();
        while let Some(piece) = answer.next().await {
            bytes.extend(piece?);
        }
        Ok(bytes)
    }

    async fn ask(&self, text: &str) -> Result<Vec<Value>, QueryError> {
        let bytes = self.bytes(text, Format::Json).await?;
        let mut answer: Value = serde_json::from_slice(&bytes).unwrap();
        match answer["rows"].take() {
            Value::Array(rows) => Ok(rows),
            other => panic!("{other}"),
        }
    }

    #[track_caller]
    fn rows(&self, text: &str) -> impl Future<Output = Vec<Value>> {
        let text = text.to_owned();
        async move {
            let rows = self.ask(&text).await;
            rows.unwrap_or_else(|error| panic!("{text}: {error}"))
        }
    }

    /// The first column of the first row of an Arrow stream, as the CLI reads counts.
    async fn count(&self, text: &str) -> i64 {
        let bytes = self.bytes(text, Format::Arrow).await.unwrap();
        let batch = StreamReader::try_new(&bytes[..], None).unwrap().next();
        let column = batch.unwrap().unwrap().column(0).clone();
        column
            .as_any()
            .downcast_ref::<Int64Array>()
            .unwrap()
            .value(0)
    }

    /// Which partitions a query asks.
    async fn partitions(&self, text: &str) -> usize {
        self.rows.asked.lock().unwrap().clear();
        self.rows(text).await;
        let asked = self.rows.asked.lock().unwrap();
        asked
            .iter()
            .map(|(partition, _)| partition)
            .collect::<BTreeSet<_>>()
            .len()
    }
}

#[tokio::test]
async fn statuses_are_those_of_the_interface() {
    let sql = sql();
    let rows = sql
        .rows("select target, status, retry_count from sys_invocation order by created_at")
        .await;
    let statuses: Vec<_> = rows
        .iter()
        .map(|row| row["status"].as_str().unwrap())
        .collect();
    assert_eq!(
        statuses,
        [
            "completed",
            "completed",
            "running",
            "pending",
            "backing-off",
            "scheduled",
            "suspended",
            "paused"
        ]
    );
    assert_eq!(
        rows[2],
        json!({"target": "Counter/k1/add", "status": "running", "retry_count": 1})
    );
    for (status, count) in [
        ("running", 1),
        ("completed", 2),
        ("ready", 0),
        ("pending", 1),
    ] {
        let text = format!("select count(*) from sys_invocation where status = '{status}'");
        assert_eq!(sql.count(&text).await, count, "{status}");
    }
    assert_eq!(
        sql.count("select count(1) from sys_invocation where status != 'completed'")
            .await,
        6
    );
    assert_eq!(
        sql.count("select count(1) from sys_invocation_status where status == 'invoked'")
            .await,
        2
    );
    assert_eq!(
        sql.count("select count(1) from sys_invocation where status in ('paused','running','x')")
            .await,
        2
    );
}

#[tokio::test]
async fn rows_have_the_shape_that_tools_parse() {
    let sql = sql();
    let failing = sql
        .rows("select * from sys_invocation where status = 'backing-off'")
        .await;
    assert_eq!(
        failing[0]["last_failure"],
        "[500 Internal] temporary\nat line 1"
    );
    assert_eq!(failing[0]["last_failure_error_code"], "RT0007");
    assert_eq!(failing[0]["last_failure_related_command_index"], 1);
    assert_eq!(failing[0]["last_failure_related_command_name"], "flaky run");
    assert_eq!(failing[0]["last_failure_related_command_type"], "Run");
    assert_eq!(failing[0]["journal_retention"], "PT86400S");
    assert_eq!(failing[0]["created_at"], "2026-11-18T11:06:45Z");
    assert_eq!(failing[0].get("completed_at"), None);
    let suspended = sql
        .rows("select * from sys_invocation where status = 'suspended'")
        .await;
    assert_eq!(
        suspended[0]["suspended_waiting_for_completions"],
        json!([1])
    );
    assert_eq!(
        suspended[0]["suspended_waiting_future_json"],
        r#"{"Unknown":[{"Single":{"CompletionId":1}},{"Single":{"SignalIndex":1}}]}"#
    );
    let paused = sql
        .rows("select last_failure from sys_invocation where status = 'paused'")
        .await;
    assert_eq!(paused[0]["last_failure"], "[500 Internal] gave up");
    let called = sql.rows("select invoked_by, invoked_by_target, invoked_by_service_name from sys_invocation where status = 'running'").await;
    assert_eq!(
        called[0],
        json!({"invoked_by": "service", "invoked_by_target": "Greeter/greet", "invoked_by_service_name": "Greeter"})
    );
    let ended = sql.rows("select completion_result, completion_failure from sys_invocation where completion_result = 'failure'").await;
    assert_eq!(ended[0]["completion_failure"], "[409] killed");
    let known = sql
        .rows("select in_flight, retry_count from sys_invocation_state order by retry_count")
        .await;
    assert_eq!(
        known,
        [
            json!({"in_flight": true, "retry_count": 1}),
            json!({"in_flight": false, "retry_count": 3})
        ]
    );
}

#[tokio::test]
async fn objects_journals_and_promises_show() {
    let sql = sql();
    let state = sql
        .rows("select service_key, key, value, value_utf8 from state order by service_key, key")
        .await;
    assert_eq!(
        state[0],
        json!({"service_key": "k1", "key": "count", "value": "36", "value_utf8": "6"})
    );
    assert_eq!(
        state[1],
        json!({"service_key": "k1", "key": "raw", "value": "fffe"})
    );
    let inbox = sql
        .rows("select service_name, service_key, sequence_number from sys_inbox")
        .await;
    assert_eq!(
        inbox,
        [json!({"service_name": "Counter", "service_key": "k1", "sequence_number": 9})]
    );
    assert_eq!(
        sql.rows("select invocation_id from sys_keyed_service_status")
            .await
            .len(),
        1
    );
    let promise = sql
        .rows("select completed, completion_failure from sys_promise")
        .await;
    assert_eq!(
        promise,
        [json!({"completed": true, "completion_failure": "[500 Internal] bad"})]
    );
    let journal = sql.rows("select index, entry_type, name, raw_length, version, entry_json, entry_lite_json from sys_journal order by index").await;
    assert_eq!(journal[0]["entry_type"], "Command: Input");
    assert_eq!(
        journal[0]["entry_json"],
        r#"{"Command":{"Input":{"headers":[],"payload":[49],"name":""}}}"#
    );
    assert_eq!(journal[0]["entry_lite_json"], r#"{"Command":{"Input":{}}}"#);
    assert_eq!(journal[0]["name"], "");
    assert_eq!(journal[1]["entry_type"], "Notification: Run");
    assert_eq!(journal[1].get("name"), None);
    assert_eq!(
        journal[1]["entry_json"],
        r#"{"Notification":{"Completion":{"Run":{"completion_id":3,"result":{"Success":[50]}}}}}"#
    );
    assert_eq!(
        journal[1]["entry_lite_json"],
        r#"{"Notification":{"ty":{"Completion":"Run"},"id":{"CompletionId":3},"result":"Success"}}"#
    );
    let events = sql
        .rows("select event_type, event_json, after_journal_entry_index from sys_journal_events")
        .await;
    assert_eq!(
        events,
        [
            json!({"event_type": "Paused", "event_json": r#"{"ty":"Paused"}"#, "after_journal_entry_index": 1})
        ]
    );
}

#[tokio::test]
async fn every_shape_of_the_official_cli_runs() {
    let sql = sql();
    let id = id_of(&target("Greeter", None, "greet"), 1);
    let all = "status != 'completed' AND inv.target_service_name IN ('Greeter','Counter')";
    assert_eq!(
        sql.count(&format!(
            "SELECT COUNT(1) FROM (SELECT * FROM sys_invocation inv LIMIT 50000 ) WHERE {all}"
        ))
        .await,
        6
    );
    for filter in [
        all,
        "status IN ('running','paused')",
        "status = 'completed' AND inv.completion_result = 'success'",
        "inv.target_handler_name IN ('add') AND inv.target_service_key IN ('k1')",
        "(inv.pinned_deployment_id IN ('d') OR inv.last_attempt_deployment_id IN ('d'))",
        "inv.target_service_name IN (select name from sys_service where ty = 'virtual_object')",
        "(inv.pinned_deployment_id IS NOT NULL AND inv.pinned_deployment_id NOT IN (select id from sys_deployment))",
    ] {
        for order in ["DESC", "ASC"] {
            sql.rows(&format!("SELECT id FROM sys_invocation inv WHERE {filter} ORDER BY inv.created_at {order}, inv.id LIMIT 5")).await;
        }
        sql.count(&format!(
            "SELECT COUNT(1) FROM (SELECT * FROM sys_invocation inv LIMIT 50000 ) WHERE {filter}"
        ))
        .await;
    }
    let details = sql.rows(&format!(
        "SELECT inv.id, inv.target, inv.target_service_ty, inv.idempotency_key, inv.status, inv.created_at,
         inv.modified_at as state_modified_at, inv.pinned_deployment_id, inv.retry_count as num_retries,
         inv.last_failure as last_failure_message, inv.last_failure_related_entry_index as last_failure_entry_index,
         inv.last_failure_related_entry_name as last_failure_entry_name, inv.last_failure_related_entry_type as last_failure_entry_ty,
         inv.last_attempt_deployment_id, inv.last_attempt_server, inv.next_retry_at, inv.last_start_at,
         inv.invoked_by_id, inv.invoked_by_target, inv.trace_id, inv.completion_result, inv.completion_failure,
         dp.id IS NOT NULL as pinned_deployment_exists
         FROM sys_invocation inv LEFT JOIN sys_deployment dp ON dp.id = inv.pinned_deployment_id
         WHERE inv.id = '{id}' AND inv.id in ('{id}') ORDER BY inv.created_at DESC, inv.id"
    )).await;
    assert_eq!(details.len(), 1);
    assert_eq!(details[0]["pinned_deployment_exists"], false);
    for (names, count) in [
        ("'promise_name'", 1),
        ("'version', 'entry_json', 'appended_at'", 3),
    ] {
        let text = format!(
            "SELECT COUNT(*) FROM information_schema.columns WHERE table_name = 'sys_journal' AND column_name IN ({names})"
        );
        assert_eq!(sql.count(&text).await, count);
    }
    let journal = sql.rows(&format!(
        "SELECT sj.index, sj.entry_type, sj.completed, sj.invoked_id, sj.invoked_target, sj.sleep_wakeup_at, sj.name,
         sj.promise_name, sj.version, sj.entry_json, sj.appended_at
         FROM sys_journal sj WHERE sj.id = '{id}' ORDER BY index DESC LIMIT 100"
    )).await;
    assert_eq!(journal.len(), 2);
    let counts = sql.rows(
        "SELECT target_service_name, target_handler_name, 'pending' as status, COUNT(1) as num_invocations,
         MIN(created_at) as oldest_at, FIRST_VALUE(id ORDER BY created_at ASC) as oldest_invocation
         FROM sys_invocation_status WHERE status == 'inboxed' AND target_service_name IN ('Counter')
         GROUP BY target_service_name, target_handler_name",
    ).await;
    assert_eq!(counts[0]["num_invocations"], 1);
    let counts = sql
        .rows(
            "SELECT target_service_name, target_handler_name, status, COUNT(1) as num_invocations,
         MIN(created_at) as oldest_at, FIRST_VALUE(id ORDER BY created_at ASC) as oldest_invocation
         FROM sys_invocation WHERE target_service_name IN ('Counter','Greeter')
         GROUP BY target_service_name, target_handler_name, status ORDER BY target_handler_name",
        )
        .await;
    assert_eq!(counts.len(), 7);
    let pending = sql.rows(
        "SELECT service_name, service_key, COUNT(1) as num_pending FROM sys_inbox WHERE service_name IN ('Counter')
         GROUP BY service_name, service_key ORDER BY num_pending DESC",
    ).await;
    assert_eq!(
        pending,
        [json!({"service_name": "Counter", "service_key": "k1", "num_pending": 1})]
    );
    let locked = sql.rows(
        "SELECT target_service_name as service_name, target_service_key as service_key, status as invocation_status,
         first_value(id) as invocation_holding_lock, first_value(target_handler_name) as invocation_method_holding_lock,
         first_value(created_at) as invocation_created_at, first_value(modified_at) as modified_at,
         first_value(pinned_deployment_id) as pinned_deployment_id, first_value(last_attempt_deployment_id) as last_attempt_deployment_id,
         first_value(last_failure) as last_failure_message, first_value(next_retry_at) as next_retry_at,
         first_value(last_start_at) as last_start_at, 0 as num_pending, sum(retry_count) as num_retries
         FROM sys_invocation WHERE status != 'pending' AND target_service_name IN ('Counter')
         GROUP BY target_service_name, target_service_key, status",
    ).await;
    assert_eq!(locked.len(), 2);
    sql.rows("SELECT target_service_name as service, target_handler_name as handler, COUNT(1) AS inv_count
         FROM sys_invocation_status WHERE pinned_deployment_id = 'd' AND status != 'completed'
         GROUP BY pinned_deployment_id, target_service_name, target_handler_name").await;
    assert_eq!(sql.count("SELECT COUNT(1) AS inv_count FROM sys_invocation_status WHERE pinned_deployment_id = 'd' AND status != 'completed'").await, 0);
    for (query, count) in [
        (format!("id = '{id}'"), 0),
        ("target LIKE 'Counter/%'".to_owned(), 3),
        ("((target = 'Greeter/greet' AND target_service_ty = 'service') OR (target LIKE 'Greeter/greet/%' AND target_service_ty != 'service'))".to_owned(), 3),
        ("target LIKE 'Counter/k1/add'".to_owned(), 2),
    ] {
        let rows = sql.rows(&format!("SELECT id, target FROM sys_invocation_status WHERE {query} AND status != 'completed' LIMIT 500")).await;
        assert_eq!(rows.len(), count, "{query}");
    }
    let state = sql
        .rows(
            "select key, value from state where service_name = 'Counter' and service_key = 'k2' ;",
        )
        .await;
    assert_eq!(state, [json!({"key": "count", "value": "31"})]);
    assert_eq!(
        sql.rows(
            "SELECT service_name, service_key, key, value FROM state WHERE service_name = 'Counter'"
        )
        .await
        .len(),
        3
    );
    for text in [
        "SELECT id, is_active, queue_is_paused, service_name, scope, limit_key, lock_name, created_at, last_enqueued_at,
         last_start_at, last_attempt_at, last_finish_at, num_inbox, num_running, num_suspended, num_paused, num_finished
         FROM sys_vqueue_meta WHERE id = 'vq_1' LIMIT 100",
        "SELECT entry_id, entry_kind, stage, status, has_lock, created_at, num_attempts, deployment FROM sys_vqueues WHERE id = 'vq_1' LIMIT 100",
        "SELECT pattern, concurrency, description, disabled, version, last_modified FROM sys_rules WHERE pattern = 'p' ORDER BY pattern",
        "select * from sys_scheduler", "select * from sys_user_limits", "select * from sys_vqueue_entry_status",
    ] {
        assert!(sql.rows(text).await.is_empty());
    }
}

#[tokio::test]
async fn what_users_write_runs() {
    let sql = sql();
    for text in [
        "with c as (select status, count(*) as n from sys_invocation group by status) select * from c where n > 1",
        "select id from sys_invocation union select id from sys_journal",
        "select case when status = 'paused' then 1 else 0 end as is_paused from sys_invocation limit 3 offset 1",
        "select id from sys_invocation where created_at > now() - interval '1 hour'",
        "select id from sys_invocation where created_at > '2026-11-21T00:00:00Z'",
        "select upper(target), length(target), substr(target, 1, 3), cast(journal_size as bigint) from sys_invocation",
        "select date_trunc('hour', created_at) as hour, avg(journal_size) from sys_invocation group by 1",
        "select id from sys_deployment where array_has(services, 'x')",
        "select a.id from sys_invocation a inner join sys_invocation_status b on a.id = b.id where a.status <> 'completed'",
        "select table_name from information_schema.tables",
        "show tables",
        "describe sys_journal",
        "explain select * from sys_invocation where id is null",
        "set datafusion.execution.batch_size = 10",
        "select * from nodes",
        "select * from partitions",
        "select * from partition_state",
        "select * from log_segments",
        "select * from log_replicas",
        "select * from config",
    ] {
        sql.rows(text).await;
    }
    assert_eq!(
        sql.bytes("select id from sys_invocation limit 0", Format::Json)
            .await
            .unwrap(),
        b"{\"rows\":[]}"
    );
    assert_eq!(
        sql.rows("select id from sys_invocation limit 3")
            .await
            .len(),
        3
    );
}

#[tokio::test]
async fn json_inside_columns_can_be_asked_for() {
    let sql = sql();
    let rows = sql.rows(
        r#"select json_get_str('{"a":"b"}', 'a') as s, '{"a":{"b":3}}'->'a'->>'b' as arrows, json_get_int('[1,2]', 1) as i,
           json_contains('{"a":1}', 'b') as has, json_length('[1,2]') as n, json_get('{"a":"b"}', 'a') as t,
           json_get_bool('{"a":true}', 'a') as b, json_get_float('{"a":1.5}', 'a') as f, json_get('rubbish', 'a') as bad"#,
    ).await;
    let expected = json!({"s": "b", "arrows": "3", "i": 2, "has": false, "n": 2, "t": "b", "b": true, "f": 1.5});
    assert_eq!(rows, [expected]);
    let rows = sql.rows("select json_get_int(entry_json, 'Notification', 'Completion', 'Run', 'completion_id') as id
        from sys_journal where json_contains(entry_json, 'Notification')").await;
    assert_eq!(rows, [json!({"id": 3})]);
}

#[tokio::test]
async fn a_lookup_reads_one_partition() {
    let sql = sql();
    let id = id_of(&target("Greeter", None, "greet"), 1);
    let other = id_of(&target("Counter", Some("k2"), "add"), 5);
    let key = PartitionKey::of_key("k1").0;
    for (text, partitions) in [
        ("select * from sys_invocation".to_owned(), 8),
        (format!("select * from sys_invocation where id = '{id}'"), 1),
        (format!("select * from sys_invocation inv where inv.id in ('{id}','{other}')"), 2),
        (format!("select * from sys_journal where id = '{id}' and index > 0"), 1),
        (format!("select * from sys_journal_events where id = '{id}'"), 1),
        (format!("select * from sys_invocation_state where id = '{id}'"), 1),
        (format!("select * from sys_invocation_status where partition_key = {key}"), 1),
        (format!("select * from state where partition_key = {key}"), 1),
        ("select * from state where service_name = 'Counter' and service_key = 'k1'".to_owned(), 1),
        ("select * from state where service_key = 'k1' and scope is null".to_owned(), 1),
        ("select * from state where service_key = 'w' and scope = 'tenant'".to_owned(), 1),
        ("select * from state where scope in ('tenant')".to_owned(), 1),
        ("select * from sys_promise where service_name = 'Signup' and service_key in ('w') and scope is null".to_owned(), 1),
        ("select * from sys_inbox where service_key = 'k1' and service_name in ('Counter')".to_owned(), 1),
        ("select * from sys_keyed_service_status where service_name = 'Counter' and (service_key = 'k1' or service_key = 'k1')".to_owned(), 1),
        (format!("select * from sys_vqueues where id = '{}'", scoped::queue()), 1),
        (format!("select * from sys_vqueue_entry_status where vqueue_id = '{}'", scoped::queue()), 1),
        (format!("select * from sys_invocation where vqueue_id = '{}'", scoped::queue()), 1),
        (format!("select * from sys_vqueues where entry_id = '{id}'"), 1),
        ("select * from sys_invocation where scope = 'tenant'".to_owned(), 1),
        ("select * from sys_invocation where target_service_key = 'k1' and target_service_name = 'Counter'".to_owned(), 1),
        (format!("select count(*) from (select * from sys_invocation where id = '{id}') where status = 'running'"), 1),
        (format!("select * from sys_invocation where id = '{id}' and id = '{other}'"), 0),
        ("select * from sys_deployment".to_owned(), 0),
    ] {
        let asked = sql.partitions(&text).await;
        assert!(asked <= partitions, "{text}: {asked}");
    }
    // What is asked for is no more than the row.
    sql.partitions(&format!(
        "select target from sys_invocation where id = '{id}'"
    ))
    .await;
    let asked = sql.rows.asked.lock().unwrap();
    assert_eq!(asked.len(), 1);
    assert_eq!(asked[0].1.ranges[0].start, keys::invocation(&id));
    assert!(!asked[0].1.attempts, "the target is no news of the leader");
}

#[tokio::test]
async fn what_changes_or_makes_no_sense_is_refused() {
    let sql = sql();
    for (text, message) in [
        ("selec 1", "found: selec"),
        ("", "No SQL statements were provided"),
        (
            "create table x as select 1",
            "DDL not supported: CreateMemoryTable",
        ),
        ("drop table state", "DDL not supported: DropTable"),
        ("create view v as select 1", "DDL not supported: CreateView"),
        (
            "create external table t stored as csv location '/etc/passwd'",
            "DDL not supported",
        ),
        ("delete from state", "DML not supported: Delete"),
        ("update state set key = 'x'", "DML not supported: Update"),
        ("insert into state values (1)", "Inconsistent data length"),
        (
            "insert into sys_service select * from sys_service",
            "DML not supported: Insert",
        ),
    ] {
        match sql.ask(text).await {
            Err(QueryError::Refused(error)) => assert!(error.contains(message), "{text}: {error}"),
            other => panic!("{text}: {other:?}"),
        }
    }
    for (text, message) in [
        (
            "select * from nosuch",
            "Error during planning: table 'restate.public.nosuch' not found",
        ),
        ("select nope from state", "No field named nope"),
        ("select 1; select 2", "single SQL statement"),
        ("select 1/0", "Divide by zero"),
        (
            "select * from sys_invocation where id = 'garbage'",
            "non valid invocation id",
        ),
        ("set x = 1", "could not find config namespace"),
    ] {
        match sql.ask(text).await {
            Err(QueryError::Failed(error)) => assert!(error.contains(message), "{text}: {error}"),
            other => panic!("{text}: {other:?}"),
        }
    }
}

#[tokio::test]
async fn texts_that_would_take_the_stack_are_refused_and_long_lists_are_not() {
    let sql = sql();
    for text in [
        format!("select 1{}", "+1".repeat(100_000)),
        format!("select {}1", "-(".repeat(10_000)),
        format!("select '{}'", "x".repeat(300_000)),
    ] {
        assert!(matches!(sql.ask(&text).await, Err(QueryError::Refused(_))));
    }
    let long = format!("select 1{} as n", "+1".repeat(1_900));
    assert_eq!(sql.rows(&long).await[0]["n"], 1_901);
    let or = format!(
        "select id from sys_invocation where target = 'x'{}",
        " or target = 'y'".repeat(600)
    );
    sql.rows(&or).await;
    let ids =
        (0..3000).map(|number| format!("'{}'", id_of(&target("Greeter", None, "greet"), number)));
    let ids = ids.collect::<Vec<_>>().join(",");
    assert_eq!(
        sql.rows(&format!(
            "select id from sys_invocation where id in ({ids})"
        ))
        .await
        .len(),
        5
    );
}

#[tokio::test]
async fn a_query_ends_at_its_limits() {
    let mut slow = rows();
    slow.slow = Some(Duration::from_secs(600));
    let options = QueryOptions {
        timeout: Duration::from_millis(300),
        concurrent_max: 1,
        ..QueryOptions::default()
    };
    let slow = over(slow, options);
    let text = "select * from sys_invocation";
    let (first, second) = tokio::join!(slow.ask(text), async {
        tokio::time::sleep(Duration::from_millis(50)).await;
        slow.ask(text).await
    });
    assert!(matches!(first, Err(QueryError::TimedOut(_))));
    assert!(matches!(second, Err(QueryError::Overloaded(1))));

    let mut large = Rows::default();
    for number in 0..200 {
        let key = format!("k{number}");
        let row = keys::state("Counter", &key, b"n");
        large.put(PartitionKey::of_key(&key), row, vec![b'x'; 50_000]);
    }
    let options = QueryOptions {
        memory_bytes: 2 << 20,
        ..QueryOptions::default()
    };
    let large = over(large, options);
    match large.ask("select * from state order by value").await {
        Err(QueryError::Failed(error)) => assert!(error.contains("Resources exhausted"), "{error}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(large.count("select count(*) from state").await, 200);
}
