//! The rule book and queues, as the peer answers the same requests.

use super::*;

#[tokio::test]
async fn rules_are_written_all_or_none_and_removed() {
    let api = api();
    let put = async |body: Value| {
        let (status, body) = api.ask("PUT", "/limits/rules", body).await;
        let times = body
            .split("\"last_modified_millis_since_epoch\":")
            .map(|part| {
                let rest = part.trim_start_matches(|digit: char| digit.is_ascii_digit());
                rest.to_owned()
            });
        (status, times.collect::<Vec<_>>().join(""))
    };
    let delete = async |body: Value| api.ask("POST", "/limits/rules/bulk-delete", body).await;
    let written = put(json!([
        {"pattern": "a", "limits": {"concurrency": 1}},
        {"pattern": "a/*/", "limits": {"concurrency": null}, "description": "d", "disabled": true},
    ]));
    check(
        written.await,
        "ID",
        expect![[r#"
            200 [{"pattern":"a","limits":{"concurrency":1},"disabled":false,"version":1,},{"pattern":"a/*","limits":{},"description":"d","disabled":true,"version":1,}]
        "#]],
    );
    let refused = put(json!([
        {"pattern": "b"},
        {"pattern": "a", "limits": {"concurrency": 2}, "precondition": {"type": "matches", "version": 9}},
    ]));
    check_error(
        refused.await,
        409,
        "rule precondition Matches(v9) for pattern a failed (actual version: Some(v1))",
    );
    let (status, body) = put(json!([{"pattern": "a/b/c/d"}])).await;
    assert_eq!(status, 422);
    assert!(
        body.contains("[0].pattern: too many path components (max 3)"),
        "{body}"
    );
    let (status, _) = put(json!([{"pattern": "a", "limits": {"concurrency": 0}}])).await;
    assert_eq!(status, 422);
    let (status, body) = delete(json!([{"pattern": "a"}, {"pattern": "b"}])).await;
    assert_eq!((status, body.as_str()), (200, r#"["a"]"#));
    let refused = delete(json!([{"pattern": "a", "expected_version": 1}]));
    check_error(
        refused.await,
        409,
        "rule precondition Matches(v1) for pattern a failed (actual version: None)",
    );
}

#[tokio::test]
async fn queues_are_paused_by_their_ids() {
    let api = api();
    let queue = "/vqueues/vq_19LKqWyghGdN5ELMgVUQDTEPY6v7ex4Ta3";
    for verb in ["pause", "resume"] {
        let answer = api
            .ask("POST", &format!("{queue}/{verb}"), Value::Null)
            .await;
        assert_eq!(answer, (202, String::new()));
        let refused = api
            .ask("POST", &format!("/vqueues/x/{verb}"), Value::Null)
            .await;
        check_error(
            refused,
            400,
            "The request field 'vqueue_id' is invalid. Reason: bad format",
        );
    }
}
