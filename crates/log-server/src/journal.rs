//! The write-ahead journal: the one place that is synced on the way of a request.
//!
//! Files of a fixed size are filled with zeros when they are made and written over from then on, with direct,
//! synchronous writes. Appending to a growing file makes the file system commit its own journal with every
//! sync (ext4: 1.6–4 ms and 5.6 kB a commit where an overwrite takes 0.2 ms and the bytes it is given), which
//! is why the database's own log is off. A frame holds the writes of one group commit and is numbered; a file
//! is written over when all its frames are in the database's files. Start at [`Journal::append`].
//!
//! A crash can tear only the last frame, since one is under way at a time. A bad frame with a later one behind
//! it is therefore damage, and so are a file of the wrong size and a journal that ends before what the database
//! has: these are refused, with the file's name, and never taken for the end.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Why a journal cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The operating system refused.
    #[error("{doing} {}", file.display())]
    Io {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        file: PathBuf,
        /// What it said.
        source: io::Error,
    },
    /// The file is not what was written.
    #[error("{} is damaged: {problem}", file.display())]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

/// Sizes of the files.
#[derive(Debug, Clone, Copy)]
pub(crate) struct JournalSizes {
    /// The very first file, small so that a new node starts at once.
    pub first_bytes: u64,
    /// Every other one.
    pub file_bytes: u64,
}

/// Where the head of a file ends and its frames begin.
const HEAD: usize = 4096;
const HEAD_MAGIC: &[u8; 8] = b"ABIDEJR1";
/// Magic (8), size (8), block (4), first frame (8), checksum (4).
const HEAD_USED: usize = 32;
const FRAME_MAGIC: u32 = 0x4652_4241;
/// Magic (4), checksum (4), length (4), zero (4), number (8). The checksum covers length, number, payload.
const FRAME_HEAD: usize = 24;
/// Buffers of direct writes begin at such a multiple.
const MEMORY_ALIGNMENT: usize = 4096;

/// One file, open for writing.
pub(crate) struct JournalFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    /// Frames begin at a multiple of this.
    block: usize,
}

/// The journal of a log server; owned by its writer thread.
pub(crate) struct Journal {
    directory: PathBuf,
    sizes: JournalSizes,
    current: JournalFile,
    position: u64,
    /// The number of the next frame.
    next: u64,
    file_next: u32,
    buffer: AlignedBuffer,
}

/// A frame that was found in the journal.
pub(crate) struct Frame<'a> {
    pub number: u64,
    pub payload: &'a [u8],
}

