//! The official clients of each language: calls, sends, delays, idempotency, attaching, awakeables, workflows.

use std::process::Stdio;

use abide_test_cluster::beside_the_test;
use tokio::process::Command;

use super::{Case, case};
use crate::endpoint::{installed, node, services_folder};
use crate::{Language, World};

pub(super) fn cases() -> Vec<Case> {
    vec![
        case!("clients: the language's official client", official).only(
            |language, _| match language {
                Language::Java => Err("there is no program with Java's client yet"),
                _ => Ok(()),
            },
        ),
    ]
}

async fn official(world: &World) {
    let folder = services_folder().join(world.language.name());
    let mut command: Command = match world.language {
        Language::TypeScript => node(&folder.join("clients.js")).into(),
        Language::Python => {
            let mut command = Command::new(folder.join(".venv/bin/python"));
            command.arg(folder.join("clients.py"));
            command
        }
        Language::Rust => {
            let mut command = Command::new(beside_the_test("conformance-endpoint"));
            command.arg("clients");
            command
        }
        Language::Java | Language::Go => {
            let program = folder.join("build/clients");
            installed(&program);
            Command::new(program)
        }
    };
    let output = command
        .arg(world.ingress())
        .arg(world.key())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .expect("the client runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.trim_end().ends_with("ok"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
