//! The connection to whichever node answers first.

use std::future::poll_fn;

use abide_rpc::proto::cluster::cluster_client::ClusterClient;
use abide_rpc::proto::cluster::{
    ClusterStatus, DescribeCluster, GetDocument, GetDocumentReply, GetLogs, LogEntry,
};
use abide_rpc::proto::metadata::metadata_client::MetadataClient;
use abide_rpc::proto::metadata::{ProvisionRequest, ProvisionSpec, provision_reply};
use abide_rpc::proto::operations::operations_client::OperationsClient;
use abide_rpc::proto::recovery::recovery_client::RecoveryClient;
use abide_rpc::proto::recovery::{
    LogSurvey, MetadataSurvey, RecoverLog, RecoverMetadata, SurveyLogs, SurveyMetadata,
};
use abide_rpc::proto::snapshots::snapshots_client::SnapshotsClient;
use http_body_util::{BodyExt as _, Limited};
use tonic::codegen::Service as _;
use tonic::transport::{Channel, Endpoint};

use crate::cli::Target;
use crate::failure::Failure;

/// Largest answer that is taken.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// One node.
pub(crate) struct Node {
    address: String,
    channel: Channel,
    target: Target,
}

impl Node {
    /// Connects to the first of the addresses at which somebody listens.
    pub(crate) async fn connect(target: &Target) -> Result<Self, Failure> {
        let mut tried = Vec::new();
        for address in &target.address {
            let endpoint = endpoint(address)?
                .connect_timeout(target.connect_timeout())
                .timeout(target.request_timeout());
            match endpoint.connect().await {
                Ok(channel) => {
                    let address = address.trim().to_owned();
                    return Ok(Self {
                        address,
                        channel,
                        target: target.clone(),
                    });
                }
                Err(error) => tried.push(format!("{address}: {}", root_cause(&error))),
            }
        }
        Err(Failure::Unreachable { tried })
    }

    /// Connects to another node with the same patience.
    pub(crate) async fn connect_to(address: &str, target: &Target) -> Result<Self, Failure> {
        Self::connect(&target.at(address)).await
    }

    /// What it was found with.
    pub(crate) fn target(&self) -> &Target {
        &self.target
    }

