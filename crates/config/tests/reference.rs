//! `docs/configuration.md` is made from the types of this crate: their fields, documentation and defaults.
//!
//! A field that is added or changed makes the page stale, and the test fails. To write it anew:
//!
//! ```console
//! $ UPDATE_EXPECT=1 cargo test --workspace --locked --test reference
//! ```

#![allow(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use abide_config::Config;
use expect_test::expect_file;
use toml::Value;

const OPENING: &str = "\
# Configuration

<!-- Made by `UPDATE_EXPECT=1 cargo test --workspace --locked --test reference` from the types in crates/config.
     Change the comments there. -->

A node reads, each winning over the one before: built-in defaults, a TOML file (`--config-file`, or `ABIDE_CONFIG`),
environment variables, the command line (`abide-server --help`). All of it is read at the start. What a node made of
it is printed by `--dump-config`:

```console
$ abide-server --config-file deploy/config/abide.toml --dump-config
```

- **In the file**, keys are written in lower case with dashes, sections as tables: `abort-timeout` below `[worker.invoker]`. A
  key that does not exist is an error, so that a mistyped one is found.
- **In the environment**, `ABIDE_`, then the key in capitals with `_` for `-` and `__` between the levels:
  `ABIDE_WORKER__INVOKER__ABORT_TIMEOUT=5m`. Lists and tables are written in TOML, as in
  `ABIDE_METADATA_CLIENT__ADDRESSES='[\"node1:5122\", \"node2:5122\"]'`.
- **Durations** are written `10s`, `1m`, `1s 500ms`, `1d` or `PT1M30S`; **sizes** `4096`, `512 MB` (of 1000) or `32 MiB` (of 1024).
- A value that is out of its bounds, or contradicts another, ends the start with the key, the value and what would be right.

[`deploy/config/abide.toml`](../deploy/config/abide.toml) is an example to begin with.
";

/// A struct or an enum of the crate, as its source has it.
#[derive(Debug, Default)]
struct Type {
    docs: String,
    is_enum: bool,
    members: Vec<Member>,
}

/// A field or a variant.
#[derive(Debug)]
struct Member {
    name: String,
    docs: String,
    /// Nothing for a variant.
    kind: String,
}

#[test]
fn the_page_says_what_the_types_say() {
    let types = read_types(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    let defaults: Value = toml::from_str(&Config::default().to_toml()).unwrap();
    let mut page = OPENING.to_owned();
    write_section(&mut page, &types, "Config", "", Some(&defaults));
    expect_file!["../../../docs/configuration.md"].assert_eq(&page);
}

#[test]
fn every_key_of_the_tree_is_on_the_page() {
    // The page comes from the source, and this from serde: what one of them calls a key, the other does too.
    let page = fs::read_to_string(
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md"),
    )
    .unwrap();
    let defaults: Value = toml::from_str(&Config::default().to_toml()).unwrap();
    let mut keys = Vec::new();
    collect_keys("", &defaults, &mut keys);
    assert!(keys.len() > 50, "{keys:?}");
    for key in keys {
        let variable = variable(&key);
        assert!(page.contains(&format!("`{variable}`")), "{key}");
    }
}

#[test]
fn the_example_is_read_without_complaint() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../deploy/config/abide.toml");
    let config = Config::load(Some(&example), []).unwrap();
    assert_eq!(config.cluster_name, "production");
    assert!(!config.auto_provision, "nobody forms a cluster by accident");
    assert_eq!(config.metadata_client.addresses.len(), 3);
}

fn collect_keys(prefix: &str, value: &Value, keys: &mut Vec<String>) {
    match value {
        Value::Table(table) if !table.is_empty() => {
            for (key, value) in table {
                let dot = if prefix.is_empty() { "" } else { "." };
                collect_keys(&format!("{prefix}{dot}{key}"), value, keys);
            }
        }
        _ => keys.push(prefix.to_owned()),
    }
}

/// One section with its keys, then the sections below it.
fn write_section(
    page: &mut String,
    types: &BTreeMap<String, Type>,
    name: &str,
    section: &str,
    defaults: Option<&Value>,
) {
    let Type { docs, members, .. } = &types[name];
    if section.is_empty() {
        page.push_str("\n## The node\n\n");
    } else {
        write!(page, "\n## `[{section}]`\n\n{docs}\n\n").unwrap();
    }
    page.push_str("| key | value | default | what it does |\n| --- | --- | --- | --- |\n");
    let mut below = Vec::new();
    for Member { name, docs, kind } in members {
        let dot = if section.is_empty() { "" } else { "." };
        let key = format!("{section}{dot}{name}");
        let default = defaults.and_then(|table| table.get(name));
        let inner = inside(kind);
        if types.get(inner).is_some_and(|inner| !inner.is_enum) && !kind.starts_with("Vec<") {
            below.push((inner, key, default));
            continue;
        }
        let row = [
            format!("`{name}` <br> `{}`", variable(&key)),
            value_of(types, kind),
            default_of(default),
            meaning(types, docs, kind),
        ];
        writeln!(page, "| {} |", row.join(" | ")).unwrap();
    }
    for (inner, key, default) in below {
        write_section(page, types, inner, &key, default);
    }
}

