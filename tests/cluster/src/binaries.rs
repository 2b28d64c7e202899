//! Where the programs under test are.

use std::env;
use std::path::PathBuf;

/// The server: `ABIDE_TEST_SERVER`, or the one beside the running test.
pub(crate) fn server() -> PathBuf {
    named("ABIDE_TEST_SERVER", "abide-server")
}

/// The operators' tool: `ABIDE_TEST_CTL`, or the one beside the running test.
pub(crate) fn operator_tool() -> PathBuf {
    named("ABIDE_TEST_CTL", "abidectl")
}

/// The conformance services written in Rust.
pub(crate) fn rust_services() -> PathBuf {
    beside_the_test("conformance-services")
}

/// A folder of this package.
pub(crate) fn package_folder(relative: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(relative)
}

fn named(variable: &str, program: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => beside_the_test(program),
    }
}

/// A program that cargo built. Tests run from `target/PROFILE/deps`, with programs one folder up; programs
/// that test have the others beside them.
#[track_caller]
pub fn beside_the_test(program: &str) -> PathBuf {
    let test = env::current_exe().expect("a process knows its own executable");
    let mut folder = test.parent().expect("a program lies in a folder");
    if folder.ends_with("deps") {
        folder = folder.parent().expect("deps lies in the profile's folder");
    }
    let path = folder.join(program);
    assert!(
        path.exists(),
        "{} is missing; run `cargo build --workspace --all-targets` first",
        path.display()
    );
    path
}