    /// What every metadata server holds.
    pub(crate) async fn survey_metadata(&self) -> Result<MetadataSurvey, Failure> {
        let answer = self
            .recovery()
            .metadata(SurveyMetadata { local: false })
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    /// Has the cluster go on with one server's metadata; the cluster's next fingerprint.
    pub(crate) async fn go_on_with_metadata(&self, order: RecoverMetadata) -> Result<u64, Failure> {
        let answer = self.recovery().go_on_with_metadata(order).await;
        answer
            .map(|answer| answer.into_inner().fingerprint)
            .map_err(|status| self.failure(&status))
    }

    /// What is left of logs; of all if none is named.
    pub(crate) async fn survey_logs(&self, partitions: &[u16]) -> Result<Vec<LogSurvey>, Failure> {
        let partitions = partitions.iter().copied().map(u32::from).collect();
        let answer = self.recovery().logs(SurveyLogs { partitions }).await;
        answer
            .map(|answer| answer.into_inner().logs)
            .map_err(|status| self.failure(&status))
    }

    /// Has a log go on with what is left; the epoch that takes over.
    pub(crate) async fn go_on_with_log(&self, order: RecoverLog) -> Result<u64, Failure> {
        let answer = self.recovery().go_on_with_log(order).await;
        answer
            .map(|answer| answer.into_inner().epoch)
            .map_err(|status| self.failure(&status))
    }

    fn recovery(&self) -> RecoveryClient<Channel> {
        RecoveryClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// As it was given.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    pub(crate) async fn describe(&self) -> Result<ClusterStatus, Failure> {
        let mut client = self.cluster();
        let answer = client.describe(DescribeCluster { with_load: false }).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    pub(crate) async fn logs(&self, partitions: &[u16]) -> Result<Vec<LogEntry>, Failure> {
        let partitions = partitions.iter().copied().map(u32::from).collect();
        let answer = self.cluster().logs(GetLogs { partitions }).await;
        answer
            .map(|answer| answer.into_inner().logs)
            .map_err(|status| self.failure(&status))
    }

    pub(crate) async fn document(
        &self,
        key: String,
        linearizable: bool,
    ) -> Result<GetDocumentReply, Failure> {
        let answer = self
            .cluster()
            .document(GetDocument { key, linearizable })
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    /// The node's own report of its health, whether it is well or not.
    pub(crate) async fn health(&self) -> Result<serde_json::Value, Failure> {
        let request = http::Request::get("/health").body(tonic::body::Body::empty());
        let request = request.map_err(|error| self.refused(error.to_string()))?;
        let mut channel = self.channel.clone();
        let lost = |error: &dyn std::error::Error| Failure::Unreachable {
            tried: vec![format!("{}: {}", self.address, root_cause(error))],
        };
        let sent = poll_fn(|context| channel.poll_ready(context)).await;
        sent.map_err(|error| lost(&error))?;
        let answer = channel.call(request).await.map_err(|error| lost(&error))?;
        let body = Limited::new(answer.into_body(), ANSWER_BYTES_MAX).collect();
        let body = body.await.map_err(|error| lost(&*error))?.to_bytes();
        serde_json::from_slice(&body)
            .map_err(|_| self.refused("this is no report of health; is it a node port?".to_owned()))
    }

    /// Forms a cluster; the fingerprint of the new one.
    pub(crate) async fn provision(&self, spec: ProvisionSpec) -> Result<u64, Failure> {
        let mut client = MetadataClient::new(self.channel.clone());
        let request = ProvisionRequest { spec: Some(spec) };
        let answer = client
            .provision(request)
            .await
            .map_err(|status| self.failure(&status))?;
        match answer.into_inner().outcome {
            Some(provision_reply::Outcome::Provisioned(fingerprint)) => Ok(fingerprint),
            Some(provision_reply::Outcome::AlreadyProvisioned(fingerprint)) => {
                Err(Failure::AlreadyProvisioned { fingerprint })
            }
            Some(provision_reply::Outcome::Invalid(detail)) => Err(self.refused(detail)),
            None => Err(self.refused("an answer that this program does not know".to_owned())),
        }
    }

    /// What changes the cluster. Refusals become failures by [`Node::failure`].
    pub(crate) fn operations(&self) -> OperationsClient<Channel> {
        OperationsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// What is asked about snapshots and backups.
    pub(crate) fn snapshots(&self) -> SnapshotsClient<Channel> {
        SnapshotsClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    pub(crate) fn cluster(&self) -> ClusterClient<Channel> {
        ClusterClient::new(self.channel.clone()).max_decoding_message_size(ANSWER_BYTES_MAX)
    }

    /// For other services of the node.
    pub(crate) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// What a refusal means.
    pub(crate) fn failure(&self, status: &tonic::Status) -> Failure {
        Failure::of(&self.address, status)
    }

    pub(crate) fn refused(&self, detail: String) -> Failure {
        Failure::Refused {
            address: self.address.clone(),
            detail,
        }
    }
}

/// Takes `http://host:port` and `host:port`.
fn endpoint(address: &str) -> Result<Endpoint, Failure> {
    let address = address.trim();
    let url = if address.contains("://") {
        address.to_owned()
    } else {
        format!("http://{address}")
    };
    let fail = |detail: String| Failure::Address {
        address: address.to_owned(),
        detail,
    };
    let endpoint = Endpoint::from_shared(url).map_err(|error| fail(root_cause(&error)))?;
    match endpoint.uri().scheme_str() {
        Some("http") if endpoint.uri().authority().is_some() => Ok(endpoint),
        Some(other) if other != "http" => {
            Err(fail(format!("'{other}' is not supported, only http")))
        }
        _ => Err(fail("the host is missing".to_owned())),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_lack_the_scheme_but_not_the_host() {
        assert_eq!(
            endpoint("node1:5122").unwrap().uri().to_string(),
            "http://node1:5122/"
        );
        assert!(endpoint(" http://node1:5122/").is_ok());
        for wrong in ["", "https://node1:5122", "http://", "a b"] {
            assert!(
                matches!(endpoint(wrong), Err(Failure::Address { .. })),
                "{wrong}"
            );
        }
    }
}
