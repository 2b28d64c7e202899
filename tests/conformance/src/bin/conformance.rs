//! Runs the matrix of languages, settings and cases, and prints it as a table.
//!
//! `conformance [--languages a,b] [--settings a,b] [--cases part,part] [--list]`. Exits with 1 when a case
//! failed and with 2 on an argument that it does not know.

use std::process::ExitCode;

use abide_conformance::{Language, Report, Selection, Setting, cases, run};

const USAGE: &str =
    "usage: conformance [--languages a,b] [--settings a,b] [--cases part,part] [--list]";

struct Arguments {
    languages: Vec<Language>,
    settings: Vec<Setting>,
    selection: Selection,
}

fn parse(arguments: impl IntoIterator<Item = String>) -> Result<Arguments, String> {
    let mut parsed = Arguments {
        languages: Language::ALL.to_vec(),
        settings: Setting::ALL.to_vec(),
        selection: Selection::default(),
    };
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        if argument == "--list" {
            return Err(list());
        }
        let value = arguments.next().ok_or_else(|| USAGE.to_owned())?;
        let mut parts = value.split(',');
        match argument.as_str() {
            "--languages" => {
                parsed.languages = parts
                    .map(|name| {
                        Language::named(name).ok_or(format!("no language '{name}'\n{USAGE}"))
                    })
                    .collect::<Result<_, _>>()?;
            }
            "--settings" => {
                parsed.settings = parts
                    .map(|name| Setting::named(name).ok_or(format!("no setting '{name}'\n{USAGE}")))
                    .collect::<Result<_, _>>()?;
            }
            "--cases" => parsed
                .selection
                .names
                .extend(parts.by_ref().map(str::to_owned)),
            _ => return Err(format!("no option '{argument}'\n{USAGE}")),
        }
    }
    Ok(parsed)
}

fn list() -> String {
    let names = |all: Vec<&str>| all.join("\n  ");
    format!(
        "languages:\n  {}\nsettings:\n  {}\ncases:\n  {}",
        names(Language::ALL.map(Language::name).to_vec()),
        names(Setting::ALL.map(Setting::name).to_vec()),
        names(cases::all().iter().map(|case| case.name).collect()),
    )
}

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = match parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(problem) => {
            eprintln!("{problem}");
            return ExitCode::from(2);
        }
    };
    let mut report = Report::default();
    for language in &arguments.languages {
        for setting in &arguments.settings {
            // A cluster or endpoint that does not start fails this world only.
            let (language, setting) = (*language, *setting);
            let selection = arguments.selection.clone();
            let world = tokio::spawn(async move { run(language, setting, &selection).await }).await;
            match world {
                Ok(rows) => report.rows.extend(rows.rows),
                Err(error) => report.did_not_start(language, setting, error.to_string()),
            }
        }
    }
    println!("\n{report}");
    if report.failures().next().is_some() {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}
