//! A Markdown page and the commands on it.
//!
//! ```text
//! <!-- needs: docker -->          what this machine may not have: the block is checked and not run
//! ```console
//! $ abidectl status               a command; a backslash at the end continues it
//! NODE   NAME  ...                what it prints: in this order, `...` stands for anything
//! $ abidectl health  # exits 1    it is to fail so
//! ```
//! ```

use std::fs;
use std::path::Path;

/// What a block may need that a test does not have.
const NEEDS: [&str; 6] = [
    "docker",
    "kubernetes",
    "helm",
    "root",
    "a build",
    "other machines",
];
/// Shells whose blocks would go by this test.
const SHELLS: [&str; 5] = ["sh", "bash", "shell", "zsh", "shell-session"];

/// The commands of one file.
#[derive(Debug)]
pub struct Page {
    /// The file, from the root of the repository.
    pub name: String,
    /// In the order of the file.
    pub blocks: Vec<Block>,
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// What keeps it from being run, if anything does.
    pub needs: Option<String>,
    /// What it holds.
    pub commands: Vec<Command>,
}

/// A command.
#[derive(Debug, PartialEq, Eq)]
pub struct Command {
    /// Where it stands.
    pub line: usize,
    /// What is typed.
    pub text: String,
    /// What it prints, as the page has it.
    pub output: Vec<String>,
    /// What it is to exit with.
    pub exits: i32,
}

impl Page {
    /// Reads a file below the root.
    ///
    /// # Panics
    /// Says what is wrong and where when the file is not written as described above.
    pub fn read(root: &Path, name: &str) -> Page {
        let text =
            fs::read_to_string(root.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        Page {
            name: name.to_owned(),
            blocks: parse(name, &text),
        }
    }

    /// All commands, run or not.
    pub fn commands(&self) -> impl Iterator<Item = &Command> {
        self.blocks.iter().flat_map(|block| &block.commands)
    }
}

fn parse(name: &str, text: &str) -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut needs = None;
    let mut open: Option<Option<Block>> = None;
    let mut indent = "";
    for (index, line) in text.lines().enumerate() {
        let at = format!("{name}:{}", index + 1);
        // A block may stand in a list.
        let bare = line.trim_start();
        let fence = bare.strip_prefix("```");
        match (&mut open, fence) {
            (None, Some(language)) => {
                assert!(
                    !SHELLS.contains(&language),
                    "{at}: write what people type as ```console, with `$ ` before each command"
                );
                indent = &line[..line.len() - bare.len()];
                open = Some((language == "console").then(|| Block {
                    needs: needs.take(),
                    commands: Vec::new(),
                }));
            }
            (None, None) => {
                if let Some(marker) = bare.strip_prefix("<!-- needs: ") {
                    let marker = marker.trim_end_matches(" -->");
                    assert!(
                        NEEDS.contains(&marker),
                        "{at}: '{marker}' is none of {NEEDS:?}"
                    );
                    needs = Some(marker.to_owned());
                } else if !bare.is_empty() {
                    needs = None;
                }
            }
            (Some(block), Some("")) => {
                blocks.extend(block.take());
                open = None;
            }
            (Some(Some(block)), _) => {
                let text = line.strip_prefix(indent).unwrap_or(line);
                push_line(block, index + 1, text, &at);
            }
            (Some(None), _) => {}
        }
    }
    assert!(open.is_none(), "{name}: the last block does not end");
    blocks
}

fn push_line(block: &mut Block, line: usize, text: &str, at: &str) {
    if let Some(continued) = block.commands.last_mut()
        && continued.text.ends_with('\\')
    {
        continued.text.pop();
        continued.text.push_str(text.trim_start());
        return;
    }
    if let Some(typed) = text.strip_prefix("$ ") {
        let (typed, exits) = match typed.split_once("# exits ") {
            Some((typed, code)) => {
                let code = code.trim().parse();
                (
                    typed.trim(),
                    code.unwrap_or_else(|_| panic!("{at}: exits what?")),
                )
            }
            None => (typed, 0),
        };
        block.commands.push(Command {
            line,
            text: typed.to_owned(),
            output: Vec::new(),
            exits,
        });
        return;
    }
    let command = block.commands.last_mut();
    let command = command.unwrap_or_else(|| panic!("{at}: what prints this? `$ ` is missing"));
    command.output.push(text.to_owned());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read_with_what_they_print_and_need() {
        let text = "\
1. Text.

   <!-- needs: docker -->
   ```console
   $ docker compose \\
       up
   ```
and
```toml
$ = 1
```
```console
$ abidectl health  # exits 1
error: ...
$ true
```
";
        let blocks = parse("page.md", text);
        let [first, second] = &blocks[..] else {
            panic!("{blocks:?}")
        };
        assert_eq!(first.needs.as_deref(), Some("docker"));
        assert_eq!(first.commands[0].text, "docker compose up");
        assert_eq!(second.needs, None);
        let [health, last] = &second.commands[..] else {
            panic!("{second:?}")
        };
        assert_eq!((health.text.as_str(), health.exits), ("abidectl health", 1));
        assert_eq!(health.output, ["error: ..."]);
        assert_eq!((last.text.as_str(), last.line), ("true", 15));
    }

    #[test]
    #[should_panic(expected = "as ```console")]
    fn a_block_that_would_go_by_is_refused() {
        parse("page.md", "```bash\nrm -rf /\n```\n");
    }

    #[test]
    #[should_panic(expected = "'a miracle' is none of")]
    fn an_excuse_has_to_be_a_known_one() {
        parse(
            "page.md",
            "<!-- needs: a miracle -->\n```console\n$ true\n```\n",
        );
    }
}
