//! What endpoints are told of traces.

#![allow(clippy::unwrap_used, reason = "tests")]

mod support;

use abide_invoker::api::AttemptTrace;
use abide_types::TraceContext;
use support::*;
use tokio::sync::mpsc;

#[tokio::test]
async fn an_endpoint_gets_the_attempts_place_in_its_trace() {
    let (seen, mut saw) = mpsc::channel(2);
    let uri = endpoint(move |mut stream| {
        let seen = seen.clone();
        async move {
            let header = |name: &str| {
                let value = stream.headers.get(name)?;
                Some(value.to_str().unwrap().to_owned())
            };
            let headers = (header("traceparent"), header("tracestate"));
            seen.send(headers).await.unwrap();
            stream.replay().await;
            stream.accept();
            stream.send(join([output("x"), end()]));
            stream.finish().await;
        }
    })
    .await;
    let mut leader = Leader::new(&uri, "BIDI_STREAM", 7);
    let mut attempt = leader.attempt("Plain", "h");
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    attempt.trace = Some(Box::new(AttemptTrace {
        context: TraceContext::from_headers(parent, "").unwrap(),
        parent: 1,
    }));
    let _handle = leader.start(attempt).await;
    leader.transcript().await;
    let traced = (Some(parent.to_owned()), Some(String::new()));
    assert_eq!(saw.recv().await.unwrap(), traced);
    leader.run("Plain", "h").await;
    assert_eq!(saw.recv().await.unwrap(), (None, None));
}
