//! What the head of a response says.

use std::time::{Duration, SystemTime};

use abide_service_protocol::{ErrorCode, ProtocolVersion, invocation_code};
use http::{HeaderMap, StatusCode, header};

use crate::failure::Trouble;

/// The longest delay that an endpoint may ask for in a header.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// Checks that a stream follows.
pub(crate) fn check(
    status: StatusCode,
    headers: &HeaderMap,
    version: ProtocolVersion,
    now: SystemTime,
) -> Result<(), Trouble> {
    match status.as_u16() {
        502 | 504 => Err(Trouble::coded(
            ErrorCode::Rt0010,
            format!("service unavailable: the endpoint answered {status}"),
        )),
        429 | 503 => {
            let trouble = Trouble::coded(
                ErrorCode::Rt0023,
                format!("the endpoint limits the rate: it answered {status}"),
            );
            Err(match retry_after(headers, now) {
                Some(delay) => trouble.after(delay),
                None => trouble,
            })
        }
        415 => Err(Trouble::coded(
            ErrorCode::Rt0015,
            format!("the endpoint does not take service protocol {version}: it answered {status}"),
        )
        .with_invocation_code(invocation_code::UNSUPPORTED_MEDIA_TYPE)
        .not_counted()),
        413 => Err(Trouble::coded(
            ErrorCode::Rt0019,
            format!("the journal is too large for the endpoint: it answered {status}"),
        )),
        _ if !status.is_success() => Err(Trouble::protocol(format!(
            "unexpected http status code: {status}"
        ))),
        _ => check_content_type(headers, version),
    }
}

fn check_content_type(headers: &HeaderMap, version: ProtocolVersion) -> Result<(), Trouble> {
    let expected = version.content_type();
    match headers.get(header::CONTENT_TYPE) {
        Some(found) if found == expected => Ok(()),
        found => Err(Trouble::protocol(format!(
            "unexpected content type '{}', expected '{expected}'",
            found.map_or_else(
                || "none".into(),
                |found| String::from_utf8_lossy(found.as_bytes())
            ),
        ))),
    }
}

/// The delay of a `retry-after` header: seconds, or a date that is not past.
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let delay = match text.parse() {
        Ok(seconds) => Duration::from_secs(seconds),
        Err(_) => httpdate::parse_http_date(text)
            .ok()?
            .duration_since(now)
            .ok()?,
    };
    Some(delay.min(RETRY_AFTER_MAX))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn check_text(status: u16, headers: &[(&'static str, &str)]) -> String {
        let headers = headers
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    value.parse::<http::HeaderValue>().unwrap(),
                )
            })
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        match check(
            status,
            &headers,
            ProtocolVersion::V6,
            SystemTime::UNIX_EPOCH,
        ) {
            Ok(()) => "ok".into(),
            Err(trouble) => format!(
                "{} {} {:?}{}",
                trouble.code.unwrap(),
                trouble.failure.code,
                trouble.retry,
                if trouble.bumps_retry_count {
                    ""
                } else {
                    " not counted"
                }
            ),
        }
    }

    #[test]
    fn each_status_has_its_meaning() {
        let v6 = ("content-type", "application/vnd.restate.invocation.v6");
        for (status, headers, expected) in [
            (200, &[v6][..], "ok"),
            (200, &[], "RT0012 500 Policy"),
            (
                200,
                &[("content-type", "application/vnd.restate.invocation.v7")],
                "RT0012 500 Policy",
            ),
            (204, &[], "RT0012 500 Policy"),
            (502, &[], "RT0010 500 Policy"),
            (504, &[], "RT0010 500 Policy"),
            (429, &[], "RT0023 500 Policy"),
            (503, &[("retry-after", "2")], "RT0023 500 After(2s)"),
            (
                429,
                &[("retry-after", "Thu, 01 Jan 1970 00:00:07 GMT")],
                "RT0023 500 After(7s)",
            ),
            (
                429,
                &[("retry-after", "Thu, 01 Jan 1960 00:00:07 GMT")],
                "RT0023 500 Policy",
            ),
            (429, &[("retry-after", "soon")], "RT0023 500 Policy"),
            (415, &[], "RT0015 415 Policy not counted"),
            (413, &[], "RT0019 500 Policy"),
            (404, &[], "RT0012 500 Policy"),
            (401, &[v6], "RT0012 500 Policy"),
            (301, &[], "RT0012 500 Policy"),
        ] {
            assert_eq!(
                check_text(status, headers),
                expected,
                "{status} {headers:?}"
            );
        }
    }
}
