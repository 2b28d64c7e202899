//! Files on their way to a store and back, and what is known of their contents.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use futures::StreamExt as _;
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use crate::destination::Destination;
use crate::documents::hex;
use crate::error::RepositoryError;

/// Files whose contents are remembered. Beyond, all is forgotten and read again.
const KNOWN_MAX: usize = 65_536;

/// Contents of files that were read before. A table of a store never changes and is the same file under every link,
/// so that a snapshot reads only those that are new.
#[derive(Default)]
pub struct KnownFiles {
    known: Mutex<HashMap<Inode, String>>,
}

#[derive(PartialEq, Eq, Hash)]
struct Inode {
    device: u64,
    number: u64,
    bytes: u64,
    changed: (i64, i64),
}

impl KnownFiles {
    /// SHA-256 and length of a file. Blocks.
    pub(crate) fn of(&self, path: &Path) -> Result<(String, u64), RepositoryError> {
        let failed = |source| RepositoryError::Io {
            doing: "read",
            path: path.to_owned(),
            source,
        };
        let mut file = File::open(path).map_err(failed)?;
        let meta = file.metadata().map_err(failed)?;
        let inode = Inode {
            device: meta.dev(),
            number: meta.ino(),
            bytes: meta.len(),
            changed: (meta.mtime(), meta.mtime_nsec()),
        };
        if let Some(known) = self.known.lock().get(&inode) {
            return Ok((known.clone(), inode.bytes));
        }
        let hash = hash(&mut file).map_err(failed)?;
        let bytes = inode.bytes;
        let mut known = self.known.lock();
        if KNOWN_MAX <= known.len() {
            known.clear();
        }
        known.insert(inode, hash.clone());
        Ok((hash, bytes))
    }
}

fn hash(file: &mut File) -> io::Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(&hasher.finalize())),
            read => hasher.update(&buffer[..read]),
        }
    }
}

/// Fetches a file and compares it with what was stored.
pub(crate) async fn download(
    destination: &Destination,
    from: &str,
    to: &Path,
    bytes: u64,
    sha256: &str,
) -> Result<(), RepositoryError> {
    let io_error = |source| RepositoryError::Io {
        doing: "write",
        path: to.to_owned(),
        source,
    };
    let mut file = tokio::fs::File::create(to).await.map_err(io_error)?;
    let mut content = destination.content(from).await?;
    let (mut hasher, mut got) = (Sha256::new(), 0);
    while let Some(piece) = content.next().await {
        let piece = piece?;
        hasher.update(&piece);
        got += piece.len() as u64;
        file.write_all(&piece).await.map_err(io_error)?;
    }
    file.flush().await.map_err(io_error)?;
    compare(from, (bytes, sha256), (got, &hex(&hasher.finalize())))
}

/// Fetches an object only to compare it with what was stored.
pub(crate) async fn verify(
    destination: &Destination,
    object: &str,
    bytes: u64,
    sha256: &str,
) -> Result<(), RepositoryError> {
    let mut content = destination.content(object).await?;
    let (mut hasher, mut got) = (Sha256::new(), 0);
    while let Some(piece) = content.next().await {
        let piece = piece?;
        hasher.update(&piece);
        got += piece.len() as u64;
    }
    compare(object, (bytes, sha256), (got, &hex(&hasher.finalize())))
}

fn compare(path: &str, expected: (u64, &str), found: (u64, &str)) -> Result<(), RepositoryError> {
    if expected == found {
        return Ok(());
    }
    let problem = match expected.0 == found.0 {
        true => format!("its SHA-256 is {} instead of {}", found.1, expected.1),
        false => format!("it has {} bytes instead of {}", found.0, expected.0),
    };
    Err(RepositoryError::Damaged {
        path: path.to_owned(),
        problem,
    })
}
