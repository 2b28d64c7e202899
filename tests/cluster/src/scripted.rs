//! An SDK endpoint that says exactly the bytes a test wants said.
//!
//! It offers one service whose handlers are the scripts. Each attempt at an invocation plays the
//! script of its handler: chunks of bytes, and what then becomes of the stream.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};

/// What becomes of a stream after a script's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It ends.
    Close,
    /// It stays open, and nothing more is said.
    Hang,
    /// It is reset.
    Reset,
    /// The last chunk is said again and again, for as long as anybody listens.
    Endless,
}

/// What the endpoint says in one attempt.
#[derive(Debug, Clone)]
pub struct Script {
    /// What is said, in this order.
    pub chunks: Vec<Bytes>,
    /// What comes then.
    pub ending: Ending,
    /// The status of the response.
    pub status: u16,
    /// The content type of the response; that of the request when there is none.
    pub content_type: Option<String>,
}

impl Script {
    /// Says these bytes, then ends the stream.
    pub fn say(chunks: impl IntoIterator<Item = Bytes>) -> Script {
        Script {
            chunks: chunks.into_iter().collect(),
            ending: Ending::Close,
            status: 200,
            content_type: None,
        }
    }

    /// With another ending.
    pub fn then(self, ending: Ending) -> Script {
        Script { ending, ..self }
    }
}

/// One frame: type, flags, length, payload.
pub fn frame(kind: u16, payload: &[u8]) -> Bytes {
    frame_of_length(kind, payload.len() as u32, payload)
}

/// A frame whose header claims a length of its own.
pub fn frame_of_length(kind: u16, length: u32, payload: &[u8]) -> Bytes {
    let mut bytes = BytesMut::with_capacity(8 + payload.len());
    bytes.put_u16(kind);
    bytes.put_u16(0);
    bytes.put_u32(length);
    bytes.put_slice(payload);
    bytes.freeze()
}

/// The frame with which a handler says its result, as JSON.
pub fn output(value: &str) -> Bytes {
    // Field 14 of Output holds a Value, whose field 1 holds the bytes.
    let mut inner = BytesMut::new();
    put_bytes_field(&mut inner, 1, value.as_bytes());
    let mut payload = BytesMut::new();
    put_bytes_field(&mut payload, 14, &inner);
    frame(OUTPUT, &payload)
}

/// Appends a length-delimited field in protobuf's encoding.
pub fn put_bytes_field(buffer: &mut BytesMut, field: u32, content: &[u8]) {
    prost::encoding::encode_key(field, prost::encoding::WireType::LengthDelimited, buffer);
    prost::encoding::encode_varint(content.len() as u64, buffer);
    buffer.put_slice(content);
}

/// Frame type of Start.
pub const START: u16 = 0x0000;
/// Frame type of Suspension.
pub const SUSPENSION: u16 = 0x0001;
/// Frame type of Error.
pub const ERROR: u16 = 0x0002;
/// Frame type of End.
pub const END: u16 = 0x0003;
/// Frame type of ProposeRunCompletion.
pub const PROPOSE_RUN: u16 = 0x0005;
/// Frame type of Input.
pub const INPUT: u16 = 0x0400;
/// Frame type of Output.
pub const OUTPUT: u16 = 0x0401;
/// Frame type of SetState.
pub const SET_STATE: u16 = 0x0403;
/// Frame type of Sleep.
pub const SLEEP: u16 = 0x040C;
/// Frame type of Call.
pub const CALL: u16 = 0x040D;

