//! The gRPC service behind `abidectl recover`.
//!
//! It is served before the node has joined: without a majority of the metadata servers no node joins.

use std::sync::Arc;
use std::time::Duration;

use abide_metadata::RecoveryError;
use abide_rpc::proto::recovery::recovery_server::Recovery;
use abide_rpc::proto::recovery::{
    LogRecoveryOrdered, LogsSurvey, MetadataRecovered, MetadataSurvey, RecoverLog, RecoverMetadata,
    SurveyLogs, SurveyMetadata,
};
use abide_types::PartitionId;
use tonic::{Request, Response, Status};

use crate::cluster_service::ask_all;
use crate::error::NodeError;
use crate::facts::{Facts, Member};
use crate::node::Fatal;
use crate::recovery_logs::{self, Refusal};
use crate::recovery_metadata::{self as metadata, position};

/// The answer to an order is on its way for so long before the node ends.
const ANSWER_LEAVES_WITHIN: Duration = Duration::from_millis(500);

/// Says what is left, and has it go on.
pub(crate) struct RecoveryService {
    pub(crate) facts: Arc<Facts>,
    pub(crate) fatal: Fatal,
}

impl RecoveryService {
    fn member(&self) -> Result<&Member, Status> {
        let member = self.facts.member.get();
        member.ok_or_else(|| Status::unavailable(self.facts.awaits().to_string()))
    }

    /// Has another node do what is asked.
    async fn pass_on(
        &self,
        address: &str,
        request: RecoverMetadata,
    ) -> Result<Response<MetadataRecovered>, Status> {
        let mut client = metadata::client(address)
            .await
            .map_err(|reason| Status::unavailable(format!("{address}: {reason}")))?;
        client.go_on_with_metadata(request).await
    }
}

#[tonic::async_trait]
impl Recovery for RecoveryService {
    async fn metadata(
        &self,
        request: Request<SurveyMetadata>,
    ) -> Result<Response<MetadataSurvey>, Status> {
        if request.get_ref().local {
            return Ok(Response::new(MetadataSurvey {
                servers: metadata::own(&self.facts).into_iter().collect(),
                ..MetadataSurvey::default()
            }));
        }
        Ok(Response::new(metadata::survey(&self.facts).await))
    }

    async fn go_on_with_metadata(
        &self,
        request: Request<RecoverMetadata>,
    ) -> Result<Response<MetadataRecovered>, Status> {
        let request = request.into_inner();
        let survey = metadata::survey(&self.facts).await;
        let refused = |detail: String| Err(Status::aborted(detail));
        let holds = |node: u32| survey.servers.iter().find(|found| found.node == node);
        let Some(chosen) = holds(request.node) else {
            return refused(format!("N{} does not answer", request.node));
        };
        let own = metadata::own(&self.facts).map(|own| own.node);
        if own != Some(request.node) {
            return self.pass_on(&chosen.address, request).await;
        }
        if survey.quorum {
            return refused(
                "a majority of the metadata servers answers: it elects by itself".into(),
            );
        }
        if survey.best != request.node {
            return refused(format!("N{} holds more", survey.best));
        }
        if chosen.fingerprint != request.fingerprint {
            return refused(format!("its cluster is {:016x}", chosen.fingerprint));
        }
        let Some(server) = self.facts.server.get() else {
            return refused("this node runs no metadata server".into());
        };
        let ordered = server.order_recovery(position(request.last.as_ref())).await;
        let fingerprint = ordered.map_err(|error| match error {
            RecoveryError::Storage(_) => Status::internal(error.to_string()),
            RecoveryError::NoMember | RecoveryError::Moved { .. } => {
                Status::aborted(error.to_string())
            }
        })?;
        tracing::warn!("an operator has the cluster go on with this server's metadata alone");
        let fatal = self.fatal.clone();
        tokio::spawn(async move {
            tokio::time::sleep(ANSWER_LEAVES_WITHIN).await;
            let reason = "its next start makes its metadata the cluster's".to_owned();
            // A failure that was reported before ends it as well.
            let _ = fatal.try_send(NodeError::StartAgain(reason));
        });
        Ok(Response::new(MetadataRecovered { fingerprint }))
    }

    async fn logs(&self, request: Request<SurveyLogs>) -> Result<Response<LogsSurvey>, Status> {
        let member = self.member()?;
        let answers = ask_all(member).await;
        let view = member.metadata.view();
        let count = (view.cluster.as_ref()).map_or(0, |cluster| cluster.partitions);
        let wanted = request.into_inner().partitions;
        if let Some(missing) = wanted.iter().find(|wanted| u32::from(count) <= **wanted) {
            return Err(Status::not_found(format!(
                "partition {missing} does not exist"
            )));
        }
        let logs = (0..count)
            .filter(|partition| wanted.is_empty() || wanted.contains(&u32::from(*partition)))
            .filter_map(|partition| recovery_logs::survey(&view, PartitionId(partition), &answers));
        Ok(Response::new(LogsSurvey {
            logs: logs.collect(),
        }))
    }

    async fn go_on_with_log(
        &self,
        request: Request<RecoverLog>,
    ) -> Result<Response<LogRecoveryOrdered>, Status> {
        let member = self.member()?;
        let answers = ask_all(member).await;
        let ordered = recovery_logs::order(member, request.get_ref(), &answers).await;
        let (epoch, leader) = ordered.map_err(|refusal| match &refusal {
            Refusal::Unknown(_) => Status::not_found(refusal.to_string()),
            Refusal::Commit(_) => Status::unavailable(crate::start::chain(&refusal)),
            Refusal::NotStuck(_) | Refusal::Changed { .. } | Refusal::Obstacle { .. } => {
                Status::aborted(refusal.to_string())
            }
        })?;
        Ok(Response::new(LogRecoveryOrdered {
            epoch: epoch.0,
            leader: leader.0,
        }))
    }
}
