//! What is asked of a node to look into it.

use abide_rpc::proto::cluster::{ClusterStatus, DescribeCluster};
use abide_rpc::proto::observe::observe_client::ObserveClient;
use abide_rpc::proto::observe::{
    CompactReply, CompactRequest, LogFilterReply, LogFilterRequest, LogPage, ReadLog, SqlQuery,
};

use crate::client::Node;
use crate::failure::Failure;

/// Bytes of rows that are taken; more is for the admin API, which streams.
const ROWS_BYTES_MAX: usize = 256 << 20;

/// Largest page of a log that is taken: far more than nodes send.
const PAGE_BYTES_MAX: usize = 64 << 20;

impl Node {
    /// The status with what every node does at the moment.
    pub(crate) async fn describe_with_load(&self) -> Result<ClusterStatus, Failure> {
        let answer = self
            .cluster()
            .describe(DescribeCluster { with_load: true })
            .await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    /// `{"rows":[...]}`.
    pub(crate) async fn query(&self, query: String) -> Result<Vec<u8>, Failure> {
        let mut client = ObserveClient::new(self.channel());
        let answer = client.query(SqlQuery { query }).await;
        let mut pieces = answer.map_err(|status| self.failure(&status))?.into_inner();
        let mut bytes = Vec::new();
        while let Some(piece) = pieces
            .message()
            .await
            .map_err(|status| self.failure(&status))?
        {
            bytes.extend_from_slice(&piece.json);
            if ROWS_BYTES_MAX < bytes.len() {
                let detail = format!(
                    "more than {} MiB of rows; `limit` them",
                    ROWS_BYTES_MAX >> 20
                );
                return Err(self.refused(detail));
            }
        }
        Ok(bytes)
    }

    /// A page of a log's records; the node's refusal as it came.
    pub(crate) async fn log_page(&self, request: ReadLog) -> Result<LogPage, tonic::Status> {
        let mut client =
            ObserveClient::new(self.channel()).max_decoding_message_size(PAGE_BYTES_MAX);
        client.log(request).await.map(tonic::Response::into_inner)
    }

    pub(crate) async fn compact(&self, request: CompactRequest) -> Result<CompactReply, Failure> {
        let answer = ObserveClient::new(self.channel()).compact(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failure(&status))
    }

    pub(crate) async fn log_filter(
        &self,
        request: LogFilterRequest,
    ) -> Result<LogFilterReply, Failure> {
        let answer = ObserveClient::new(self.channel()).log_filter(request).await;
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| self.failure(&status))
    }
}
