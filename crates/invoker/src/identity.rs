//! Signs requests, so that endpoints can tell this cluster's from others.
//!
//! A request carries a JWT over its path, signed with an Ed25519 key; endpoints know the public key. The key's file is
//! looked at again and again: a new one in its place signs from then on, and one that cannot be read changes nothing.
//! Start at [`Identity::load`].

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http::{HeaderMap, HeaderValue};
use parking_lot::RwLock;
use ring::signature::{Ed25519KeyPair, KeyPair as _};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::pki_types::pem::PemObject as _;

/// How often the key's file is looked at.
pub(crate) const LOOK_INTERVAL: Duration = Duration::from_secs(2);

/// Why there is no key to sign with.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The file cannot be read.
    #[error("cannot read the request identity key {path}: {source}")]
    Read {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// It holds no private key in PKCS#8, or several.
    #[error("{path} does not hold exactly one private key as PKCS#8 PEM: {reason}")]
    Pem {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The key is not one for Ed25519.
    #[error("the private key in {path} is no Ed25519 key: {reason}")]
    Key {
        /// Its path.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
}

/// The key of the moment. Clones share it.
#[derive(Clone)]
pub struct Identity {
    shared: Arc<Shared>,
}

struct Shared {
    path: PathBuf,
    /// How long a signature is good for, and how much earlier than now it begins to be.
    window: Duration,
    key: RwLock<Arc<Key>>,
}

/// A key as it was read.
struct Key {
    /// What the file held, to notice another one.
    pem: Vec<u8>,
    pair: Ed25519KeyPair,
    /// The JOSE header, encoded.
    header: String,
    public_key: String,
}

impl Identity {
    /// Reads the key.
    ///
    /// # Errors
    /// If there is none that can sign.
    pub fn load(path: &Path, window: Duration) -> Result<Self, IdentityError> {
        let key = Key::parse(path, read(path)?)?;
        tracing::info!(
            public_key = key.public_key,
            "requests to services are signed"
        );
        Ok(Self {
            shared: Arc::new(Shared {
                path: path.to_owned(),
                window,
                key: RwLock::new(Arc::new(key)),
            }),
        })
    }

    /// The public key as endpoints are configured with it.
    pub fn public_key(&self) -> String {
        self.shared.key.read().public_key.clone()
    }

    /// Follows the file until dropped.
    pub(crate) async fn follow(self, every: Duration) {
        let mut looks = tokio::time::interval(every);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // What was refused is not complained about again.
        let mut refused = Vec::new();
        loop {
            looks.tick().await;
            match tokio::fs::read(&self.shared.path).await {
                Ok(pem) if pem != self.shared.key.read().pem && pem != refused => {
                    if let Err(error) = self.replace(pem.clone()) {
                        tracing::warn!(%error, "the request identity key is not replaced");
                        refused = pem;
                    }
                }
                Ok(_) => {}
                // It may be about to be replaced.
                Err(error) => {
                    tracing::debug!(path = %self.shared.path.display(), %error, "the request identity key is not there");
                }
            }
        }
    }

    fn replace(&self, pem: Vec<u8>) -> Result<(), IdentityError> {
        let key = Key::parse(&self.shared.path, pem)?;
        tracing::info!(
            public_key = key.public_key,
            "requests are signed with another key from now on"
        );
        *self.shared.key.write() = Arc::new(key);
        Ok(())
    }

    /// Signs a request. `path` is that below the deployment's own; `key` that of the object or workflow.
    pub(crate) fn sign(&self, path: &[&str], key: Option<&str>, headers: &mut HeaderMap) {
        let signer = self.shared.key.read().clone();
        let token = signer.token(path, key, SystemTime::now(), self.shared.window);
        headers.insert("x-restate-signature-scheme", HeaderValue::from_static("v1"));
        headers.insert(
            "x-restate-jwt-v1",
            HeaderValue::from_maybe_shared(bytes::Bytes::from(token))
                .expect("base64 and dots are visible ASCII"),
        );
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.public_key()).finish()
    }
}

fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    std::fs::read(path).map_err(|source| IdentityError::Read {
        path: path.to_owned(),
        source,
    })
}

