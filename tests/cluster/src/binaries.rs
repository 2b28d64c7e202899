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

/// Tests run from `target/PROFILE/deps`; programs lie one folder up.
fn beside_the_test(program: &str) -> PathBuf {
    let test = env::current_exe().expect("a process knows its own executable");
    let path = test
        .ancestors()
        .nth(2)
        .expect("tests run below the profile's folder")
        .join(program);
    assert!(
        path.exists(),
        "{} is missing; run `cargo build --workspace --all-targets` first",
        path.display()
    );
    path
}
