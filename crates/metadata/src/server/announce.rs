//! How servers find each other again when all of them were restarted, perhaps at other addresses: until a
//! start is registered, and whenever nobody leads, each tells the others where it is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use abide_rpc::proto::metadata as pb;
use abide_types::{Generation, NodeId};

use super::core::Core;
use super::recovery::{superseded_by, went_on};
use crate::errors::ServerFailure;
use crate::transport::{Channels, host_and_port, request};

/// Longest pause between two rounds.
const PAUSE_MAX: Duration = Duration::from_secs(1);
/// How often it is looked whether the cluster goes on without this server.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Announces this server for as long as others may not know where it is. Ends with the server.
pub(crate) async fn run(core: Arc<Core>) {
    let mut leader = core.leader.subscribe();
    let mut registered = core.registered.subscribe();
    let mut pause = core.options.retry_pause_min;
    loop {
        // After a restart raft remembers the leader that it voted for, but that one may not know the address.
        let needed = !*registered.borrow_and_update() || leader.borrow_and_update().is_none();
        if needed {
            announce(&core).await;
        } else {
            pause = core.options.retry_pause_min;
        }
        tokio::select! {
            () = tokio::time::sleep(pause), if needed => pause = (pause * 2).min(PAUSE_MAX),
            // Servers that were given up may have come back together and follow one of their own; and who was removed
            // is not replicated to from then on, perhaps not even that it was.
            () = tokio::time::sleep(LOOK_EVERY), if !needed => look(&core).await,
            ended = leader.changed() => if ended.is_err() { return },
            ended = registered.changed() => if ended.is_err() { return },
        }
    }
}

/// Every address at which a metadata server may be, but not this one's.
pub(crate) fn others(core: &Core) -> BTreeSet<String> {
    let own = host_and_port(&core.description.address);
    core.options
        .addresses
        .iter()
        .map(|address| host_and_port(address).to_owned())
        .chain(
            core.addresses
                .all()
                .into_iter()
                .map(|(_, _, address)| address),
        )
        .filter(|address| address != own)
        .collect()
}

/// Tells every other server where this one is, and learns where they are.
async fn announce(core: &Core) {
    let identity = core.identity();
    let from = pb::ServerAddress {
        node: identity.node,
        generation: identity.generation,
        address: core.description.address.clone(),
    };
    let asked = others(core).into_iter().map(|address| {
        let from = from.clone();
        async move {
            match identify(core, &address, Some(from)).await {
                Ok(reply) => {
                    check(core, &reply);
                    (reply.fingerprint == core.fingerprint()).then_some(reply)
                }
                // It may be one that went on; to strangers it tells.
                Err(_) => {
                    check(core, &identify(core, &address, None).await.ok()?);
                    None
                }
            }
        }
    });
    for reply in futures::future::join_all(asked).await.into_iter().flatten() {
        for server in reply.servers {
            core.addresses.learn(
                NodeId(server.node),
                Generation(server.generation),
                &server.address,
            );
        }
    }
}

/// Looks whether the cluster goes on without this server.
async fn look(core: &Core) {
    let asked = others(core)
        .into_iter()
        .map(|address| async move { identify(core, &address, None).await });
    for reply in futures::future::join_all(asked).await.iter().flatten() {
        check(core, reply);
    }
}

fn check(core: &Core, reply: &pb::IdentifyReply) {
    if went_on(reply, core.fingerprint()) {
        core.fail(ServerFailure::Superseded(superseded_by(reply)));
    } else if reply.member_removed && reply.fingerprint == core.fingerprint() {
        let node = NodeId(core.identity().node);
        core.fail(ServerFailure::Removed { node });
    }
}

/// Asks who is at an address.
pub(crate) async fn identify(
    core: &Core,
    address: &str,
    from: Option<pb::ServerAddress>,
) -> Result<pb::IdentifyReply, String> {
    let fingerprint = if from.is_some() {
        core.fingerprint()
    } else {
        0
    };
    let message = pb::IdentifyRequest {
        from,
        member: core.identity().node,
    };
    let timeout = core.options.attempt_timeout;
    identify_at(&core.channels, address, fingerprint, message, timeout).await
}

/// Asks who is at an address; a fingerprint of 0 is not told.
pub(crate) async fn identify_at(
    channels: &Channels,
    address: &str,
    fingerprint: u64,
    message: pb::IdentifyRequest,
    timeout: Duration,
) -> Result<pb::IdentifyReply, String> {
    let asked = async {
        let mut client = channels.metadata(address).await?;
        client
            .identify(request(message, fingerprint, timeout))
            .await
            .map(tonic::Response::into_inner)
            .map_err(|status| {
                channels.forget_if_broken(address, &status);
                status.message().to_owned()
            })
    };
    tokio::time::timeout(timeout, asked)
        .await
        .unwrap_or_else(|_| Err(format!("{address} did not answer within {timeout:?}")))
}
