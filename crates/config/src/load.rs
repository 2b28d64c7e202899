//! Brings the sources together.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use config::{ConfigError as SourceError, File, FileFormat};
use serde::de::{self, DeserializeOwned, Deserializer, Visitor};
use toml::{Table, Value};

use crate::root::Config;
use crate::validate::InvalidValue;

/// What the environment's names begin with.
const PREFIX: &str = "ABIDE_";
/// Separates the levels of the tree in them.
const NESTING: &str = "__";

/// Why the configuration cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the configuration file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// The file is not TOML.
    #[error("{path} is not TOML: {problem}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line, column and what is wrong there.
        problem: String,
    },
    /// A key does not exist or its value is of another kind.
    #[error("{origin}: {problem}")]
    Value {
        /// File or variable that says so.
        origin: String,
        /// Key, value and what would be right.
        problem: String,
    },
    /// A value is out of its bounds or contradicts another.
    #[error(transparent)]
    Invalid(#[from] InvalidValue),
}

impl Config {
    /// Reads the defaults, then the file at `path`, then the variables in `environment` whose names begin
    /// with `ABIDE_`; fills in what depends on the machine; and checks the whole.
    ///
    /// # Errors
    /// The first problem, with where it is and what would be right.
    pub fn load(
        path: Option<&Path>,
        environment: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, ConfigError> {
        let (variables, _) = sort_variables(environment);
        let mut sources = config::Config::builder();
        if let Some(path) = path {
            let text = std::fs::read_to_string(path).map_err(|source| ConfigError::Read {
                path: path.to_owned(),
                source,
            })?;
            // Parsed by itself first: this parser tells the line.
            text.parse::<Table>().map_err(|error| ConfigError::Syntax {
                path: path.to_owned(),
                problem: error.to_string(),
            })?;
            sources = sources.add_source(File::from_str(&text, FileFormat::Toml));
        }
        let overrides = nest(&variables)?;
        sources = sources.add_source(File::from_str(&overrides.to_string(), FileFormat::Toml));
        let origin = Origin { path, variables };
        let mut config: Self = sources
            .build()
            .and_then(config::Config::try_deserialize)
            .map_err(|error| origin.blame(&error))?;
        if config.node_name.is_empty() {
            config.node_name = host_name();
        }
        config.validate()?;
        Ok(config)
    }

    /// The whole tree as a file that [`Config::load`] reads.
    ///
    /// # Panics
    /// Never: every field has a form in TOML, and a test writes them all.
    pub fn to_toml(&self) -> String {
        toml::to_string_pretty(self).expect("every field has a form in TOML")
    }
}

/// Variables that begin with `ABIDE_` and name no key. They are ignored, since an orchestrator may set some of
/// its own for a service of that name; a mistyped one is found here.
pub fn ignored_variables(environment: impl IntoIterator<Item = (String, String)>) -> Vec<String> {
    sort_variables(environment).1
}

/// A variable that names a key.
struct Variable {
    name: String,
    value: String,
}

/// Keys with their variables, and the names of the variables that are none.
fn sort_variables(
    environment: impl IntoIterator<Item = (String, String)>,
) -> (BTreeMap<String, Variable>, Vec<String>) {
    let known = fields_of::<Config>();
    let mut variables = BTreeMap::new();
    let mut ignored = Vec::new();
    for (name, value) in environment {
        let Some(rest) = name.strip_prefix(PREFIX) else {
            continue;
        };
        let key = rest
            .split(NESTING)
            .map(|part| part.to_ascii_lowercase().replace('_', "-"))
            .collect::<Vec<_>>()
            .join(".");
        let top = key.split('.').next().unwrap_or_default();
        if known.contains(&top) {
            variables.insert(key, Variable { name, value });
        } else {
            ignored.push(name);
        }
    }
    ignored.sort();
    (variables, ignored)
}

/// The variables as a tree. Lists and tables are written in TOML; all else is text, which becomes a number or
/// a boolean where one is wanted.
fn nest(variables: &BTreeMap<String, Variable>) -> Result<Table, ConfigError> {
    let mut root = Table::new();
    for (key, Variable { name, value }) in variables {
        let wrong = |problem: String| ConfigError::Value {
            origin: name.clone(),
            problem,
        };
        let value = if value.trim_start().starts_with(['[', '{']) {
            let line: Table = format!("value = {value}")
                .parse()
                .map_err(|error| wrong(format!("not a list or table in TOML: {error}")))?;
            line["value"].clone()
        } else {
            Value::String(value.clone())
        };
        let (parents, last) = key.rsplit_once('.').unwrap_or(("", key));
        let mut table = &mut root;
        for part in parents.split('.').filter(|part| !part.is_empty()) {
            let next = table
                .entry(part)
                .or_insert_with(|| Value::Table(Table::new()));
            table = next
                .as_table_mut()
                .ok_or_else(|| wrong(format!("`{part}` has a value of its own")))?;
        }
        table.insert(last.to_owned(), value);
    }
    Ok(root)
}

/// Where values come from, to say it in errors.
struct Origin<'a> {
    path: Option<&'a Path>,
    variables: BTreeMap<String, Variable>,
}

