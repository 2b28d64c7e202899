//! The node's data directory and the marker in it that says whose it is.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Why a data directory is not used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// The system does not let us.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// With what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The marker does not parse.
    #[error("{} is not the marker of a node's data: {source}", path.display())]
    Marker {
        /// The marker.
        path: PathBuf,
        /// What is wrong.
        source: serde_json::Error,
    },
    /// The data is another node's.
    #[error(
        "{} holds the data of node '{stored}' of cluster '{stored_cluster}', and this is node '{node}' of cluster \
         '{cluster}'; choose another base-dir, or the name that the data has", path.display()
    )]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// The node that it belongs to.
        stored: String,
        /// The cluster of that node.
        stored_cluster: String,
        /// This node.
        node: String,
        /// The cluster that this node is configured for.
        cluster: String,
    },
}

/// Whose data it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Marker {
    cluster_name: String,
    node_name: String,
}

const MARKER: &str = "node.json";

/// Makes the directory if it is not there, and makes sure that it belongs to this node of this cluster.
pub(crate) fn prepare(path: &Path, cluster: &str, node: &str) -> Result<(), DataDirError> {
    let io = |action, path: &Path| {
        let path = path.to_owned();
        move |source| DataDirError::Io {
            action,
            path,
            source,
        }
    };
    fs::create_dir_all(path).map_err(io("create", path))?;
    let file = path.join(MARKER);
    let own = Marker {
        cluster_name: cluster.to_owned(),
        node_name: node.to_owned(),
    };
    match fs::read(&file) {
        Ok(bytes) => check(path, &file, &bytes, &own),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            write(&file, &own).map_err(io("write", &file))
        }
        Err(error) => Err(io("read", &file)(error)),
    }
}

fn check(path: &Path, file: &Path, bytes: &[u8], own: &Marker) -> Result<(), DataDirError> {
    let stored: Marker = serde_json::from_slice(bytes).map_err(|source| DataDirError::Marker {
        path: file.to_owned(),
        source,
    })?;
    if stored == *own {
        return Ok(());
    }
    Err(DataDirError::Foreign {
        path: path.to_owned(),
        stored: stored.node_name,
        stored_cluster: stored.cluster_name,
        node: own.node_name.clone(),
        cluster: own.cluster_name.clone(),
    })
}

/// Never half a marker: a crash in between leaves none.
fn write(file: &Path, marker: &Marker) -> io::Result<()> {
    let temporary = file.with_extension("tmp");
    let mut out = fs::File::create(&temporary)?;
    out.write_all(&serde_json::to_vec_pretty(marker)?)?;
    out.sync_all()?;
    fs::rename(&temporary, file)?;
    match file.parent() {
        Some(directory) => fs::File::open(directory)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn data_of_another_node_or_cluster_is_refused() {
        let base = tempfile::tempdir().unwrap();
        let path = base.path().join("node1");
        prepare(&path, "local", "node1").unwrap();
        prepare(&path, "local", "node1").unwrap();
        for (cluster, node) in [("other", "node1"), ("local", "node2")] {
            let error = prepare(&path, cluster, node).unwrap_err();
            assert!(matches!(error, DataDirError::Foreign { .. }), "{error}");
        }
        fs::write(path.join(MARKER), b"{").unwrap();
        let error = prepare(&path, "local", "node1").unwrap_err();
        assert!(error.to_string().contains("node.json"), "{error}");
    }
}
