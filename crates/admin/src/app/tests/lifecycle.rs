//! Restarts, moves and changes of state: what is asked of the cluster, and how its answers are told.

use abide_processor::api::Unsuitable;
use abide_types::DeploymentId;

use super::*;

fn path(route: &str) -> String {
    format!("/invocations/{}/{route}", known_id())
}

const OTHER: &str = "dp_15lNk3dHh4I0P0CdYbUf9jr";

fn outside() -> Unsuitable {
    Unsuitable::Protocol {
        deployment: OTHER.parse::<DeploymentId>().unwrap(),
        bound: 6,
        min: 5,
        max: 5,
    }
}

#[tokio::test]
async fn restarts_tell_the_new_id_and_take_an_index_and_a_deployment() {
    let api = api();
    let new = InvocationId::new(PartitionKey(1), [9; 16]);
    let answer = api.ask("PATCH", &path("restart-as-new"), Value::Null).await;
    let told = format!(r#"{{"new_invocation_id":"{new}"}}"#);
    assert_eq!(answer, (200, told));
    for query in ["from=3&deployment=keep", &format!("deployment={OTHER}")] {
        let path = path(&format!("restart-as-new?{query}"));
        assert_eq!(api.ask("PATCH", &path, Value::Null).await.0, 200);
    }
    assert_eq!(
        *api.asked.lock().unwrap(),
        [
            "from 0 Latest".to_owned(),
            "from 3 Keep".to_owned(),
            format!(
                "from 0 Deployment({:?})",
                OTHER.parse::<DeploymentId>().unwrap()
            ),
        ]
    );
    let odd = path("restart-as-new?from=x");
    assert_eq!(
        api.ask("PATCH", &odd, Value::Null).await,
        (
            400,
            "Failed to deserialize query string: from: invalid digit found in string".to_owned()
        )
    );
    for (text, reason) in [("bad", "bad format"), ("", "bad length")] {
        let odd = path(&format!("restart-as-new?deployment={text}"));
        let refused = api.ask("PATCH", &odd, Value::Null).await;
        let message = format!("The query parameter 'deployment' is invalid. Reason: {reason}");
        check_error(refused, 400, &message);
    }
}

#[tokio::test]
async fn what_cannot_be_restarted_is_told_as_the_reference_says() {
    let api = api();
    let id = known_id();
    let table = [
        (
            Restarted::NotFound,
            404,
            format!("The requested invocation '{id}' does not exist"),
        ),
        (
            Restarted::StillRunning,
            409,
            format!("The invocation '{id}' is still running."),
        ),
        (
            Restarted::NotStarted,
            425,
            format!("The invocation '{id}' cannot be restarted because it's not running yet."),
        ),
        (
            Restarted::NoInput,
            410,
            format!(
                "The invocation '{id}' cannot be restarted because the input is not available. This indicates that the journal was already purged, or not retained at all."
            ),
        ),
        (
            Restarted::Unsupported,
            422,
            format!(
                "Restarting the invocation '{id}' is not supported. Restarting workflows is not supported, and restarting invocations created using the old service protocol."
            ),
        ),
        (
            Restarted::Incomplete,
            400,
            format!(
                "The prefix of the journal '{id}' up to 'from' (included) contains some Commands without respective Completions."
            ),
        ),
        (
            Restarted::Unsuitable(Unsuitable::Unknown),
            400,
            format!(
                "The given deployment was not found when trying to restart as new the invocation '{id}'."
            ),
        ),
        (
            Restarted::Unsuitable(outside()),
            400,
            format!(
                "The invocation '{id}' is running on protocol version '6', while the chosen deployment '{OTHER}' supports the range 5..=5."
            ),
        ),
    ];
    for (restarted, status, message) in table {
        *api.restarted.lock().unwrap() = restarted;
        let refused = api.ask("PATCH", &path("restart-as-new"), Value::Null).await;
        check_error(refused, status, &message);
    }
}

#[tokio::test]
async fn resuming_elsewhere_is_passed_on_and_refused_as_the_reference_says() {
    let api = api();
    for query in ["", "?deployment=latest", "?deployment=KEEP"] {
        let path = path(&format!("resume{query}"));
        assert_eq!(api.ask("PATCH", &path, Value::Null).await.0, 200);
    }
    assert_eq!(*api.asked.lock().unwrap(), ["Keep", "Latest", "Keep"]);
    let id = known_id();
    let table = [
        (
            Operated::CannotMove,
            409,
            format!(
                "The invocation '{id}' is still running or the deployment id is not pinned yet, deployment id cannot be changed."
            ),
        ),
        (
            Operated::Unsuitable(Unsuitable::Unknown),
            400,
            format!(
                "The given deployment was not found when trying to resume the invocation '{id}'."
            ),
        ),
        (
            Operated::Unsuitable(outside()),
            400,
            format!(
                "The invocation '{id}' is running on protocol version '6', while the chosen deployment '{OTHER}' supports the range 5..=5."
            ),
        ),
    ];
    for (operated, status, message) in table {
        *api.operated.lock().unwrap() = operated;
        let refused = api.ask("PATCH", &path("resume"), Value::Null).await;
        check_error(refused, status, &message);
    }
}

#[tokio::test]
async fn batches_restart_and_tell_failures_in_short() {
    let api = api();
    let id = known_id().to_string();
    let new = InvocationId::new(PartitionKey(1), [9; 16]);
    let batch = |name: &str| format!("/internal/invocations_batch_operations/{name}");
    let ids = json!({"invocation_ids": [id]});
    let (_, body) = api.ask("POST", &batch("restart-as-new"), ids.clone()).await;
    assert_eq!(
        body,
        format!(
            r#"{{"succeeded":[{{"old_invocation_id":"{id}","new_invocation_id":"{new}"}}],"failed":[]}}"#
        )
    );
    let table = [
        (
            Operated::AlreadyCompleted,
            format!("Invocation '{id}' is completed, cannot be resumed"),
        ),
        (
            Operated::CannotMove,
            format!("Cannot change deployment ID for invocation '{id}'"),
        ),
        (
            Operated::Unsuitable(Unsuitable::Unknown),
            format!("Deployment not found when resuming invocation '{id}'"),
        ),
    ];
    for (operated, error) in table {
        *api.operated.lock().unwrap() = operated;
        let (status, body) = api.ask("POST", &batch("resume"), ids.clone()).await;
        assert_eq!(status, 200);
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            body["failed"],
            json!([{"invocation_id": id, "error": error}])
        );
    }
    let bad = json!({"invocation_ids": [id], "deployment": "bad"});
    for name in ["resume", "restart-as-new"] {
        let refused = api.ask("POST", &batch(name), bad.clone()).await;
        check_error(
            refused,
            400,
            "The request field 'deployment' is invalid. Reason: bad format",
        );
    }
    assert_eq!(api.ask("POST", &batch("nope"), ids).await.0, 404);
}

