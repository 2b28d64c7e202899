//! Where a deployment is and what goes with every request to it.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, HeaderName, HeaderValue, Uri};

use crate::proxy::Proxy;

/// Why requests to an address cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It is no URI, or lacks its host.
    #[error("'{0}' is no absolute URI with a host")]
    Uri(String),
    /// The scheme is neither `http` nor `https`.
    #[error("the scheme of '{0}' is neither http nor https")]
    Scheme(String),
    /// A header cannot be sent.
    #[error("the additional header '{0}' is no valid HTTP header")]
    Header(String),
}

/// A parsed address with its headers.
#[derive(Debug, Clone)]
pub(crate) struct Address {
    pub(crate) scheme: Scheme,
    pub(crate) authority: Authority,
    /// Without a slash at its end.
    base_path: String,
    query: Option<String>,
    pub(crate) headers: HeaderMap,
    /// What its connections go through.
    pub(crate) proxy: Option<Arc<Proxy>>,
}

impl Address {
    /// `headers` come before `additional`; of equal names the former stands.
    pub(crate) fn new(
        uri: &str,
        additional: &BTreeMap<String, String>,
        headers: &[(String, String)],
    ) -> Result<Self, AddressError> {
        let parsed: Uri = uri.parse().map_err(|_| AddressError::Uri(uri.to_owned()))?;
        let parts = parsed.into_parts();
        let (Some(scheme), Some(authority)) = (parts.scheme, parts.authority) else {
            return Err(AddressError::Uri(uri.to_owned()));
        };
        if scheme != Scheme::HTTP && scheme != Scheme::HTTPS {
            return Err(AddressError::Scheme(uri.to_owned()));
        }
        let path = parts.path_and_query;
        let base_path = path.as_ref().map_or("", PathAndQuery::path);
        let mut map = HeaderMap::with_capacity(additional.len() + headers.len());
        for (name, value) in additional
            .iter()
            .chain(headers.iter().map(|(name, value)| (name, value)))
        {
            let bad = || AddressError::Header(name.clone());
            let header: HeaderName = name.parse().map_err(|_| bad())?;
            let value = HeaderValue::from_str(value).map_err(|_| bad())?;
            map.insert(header, value);
        }
        Ok(Self {
            base_path: base_path.trim_end_matches('/').to_owned(),
            query: path.as_ref().and_then(|path| path.query().map(Into::into)),
            scheme,
            authority,
            headers: map,
            proxy: None,
        })
    }

    /// The same address, reached through `proxy` unless that has its host for an exception.
    pub(crate) fn through(mut self, proxy: Option<&Arc<Proxy>>) -> Self {
        self.proxy = proxy.filter(|proxy| proxy.is_for(self.host())).cloned();
        self
    }

    pub(crate) fn is_tls(&self) -> bool {
        self.scheme == Scheme::HTTPS
    }

    pub(crate) fn host(&self) -> &str {
        // A literal IPv6 address stands in brackets in a URI and nowhere else.
        self.authority
            .host()
            .trim_start_matches('[')
            .trim_end_matches(']')
    }

    pub(crate) fn port(&self) -> u16 {
        self.authority
            .port_u16()
            .unwrap_or(if self.is_tls() { 443 } else { 80 })
    }

    /// The URI of `segments` below the address; they need no escaping.
    pub(crate) fn uri(&self, segments: &[&str]) -> Uri {
        let query_length = self.query.as_ref().map_or(0, |query| query.len() + 1);
        let length = segments
            .iter()
            .map(|segment| segment.len() + 1)
            .sum::<usize>();
        let mut path = String::with_capacity(self.base_path.len() + length + query_length);
        path.push_str(&self.base_path);
        for segment in segments {
            path.push('/');
            path.push_str(segment);
        }
        if let Some(query) = &self.query {
            path.push('?');
            path.push_str(query);
        }
        let mut parts = http::uri::Parts::default();
        parts.scheme = Some(self.scheme.clone());
        parts.authority = Some(self.authority.clone());
        // Names of services and handlers are checked at registration; should one not fit a URI after all, the
        // endpoint answers 404 to the bare path.
        parts.path_and_query =
            Some(PathAndQuery::from_maybe_shared(path).unwrap_or(PathAndQuery::from_static("/")));
        Uri::from_parts(parts).unwrap_or_default()
    }
}

/// Percent-encodes a key for a header: unreserved characters stay.
pub(crate) fn percent_encoded(key: &str) -> HeaderValue {
    let mut text = String::with_capacity(key.len());
    for byte in key.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                text.push('%');
                text.push(char::from(HEX[usize::from(byte >> 4)]));
                text.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
    HeaderValue::from_maybe_shared(bytes::Bytes::from(text))
        .expect("percent-encoded text is visible ASCII")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn joined(uri: &str) -> String {
        Address::new(uri, &BTreeMap::new(), &[])
            .unwrap()
            .uri(&["invoke", "S", "h"])
            .to_string()
    }

    #[test]
    fn paths_are_joined_below_the_base() {
        assert_eq!(joined("http://h:9080"), "http://h:9080/invoke/S/h");
        assert_eq!(joined("http://h:9080/"), "http://h:9080/invoke/S/h");
        assert_eq!(
            joined("http://h/some/prefix"),
            "http://h/some/prefix/invoke/S/h"
        );
        assert_eq!(joined("https://h/p/?a=b"), "https://h/p/invoke/S/h?a=b");
    }

    #[test]
    fn hosts_and_ports_are_found() {
        let address = |uri| Address::new(uri, &BTreeMap::new(), &[]).unwrap();
        assert_eq!(address("http://[::1]:9080").host(), "::1");
        assert_eq!(address("https://h").port(), 443);
        assert_eq!(address("http://h").port(), 80);
    }

    #[test]
    fn what_cannot_be_requested_is_refused() {
        let error = |uri: &str| Address::new(uri, &BTreeMap::new(), &[]).unwrap_err();
        assert!(matches!(error("not a uri"), AddressError::Uri(_)));
        assert!(matches!(error("/path"), AddressError::Uri(_)));
        assert!(matches!(error("ftp://h"), AddressError::Scheme(_)));
        let headers = BTreeMap::from([("a b".to_owned(), "c".to_owned())]);
        assert!(matches!(
            Address::new("http://h", &headers, &[]),
            Err(AddressError::Header(_))
        ));
    }

    #[test]
    fn keys_are_percent_encoded() {
        assert_eq!(percent_encoded("k1"), "k1");
        assert_eq!(percent_encoded("a/b ü"), "a%2Fb%20%C3%BC");
    }
}
