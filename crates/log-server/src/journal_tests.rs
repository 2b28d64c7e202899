#![allow(clippy::unwrap_used, reason = "tests")]

use std::os::unix::fs::FileExt as _;

use super::*;
use proptest::prelude::*;

const SIZES: JournalSizes = JournalSizes {
    first_bytes: 16 << 10,
    file_bytes: 32 << 10,
};

fn open(directory: &Path, applied: u64) -> Result<(Journal, Vec<Vec<u8>>), JournalError> {
    let mut frames = Vec::new();
    let replay = |frame: Frame<'_>| -> Result<(), JournalError> {
        frames.push(frame.payload.to_vec());
        Ok(())
    };
    let (journal, _free) = Journal::open(directory, SIZES, applied, replay)?;
    Ok((journal, frames))
}

fn append(journal: &mut Journal, payload: &[u8]) -> Option<JournalFile> {
    let full = journal.is_full(payload.len());
    let old = full.then(|| journal.rotate(None, payload.len()).unwrap());
    journal.append(payload).unwrap();
    old
}

fn only_file(directory: &Path) -> PathBuf {
    let mut entries = fs::read_dir(directory).unwrap();
    entries.next().unwrap().unwrap().path()
}

fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(file)
        .unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 1], at).unwrap();
}

#[test]
fn frames_read_back_across_files_and_starts() {
    let directory = tempfile::tempdir().unwrap();
    let payload = |index: usize| vec![index as u8; 1 + index * 97];
    {
        let (mut journal, frames) = open(directory.path(), 0).unwrap();
        assert!(frames.is_empty());
        for index in 0..50 {
            append(&mut journal, &payload(index));
        }
    }
    let (mut journal, frames) = open(directory.path(), 0).unwrap();
    assert_eq!(frames, (0..50).map(payload).collect::<Vec<_>>());
    append(&mut journal, b"more");
    drop(journal);
    let (journal, frames) = open(directory.path(), 49).unwrap();
    assert_eq!(frames, [payload(49), b"more".to_vec()]);
    assert_eq!(journal.next(), 52);
}

#[test]
fn a_frame_larger_than_a_file_gets_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let large = vec![7; 100 << 10];
    let (mut journal, _) = open(directory.path(), 0).unwrap();
    append(&mut journal, b"small");
    assert!(append(&mut journal, &large).is_some());
    drop(journal);
    let (_, frames) = open(directory.path(), 0).unwrap();
    assert_eq!(frames, [b"small".to_vec(), large]);
}

#[test]
fn files_are_written_over_when_they_are_free() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(directory.path(), 0).unwrap();
    let mut free: Vec<JournalFile> = Vec::new();
    for index in 0..400_u32 {
        let payload = [index as u8; 600];
        if journal.is_full(payload.len()) {
            let ready = (free.len() == 2).then(|| free.remove(0));
            free.push(journal.rotate(ready, payload.len()).unwrap());
        }
        journal.append(&payload).unwrap();
    }
    drop(journal);
    assert!(fs::read_dir(directory.path()).unwrap().count() < 5);
    // What was written over had been applied.
    let (journal, frames) = open(directory.path(), 390).unwrap();
    assert_eq!(frames.len(), 10);
    assert_eq!(journal.next(), 401);
    drop(journal);
    let error = open(directory.path(), 3).err().unwrap().to_string();
    assert!(error.contains("frame 4 is missing"), "{error}");
}

#[test]
fn a_torn_last_frame_is_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(directory.path(), 0).unwrap();
    append(&mut journal, b"one");
    let at = journal.position;
    append(&mut journal, &[9; 3000]);
    drop(journal);
    flip(&only_file(directory.path()), at + 2000);
    let (mut journal, frames) = open(directory.path(), 0).unwrap();
    assert_eq!(frames, [b"one".to_vec()]);
    append(&mut journal, b"two");
    drop(journal);
    let (_, frames) = open(directory.path(), 0).unwrap();
    assert_eq!(frames, [b"one".to_vec(), b"two".to_vec()]);
}

#[test]
fn damage_is_refused_with_the_name_of_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let (mut journal, _) = open(directory.path(), 0).unwrap();
    let at = journal.position;
    append(&mut journal, b"one");
    append(&mut journal, b"two");
    drop(journal);
    let file = only_file(directory.path());
    let name = file.display().to_string();
    let refused = |applied: u64, problem: &str| {
        let error = open(directory.path(), applied).err().unwrap().to_string();
        assert_eq!(error, format!("{name} is damaged: {problem}"));
    };
    refused(5, "it ends before frame 3, which the database has");
    flip(&file, at + 25);
    refused(
        0,
        "frame 1 at byte 4096 is not readable, and frame 2 follows",
    );
    flip(&file, at + 25);
    flip(&file, 3);
    refused(0, "its head is not readable");
    flip(&file, 3);
    let opened = OpenOptions::new().write(true).open(&file).unwrap();
    opened.set_len(8192).unwrap();
    refused(0, "it should have 16384 bytes and has 8192");
    opened.set_len(100).unwrap();
    refused(0, "it has 100 bytes only");
    fs::remove_file(&file).unwrap();
    let error = open(directory.path(), 2).err().unwrap().to_string();
    assert!(error.contains("the journal has none"), "{error}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever the disk did to the bytes behind the last acked frame, all acked ones come back.
    #[test]
    fn acked_frames_survive_any_tear(sizes in prop::collection::vec(0usize..5000, 1..20), torn in prop::collection::vec(any::<u8>(), 0..2000)) {
        let directory = tempfile::tempdir().unwrap();
        let (mut journal, _) = open(directory.path(), 0).unwrap();
        let payloads: Vec<Vec<u8>> = sizes.iter().map(|size| vec![*size as u8; *size]).collect();
        for payload in &payloads {
            append(&mut journal, payload);
        }
        let (path, at) = (journal.current.path.clone(), journal.position);
        let room = (journal.current.bytes - at) as usize;
        drop(journal);
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all_at(&torn[..torn.len().min(room)], at).unwrap();
        drop(file);
        let (_, frames) = open(directory.path(), 0).unwrap();
        prop_assert_eq!(frames, payloads);
    }
}
