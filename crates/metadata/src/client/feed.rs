//! Feeds the cache: from the server in this process, or from a watch stream of any other that resumes where
//! the one before it ended.

use std::sync::Arc;

use abide_rpc::proto::metadata as pb;

use super::identify;
use super::route::{Route, jittered};
use crate::server::{Core, superseded_by, went_on};
use crate::transport::request;
use crate::txn::Versioned;
use crate::view::Change;

/// Feeds the cache from the server in this process.
pub(crate) async fn from_local(core: Arc<Core>, route: Arc<Route>) {
    let mut applied = core.shared.applied();
    loop {
        applied.borrow_and_update();
        advance(&route, &core);
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Brings the cache to where the server in this process is.
pub(crate) fn advance(route: &Route, core: &Core) {
    route.view.send_if_modified(|view| {
        let change = core.shared.read(|state| state.changes_since(view.version));
        match change {
            Some(change) => {
                *view = Arc::new(view.with(&change));
                true
            }
            None => false,
        }
    });
}

/// Feeds the cache from other servers, one at a time.
pub(crate) async fn from_remote(route: Arc<Route>) {
    let mut pause = route.options.retry_pause_min;
    loop {
        for address in route.addresses() {
            match follow(&route, &address).await {
                Ok(()) => pause = route.options.retry_pause_min,
                Err(detail) => {
                    tracing::debug!(address, detail, "no metadata from there");
                    check_superseded(&route, &address).await;
                }
            }
        }
        tokio::time::sleep(jittered(pause)).await;
        pause = (pause * 2).min(route.options.retry_pause_max);
    }
}

/// Notes it if the server belongs to what the cluster was recovered to without this client knowing.
async fn check_superseded(route: &Route, address: &str) {
    let Ok(reply) = identify(&route.channels, address, &route.options).await else {
        return;
    };
    if went_on(&reply, route.fingerprint) {
        route.superseded.send_replace(Some(superseded_by(&reply)));
    }
}

/// Follows one server until its stream ends; an error says that it never began.
async fn follow(route: &Route, address: &str) -> Result<(), String> {
    let timeout = route.options.attempt_timeout;
    let mut client = route.channels.metadata(address).await?;
    let message = pb::WatchRequest {
        from_version: route.view.borrow().version,
    };
    let mut request = request(message, route.fingerprint, timeout);
    // The stream has no end that could be set; keep-alive finds out about a server that is gone.
    request.metadata_mut().remove("grpc-timeout");
    let opened = tokio::time::timeout(timeout, client.watch(request))
        .await
        .map_err(|_| format!("no answer within {timeout:?}"))
        .and_then(|opened| opened.map_err(|status| status.message().to_owned()));
    let mut changes = match opened {
        Ok(opened) => opened.into_inner(),
        Err(detail) => {
            route.channels.forget(address);
            return Err(detail);
        }
    };
    loop {
        match changes.message().await {
            Ok(Some(reply)) => apply(route, reply),
            Ok(None) => return Ok(()),
            Err(status) => {
                route.channels.forget_if_broken(address, &status);
                tracing::debug!(address, %status, "the metadata stream broke");
                return Ok(());
            }
        }
    }
}

fn apply(route: &Route, reply: pb::WatchReply) {
    let change = Change {
        version: reply.version,
        full: reply.full,
        documents: reply
            .documents
            .into_iter()
            .map(|document| {
                let stored = Versioned {
                    version: document.version,
                    value: document.value,
                };
                (document.key, stored)
            })
            .collect(),
        deleted: reply.deleted,
    };
    route.view.send_if_modified(|view| {
        // A server that is behind sends nothing; this is for one that is not as it should be.
        if change.version <= view.version {
            return false;
        }
        *view = Arc::new(view.with(&change));
        true
    });
}
