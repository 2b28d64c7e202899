//! Kafka clusters and subscriptions, as the peer answers the same requests.

use super::*;

const BROKERS: &str = "bootstrap.servers";

async fn with_a_cluster() -> Api {
    let api = api();
    api.register(json!({"uri": "http://endpoint:9080/"})).await;
    let body =
        json!({"name": "my-cluster", "properties": {BROKERS: "b:9092", "sasl.password": "secret"}});
    let json = [("content-type", "application/json")];
    let (status, location, _) = api
        .raw("POST", "/kafka-clusters", &json, body.to_string())
        .await;
    assert_eq!(
        (status, location.as_str()),
        (201, "kafka-clusters/my-cluster")
    );
    api
}

async fn subscribe(api: &Api, source: &str, sink: &str) -> (u16, String) {
    let body = json!({"source": source, "sink": sink, "options": {"auto.offset.reset": "earliest", "x.secret": "y"}});
    api.ask("POST", "/subscriptions", body).await
}

#[tokio::test]
async fn a_kafka_cluster_is_shown_without_its_secrets() {
    let api = with_a_cluster().await;
    check(
        api.get("/kafka-clusters").await,
        "no id",
        expect![[r#"
            200 {"clusters":[{"name":"my-cluster","properties":{"bootstrap.servers":"b:9092","sasl.password":"***"},"created_at":"TIME"}]}
        "#]],
    );
    let patch = json!({"properties": {"metadata.broker.list": "c:9092"}});
    check(
        api.ask("PATCH", "/v3/kafka-clusters/my-cluster", patch)
            .await,
        "no id",
        expect![[r#"
            200 {"name":"my-cluster","properties":{"metadata.broker.list":"c:9092"},"created_at":"TIME"}
        "#]],
    );
    check(
        api.get("/kafka-clusters/my-cluster").await,
        "no id",
        expect![[r#"
            200 {"name":"my-cluster","properties":{"metadata.broker.list":"c:9092"},"created_at":"TIME","subscriptions":[]}
        "#]],
    );
    assert_eq!(
        api.ask("DELETE", "/kafka-clusters/my-cluster", Value::Null)
            .await,
        (202, String::new())
    );
}

#[tokio::test]
async fn a_secret_that_comes_back_as_it_was_shown_is_kept() {
    let api = with_a_cluster().await;
    let patch = json!({"properties": {BROKERS: "b:9093", "sasl.password": "***"}});
    let patched = api.ask("PATCH", "/kafka-clusters/my-cluster", patch).await;
    assert_eq!(patched.0, 200);
    let schema = api.schema();
    let properties = &schema.kafka_cluster("my-cluster").unwrap().properties;
    assert_eq!(properties["sasl.password"], "secret");
    assert_eq!(properties[BROKERS], "b:9093");
}

#[tokio::test]
async fn wrong_kafka_clusters_are_refused() {
    let api = with_a_cluster().await;
    let post = |body| api.ask("POST", "/kafka-clusters", body);
    check_error(
        post(json!({"name": "my-cluster", "properties": {BROKERS: "b:1"}})).await,
        409,
        "kafka cluster 'my-cluster' already exists in schema registry",
    );
    check_error(
        post(json!({"name": "nob", "properties": {}})).await,
        400,
        "kafka cluster 'nob' properties must contain either 'bootstrap.servers' or 'metadata.broker.list'",
    );
    let (status, text) = post(json!({"name": "no host", "properties": {BROKERS: "x"}})).await;
    assert_eq!(status, 422);
    assert!(
        text.starts_with(
            "Failed to deserialize the JSON body into the target type: name: invalid uri character"
        ),
        "{text}"
    );
    check_error(
        api.get("/kafka-clusters/nosuch").await,
        404,
        "The requested Kafka cluster 'nosuch' does not exist",
    );
    check_error(
        api.ask(
            "PATCH",
            "/kafka-clusters/nosuch",
            json!({"properties": {BROKERS: "x"}}),
        )
        .await,
        404,
        "not found in the schema registry: kafka cluster 'nosuch'",
    );
    check_error(
        api.ask("DELETE", "/kafka-clusters/nosuch", Value::Null)
            .await,
        404,
        "not found in the schema registry: kafka cluster named 'nosuch'",
    );
}

#[tokio::test]
async fn a_subscription_lives_until_it_is_deleted() {
    let api = with_a_cluster().await;
    let (status, body) =
        subscribe(&api, "kafka://my-cluster/orders", "service://greeter/greet").await;
    assert_eq!(status, 201, "{body}");
    let made: Value = serde_json::from_str(&body).unwrap();
    let id = made["id"].as_str().unwrap();
    assert!(id.starts_with("sub_1"));
    check(
        (status, body.clone()),
        id,
        expect![[r#"
            201 {"id":"ID","source":"kafka://my-cluster/orders","sink":"service://greeter/greet","options":{"auto.offset.reset":"earliest","client.id":"restate","group.id":"ID","x.secret":"***"}}
        "#]],
    );
    let one = format!("/subscriptions/{id}");
    assert_eq!(api.get(&one).await, (200, body.clone()));
    let listed = format!("{{\"subscriptions\":[{body}]}}");
    for path in [
        "/subscriptions",
        "/subscriptions?source=kafka://my-cluster/orders",
        "/subscriptions?sink=service://greeter/greet",
    ] {
        assert_eq!(api.get(path).await, (200, listed.clone()), "{path}");
    }
    assert_eq!(
        api.get("/subscriptions?sink=service://greeter/other")
            .await
            .1,
        r#"{"subscriptions":[]}"#
    );
    let shown = api
        .get("/kafka-clusters/my-cluster?include_subscriptions=true")
        .await
        .1;
    assert!(shown.contains(&body), "{shown}");
    check_error(
        api.ask("DELETE", "/kafka-clusters/my-cluster", Value::Null)
            .await,
        409,
        &format!(
            "Removing the kafka cluster 'my-cluster' leads to subscription '{id}' being orphan. Remove the subscription first, or use the 'force' flag."
        ),
    );
    assert_eq!(
        api.ask(
            "DELETE",
            "/kafka-clusters/my-cluster?force=true",
            Value::Null
        )
        .await
        .0,
        202
    );
    assert_eq!(
        api.ask("DELETE", &one, Value::Null).await,
        (202, String::new())
    );
    check_error(
        api.ask("DELETE", &one, Value::Null).await,
        404,
        &format!("not found in the schema registry: subscription with id '{id}'"),
    );
    check_error(
        api.get(&one).await,
        404,
        &format!("The requested subscription '{id}' does not exist"),
    );
    assert_eq!(
        api.get("/subscriptions/rubbish").await,
        (
            400,
            "Invalid URL: Cannot parse `subscription` with value `rubbish`: bad format".to_owned()
        )
    );
}

#[tokio::test]
async fn a_lost_answer_makes_no_second_subscription() {
    let api = with_a_cluster().await;
    *api.trouble.lock().unwrap() = vec![Written::Unknown, Written::No];
    let made = subscribe(&api, "kafka://my-cluster/orders", "service://greeter/greet").await;
    assert_eq!(made.0, 201);
    let listed: Value = serde_json::from_str(&api.get("/subscriptions").await.1).unwrap();
    assert_eq!(listed["subscriptions"].as_array().unwrap().len(), 1);
    *api.trouble.lock().unwrap() = vec![Written::Unknown];
    let body = json!({"name": "second", "properties": {BROKERS: "b:1"}});
    assert_eq!(api.ask("POST", "/kafka-clusters", body).await.0, 201);
    *api.trouble.lock().unwrap() = vec![Written::Unknown];
    assert_eq!(
        api.ask("DELETE", "/kafka-clusters/second", Value::Null)
            .await
            .0,
        202
    );
}

#[tokio::test]
async fn wrong_subscriptions_are_refused() {
    let api = with_a_cluster().await;
    let (good_source, good_sink) = ("kafka://my-cluster/orders", "service://greeter/greet");
    for (source, sink, message) in [
        (
            "kafka://nope/orders",
            good_sink,
            r#"Kafka cluster 'nope' not found. Available clusters: ["my-cluster"]"#,
        ),
        (
            "http://my-cluster/orders",
            good_sink,
            "[META0009] invalid source URI 'http://my-cluster/orders': must have a scheme segment, with supported schemes: [kafka].",
        ),
        (
            "kafka:my-cluster",
            good_sink,
            "[META0009] invalid source URI 'kafka:my-cluster': must have a scheme segment, with supported schemes: [kafka].",
        ),
        (
            good_source,
            "http://greeter/greet",
            "[META0009] invalid sink URI 'http://greeter/greet': must have a scheme segment, with supported schemes: [service].",
        ),
        (
            good_source,
            "service://nope/greet",
            "[META0009] invalid sink URI 'service://nope/greet': cannot find service/handler specified in the sink URI.",
        ),
        (
            good_source,
            "service://greeter",
            "[META0009] invalid sink URI 'service://greeter/': cannot find service/handler specified in the sink URI.",
        ),
    ] {
        let refused = subscribe(&api, source, sink).await;
        assert_eq!(
            refused.1.contains("\"restate_code\":\"META0009\""),
            message.starts_with('[')
        );
        check_error(refused, 400, message);
    }
    let (status, text) = subscribe(&api, "not a uri", good_sink).await;
    assert_eq!(status, 422);
    assert!(text.contains("source: invalid uri character"), "{text}");
}
