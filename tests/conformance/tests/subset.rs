//! The part of the matrix that every test run has: `scripts/conformance` runs all of it.

use abide_conformance::{Language, Selection, Setting, run};
use tokio::sync::Mutex;

/// Clusters share few cores: one at a time.
static ONE_AT_A_TIME: Mutex<()> = Mutex::const_new(());

async fn conforms(language: Language, setting: Setting) {
    let _turn = ONE_AT_A_TIME.lock().await;
    run(language, setting, &Selection::default())
        .await
        .assert_passed();
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_services_conform() {
    conforms(Language::TypeScript, Setting::Default).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn typescript_services_conform_on_three_nodes_that_always_suspend() {
    conforms(Language::TypeScript, Setting::ThreeNodesAlwaysSuspending).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn python_services_conform() {
    conforms(Language::Python, Setting::Default).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rust_services_conform() {
    conforms(Language::Rust, Setting::Default).await;
}