/// A scripted endpoint. It serves until it is dropped.
pub struct ScriptedEndpoint {
    address: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl ScriptedEndpoint {
    /// Serves one service of this name, one handler per script.
    pub async fn start(service: &str, scripts: BTreeMap<String, Script>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let endpoint = Arc::new(Endpoint {
            manifest: manifest(service, scripts.keys()),
            scripts,
        });
        let task = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                tokio::spawn(serve_connection(Arc::clone(&endpoint), socket));
            }
        });
        Ok(ScriptedEndpoint { address, task })
    }

    /// The URI under which it is registered.
    pub fn uri(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for ScriptedEndpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

struct Endpoint {
    manifest: Bytes,
    scripts: BTreeMap<String, Script>,
}

fn manifest<'a>(service: &str, handlers: impl Iterator<Item = &'a String>) -> Bytes {
    let handlers: Vec<_> = handlers.map(|name| json!({ "name": name })).collect();
    let manifest = json!({
        "protocolMode": "BIDI_STREAM",
        "minProtocolVersion": 5,
        "maxProtocolVersion": 6,
        "services": [{ "name": service, "ty": "SERVICE", "handlers": handlers }],
    });
    Bytes::from(manifest.to_string())
}

async fn serve_connection(endpoint: Arc<Endpoint>, socket: TcpStream) {
    let Ok(mut connection) = h2::server::handshake(socket).await else {
        return;
    };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(serve_request(Arc::clone(&endpoint), request, respond));
    }
}

async fn serve_request(
    endpoint: Arc<Endpoint>,
    request: Request<RecvStream>,
    respond: SendResponse<Bytes>,
) {
    // A stream that fails under a hostile script is what the script is for.
    let _ = answer(&endpoint, request, respond).await;
}

async fn answer(
    endpoint: &Endpoint,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) -> Result<(), h2::Error> {
    let path = request.uri().path().to_owned();
    if path.ends_with("/discover") {
        let response = response(200, "application/vnd.restate.endpointmanifest.v3+json");
        let mut body = respond.send_response(response, false)?;
        return body.send_data(endpoint.manifest.clone(), true);
    }
    let handler = path.rsplit('/').next().unwrap_or_default();
    let Some(script) = endpoint.scripts.get(handler) else {
        respond.send_response(response(404, "text/plain"), true)?;
        return Ok(());
    };
    let asked = request
        .headers()
        .get("content-type")
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let content_type = script.content_type.as_deref().unwrap_or(asked);
    let body = respond.send_response(response(script.status, content_type), false)?;
    // Reads what the engine says, so that no window fills up.
    tokio::spawn(drain(request.into_body()));
    play(script, body).await
}

fn response(status: u16, content_type: &str) -> Response<()> {
    Response::builder()
        .status(status)
        .header("content-type", content_type)
        .body(())
        .expect("the parts are valid")
}

async fn drain(mut body: RecvStream) {
    while let Some(Ok(chunk)) = body.data().await {
        let _ = body.flow_control().release_capacity(chunk.len());
    }
}

async fn play(script: &Script, mut body: SendStream<Bytes>) -> Result<(), h2::Error> {
    for chunk in &script.chunks {
        send(&mut body, chunk.clone()).await?;
    }
    match script.ending {
        Ending::Close => body.send_data(Bytes::new(), true),
        Ending::Hang => std::future::poll_fn(|context| body.poll_reset(context))
            .await
            .map(|_| ()),
        Ending::Reset => {
            body.send_reset(h2::Reason::INTERNAL_ERROR);
            Ok(())
        }
        Ending::Endless => {
            let last = script.chunks.last().cloned().unwrap_or_default();
            loop {
                send(&mut body, last.clone()).await?;
            }
        }
    }
}

/// Sends a chunk as the peer's window allows, so that an endless script needs no endless memory.
async fn send(body: &mut SendStream<Bytes>, mut chunk: Bytes) -> Result<(), h2::Error> {
    while !chunk.is_empty() {
        body.reserve_capacity(chunk.len());
        let granted = std::future::poll_fn(|context| body.poll_capacity(context)).await;
        let capacity = match granted {
            Some(Ok(capacity)) => capacity.min(chunk.len()),
            Some(Err(error)) => return Err(error),
            None => return Err(h2::Reason::CANCEL.into()),
        };
        if capacity > 0 {
            body.send_data(chunk.split_to(capacity), false)?;
        }
    }
    Ok(())
}