/// The environment's name of a key.
fn variable(key: &str) -> String {
    let name = key.replace('.', "__").replace('-', "_");
    format!("ABIDE_{}", name.to_uppercase())
}

/// What may be written there.
fn value_of(types: &BTreeMap<String, Type>, kind: &str) -> String {
    if let Some(inner) = kind.strip_prefix("Vec<") {
        let inner = inner.trim_end_matches('>');
        return match inner {
            "String" => "list of texts".to_owned(),
            "Role" => "list of roles".to_owned(),
            _ => "list of tables".to_owned(),
        };
    }
    let inner = inside(kind);
    if let Some(found) = types.get(inner).filter(|found| found.is_enum) {
        let names = found
            .members
            .iter()
            .map(|member| format!("`\"{}\"`", member.name));
        return names.collect::<Vec<_>>().join(", ");
    }
    match inner {
        "bool" => "`true` or `false`",
        "String" => "text",
        "PathBuf" => "path",
        "Duration" => "duration",
        "ByteCount" => "size",
        "IpAddr" => "IP address",
        "SocketAddr" => "`ip:port`",
        "BTreeMap<String, String>" => "table of texts",
        "ReplicationWish" => "number, or like `{zone = 2, node = 3}`",
        number if number.starts_with(['u', 'f']) || number.starts_with("NonZero") => "number",
        other => panic!("say here how a value of {other} is written"),
    }
    .to_owned()
}

fn default_of(default: Option<&Value>) -> String {
    match default {
        None => "unset".to_owned(),
        Some(Value::String(text)) if text.is_empty() => "empty".to_owned(),
        Some(Value::Table(table)) if table.is_empty() => "empty".to_owned(),
        Some(value) => format!("`{value}`"),
    }
}

/// The documentation, with that of an enum's variants.
fn meaning(types: &BTreeMap<String, Type>, docs: &str, kind: &str) -> String {
    let mut text = docs.to_owned();
    let inner = inside(kind);
    let Some(found) = types.get(inner) else {
        return escaped(&text);
    };
    for Member { name, docs, .. } in &found.members {
        let name = if found.is_enum {
            format!("\"{name}\"")
        } else {
            name.clone()
        };
        write!(text, " <br> `{name}`: {docs}").unwrap();
    }
    escaped(&text)
}

fn escaped(text: &str) -> String {
    text.replace('|', "\\|")
}

/// `T` of `Option<T>` and `Vec<T>`.
fn inside(kind: &str) -> &str {
    for outer in ["Option<", "Vec<", "Box<"] {
        if let Some(inner) = kind.strip_prefix(outer) {
            return inner.strip_suffix('>').unwrap();
        }
    }
    kind
}

/// Every public struct with named fields and every public enum in a folder of formatted source.
fn read_types(folder: &Path) -> BTreeMap<String, Type> {
    let mut types = BTreeMap::new();
    let mut files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    for file in files {
        read_file(&fs::read_to_string(&file).unwrap(), &mut types);
    }
    types
}

/// Goes by lines, since `rustfmt` has put each field on one of its own.
fn read_file(source: &str, types: &mut BTreeMap<String, Type>) {
    let mut docs: Vec<&str> = Vec::new();
    let mut open: Option<(String, Type)> = None;
    for line in source.lines() {
        let text = line.trim();
        if let Some(doc) = text.strip_prefix("///") {
            docs.push(doc.trim());
            continue;
        }
        let is_member = line.starts_with("    ") && !line.starts_with("     ");
        if let Some(name) = header(line) {
            let docs = docs.join(" ");
            let is_enum = line.starts_with("pub enum");
            let members = Vec::new();
            open = Some((
                name,
                Type {
                    docs,
                    is_enum,
                    members,
                },
            ));
        } else if line == "}" {
            if let Some((name, found)) = open.take() {
                types.insert(name, found);
            }
        } else if let Some((_, found)) = &mut open
            && is_member
        {
            if text.starts_with(['#', '/', ')', ']']) {
                continue; // Attributes stand between a field and its documentation.
            }
            found
                .members
                .extend(member(text, found.is_enum, docs.join(" ")));
        } else if open.is_some() {
            continue; // The inside of an attribute.
        }
        if !text.starts_with('#') {
            docs.clear();
        }
    }
}

/// The name of a type that begins on this line.
fn header(line: &str) -> Option<String> {
    let rest = line
        .strip_prefix("pub struct ")
        .or_else(|| line.strip_prefix("pub enum "))?;
    let name = rest.strip_suffix(" {")?;
    Some(name.to_owned())
}

fn member(text: &str, is_variant: bool, docs: String) -> Option<Member> {
    let text = text.strip_suffix(',')?;
    if is_variant {
        let name = kebab(text);
        return Some(Member {
            name,
            docs,
            kind: String::new(),
        });
    }
    let (name, kind) = text.strip_prefix("pub ")?.split_once(": ")?;
    Some(Member {
        name: name.replace('_', "-"),
        docs,
        kind: kind.to_owned(),
    })
}

/// `on-max` of `OnMax`.
fn kebab(name: &str) -> String {
    let mut text = String::new();
    for (index, letter) in name.char_indices() {
        if letter.is_uppercase() && index > 0 {
            text.push('-');
        }
        text.extend(letter.to_lowercase());
    }
    text
}
