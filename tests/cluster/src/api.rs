//! HTTP as users speak it.

use std::sync::Once;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::Value;

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body as it came.
    pub body: Bytes,
}

impl Answer {
    /// The body as JSON; a text that says otherwise where it is not.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|_| Value::String(format!("not JSON: {}", self.text())))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The JSON body of a 2xx answer. Panics on any other.
    #[track_caller]
    pub fn expect_success(&self) -> Value {
        assert!(self.status.is_success(), "{}: {}", self.status, self.text());
        if self.body.is_empty() {
            return Value::Null;
        }
        self.json()
    }

    /// Panics unless the answer has this status.
    #[track_caller]
    pub fn expect_status(&self, status: u16) -> &Answer {
        assert_eq!(self.status.as_u16(), status, "{}", self.text());
        self
    }
}

/// A client with a deadline on everything.
#[derive(Clone)]
pub struct Api {
    client: reqwest::Client,
}

impl Default for Api {
    fn default() -> Self {
        Api::new(Duration::from_secs(60))
    }
}

impl Api {
    /// A client whose requests fail after `deadline`.
    pub fn new(deadline: Duration) -> Api {
        static PROVIDER: Once = Once::new();
        // The client asks for one even where no TLS is spoken.
        PROVIDER.call_once(|| {
            let _ = rustls::crypto::ring::default_provider().install_default();
        });
        let client = reqwest::Client::builder()
            .timeout(deadline)
            .no_proxy()
            .build()
            .expect("the client's options are fixed");
        Api { client }
    }

    /// Sends any request.
    pub async fn request(
        &self,
        method: Method,
        url: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Answer, reqwest::Error> {
        let mut request = self.client.request(method, url).body(body.into());
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let response = request.send().await?;
        Ok(Answer {
            status: response.status(),
            headers: response.headers().clone(),
            body: response.bytes().await?,
        })
    }

    /// Posts JSON. Panics when no answer comes.
    pub async fn post(&self, url: &str, body: &Value) -> Answer {
        let json = [("content-type", "application/json")];
        self.request(Method::POST, url, &json, body.to_string())
            .await
            .unwrap_or_else(|error| panic!("POST {url}: {error:?}"))
    }

    /// Posts nothing. Panics when no answer comes.
    pub async fn post_empty(&self, url: &str) -> Answer {
        self.request(Method::POST, url, &[], Bytes::new())
            .await
            .unwrap_or_else(|error| panic!("POST {url}: {error:?}"))
    }

    /// Gets. Panics when no answer comes.
    pub async fn get(&self, url: &str) -> Answer {
        self.request(Method::GET, url, &[], Bytes::new())
            .await
            .unwrap_or_else(|error| panic!("GET {url}: {error:?}"))
    }

    /// Patches with an empty body, as the admin API's operations on invocations want it.
    pub async fn patch(&self, url: &str) -> Answer {
        self.request(Method::PATCH, url, &[], Bytes::new())
            .await
            .unwrap_or_else(|error| panic!("PATCH {url}: {error:?}"))
    }
}
