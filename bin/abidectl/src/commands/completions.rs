//! `abidectl completions`: scripts with which shells complete the commands.

use clap::CommandFactory as _;
use clap_complete::Shell;

use crate::cli::Cli;

pub(crate) fn script(shell: Shell) -> String {
    let mut command = Cli::command();
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut command, "abidectl", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    #[test]
    fn every_shell_has_a_script_that_knows_the_commands() {
        for shell in Shell::value_variants() {
            let script = script(*shell);
            for word in ["metadata-server", "find-tail", "--timeout"] {
                let word = match shell {
                    // It has the names of options without their dashes.
                    Shell::Fish => word.trim_start_matches('-'),
                    _ => word,
                };
                assert!(script.contains(word), "{shell}: {word}");
            }
        }
    }
}
