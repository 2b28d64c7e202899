//! What a handler takes and gives: the rules that a front door checks (ingress reference, section 5).

use std::fmt;
use std::str::FromStr;

use serde_json::Value;

/// Which content types a rule lets pass: `*/*`, `type/*` or `type/subtype`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentTypeRule(String);

/// A content type that cannot be a rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a content type; write type/subtype, type/* or */*")]
pub struct ContentTypeRuleError(pub String);

impl ContentTypeRule {
    /// Lets everything pass.
    pub fn any() -> Self {
        Self("*/*".to_owned())
    }

    /// The rule as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn matches(&self, given: &str) -> bool {
        let given = given.split(';').next().unwrap_or_default().trim();
        match self.0.strip_suffix("/*") {
            Some("*") => true,
            Some(major) => given.split_once('/').is_some_and(|given| given.0 == major),
            None => given == self.0,
        }
    }
}

impl FromStr for ContentTypeRule {
    type Err = ContentTypeRuleError;

    fn from_str(text: &str) -> Result<Self, ContentTypeRuleError> {
        let rule = text.split(';').next().unwrap_or_default().trim();
        let error = || ContentTypeRuleError(text.to_owned());
        let (major, minor) = rule.split_once('/').ok_or_else(error)?;
        let is_token = |part: &str| {
            !part.is_empty()
                && part.bytes().all(|byte| {
                    byte.is_ascii_graphic() && !matches!(byte, b'/' | b',' | b'"' | b'*')
                })
        };
        let good = match (major, minor) {
            ("*", "*") => true,
            (major, "*") => is_token(major),
            (major, minor) => is_token(major) && is_token(minor),
        };
        if good {
            Ok(Self(rule.to_owned()))
        } else {
            Err(error())
        }
    }
}

impl fmt::Display for ContentTypeRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// One way in which a request may pass.
#[derive(Debug, Clone, PartialEq)]
pub enum InputRule {
    /// No body and no content type.
    Empty,
    /// A content type that matches; the body may be empty.
    ContentType(ContentTypeRule),
    /// A content type that matches and a body. The schema is documentation; the server does not enforce it.
    Json {
        /// The content type.
        content_type: ContentTypeRule,
        /// The JSON Schema.
        schema: Value,
    },
}

/// Why a request does not fit the handler's input.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InputError {
    /// A rule needs a content type.
    #[error("Empty content-type")]
    NoContentType,
    /// It is another one.
    #[error("Content-type '{given}' does not match '{rule}'")]
    Mismatch {
        /// What the request says.
        given: String,
        /// What the handler takes.
        rule: String,
    },
    /// The handler takes JSON, which is never empty.
    #[error("Empty body not allowed")]
    EmptyBody,
    /// The handler takes nothing.
    #[error("Expected body and content-type to be empty, but wasn't with content-type '{0:?}'")]
    NotEmpty(Option<String>),
}

impl InputRule {
    fn check(&self, content_type: Option<&str>, body_empty: bool) -> Result<(), InputError> {
        let matching = |rule: &ContentTypeRule| match content_type {
            None => Err(InputError::NoContentType),
            Some(given) if rule.matches(given) => Ok(()),
            Some(given) => Err(InputError::Mismatch {
                given: given.to_owned(),
                rule: rule.to_string(),
            }),
        };
        match self {
            Self::Empty if body_empty && content_type.is_none() => Ok(()),
            Self::Empty => Err(InputError::NotEmpty(content_type.map(str::to_owned))),
            Self::ContentType(rule) => matching(rule),
            Self::Json { content_type, .. } => {
                matching(content_type)?;
                if body_empty {
                    Err(InputError::EmptyBody)
                } else {
                    Ok(())
                }
            }
        }
    }
}

/// What a handler takes: a request passes when any of the rules lets it pass.
#[derive(Debug, Clone, PartialEq)]
pub struct InputRules(Vec<InputRule>);

impl Default for InputRules {
    /// What holds for a handler that says nothing: anything that has a content type, or nothing at all.
    fn default() -> Self {
        Self(vec![
            InputRule::Empty,
            InputRule::ContentType(ContentTypeRule::any()),
        ])
    }
}

