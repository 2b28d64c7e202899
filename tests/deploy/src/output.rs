//! Whether a command printed what the page says.

/// The first line of the page that was not printed, in its order; `None` when all were.
///
/// Blanks count as one, since columns are as wide as what is in them. `...` stands for anything in a line and, alone, for
/// any lines.
pub fn differs(expected: &[String], printed: &str) -> Option<String> {
    let mut lines = printed.lines().map(squeezed);
    for wanted in expected {
        let pattern = squeezed(wanted);
        if pattern.is_empty() || pattern == "..." {
            continue;
        }
        if !lines.any(|line| matches(&pattern, &line)) {
            return Some(wanted.clone());
        }
    }
    None
}

fn squeezed(line: &str) -> String {
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn matches(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.split("...");
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = line.strip_prefix(first.trim_end()) else {
        return false;
    };
    let mut last = None;
    for part in parts {
        let part = part.trim();
        let Some(at) = rest.find(part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        last = Some(part);
    }
    // Without a wildcard at the end, the line ends where the pattern does.
    rest.is_empty() || last == Some("") || last.is_some_and(|last| line.ends_with(last))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(expected: &[&str], printed: &str) -> Option<String> {
        let expected: Vec<String> = expected.iter().map(|&line| line.to_owned()).collect();
        differs(&expected, printed)
    }

    #[test]
    fn lines_match_in_order_with_wildcards() {
        let printed = "NODE   NAME   LIVENESS\nN1     node1  alive\nN2     node2  dead\n";
        assert_eq!(
            check(&["NODE  NAME  LIVENESS", "N1 ... alive", "N2 ..."], printed),
            None
        );
        assert_eq!(check(&["...", "N2 node2 dead"], printed), None);
        assert_eq!(
            check(&["N2 ...", "N1 ..."], printed),
            Some("N1 ...".to_owned())
        );
        assert_eq!(
            check(&["N2 ... alive"], printed),
            Some("N2 ... alive".to_owned())
        );
        assert_eq!(check(&["N1 node1"], printed), Some("N1 node1".to_owned()));
        assert_eq!(check(&["... node2 dead"], printed), None);
    }
}
