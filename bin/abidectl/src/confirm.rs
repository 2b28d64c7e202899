//! Asks before something is changed: says what would be done, and waits for a yes.
//!
//! Start at [`confirm`]. Plan and question go to stderr, so that stdout stays the command's data. `--yes` answers for
//! scripts. An input that ends without an answer is a no.

use std::io::{self, BufRead, Write};

use crate::failure::Failure;

/// What has to be typed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Answer {
    /// `y` or `yes`.
    Yes,
    /// Exactly this, for what cannot be taken back: the name of what is about to go, say.
    Word(String),
}

/// Prints `plan`, one line a step, and asks whether to go on, unless `yes` says so already.
pub(crate) fn confirm(plan: &[String], answer: &Answer, yes: bool) -> Result<(), Failure> {
    let stdin = io::stdin();
    let stderr = io::stderr();
    ask(plan, answer, yes, &mut stdin.lock(), &mut stderr.lock())
}

fn ask(
    plan: &[String],
    answer: &Answer,
    yes: bool,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<(), Failure> {
    // There is nowhere left to report a stderr that does not take it.
    for line in plan {
        let _ = writeln!(output, "{line}");
    }
    if yes {
        return Ok(());
    }
    let _ = match answer {
        Answer::Yes => write!(output, "Go on? [y/N] "),
        Answer::Word(word) => write!(output, "This cannot be undone. Type {word} to go on: "),
    };
    let _ = output.flush();
    let mut typed = String::new();
    // What cannot be read is no answer, and no answer is a no.
    let _ = input.read_line(&mut typed);
    let typed = typed.trim();
    let agreed = match answer {
        Answer::Yes => ["y", "yes"].contains(&typed.to_lowercase().as_str()),
        Answer::Word(word) => typed == word,
    };
    if agreed {
        Ok(())
    } else {
        Err(Failure::NotConfirmed)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    /// What stands on stderr, and whether the command goes on.
    fn check(answer: Answer, yes: bool, typed: &str, expected: Expect) {
        let mut output = Vec::new();
        let plan = ["N3 is drained".to_owned()];
        let asked = ask(&plan, &answer, yes, &mut typed.as_bytes(), &mut output);
        let text = String::from_utf8(output).unwrap();
        let outcome = match asked {
            Ok(()) => "goes on".to_owned(),
            Err(failure) => failure.to_string(),
        };
        expected.assert_eq(&format!("{text}\n{outcome}\n"));
    }

    #[test]
    fn only_a_yes_is_a_yes() {
        check(
            Answer::Yes,
            false,
            "Yes\n",
            expect![[r#"
                N3 is drained
                Go on? [y/N] 
                goes on
            "#]],
        );
        check(
            Answer::Yes,
            false,
            "\n",
            expect![[r#"
                N3 is drained
                Go on? [y/N] 
                nothing was changed: it was not confirmed
            "#]],
        );
        check(
            Answer::Yes,
            false,
            "",
            expect![[r#"
                N3 is drained
                Go on? [y/N] 
                nothing was changed: it was not confirmed
            "#]],
        );
    }

    #[test]
    fn what_cannot_be_undone_wants_its_name() {
        let word = || Answer::Word("node3".to_owned());
        check(
            word(),
            false,
            "y\n",
            expect![[r#"
                N3 is drained
                This cannot be undone. Type node3 to go on: 
                nothing was changed: it was not confirmed
            "#]],
        );
        check(
            word(),
            false,
            "node3\n",
            expect![[r#"
                N3 is drained
                This cannot be undone. Type node3 to go on: 
                goes on
            "#]],
        );
    }

    #[test]
    fn a_script_is_shown_the_plan_and_not_asked() {
        check(
            Answer::Word("node3".to_owned()),
            true,
            "",
            expect![[r#"
                N3 is drained

                goes on
            "#]],
        );
    }
}