impl InputRules {
    /// The rules of an input that a manifest describes.
    pub fn of_manifest(
        required: bool,
        content_type: Option<ContentTypeRule>,
        schema: Option<Value>,
    ) -> Self {
        let mut rules = Vec::with_capacity(2);
        if !required {
            rules.push(InputRule::Empty);
        }
        match (content_type, schema) {
            (content_type, Some(schema)) => rules.push(InputRule::Json {
                content_type: content_type
                    .unwrap_or_else(|| ContentTypeRule("application/json".to_owned())),
                schema,
            }),
            (Some(rule), None) => rules.push(InputRule::ContentType(rule)),
            (None, None) if rules.is_empty() => rules.push(InputRule::Empty),
            (None, None) => {}
        }
        Self(rules)
    }

    /// The rules one by one.
    pub fn rules(&self) -> &[InputRule] {
        &self.0
    }

    pub(crate) fn from_rules(rules: Vec<InputRule>) -> Self {
        if rules.is_empty() {
            Self::default()
        } else {
            Self(rules)
        }
    }

    /// Whether a request passes; the error is that of the last rule.
    pub fn check(&self, content_type: Option<&str>, body: &[u8]) -> Result<(), InputError> {
        let mut last = Ok(());
        for rule in &self.0 {
            last = rule.check(content_type, body.is_empty());
            if last.is_ok() {
                break;
            }
        }
        last
    }

    /// The JSON Schema of the input, if there is one.
    pub fn json_schema(&self) -> Option<&Value> {
        self.0.iter().find_map(|rule| match rule {
            InputRule::Json { schema, .. } => Some(schema),
            _ => None,
        })
    }

    /// The rules in a few words, for the admin API.
    pub fn description(&self) -> String {
        let mut words = self.0.iter().filter_map(|rule| match rule {
            InputRule::Empty => None,
            InputRule::ContentType(rule) => Some(rule.to_string()),
            InputRule::Json {
                content_type,
                schema,
            } => Some(describe_schema(schema).unwrap_or_else(|| content_type.to_string())),
        });
        words.next().unwrap_or_else(|| "none".to_owned())
    }
}

/// What a handler gives.
#[derive(Debug, Clone, PartialEq)]
pub struct OutputRule {
    /// Content type of the answer.
    pub content_type: Option<String>,
    /// Whether an empty answer carries it too.
    pub set_if_empty: bool,
    /// The JSON Schema of the result.
    pub schema: Option<Value>,
}

impl Default for OutputRule {
    /// What holds for a handler that says nothing.
    fn default() -> Self {
        Self {
            content_type: Some("application/json".to_owned()),
            set_if_empty: false,
            schema: None,
        }
    }
}

impl OutputRule {
    /// The content type of an answer with this body.
    pub fn content_type(&self, body: &[u8]) -> Option<&str> {
        let content_type = self.content_type.as_deref()?;
        (self.set_if_empty || !body.is_empty()).then_some(content_type)
    }

    /// The rule in a few words, for the admin API.
    pub fn description(&self) -> String {
        let schema = self.schema.as_ref().and_then(describe_schema);
        match (schema, &self.content_type) {
            (Some(schema), _) => schema,
            (None, Some(content_type)) if self.set_if_empty => format!("optional {content_type}"),
            (None, Some(content_type)) => content_type.clone(),
            (None, None) => "none".to_owned(),
        }
    }
}

