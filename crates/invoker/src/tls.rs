//! TLS towards deployments.

use std::sync::{Arc, OnceLock};

use abide_schema::HttpVersion;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::deployment::Address;
use crate::prompt::PromptStream;

/// Negotiates TLS and one of the given HTTP versions on a connected socket. The certificate has to be signed by one
/// that this machine trusts.
pub(crate) async fn wrap(
    address: &Address,
    stream: PromptStream,
    versions: &[HttpVersion],
) -> Result<TlsStream<PromptStream>, String> {
    let name = ServerName::try_from(address.host().to_owned())
        .map_err(|error| format!("'{}' is no name for TLS: {error}", address.host()))?;
    let mut config = config()?;
    config.alpn_protocols = versions
        .iter()
        .map(|version| alpn(*version).to_vec())
        .collect();
    TlsConnector::from(Arc::new(config))
        .connect(name, stream)
        .await
        .map_err(|error| format!("TLS with {} failed: {error}", address.authority))
}

/// The version on which both sides agreed; an endpoint that says nothing speaks HTTP/1.1.
pub(crate) fn negotiated(stream: &TlsStream<PromptStream>) -> HttpVersion {
    match stream.get_ref().1.alpn_protocol() {
        Some(protocol) if protocol == alpn(HttpVersion::Http2) => HttpVersion::Http2,
        _ => HttpVersion::Http11,
    }
}

const fn alpn(version: HttpVersion) -> &'static [u8] {
    match version {
        HttpVersion::Http11 => b"http/1.1",
        HttpVersion::Http2 => b"h2",
    }
}

/// Made once: reading the machine's certificates takes a while.
fn config() -> Result<ClientConfig, String> {
    static CONFIG: OnceLock<Result<ClientConfig, String>> = OnceLock::new();
    CONFIG.get_or_init(load).clone()
}

fn load() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    Ok(ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS cannot be set up: {error}"))?
        .with_root_certificates(roots)
        .with_no_client_auth())
}