impl Journal {
    /// Opens the journal in `directory`, hands every frame behind `applied` to `replay` and returns the files
    /// that hold nothing else than what was applied as free.
    pub(crate) fn open<E: From<JournalError>>(
        directory: &Path,
        sizes: JournalSizes,
        applied: u64,
        mut replay: impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(Self, Vec<JournalFile>), E> {
        fs::create_dir_all(directory).map_err(|source| error("create", directory, source))?;
        let mut files = Vec::new();
        let mut file_next = 1;
        let entries = fs::read_dir(directory).map_err(|source| error("list", directory, source))?;
        for entry in entries {
            let path = entry
                .map_err(|source| error("list", directory, source))?
                .path();
            if path.extension().is_some_and(|end| end == "new") {
                // Not filled with zeros when the process ended.
                fs::remove_file(&path).map_err(|source| error("remove", &path, source))?;
            } else if let Some(number) = number_of(&path) {
                file_next = file_next.max(number + 1);
                files.push(Found::read(path)?);
            }
        }
        files.sort_by_key(|found| found.first);
        let mut next = applied + 1;
        let mut end: Option<(usize, u64)> = None;
        for index in 0..files.len() {
            let found = &files[index];
            // Never used, or written over before its head was: nothing of it counts.
            if found.first == 0 {
                continue;
            }
            let following = files.get(index + 1).map(|file| file.first);
            if following.is_some_and(|following| following <= next) {
                continue;
            }
            if next < found.first {
                return Err(damaged(
                    &found.path,
                    format!(
                        "it begins with frame {}, frame {next} is missing",
                        found.first
                    ),
                )
                .into());
            }
            let (position, number) = found.replay(next, &mut replay)?;
            next = number;
            if following.is_some_and(|following| next < following) {
                return Err(damaged(&found.path, format!("frame {next} is not readable")).into());
            }
            end = Some((index, position));
        }
        let Some((last, position)) = end else {
            if applied != 0 {
                return Err(damaged(
                    directory,
                    format!("the database has frame {applied}, the journal has none"),
                )
                .into());
            }
            let mut free: Vec<JournalFile> = Vec::new();
            for found in files {
                free.push(found.open()?);
            }
            let mut current = match free.pop() {
                Some(file) => file,
                None => JournalFile::make(directory, file_next, sizes.first_bytes)?,
            };
            current.begin(1)?;
            let journal = Self {
                directory: directory.to_path_buf(),
                sizes,
                current,
                position: HEAD as u64,
                next: 1,
                file_next: file_next + 1,
                buffer: AlignedBuffer::default(),
            };
            return Ok((journal, free));
        };
        let mut free = Vec::new();
        let mut current = None;
        for (index, found) in files.into_iter().enumerate() {
            let file = found.open()?;
            match index == last {
                true => current = Some(file),
                false => free.push(file),
            }
        }
        let Some(current) = current else {
            return Err(damaged(directory, "its last file is gone".to_owned()).into());
        };
        let journal = Self {
            directory: directory.to_path_buf(),
            sizes,
            current,
            position,
            next,
            file_next,
            buffer: AlignedBuffer::default(),
        };
        Ok((journal, free))
    }

    /// The number that the next frame will have.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// Whether the next frame with such a payload needs another file.
    pub(crate) fn is_full(&self, payload: usize) -> bool {
        self.current.bytes < self.position + self.frame_bytes(payload)
    }

    /// Whether it is time to have another file ready.
    pub(crate) fn is_half_full(&self) -> bool {
        self.current.bytes / 2 < self.position
    }

    /// Goes on in `file`, or in a new one; returns the old one. It is free when all its frames are in the
    /// database's files.
    pub(crate) fn rotate(
        &mut self,
        file: Option<JournalFile>,
        payload: usize,
    ) -> Result<JournalFile, JournalError> {
        let needed = HEAD as u64 + self.frame_bytes(payload);
        let mut file = match file {
            Some(file) if needed <= file.bytes => file,
            _ => {
                self.file_next += 1;
                let bytes = self
                    .sizes
                    .file_bytes
                    .max(needed)
                    .next_multiple_of(HEAD as u64);
                JournalFile::make(&self.directory, self.file_next - 1, bytes)?
            }
        };
        file.begin(self.next)?;
        self.position = HEAD as u64;
        Ok(std::mem::replace(&mut self.current, file))
    }

    /// What makes another file on another thread.
    pub(crate) fn maker(
        &mut self,
    ) -> impl FnOnce() -> Result<JournalFile, JournalError> + Send + use<> {
        self.file_next += 1;
        let (directory, number) = (self.directory.clone(), self.file_next - 1);
        let bytes = self.sizes.file_bytes;
        move || JournalFile::make(&directory, number, bytes)
    }

    /// Writes a frame; it is on disk when this returns. After an error nothing can be said about what is on
    /// disk, and the journal must not be used any more.
    pub(crate) fn append(&mut self, payload: &[u8]) -> Result<(), JournalError> {
        assert!(!self.is_full(payload.len()), "the writer rotates before");
        let bytes = self.frame_bytes(payload.len()) as usize;
        let frame = self.buffer.take(bytes);
        let length = (payload.len() as u32).to_le_bytes();
        let number = self.next.to_le_bytes();
        let checksum = frame_checksum(length, number, payload);
        frame[..4].copy_from_slice(&FRAME_MAGIC.to_le_bytes());
        frame[4..8].copy_from_slice(&checksum.to_le_bytes());
        frame[8..12].copy_from_slice(&length);
        frame[12..16].fill(0);
        frame[16..24].copy_from_slice(&number);
        frame[FRAME_HEAD..][..payload.len()].copy_from_slice(payload);
        frame[FRAME_HEAD + payload.len()..].fill(0);
        self.current.write(frame, self.position)?;
        self.position += bytes as u64;
        self.next += 1;
        Ok(())
    }

    fn frame_bytes(&self, payload: usize) -> u64 {
        (FRAME_HEAD + payload).next_multiple_of(self.current.block) as u64
    }
}

fn frame_checksum(length: [u8; 4], number: [u8; 8], payload: &[u8]) -> u32 {
    let checksum = crc32c::crc32c_append(crc32c::crc32c(&length), &number);
    crc32c::crc32c_append(checksum, payload)
}

fn error(doing: &'static str, file: &Path, source: io::Error) -> JournalError {
    JournalError::Io {
        doing,
        file: file.to_path_buf(),
        source,
    }
}

fn damaged(file: &Path, problem: String) -> JournalError {
    JournalError::Damaged {
        file: file.to_path_buf(),
        problem,
    }
}

fn number_of(path: &Path) -> Option<u32> {
    let name = path.file_name()?.to_str()?;
    name.strip_suffix(".journal")?.parse().ok()
}

/// Opens for synchronous writes: direct ones, or through the page cache where the file system has no others.
fn open_file(path: &Path) -> io::Result<File> {
    let open = |flags: OFlags| {
        let mut options = OpenOptions::new();
        options
            .read(true)
            .write(true)
            .custom_flags(flags.bits().cast_signed());
        options.open(path)
    };
    match open(OFlags::DIRECT | OFlags::DSYNC) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(OFlags::DSYNC),
        opened => opened,
    }
}