/// `None` for a schema that does not say what it describes.
fn describe_schema(schema: &Value) -> Option<String> {
    let text = |field: &str| schema.get(field).and_then(Value::as_str);
    match (text("title"), text("type")) {
        (Some(title), _) => Some(format!("JSON '{title}'")),
        (None, Some(ty)) => Some(format!("JSON {ty}")),
        (None, None) => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(manifest: Value) -> InputRules {
        let text = |field: &str| manifest.get(field).and_then(Value::as_str);
        InputRules::of_manifest(
            manifest
                .get("required")
                .and_then(Value::as_bool)
                .unwrap_or(false),
            text("contentType").map(|rule| rule.parse().unwrap()),
            manifest.get("jsonSchema").cloned(),
        )
    }

    #[test]
    fn requests_pass_as_the_reference_says() {
        let json = Some("application/json");
        let mismatch =
            "Content-type 'application/x-www-form-urlencoded' does not match 'application/json'";
        let table = [
            // TypeScript's default.
            (
                rules(json!({"contentType": "application/json"})),
                None,
                "",
                Ok(()),
            ),
            (
                rules(json!({"contentType": "application/json"})),
                json,
                "{}",
                Ok(()),
            ),
            (
                rules(json!({"contentType": "application/json"})),
                json,
                "",
                Ok(()),
            ),
            (
                rules(json!({"contentType": "application/json"})),
                Some("application/json; charset=utf-8"),
                "{}",
                Ok(()),
            ),
            (
                rules(json!({"contentType": "application/json"})),
                Some("application/x-www-form-urlencoded"),
                "x",
                Err(mismatch),
            ),
            (
                rules(json!({"contentType": "application/json"})),
                None,
                "x",
                Err("Empty content-type"),
            ),
            // Absent.
            (InputRules::default(), None, "", Ok(())),
            (InputRules::default(), Some("text/plain"), "x", Ok(())),
            (InputRules::default(), None, "x", Err("Empty content-type")),
            // Required.
            (
                rules(json!({"required": true, "contentType": "text/*"})),
                Some("text/plain"),
                "",
                Ok(()),
            ),
            (
                rules(json!({"required": true, "contentType": "text/*"})),
                None,
                "",
                Err("Empty content-type"),
            ),
            // A JSON schema.
            (
                rules(
                    json!({"required": true, "contentType": "application/json", "jsonSchema": {}}),
                ),
                json,
                "",
                Err("Empty body not allowed"),
            ),
            (
                rules(
                    json!({"required": false, "contentType": "application/json", "jsonSchema": {}}),
                ),
                None,
                "",
                Ok(()),
            ),
            // Nothing at all.
            (rules(json!({})), None, "", Ok(())),
            (
                rules(json!({})),
                json,
                "",
                Err(
                    "Expected body and content-type to be empty, but wasn't with content-type 'Some(\"application/json\")'",
                ),
            ),
        ];
        for (rules, content_type, body, expected) in table {
            let got = rules
                .check(content_type, body.as_bytes())
                .map_err(|error| error.to_string());
            assert_eq!(
                got,
                expected.map_err(str::to_owned),
                "{rules:?} {content_type:?} {body:?}"
            );
        }
    }

    #[test]
    fn content_type_rules_are_checked() {
        for good in [
            "*/*",
            "text/*",
            "application/json",
            "application/vnd.x+json; charset=utf-8",
        ] {
            assert!(good.parse::<ContentTypeRule>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "json",
            "*/json",
            "a/b/c",
            "/",
            "text/",
            "te xt/plain",
            "*x/*",
        ] {
            assert!(bad.parse::<ContentTypeRule>().is_err(), "{bad}");
        }
    }

    #[test]
    fn answers_carry_their_content_type() {
        let rule = OutputRule::default();
        assert_eq!(rule.content_type(b"1"), Some("application/json"));
        assert_eq!(rule.content_type(b""), None);
        let rule = OutputRule {
            set_if_empty: true,
            ..rule
        };
        assert_eq!(rule.content_type(b""), Some("application/json"));
        let rule = OutputRule {
            content_type: None,
            ..rule
        };
        assert_eq!(rule.content_type(b"1"), None);
    }

    #[test]
    fn descriptions_are_those_of_the_reference() {
        let input = rules(json!({"contentType": "application/json"}));
        assert_eq!(input.description(), "application/json");
        assert_eq!(InputRules::default().description(), "*/*");
        assert_eq!(rules(json!({})).description(), "none");
        let titled = rules(json!({"jsonSchema": {"title": "In", "type": "object"}}));
        assert_eq!(titled.description(), "JSON 'In'");
        let output = OutputRule {
            schema: Some(json!({"type": "string"})),
            ..OutputRule::default()
        };
        assert_eq!(output.description(), "JSON string");
    }
}
