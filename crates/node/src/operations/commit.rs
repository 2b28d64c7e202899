//! Compare-and-set of documents, tried again when somebody came between.

use std::pin::Pin;
use std::time::Duration;

use abide_metadata::{CommitError, Document, Metadata, Txn, Versioned};

use abide_types::NodeId;

use super::OperationError;

/// How often a change is made anew because another came between.
const TRIES_MAX: usize = 8;
/// How long this node's own view may take to show what was committed.
const SEEN_WITHIN: Duration = Duration::from_secs(5);

/// The metadata client's futures are so deep that the compiler gives up on one that holds them.
type Boxed<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// What is stored under a key now, for sure.
pub(crate) async fn read(
    metadata: &Metadata,
    key: &str,
) -> Result<Option<Versioned>, OperationError> {
    let reading: Boxed<'_, _> = Box::pin(metadata.read(key));
    Ok(reading.await?)
}

/// Takes a node out of the voters, then out of the cluster.
pub(crate) async fn remove(metadata: &Metadata, node: NodeId) -> Result<(), OperationError> {
    let removing: Boxed<'_, _> = Box::pin(metadata.remove_node(node));
    removing.await.map_err(OperationError::Remove)
}

/// The document as it is now, for sure.
pub(crate) async fn load<D: Document>(metadata: &Metadata) -> Result<D, OperationError> {
    let stored = read(metadata, D::KEY).await?;
    Ok(match stored {
        Some(stored) => D::from_versioned(&stored)?,
        None => D::default(),
    })
}

/// Changes a document: `change` gets it as it is and makes it what it should be; `false` leaves it alone. What it
/// answered is returned once that is committed and this node sees it.
pub(crate) async fn change<D: Document>(
    metadata: &Metadata,
    mut change: impl FnMut(&mut D) -> Result<bool, OperationError>,
) -> Result<(), OperationError> {
    for _ in 0..TRIES_MAX {
        let mut document: D = load(metadata).await?;
        if !change(&mut document)? {
            return Ok(());
        }
        if commit(metadata, Txn::new().replace(&document)).await? {
            return Ok(());
        }
    }
    Err(OperationError::Contended)
}

/// Whether the transaction took effect; `false` when something was at another version.
pub(crate) async fn commit(metadata: &Metadata, txn: Txn) -> Result<bool, OperationError> {
    let committing: Boxed<'_, _> = Box::pin(metadata.commit(txn));
    match committing.await {
        Ok(version) => {
            let seeing: Boxed<'_, _> = Box::pin(metadata.view_at_least(version, SEEN_WITHIN));
            // It is committed; that this node is slow to see it is no reason to call it failed.
            let _ = seeing.await;
            Ok(true)
        }
        Err(CommitError::Conflict { .. }) => Ok(false),
        Err(error) => Err(OperationError::Commit(error)),
    }
}