impl JournalFile {
    /// Makes a file full of zeros.
    fn make(directory: &Path, number: u32, bytes: u64) -> Result<Self, JournalError> {
        let path = directory.join(format!("{number:08}.journal"));
        let unfinished = path.with_extension("new");
        let fill = || {
            let file = File::create(&unfinished)?;
            let zeros = vec![0; 256 << 10];
            let mut at = 0;
            while at < bytes {
                let count =
                    usize::try_from(bytes - at).map_or(zeros.len(), |rest| rest.min(zeros.len()));
                file.write_all_at(&zeros[..count], at)?;
                at += count as u64;
            }
            file.sync_all()?;
            fs::rename(&unfinished, &path)?;
            File::open(directory)?.sync_all()
        };
        fill().map_err(|source| error("create", &path, source))?;
        let mut file = Self::open(path, bytes, 512)?;
        let mut probe = AlignedBuffer::default();
        // Disks with blocks of 4096 bytes refuse direct writes of less.
        if file.write(probe.take_zeroed(512), 512).is_err() {
            file.block = 4096;
        }
        Ok(file)
    }

    fn open(path: PathBuf, bytes: u64, block: usize) -> Result<Self, JournalError> {
        let file = open_file(&path).map_err(|source| error("open", &path, source))?;
        Ok(Self {
            path,
            file,
            bytes,
            block,
        })
    }

    /// Starts the file over with the frame `first`. What it held before has lower numbers.
    fn begin(&mut self, first: u64) -> Result<(), JournalError> {
        let mut head = [0; HEAD_USED];
        head[..8].copy_from_slice(HEAD_MAGIC);
        head[8..16].copy_from_slice(&self.bytes.to_le_bytes());
        head[16..20].copy_from_slice(&(self.block as u32).to_le_bytes());
        head[20..28].copy_from_slice(&first.to_le_bytes());
        let checksum = crc32c::crc32c(&head[..28]);
        head[28..].copy_from_slice(&checksum.to_le_bytes());
        let mut buffer = AlignedBuffer::default();
        let block = buffer.take_zeroed(HEAD);
        block[..HEAD_USED].copy_from_slice(&head);
        self.write(block, 0)
    }

    fn write(&self, bytes: &[u8], at: u64) -> Result<(), JournalError> {
        self.file
            .write_all_at(bytes, at)
            .map_err(|source| error("write", &self.path, source))
    }

    /// Deletes the file.
    pub(crate) fn remove(self) -> Result<(), JournalError> {
        fs::remove_file(&self.path).map_err(|source| error("remove", &self.path, source))
    }
}

/// A file as it was found at the start.
struct Found {
    path: PathBuf,
    bytes: u64,
    block: usize,
    /// Its first frame; 0 when it was never begun.
    first: u64,
}

