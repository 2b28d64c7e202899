//! A directory as a place for objects: whole files that appear at once and survive a loss of power.
//!
//! Not the library's own, which brings a second interface to the operating system and has no conditional writes. Blocks.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// A lock that is older was left by a process that died.
const LOCK_AGE_MAX: Duration = Duration::from_secs(60);
/// Pause before a lock is tried again.
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// What files that are being written begin with; they are not listed.
const UNFINISHED: char = '.';

/// What is in a file, if it is there.
pub(crate) fn read(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

/// Writes a file, or replaces it.
pub(crate) fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    finish(path, |file| file.write_all(bytes))
}

/// Copies a file.
pub(crate) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut from = File::open(from)?;
    finish(to, |file| io::copy(&mut from, file).map(drop))
}

fn finish(path: &Path, fill: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let unfinished = dir.join(format!("{UNFINISHED}{}", ulid::Ulid::generate()));
    let written = || {
        let mut file = File::create(&unfinished)?;
        fill(&mut file)?;
        file.sync_all()?;
        fs::rename(&unfinished, path)?;
        // Records are trimmed because this is here.
        File::open(dir)?.sync_all()
    };
    written().inspect_err(|_| {
        // It may not be there at all.
        let _ = fs::remove_file(&unfinished);
    })
}

/// Writes a file if it has `expected` in it, or is not there if that is `None`. `false`: it is another.
pub(crate) fn replace(path: &Path, bytes: &[u8], expected: Option<&[u8]>) -> io::Result<bool> {
    let _lock = Lock::take(path)?;
    if read(path)?.as_deref() != expected {
        return Ok(false);
    }
    write(path, bytes).map(|()| true)
}

/// Every file below a folder; none if there is no such folder.
pub(crate) fn list(dir: &Path, found: &mut Vec<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
            continue;
        }
        match entry.file_type()?.is_dir() {
            true => list(&entry.path(), found)?,
            false => found.push(entry.path()),
        }
    }
    Ok(())
}

/// Deletes a file, and its folder if it was the last there.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    if let Some(dir) = path.parent() {
        // One that is not empty stays.
        let _ = fs::remove_dir(dir);
    }
    Ok(())
}

/// The right to replace a file.
struct Lock(PathBuf);

impl Lock {
    fn take(path: &Path) -> io::Result<Self> {
        let dir = path.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let lock = dir.join(format!("{UNFINISHED}{name}.lock"));
        loop {
            match OpenOptions::new().write(true).create_new(true).open(&lock) {
                Ok(_) => return Ok(Self(lock)),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
            let made = fs::metadata(&lock).and_then(|meta| meta.modified());
            let age = made.map(|made| SystemTime::now().duration_since(made).unwrap_or_default());
            match age {
                Ok(age) if LOCK_AGE_MAX < age => drop(fs::remove_file(&lock)),
                _ => std::thread::sleep(LOCK_PAUSE),
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // One that stays is broken when it is old.
        let _ = fs::remove_file(&self.0);
    }
}