impl Key {
    fn parse(path: &Path, pem: Vec<u8>) -> Result<Self, IdentityError> {
        let bad_pem = |reason: &dyn std::fmt::Display| IdentityError::Pem {
            path: path.to_owned(),
            reason: reason.to_string(),
        };
        let mut keys = PrivatePkcs8KeyDer::pem_slice_iter(&pem);
        let der = keys
            .next()
            .ok_or_else(|| bad_pem(&"there is no private key"))?
            .map_err(|error| bad_pem(&error))?;
        if keys.next().is_some() {
            return Err(bad_pem(&"there are several"));
        }
        // Keys that other tools make lack the public half, which the checked form insists on.
        let pair = Ed25519KeyPair::from_pkcs8_maybe_unchecked(der.secret_pkcs8_der()).map_err(
            |error| IdentityError::Key {
                path: path.to_owned(),
                reason: error.to_string(),
            },
        )?;
        let public_key = format!("publickeyv1_{}", base58(pair.public_key().as_ref()));
        let header = format!(r#"{{"typ":"JWT","alg":"EdDSA","kid":"{public_key}"}}"#);
        Ok(Self {
            header: BASE64_URL_SAFE_NO_PAD.encode(header),
            pair,
            public_key,
            pem,
        })
    }

    fn token(&self, path: &[&str], key: Option<&str>, now: SystemTime, window: Duration) -> String {
        let now = now
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let window = window.as_secs();
        let mut claims = String::from(r#"{"aud":""#);
        for segment in path {
            // Names of services and handlers need no escaping.
            let _ = write!(claims, "/{segment}");
        }
        let (expires, begins) = (now.saturating_add(window), now.saturating_sub(window));
        let _ = write!(claims, r#"","exp":{expires},"iat":{now},"nbf":{begins}"#);
        if let Some(key) = key {
            let _ = write!(claims, r#","sub":{}"#, serde_json::Value::from(key));
        }
        claims.push('}');
        let mut token = format!("{}.{}", self.header, BASE64_URL_SAFE_NO_PAD.encode(claims));
        let signature = self.pair.sign(token.as_bytes());
        token.push('.');
        BASE64_URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }
}

/// The Bitcoin alphabet's base 58 of a number written in bytes.
fn base58(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    // Digits of the result, the lowest first.
    let mut digits: Vec<u32> = Vec::with_capacity(bytes.len() * 3 / 2);
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += *digit << 8;
            *digit = carry % 58;
            carry /= 58;
        }
        while carry > 0 {
            digits.push(carry % 58);
            carry /= 58;
        }
    }
    let leading = std::iter::repeat_n('1', zeros);
    let rest = digits
        .iter()
        .rev()
        .map(|digit| char::from(ALPHABET[*digit as usize]));
    leading.chain(rest).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use ring::signature::{ED25519, UnparsedPublicKey};

    /// A key of 32 times its number, as `openssl genpkey -algorithm ed25519` writes it.
    pub(crate) fn pem(number: u8) -> String {
        let mut der = vec![
            0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22,
            0x04, 0x20,
        ];
        der.extend([number; 32]);
        let body = base64::prelude::BASE64_STANDARD.encode(der);
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }

    fn key(number: u8) -> Key {
        Key::parse(Path::new("k"), pem(number).into_bytes()).unwrap()
    }

    #[test]
    fn public_keys_are_written_as_users_configure_them() {
        let raw = [
            0x8b, 0xe6, 0x0e, 0xa8, 0x3d, 0x34, 0xd8, 0x69, 0x2a, 0x0a, 0x30, 0x1a, 0xd1, 0x64,
            0x70, 0x1b, 0x6e, 0x6c, 0x0e, 0x5c, 0x4d, 0xc1, 0x91, 0x02, 0xea, 0x99, 0x31, 0x2c,
            0x6e, 0xb6, 0x69, 0x48,
        ];
        assert_eq!(base58(&raw), "AR78m5EtzBSY7rnm7iQbtamvxDnFmMY4Q9N5RfBSkz6T");
        assert_eq!(base58(&[0, 0, 1]), "112");
        assert_eq!(base58(&[]), "");
    }

    #[test]
    fn tokens_say_what_they_are_for_and_verify() {
        let key = key(7);
        let now = UNIX_EPOCH + Duration::from_secs(1_000_000);
        let token = key.token(
            &["invoke", "Counter", "add"],
            Some("k\"1"),
            now,
            Duration::from_secs(60),
        );
        let parts: Vec<_> = token.split('.').collect();
        let text =
            |part: &str| String::from_utf8(BASE64_URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap();
        assert_eq!(
            text(parts[0]),
            format!(
                r#"{{"typ":"JWT","alg":"EdDSA","kid":"{}"}}"#,
                key.public_key
            )
        );
        assert_eq!(
            text(parts[1]),
            r#"{"aud":"/invoke/Counter/add","exp":1000060,"iat":1000000,"nbf":999940,"sub":"k\"1"}"#
        );
        let signed = token.rsplit_once('.').unwrap().0;
        UnparsedPublicKey::new(&ED25519, key.pair.public_key().as_ref())
            .verify(
                signed.as_bytes(),
                &BASE64_URL_SAFE_NO_PAD.decode(parts[2]).unwrap(),
            )
            .unwrap();
    }

    #[test]
    fn a_plain_service_has_no_subject() {
        let token = key(7).token(&["discover"], None, UNIX_EPOCH, Duration::from_secs(60));
        let claims = token.split('.').nth(1).unwrap();
        let claims = BASE64_URL_SAFE_NO_PAD.decode(claims).unwrap();
        assert_eq!(claims, br#"{"aud":"/discover","exp":60,"iat":0,"nbf":0}"#);
    }

    #[test]
    fn files_without_one_good_key_are_refused() {
        let parse = |pem: &str| {
            Key::parse(Path::new("k"), pem.as_bytes().to_vec())
                .err()
                .unwrap()
        };
        assert!(matches!(parse("nothing"), IdentityError::Pem { .. }));
        let two = pem(1) + &pem(2);
        assert!(matches!(parse(&two), IdentityError::Pem { .. }));
        let short = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        assert!(matches!(parse(short), IdentityError::Key { .. }));
        assert!(matches!(
            Identity::load(Path::new("/no/such/file"), Duration::ZERO),
            Err(IdentityError::Read { .. })
        ));
    }

    #[tokio::test]
    async fn a_new_key_in_the_files_place_signs_from_then_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        std::fs::write(&path, pem(1)).unwrap();
        let identity = Identity::load(&path, Duration::from_secs(60)).unwrap();
        let first = identity.public_key();
        let every = Duration::from_millis(2);
        let following = tokio::spawn(identity.clone().follow(every));
        std::fs::write(&path, "half a ke").unwrap();
        tokio::time::sleep(every * 10).await;
        assert_eq!(identity.public_key(), first);
        std::fs::write(&path, pem(2)).unwrap();
        while identity.public_key() == first {
            tokio::time::sleep(every).await;
        }
        assert_eq!(identity.public_key(), key(2).public_key);
        following.abort();
    }
}