impl Found {
    fn read(path: PathBuf) -> Result<Self, JournalError> {
        let read = || {
            let file = File::open(&path)?;
            let mut head = [0; HEAD_USED];
            let bytes = file.metadata()?.len();
            if HEAD as u64 <= bytes {
                file.read_exact_at(&mut head, 0)?;
            }
            Ok((bytes, head))
        };
        let (bytes, head) = read().map_err(|source| error("read", &path, source))?;
        if bytes < HEAD as u64 {
            return Err(damaged(&path, format!("it has {bytes} bytes only")));
        }
        if head == [0; HEAD_USED] {
            return Ok(Self {
                path,
                bytes,
                block: 4096,
                first: 0,
            });
        }
        let number_at = |at: usize| {
            let number: Option<&[u8; 8]> = head[at..].first_chunk();
            number.map_or(0, |number| u64::from_le_bytes(*number))
        };
        let checksum = crc32c::crc32c(&head[..28]).to_le_bytes();
        let block = (number_at(16) & u64::from(u32::MAX)) as usize;
        if &head[..8] != HEAD_MAGIC || head[28..] != checksum || !matches!(block, 512 | 4096) {
            return Err(damaged(&path, "its head is not readable".to_owned()));
        }
        if number_at(8) != bytes {
            let problem = format!("it should have {} bytes and has {bytes}", number_at(8));
            return Err(damaged(&path, problem));
        }
        Ok(Self {
            first: number_at(20),
            path,
            bytes,
            block,
        })
    }

    /// Hands out the frames from `next` on. Returns where they end and the number behind the last.
    fn replay<E: From<JournalError>>(
        &self,
        next: u64,
        replay: &mut impl FnMut(Frame<'_>) -> Result<(), E>,
    ) -> Result<(u64, u64), E> {
        let contents = fs::read(&self.path).map_err(|source| error("read", &self.path, source))?;
        let mut position = HEAD;
        let mut number = self.first;
        while let Some(frame) = frame_at(&contents, position).filter(|frame| frame.number == number)
        {
            position += (FRAME_HEAD + frame.payload.len()).next_multiple_of(self.block);
            number += 1;
            if next < number {
                replay(frame)?;
            }
        }
        let mut behind = (position..contents.len()).step_by(self.block).skip(1);
        let later =
            behind.find_map(|at| frame_at(&contents, at).filter(|frame| number < frame.number));
        if let Some(later) = later {
            let problem = format!(
                "frame {number} at byte {position} is not readable, and frame {} follows",
                later.number
            );
            return Err(damaged(&self.path, problem).into());
        }
        if number < next {
            let problem = format!("it ends before frame {number}, which the database has");
            return Err(damaged(&self.path, problem).into());
        }
        Ok((position as u64, number))
    }

    fn open(self) -> Result<JournalFile, JournalError> {
        JournalFile::open(self.path, self.bytes, self.block)
    }
}

fn frame_at(contents: &[u8], position: usize) -> Option<Frame<'_>> {
    let bytes = contents.get(position..)?;
    let head = bytes.get(..FRAME_HEAD)?;
    if head[..4] != FRAME_MAGIC.to_le_bytes() {
        return None;
    }
    let (checksum, length, number) = (&head[4..8], &head[8..12], &head[16..24]);
    let length: [u8; 4] = length.try_into().ok()?;
    let number: [u8; 8] = number.try_into().ok()?;
    let payload = bytes[FRAME_HEAD..].get(..u32::from_le_bytes(length) as usize)?;
    let fits = frame_checksum(length, number, payload).to_le_bytes() == checksum;
    fits.then_some(Frame {
        number: u64::from_le_bytes(number),
        payload,
    })
}

/// A buffer that begins at a multiple of [`MEMORY_ALIGNMENT`], as direct writes want it.
#[derive(Default)]
struct AlignedBuffer(Vec<u8>);

impl AlignedBuffer {
    /// `bytes` bytes with any content.
    fn take(&mut self, bytes: usize) -> &mut [u8] {
        let needed = bytes + MEMORY_ALIGNMENT;
        // One burst does not keep its memory for ever.
        if self.0.len() < needed || (8 << 20) < self.0.len() {
            self.0 = vec![0; needed.next_power_of_two()];
        }
        let start = self.0.as_ptr().align_offset(MEMORY_ALIGNMENT);
        &mut self.0[start..start + bytes]
    }

    fn take_zeroed(&mut self, bytes: usize) -> &mut [u8] {
        let taken = self.take(bytes);
        taken.fill(0);
        taken
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
