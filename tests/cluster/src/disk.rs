//! A small disk: a file system in a file, mounted where a node has its data.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A mounted file system of its own; dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk {
    at: PathBuf,
    image: PathBuf,
}

impl SmallDisk {
    /// Makes one of so many bytes and mounts it, or says why this machine does not let us: it takes root and loop
    /// devices.
    pub fn try_mount(at: &Path, bytes: u64) -> Result<SmallDisk, String> {
        fs::create_dir_all(at).map_err(|error| format!("{}: {error}", at.display()))?;
        let image = at.with_extension("image");
        let file = File::create(&image).map_err(|error| format!("{}: {error}", image.display()))?;
        file.set_len(bytes)
            .map_err(|error| format!("{}: {error}", image.display()))?;
        // No blocks are kept back for root: what is free is free for all.
        let made = run("mkfs.ext4", &["-q", "-F", "-m", "0", &text(&image)]);
        made.and_then(|()| run("mount", &["-o", "loop", &text(&image), &text(at)]))
            .inspect_err(|_| drop(fs::remove_file(&image)))?;
        // Made by mkfs; a data directory that holds something else is not taken.
        let _ = fs::remove_dir(at.join("lost+found"));
        Ok(SmallDisk {
            at: at.to_owned(),
            image,
        })
    }

    /// Fills it up to so many bytes that stay free.
    pub fn fill(&self, free: u64) -> io::Result<()> {
        let ballast = self.ballast();
        let left = self.free()?.saturating_sub(free);
        let allocated = Command::new("fallocate")
            .args(["-l", &left.to_string(), &text(&ballast)])
            .status()?;
        if allocated.success() {
            return Ok(());
        }
        Err(io::Error::other("fallocate failed"))
    }

    /// Takes away what fills it.
    pub fn make_room(&self) -> io::Result<()> {
        fs::remove_file(self.ballast())
    }

    /// Bytes that are free.
    pub fn free(&self) -> io::Result<u64> {
        let output = Command::new("df")
            .args(["--output=avail", "-B1", &text(&self.at)])
            .output()?;
        let said = String::from_utf8_lossy(&output.stdout);
        let bytes = said
            .lines()
            .nth(1)
            .and_then(|line| line.trim().parse().ok());
        bytes.ok_or_else(|| io::Error::other(format!("df says {said}")))
    }

    fn ballast(&self) -> PathBuf {
        self.at.join("ballast")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Processes that were killed a moment ago may still hold it: lazily, then.
        let _ = run("umount", &["-l", &text(&self.at)]);
        let _ = fs::remove_file(&self.image);
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!(
        "{program} {}: {}",
        arguments.join(" "),
        said.trim()
    ))
}
