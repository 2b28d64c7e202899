//! Every command of the documentation is run, or at least checked, and what it prints is what the page shows.
//!
//! The pages in [`RUN`] are run against one cluster, in that order; blocks that need what a test has not (Docker, Kubernetes,
//! root, other machines) are checked: the programs of this repository have to know the command with its flags, and the files
//! that are named have to exist. The same goes for all commands of other pages.

#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command as Process;

use abide_test_cluster::beside_the_test;
use abide_test_deploy::{Command, Page, Session};
use regex::Regex;

/// Pages whose commands are run, in the order in which a newcomer reads them.
const RUN: [&str; 8] = [
    "README.md",
    "docs/quickstart.md",
    "docs/configuration.md",
    "docs/deployment.md",
    "docs/operations.md",
    "docs/failover-drills.md",
    "docs/backup.md",
    "docs/upgrades.md",
];

#[tokio::test]
async fn every_command_does_what_the_pages_say() {
    let root = root();
    let session = Session::new(&root).unwrap();
    let mut run = 0;
    for name in RUN {
        session.turn_page();
        for block in Page::read(&root, name).blocks {
            for command in &block.commands {
                let Command { line, text, .. } = command;
                if let Some(needs) = &block.needs {
                    println!("{name}:{line}: checked only, it needs {needs}: {text}");
                    continue;
                }
                println!("{name}:{line}: {text}");
                if let Err(problem) = session.run(command).await {
                    panic!("{name}:{line}: {text}\n{problem}");
                }
                run += 1;
            }
        }
    }
    println!("{run} commands were run");
    assert!(run > 30, "only {run} commands were run");
}

#[test]
fn every_command_is_one_that_the_programs_know() {
    let root = root();
    let mut checked = 0;
    for name in pages(&root) {
        for command in Page::read(&root, &name).commands() {
            let problems = problems(&root, &command.text);
            assert!(
                problems.is_empty(),
                "{name}:{}: {}\n{}",
                command.line,
                command.text,
                problems.join("\n")
            );
            checked += 1;
        }
    }
    assert!(checked > 30, "only {checked} commands were found");
}

#[test]
fn what_no_program_knows_is_found() {
    let root = root();
    for wrong in [
        "abidectl statu",
        "kubectl exec abide-0 -- abidectl status --nope",
        "abide-server --confg-file x",
        "helm install abide helm/abyde",
        "./cluster.sh explode",
    ] {
        assert!(!problems(&root, wrong).is_empty(), "{wrong}");
    }
}

#[test]
fn every_link_of_a_page_leads_somewhere() {
    let root = root();
    let link = Regex::new(r"\]\(([^)#:]+)(#[^)]*)?\)").unwrap();
    for name in pages(&root) {
        let text = fs::read_to_string(root.join(&name)).unwrap();
        let folder = root.join(&name).parent().unwrap().to_owned();
        for found in link.captures_iter(&text) {
            let target = folder.join(&found[1]);
            assert!(target.exists(), "{name} links to {}", &found[1]);
        }
    }
}

#[test]
fn every_page_is_linked_from_the_first_one() {
    let root = root();
    let first = fs::read_to_string(root.join("docs/README.md")).unwrap();
    for name in pages(&root) {
        let Some(page) = name
            .strip_prefix("docs/")
            .filter(|page| *page != "README.md")
        else {
            continue;
        };
        assert!(
            first.contains(&format!("({page})")),
            "nobody finds docs/{page}: docs/README.md does not link to it"
        );
    }
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

/// All pages for people, from the root.
fn pages(root: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(root.join("docs"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| name.ends_with(".md"))
        .map(|name| format!("docs/{name}"))
        .collect();
    names.sort();
    names.insert(0, "README.md".to_owned());
    names
}

/// What is wrong with a command as far as that can be told without running it.
fn problems(root: &Path, text: &str) -> Vec<String> {
    let words: Vec<&str> = text.split_whitespace().collect();
    let mut problems = Vec::new();
    for (index, word) in words.iter().enumerate() {
        let program = word.trim_start_matches("$(");
        match program.rsplit('/').next().unwrap_or_default() {
            name @ ("abidectl" | "abide-server") if is_called(&words, index) => {
                problems.extend(unknown(name, &words[index + 1..]));
            }
            "cluster.sh" if index == 0 => {
                let usage = fs::read_to_string(root.join("cluster.sh")).unwrap();
                let command = words.get(1).copied().unwrap_or("help");
                if !usage.contains(&format!("\n    {command}) ")) && command != "help" {
                    problems.push(format!("cluster.sh has no command {command}"));
                }
            }
            _ => {}
        }
        let path = word.trim_matches(['"', '\'', ',', ')']);
        let ours = ["deploy/", "k8s", "helm/", "examples/", "scripts/"];
        if ours.iter().any(|folder| path.starts_with(folder))
            && !path.contains(['*', '$'])
            && !root.join(path).exists()
            && !path.ends_with("/.env")
        {
            problems.push(format!("{path} does not exist"));
        }
    }
    problems
}

/// Whether a word is a program that is called, and not an argument such as a file to install.
fn is_called(words: &[&str], index: usize) -> bool {
    let before = index.checked_sub(1).map(|before| words[before]);
    before.is_none_or(|before| {
        before.contains('=')
            || matches!(
                before,
                "--" | "|" | "&&" | "sudo" | "watch" | "until" | "while"
            )
            || before.starts_with("node")
            || before.starts_with("$(")
    }) || words[index].starts_with("$(")
}

/// Asks the program itself: help is shown only where everything before it is known.
fn unknown(program: &str, arguments: &[&str]) -> Option<String> {
    let ends = |word: &&&str| !matches!(**word, "|" | "&&" | ";" | ">" | "#" | "&" | "do" | "||");
    let arguments: Vec<&str> = arguments
        .iter()
        .take_while(ends)
        .map(|word| word.trim_matches(['"', '\'', ')', ';']))
        .filter(|word| !word.starts_with('>') && !word.starts_with("2>"))
        .collect();
    let asked = Process::new(beside_the_test(program))
        .args(&arguments)
        .arg("--help")
        .env_remove("ABIDE_CONFIG")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    (!asked.status.success()).then_some(said)
}
