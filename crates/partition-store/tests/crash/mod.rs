//! The files as a crash at some moment leaves them.

use std::fs;
use std::io;
use std::path::Path;

/// Copies the files of a database that is open. What is in memory only is lost.
pub fn copy(dir: &Path) -> tempfile::TempDir {
    loop {
        let copy = tempfile::tempdir().unwrap();
        match copy_files(dir, copy.path()) {
            Ok(()) => return copy,
            // A compaction took a file away meanwhile; a crash sees one moment, so look again.
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::NotFound),
        }
    }
}

/// The manifest comes first: it names whole files only, and a flush that ends meanwhile adds what it does
/// not name.
fn copy_files(dir: &Path, to: &Path) -> io::Result<()> {
    let names = fs::read_dir(dir)?.map(|entry| entry.map(|entry| entry.file_name()));
    let mut names = names.collect::<io::Result<Vec<_>>>()?;
    names.sort_by_key(|name| !name.to_string_lossy().starts_with("MANIFEST"));
    for name in names {
        fs::copy(dir.join(&name), to.join(&name))?;
    }
    Ok(())
}
