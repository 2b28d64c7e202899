//! How scopes and limit keys are written.

/// Characters of one part at most.
const PART_MAX: usize = 36;

/// Why something is no scope or limit key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ScopeError {
    /// The scope has other characters, or too many.
    #[error("'{0}' is no scope: 1 to {PART_MAX} of a-z, A-Z, 0-9, '_', '.', '-'")]
    Scope(String),
    /// The limit key has other characters, or too many.
    #[error(
        "'{0}' is no limit key: one part, or two joined by '/', each of 1 to {PART_MAX} of a-z, A-Z, 0-9, '_', '.', '-'"
    )]
    LimitKey(String),
    /// A limit key counts within a scope.
    #[error("the limit key '{0}' lacks a scope")]
    NoScope(String),
}

/// Checks how a scope and a limit key are written.
///
/// # Errors
/// What is wrong with the first of them that is.
pub fn check(scope: Option<&str>, limit_key: Option<&str>) -> Result<(), ScopeError> {
    if let Some(scope) = scope
        && !is_part(scope)
    {
        return Err(ScopeError::Scope(scope.to_owned()));
    }
    let Some(key) = limit_key else {
        return Ok(());
    };
    if scope.is_none() {
        return Err(ScopeError::NoScope(key.to_owned()));
    }
    let fits = match key.split_once('/') {
        Some((first, second)) => is_part(first) && is_part(second),
        None => is_part(key),
    };
    fits.then_some(())
        .ok_or_else(|| ScopeError::LimitKey(key.to_owned()))
}

fn is_part(text: &str) -> bool {
    (1..=PART_MAX).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_and_limit_keys_are_told_from_others() {
        let long = "a".repeat(PART_MAX + 1);
        for (scope, key, fits) in [
            (None, None, true),
            (Some("tenA"), None, true),
            (Some("a_b.c-9"), Some("k"), true),
            (Some("s"), Some("k/l"), true),
            (Some("s"), Some("k/l/m"), false),
            (Some("s"), Some("k/"), false),
            (Some("s"), Some(""), false),
            (Some(""), None, false),
            (Some("a b"), None, false),
            (Some(&*long), None, false),
            (Some(&long[1..]), None, true),
            (None, Some("k"), false),
        ] {
            assert_eq!(check(scope, key).is_ok(), fits, "{scope:?} {key:?}");
        }
    }
}
