//! What a node knows of the metadata, at one version.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::documents::{ClusterDocument, Document, Nodes, PartitionRules, PartitionTable};
use crate::txn::Versioned;

/// A consistent picture of all documents. It may be behind; it never goes back.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Complete up to this version. 0 before anything was heard.
    pub version: u64,
    /// The cluster, once it is provisioned.
    pub cluster: Option<Arc<ClusterDocument>>,
    /// The nodes.
    pub nodes: Arc<Nodes>,
    /// The partition table.
    pub partition_table: Arc<PartitionTable>,
    /// What operators want of partitions.
    pub partition_rules: Arc<PartitionRules>,
    raw: Arc<Raw>,
}

impl View {
    /// The bytes under `key`.
    pub fn raw(&self, key: &str) -> Option<&Versioned> {
        self.raw.get(key)
    }

    /// Every key, sorted.
    pub fn keys(&self) -> impl Iterator<Item = &str> {
        self.raw.keys().map(String::as_str)
    }

    /// This view with changes applied. A document that is not understood leaves the one before it in
    /// place: an older node in a rolling upgrade works on with what it knows.
    pub(crate) fn with(&self, change: &Change) -> Self {
        let mut next = self.clone();
        next.version = change.version;
        let raw = Arc::make_mut(&mut next.raw);
        if change.full {
            raw.clear();
        }
        for key in &change.deleted {
            raw.remove(key);
        }
        for (key, stored) in &change.documents {
            raw.insert(key.clone(), stored.clone());
        }
        let (before, after) = (&self.raw, Arc::clone(&next.raw));
        if let Some(cluster) = parsed::<ClusterDocument>(before, &after) {
            next.cluster = (cluster.version > 0).then(|| Arc::new(cluster));
        }
        if let Some(nodes) = parsed(before, &after) {
            next.nodes = Arc::new(nodes);
        }
        if let Some(table) = parsed(before, &after) {
            next.partition_table = Arc::new(table);
        }
        if let Some(rules) = parsed(before, &after) {
            next.partition_rules = Arc::new(rules);
        }
        next
    }
}

type Raw = BTreeMap<String, Versioned>;

/// The document if it changed and is understood; an absent one is the default at version 0.
fn parsed<D: Document>(before: &Raw, after: &Raw) -> Option<D> {
    let version = |raw: &Raw| raw.get(D::KEY).map(|stored| stored.version);
    if version(before) == version(after) {
        return None;
    }
    let Some(stored) = after.get(D::KEY) else {
        return Some(D::default());
    };
    D::from_versioned(stored)
        .inspect_err(|error| {
            tracing::error!(
                key = error.key,
                version = error.version,
                error = %error.source,
                "a metadata document is not understood; the one before it stays in use"
            );
        })
        .ok()
}

/// What happened between two versions, coalesced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Change {
    /// The state is complete up to here.
    pub(crate) version: u64,
    /// `documents` is the whole state.
    pub(crate) full: bool,
    pub(crate) documents: Vec<(String, Versioned)>,
    pub(crate) deleted: Vec<String>,
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn put(key: &str, version: u64, value: &str) -> (String, Versioned) {
        let value = Bytes::copy_from_slice(value.as_bytes());
        (key.into(), Versioned { version, value })
    }

    fn change(version: u64, documents: Vec<(String, Versioned)>) -> Change {
        Change {
            version,
            documents,
            ..Change::default()
        }
    }

    #[test]
    fn typed_documents_are_parsed_once_and_carry_their_version() {
        let first = View::default().with(&change(
            3,
            vec![put("nodes", 3, r#"{"next_id":4,"nodes":{}}"#)],
        ));
        assert_eq!((first.nodes.next_id, first.nodes.version), (4, 3));
        let second = first.with(&change(4, vec![put("schema", 4, "{}")]));
        assert!(Arc::ptr_eq(&first.nodes, &second.nodes));
        assert_eq!(second.raw("schema").unwrap().version, 4);
        assert_eq!(second.keys().collect::<Vec<_>>(), ["nodes", "schema"]);
    }

    #[test]
    fn a_document_that_is_not_understood_leaves_the_old_one_in_use() {
        let first = View::default().with(&change(
            3,
            vec![put("nodes", 3, r#"{"next_id":4,"nodes":{}}"#)],
        ));
        let second = first.with(&change(5, vec![put("nodes", 5, "rubbish")]));
        assert_eq!(second.nodes.version, 3);
        assert_eq!(second.raw("nodes").unwrap().version, 5);
    }

    #[test]
    fn a_full_state_forgets_what_is_not_in_it() {
        let first = View::default().with(&change(
            3,
            vec![
                put("nodes", 3, r#"{"next_id":4,"nodes":{}}"#),
                put("a", 2, "1"),
            ],
        ));
        let second = first.with(&Change {
            version: 9,
            full: true,
            documents: vec![put("b", 8, "2")],
            deleted: vec![],
        });
        assert_eq!(second.keys().collect::<Vec<_>>(), ["b"]);
        assert_eq!(second.nodes.version, 0);
    }
}
