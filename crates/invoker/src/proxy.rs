//! Tunnels through an HTTP proxy to deployments.
//!
//! Whatever the address, the proxy is asked for a tunnel (`CONNECT`): HTTP/2 without TLS and bidirectional streams have no
//! other way through one.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http::Uri;
use http::uri::Scheme;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::deployment::Address;

/// The longest head of a proxy's answer.
const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Why a proxy cannot be used. The value is not repeated: it may hold a password.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Not `http://host:port`.
    #[error(
        "it is no address like http://proxy:3128, with name and password before the host if need be"
    )]
    Uri,
    /// Not a name.
    #[error("the exception '{0}' is neither a host, a domain nor '*'")]
    Exception(String),
}

/// An HTTP proxy, and the hosts that are reached without it.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    host: String,
    port: u16,
    /// Base64 of name and password.
    credentials: Option<String>,
    except: Vec<String>,
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Proxy({}:{})", self.host, self.port)
    }
}

impl Proxy {
    /// The proxy at `uri`; a host of `except`, or one below a domain of it, is reached without it.
    ///
    /// # Errors
    /// The address is none, or an exception is no host.
    pub fn new(uri: &str, except: &[String]) -> Result<Self, ProxyError> {
        let parsed: Uri = uri.parse().map_err(|_| ProxyError::Uri)?;
        let authority = parsed.authority().ok_or(ProxyError::Uri)?;
        let is_bare = matches!(parsed.path(), "" | "/") && parsed.query().is_none();
        if parsed.scheme() != Some(&Scheme::HTTP) || !is_bare {
            return Err(ProxyError::Uri);
        }
        let credentials = authority.as_str().rsplit_once('@');
        let mut hosts = Vec::with_capacity(except.len());
        for name in except {
            let host = name.trim().trim_start_matches('.').to_ascii_lowercase();
            if host.is_empty() || host.contains(['/', '@', ',', ' ']) {
                return Err(ProxyError::Exception(name.clone()));
            }
            hosts.push(host);
        }
        Ok(Self {
            host: (authority.host())
                .trim_start_matches('[')
                .trim_end_matches(']')
                .to_owned(),
            port: authority.port_u16().unwrap_or(80),
            credentials: credentials.map(|(user, _)| BASE64_STANDARD.encode(user)),
            except: hosts,
        })
    }

    /// Whether `host` is reached through it.
    pub(crate) fn is_for(&self, host: &str) -> bool {
        let host = host.to_ascii_lowercase();
        !self.except.iter().any(|name| {
            name == "*"
                || host
                    .strip_suffix(name.as_str())
                    .is_some_and(|front| front.is_empty() || front.ends_with('.'))
        })
    }

    /// A socket that is connected with the address.
    pub(crate) async fn tunnel(&self, address: &Address) -> Result<TcpStream, String> {
        let Self { host, port, .. } = self;
        let failed = |what: &str| format!("the proxy {host}:{port} {what}");
        let broken = |error: std::io::Error| failed(&format!("cannot be talked to: {error}"));
        let mut stream = TcpStream::connect((host.as_str(), *port))
            .await
            .map_err(broken)?;
        let target = match address.host().contains(':') {
            true => format!("[{}]:{}", address.host(), address.port()),
            false => format!("{}:{}", address.host(), address.port()),
        };
        let mut request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n");
        if let Some(credentials) = &self.credentials {
            request.push_str(&format!("proxy-authorization: Basic {credentials}\r\n"));
        }
        request.push_str("\r\n");
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        let mut head = Vec::new();
        // Byte by byte: what comes behind the head is the endpoint's.
        while !head.ends_with(b"\r\n\r\n") {
            if head.len() >= HEAD_BYTES_MAX {
                return Err(failed("answered with no head of HTTP"));
            }
            let byte = stream.read_u8().await.map_err(broken)?;
            head.push(byte);
        }
        let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
        let line = String::from_utf8_lossy(line);
        match line.split(' ').nth(1) {
            Some(status) if status.len() == 3 && status.starts_with('2') => Ok(stream),
            _ => Err(failed(&format!("refused a tunnel to {target}: {line}"))),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use tokio::net::TcpListener;

    fn owned(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn exceptions_are_hosts_and_domains() {
        let proxy = Proxy::new(
            "http://p:1",
            &owned(&["localhost", ".Corp.example", "10.0.0.1"]),
        );
        let proxy = proxy.unwrap();
        for (host, through) in [
            ("localhost", false),
            ("corp.example", false),
            ("a.corp.EXAMPLE", false),
            ("notcorp.example", true),
            ("10.0.0.1", false),
            ("110.0.0.1", true),
            ("example", true),
        ] {
            assert_eq!(proxy.is_for(host), through, "{host}");
        }
        let none = Proxy::new("http://p:1/", &owned(&["*"])).unwrap();
        assert!(!none.is_for("anything"));
    }

    #[test]
    fn what_is_no_proxy_is_refused() {
        for uri in [
            "proxy",
            "https://p:1",
            "http://p:1/path",
            "socks5://p:1",
            "",
        ] {
            assert_eq!(Proxy::new(uri, &[]), Err(ProxyError::Uri), "{uri}");
        }
        let error = Proxy::new("http://p:1", &owned(&["10.0.0.0/8"])).unwrap_err();
        assert_eq!(error, ProxyError::Exception("10.0.0.0/8".to_owned()));
    }

    /// A proxy that answers with `answer`; gives what it was asked.
    async fn through(uri_user: &str, answer: &'static str) -> (String, Result<String, String>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let proxy = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                asked.push(socket.read_u8().await.unwrap());
            }
            socket.write_all(answer.as_bytes()).await.unwrap();
            String::from_utf8(asked).unwrap()
        });
        let uri = format!("http://{uri_user}127.0.0.1:{port}");
        let proxy_of = Proxy::new(&uri, &[]).unwrap();
        let address = Address::new("http://service.example:9080/x", &BTreeMap::new(), &[]).unwrap();
        let tunnel = async {
            let mut socket = proxy_of.tunnel(&address).await?;
            let mut rest = String::new();
            socket
                .read_to_string(&mut rest)
                .await
                .map_err(|error| error.to_string())?;
            Ok(rest)
        };
        let outcome = tunnel.await;
        (proxy.await.unwrap(), outcome)
    }

    #[tokio::test]
    async fn a_tunnel_begins_behind_the_head_of_the_answer() {
        let (asked, rest) = through("me:secret@", "HTTP/1.1 200 OK\r\nvia: p\r\n\r\nhello").await;
        assert_eq!(
            asked,
            "CONNECT service.example:9080 HTTP/1.1\r\nhost: service.example:9080\r\nproxy-authorization: Basic bWU6c2VjcmV0\r\n\r\n"
        );
        assert_eq!(rest.unwrap(), "hello");
    }

    #[tokio::test]
    async fn a_refusal_is_told() {
        let (_, refused) = through("", "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
        let reason = refused.unwrap_err();
        assert!(
            reason.ends_with(
                "refused a tunnel to service.example:9080: HTTP/1.1 407 Proxy Authentication Required"
            ),
            "{reason}"
        );
    }
}