#[tokio::test]
async fn state_is_changed_where_there_is_some() {
    let api = api();
    *api.services.lock().unwrap() = json!([
        {"name": "counter", "ty": "VIRTUAL_OBJECT", "handlers": [{"name": "add"}]},
        {"name": "greeter", "ty": "SERVICE", "handlers": [{"name": "greet"}]},
    ]);
    api.register(json!({"uri": "http://h:1/"})).await;
    let change = |service: &str, body: Value| {
        let path = format!("/services/{service}/state");
        let api = &api;
        async move { api.ask("POST", &path, body).await }
    };
    let body = json!({"object_key": "k", "new_state": {"n": [49], "t": "x"}, "version": "v"});
    assert_eq!(change("counter", body.clone()).await, (202, String::new()));
    assert_eq!(
        *api.asked.lock().unwrap(),
        [
            r#"StateChange { service: "counter", service_kind: VirtualObject, key: "k", entries: [("n", b"1"), ("t", b"x")], version: Some("v") }"#
        ]
    );
    check_error(
        change("greeter", body.clone()).await,
        400,
        "Cannot modify state for service type Service",
    );
    check_error(
        change("gone", body).await,
        404,
        "The requested service 'gone' does not exist",
    );
    let clear = json!({"object_key": "k", "new_state": {}});
    assert_eq!(change("gone", clear).await.0, 202);
    for odd in [
        json!({"new_state": {}}),
        json!({"object_key": "k"}),
        json!({"object_key": "k", "new_state": {"a": [256]}}),
    ] {
        assert_eq!(change("counter", odd).await.0, 422);
    }
}