impl Origin<'_> {
    fn blame(&self, error: &SourceError) -> ConfigError {
        let (key, problem) = explain(error);
        let variable = self
            .variables
            .iter()
            .find(|(name, _)| key.as_deref() == Some(name) || problem_names(&problem, name));
        let origin = match (variable, self.path) {
            (Some((_, variable)), _) => variable.name.clone(),
            (None, Some(path)) => path.display().to_string(),
            (None, None) => "environment".to_owned(),
        };
        let problem = match key {
            Some(key) => format!("`{key}`: {problem}"),
            None => problem,
        };
        ConfigError::Value { origin, problem }
    }
}

/// Whether the problem is that the last part of `key` is unknown: such an error carries no key of its own.
fn problem_names(problem: &str, key: &str) -> bool {
    let last = key.rsplit('.').next().unwrap_or(key);
    problem.starts_with(&format!("unknown field `{last}`"))
}

/// The key and the rest of what the library says, without its decorations.
fn explain(error: &SourceError) -> (Option<String>, String) {
    match error {
        SourceError::Type {
            unexpected,
            expected,
            key,
            ..
        } => (key.clone(), format!("{unexpected} is not {expected}")),
        SourceError::At { error, key, .. } => {
            let (inner, problem) = explain(error);
            (inner.or_else(|| key.clone()), problem)
        }
        SourceError::Message(problem) => (None, problem.clone()),
        other => (None, other.to_string()),
    }
}

/// The kernel's name for this machine.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.to_owned(),
    }
}

/// The names of a struct's fields as serde knows them.
fn fields_of<T: DeserializeOwned>() -> &'static [&'static str] {
    struct Asked(Option<&'static [&'static str]>);

    #[derive(Debug)]
    struct Enough;

    impl fmt::Display for Enough {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("only the names were wanted")
        }
    }

    impl std::error::Error for Enough {}

    impl de::Error for Enough {
        fn custom<M: fmt::Display>(_: M) -> Self {
            Self
        }
    }

    impl<'de> Deserializer<'de> for &mut Asked {
        type Error = Enough;

        fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Enough> {
            Err(Enough)
        }

        fn deserialize_struct<V: Visitor<'de>>(
            self,
            _: &'static str,
            fields: &'static [&'static str],
            _: V,
        ) -> Result<V::Value, Enough> {
            self.0 = Some(fields);
            Err(Enough)
        }

        serde::forward_to_deserialize_any! {
            bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit
            unit_struct newtype_struct seq tuple tuple_struct map enum identifier ignored_any
        }
    }

    let mut asked = Asked(None);
    let _ = T::deserialize(&mut asked);
    asked.0.unwrap_or_default()
}
