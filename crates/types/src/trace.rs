//! W3C trace context: where a span stands in its trace.

use std::fmt;

use xxhash_rust::xxh3::xxh3_64;

use crate::ids::InvocationId;

/// What is longer is dropped, as the specification allows.
const STATE_MAX: usize = 512;

/// A span's place: its trace, itself, and what is passed on with them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TraceContext {
    /// Of the whole trace. Not 0.
    pub trace_id: u128,
    /// Of the span. 0 is a trace that has no span yet.
    pub span_id: u64,
    /// Whether spans are recorded.
    pub sampled: bool,
    /// What other vendors want passed on.
    pub state: String,
}

impl TraceContext {
    /// Reads what a client sent. `None` if it is no context; a state that is none is dropped.
    pub fn from_headers(parent: &str, state: &str) -> Option<Self> {
        Self::read(parent, state).filter(|context| context.span_id != 0)
    }

    /// Reads the stored form, which may lack a span.
    pub fn read(parent: &str, state: &str) -> Option<Self> {
        let parent = parent.trim();
        let version = hex(parent.get(..2)?)?;
        let is_separated = [2, 35, 52]
            .iter()
            .all(|at| parent.as_bytes().get(*at) == Some(&b'-'));
        // Later versions may have more behind, behind a dash.
        let fits = match version {
            0 => parent.len() == 55,
            0xff => false,
            _ => parent.len() == 55 || parent.as_bytes().get(55) == Some(&b'-'),
        };
        if !is_separated || !fits {
            return None;
        }
        let trace_id = hex(&parent[3..35])?;
        let span_id = u64::try_from(hex(&parent[36..52])?).ok()?;
        let flags = hex(&parent[53..55])?;
        let passes =
            state.len() <= STATE_MAX && state.bytes().all(|byte| (0x20..0x7f).contains(&byte));
        (trace_id != 0).then(|| Self {
            trace_id,
            span_id,
            sampled: flags & 1 == 1,
            state: if passes {
                state.to_owned()
            } else {
                String::new()
            },
        })
    }

    /// The `traceparent` header, and the stored form.
    pub fn parent(&self) -> String {
        format!(
            "00-{:032x}-{:016x}-{:02x}",
            self.trace_id,
            self.span_id,
            u8::from(self.sampled)
        )
    }

    /// Another span of the same trace.
    #[must_use]
    pub fn with_span(&self, span_id: u64) -> Self {
        Self {
            span_id,
            ..self.clone()
        }
    }

    /// The span of an invocation's start in this trace, of which its attempts and its end are children. Every leader
    /// computes the same.
    pub fn start_span(&self, invocation: &InvocationId) -> u64 {
        let mut seed = [0; InvocationId::LENGTH + 16];
        seed[..InvocationId::LENGTH].copy_from_slice(&invocation.to_bytes());
        seed[InvocationId::LENGTH..].copy_from_slice(&self.trace_id.to_be_bytes());
        xxh3_64(&seed).max(1)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.parent())
    }
}

/// A number in lower-case hexadecimal digits.
fn hex(text: &str) -> Option<u128> {
    let digits = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    text.bytes()
        .all(digits)
        .then(|| u128::from_str_radix(text, 16).ok())
        .flatten()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    #[test]
    fn a_context_reads_back() {
        let context = TraceContext::from_headers(PARENT, "a=b,c=d").unwrap();
        assert_eq!(context.trace_id, 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c);
        assert_eq!(context.span_id, 0xb7ad_6b71_6920_3331);
        assert!(context.sampled);
        assert_eq!(context.state, "a=b,c=d");
        assert_eq!(context.parent(), PARENT);
        let unsampled = PARENT.replace("-01", "-00");
        assert!(!TraceContext::from_headers(&unsampled, "").unwrap().sampled);
    }

    #[test]
    fn what_is_no_context_is_none() {
        for text in [
            "",
            "00",
            "00-1-2-01",
            "00-0AF7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-x",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0+",
            "00_0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        ] {
            assert_eq!(TraceContext::from_headers(text, ""), None, "{text}");
        }
        let later = PARENT.replace("00-", "01-") + "-more";
        assert!(TraceContext::from_headers(&later, "").is_some());
        let long = "x".repeat(STATE_MAX + 1);
        assert_eq!(TraceContext::from_headers(PARENT, &long).unwrap().state, "");
        assert_eq!(TraceContext::from_headers(PARENT, "ä").unwrap().state, "");
    }

    proptest! {
        #[test]
        fn no_text_harms(parent in "\\PC{0,60}", state in "\\PC{0,20}") {
            let _ = TraceContext::read(&parent, &state);
        }
    }
}
